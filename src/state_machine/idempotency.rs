//! A request is applied at most once.
//!
//! For each (account, client) the replies of the last `REPLIES_MAX` sequences are remembered, and
//! everything below that window, the floor, is refused. A client id is registered by the login or
//! account creation that brings it; unregistered ones are refused and never run: nobody knows any
//! more what they have run before. When an account has too many clients the one that was used
//! least recently, by log index, is dropped.
//!
//! The replicas' front doors make ids for clients that bring none. Theirs are kept apart, under
//! [`FRONTS`], so that they never push out a registered client; an unknown front registers itself.
//!
//! Rows are stored under the entry that registered the client: those of a client that was dropped
//! are garbage, and do not come back when the same id is registered again.

use super::digest::{Canonical, RecordKind};
use super::overlay::View;
use super::records::{Client, FRONTS, Remembered, keys};
use super::transaction::Transaction;
use super::{Command, Operation, Refusal, Reply};
use crate::limits::{CLIENTS_MAX, FRONT_REPLIES_MAX, FRONTS_MAX, REPLIES_MAX};
use crate::storage::{StorageError, Tree};
use crate::types::{ClientId, Hash, RequestId, TokenHash, UserId};

/// Rows below the floor that one entry removes at most. More than one, so that a backlog shrinks.
const FORGOTTEN_AT_ONCE: u64 = 4;

/// What is known of a request.
pub(super) enum Verdict {
    /// Not seen before: run it.
    New,
    /// Done before: this came of it.
    Repeated(Remembered),
    /// Not to be run.
    Refused(Refusal),
}

/// How many replies are kept for a client of this owner.
const fn window(owner: UserId) -> u64 {
    if owner.0 == FRONTS.0 {
        FRONT_REPLIES_MAX
    } else {
        REPLIES_MAX
    }
}

/// Sequences below this are refused.
fn floor(owner: UserId, client: &Client) -> u64 {
    let window = client.newest.saturating_sub(window(owner) - 1);
    window.max(client.base)
}

/// Judges a request of a client that may or may not be registered.
pub(super) fn judge(
    view: View<'_>,
    owner: UserId,
    request: &RequestId,
    operation: &Hash,
) -> Result<Verdict, StorageError> {
    let key = keys::client(owner, &request.client);
    let Some(client) = view.read::<Client>(Tree::Sessions, &key)? else {
        return Ok(Verdict::Refused(Refusal::ClientUnknown));
    };
    if request.sequence < floor(owner, &client) {
        return Ok(Verdict::Refused(Refusal::RequestTooOld));
    }
    let row = keys::remembered(owner, client.registered, request.sequence);
    Ok(match view.read::<Remembered>(Tree::Sessions, &row)? {
        None => Verdict::New,
        Some(row) if row.operation == *operation => Verdict::Repeated(row),
        Some(_) => Verdict::Refused(Refusal::RequestIdReused),
    })
}

/// Registers a client; requests below `base` will be refused. Nothing happens if it is registered.
pub(super) fn register(
    tx: &mut Transaction<'_>,
    owner: UserId,
    id: &ClientId,
    base: u64,
) -> Result<(), StorageError> {
    let key = keys::client(owner, id);
    if tx.view().get(Tree::Sessions, &key)?.is_some() {
        return Ok(());
    }
    let most = if owner == FRONTS {
        FRONTS_MAX
    } else {
        CLIENTS_MAX
    };
    let clients = clients(tx.view(), owner, most + 1)?;
    if clients.len() >= most {
        let oldest = clients
            .iter()
            .min_by_key(|(_, client)| (client.used, client.registered));
        if let Some((id, client)) = oldest {
            drop_client(tx, owner, id, client)?;
        }
    }
    let base = base.max(1);
    let client = Client {
        registered: tx.index,
        base,
        newest: 0,
        lowest_row: base,
        used: tx.index,
        sum: super::digest::Lanes::ZERO,
    };
    tx.add(owner, &client.lanes(owner, id))?;
    tx.put(Tree::Sessions, key, &client);
    Ok(())
}

/// The clients of an owner, at most `limit`.
pub(super) fn clients(
    view: View<'_>,
    owner: UserId,
    limit: usize,
) -> Result<Vec<(ClientId, Client)>, StorageError> {
    let (from, to) = keys::of_user(b"c", owner);
    let mut clients = Vec::new();
    for (key, bytes) in view.range(Tree::Sessions, &from, &to, limit)? {
        let client = super::records::decode(Tree::Sessions, &key, &bytes)?;
        let id = ClientId::from_slice(&key[9..])
            .ok_or_else(|| super::records::damaged(Tree::Sessions, &key, "has a wrong key"))?;
        clients.push((id, client));
    }
    Ok(clients)
}

/// Its rows become garbage: one stored sum takes them out of the digest.
fn drop_client(
    tx: &mut Transaction<'_>,
    owner: UserId,
    id: &ClientId,
    client: &Client,
) -> Result<(), StorageError> {
    tx.subtract(owner, &client.lanes(owner, id))?;
    tx.subtract(owner, &client.sum)?;
    tx.remove(Tree::Sessions, keys::client(owner, id));
    let from = keys::remembered(owner, client.registered, 0);
    let to = keys::remembered(owner, client.registered.next(), 0);
    tx.clean_up(Tree::Sessions, (from, to));
    Ok(())
}

