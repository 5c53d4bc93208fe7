//! The cut in place. A crash keeps all of it or none: what the real store does not get to is done by
//! its next open.

use super::{Image, MemStore, Undo};
use crate::limits;
use crate::storage::{CommitRecord, StorageError, records};
use crate::types::entry::Entry;
use crate::types::{Base, Index};
use std::collections::BTreeMap;

/// What lay below the base of a log that was cut.
pub(super) struct Below {
    base: Base,
    log: Vec<Entry>,
    commits: BTreeMap<u64, CommitRecord>,
}

fn bytes(log: &[Entry]) -> u64 {
    log.iter().map(|entry| entry.bytes().len() as u64).sum()
}

impl Image {
    /// Every entry is a block of its own, and the last one stays.
    pub(super) fn cut_point(&self, most: Index) -> Option<Index> {
        let base = self.base.stamp.index;
        let last = base.0 + (self.log.len() as u64).saturating_sub(1);
        let near = base.0 + limits::CUT_BLOCKS_MAX as u64;
        let point = most.min(Index(last)).min(Index(near));
        (point > base).then_some(point)
    }

    fn cut(&mut self, base: &Base) -> Below {
        let above = self.log.split_off(self.kept(base.stamp.index));
        let log = std::mem::replace(&mut self.log, above);
        self.bytes -= bytes(&log);
        let above = self.commits.split_off(&base.stamp.index.0);
        let commits = std::mem::replace(&mut self.commits, above);
        self.rot.cut_before(base.stamp.index);
        let base = std::mem::replace(&mut self.base, base.clone());
        Below { base, log, commits }
    }

    pub(super) fn uncut(&mut self, mut below: Below) {
        self.base = below.base;
        self.bytes += bytes(&below.log);
        below.log.append(&mut self.log);
        self.log = below.log;
        self.commits.append(&mut below.commits);
    }
}

impl MemStore {
    pub(super) fn cut_live(&mut self, base: &Base) -> Result<(), StorageError> {
        let disk = &mut *self.disk.lock();
        let applied = disk.live.applied.as_ref();
        let stands = applied.map_or(Index(0), |slice| slice.applied);
        records::check_cut(base.stamp.index, disk.live.base.stamp.index, stands)?;
        disk.operate(self.epoch, |disk| {
            let cut = Some(disk.live.cut(base));
            disk.unsynced.push(Undo {
                cut,
                ..Undo::default()
            });
        })
    }
}
