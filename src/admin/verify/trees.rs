//! State trees in memory, for the replay.

use crate::storage::{Slice, StateReader, StorageError, Tree};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};

/// Records that are compared at once.
const PAGE: usize = 1024;

/// What a replay has written so far.
#[derive(Default)]
pub(super) struct MemoryTrees {
    records: BTreeMap<Tree, BTreeMap<Bytes, Bytes>>,
}

impl MemoryTrees {
    /// Writes a slice.
    pub(super) fn put(&mut self, slice: Slice) {
        for change in slice.changes {
            let tree = self.records.entry(change.tree).or_default();
            match change.value {
                Some(value) => tree.insert(change.key, value),
                None => tree.remove(&change.key),
            };
        }
    }

    /// One record.
    #[cfg(test)]
    pub(super) fn insert(&mut self, tree: Tree, key: Bytes, value: Bytes) {
        self.records.entry(tree).or_default().insert(key, value);
    }

    /// The first key, in hex, whose record differs from the other reader's.
    pub(super) fn first_difference(
        &self,
        tree: Tree,
        other: &dyn StateReader,
    ) -> Result<Option<String>, StorageError> {
        // Above every key: the longest keys are far shorter.
        let end = [0xff; 512];
        let mut from = Vec::new();
        loop {
            let theirs = other.range(tree, &from, &end, PAGE)?;
            let full = theirs.len() == PAGE;
            let last = theirs.last().map(|(key, _)| key.to_vec());
            let to = if full { last.clone() } else { None };
            let ours = self.between(tree, &from, to.as_deref().unwrap_or(&end), to.is_some());
            if let Some(key) = first_differing(&ours, &theirs) {
                return Ok(Some(key.iter().map(|byte| format!("{byte:02x}")).collect()));
            }
            match last {
                Some(mut last) if full => {
                    last.push(0);
                    from = last;
                }
                _ => return Ok(None),
            }
        }
    }

    fn between(&self, tree: Tree, from: &[u8], to: &[u8], inclusive: bool) -> Vec<(Bytes, Bytes)> {
        let Some(records) = self.records.get(&tree) else {
            return Vec::new();
        };
        let end = if inclusive { Included(to) } else { Excluded(to) };
        if from > to {
            return Vec::new();
        }
        records
            .range::<[u8], _>((Included(from), end))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

fn first_differing(ours: &[(Bytes, Bytes)], theirs: &[(Bytes, Bytes)]) -> Option<Bytes> {
    for pair in ours.iter().zip(theirs) {
        if pair.0 != pair.1 {
            return Some(pair.0.0.clone().min(pair.1.0.clone()));
        }
    }
    let common = ours.len().min(theirs.len());
    let extra = ours.get(common).or_else(|| theirs.get(common));
    extra.map(|(key, _)| key.clone())
}

impl StateReader for MemoryTrees {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let records = self.records.get(&tree);
        Ok(records.and_then(|records| records.get(key)).cloned())
    }

    fn range(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        let Some(records) = self.records.get(&tree).filter(|_| from < to) else {
            return Ok(Vec::new());
        };
        let found = records.range::<[u8], _>((Included(from), Excluded(to)));
        Ok(found
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn range_back(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        let Some(records) = self.records.get(&tree).filter(|_| from < to) else {
            return Ok(Vec::new());
        };
        let found = records.range::<[u8], _>((Included(from), Excluded(to)));
        Ok(found
            .rev()
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}