/// Remembers what a request came to. Nothing happens if the client is not registered: a request
/// that brought no client that counts, or one that deleted its own account.
pub(super) fn remember(
    tx: &mut Transaction<'_>,
    owner: UserId,
    request: &RequestId,
    operation: Hash,
    token: Option<TokenHash>,
    reply: &Reply,
) -> Result<(), StorageError> {
    let key = keys::client(owner, &request.client);
    let Some(mut client) = tx.read::<Client>(Tree::Sessions, &key)? else {
        return Ok(());
    };
    tx.subtract(owner, &client.lanes(owner, &request.client))?;
    forget(tx, owner, &mut client, request.sequence)?;
    let row = Remembered {
        operation,
        token,
        reply: rmp_serde::to_vec(reply).expect("plain enums always encode"),
    };
    let lanes = row.lanes(owner, client.registered, request.sequence);
    client.sum.add(&lanes);
    tx.add(owner, &lanes)?;
    let row_key = keys::remembered(owner, client.registered, request.sequence);
    tx.put(Tree::Sessions, row_key, &row);

    client.newest = client.newest.max(request.sequence);
    client.used = tx.index;
    forget_old(tx, owner, &mut client)?;
    tx.add(owner, &client.lanes(owner, &request.client))?;
    tx.put(Tree::Sessions, key, &client);
    Ok(())
}

/// Takes one row out of the sums and the tree, if it is there.
fn forget(
    tx: &mut Transaction<'_>,
    owner: UserId,
    client: &mut Client,
    sequence: u64,
) -> Result<(), StorageError> {
    let key = keys::remembered(owner, client.registered, sequence);
    if let Some(row) = tx.read::<Remembered>(Tree::Sessions, &key)? {
        let lanes = row.lanes(owner, client.registered, sequence);
        client.sum.subtract(&lanes);
        tx.subtract(owner, &lanes)?;
        tx.remove(Tree::Sessions, key);
    }
    Ok(())
}

/// Removes a few rows below the floor.
fn forget_old(
    tx: &mut Transaction<'_>,
    owner: UserId,
    client: &mut Client,
) -> Result<(), StorageError> {
    let floor = floor(owner, client);
    if floor.saturating_sub(client.lowest_row) <= FORGOTTEN_AT_ONCE {
        for sequence in client.lowest_row..floor {
            forget(tx, owner, client, sequence)?;
        }
        client.lowest_row = client.lowest_row.max(floor);
        return Ok(());
    }
    // The sequence has jumped: look for the rows that are there.
    let from = keys::remembered(owner, client.registered, client.lowest_row);
    let to = keys::remembered(owner, client.registered, floor);
    let limit = FORGOTTEN_AT_ONCE as usize;
    let rows = tx.view().range(Tree::Sessions, &from, &to, limit)?;
    let all = rows.len() < limit;
    for (key, _) in rows {
        let sequence = keys::number_at(&key, 17)
            .ok_or_else(|| super::records::damaged(Tree::Sessions, &key, "has a wrong key"))?;
        forget(tx, owner, client, sequence)?;
        client.lowest_row = sequence + 1;
    }
    if all {
        client.lowest_row = floor;
    }
    Ok(())
}

/// The reply in a row.
pub(super) fn reply_of(row: &Remembered) -> Result<Reply, StorageError> {
    rmp_serde::from_slice(&row.reply).map_err(|error| {
        StorageError::Damaged(format!(
            "sessions: a remembered reply does not parse: {error}"
        ))
    })
}

/// What makes two requests with one id the same request. Not the password hashes and tokens, which
/// are made afresh each time a request arrives; and all openings of a session are alike, so that
/// the login that repeats an account creation under its id is one.
pub(super) fn operation_hash(operation: &Operation, user: UserId) -> Hash {
    let body = |name: &str| Canonical::new(RecordKind::Operation).bytes(name);
    let body = match operation {
        Operation::CreateAccount { .. } | Operation::IssueToken { .. } => {
            body("open_session").number(user.0)
        }
        other => fields(body(other.name()), other),
    };
    body.hash()
}

/// For a front's own ids, which are retried inside only: exactly the same command.
pub(super) fn command_hash(command: &Command) -> Hash {
    let token = command.auth.map_or_else(Vec::new, |a| a.token.0.to_vec());
    let body = Canonical::new(RecordKind::Operation).bytes("command");
    let body = body.bytes(command.operation.name()).bytes(token);
    fields(body, &command.operation).hash()
}

fn fields(body: Canonical, operation: &Operation) -> Canonical {
    match operation {
        Operation::CreateAccount {
            name,
            full_name,
            password_hash: _,
            token,
        } => body.bytes(name).bytes(full_name).bytes(token.hash.0),
        Operation::IssueToken { user, token, .. } => body.number(user.0).bytes(token.hash.0),
        Operation::RevokeSession { session } => body.number(*session),
        Operation::SendMessage {
            recipient,
            body: message,
            content_type,
        } => body.bytes(recipient).bytes(message).bytes(content_type),
        Operation::Acknowledge { up_to } => body.number(up_to.0),
        Operation::UpdateProfile { full_name } => body.bytes(full_name),
        Operation::RevokeOwnToken
        | Operation::ChangePassword { .. }
        | Operation::DeleteAccount
        | Operation::ExtendTokens { .. }
        | Operation::ExpireTokens { .. } => body,
    }
}
