//! The store of a running replica, and the next one while it is built.

use super::leaves::Leaf;
use super::space::{Growth, Live as LiveBytes, Tidying};
use super::{COMMITS, DbFile, Engine, META, RUNS, SledReader};
use crate::consensus::HardState;
use crate::limits;
use crate::storage::files::{self, failed, sync_directory};
use crate::storage::guard::{PATIENCE, caught, guarded};
use crate::storage::hard_state::{HardStateFile, Writer};
use crate::storage::history;
use crate::storage::recovery::{Source, recover};
use crate::storage::{
    Beside, Checked, CommitRecord, DirectoryLock, RepairEnd, Scan, StateReader, StorageError,
    Store, Write, fdatasync_calls, layout, records,
};
use crate::types::entry::Entry;
use crate::types::{Base, Hash, Index, Stamp};
use sled::IVec;
use std::cell::Cell;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// Work beside the log rests after so long ...
const REST_AFTER: Duration = Duration::from_millis(1);
/// ... for at most this long, so that it hears soon that it is given up.
const REST_MAX: Duration = Duration::from_millis(100);

/// An open store that is written to.
///
/// Invariant: `last` and `last_hash` are those of the last entry written.
pub(in crate::storage) struct Live {
    pub(in crate::storage) engine: Engine,
    pub(in crate::storage) db_file: DbFile,
    pub(in crate::storage) path: PathBuf,
    pub(in crate::storage) last: Stamp,
    pub(in crate::storage) last_hash: Hash,
    /// The log begins after this entry.
    pub(in crate::storage) base: Index,
    /// Live bytes, if they were counted from the first.
    pub(in crate::storage) bytes: Option<LiveBytes>,
    pub(in crate::storage) tidying: Tidying,
    pub(in crate::storage) leaf: Leaf,
}

/// The next store.
enum Next {
    /// It is written to.
    Open(Live),
    /// It is synced, closed, opened again and scanned, on a thread of its own.
    Checked {
        path: PathBuf,
        outcome: Receiver<Result<(Live, Checked), StorageError>>,
    },
}

/// The store of a running replica.
///
/// Invariant: after a failed operation every later one fails too.
pub struct SledStore {
    live: Live,
    next: Option<Next>,
    /// Bytes written to the next store since it was last synced.
    next_unsynced: usize,
    /// sled's cache for a store that becomes the live one.
    cache_bytes: u64,
    reader: SledReader,
    directory: PathBuf,
    rewritten_bytes: u64,
    /// There was another store in this process run, which may still be closing.
    exchanged: bool,
    hard_state: HardStateFile,
    writer: Writer,
    failed: bool,
    _lock: DirectoryLock,
}

/// What [`SledStore::new`] is made of: the parts that opening a directory has checked.
pub(in crate::storage) struct Parts {
    pub(in crate::storage) live: Live,
    pub(in crate::storage) directory: PathBuf,
    pub(in crate::storage) rewritten_bytes: u64,
    pub(in crate::storage) cache_bytes: u64,
    pub(in crate::storage) hard_state: HardStateFile,
    pub(in crate::storage) writer: Writer,
    pub(in crate::storage) lock: DirectoryLock,
}

impl Live {
    /// Says how many bytes of rows it has written.
    pub(super) fn write_once(&mut self, write: Write) -> Result<usize, StorageError> {
        let (mut operations, mut hot) = (Vec::new(), None);
        let (mut last, mut last_hash) = (self.last, self.last_hash);
        if let Some(after) = write.truncate_after
            && after < last.index
        {
            (last, last_hash) = self.engine.truncate(after, &mut operations)?;
            self.leaf = Leaf::default();
        }
        records::check_append(&write, |_| (last, last_hash))?;
        let engine = &self.engine;
        engine.put_entries(&mut self.leaf, &write.append, &mut operations);
        for entry in &write.append {
            if last.index == self.base || last.term != entry.stamp().term {
                let key = IVec::from(&records::index_key(entry.index()));
                let value = IVec::from(&records::run_value(entry.stamp().term));
                operations.push((RUNS, key, Some(value)));
            }
            (last, last_hash) = (entry.stamp(), entry.hash());
        }
        if let Some(record) = &write.commit {
            let key = IVec::from(&records::index_key(record.stamp.index));
            operations.push((COMMITS, key, Some(records::commit_value(record).into())));
        }
        if let Some(slice) = &write.slice {
            let value = records::applied_value(slice);
            operations.push((META, records::APPLIED_KEY.into(), Some(value.into())));
            let engine = &self.engine;
            hot = engine.named(engine.put_slice(slice, &mut operations))?;
        }
        if let (Some(slice), Some(bytes)) = (&write.slice, &mut self.bytes) {
            (bytes.applied, bytes.last) = (slice.applied, last.index);
        }
        let counted = self.bytes.filter(|_| write.slice.is_some());
        let grown = self.engine.commit(&operations, counted);
        self.has_grown(self.engine.named(grown)?);
        self.engine.written(hot);
        (self.last, self.last_hash) = (last, last_hash);
        let values = operations
            .iter()
            .map(|(_, key, value)| (key, value.as_ref()));
        let bytes = values.map(|(key, value)| key.len() + value.map_or(0, |value| value.len()));
        Ok(bytes.sum())
    }

