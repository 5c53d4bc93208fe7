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
//! Appending decodes nothing and, in the overlay, copies nothing but the item: the record that is
//! being filled grows in place. Removing the whole record subtracts one stored sum.

use super::digest::{LANES_BYTES, Lanes};
use super::records::{Key, damaged, newer};
use crate::storage::{StorageError, Tree};
use std::sync::Arc;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 3 + LANES_BYTES;

/// A packed record with its place. The header was checked when it was opened.
pub(super) struct Packed {
    tree: Tree,
    key: Key,
    bytes: Arc<Vec<u8>>,
}

impl Packed {
    pub fn open(tree: Tree, key: &[u8], bytes: Arc<Vec<u8>>) -> Result<Self, StorageError> {
        match bytes.first() {
            Some(&VERSION) if bytes.len() >= HEADER_BYTES => {
                let key = Key::from_slice(key);
                Ok(Self { tree, key, bytes })
            }
            Some(&VERSION) | None => Err(damaged(tree, key, "is cut short")),
            Some(version) => Err(newer(tree, key, *version)),
        }
    }

    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What is wrong with it.
    pub fn damaged(&self, what: &str) -> StorageError {
        damaged(self.tree, &self.key, what)
    }

    pub fn count(&self) -> u16 {
        count(&self.bytes)
    }

    pub fn sum(&self) -> Lanes {
        sum(&self.bytes)
    }

    /// To be changed.
    pub fn into_bytes(self) -> Vec<u8> {
        Arc::unwrap_or_clone(self.bytes)
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

fn count(record: &[u8]) -> u16 {
    u16::from_be_bytes([record[1], record[2]])
}

fn sum(record: &[u8]) -> Lanes {
    Lanes::from_bytes(&record[3..HEADER_BYTES]).expect("the header holds a sum")
}

/// Is there room for one more item, in a record of at most `bytes_max`?
pub(super) fn has_room(record: &[u8], item: &[u8], bytes_max: usize) -> bool {
    record.len() + 4 + item.len() <= bytes_max && count(record) < u16::MAX
}

/// A record of one item, of any size.
pub(super) fn create(item: &[u8], lanes: &Lanes) -> Vec<u8> {
    let mut record = vec![0; HEADER_BYTES];
    record[0] = VERSION;
    append(&mut record, item, lanes);
    record
}

/// One more item at the end of a record that was opened and has room.
pub(super) fn append(record: &mut Vec<u8>, item: &[u8], lanes: &Lanes) {
    let count = count(record) + 1;
    let mut sum = sum(record);
    sum.add(lanes);
    record[1..3].copy_from_slice(&count.to_be_bytes());
    record[3..HEADER_BYTES].copy_from_slice(&sum.to_bytes());
    record.extend_from_slice(&(item.len() as u32).to_be_bytes());
    record.extend_from_slice(item);
}
