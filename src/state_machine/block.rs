//! Blocks: several consecutive messages of one inbox in one record.
//!
//! ```text
//! offset size field
//!      0    1 version (1)
//!      1    2 number of messages, big-endian
//!      3  128 sum of the messages' hashes
//!    131    … messages: 4 bytes of length, big-endian, and that many bytes each
//! ```
//!
//! A message's sequence is the block's first plus its position. Appending copies bytes and decodes
//! nothing: a hot recipient's block is rewritten for each message.

use super::blob;
use super::digest::{Canonical, LANES_BYTES, Lanes, RecordKind};
use super::records::damaged;
use crate::limits::{ENTRY_PAYLOAD_BYTES_MAX, INBOX_BLOCK_BYTES_MAX, STATE_RECORD_BYTES_MAX};
use crate::storage::{StorageError, Tree};
use crate::types::{InboxSeq, Index, UserId, WallTime};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 3 + LANES_BYTES;

const _: () = assert!(
    HEADER_BYTES + ENTRY_PAYLOAD_BYTES_MAX + 1024 < STATE_RECORD_BYTES_MAX,
    "a message that fills a block alone must fit into a record"
);

/// A message in a block.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Message {
    pub id: Index,
    pub sender: UserId,
    pub sender_name: String,
    pub time: WallTime,
    pub content_type: String,
    #[serde(with = "blob")]
    pub body: Vec<u8>,
}

impl Message {
    pub fn lanes(&self, user: UserId, seq: InboxSeq) -> Lanes {
        Canonical::new(RecordKind::Message)
            .number(user.0)
            .number(seq.0)
            .number(self.id.0)
            .number(self.sender.0)
            .bytes(&self.sender_name)
            .number(self.time.0)
            .bytes(&self.content_type)
            .bytes(&self.body)
            .lanes()
    }
}

/// A block with its place. Checked when it is opened: the header is there.
pub(super) struct Block {
    key: Bytes,
    pub first: InboxSeq,
    bytes: Bytes,
}

impl Block {
    /// Reads a block's header.
    pub fn open(key: Bytes, bytes: Bytes) -> Result<Self, StorageError> {
        let first = super::records::keys::number_at(&key, 8);
        let block = match (first, bytes.first()) {
            (Some(first), Some(&VERSION)) if bytes.len() >= HEADER_BYTES => Self {
                first: InboxSeq(first),
                key,
                bytes,
            },
            (_, Some(&version)) if version != VERSION => {
                let what = format!("has unknown version {version}: written by a newer version?");
                return Err(damaged(Tree::Inboxes, &key, &what));
            }
            _ => return Err(damaged(Tree::Inboxes, &key, "is cut short")),
        };
        Ok(block)
    }

    pub fn count(&self) -> u16 {
        u16::from_be_bytes([self.bytes[1], self.bytes[2]])
    }

    /// The last sequence in it.
    pub fn last(&self) -> InboxSeq {
        InboxSeq((self.first.0 + u64::from(self.count())).saturating_sub(1))
    }

    pub fn sum(&self) -> Lanes {
        Lanes::from_bytes(&self.bytes[3..HEADER_BYTES]).expect("the header holds a sum")
    }

    /// All messages, in order.
    pub fn messages(&self) -> Result<Vec<(InboxSeq, Message)>, StorageError> {
        let cut = || damaged(Tree::Inboxes, &self.key, "has a message that is cut short");
        let mut messages = Vec::with_capacity(usize::from(self.count()));
        let mut rest = &self.bytes[HEADER_BYTES..];
        let mut seq = self.first;
        while !rest.is_empty() {
            let (length, tail) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
            let (message, tail) = tail
                .split_at_checked(u32::from_be_bytes(*length) as usize)
                .ok_or_else(cut)?;
            let message = rmp_serde::from_slice(message).map_err(|error| {
                let what = format!("has a message that does not parse: {error}");
                damaged(Tree::Inboxes, &self.key, &what)
            })?;
            messages.push((seq, message));
            seq.0 += 1;
            rest = tail;
        }
        if messages.len() != usize::from(self.count()) {
            return Err(damaged(Tree::Inboxes, &self.key, "has a wrong count"));
        }
        Ok(messages)
    }
}

/// `block` (`None`: a new one) with one more message; `None` if that would make it too large.
pub(super) fn append(block: Option<&Block>, message: &Message, lanes: &Lanes) -> Option<Bytes> {
    let encoded =
        rmp_serde::to_vec(message).expect("plain structs of strings and numbers always encode");
    let (count, mut sum, kept) = match block {
        Some(block) => (block.count(), block.sum(), &block.bytes[HEADER_BYTES..]),
        None => (0, Lanes::ZERO, &[][..]),
    };
    let total = HEADER_BYTES + kept.len() + 4 + encoded.len();
    let full = total > INBOX_BLOCK_BYTES_MAX || count == u16::MAX;
    if full && block.is_some() {
        return None;
    }
    sum.add(lanes);
    let mut bytes = Vec::with_capacity(total);
    bytes.push(VERSION);
    bytes.extend_from_slice(&(count + 1).to_be_bytes());
    bytes.extend_from_slice(&sum.to_bytes());
    bytes.extend_from_slice(kept);
    bytes.extend_from_slice(&(encoded.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&encoded);
    Some(bytes.into())
}
