//! Accounts: creation, profile, password, deletion.

use super::overlay::View;
use super::records::{
    Account, AccountRecord, Creation, Token, Tombstone, decode, keys, name_lanes,
};
use super::tokens::{self, Session};
use super::transaction::Transaction;
use super::{AccountInfo, Command, NewToken, Notice, Refusal, Reply, idempotency};
use crate::storage::{StorageError, Tree};
use crate::types::{Level, UserId};

/// From this level on a deletion keeps the request that created the account.
const CREATIONS_ARE_KEPT: Level = Level(2);

/// The live account with this id.
pub(super) fn find_account(view: View<'_>, user: UserId) -> Result<Option<Account>, StorageError> {
    Ok(match view.read(Tree::Users, &keys::account(user))? {
        Some(AccountRecord::Live(account)) => Some(account),
        Some(AccountRecord::Deleted(_)) | None => None,
    })
}

/// The user with this name.
pub(super) fn find_user(view: View<'_>, name: &str) -> Result<Option<UserId>, StorageError> {
    let user = view.read_shared(Tree::Users, &keys::name(name))?;
    Ok(user.map(|user| *user))
}

/// Writes an account whose digest has not changed or has been brought up to date.
pub(super) fn save_account(tx: &mut Transaction<'_>, user: UserId, account: Account) {
    tx.put(
        Tree::Users,
        keys::account(user),
        AccountRecord::Live(account),
    );
}

pub(super) fn account_info(user: UserId, account: &Account) -> AccountInfo {
    AccountInfo {
        user,
        name: account.name.clone(),
        full_name: account.full_name.clone(),
        created: account.created,
    }
}

/// What a new account consists of.
pub(super) struct NewAccount<'a> {
    pub name: &'a str,
    pub full_name: &'a str,
    pub password_hash: &'a str,
    pub token: &'a NewToken,
}

/// Creates an account and logs it in. The user's id is the index of this entry.
pub(super) fn create(
    tx: &mut Transaction<'_>,
    command: &Command,
    new: &NewAccount<'_>,
) -> Result<Reply, StorageError> {
    let there = find_user(tx.view(), new.name)?;
    if let Some(user) = there
        && is_of_this_request(tx.view(), command, user)?
    {
        return create_again(tx.view(), command, user, new);
    }
    if let Some(refusal) = was_created(tx.view(), command, new.name)? {
        return Ok(Reply::Refused(refusal));
    }
    if there.is_some() {
        return Ok(Reply::Refused(Refusal::NameTaken));
    }
    let own_client = command
        .registered_request()
        .is_none_or(|request| request.client == new.token.client);
    if !own_client {
        return Ok(Reply::Refused(Refusal::ClientUnknown));
    }
    let token_key = keys::token(&new.token.hash);
    if tx.view().get(Tree::Tokens, &token_key)?.is_some() {
        return Ok(Reply::Refused(Refusal::TokenInvalid));
    }
    let user = UserId(tx.index.0);
    let mut account = Account {
        name: new.name.to_owned(),
        full_name: new.full_name.to_owned(),
        password_hash: new.password_hash.to_owned(),
        password_version: 1,
        created: tx.time,
        created_by: command.request,
        tokens: Vec::new(),
    };
    tx.create_head(user);
    tx.add(user, &account.lanes(user))?;
    tx.add(user, &name_lanes(new.name, user))?;
    tx.put(Tree::Users, keys::name(new.name), user);
    tokens::add_device(tx, user, &account, &new.token.device)?;
    let reply = tokens::open_session(tx, command, user, &mut account, new.token)?;
    let name = account.name.clone();
    save_account(tx, user, account);
    tx.notices.push(Notice::AccountCreated { name, user });
    Ok(reply)
}

/// The request created an account that was deleted since. Whoever repeats it has waited for longer
/// than the account lived; whoever gave it up does not expect it to come back.
fn was_created(
    view: View<'_>,
    command: &Command,
    name: &str,
) -> Result<Option<Refusal>, StorageError> {
    let Some(request) = &command.request else {
        return Ok(None);
    };
    let before = view.read_shared::<Creation>(Tree::Users, &keys::creation(request))?;
    Ok(before.map(|creation| {
        if creation.name == name {
            Refusal::UserUnknown
        } else {
            Refusal::RequestIdReused
        }
    }))
}

/// Was the account created by this very request?
fn is_of_this_request(
    view: View<'_>,
    command: &Command,
    user: UserId,
) -> Result<bool, StorageError> {
    let by_this = |account: &Account| account.created_by == command.request;
    let account = find_account(view, user)?.filter(|_| command.request.is_some());
    Ok(account.as_ref().is_some_and(by_this))
}

