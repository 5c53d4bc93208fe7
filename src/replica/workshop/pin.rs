//! A state that is held still while the trees move on.

use super::{KEYS_END, following, place};
use crate::consensus::{Place, Row, SnapshotHead};
use crate::limits::{SNAPSHOT_BYTES_MAX, SNAPSHOT_PIN_BYTES_MAX, SNAPSHOT_ROWS_MAX};
use crate::storage::{Change, Slice, StateReader, StorageError, Tree};
use crate::types::{Base, Hash, Index};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// What the records that changed since a state was held were then.
#[derive(Default)]
pub(super) struct Old {
    /// `None`: not there.
    rows: BTreeMap<Place, Option<Bytes>>,
    bytes: usize,
}

/// A state that is held still for peers.
pub(super) struct Pin {
    pub(super) head: SnapshotHead,
    pub(super) name: Hash,
    old: Old,
}

impl Pin {
    /// Of what the trees stand at, whose last entry is this base.
    pub(super) fn new(base: Base, checkpoint: &Slice) -> Self {
        let head = SnapshotHead {
            base,
            digest: checkpoint.digest,
            members: checkpoint.members.clone(),
            machine: checkpoint.machine.clone(),
        };
        Self {
            name: head.name(),
            head,
            old: Old::default(),
        }
    }

    /// The state is that after this entry.
    pub(super) fn index(&self) -> Index {
        self.head.base.stamp.index
    }

    /// See [`Old::keep`].
    pub(super) fn keep(
        &mut self,
        reader: &impl StateReader,
        changes: &[Change],
    ) -> Result<bool, StorageError> {
        self.old.keep(reader, changes)
    }

    /// Rows after a place, in order, and whether these were the last ones.
    pub(super) fn rows(
        &self,
        reader: &impl StateReader,
        after: Option<&Place>,
    ) -> Result<(Vec<Row>, bool), StorageError> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        for tree in Tree::ALL {
            if after.is_some_and(|after| after.tree > tree as u8) {
                continue;
            }
            let mut from = match after {
                Some(after) if after.tree == tree as u8 => following(&after.key),
                _ => Vec::new(),
            };
            loop {
                let page = reader.range(tree, &from, &KEYS_END, SNAPSHOT_ROWS_MAX)?;
                let full = page.len() == SNAPSHOT_ROWS_MAX;
                let to = match page.last() {
                    Some((last, _)) if full => following(last),
                    _ => KEYS_END.to_vec(),
                };
                for (key, value) in self.old.laid_over(tree, &from, &to, page) {
                    bytes += key.len() + value.len();
                    let place = place(tree, &key);
                    rows.push(Row { place, value });
                    if rows.len() >= SNAPSHOT_ROWS_MAX || bytes >= SNAPSHOT_BYTES_MAX {
                        return Ok((rows, false));
                    }
                }
                if !full {
                    break;
                }
                from = to;
            }
        }
        Ok((rows, true))
    }
}

impl Old {
    /// BEFORE these changes: keeps what they replace, once. False: that would be too much.
    pub(super) fn keep(
        &mut self,
        reader: &impl StateReader,
        changes: &[Change],
    ) -> Result<bool, StorageError> {
        for change in changes {
            let place = place(change.tree, &change.key);
            if self.rows.contains_key(&place) {
                continue;
            }
            let old = reader.get(change.tree, &change.key)?;
            self.bytes += 64 + place.key.len() + old.as_ref().map_or(0, Bytes::len);
            self.rows.insert(place, old);
        }
        Ok(self.bytes <= SNAPSHOT_PIN_BYTES_MAX)
    }

    /// What was at this place then; `now` is what is there.
    pub(super) fn before(&self, tree: Tree, key: &[u8], now: Option<Bytes>) -> Option<Bytes> {
        let key = Bytes::copy_from_slice(key);
        let old = self.rows.get(&place(tree, &key));
        old.cloned().unwrap_or(now)
    }

    /// The page as it was when the state was held.
    pub(super) fn laid_over(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        page: Vec<(Bytes, Bytes)>,
    ) -> BTreeMap<Bytes, Bytes> {
        let mut rows: BTreeMap<Bytes, Bytes> = page.into_iter().collect();
        let at = |key: &[u8]| Place {
            tree: tree as u8,
            key: Bytes::copy_from_slice(key),
        };
        let changed = (Bound::Included(at(from)), Bound::Excluded(at(to)));
        for (place, old) in self.rows.range(changed) {
            match old {
                Some(value) => drop(rows.insert(place.key.clone(), value.clone())),
                None => drop(rows.remove(&place.key)),
            }
        }
        rows
    }
}