    fn cut_log(&mut self, base: &Base) -> Result<(), StorageError> {
        let grown = self.engine.named(caught(|| self.engine.cut(base)))?;
        self.has_grown(grown);
        self.base = base.stamp.index;
        self.put_bytes()
    }

    fn has_grown(&mut self, by: Growth) {
        self.bytes = self.bytes.map(|bytes| bytes.grown(by));
    }

    /// Keeps the live bytes where no slice does.
    fn put_bytes(&self) -> Result<(), StorageError> {
        let last = self.last.index;
        let put = self
            .bytes
            .map(|bytes| self.engine.put_live(LiveBytes { last, ..bytes }));
        self.engine.named(put.transpose())?;
        Ok(())
    }

    /// Has dead space cleaned, if there is much and the file grows.
    fn tidy(&mut self) -> Result<(), StorageError> {
        let Some(live) = self.bytes else {
            return Ok(());
        };
        let time = self.tidying.time(self.size_bytes(), live.sum());
        self.engine.named(self.engine.tidy(time))
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.flush()?;
        self.db_file.sync()
    }

    pub(super) fn flush(&self) -> Result<(), StorageError> {
        self.engine.named(self.engine.flush())
    }

    fn size_bytes(&self) -> u64 {
        let metadata = self.db_file.file.metadata();
        metadata.map_or(0, |metadata| metadata.blocks() * 512)
    }
}

impl SledStore {
    pub(in crate::storage) fn new(parts: Parts) -> Self {
        Self {
            reader: parts.live.engine.reader(),
            live: parts.live,
            next: None,
            next_unsynced: 0,
            cache_bytes: parts.cache_bytes,
            directory: parts.directory,
            rewritten_bytes: parts.rewritten_bytes,
            hard_state: parts.hard_state,
            writer: parts.writer,
            exchanged: false,
            failed: false,
            _lock: parts.lock,
        }
    }

    /// After a failure nobody knows what is on the disk, and a second fsync may say "durable"
    /// about pages that the first one dropped: nothing is tried again.
    fn once_failed<T>(
        &mut self,
        operation: impl FnOnce(&mut Self) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if self.failed {
            return Err(StorageError::Unusable(
                "the store failed before and must be opened again".into(),
            ));
        }
        let result = operation(self);
        self.failed = result.is_err();
        result
    }

    /// In the directory after the live one's, which nothing names.
    fn begin(&mut self, base: &Base) -> Result<(), StorageError> {
        self.drop_next()?;
        self.exchanged = true;
        let path = layout::store_after(&self.live.path)?;
        layout::create_store_at(&path, limits::BUILD_CACHE_BYTES)?;
        let db_file = DbFile::open(&path)?;
        let engine = Engine::open(&path, limits::BUILD_CACHE_BYTES)?;
        put_base(&engine, base)?;
        self.next = Some(Next::Open(Live {
            engine,
            db_file,
            path,
            last: base.stamp,
            last_hash: base.hash,
            base: base.stamp.index,
            bytes: Some(LiveBytes::default()),
            tidying: Tidying::default(),
            leaf: Leaf::default(),
        }));
        Ok(())
    }

    fn cut_next(&mut self, base: &Base) -> Result<(), StorageError> {
        let next = self.next_open()?;
        put_base(&next.engine, base)?;
        (next.last, next.last_hash, next.base) = (base.stamp, base.hash, base.stamp.index);
        Ok(())
    }

    /// Synced every few MiB, so that no fsync takes long: a batch may wait behind it.
    fn write_next(&mut self, write: Write) -> Result<(), StorageError> {
        let next = self.next_open()?;
        let written = next.write_once(write)?;
        let unsynced = self.next_unsynced + written;
        let full = unsynced >= limits::BUILD_SYNC_BYTES;
        self.next_unsynced = if full { 0 } else { unsynced };
        if full {
            self.next_open()?.sync()
        } else {
            Ok(())
        }
    }

