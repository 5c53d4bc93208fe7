//! Tokens: who asks, logins, and what ends them.
//!
//! Only hashes come here. A token is valid while its record exists and its password version is the
//! account's: expiry, logout and deletion remove the record, a change of the password leaves the
//! others behind.

use super::overlay::View;
use super::records::{Account, AccountRecord, Device, Token, keys};
use super::transaction::Transaction;
use super::users::{account_info, find_account, save_account};
use super::{Command, NewToken, Notice, Refusal, Reply, idempotency};
use crate::limits::{DEVICES_MAX, EXPIRE_TOKENS_MAX, EXTEND_TOKENS_MAX, TOKENS_MAX};
use crate::storage::{StorageError, Tree};
use crate::types::{InboxSeq, RequestId, TokenHash, UserId, WallTime};
use std::sync::Arc;

/// Who asks: a valid token and its account.
pub(super) struct Session {
    pub hash: TokenHash,
    pub token: Arc<Token>,
    /// A live one.
    record: Arc<AccountRecord>,
}

impl Session {
    /// The account as it was when the session was judged.
    pub fn account(&self) -> &Account {
        match &*self.record {
            AccountRecord::Live(account) => account,
            AccountRecord::Deleted(_) => unreachable!("`authenticate` takes live ones only"),
        }
    }

    pub fn user(&self) -> UserId {
        self.token.user
    }
}

/// The session of a token; `None`: it is not valid.
pub(super) fn authenticate(
    view: View<'_>,
    hash: &TokenHash,
) -> Result<Option<Session>, StorageError> {
    let Some(token) = view.read_shared::<Token>(Tree::Tokens, &hash.0)? else {
        return Ok(None);
    };
    let Some(record) = view.read_shared(Tree::Users, &keys::account(token.user))? else {
        return Ok(None);
    };
    let AccountRecord::Live(account) = &*record else {
        return Ok(None);
    };
    if account.password_version != token.password_version {
        return Ok(None);
    }
    Ok(Some(Session {
        hash: *hash,
        token,
        record,
    }))
}

/// When the token was last used, as the log knows it.
pub(super) fn last_used(
    view: View<'_>,
    hash: &TokenHash,
) -> Result<Option<WallTime>, StorageError> {
    let token = view.read_shared::<Token>(Tree::Tokens, &keys::token(hash))?;
    Ok(token.map(|token| token.last_used))
}

/// A login. The password was verified outside, against `password_version`.
pub(super) fn log_in(
    tx: &mut Transaction<'_>,
    command: &Command,
    user: UserId,
    password_version: u32,
    new: &NewToken,
) -> Result<Reply, StorageError> {
    let Some(mut account) = find_account(tx.view(), user)? else {
        return Ok(Reply::Refused(Refusal::UserUnknown));
    };
    if account.password_version != password_version {
        return Ok(Reply::Refused(Refusal::PasswordChanged));
    }
    let request = command.registered_request();
    let operation = idempotency::opening_hash(user, &new.device);
    if let Some(request) = request {
        if request.client != new.client {
            return Ok(Reply::Refused(Refusal::ClientUnknown));
        }
        match idempotency::judge(tx.view(), user, &request, &operation)? {
            // A login registers its client; its repetition issues a new token, because nobody
            // knows the old one's secret. The very same entry once more does nothing.
            idempotency::Verdict::New | idempotency::Verdict::Refused(Refusal::ClientUnknown) => {}
            idempotency::Verdict::Repeated(row) if row.token == Some(new.hash) => {
                return idempotency::reply_of(&row);
            }
            idempotency::Verdict::Repeated(_) => {}
            idempotency::Verdict::Refused(refusal) => return Ok(Reply::Refused(refusal)),
        }
    }
    if let Some(token) = tx.read::<Token>(Tree::Tokens, &keys::token(&new.hash))? {
        // Without a request id to tell, it is the very same login once more: nobody draws a token
        // of 256 bits twice.
        return Ok(if token.user == user {
            logged_in(user, &account, token.session)
        } else {
            Reply::Refused(Refusal::TokenInvalid)
        });
    }
    if !add_device(tx, user, &account, &new.device)? {
        return Ok(Reply::Refused(Refusal::TooManyDevices));
    }
    let reply = open_session(tx, command, user, &mut account, new)?;
    save_account(tx, user, account);
    Ok(reply)
}

/// The part that account creation and login share: token, client, remembered reply. The caller
/// saves the account, and has made sure that the token is new and the device known.
pub(super) fn open_session(
    tx: &mut Transaction<'_>,
    command: &Command,
    user: UserId,
    account: &mut Account,
    new: &NewToken,
) -> Result<Reply, StorageError> {
    issue(tx, user, account, new)?;
    let reply = logged_in(user, account, tx.index.0);
    // A front's client is not registered here: it never pushes out one of the account's.
    if !command.front {
        let request = command.registered_request();
        idempotency::register(tx, user, &new.client, request.map_or(1, |r| r.sequence))?;
        if let Some(request) = request {
            let operation = idempotency::opening_hash(user, &new.device);
            let token = Some(new.hash);
            idempotency::remember(tx, user, &request, operation, token, &reply)?;
        }
    }
    Ok(reply)
}

fn logged_in(user: UserId, account: &Account, session: u64) -> Reply {
    Reply::LoggedIn {
        account: account_info(user, account),
        session,
    }
}

