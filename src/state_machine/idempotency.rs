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
//! Replies are stored in groups of [`GROUP`] consecutive sequences, and forgotten by whole groups.
//! They stand under the entry that registered the client: those of a client that was dropped are
//! garbage, and do not come back when the same id is registered again. From level 3 on the group that
//! is being filled stands in the client's row, and a client's part of the digest is summed up there and
//! in the total alone: of all rows a request changes, besides what it does, only that one.

use super::digest::{Canonical, Lanes, RecordKind};
use super::overlay::View;
use super::packed::{Filling, Packed};
use super::records::{Apart, Client, FRONTS, Remembered, keys};
use super::tokens::Session;
use super::transaction::{Packing, Transaction};
use super::{Command, Operation, Refusal, Reply};
use crate::limits::{
    CLIENTS_MAX, FRONT_REPLIES_MAX, FRONTS_MAX, FULL_NAME_BYTES_MAX, REPLIES_MAX, ROW_NUMBER_MAX,
    STATE_RECORD_BYTES_MAX,
};
use crate::storage::{StorageError, Tree};
use crate::types::{ClientId, Hash, RequestId, TokenHash, UserId};
use std::sync::Arc;

/// Sequences whose replies share a record. Part of what is remembered, and so of the digest: a
/// reply goes when the floor has left its group.
const GROUP: u64 = 32;
const _: () = assert!(u64::MAX / GROUP <= ROW_NUMBER_MAX);
/// Where the number of a group stands in its key.
const GROUP_AT: usize = 17;
/// Groups below the floor that one entry removes at most. More than one, so that a backlog
/// shrinks.
const FORGOTTEN_AT_ONCE: u64 = 4;