    /// The next store is no part of what was promised: a failure there (a full disk) costs only
    /// that store. Damage in it is none of this one.
    fn or_drop_next<T>(&mut self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if result.is_err() {
            goes_later(self.drop_next());
        }
        result.map_err(|error| match error {
            StorageError::Damaged(what) => {
                StorageError::Unusable(format!("the next store is damaged: {what}"))
            }
            error => error,
        })
    }

    fn next_open(&mut self) -> Result<&mut Live, StorageError> {
        match &mut self.next {
            Some(Next::Open(live)) => Ok(live),
            _ => Err(StorageError::Unusable("no next store is open".into())),
        }
    }

    fn start_check(&mut self, scan: Scan) -> Result<(), StorageError> {
        let Some(Next::Open(live)) = self.next.take() else {
            return Err(StorageError::Unusable("no next store is open".into()));
        };
        let (path, cache_bytes) = (live.path.clone(), self.cache_bytes);
        let (tell, outcome) = std::sync::mpsc::channel();
        let check = move || {
            let checked = guarded(PATIENCE, move || check(live, cache_bytes, scan));
            // Whoever asked may have dropped the store meanwhile.
            drop(tell.send(checked));
        };
        std::thread::Builder::new()
            .name("store-check".into())
            .spawn(check)
            .map_err(failed("cannot start a thread for", &path))?;
        self.next = Some(Next::Checked { path, outcome });
        Ok(())
    }

    fn poll_check(&mut self) -> Result<Option<Checked>, StorageError> {
        let Some(Next::Checked { path, outcome }) = self.next.take() else {
            return Err(StorageError::Unusable("no next store is checked".into()));
        };
        let checked = match outcome.try_recv() {
            Err(TryRecvError::Empty) => {
                self.next = Some(Next::Checked { path, outcome });
                return Ok(None);
            }
            Err(TryRecvError::Disconnected) => {
                let silent = "its check ended without a word".into();
                Err(StorageError::Damaged(silent))
            }
            Ok(checked) => checked,
        };
        if checked.is_err() {
            goes_later(layout::remove_store(&path));
        }
        match checked {
            Ok((live, checked)) => {
                self.next = Some(Next::Open(live));
                Ok(Some(checked))
            }
            Err(StorageError::Damaged(sentence)) => Ok(Some(Err(sentence))),
            Err(error) => Err(error),
        }
    }

    fn install(&mut self) -> Result<(), StorageError> {
        let Some(Next::Open(next)) = self.next.take() else {
            return Err(StorageError::Unusable("no next store is open".into()));
        };
        next.put_bytes()?;
        next.sync()?;
        self.rewritten_bytes = next.size_bytes();
        layout::write_format(&next.path, self.rewritten_bytes)?;
        for file in ["conf", "db"] {
            files::sync_file(&next.path.join(file))?;
        }
        sync_directory(&next.path)?;
        sync_directory(&self.directory)?;
        layout::name_current(&self.directory, &next.path)?;
        self.exchanged = true;
        let old = std::mem::replace(&mut self.live, next);
        self.reader.exchange(self.live.engine.clone(), old.path);
        Ok(())
    }

    fn drop_next(&mut self) -> Result<(), StorageError> {
        match self.next.take() {
            None => Ok(()),
            Some(Next::Open(live)) => {
                let path = live.path.clone();
                drop(live);
                layout::remove_store(&path)
            }
            Some(Next::Checked { path, outcome }) => {
                drop(outcome.recv());
                layout::remove_store(&path)
            }
        }
    }
}

fn put_base(engine: &Engine, base: &Base) -> Result<(), StorageError> {
    let key = IVec::from(records::BASE_KEY);
    let value = IVec::from(records::base_value(base));
    engine.commit(&[(META, key, Some(value))], None)?;
    Ok(())
}

/// A store that nothing names is no harm where it is.
fn goes_later(removed: Result<(), StorageError>) {
    if let Err(error) = removed {
        tracing::warn!("the half-built store goes at the next start: {error}");
    }
}

/// Makes a store durable, opens it again as at a start, and scans its state trees.
///
/// It is opened once more with the cache that it is to have: filled by the scan, that would be there beside
/// the live one's.
fn check(live: Live, cache_bytes: u64, scan: Scan) -> Result<(Live, Checked), StorageError> {
    live.sync()?;
    let Live { engine, path, .. } = live;
    drop(engine);
    let checked = check_closed(&path, scan)?;
    let engine = Engine::open(&path, cache_bytes)?;
    let live = Live {
        engine,
        path,
        ..live
    };
    Ok((live, checked))
}

