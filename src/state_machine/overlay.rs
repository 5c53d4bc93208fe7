//! What the machine has changed and the store does not have yet.
//!
//! Changes are gathered in *generations*: contiguous ranges of entries, each handed out as one
//! checkpoint slice. Reads see the newest value of a key, from the overlay or else the store.
//!
//! Invariants:
//! - a generation ends between two entries, never inside one;
//! - a key stays here until the slice that holds its newest value is written, so that a read
//!   while the store is being written sees what it saw before;
//! - at most one slice is out, and slices go out in the order of the log.

use super::cache::{Cache, KeyMap, Record, Value};
use super::records::{Key, decode};
use crate::limits::{SLICE_BYTES_MAX, SLICE_RECORDS_MAX};
use crate::storage::{Change, Slice, StateReader, StorageError, Tree};
use crate::types::Index;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;

/// Most records that one entry may change. Large ones (expiry, extension) carry explicit bounds.
pub(super) const ENTRY_RECORDS_MAX: usize = 1_200;

struct Newest {
    /// The generation that wrote it.
    generation: u64,
    /// `None`: removed.
    value: Option<Value>,
}

/// The newest value of each changed key of a tree. Nearly every question is about one key, so they
/// are found by hash; their order is kept beside, for the ranges.
#[derive(Default)]
struct Changed {
    newest: KeyMap<Newest>,
    order: BTreeSet<Key>,
}

impl Changed {
    fn get(&self, key: &[u8]) -> Option<&Newest> {
        self.newest.get(key)
    }

    /// The value that was there before.
    fn insert(&mut self, key: &Key, newest: Newest) -> Option<Newest> {
        if let Some(there) = self.newest.get_mut(key) {
            return Some(std::mem::replace(there, newest));
        }
        self.order.insert(Key::from_slice(key));
        self.newest.insert(Key::from_slice(key), newest)
    }

    fn remove(&mut self, key: &[u8]) -> Option<Newest> {
        self.order.remove(key);
        self.newest.swap_remove(key)
    }

    /// With `from <= key < to`, ascending.
    fn range(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&Key, &Newest)> + use<'_> {
        let keys = self.order.range::<[u8], _>((Included(from), Excluded(to)));
        keys.map(|key| (key, &self.newest[key]))
    }
}

/// A packed record that is to grow.
pub(super) enum Growing<'a> {
    /// It is not in the overlay, or not packed there.
    NotHeld,
    Full,
    Room(&'a mut Vec<u8>),
}

/// A frozen generation.
struct Frozen {
    generation: u64,
    slice: Slice,
    bytes: u64,
}

/// A slice that is being written: its generation and keys, with the sizes of the values.
struct Out {
    generation: u64,
    keys: Vec<(Tree, Key, usize)>,
    bytes: u64,
}

#[derive(Default)]
pub(super) struct Overlay {
    /// What has changed, by tree.
    newest: [Changed; Tree::ALL.len()],
    /// Number of the open generation.
    open: u64,
    /// Keys that the open generation has changed, each once; their values are in `newest`.
    dirty: Vec<(Tree, Key)>,
    /// The open generation has entries (perhaps without a change).
    has_entries: bool,
    /// Bytes of their payloads.
    open_bytes: u64,
    /// Bytes of the payloads of all entries that are not in the store.
    bytes: u64,
    /// Oldest first.
    frozen: VecDeque<Frozen>,
    out: Option<Out>,
    /// What the store has too. Of a key that is in `newest` it may hold an older value: that one
    /// is looked at first.
    cache: RefCell<Cache>,
}

impl Overlay {
    pub fn put(&mut self, tree: Tree, key: Key, value: Option<Value>) {
        let newest = Newest {
            generation: self.open,
            value,
        };
        let before = self.newest[tree as usize].insert(&key, newest);
        if before.is_none_or(|b| b.generation != self.open) {
            self.dirty.push((tree, key));
        }
    }

    /// Takes the newest value out, to be changed and put back: here there is none meanwhile.
    pub fn take(
        &mut self,
        reader: &dyn StateReader,
        tree: Tree,
        key: &[u8],
    ) -> Result<Option<Value>, StorageError> {
        if let Some(newest) = self.newest[tree as usize].newest.get_mut(key) {
            return Ok(newest.value.take());
        }
        if let Some(value) = self.cache.get_mut().take(tree, key) {
            return Ok(Some(value));
        }
        Ok(reader.get(tree, key)?.map(Value::Bytes))
    }

