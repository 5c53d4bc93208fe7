//! A [`MemDisk`] that becomes another one: an old copy, or what a repair leaves of it.

use super::{Disk, MemDisk};
use crate::types::Index;
use std::sync::{Arc, Mutex};

impl MemDisk {
    /// A disk of its own with what is on this one, whose writer is dead.
    pub fn copy(&self) -> Self {
        let disk = self.lock();
        Self(Arc::new(Mutex::new(Disk {
            live: disk.live.clone(),
            hard: disk.hard.clone(),
            epoch: disk.epoch,
            ..Disk::default()
        })))
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
