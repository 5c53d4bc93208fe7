//! A store on a disk in memory whose live and durable images differ, for the simulator and tests.
//!
//! [`MemDisk`] outlives the "process" that writes to it: dropping a [`MemStore`] and opening the
//! disk again is a SIGKILL (what was written is still in the page cache), [`MemDisk::crash`] is a
//! power cut (any prefix of the unsynced writes survives, and each unsynced block of the hard
//! state by itself is kept, lost or torn). Every primitive operation is counted and can be made to
//! fail, so that a test can kill at each persist boundary.
//!
//! Writes change the live image and note how to undo them; a sync forgets the notes. The recovery
//! checks and the logic of the hard state are those of the real store.

mod cut;
mod next;
mod other;
mod rot;
mod source;

use super::hard_state::{BLOCKS, Blocks, SECTOR_BYTES, Unreadable, Writer, read};
use super::recovery::recover;
use super::{
    Change, Checked, CommitRecord, Recovered, Scan, Slice, StateReader, StorageError, Store, Tree,
    Write,
};
use crate::consensus::{HardState, Mutant};
use crate::limits;
use crate::types::entry::Entry;
use crate::types::{Base, Hash, Index, Stamp};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

/// Whether a failing operation has done its work before it fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing was done.
    None,
    /// It was done completely, and nobody was told.
    Done,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemDisk(Arc<Mutex<Disk>>);

#[derive(Default)]
struct Disk {
    live: Image,
    /// The next store while it is built: a crash takes it whole.
    next: Option<Image>,
    /// What readers still read after the next store became the live one.
    old: Option<Image>,
    /// How to undo the writes since the last sync, oldest first.
    unsynced: Vec<Undo>,
    hard: Option<HardBlocks>,
    /// Which open of the disk may write: earlier processes are dead.
    epoch: u64,
    operations: u64,
    /// Fail at this operation, and from then on until the disk is opened again.
    fail_at: Option<(u64, Effect)>,
}

#[derive(Clone, Default)]
struct Image {
    base: Base,
    /// From the entry after the base on.
    log: Vec<Entry>,
    commits: BTreeMap<u64, CommitRecord>,
    trees: [BTreeMap<Bytes, Bytes>; 4],
    applied: Option<Slice>,
    /// Bytes of the log, for `size_bytes`.
    bytes: u64,
    /// The same when this store became the live one by a rewriting.
    rewritten: u64,
    rot: rot::Rot,
}

#[derive(Default)]
struct Undo {
    appended: usize,
    truncated: Vec<Entry>,
    commit: Option<(u64, Option<CommitRecord>)>,
    wrote_slice: bool,
    /// What the trees stood at before the slice.
    applied: Option<Slice>,
    changes: Vec<Change>,
    /// What a cut took.
    cut: Option<cut::Below>,
}