/// Makes sure that the account has this device, as the one that logged in last. A new one may take
/// the place of the one that logged in least recently among those without a token; false: all of
/// them are in use.
pub(super) fn add_device(
    tx: &mut Transaction<'_>,
    user: UserId,
    account: &Account,
    name: &str,
) -> Result<bool, StorageError> {
    let devices = &mut tx.head(user)?.devices;
    if let Some(at) = devices.iter().position(|d| d.name == name) {
        // Their order is not part of the digest.
        devices[at..].rotate_left(1);
        return Ok(true);
    }
    if devices.len() >= DEVICES_MAX {
        let mut used = Vec::new();
        for hash in &account.tokens {
            used.push(existing(tx.view(), hash)?.device);
        }
        let head = tx.head(user)?;
        let idle = |d: &Device| !used.contains(&d.name);
        let Some(at) = head.devices.iter().position(idle) else {
            return Ok(false);
        };
        let gone = head.devices.remove(at);
        head.sum.subtract(&gone.lanes(user));
    }
    let head = tx.head(user)?;
    let device = Device {
        name: name.to_owned(),
        acknowledged: InboxSeq(0),
    };
    head.sum.add(&device.lanes(user));
    head.devices.push(device);
    Ok(true)
}

fn issue(
    tx: &mut Transaction<'_>,
    user: UserId,
    account: &mut Account,
    new: &NewToken,
) -> Result<(), StorageError> {
    while account.tokens.len() >= TOKENS_MAX {
        let mut least: Option<(Token, TokenHash)> = None;
        for hash in &account.tokens {
            let token = existing(tx.view(), hash)?;
            let age = |t: &Token| (t.last_used, t.session);
            if least.as_ref().is_none_or(|(l, _)| age(&token) < age(l)) {
                least = Some((token, *hash));
            }
        }
        if let Some((_, hash)) = least {
            revoke(tx, user, account, &hash)?;
        }
    }
    let token = Token {
        user,
        device: new.device.clone(),
        session: tx.index.0,
        client: new.client,
        password_version: account.password_version,
        created: tx.time,
        last_used: tx.time,
    };
    tx.add(user, &token.lanes(&new.hash))?;
    tx.put(Tree::Tokens, keys::token(&new.hash), token);
    account.tokens.push(new.hash);
    Ok(())
}

/// A token that an account lists.
pub(super) fn existing(view: View<'_>, hash: &TokenHash) -> Result<Token, StorageError> {
    let key = keys::token(hash);
    view.read(Tree::Tokens, &key)?
        .ok_or_else(|| super::records::damaged(Tree::Tokens, &key, "is missing"))
}

/// Removes a token from the tree and from the account, which the caller saves.
pub(super) fn revoke(
    tx: &mut Transaction<'_>,
    user: UserId,
    account: &mut Account,
    hash: &TokenHash,
) -> Result<(), StorageError> {
    let token = existing(tx.view(), hash)?;
    tx.subtract(user, &token.lanes(hash))?;
    tx.remove(Tree::Tokens, keys::token(hash));
    account.tokens.retain(|h| h != hash);
    tx.notices.push(Notice::Revoked(*hash));
    Ok(())
}

/// Logout.
pub(super) fn revoke_own(
    tx: &mut Transaction<'_>,
    session: Session,
) -> Result<Reply, StorageError> {
    let user = session.user();
    let mut account = session.account().clone();
    revoke(tx, user, &mut account, &session.hash)?;
    save_account(tx, user, account);
    Ok(Reply::Done)
}

/// Revokes the session with this public id.
pub(super) fn revoke_session(
    tx: &mut Transaction<'_>,
    session: Session,
    id: u64,
) -> Result<Reply, StorageError> {
    let user = session.user();
    for hash in &session.account().tokens {
        if existing(tx.view(), hash)?.session == id {
            let mut account = session.account().clone();
            revoke(tx, user, &mut account, hash)?;
            save_account(tx, user, account);
            return Ok(Reply::Done);
        }
    }
    Ok(Reply::Refused(Refusal::SessionUnknown))
}

/// These tokens were used: their expiry is put off. Those that are gone are passed over.
pub(super) fn extend(
    tx: &mut Transaction<'_>,
    tokens: &[TokenHash],
) -> Result<Reply, StorageError> {
    for hash in tokens.iter().take(EXTEND_TOKENS_MAX) {
        let key = keys::token(hash);
        let Some(mut token) = tx.read::<Token>(Tree::Tokens, &key)? else {
            continue;
        };
        if token.last_used < tx.time {
            let user = token.user;
            tx.subtract(user, &token.lanes(hash))?;
            token.last_used = tx.time;
            tx.add(user, &token.lanes(hash))?;
            tx.put(Tree::Tokens, key, token);
        }
    }
    Ok(Reply::Done)
}

/// Drops those of these tokens that have been idle for `idle_us` by the entry's time.
pub(super) fn expire(
    tx: &mut Transaction<'_>,
    tokens: &[TokenHash],
    idle_us: u64,
) -> Result<Reply, StorageError> {
    for hash in tokens.iter().take(EXPIRE_TOKENS_MAX) {
        let Some(token) = tx.read::<Token>(Tree::Tokens, &keys::token(hash))? else {
            continue;
        };
        if tx.time.0.saturating_sub(token.last_used.0) < idle_us {
            continue;
        }
        let key = keys::account(token.user);
        let Some(AccountRecord::Live(mut account)) = tx.read(Tree::Users, &key)? else {
            let what = "belongs to no account";
            return Err(super::records::damaged(
                Tree::Tokens,
                &keys::token(hash),
                what,
            ));
        };
        revoke(tx, token.user, &mut account, hash)?;
        save_account(tx, token.user, account);
    }
    Ok(Reply::Done)
}

impl Command {
    /// The request id, if it is one of a client that the account registers (not a front's own).
    pub(super) fn registered_request(&self) -> Option<RequestId> {
        self.request.filter(|_| !self.front)
    }
}