/// The largest remembered reply: names, a token hash and an operation hash.
const REPLY_BYTES_MAX: usize = FULL_NAME_BYTES_MAX + 512;
const _: () = assert!(
    GROUP as usize * REPLY_BYTES_MAX + 2048 < STATE_RECORD_BYTES_MAX,
    "a group of the largest replies must fit into a record, a client's too"
);

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
    let Some(client) = view.read_shared::<Client>(Tree::Sessions, &key)? else {
        return Ok(Verdict::Refused(Refusal::ClientUnknown));
    };
    if request.sequence < floor(owner, &client) {
        return Ok(Verdict::Refused(Refusal::RequestTooOld));
    }
    if request.sequence > client.newest {
        return Ok(Verdict::New);
    }
    let group = group(view, owner, &client, request.sequence / GROUP)?;
    let row = group.and_then(|g| find(&g, request.sequence).transpose());
    Ok(match row.transpose()? {
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
    let view = tx.view();
    if view.read_shared::<Client>(Tree::Sessions, &key)?.is_some() {
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
        lowest_group: base / GROUP,
        used: tx.index,
        sum: Lanes::ZERO,
        apart: tx.joins_rows().then(Apart::default),
        hashed: None,
    };
    add(tx, owner, &client, &client.lanes(owner, id))?;
    tx.put(Tree::Sessions, key, client);
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
    subtract(tx, owner, client, &client.lanes(owner, id))?;
    subtract(tx, owner, client, &client.sum)?;
    tx.remove(Tree::Sessions, keys::client(owner, id));
    let from = keys::group(owner, client.registered, 0);
    let to = keys::group(owner, client.registered.next(), 0);
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
    let Some(mut shared) = tx.take::<Client>(Tree::Sessions, &key)? else {
        return Ok(());
    };
    let client = Arc::make_mut(&mut shared);
    let before = client.hashed.take();
    let before = before.unwrap_or_else(|| client.lanes(owner, &request.client));
    set_apart(tx, owner, client, &before)?;
    subtract(tx, owner, client, &before)?;
    let row = Remembered {
        operation,
        token,
        reply: encoded(reply),
    };
    put_row(tx, owner, client, request.sequence, &row)?;
    client.newest = client.newest.max(request.sequence);
    client.used = tx.index;
    forget_old(tx, owner, client)?;
    let now = client.lanes(owner, &request.client);
    add(tx, owner, client, &now)?;
    client.hashed = Some(now);
    tx.put_back(Tree::Sessions, key, shared);
    Ok(())
}

/// From level 3 on: takes its part out of its owner's sum. `lanes`: its own.
fn set_apart(
    tx: &mut Transaction<'_>,
    owner: UserId,
    client: &mut Client,
    lanes: &Lanes,
) -> Result<(), StorageError> {
    if client.apart.is_none() && tx.joins_rows() {
        for part in [lanes, &client.sum] {
            tx.subtract(owner, part)?;
            tx.add_to_total(part);
        }
        client.apart = Some(Apart::default());
    }
    Ok(())
}

/// Adds to the digest's sums what a client has.
fn add(
    tx: &mut Transaction<'_>,
    owner: UserId,
    client: &Client,
    lanes: &Lanes,
) -> Result<(), StorageError> {
    if client.apart.is_some() {
        tx.add_to_total(lanes);
        return Ok(());
    }
    tx.add(owner, lanes)
}

fn subtract(
    tx: &mut Transaction<'_>,
    owner: UserId,
    client: &Client,
    lanes: &Lanes,
) -> Result<(), StorageError> {
    if client.apart.is_some() {
        tx.subtract_from_total(lanes);
        return Ok(());
    }
    tx.subtract(owner, lanes)
}

/// Takes what the clients of a deleted account have, and its head does not count, out of the digest.
/// Their rows go with the account's.
pub(super) fn discount_clients(tx: &mut Transaction<'_>, user: UserId) -> Result<(), StorageError> {
    for (id, client) in clients(tx.view(), user, CLIENTS_MAX)? {
        if client.apart.is_some() {
            tx.subtract_from_total(&client.lanes(user, &id));
            tx.subtract_from_total(&client.sum);
        }
    }
    Ok(())
}

fn group(
    view: View<'_>,
    owner: UserId,
    client: &Client,
    group: u64,
) -> Result<Option<Packed>, StorageError> {
    let key = keys::group(owner, client.registered, group);
    if let Some(filling) = filling(owner, client)?
        && *filling.key() == key
    {
        return Ok(Some(filling));
    }
    let open = |bytes| Packed::open(Tree::Sessions, &key, bytes);
    view.packed(Tree::Sessions, &key)?.map(open).transpose()
}

/// The group that is being filled in the client's row, under the key that it will have.
pub(super) fn filling(owner: UserId, client: &Client) -> Result<Option<Packed>, StorageError> {
    let Some(apart) = &client.apart else {
        return Ok(None);
    };
    let key = keys::group(owner, client.registered, apart.group);
    let open = |record| Packed::open(Tree::Sessions, &key, record);
    apart.filling.record().map(open).transpose()
}

/// The replies in a group, with their sequences.
pub(super) fn rows(group: &Packed) -> Result<Vec<(u64, Remembered)>, StorageError> {
    let mut rows = Vec::new();
    for item in group.items()? {
        rows.push(row(group, item)?);
    }
    Ok(rows)
}

/// The reply to one sequence. Only that one is decoded.
fn find(group: &Packed, sequence: u64) -> Result<Option<Remembered>, StorageError> {
    for item in group.items()? {
        if item.starts_with(&sequence.to_be_bytes()) {
            return Ok(Some(row(group, item)?.1));
        }
    }
    Ok(None)
}

/// An item is a sequence, big-endian, and the encoded reply.
fn row(group: &Packed, item: &[u8]) -> Result<(u64, Remembered), StorageError> {
    let decoded = item.split_first_chunk::<8>().and_then(|(sequence, bytes)| {
        let row = rmp_serde::from_slice(bytes).ok()?;
        Some((u64::from_be_bytes(*sequence), row))
    });
    match decoded {
        Some((sequence, row))
            if keys::number_at(group.key(), GROUP_AT) == Some(sequence / GROUP) =>
        {
            Ok((sequence, row))
        }
        _ => Err(group.damaged("has a reply that does not parse or belong there")),
    }
}

/// Adds a reply to its group and the sums; one to the same sequence (of a repeated login) goes.
fn put_row(
    tx: &mut Transaction<'_>,
    owner: UserId,
    client: &mut Client,
    sequence: u64,
    row: &Remembered,
) -> Result<(), StorageError> {
    let key = keys::group(owner, client.registered, sequence / GROUP);
    // Only openings of a session, which have a token, are done again under the same sequence.
    let mut stored = match row.token {
        Some(_) => group(tx.view(), owner, client, sequence / GROUP)?,
        None => None,
    };
    let repeated = match &stored {
        Some(stored) => find(stored, sequence)?.is_some(),
        None => false,
    };
    if let Some(old) = stored.take_if(|_| repeated) {
        forget(tx, owner, client, &old)?;
        for (other, kept) in rows(&old)? {
            let kept = if other == sequence { row } else { &kept };
            put_row(tx, owner, client, other, kept)?;
        }
        return Ok(());
    }
    let lanes = row.lanes(owner, client.registered, sequence);
    let mut item = Vec::with_capacity(256);
    item.extend_from_slice(&sequence.to_be_bytes());
    rmp_serde::encode::write(&mut item, row).expect("plain structs always encode");
    client.sum.add(&lanes);
    add(tx, owner, client, &lanes)?;
    // BEFORE the group grows: what is shared would be copied first.
    drop(stored);
    if let Some(filling) = filling_for(tx, owner, client, sequence / GROUP)? {
        filling.push(&item, &lanes);
        return Ok(());
    }
    match tx.pack_more(Tree::Sessions, &key, &item, &lanes, usize::MAX)? {
        Packing::Done => {}
        Packing::Missing => tx.pack(Tree::Sessions, key, &item, &lanes),
        Packing::Full => unreachable!("a group has no more than its sequences"),
    }
    Ok(())
}

/// The group in the client's row, if that is this one. It is from now on if it is a new one above the
/// one there, which gets a row of its own.
fn filling_for<'a>(
    tx: &mut Transaction<'_>,
    owner: UserId,
    client: &'a mut Client,
    group: u64,
) -> Result<Option<&'a mut Filling>, StorageError> {
    let newest = client.newest / GROUP;
    let Some(apart) = &mut client.apart else {
        return Ok(None);
    };
    let begun = !apart.filling.is_empty();
    if begun && group <= apart.group {
        return Ok((group == apart.group).then_some(&mut apart.filling));
    }
    // Of before level 3, or of a sequence that came before those below it.
    let key = keys::group(owner, client.registered, group);
    if group <= newest && tx.view().packed(Tree::Sessions, &key)?.is_some() {
        return Ok(None);
    }
    if let Some(full) = apart.filling.take() {
        let key = keys::group(owner, client.registered, apart.group);
        tx.put_packed(Tree::Sessions, key, full);
    }
    apart.group = group;
    Ok(Some(&mut apart.filling))
}

