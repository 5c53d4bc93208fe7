//! The simulated disk of one replica, and the probe through which the replica reaches it.
//!
//! This is the only file that knows the in-memory store's own interface.

use super::checker::{Checker, Mark};
use super::rng::Rng;
use chat::consensus::HardState;
use chat::storage::{CommitRecord, Recovered, StorageError, Store, Write};
use chat::storage::{Effect, MemDisk, MemReader, MemStore};
use chat::types::Index;
use chat::types::entry::Entry;

/// A disk. Survives the processes that use it.
pub struct Disk {
    inner: MemDisk,
}

impl Disk {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            inner: MemDisk::new(),
        }
    }
    /// Opens the store on it. A small cache makes the replica read its store as one with a long
    /// log does.
    pub fn open(&self, cache_bytes: usize) -> Result<(MemStore, Recovered), StorageError> {
        MemStore::open_with_cache(&self.inner, cache_bytes)
    }
    /// The power goes: what was not synced is kept up to a random point.
    pub fn crash(&self, rng: &mut Rng) {
        self.inner.crash(&mut |n| rng.below(n as u64) as usize);
    }
    /// The `n`-th primitive operation from now fails (0: the next one), done or not.
    pub fn fail_after(&self, n: u64, done: bool) {
        let effect = if done { Effect::Done } else { Effect::None };
        self.inner.fail_after(n, effect);
    }
    /// Operations succeed again.
    pub fn heal(&self) {
        self.inner.fail_after(u64::MAX / 2, Effect::None);
    }
}

/// The log of a store, as marks.
pub fn log_of(store: &MemStore) -> Result<Vec<Mark>, StorageError> {
    let mut log = Vec::new();
    loop {
        let entries = store.entries(Index(log.len() as u64 + 1), 64 * 1024)?;
        if entries.is_empty() {
            return Ok(log);
        }
        log.extend(entries.iter().map(|e| (e.stamp(), e.hash())));
    }
}

/// Shows every write to the checker on its way to the disk.
pub struct Probe<'a> {
    pub store: &'a mut MemStore,
    pub checker: &'a mut Checker,
    pub at: usize,
    /// The replica is primary just now.
    pub primary: bool,
}

impl Store for Probe<'_> {
    type Reader = MemReader;

    fn write(&mut self, write: Write) -> Result<(), StorageError> {
        // Shown even if it fails: a failed write may have reached the live image, and only that.
        self.checker.on_write(self.at, &write, self.primary);
        self.store.write(write)
    }
    fn sync(&mut self) -> Result<(), StorageError> {
        self.store.sync()?;
        self.checker.on_sync(self.at);
        Ok(())
    }
    fn write_hard_state(&mut self, state: &HardState, sync: bool) -> Result<(), StorageError> {
        self.checker.on_hard_state(self.at, state, false);
        self.store.write_hard_state(state, sync)?;
        if sync {
            self.checker.on_hard_state(self.at, state, true);
        }
        Ok(())
    }
    fn entries(&self, from: Index, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        self.store.entries(from, bytes_max)
    }
    fn commit_records(&self, from: Index, to: Index) -> Result<Vec<CommitRecord>, StorageError> {
        self.store.commit_records(from, to)
    }
    fn reader(&self) -> MemReader {
        self.store.reader()
    }
    fn size_bytes(&self) -> u64 {
        self.store.size_bytes()
    }
}