    /// A packed record that the overlay holds, to grow in place if `has_room` says so of it.
    pub fn packed_mut(
        &mut self,
        tree: Tree,
        key: &Key,
        has_room: impl FnOnce(&[u8]) -> bool,
    ) -> Growing<'_> {
        let Some(newest) = self.newest[tree as usize].newest.get_mut(key) else {
            return Growing::NotHeld;
        };
        let Some(Value::Packed(bytes)) = &mut newest.value else {
            return Growing::NotHeld;
        };
        if !has_room(bytes) {
            return Growing::Full;
        }
        if newest.generation != self.open {
            newest.generation = self.open;
            self.dirty.push((tree, Key::from_slice(key)));
        }
        Growing::Room(Arc::make_mut(bytes))
    }

    /// Records that the open generation has changed.
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Records that are not known to be in the store.
    pub fn records(&self) -> usize {
        self.newest.iter().map(|tree| tree.order.len()).sum()
    }

    /// Bytes of the payloads of the entries whose changes are not known to be in the store.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The effect of an entry, whose payload has so many bytes, is complete. True: the generation is
    /// full and wants to be frozen.
    pub fn end_entry(&mut self, payload_bytes: usize) -> bool {
        self.has_entries = true;
        self.open_bytes += payload_bytes as u64;
        self.bytes += payload_bytes as u64;
        self.dirty.len() >= SLICE_RECORDS_MAX || self.open_bytes >= SLICE_BYTES_MAX
    }

    /// True: `freeze` would help a caller that wants a slice now, full or not.
    pub fn wants_freeze(&self) -> bool {
        self.has_entries && self.frozen.is_empty()
    }

    /// Ends the open generation. `slice` is complete but for its changes.
    pub fn freeze(&mut self, mut slice: Slice) {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.sort_unstable();
        let mut spare = Vec::new();
        slice.changes = dirty
            .into_iter()
            .map(|(tree, key)| {
                let newest = self.newest[tree as usize]
                    .get(&key)
                    .expect("a dirty key is in the overlay");
                let value = newest.value.as_ref().map(|v| v.bytes_by(&mut spare));
                let key = Bytes::copy_from_slice(&key);
                Change { tree, key, value }
            })
            .collect();
        self.frozen.push_back(Frozen {
            generation: self.open,
            slice,
            bytes: std::mem::take(&mut self.open_bytes),
        });
        self.open += 1;
        self.has_entries = false;
    }

    /// Hands out the oldest frozen generation, if it ends at or below `commit_recorded`.
    pub fn next_slice(&mut self, commit_recorded: Index) -> Option<Slice> {
        if self.out.is_some() || self.frozen.front()?.slice.applied > commit_recorded {
            return None;
        }
        let Frozen {
            generation,
            slice,
            bytes,
        } = self.frozen.pop_front()?;
        self.out = Some(Out {
            generation,
            keys: slice
                .changes
                .iter()
                .map(|c| {
                    let bytes = c.value.as_ref().map_or(0, Bytes::len);
                    (c.tree, Key::from_slice(&c.key), bytes)
                })
                .collect(),
            bytes,
        });
        Some(slice)
    }

    /// A slice is out.
    pub fn is_out(&self) -> bool {
        self.out.is_some()
    }

    /// The slice that is out is in the store: what nobody has changed since is read from there.
    pub fn slice_written(&mut self) {
        let out = self.out.take().expect("a slice was handed out before");
        self.bytes -= out.bytes;
        let cache = self.cache.get_mut();
        for (tree, key, bytes) in out.keys {
            let newest = &mut self.newest[tree as usize];
            if newest
                .get(&key)
                .is_none_or(|n| n.generation != out.generation)
            {
                continue;
            }
            match newest.remove(&key).and_then(|n| n.value) {
                Some(value) => cache.put(tree, key, value, bytes),
                None => cache.forget(tree, &key),
            }
        }
    }
}

/// Reads the overlay over the store.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub reader: &'a dyn StateReader,
    pub overlay: &'a Overlay,
    /// Records that are known to be in the store are not read from it again. A scan wants them
    /// from there, in order to find what has rotted.
    pub cached: bool,
}

