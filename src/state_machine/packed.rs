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
//!
//! The record that is being filled may stand inside the row of what it belongs to, which changes with
//! each item anyway: see [`Filling`]. It gets a row of its own when it is full.

use super::blob;
use super::digest::{LANES_BYTES, Lanes};
use super::records::{Key, damaged, newer};
use crate::storage::{StorageError, Tree};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
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
    record[1..3].copy_from_slice(&count.to_be_bytes());
    let sum = record[3..]
        .first_chunk_mut()
        .expect("the header holds a sum");
    lanes.add_to(sum);
    record.extend_from_slice(&(item.len() as u32).to_be_bytes());
    record.extend_from_slice(item);
}

/// A packed record that is being filled inside another row; empty: there is none.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Filling(Arc<Vec<u8>>);

impl Filling {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Is there room for one more item, in a record of at most `bytes_max`?
    pub fn has_room(&self, item: &[u8], bytes_max: usize) -> bool {
        if self.is_empty() {
            HEADER_BYTES + 4 + item.len() <= bytes_max
        } else {
            has_room(&self.0, item, bytes_max)
        }
    }

    /// One more item. There is room.
    pub fn push(&mut self, item: &[u8], lanes: &Lanes) {
        if self.is_empty() {
            self.0 = Arc::new(create(item, lanes));
        } else {
            append(Arc::make_mut(&mut self.0), item, lanes);
        }
    }

    /// The record, if there is one: nothing is being filled any more.
    pub fn take(&mut self) -> Option<Arc<Vec<u8>>> {
        let record = std::mem::take(&mut self.0);
        (!record.is_empty()).then_some(record)
    }

    /// The record as it is now, if there is one. What comes next copies it first, while this is held.
    pub fn record(&self) -> Option<Arc<Vec<u8>>> {
        (!self.is_empty()).then(|| Arc::clone(&self.0))
    }
}

/// Without its content: it may be messages.
impl std::fmt::Debug for Filling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filling({} bytes)", self.0.len())
    }
}

impl Serialize for Filling {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

/// A record that is cut short is an error here: what is taken for one can be appended to.
impl<'de> Deserialize<'de> for Filling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let record: Vec<u8> = blob::deserialize(deserializer)?;
        if record.is_empty() || (record.len() >= HEADER_BYTES && record[0] == VERSION) {
            return Ok(Self(Arc::new(record)));
        }
        Err(serde::de::Error::custom("a packed record is cut short"))
    }
}
