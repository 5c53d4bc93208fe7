//! Inboxes: appending, reading, acknowledging.
//!
//! Sequences are gapless from 1, so that a client can prove that nothing is missing. Messages are
//! packed into blocks (see [`super::block`]); the last block takes messages until it is full.
//! An inbox that grows beyond its limit loses its oldest block, acknowledged or not.

use super::block::{self, Block, Message};
use super::digest::Lanes;
use super::overlay::{View, after};
use super::records::{Head, Key, damaged, delivered_lanes, keys};
use super::tokens::Session;
use super::transaction::{Packing, Transaction};
use super::{Cursor, InboxMessage, Notice, Refusal, Reply};
use crate::limits::INBOX_BLOCK_BYTES_MAX;
use crate::storage::{StorageError, Tree};
use crate::types::{InboxSeq, Index, UserId};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

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
    message: &Message<'_>,
    keep: u64,
) -> Result<InboxSeq, StorageError> {
    let head = tx.head(user)?;
    let kept = head.first;
    let seq = InboxSeq(head.last.0 + 1);
    let lanes = message.lanes(user, seq);
    let first = append_item(tx, user, seq, &block::item(message), &lanes)?;
    let trimmed = trim(tx, user, kept, seq, first, keep)?;

    let head = tx.head(user)?;
    head.sum.add(&lanes);
    head.set_inbox(user, trimmed, seq);
    head.open_block = first;
    Ok(seq)
}

/// Puts it into the open block, or into a new one. Returns the first sequence of that block.
fn append_item(
    tx: &mut Transaction<'_>,
    user: UserId,
    seq: InboxSeq,
    item: &[u8],
    lanes: &Lanes,
) -> Result<InboxSeq, StorageError> {
    let joined = tx.joins_rows();
    let head = tx.head(user)?;
    let open = head.open_block;
    if !head.filling.is_empty() && head.filling.has_room(item, INBOX_BLOCK_BYTES_MAX) {
        head.filling.push(item, lanes);
        return Ok(open);
    }
    let key = keys::block(user, open);
    let packing = if let Some(full) = head.filling.take() {
        tx.put_packed(Tree::Inboxes, Key::from_slice(&key), full);
        Packing::Full
    } else if open == InboxSeq(0) {
        Packing::Full
    } else {
        tx.pack_more(Tree::Inboxes, &key, item, lanes, INBOX_BLOCK_BYTES_MAX)?
    };
    match packing {
        Packing::Done => return Ok(open),
        Packing::Missing => return Err(damaged(Tree::Inboxes, &key, "is missing")),
        Packing::Full => {}
    }
    let head = tx.head(user)?;
    // What fills a block alone gets its row at once: nothing comes to it.
    if joined && head.filling.has_room(item, INBOX_BLOCK_BYTES_MAX) {
        head.filling.push(item, lanes);
    } else {
        tx.pack(Tree::Inboxes, keys::block(user, seq), item, lanes);
    }
    Ok(seq)
}

/// Drops the oldest block of an inbox that is too long, unless it is the open one. Returns the
/// first sequence kept. One block is enough: it holds at least the one message that is too many.
fn trim(
    tx: &mut Transaction<'_>,
    user: UserId,
    kept: InboxSeq,
    last: InboxSeq,
    open: InboxSeq,
    keep: u64,
) -> Result<InboxSeq, StorageError> {
    if last.0 - kept.0 < keep || kept >= open {
        return Ok(kept);
    }
    let oldest = existing(tx.view(), user, None, kept)?;
    tx.subtract(user, &oldest.sum())?;
    tx.remove(Tree::Inboxes, keys::block(user, kept));
    Ok(InboxSeq(oldest.last().0 + 1))
}

