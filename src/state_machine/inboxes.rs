//! Inboxes: appending, reading, acknowledging.
//!
//! Sequences are gapless from 1, so that a client can prove that nothing is missing. Messages are
//! packed into blocks (see [`super::block`]); the last block takes messages until it is full.
//! An inbox that grows beyond its limit loses its oldest block, acknowledged or not.

use super::block::{self, Block, Message};
use super::overlay::{View, after};
use super::records::{Head, damaged, delivered_lanes, keys};
use super::tokens::Session;
use super::transaction::Transaction;
use super::{Cursor, InboxMessage, Notice, Refusal, Reply};
use crate::storage::{StorageError, Tree};
use crate::types::{InboxSeq, Index, UserId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Blocks read from the store at once.
const PAGE: usize = 16;
/// Bytes of bodies that one read returns at most, so that large messages do not add up to a
/// hundred times a page of small ones.
const READ_BYTES_MAX: usize = 1024 * 1024;
/// Newly acknowledged messages, bytes of their bodies, and senders that one entry looks at, newest
/// first, to tell senders that they were received. What lies further back is not reported.
const DELIVERED_MESSAGES_MAX: usize = 1_024;
const DELIVERED_BYTES_MAX: usize = 1024 * 1024;
const DELIVERED_SENDERS_MAX: usize = 64;

/// Puts a message at the end of a user's inbox; keeps at most `keep` messages.
pub(super) fn append(
    tx: &mut Transaction<'_>,
    user: UserId,
    message: &Message,
    keep: u64,
) -> Result<InboxSeq, StorageError> {
    let head = tx.head(user)?.clone();
    let seq = InboxSeq(head.last.0 + 1);
    let lanes = message.lanes(user, seq);
    let open = match head.open_block {
        InboxSeq(0) => None,
        first => Some(existing(tx.view(), user, first)?),
    };
    let grown = open
        .as_ref()
        .and_then(|open| block::append(Some(open), message, &lanes));
    let (first, bytes) = match grown {
        Some(bytes) => (head.open_block, bytes),
        None => (
            seq,
            block::append(None, message, &lanes).expect("a new block takes any message"),
        ),
    };
    tx.put_bytes(Tree::Inboxes, keys::block(user, first), bytes);
    let trimmed = trim(tx, user, &head, seq, first, keep)?;

    let head = tx.head(user)?;
    head.sum.add(&lanes);
    let before = head.inbox_lanes(user);
    head.sum.subtract(&before);
    head.last = seq;
    head.first = trimmed;
    head.open_block = first;
    let now = head.inbox_lanes(user);
    head.sum.add(&now);
    Ok(seq)
}

/// Drops the oldest block of an inbox that is too long, unless it is the open one. Returns the
/// first sequence kept. One block is enough: it holds at least the one message that is too many.
fn trim(
    tx: &mut Transaction<'_>,
    user: UserId,
    head: &Head,
    last: InboxSeq,
    open: InboxSeq,
    keep: u64,
) -> Result<InboxSeq, StorageError> {
    if last.0 - head.first.0 < keep || head.first >= open {
        return Ok(head.first);
    }
    let oldest = existing(tx.view(), user, head.first)?;
    tx.subtract(user, &oldest.sum())?;
    tx.remove(Tree::Inboxes, keys::block(user, head.first));
    Ok(InboxSeq(oldest.last().0 + 1))
}

fn existing(view: View<'_>, user: UserId, first: InboxSeq) -> Result<Block, StorageError> {
    let key = keys::block(user, first);
    match view.get(Tree::Inboxes, &key)? {
        Some(bytes) => Block::open(key, bytes),
        None => Err(damaged(Tree::Inboxes, &key, "is missing")),
    }
}

/// The cursor of a device.
pub(super) fn cursor(head: &Head, device: &str) -> Cursor {
    Cursor {
        acknowledged: head.device(device).map_or(InboxSeq(0), |d| d.acknowledged),
        first: head.first,
        last: head.last,
    }
}

/// Messages after a position, ascending and gapless, at most `limit` and at least one if there is
/// one.
pub(super) fn read(
    view: View<'_>,
    user: UserId,
    after_seq: InboxSeq,
    limit: usize,
) -> Result<Vec<InboxMessage>, StorageError> {
    let mut messages = Vec::new();
    let mut bytes = 0;
    if limit == 0 || after_seq.0 == u64::MAX {
        return Ok(messages);
    }
    ascend(view, user, InboxSeq(after_seq.0 + 1), |seq, message| {
        bytes += message.body.len();
        if bytes > READ_BYTES_MAX && !messages.is_empty() {
            return ControlFlow::Break(());
        }
        messages.push(InboxMessage {
            id: message.id,
            seq,
            sender: message.sender,
            sender_name: message.sender_name,
            time: message.time,
            body: message.body,
            content_type: message.content_type,
        });
        if messages.len() >= limit {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(messages)
}

/// Visits the messages from `from` on.
fn ascend(
    view: View<'_>,
    user: UserId,
    from: InboxSeq,
    mut visit: impl FnMut(InboxSeq, Message) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    let (start, end) = keys::of_user(b"", user);
    // The block that holds `from` begins at or below it.
    let at = after(&keys::block(user, from));
    let holder = view.range_back(Tree::Inboxes, &start, &at, 1)?;
    let mut key = match holder.into_iter().next() {
        Some((key, _)) => key,
        None => keys::block(user, from),
    };
    loop {
        let page = view.range(Tree::Inboxes, &key, &end, PAGE)?;
        let full = page.len() == PAGE;
        for (block_key, bytes) in page {
            key = after(&block_key);
            for (seq, message) in Block::open(block_key, bytes)?.messages()? {
                if seq >= from && visit(seq, message).is_break() {
                    return Ok(());
                }
            }
        }
        if !full {
            return Ok(());
        }
    }
}

/// Visits the messages from `from` down to the first one.
fn descend(
    view: View<'_>,
    user: UserId,
    from: InboxSeq,
    mut visit: impl FnMut(InboxSeq, Message) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    let (start, _) = keys::of_user(b"", user);
    let mut end: Bytes = after(&keys::block(user, from));
    loop {
        let page = view.range_back(Tree::Inboxes, &start, &end, PAGE)?;
        let full = page.len() == PAGE;
        for (block_key, bytes) in page {
            end = block_key.clone();
            for (seq, message) in Block::open(block_key, bytes)?.messages()?.into_iter().rev() {
                if seq <= from && visit(seq, message).is_break() {
                    return Ok(());
                }
            }
        }
        if !full {
            return Ok(());
        }
    }
}

/// Moves a device's cursor, never back, and tells the senders of what was newly received.
pub(super) fn acknowledge(
    tx: &mut Transaction<'_>,
    session: &Session,
    up_to: InboxSeq,
) -> Result<Reply, StorageError> {
    let user = session.user();
    let head = tx.head(user)?;
    if up_to > head.last {
        return Ok(Reply::Refused(Refusal::CursorBeyondEnd));
    }
    let received = head.devices.iter().map(|d| d.acknowledged).max();
    let name = &session.token.device;
    let Some(at) = head.devices.iter().position(|d| d.name == *name) else {
        return Err(damaged(
            Tree::Users,
            &keys::head(user),
            "lacks the device of a token",
        ));
    };
    if up_to <= head.devices[at].acknowledged {
        let up_to = head.devices[at].acknowledged;
        return Ok(Reply::Acknowledged { up_to });
    }
    let before = head.devices[at].lanes(user);
    head.devices[at].acknowledged = up_to;
    let now = head.devices[at].lanes(user);
    head.sum.subtract(&before);
    head.sum.add(&now);
    // Another device of this account may have received some of them before.
    deliver(tx, session, received.unwrap_or_default(), up_to)?;
    Ok(Reply::Acknowledged { up_to })
}

/// Marks the newest message of each sender in `(above, up_to]` as received.
fn deliver(
    tx: &mut Transaction<'_>,
    session: &Session,
    above: InboxSeq,
    up_to: InboxSeq,
) -> Result<(), StorageError> {
    if up_to <= above {
        return Ok(());
    }
    let user = session.user();
    let mut newest: BTreeMap<UserId, Index> = BTreeMap::new();
    let (mut seen, mut bytes) = (0, 0);
    descend(tx.view(), user, up_to, |seq, message| {
        seen += 1;
        bytes += message.body.len();
        let full = newest.len() >= DELIVERED_SENDERS_MAX;
        if seq <= above || seen > DELIVERED_MESSAGES_MAX || bytes > DELIVERED_BYTES_MAX {
            return ControlFlow::Break(());
        }
        if !full || newest.contains_key(&message.sender) {
            newest.entry(message.sender).or_insert(message.id);
        }
        ControlFlow::Continue(())
    })?;
    for (sender, message) in newest {
        let key = keys::delivered(user, sender);
        if let Some(before) = tx.read::<Index>(Tree::Sessions, &key)? {
            if before >= message {
                continue;
            }
            tx.subtract(user, &delivered_lanes(user, sender, before))?;
        }
        tx.add(user, &delivered_lanes(user, sender, message))?;
        tx.put(Tree::Sessions, key, &message);
        tx.notices.push(Notice::Delivered {
            user: sender,
            peer: session.account.name.clone(),
            up_to: message,
        });
    }
    Ok(())
}

/// The newest message of `sender` that `recipient` has received; 0: none.
pub(super) fn delivered(
    view: View<'_>,
    recipient: UserId,
    sender: UserId,
) -> Result<Index, StorageError> {
    let key = keys::delivered(recipient, sender);
    Ok(view.read(Tree::Sessions, &key)?.unwrap_or_default())
}