#[derive(Clone)]
struct HardBlocks {
    live: [Vec<u8>; BLOCKS],
    durable: [Vec<u8>; BLOCKS],
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl Image {
    /// Stamp and hash of the last entry, or of the last one at or below an index.
    fn end_at(&self, after: Option<Index>) -> (Stamp, Hash) {
        let kept = after.map_or(self.log.len(), |after| self.kept(after));
        let last = kept.checked_sub(1).map(|at| &self.log[at]);
        last.map_or((self.base.stamp, self.base.hash), |e| (e.stamp(), e.hash()))
    }

    /// How many of the entries lie at or below an index.
    fn kept(&self, after: Index) -> usize {
        let above_base = after.0.saturating_sub(self.base.stamp.index.0);
        self.log
            .len()
            .min(usize::try_from(above_base).unwrap_or(usize::MAX))
    }

    fn truncate(&mut self, after: Index) -> Vec<Entry> {
        let keep = self.kept(after);
        self.rot.cut_after(after);
        let removed = self.log.split_off(keep);
        self.bytes -= removed.iter().map(|e| e.bytes().len() as u64).sum::<u64>();
        removed
    }

    fn append(&mut self, entries: Vec<Entry>) {
        self.bytes += entries.iter().map(|e| e.bytes().len() as u64).sum::<u64>();
        self.log.extend(entries);
    }

    fn put_commit(&mut self, key: u64, record: Option<CommitRecord>) -> Option<CommitRecord> {
        self.rot.wrote_commit(key);
        match record {
            Some(record) => self.commits.insert(key, record),
            None => self.commits.remove(&key),
        }
    }

    /// Puts or removes a record; returns the change that takes it back.
    fn change(&mut self, change: Change) -> Change {
        self.rot.wrote_row(change.tree, &change.key);
        let tree = &mut self.trees[change.tree as usize];
        let old = match change.value {
            Some(value) => tree.insert(change.key.clone(), value),
            None => tree.remove(&change.key),
        };
        Change {
            value: old,
            ..change
        }
    }

    fn apply(&mut self, write: Write) -> Undo {
        let truncated = write
            .truncate_after
            .map_or_else(Vec::new, |after| self.truncate(after));
        let appended = write.append.len();
        self.append(write.append);
        let commit = write.commit.map(|record| {
            let key = record.stamp.index.0;
            (key, self.put_commit(key, Some(record)))
        });
        let mut undo = Undo {
            appended,
            truncated,
            commit,
            ..Undo::default()
        };
        if let Some(mut slice) = write.slice {
            let changes = std::mem::take(&mut slice.changes);
            undo.changes = changes.into_iter().map(|c| self.change(c)).collect();
            undo.applied = self.applied.replace(slice);
            undo.wrote_slice = true;
        }
        undo
    }

    fn undo(&mut self, undo: Undo) {
        if let Some(below) = undo.cut {
            self.uncut(below);
        }
        for change in undo.changes.into_iter().rev() {
            self.change(change);
        }
        if undo.wrote_slice {
            self.applied = undo.applied;
        }
        if let Some((key, record)) = undo.commit {
            self.put_commit(key, record);
        }
        let kept = self.base.stamp.index.0 + (self.log.len() - undo.appended) as u64;
        self.truncate(Index(kept));
        self.append(undo.truncated);
    }
}

fn cut_off() -> StorageError {
    StorageError::Io {
        what: "cannot reach",
        path: "the disk in memory".into(),
        source: std::io::Error::other("it was cut off"),
    }
}

impl Disk {
    /// What readers see.
    fn readable(&self) -> &Image {
        self.old.as_ref().unwrap_or(&self.live)
    }

    /// Counts an operation; says whether to do it, and whether to report success.
    fn begin(&mut self, epoch: u64) -> Result<Option<StorageError>, StorageError> {
        if epoch != self.epoch {
            return Err(cut_off());
        }
        let this = self.operations;
        self.operations += 1;
        match self.fail_at {
            Some((at, Effect::Done)) if this == at => Ok(Some(cut_off())),
            Some((at, _)) if this >= at => Err(cut_off()),
            _ => Ok(None),
        }
    }

    /// One primitive operation.
    fn operate(
        &mut self,
        epoch: u64,
        operation: impl FnOnce(&mut Self),
    ) -> Result<(), StorageError> {
        let outcome = self.begin(epoch)?;
        operation(self);
        outcome.map_or(Ok(()), Err)
    }
}

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("no code under this lock panics")
    }

    /// Cuts the power: what was durable stays, with a prefix of the unsynced writes, and each
    /// unsynced block of the hard state is lost, kept or torn. `choose(n)` picks a number below
    /// `n`. The process that was writing is dead.
    pub fn crash(&self, choose: &mut dyn FnMut(usize) -> usize) {
        let disk = &mut *self.lock();
        disk.epoch += 1;
        (disk.next, disk.old) = (None, None);
        let kept = choose(disk.unsynced.len() + 1);
        for undo in disk.unsynced.drain(..).skip(kept).rev() {
            disk.live.undo(undo);
        }
        if let Some(hard) = &mut disk.hard {
            for (number, new) in std::mem::take(&mut hard.unsynced) {
                let old = &mut hard.durable[number];
                *old = match choose(4) {
                    0 => continue,
                    1 => new,
                    2 => [&new[..SECTOR_BYTES], &old[SECTOR_BYTES..]].concat(),
                    _ => [&old[..SECTOR_BYTES], &new[SECTOR_BYTES..]].concat(),
                };
            }
            hard.live = hard.durable.clone();
        }
    }

    /// Lets the `n`-th primitive operation from now on (0 is the next one) fail, and every later
    /// one until the disk is opened again. A primitive operation is a write, a sync of the store,
    /// the write of one block of the hard state or its sync.
    pub fn fail_after(&self, n: u64, effect: Effect) {
        let disk = &mut *self.lock();
        disk.fail_at = Some((disk.operations + n, effect));
    }

    /// Primitive operations so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// An empty disk in the place of this one. The process that was writing is dead.
    pub fn wipe(&self) {
        let disk = &mut *self.lock();
        *disk = Disk {
            epoch: disk.epoch + 1,
            operations: disk.operations,
            ..Disk::default()
        };
    }

    /// Puts the store aside for an empty one; the hard state stays. The process that was writing is
    /// dead.
    pub fn discard(&self) {
        let disk = &mut *self.lock();
        disk.epoch += 1;
        (disk.next, disk.old) = (None, None);
        disk.unsynced.clear();
        disk.live = Image::default();
    }

    /// Loses the hard state. The process that was writing is dead.
    pub fn lose_hard_state(&self) {
        let disk = &mut *self.lock();
        disk.epoch += 1;
        disk.hard = None;
    }

    /// Where the log begins, and what the trees stand at.
    pub fn base_and_applied(&self) -> (Index, Index) {
        let live = &self.lock().live;
        let applied = live.applied.as_ref().map(|slice| slice.applied);
        (live.base.stamp.index, applied.unwrap_or_default())
    }
}