/// The block that begins with this message: the one in the head, or one in a row of its own.
pub(super) fn existing(
    view: View<'_>,
    user: UserId,
    filling: Option<Block>,
    first: InboxSeq,
) -> Result<Block, StorageError> {
    if let Some(block) = filling
        && block.first == first
    {
        return Ok(block);
    }
    let key = keys::block(user, first);
    match view.packed(Tree::Inboxes, &key)? {
        Some(bytes) => Block::open(&key, bytes),
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
    head: &Head,
    after_seq: InboxSeq,
    limit: usize,
) -> Result<Vec<InboxMessage>, StorageError> {
    let mut messages = Vec::new();
    let mut bytes = 0;
    if limit == 0 || after_seq.0 == u64::MAX {
        return Ok(messages);
    }
    let from = InboxSeq(after_seq.0 + 1);
    ascend(view, user, head.block(user)?, from, |seq, message| {
        bytes += message.body.len();
        if bytes > READ_BYTES_MAX && !messages.is_empty() {
            return ControlFlow::Break(());
        }
        messages.push(InboxMessage {
            id: message.id,
            seq,
            sender: message.sender,
            sender_name: message.sender_name.into_owned(),
            time: message.time,
            body: message.body.into_owned(),
            content_type: message.content_type.into_owned(),
        });
        if messages.len() >= limit {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(messages)
}

/// Visits the messages from `from` on. `open`: the block in the head, which has the last ones.
fn ascend(
    view: View<'_>,
    user: UserId,
    open: Option<Block>,
    from: InboxSeq,
    mut visit: impl FnMut(InboxSeq, Message<'_>) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    if open.as_ref().is_some_and(|open| open.first <= from) {
        return visit_block(open, from, visit);
    }
    let (start, end) = keys::of_user(b"", user);
    // The block that holds `from` begins at or below it.
    let at = after(&keys::block(user, from));
    let holder = view.range_back(Tree::Inboxes, &start, &at, 1)?;
    let mut key = match holder.into_iter().next() {
        Some((key, _)) => Key::from_slice(&key),
        None => keys::block(user, from),
    };
    loop {
        let page = view.range(Tree::Inboxes, &key, &end, PAGE)?;
        let full = page.len() == PAGE;
        for (block_key, bytes) in page {
            key = after(&block_key);
            for (seq, message) in Block::open(&block_key, Arc::new(bytes.into()))?.messages()? {
                if seq >= from && visit(seq, message).is_break() {
                    return Ok(());
                }
            }
        }
        if !full {
            break;
        }
    }
    visit_block(open, from, visit)
}

/// The block in the head.
fn visit_block(
    open: Option<Block>,
    from: InboxSeq,
    mut visit: impl FnMut(InboxSeq, Message<'_>) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    for (seq, message) in open.map_or(Ok(Vec::new()), |open| open.messages())? {
        if seq >= from && visit(seq, message).is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// Visits the messages from `from` down to the first one. `open` as above.
fn descend(
    view: View<'_>,
    user: UserId,
    open: Option<Block>,
    from: InboxSeq,
    mut visit: impl FnMut(InboxSeq, Message<'_>) -> ControlFlow<()>,
) -> Result<(), StorageError> {
    let last = open.map_or(Ok(Vec::new()), |open| open.messages())?;
    for (seq, message) in last.into_iter().rev() {
        if seq <= from && visit(seq, message).is_break() {
            return Ok(());
        }
    }
    let (start, _) = keys::of_user(b"", user);
    let mut end = after(&keys::block(user, from));
    loop {
        let page = view.range_back(Tree::Inboxes, &start, &end, PAGE)?;
        let full = page.len() == PAGE;
        for (block_key, bytes) in page {
            end = Key::from_slice(&block_key);
            for (seq, message) in Block::open(&block_key, Arc::new(bytes.into()))?
                .messages()?
                .into_iter()
                .rev()
            {
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
    let open = tx.head(user)?.block(user)?;
    descend(tx.view(), user, open, up_to, |seq, message| {
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
        tx.put(Tree::Sessions, key, message);
        tx.notices.push(Notice::Delivered {
            user: sender,
            peer: session.account().name.clone(),
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
