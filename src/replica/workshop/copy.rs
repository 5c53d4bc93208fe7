//! The copy of a store that a rewriting makes: live records, the log above its new base, commit records.

use super::{KEYS_END, following, place};
use crate::consensus::{Mutant, Place};
use crate::limits::SNAPSHOT_BYTES_MAX;
use crate::storage::{Change, CommitRecord, Slice, StateReader, StorageError, Store, Tree, Write};
use crate::types::entry::Entry;
use crate::types::{Base, Hash, Index};
use bytes::Bytes;
use std::collections::VecDeque;

/// Writes in one part of what the next store has missed.
const MISSED_MAX: usize = 8;

/// How far the next store is.
pub(super) struct Rewrite {
    pub(super) base: Base,
    /// What the trees of both stores stand at.
    pub(super) applied: Slice,
    /// Rows up to here are copied; `None`: none yet.
    pub(super) rows: Option<Place>,
    pub(super) rows_done: bool,
    /// The last entry copied.
    pub(super) log: Index,
    /// Commit records up to here are copied.
    pub(super) commits: Index,
    /// The digest of the next store when it was closed to be checked: what it misses since then waits.
    pub(super) closed: Option<Hash>,
    pub(super) missed: VecDeque<Write>,
    /// The check is over: what waits follows.
    pub(super) catches_up: bool,
    /// Of a rebuilding: the newest commit record.
    pub(super) computed: Option<CommitRecord>,
}

impl Rewrite {
    /// What the next store gets now that this write has come: while it is closed nothing; and then, until
    /// it has caught up, the oldest that waits, so that never more wait.
    pub(super) fn in_order(&mut self, write: Write) -> Option<Write> {
        if self.closed.is_none() {
            return Some(write);
        }
        if !Mutant::ForgetMissed.on() {
            self.missed.push_back(write);
        }
        let oldest = self.catches_up.then(|| self.missed.pop_front());
        oldest.flatten()
    }

    /// A part of what came since the next store was closed; whether there is more.
    pub(super) fn catch_up<S: Store>(&mut self, store: &mut S) -> Result<bool, StorageError> {
        self.catches_up = true;
        for _ in 0..MISSED_MAX {
            let Some(write) = self.missed.pop_front() else {
                self.closed = None;
                return Ok(false);
            };
            store.next_write(write)?;
        }
        Ok(true)
    }

    /// Has the copy come by this record's place?
    pub(super) fn has_copied(&self, change: &Change) -> bool {
        let upto = self.rows.as_ref();
        let upto = upto.map(|place| (place.tree, place.key.as_ref()));
        self.rows_done || Some((change.tree as u8, change.key.as_ref())) <= upto
    }

    /// Records as they are now: what changes later, up to there, is written to both stores.
    pub(super) fn copy_rows<S: Store>(
        &mut self,
        store: &mut S,
        rows_max: usize,
    ) -> Result<(), StorageError> {
        let reader = store.reader();
        let at = self.rows.as_ref().map_or(0, |place| place.tree as usize);
        let Some(tree) = Tree::ALL.get(at).copied() else {
            self.rows_done = true;
            return Ok(());
        };
        let from = match &self.rows {
            Some(place) if !place.key.is_empty() => following(&place.key),
            _ => Vec::new(),
        };
        let mut bytes = 0;
        let mut page = reader.range(tree, &from, &KEYS_END, rows_max)?;
        let fits = page.iter().take_while(|(key, value)| {
            let first = bytes == 0;
            bytes += key.len() + value.len();
            first || bytes <= SNAPSHOT_BYTES_MAX
        });
        let taken = fits.count();
        let last = taken == page.len() && page.len() < rows_max;
        page.truncate(taken);
        self.rows = Some(match page.last() {
            Some((key, _)) if !last => place(tree, key),
            _ => Place {
                tree: at as u8 + 1,
                key: Bytes::new(),
            },
        });
        let changes = page.into_iter().map(|(key, value)| Change {
            tree,
            key,
            value: Some(value),
        });
        store.next_write(Write {
            slice: Some(Slice {
                changes: changes.collect(),
                ..self.applied.clone()
            }),
            ..Write::default()
        })
    }

    /// Entries and commit records; false when nothing is left.
    pub(super) fn copy_log<S: Store>(&mut self, store: &mut S) -> Result<bool, StorageError> {
        let append = store.entries(self.log.next(), SNAPSHOT_BYTES_MAX)?;
        let full = append.iter().map(|e| e.bytes().len()).sum::<usize>() >= SNAPSHOT_BYTES_MAX / 2;
        if let Some(last) = append.last().map(Entry::index) {
            self.log = last;
            store.next_write(Write {
                append,
                ..Write::default()
            })?;
        }
        let to = self.log.min(Index(self.commits.0 + 4_096));
        for record in store.commit_records(self.commits.next(), to)? {
            store.next_write(Write {
                commit: Some(record),
                ..Write::default()
            })?;
        }
        self.commits = self.commits.max(to);
        Ok(full || to < self.log)
    }
}