impl View<'_> {
    pub fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.value(tree, key)?.map(|value| value.bytes()))
    }

    /// A packed record, shared.
    pub fn packed(&self, tree: Tree, key: &[u8]) -> Result<Option<Arc<Vec<u8>>>, StorageError> {
        let value = self.value(tree, key)?;
        Ok(value.map(|value| match value {
            Value::Packed(bytes) => bytes,
            value => Arc::new(value.bytes().to_vec()),
        }))
    }

    /// One record, decoded.
    pub fn read<T>(&self, tree: Tree, key: &[u8]) -> Result<Option<T>, StorageError>
    where
        T: Record + DeserializeOwned + Clone,
    {
        let shared = self.read_shared::<T>(tree, key)?;
        Ok(shared.map(Arc::unwrap_or_clone))
    }

    /// One record, decoded once for all who read it.
    pub fn read_shared<T>(&self, tree: Tree, key: &[u8]) -> Result<Option<Arc<T>>, StorageError>
    where
        T: Record + DeserializeOwned,
    {
        let Some(value) = self.value(tree, key)? else {
            return Ok(None);
        };
        let bytes = match value.into_record() {
            Ok(record) => return Ok(Some(record)),
            Err(bytes) => bytes,
        };
        let record: Arc<T> = Arc::new(decode(tree, key, &bytes)?);
        if self.cached && self.overlay.newest[tree as usize].get(key).is_none() {
            let value = Value::Record(Arc::clone(&record) as Arc<dyn Record>);
            let key = Key::from_slice(key);
            let mut cache = self.overlay.cache.borrow_mut();
            cache.put(tree, key, value, bytes.len());
        }
        Ok(Some(record))
    }

    fn value(&self, tree: Tree, key: &[u8]) -> Result<Option<Value>, StorageError> {
        if let Some(newest) = self.overlay.newest[tree as usize].get(key) {
            return Ok(newest.value.clone());
        }
        if !self.cached {
            return Ok(self.reader.get(tree, key)?.map(Value::Bytes));
        }
        let mut cache = self.overlay.cache.borrow_mut();
        if let Some(value) = cache.get(tree, key) {
            return Ok(Some(value));
        }
        let stored = self.reader.get(tree, key)?.map(Value::Bytes);
        if let Some(value) = &stored {
            let bytes = value.bytes().len();
            cache.put(tree, Key::from_slice(key), value.clone(), bytes);
        }
        Ok(stored)
    }

    /// Records with `from <= key < to`, ascending, at most `limit`.
    pub fn range(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        let mut found = Vec::new();
        let mut from = Key::from_slice(from);
        while &from[..] < to && found.len() < limit {
            let want = limit - found.len();
            let stored = self.reader.range(tree, &from, to, want)?;
            // What the store returned says nothing about keys after its last one.
            let (upto, more) = match stored.last() {
                Some((last, _)) if stored.len() >= want => (after(last), true),
                _ => (Key::from_slice(to), false),
            };
            let merged = lay_over(stored, self.changed(tree, &from, &upto), want);
            found.extend(merged.into_iter().take(want));
            if !more {
                break;
            }
            from = upto;
        }
        Ok(found)
    }

    /// Like `range`, descending.
    pub fn range_back(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        let mut found = Vec::new();
        let mut to = Key::from_slice(to);
        while from < &to[..] && found.len() < limit {
            let want = limit - found.len();
            let stored = self.reader.range_back(tree, from, &to, want)?;
            let (downto, more) = match stored.last() {
                Some((last, _)) if stored.len() >= want => (Key::from_slice(last), true),
                _ => (Key::from_slice(from), false),
            };
            let changed = self.changed(tree, &downto, &to).rev();
            let merged = lay_over(stored, changed, want);
            found.extend(merged.into_iter().rev().take(want));
            if !more {
                break;
            }
            to = downto;
        }
        Ok(found)
    }

    fn changed(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&Key, &Newest)> {
        self.overlay.newest[tree as usize].range(from, to)
    }
}

/// Lays changes over stored records. The changes come in the order in which the caller takes
/// records, and what lies behind `want` live ones cannot be among the first `want` of the result.
fn lay_over<'a>(
    stored: Vec<(Bytes, Bytes)>,
    changed: impl Iterator<Item = (&'a Key, &'a Newest)>,
    want: usize,
) -> BTreeMap<Bytes, Bytes> {
    let mut merged: BTreeMap<Bytes, Bytes> = stored.into_iter().collect();
    let mut live = 0;
    for (key, newest) in changed {
        match &newest.value {
            Some(value) => {
                merged.insert(Bytes::copy_from_slice(key), value.bytes());
                live += 1;
                if live == want {
                    break;
                }
            }
            None => {
                merged.remove(&key[..]);
            }
        }
    }
    merged
}

/// The smallest key above `key`.
pub(super) fn after(key: &[u8]) -> Key {
    let mut next = Key::from_slice(key);
    next.push(0);
    next
}