/// The store of one process run on a [`MemDisk`].
pub struct MemStore {
    disk: MemDisk,
    epoch: u64,
    writer: Option<Writer>,
}

impl MemStore {
    /// Opens the disk as [`super::open_directory`] opens a directory, and makes what it finds
    /// durable. Without a hard state, `recovered.hard_state` is `None`; the first
    /// `write_hard_state` creates it. Earlier stores on this disk are dead afterwards.
    pub fn open(disk: &MemDisk) -> Result<(Self, Recovered), StorageError> {
        Self::open_with_cache(disk, limits::LOG_CACHE_BYTES)
    }

    /// The same, with another bound on the entries before the applied index in the tail: a small
    /// one makes a simulated replica read its store as a real one with a long log does.
    pub fn open_with_cache(
        disk: &MemDisk,
        cache_bytes: usize,
    ) -> Result<(Self, Recovered), StorageError> {
        let (epoch, blocks) = {
            let disk = &mut *disk.lock();
            disk.epoch += 1;
            (disk.next, disk.old) = (None, None);
            disk.fail_at = disk.fail_at.filter(|(at, _)| *at >= disk.operations);
            (disk.epoch, disk.hard.as_ref().map(|hard| hard.live.clone()))
        };
        let mut store = Self {
            disk: disk.clone(),
            epoch,
            writer: None,
        };
        store.sync()?;
        let found = blocks.map(|blocks| read(&[&blocks[0], &blocks[1], &blocks[2], &blocks[3]]));
        let hard_state = match found {
            // Lost promises are no damage: the caller begins a new life.
            None | Some(Err(Unreadable::Damaged(_))) => None,
            Some(Ok(found)) => {
                store.writer = Some(Writer::resume(&found, &mut store.blocks())?);
                Some(found.state)
            }
            Some(Err(Unreadable::Newer(format))) => {
                return Err(StorageError::Unusable(format!(
                    "hard_state has format {format}"
                )));
            }
        };
        let recovered = recover(&disk.lock().live, hard_state, cache_bytes)?;
        let rewritten_bytes = store.rewritten_bytes();
        let recovered = Recovered {
            rewritten_bytes,
            ..recovered
        };
        Ok((store, recovered))
    }

    fn blocks(&self) -> MemBlocks {
        MemBlocks {
            disk: self.disk.clone(),
            epoch: self.epoch,
        }
    }

    fn write_at_once(disk: &mut Disk, write: Write) {
        let undo = disk.live.apply(write);
        disk.unsynced.push(undo);
    }
}

struct MemBlocks {
    disk: MemDisk,
    epoch: u64,
}

impl Blocks for MemBlocks {
    fn write_block(&mut self, number: usize, bytes: &[u8]) -> Result<(), StorageError> {
        self.disk.lock().operate(self.epoch, |disk| {
            if let Some(hard) = &mut disk.hard {
                hard.live[number] = bytes.to_vec();
                hard.unsynced.push((number, bytes.to_vec()));
            }
        })
    }
    fn sync(&mut self) -> Result<(), StorageError> {
        self.disk.lock().operate(self.epoch, |disk| {
            if let Some(hard) = &mut disk.hard {
                hard.durable = hard.live.clone();
                hard.unsynced.clear();
            }
        })
    }
}

impl Store for MemStore {
    type Reader = MemReader;

    fn write(&mut self, mut write: Write) -> Result<(), StorageError> {
        let disk = &mut *self.disk.lock();
        super::records::check_append(&write, |after| disk.live.end_at(after))?;
        disk.operate(self.epoch, |disk| {
            if Mutant::AdoptTorn.on() && write.truncate_after.is_some() && !write.append.is_empty()
            {
                let rest = write.append.split_off(write.append.len() / 2);
                let first = Write {
                    truncate_after: write.truncate_after.take(),
                    append: std::mem::replace(&mut write.append, rest),
                    ..Write::default()
                };
                disk.live.apply(first);
                disk.unsynced.clear();
            }
            Self::write_at_once(disk, write);
        })
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.disk
            .lock()
            .operate(self.epoch, |disk| disk.unsynced.clear())
    }