/// Takes a group out of the sums, and out of the tree or the client's row.
fn forget(
    tx: &mut Transaction<'_>,
    owner: UserId,
    client: &mut Client,
    group: &Packed,
) -> Result<(), StorageError> {
    client.sum.subtract(&group.sum());
    subtract(tx, owner, client, &group.sum())?;
    if let Some(apart) = &mut client.apart
        && keys::number_at(group.key(), GROUP_AT) == Some(apart.group)
        && apart.filling.take().is_some()
    {
        return Ok(());
    }
    tx.remove(Tree::Sessions, group.key().clone());
    Ok(())
}

/// Removes a few groups that lie wholly below the floor.
fn forget_old(
    tx: &mut Transaction<'_>,
    owner: UserId,
    client: &mut Client,
) -> Result<(), StorageError> {
    let lowest = floor(owner, client) / GROUP;
    if lowest <= client.lowest_group {
        return Ok(());
    }
    if lowest - client.lowest_group <= FORGOTTEN_AT_ONCE {
        for number in client.lowest_group..lowest {
            if let Some(group) = group(tx.view(), owner, client, number)? {
                forget(tx, owner, client, &group)?;
            }
        }
        client.lowest_group = lowest;
        return Ok(());
    }
    // The sequence has jumped: look for the groups that are there.
    let from = keys::group(owner, client.registered, client.lowest_group);
    let to = keys::group(owner, client.registered, lowest);
    let limit = FORGOTTEN_AT_ONCE as usize;
    let found = tx.view().range(Tree::Sessions, &from, &to, limit)?;
    let all = found.len() < limit;
    for (key, bytes) in found {
        let group = Packed::open(Tree::Sessions, &key, Arc::new(bytes.into()))?;
        let number = number_of(&group)?;
        forget(tx, owner, client, &group)?;
        client.lowest_group = number + 1;
    }
    if all {
        // A late one of before the newest, if there were rows of both before level 3.
        if let Some(group) = filling(owner, client)?
            && number_of(&group)? < lowest
        {
            forget(tx, owner, client, &group)?;
        }
        client.lowest_group = lowest;
    }
    Ok(())
}

/// The number of a group.
fn number_of(group: &Packed) -> Result<u64, StorageError> {
    let number = keys::number_at(group.key(), GROUP_AT);
    number.ok_or_else(|| group.damaged("has a wrong key"))
}

/// A reply as it stands in a row.
fn encoded(reply: &Reply) -> Vec<u8> {
    // Most have room in this at once: a vector that grows is moved with each step.
    let mut bytes = Vec::with_capacity(64);
    rmp_serde::encode::write(&mut bytes, reply).expect("plain enums always encode");
    bytes
}

/// The reply in a row.
pub(super) fn reply_of(row: &Remembered) -> Result<Reply, StorageError> {
    rmp_serde::from_slice(&row.reply).map_err(|error| {
        StorageError::Damaged(format!(
            "sessions: a remembered reply does not parse: {error}"
        ))
    })
}

/// What makes two openings of a session with one id the same request: not the password hash and the
/// token, which are made afresh each time a request arrives. Account creation and login are alike, so
/// that the login that repeats a creation under its id is one.
pub(super) fn opening_hash(user: UserId, device: &str) -> Hash {
    let body = Canonical::new(RecordKind::Operation).bytes("open_session");
    body.number(user.0).bytes(device).hash()
}

/// What makes two requests of a session with one id the same request. What an operation does to the
/// very session that asks is part of it: the same words from another session ask for something else.
pub(super) fn operation_hash(operation: &Operation, session: &Session) -> Hash {
    let body = Canonical::new(RecordKind::Operation).bytes(operation.name());
    let body = match operation {
        Operation::RevokeOwnToken | Operation::ChangePassword { .. } => body.bytes(session.hash.0),
        Operation::Acknowledge { .. } => body.bytes(&session.token.device),
        _ => body,
    };
    fields(body, operation).hash()
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
        // The front makes it from the request: the same one gives the same hash, whatever the
        // password's version is by then.
        Operation::ChangePassword { password_hash, .. } => body.bytes(password_hash),
        Operation::RevokeOwnToken
        | Operation::DeleteAccount
        | Operation::ExtendTokens { .. }
        | Operation::ExpireTokens { .. }
        | Operation::ExpireMessages { .. } => body,
    }
}
