//! Blocks: several consecutive messages of one inbox in one [`Packed`] record.
//!
//! A message's sequence is the block's first, which is in the key, plus its position.

use super::blob;
use super::digest::{Canonical, Lanes, RecordKind};
use super::packed::Packed;
use super::records::{damaged, keys};
use crate::limits::{ENTRY_PAYLOAD_BYTES_MAX, STATE_RECORD_BYTES_MAX};
use crate::storage::{StorageError, Tree};
use crate::types::{InboxSeq, Index, UserId, WallTime};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

const _: () = assert!(
    ENTRY_PAYLOAD_BYTES_MAX + 1024 < STATE_RECORD_BYTES_MAX,
    "a message that fills a block alone must fit into a record"
);

/// A message in a block. One that is to be written borrows from the entry that brings it; one that was
/// read owns what it has. Without `Debug`: a body never appears in a trace.
#[derive(Serialize, Deserialize)]
pub(super) struct Message<'a> {
    pub id: Index,
    pub sender: UserId,
    pub sender_name: Cow<'a, str>,
    pub time: WallTime,
    pub content_type: Cow<'a, str>,
    #[serde(with = "blob")]
    pub body: Cow<'a, [u8]>,
}

impl Message<'_> {
    pub fn lanes(&self, user: UserId, seq: InboxSeq) -> Lanes {
        Canonical::new(RecordKind::Message)
            .number(user.0)
            .number(seq.0)
            .number(self.id.0)
            .number(self.sender.0)
            .bytes(self.sender_name.as_bytes())
            .number(self.time.0)
            .bytes(self.content_type.as_bytes())
            .bytes(&self.body)
            .lanes()
    }
}

/// A block with its place.
pub(super) struct Block {
    pub first: InboxSeq,
    packed: Packed,
}

impl Block {
    pub fn open(key: &[u8], bytes: Arc<Vec<u8>>) -> Result<Self, StorageError> {
        let first = keys::number_at(key, 8)
            .ok_or_else(|| damaged(Tree::Inboxes, key, "has a wrong key"))?;
        Ok(Self {
            first: InboxSeq(first),
            packed: Packed::open(Tree::Inboxes, key, bytes)?,
        })
    }

    /// The last sequence in it.
    pub fn last(&self) -> InboxSeq {
        InboxSeq((self.first.0 + u64::from(self.packed.count())).saturating_sub(1))
    }

    pub fn sum(&self) -> Lanes {
        self.packed.sum()
    }

    /// When its newest message was sent.
    pub fn newest(&self) -> Result<WallTime, StorageError> {
        let messages = self.messages()?;
        Ok(messages.last().map_or(WallTime(0), |(_, m)| m.time))
    }

    /// All messages, in order.
    pub fn messages(&self) -> Result<Vec<(InboxSeq, Message<'static>)>, StorageError> {
        let mut messages = Vec::with_capacity(usize::from(self.packed.count()));
        for (seq, item) in (self.first.0..).zip(self.packed.items()?) {
            let message = rmp_serde::from_slice(item).map_err(|error| {
                let what = format!("has a message that does not parse: {error}");
                self.packed.damaged(&what)
            })?;
            messages.push((InboxSeq(seq), message));
        }
        Ok(messages)
    }
}

/// A message as an item of a block.
pub(super) fn item(message: &Message<'_>) -> Vec<u8> {
    let mut item = Vec::with_capacity(message.body.len() + 128);
    rmp_serde::encode::write(&mut item, message)
        .expect("plain structs of strings and numbers always encode");
    item
}
