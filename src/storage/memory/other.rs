//! A [`MemDisk`] that becomes another one: an old copy, or what a repair leaves of it.

use super::{Disk, MemDisk};
use crate::types::Index;
use std::sync::{Arc, Mutex};

impl MemDisk {
    /// A disk of its own with what is on this one, whose writer is dead: it was taken while all of it
    /// could be read.
    pub fn copy(&self) -> Self {
        let disk = self.lock();
        let mut live = disk.live.clone();
        live.rot = super::rot::Rot::default();
        Self(Arc::new(Mutex::new(Disk {
            live,
            hard: disk.hard.clone(),
            epoch: disk.epoch,
            ..Disk::default()
        })))
    }

    /// Loses the end of the log durably and silently, as a disk does that lied about a sync; the
    /// commit records and slices about it go too. The process that was writing is dead.
    pub fn lose_log_after(&self, after: Index) {
        let disk = &mut *self.lock();
        disk.epoch += 1;
        disk.unsynced.clear();
        disk.live.truncate(after);
        disk.live.commits.split_off(&after.next().0);
        disk.live.rot = super::rot::Rot::default();
        if disk
            .live
            .applied
            .as_ref()
            .is_some_and(|s| s.applied > after)
        {
            disk.live.applied = None;
            disk.live.trees = Default::default();
        }
    }

    /// Keeps the log up to this index, as a repair does whose log is damaged above. The process that
    /// was writing is dead.
    pub fn cut_after(&self, after: Index) {
        let disk = &mut *self.lock();
        disk.epoch += 1;
        disk.unsynced.clear();
        disk.live.truncate(after);
    }
}