/// The same request once more, and its account lives.
fn create_again(
    view: View<'_>,
    command: &Command,
    user: UserId,
    new: &NewAccount<'_>,
) -> Result<Reply, StorageError> {
    if let Some(request) = command.registered_request() {
        let operation = idempotency::opening_hash(user, &new.token.device);
        let verdict = idempotency::judge(view, user, &request, &operation)?;
        // The very same entry once more: its token is the one that was registered.
        if let idempotency::Verdict::Repeated(row) = verdict
            && row.token == Some(new.token.hash)
        {
            return idempotency::reply_of(&row);
        }
    }
    Ok(Reply::AlreadyCreated { user })
}

/// Changes the full name.
pub(super) fn update_profile(
    tx: &mut Transaction<'_>,
    session: Session,
    full_name: &str,
) -> Result<Reply, StorageError> {
    let user = session.user();
    let mut account = session.account().clone();
    tx.subtract(user, &account.lanes(user))?;
    full_name.clone_into(&mut account.full_name);
    tx.add(user, &account.lanes(user))?;
    save_account(tx, user, account);
    Ok(Reply::Done)
}

/// Changes the password, and revokes every token but the one that asks.
pub(super) fn change_password(
    tx: &mut Transaction<'_>,
    session: Session,
    password_hash: &str,
    password_version: u32,
) -> Result<Reply, StorageError> {
    let user = session.user();
    let hash = session.hash;
    let mut account = session.account().clone();
    let mut token = Token::clone(&session.token);
    if account.password_version != password_version {
        return Ok(Reply::Refused(Refusal::PasswordChanged));
    }
    for other in account.tokens.clone() {
        if other != hash {
            tokens::revoke(tx, user, &mut account, &other)?;
        }
    }
    tx.subtract(user, &account.lanes(user))?;
    password_hash.clone_into(&mut account.password_hash);
    account.password_version += 1;
    tx.add(user, &account.lanes(user))?;
    tx.subtract(user, &token.lanes(&hash))?;
    token.password_version = account.password_version;
    tx.add(user, &token.lanes(&hash))?;
    tx.put(Tree::Tokens, keys::token(&hash), token);
    save_account(tx, user, account);
    Ok(Reply::Done)
}

/// Deletes the account: a tombstone takes its place, its name is free, its tokens are gone. Its
/// rows are invisible from now on because nothing leads to them; later entries remove them.
pub(super) fn delete(tx: &mut Transaction<'_>, session: Session) -> Result<Reply, StorageError> {
    let user = session.user();
    let mut account = session.account().clone();
    for hash in &session.account().tokens {
        tokens::revoke(tx, user, &mut account, hash)?;
    }
    let name = account.name;
    if let Some(request) = account.created_by
        && tx.level() >= CREATIONS_ARE_KEPT
        // A client may have used one id for accounts of two names: the first deletion's stays.
        && tx.view().get(Tree::Users, &keys::creation(&request))?.is_none()
    {
        let name = name.clone();
        let creation = Creation { user, name };
        tx.add_to_total(&creation.lanes(&request));
        tx.put(Tree::Users, keys::creation(&request), creation);
    }
    tx.remove(Tree::Users, keys::name(&name));
    let tombstone = Tombstone { deleted: tx.index };
    tx.add_to_total(&tombstone.lanes(user));
    let record = AccountRecord::Deleted(tombstone);
    tx.put(Tree::Users, keys::account(user), record);
    tx.remove_head(user)?;
    idempotency::discount_clients(tx, user)?;
    tx.clean_up(Tree::Inboxes, keys::of_user(b"", user));
    for prefix in [b"c", b"r", b"d"] {
        tx.clean_up(Tree::Sessions, keys::of_user(prefix, user));
    }
    tx.notices.push(Notice::AccountDeleted { name, user });
    Ok(Reply::Done)
}

/// All names with ids, ascending. Reads in pages.
pub(super) fn names(view: View<'_>) -> Result<Vec<(String, UserId)>, StorageError> {
    const PAGE: usize = 1_024;
    let (mut from, to) = keys::of_prefix(b'n');
    let mut names = Vec::new();
    loop {
        let page = view.range(Tree::Users, &from, &to, PAGE)?;
        let full = page.len() == PAGE;
        for (key, bytes) in page {
            let user = decode(Tree::Users, &key, &bytes)?;
            let name = std::str::from_utf8(&key[1..])
                .map_err(|_| super::records::damaged(Tree::Users, &key, "is no name"))?;
            names.push((name.to_owned(), user));
            from = super::overlay::after(&key);
        }
        if !full {
            return Ok(names);
        }
    }
}