    fn write_hard_state(&mut self, state: &HardState, sync: bool) -> Result<(), StorageError> {
        let mut blocks = self.blocks();
        if let Some(writer) = &mut self.writer {
            return writer.write(state, sync, &mut blocks);
        }
        // A new file appears by a rename: completely and durably, or not at all.
        let (writer, created) = Writer::create(state)?;
        self.disk.lock().operate(self.epoch, |disk| {
            disk.hard = Some(HardBlocks {
                live: created.clone(),
                durable: created,
                unsynced: Vec::new(),
            });
        })?;
        self.writer = Some(writer);
        Ok(())
    }

    fn base(&self) -> Result<Base, StorageError> {
        Ok(self.disk.lock().live.base.clone())
    }

    fn entries(&self, from: Index, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let disk = self.disk.lock();
        let start = disk.live.kept(from.previous());
        let entries = disk.live.log.get(start..).unwrap_or_default();
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.bytes().len();
            first || bytes <= bytes_max
        };
        let read: Vec<Entry> = entries.iter().take_while(fits).cloned().collect();
        disk.live.rot.read_entries(&read)?;
        Ok(read)
    }

    fn commit_records(&self, from: Index, to: Index) -> Result<Vec<CommitRecord>, StorageError> {
        if from > to {
            return Ok(Vec::new());
        }
        let disk = self.disk.lock();
        disk.live.rot.read_commits(from, to)?;
        Ok(disk
            .live
            .commits
            .range(from.0..=to.0)
            .map(|(_, r)| *r)
            .collect())
    }

    fn cut_point(&self, most: Index) -> Result<Option<Index>, StorageError> {
        Ok(self.disk.lock().live.cut_point(most))
    }

    fn cut(&mut self, base: &Base) -> Result<(), StorageError> {
        self.cut_live(base)
    }

    fn reader(&self) -> MemReader {
        MemReader(self.disk.clone())
    }

    fn next_begin(&mut self, base: &Base) -> Result<(), StorageError> {
        self.begin_next(base)
    }

    fn next_cut(&mut self, base: &Base) -> Result<(), StorageError> {
        self.cut_next(base)
    }

    fn next_write(&mut self, write: Write) -> Result<(), StorageError> {
        self.write_next(write)
    }

    fn next_reader(&self) -> Result<Box<dyn StateReader>, StorageError> {
        Ok(Box::new(self.read_next()))
    }

    fn next_check(&mut self, scan: Scan) -> Result<Option<Checked>, StorageError> {
        self.check_next(scan).map(Some)
    }

    fn next_install(&mut self) -> Result<(), StorageError> {
        self.install_next()
    }

    fn next_drop(&mut self) -> Result<(), StorageError> {
        self.disk
            .lock()
            .operate(self.epoch, |disk| disk.next = None)
    }

    fn rewritten_bytes(&self) -> u64 {
        self.disk.lock().live.rewritten
    }

    fn size_bytes(&self) -> u64 {
        self.disk.lock().live.bytes
    }
}

/// Reads the live image's state trees.
#[derive(Clone)]
pub struct MemReader(MemDisk);

impl MemReader {
    fn collect(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        take: impl FnOnce(&mut dyn DoubleEndedIterator<Item = (Bytes, Bytes)>) -> Vec<(Bytes, Bytes)>,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let disk = self.0.lock();
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let mut range = disk.readable().trees[tree as usize]
            .range::<[u8], _>(bounds)
            .map(|(key, value)| (key.clone(), value.clone()));
        let rows = take(&mut range);
        for (key, _) in &rows {
            disk.readable().rot.read_row(tree, key)?;
        }
        Ok(rows)
    }
}

impl StateReader for MemReader {
    fn switch(&self) {
        self.0.lock().old = None;
    }

    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let disk = self.0.lock();
        let image = disk.readable();
        image.rot.read_row(tree, &Bytes::copy_from_slice(key))?;
        Ok(image.trees[tree as usize].get(key).cloned())
    }

    fn range(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        self.collect(tree, from, to, |range| range.take(limit).collect())
    }

    fn range_back(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        self.collect(tree, from, to, |range| range.rev().take(limit).collect())
    }
}
