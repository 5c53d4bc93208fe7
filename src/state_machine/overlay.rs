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

use crate::limits::SLICE_RECORDS_MAX;
use crate::storage::{Change, Slice, StateReader, StorageError, Tree};
use crate::types::Index;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Included};

/// Most records that one entry may change. Large ones (expiry, extension) carry explicit bounds.
pub(super) const ENTRY_RECORDS_MAX: usize = 1_200;

struct Newest {
    /// The generation that wrote it.
    generation: u64,
    /// `None`: removed.
    value: Option<Bytes>,
}

/// A frozen generation.
struct Frozen {
    generation: u64,
    slice: Slice,
}

/// A slice that is being written: its generation and keys.
struct Out {
    generation: u64,
    keys: Vec<(Tree, Bytes)>,
}

#[derive(Default)]
pub(super) struct Overlay {
    /// The newest value of each changed key, by tree.
    newest: [BTreeMap<Bytes, Newest>; Tree::ALL.len()],
    /// Number of the open generation.
    open: u64,
    /// Keys that the open generation has changed; their values are in `newest`.
    dirty: BTreeSet<(Tree, Bytes)>,
    /// The open generation has entries (perhaps without a change).
    has_entries: bool,
    /// Oldest first.
    frozen: VecDeque<Frozen>,
    out: Option<Out>,
}

impl Overlay {
    pub fn put(&mut self, tree: Tree, key: Bytes, value: Option<Bytes>) {
        let newest = Newest {
            generation: self.open,
            value,
        };
        let before = self.newest[tree as usize].insert(key.clone(), newest);
        if before.is_none_or(|b| b.generation != self.open) {
            self.dirty.insert((tree, key));
        }
    }

    /// Records that the open generation has changed.
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Records that are not known to be in the store.
    pub fn records(&self) -> usize {
        self.newest.iter().map(BTreeMap::len).sum()
    }

    /// An entry's effect is complete. True: the generation is full and wants to be frozen.
    pub fn end_entry(&mut self) -> bool {
        self.has_entries = true;
        self.dirty.len() >= SLICE_RECORDS_MAX
    }

    /// True: `freeze` would help a caller that wants a slice now, full or not.
    pub fn wants_freeze(&self) -> bool {
        self.has_entries && self.frozen.is_empty()
    }

    /// Ends the open generation. `slice` is complete but for its changes.
    pub fn freeze(&mut self, mut slice: Slice) {
        slice.changes = std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|(tree, key)| {
                let value = self.newest[tree as usize]
                    .get(&key)
                    .expect("a dirty key is in the overlay")
                    .value
                    .clone();
                Change { tree, key, value }
            })
            .collect();
        self.frozen.push_back(Frozen {
            generation: self.open,
            slice,
        });
        self.open += 1;
        self.has_entries = false;
    }

    /// Hands out the oldest frozen generation, if it ends at or below `commit_recorded`.
    pub fn next_slice(&mut self, commit_recorded: Index) -> Option<Slice> {
        if self.out.is_some() || self.frozen.front()?.slice.applied > commit_recorded {
            return None;
        }
        let Frozen { generation, slice } = self.frozen.pop_front()?;
        self.out = Some(Out {
            generation,
            keys: slice
                .changes
                .iter()
                .map(|c| (c.tree, c.key.clone()))
                .collect(),
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
        for (tree, key) in out.keys {
            let newest = &mut self.newest[tree as usize];
            if newest
                .get(&key)
                .is_some_and(|n| n.generation == out.generation)
            {
                newest.remove(&key);
            }
        }
    }
}

/// Reads the overlay over the store.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub reader: &'a dyn StateReader,
    pub overlay: &'a Overlay,
}

impl View<'_> {
    pub fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self.overlay.newest[tree as usize].get(key) {
            Some(newest) => Ok(newest.value.clone()),
            None => self.reader.get(tree, key),
        }
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
        let mut from = Bytes::copy_from_slice(from);
        while &from[..] < to && found.len() < limit {
            let want = limit - found.len();
            let stored = self.reader.range(tree, &from, to, want)?;
            // What the store returned says nothing about keys after its last one.
            let (upto, more) = match stored.last() {
                Some((last, _)) if stored.len() >= want => (after(last), true),
                _ => (Bytes::copy_from_slice(to), false),
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
        let mut to = Bytes::copy_from_slice(to);
        while from < &to[..] && found.len() < limit {
            let want = limit - found.len();
            let stored = self.reader.range_back(tree, from, &to, want)?;
            let (downto, more) = match stored.last() {
                Some((last, _)) if stored.len() >= want => (last.clone(), true),
                _ => (Bytes::copy_from_slice(from), false),
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
    ) -> std::collections::btree_map::Range<'_, Bytes, Newest> {
        self.overlay.newest[tree as usize].range::<[u8], _>((Included(from), Excluded(to)))
    }
}

/// Lays changes over stored records. The changes come in the order in which the caller takes
/// records, and what lies behind `want` live ones cannot be among the first `want` of the result.
fn lay_over<'a>(
    stored: Vec<(Bytes, Bytes)>,
    changed: impl Iterator<Item = (&'a Bytes, &'a Newest)>,
    want: usize,
) -> BTreeMap<Bytes, Bytes> {
    let mut merged: BTreeMap<Bytes, Bytes> = stored.into_iter().collect();
    let mut live = 0;
    for (key, newest) in changed {
        match &newest.value {
            Some(value) => {
                merged.insert(key.clone(), value.clone());
                live += 1;
                if live == want {
                    break;
                }
            }
            None => {
                merged.remove(key);
            }
        }
    }
    merged
}

/// The smallest key above `key`.
pub(super) fn after(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}
