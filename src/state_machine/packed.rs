//! Several small logical records in one record of a tree: an insert is the scarce thing.
//!
//! ```text
//! offset size field
//!      0    1 version (1)
//!      1    2 number of items, big-endian
//!      3  128 sum of the items' hashes
//!    131    … items: 4 bytes of length, big-endian, and that many bytes each
//! ```
//!
//! Appending copies bytes and decodes nothing: the record that is being filled is rewritten for
//! each item. Removing the whole record subtracts one stored sum.

use super::digest::{LANES_BYTES, Lanes};
use super::records::damaged;
use crate::storage::{StorageError, Tree};
use bytes::Bytes;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 3 + LANES_BYTES;

/// A packed record with its place. The header was checked when it was opened.
pub(super) struct Packed {
    tree: Tree,
    key: Bytes,
    bytes: Bytes,
}

impl Packed {
    pub fn open(tree: Tree, key: Bytes, bytes: Bytes) -> Result<Self, StorageError> {
        match bytes.first() {
            Some(&VERSION) if bytes.len() >= HEADER_BYTES => Ok(Self { tree, key, bytes }),
            Some(&VERSION) | None => Err(damaged(tree, &key, "is cut short")),
            Some(version) => {
                let what = format!("has unknown version {version}: written by a newer version?");
                Err(damaged(tree, &key, &what))
            }
        }
    }

    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// What is wrong with it.
    pub fn damaged(&self, what: &str) -> StorageError {
        damaged(self.tree, &self.key, what)
    }

    pub fn count(&self) -> u16 {
        u16::from_be_bytes([self.bytes[1], self.bytes[2]])
    }

    pub fn sum(&self) -> Lanes {
        Lanes::from_bytes(&self.bytes[3..HEADER_BYTES]).expect("the header holds a sum")
    }

    pub fn items(&self) -> Result<Vec<&[u8]>, StorageError> {
        let cut = || self.damaged("has an item that is cut short");
        let mut items = Vec::with_capacity(usize::from(self.count()));
        let mut rest = &self.bytes[HEADER_BYTES..];
        while !rest.is_empty() {
            let (length, tail) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
            let length = u32::from_be_bytes(*length) as usize;
            let (item, tail) = tail.split_at_checked(length).ok_or_else(cut)?;
            items.push(item);
            rest = tail;
        }
        if items.len() != usize::from(self.count()) {
            return Err(self.damaged("has a wrong count"));
        }
        Ok(items)
    }
}

/// `packed` (`None`: a new record) with one more item; `None` if it would be larger than
/// `bytes_max`. A new record takes any item.
pub(super) fn append(
    packed: Option<&Packed>,
    item: &[u8],
    lanes: &Lanes,
    bytes_max: usize,
) -> Option<Bytes> {
    let (count, mut sum, kept) = match packed {
        Some(packed) => (packed.count(), packed.sum(), &packed.bytes[HEADER_BYTES..]),
        None => (0, Lanes::ZERO, &[][..]),
    };
    let total = HEADER_BYTES + kept.len() + 4 + item.len();
    if packed.is_some() && (total > bytes_max || count == u16::MAX) {
        return None;
    }
    sum.add(lanes);
    let mut bytes = Vec::with_capacity(total);
    bytes.push(VERSION);
    bytes.extend_from_slice(&(count + 1).to_be_bytes());
    bytes.extend_from_slice(&sum.to_bytes());
    bytes.extend_from_slice(kept);
    bytes.extend_from_slice(&(item.len() as u32).to_be_bytes());
    bytes.extend_from_slice(item);
    Some(bytes.into())
}
