//! What cannot be read any more (as sled's checksums tell, a read of it is damage), and what is not
//! what was written.

use super::{Disk, Image, MemDisk};
use crate::storage::{StorageError, Tree};
use crate::types::Index;
use crate::types::entry::Entry;
use bytes::Bytes;
use std::collections::BTreeSet;

/// Places of an image that cannot be read. What is written anew can be.
#[derive(Clone, Default)]
pub(super) struct Rot {
    entries: BTreeSet<Index>,
    commits: BTreeSet<u64>,
    rows: BTreeSet<(usize, Bytes)>,
}

fn damaged(what: &str) -> StorageError {
    StorageError::Damaged(format!("{what}: cannot be read from the disk in memory"))
}

impl Rot {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.commits.is_empty() && self.rows.is_empty()
    }

    pub(super) fn read_entries(&self, entries: &[Entry]) -> Result<(), StorageError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        match self.entries.range(first.index()..=last.index()).next() {
            Some(index) => Err(damaged(&format!("log: entry {index}"))),
            None => Ok(()),
        }
    }

    pub(super) fn read_commits(&self, from: Index, to: Index) -> Result<(), StorageError> {
        match self.commits.range(from.0..=to.0).next() {
            Some(index) => Err(damaged(&format!("commits: record {index}"))),
            None => Ok(()),
        }
    }

    pub(super) fn read_row(&self, tree: Tree, key: &Bytes) -> Result<(), StorageError> {
        if self.rows.is_empty() || !self.rows.contains(&(tree as usize, key.clone())) {
            return Ok(());
        }
        Err(damaged(tree.name()))
    }

    /// These are not there any more.
    pub(super) fn cut_after(&mut self, after: Index) {
        self.entries.split_off(&after.next());
    }

    /// Nor are these.
    pub(super) fn cut_before(&mut self, base: Index) {
        self.entries = self.entries.split_off(&base.next());
        self.commits = self.commits.split_off(&base.0);
    }

    pub(super) fn wrote_commit(&mut self, index: u64) {
        self.commits.remove(&index);
    }

    pub(super) fn wrote_row(&mut self, tree: Tree, key: &Bytes) {
        if !self.rows.is_empty() {
            self.rows.remove(&(tree as usize, key.clone()));
        }
    }
}

impl Image {
    fn rows(&self) -> usize {
        self.trees.iter().map(std::collections::BTreeMap::len).sum()
    }

    /// Another one that continues the same history and that its successor does not continue.
    fn alter_entry(&mut self, index: Index, payload: &[u8]) {
        let place = self.kept(index.previous());
        if let Some(entry) = self.log.get_mut(place) {
            let (stamp, time) = (entry.stamp(), entry.time());
            *entry = Entry::seal(stamp, time, entry.previous_hash(), entry.kind(), payload);
        }
    }

    fn rot_row(&mut self, mut at: usize) {
        for (number, tree) in self.trees.iter().enumerate() {
            if let Some((key, _)) = tree.iter().nth(at) {
                self.rot.rows.insert((number, key.clone()));
                return;
            }
            at -= tree.len();
        }
    }
}

impl MemDisk {
    /// One entry at or below an index, one commit record or one row of the state cannot be read any
    /// more, whoever has the disk open. `choose(n)` picks a number below `n`. False: there is none.
    pub fn rot(&self, upto: Index, choose: &mut dyn FnMut(usize) -> usize) -> bool {
        let Disk { live, .. } = &mut *self.lock();
        let entries = live.kept(upto);
        let (commits, rows) = (live.commits.len(), live.rows());
        match choose(3) {
            0 if entries > 0 => {
                let index = live.log[choose(entries)].index();
                live.rot.entries.insert(index);
            }
            1 if commits > 0 => {
                let at = choose(commits);
                let index = live.commits.keys().nth(at).copied();
                live.rot.commits.extend(index);
            }
            2 if rows > 0 => live.rot_row(choose(rows)),
            _ => return false,
        }
        true
    }

    /// The log's entry at this index is another one, also for whoever has the disk open.
    pub fn alter_entry(&self, index: Index, payload: &[u8]) {
        self.lock().live.alter_entry(index, payload);
    }

    /// The same, durably. The process that was writing is dead.
    pub fn rewrite_entry(&self, index: Index, payload: &[u8]) {
        let disk = &mut *self.lock();
        disk.epoch += 1;
        disk.unsynced.clear();
        disk.live.alter_entry(index, payload);
    }

    /// The first row of a tree is gone, and nobody was told. False: there is none.
    pub fn lose_row(&self, tree: Tree) -> bool {
        self.lock().live.trees[tree as usize].pop_first().is_some()
    }

    /// Can something on it not be read?
    pub fn is_rotten(&self) -> bool {
        !self.lock().live.rot.is_empty()
    }

    /// The log as it was written, for those who check it: also what cannot be read.
    pub fn log_as_written(&self) -> Vec<Entry> {
        self.lock().live.log.clone()
    }
}