fn check_closed(path: &Path, scan: Scan) -> Result<Checked, StorageError> {
    let engine = Engine::open(path, limits::BUILD_CACHE_BYTES)?;
    let recovered = recover(&engine, None, limits::LOG_CACHE_BYTES)?;
    if let Some((_, sentence)) = recovered.damage.into_iter().next() {
        return Ok(Err(sentence));
    }
    let Some(slice) = recovered.applied else {
        return Ok(Err("it holds no state".into()));
    };
    Ok(scan(&slice, &engine.reader()).map_err(|error| error.to_string()))
}

/// Sleeps so that most of the time since the last sleep, and this one, is left to others.
fn rest(since: &Cell<Instant>) {
    let worked = since.get().elapsed();
    if worked >= REST_AFTER {
        std::thread::sleep((worked * limits::SCRUB_REST_TIMES).min(REST_MAX));
        since.set(Instant::now());
    }
}

impl Store for SledStore {
    type Reader = SledReader;

    fn write(&mut self, write: Write) -> Result<(), StorageError> {
        self.once_failed(|store| {
            let slice = write.slice.is_some();
            store.live.write_once(write)?;
            if slice { store.live.tidy() } else { Ok(()) }
        })
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.once_failed(|store| {
            let calls = fdatasync_calls();
            store.live.flush()?;
            // A flush that wrote has fdatasynced every buffer, and has failed if one of them did;
            // once more would only make the batch wait for a second round trip to the disk. The
            // count says so only while this process has no other store.
            let alone = store.next.is_none() && !store.exchanged;
            if !alone || fdatasync_calls() == calls {
                store.live.db_file.sync()?;
            }
            Ok(())
        })
    }

    fn write_hard_state(&mut self, state: &HardState, sync: bool) -> Result<(), StorageError> {
        self.once_failed(|store| store.writer.write(state, sync, &mut store.hard_state))
    }

    fn base(&self) -> Result<Base, StorageError> {
        let engine = &self.live.engine;
        engine.named(caught(|| Ok(Source::base(engine)?)))
    }

    fn entries(&self, from: Index, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        self.live.engine.entries(from, bytes_max)
    }

    fn commit_records(&self, from: Index, to: Index) -> Result<Vec<CommitRecord>, StorageError> {
        self.live.engine.commit_records(from, to)
    }

    fn cut_point(&self, most: Index) -> Result<Option<Index>, StorageError> {
        let Live { engine, base, .. } = &self.live;
        engine.named(caught(|| engine.cut_point(*base, most)))
    }

    fn cut(&mut self, base: &Base) -> Result<(), StorageError> {
        self.once_failed(|store| store.live.cut_log(base))
    }

    fn reader(&self) -> SledReader {
        self.reader.clone()
    }

    fn beside(&self, work: Beside) -> Result<(), StorageError> {
        std::thread::Builder::new()
            .name("store-scrub".into())
            .spawn(move || {
                let since = Cell::new(Instant::now());
                work(&|| rest(&since));
            })
            .map_err(failed("cannot start a thread for", &self.directory))?;
        Ok(())
    }

    fn next_begin(&mut self, base: &Base) -> Result<(), StorageError> {
        let begun = self.begin(base);
        self.or_drop_next(begun)
    }

    fn next_cut(&mut self, base: &Base) -> Result<(), StorageError> {
        let cut = self.cut_next(base);
        self.or_drop_next(cut)
    }

    fn next_write(&mut self, write: Write) -> Result<(), StorageError> {
        let written = self.write_next(write);
        self.or_drop_next(written)
    }

    fn next_reader(&self) -> Result<Box<dyn StateReader>, StorageError> {
        match &self.next {
            Some(Next::Open(live)) => Ok(Box::new(live.engine.reader())),
            _ => Err(StorageError::Unusable("no next store is open".into())),
        }
    }

    fn next_check(&mut self, scan: Scan) -> Result<Option<Checked>, StorageError> {
        let open = matches!(self.next, Some(Next::Open(_)));
        let started = if open { self.start_check(scan) } else { Ok(()) };
        let checked = started.and_then(|()| self.poll_check());
        self.or_drop_next(checked)
    }

    fn next_install(&mut self) -> Result<(), StorageError> {
        self.once_failed(Self::install)
    }

    fn next_drop(&mut self) -> Result<(), StorageError> {
        self.drop_next()
    }

    fn rewritten_bytes(&self) -> u64 {
        self.rewritten_bytes
    }

    fn size_bytes(&self) -> u64 {
        self.live.size_bytes()
    }

    fn live_bytes(&self) -> Option<u64> {
        self.live.bytes.map(LiveBytes::sum)
    }

    fn note_repaired(&mut self, end: &RepairEnd) -> Result<(), StorageError> {
        self.once_failed(|store| history::has_ended(&store.directory, end))
    }
}
