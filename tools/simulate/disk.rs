//! The simulated disk of one replica, and the probe through which the replica reaches it.
//!
//! This is the only file that knows the in-memory store's own interface.

use super::checker::{Checker, Mark};
use super::rng::Rng;
use chat::consensus::HardState;
use chat::storage::{
    Checked, CommitRecord, Recovered, Scan, StateReader, StorageError, Store, Write,
};
use chat::storage::{Effect, MemDisk, MemReader, MemStore};
use chat::types::entry::Entry;
use chat::types::{Base, Index};

/// A disk. Survives the processes that use it.
pub struct Disk {
    inner: MemDisk,
    /// A process has written down that it came upon damage.
    pub noted: bool,
}

impl Disk {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            inner: MemDisk::new(),
            noted: false,
        }
    }
    /// What is on it now, on a disk of its own. Its writer is dead.
    pub fn copy(&self) -> Self {
        Self {
            inner: self.inner.copy(),
            noted: self.noted,
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
    /// The promises are gone; the log stays.
    pub fn lose_hard_state(&self) {
        self.inner.lose_hard_state();
    }
    /// The end of the log is gone, and nobody was told.
    pub fn lose_log_after(&self, after: Index) {
        self.inner.lose_log_after(after);
    }
    /// An entry's bytes are others.
    pub fn rewrite_entry(&self, index: Index) {
        self.inner.rewrite_entry(index, b"rotten");
    }
    /// Something that was written long ago cannot be read any more: below an index, or anywhere in the
    /// commit records and the state.
    pub fn rot(&self, upto: Index, rng: &mut Rng) -> bool {
        self.inner.rot(upto, &mut |n| rng.below(n as u64) as usize)
    }
    /// That is so.
    pub fn is_rotten(&self) -> bool {
        self.inner.is_rotten()
    }
    /// The log from its base on, as marks, whether it can be read or not.
    pub fn log(&self) -> Vec<Mark> {
        let log = self.inner.log_as_written();
        log.iter().map(|e| (e.stamp(), e.hash())).collect()
    }
    /// Where the log begins, and what the trees stand at.
    pub fn base_and_applied(&self) -> (Index, Index) {
        self.inner.base_and_applied()
    }
    /// The readable part of a damaged log is kept.
    pub fn cut_after(&self, after: Index) {
        self.inner.cut_after(after);
    }
    /// The store is put aside for an empty one.
    pub fn discard(&self) {
        self.inner.discard();
    }
    /// Operations succeed again.
    pub fn heal(&self) {
        self.inner.fail_after(u64::MAX / 2, Effect::None);
    }
}

/// A disk that reports an error, once, in one job. The process ends, and another one is started
/// later; what was written and not synced is then there or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failing {
    /// Of the log for a peer.
    Read,
    /// Nothing is written.
    Write,
    /// Nothing is synced. As in Linux the next sync succeeds, and syncs nothing either: what was to
    /// be written counts as written.
    Sync,
    /// What is read, also by a write, is not what was written.
    Damage,
}

fn damaged() -> StorageError {
    StorageError::Damaged("a page of the simulated disk".into())
}

fn input_output_error() -> StorageError {
    StorageError::Io {
        what: "cannot use",
        path: "the simulated disk".into(),
        source: std::io::Error::other("input/output error"),
    }
}

/// Shows every write to the checker on its way to the disk.
pub struct Probe<'a> {
    pub store: &'a mut MemStore,
    pub checker: &'a mut Checker,
    pub at: usize,
    /// The replica is primary just now.
    pub primary: bool,
    /// What fails in this job.
    pub failing: Option<Failing>,
    /// It has failed.
    pub failed: bool,
    /// A check of the next store is not over yet.
    pub check_goes_on: bool,
}

impl Store for Probe<'_> {
    type Reader = MemReader;

    fn write(&mut self, write: Write) -> Result<(), StorageError> {
        // Shown even if it fails: a failed write may have reached the live image, and only that.
        self.checker.on_write(self.at, &write, self.primary);
        if self.failing == Some(Failing::Damage) {
            return Err(damaged());
        }
        if self.failing == Some(Failing::Write) {
            self.failed = true;
            return Err(input_output_error());
        }
        self.store.write(write)
    }
    fn sync(&mut self) -> Result<(), StorageError> {
        if self.failing == Some(Failing::Sync) {
            let before = std::mem::replace(&mut self.failed, true);
            return if before {
                Ok(())
            } else {
                Err(input_output_error())
            };
        }
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
    fn base(&self) -> Result<Base, StorageError> {
        self.store.base()
    }
    fn entries(&self, from: Index, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        match self.failing {
            Some(Failing::Read) => return Err(input_output_error()),
            Some(Failing::Damage) => return Err(damaged()),
            _ => {}
        }
        self.store.entries(from, bytes_max)
    }
    fn commit_records(&self, from: Index, to: Index) -> Result<Vec<CommitRecord>, StorageError> {
        self.store.commit_records(from, to)
    }
    fn cut_point(&self, most: Index) -> Result<Option<Index>, StorageError> {
        self.store.cut_point(most)
    }
    fn cut(&mut self, base: &Base) -> Result<(), StorageError> {
        self.checker.on_cut(self.at, base);
        if self.failing == Some(Failing::Write) {
            self.failed = true;
            return Err(input_output_error());
        }
        self.store.cut(base)
    }
    fn reader(&self) -> MemReader {
        self.store.reader()
    }
    fn next_begin(&mut self, base: &Base) -> Result<(), StorageError> {
        self.checker.on_next_begin(self.at, base);
        self.store.next_begin(base)
    }
    fn next_cut(&mut self, base: &Base) -> Result<(), StorageError> {
        self.checker.on_next_cut(self.at, base);
        self.store.next_cut(base)
    }
    fn next_write(&mut self, write: Write) -> Result<(), StorageError> {
        self.checker.on_next_write(self.at, &write);
        self.store.next_write(write)
    }
    fn next_reader(&self) -> Result<Box<dyn StateReader>, StorageError> {
        self.store.next_reader()
    }
    fn next_check(&mut self, scan: Scan) -> Result<Option<Checked>, StorageError> {
        if self.check_goes_on {
            return Ok(None);
        }
        let checked = self.store.next_check(scan)?;
        if let Some(Err(sentence)) = &checked {
            self.checker.on_bad_copy(self.at, sentence);
        }
        Ok(checked)
    }
    fn next_install(&mut self) -> Result<(), StorageError> {
        self.checker.on_exchange(self.at);
        self.store.next_install()?;
        self.checker.on_exchanged(self.at);
        Ok(())
    }
    fn next_drop(&mut self) -> Result<(), StorageError> {
        self.store.next_drop()
    }
    fn rewritten_bytes(&self) -> u64 {
        self.store.rewritten_bytes()
    }
    fn size_bytes(&self) -> u64 {
        self.store.size_bytes()
    }
}
