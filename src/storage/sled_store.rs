//! The store of a running replica, in sled 0.34.7. Only this directory and `migrations/` import
//! sled.
//!
//! # sled's traps, and what is done about each (figures in `docs/storage.md`)
//!
//! - `flush` does not reach the disk: [`super::fdatasync`] redirects it, and [`SledStore::sync`]
//!   syncs `db` through a handle of its own, opened BEFORE the first write, whenever the redirect
//!   had nothing to do.
//! - A large leaf becomes a file under `blobs/` that is never fsynced: records are bounded
//!   (`limits`), and such a file is damage at open.
//! - Inside a transaction only the transaction's own handles may be used: an outer one waits for
//!   ever. [`Engine::commit`] is therefore given finished operations and reads nothing.
//! - `flush_async` can deadlock with itself: never called, and sled's own flusher is off.
//! - Opening or reading a damaged file may panic or hang: [`super::guard`] makes an error of that.
//! - A cut file may open as an empty store: recovery compares with the hard state.
//! - A step to the leaf before another one never ends where four bytes 0xff follow each other in a key:
//!   [`bundle::row_key`].
//! - A crash while sled writes its index makes the next open call it damaged:
//!   [`layout::remove_unfinished_index`].

pub(super) mod bundle;
mod cut;
mod hot;
mod leaves;
mod live;
mod reader;
mod rows;
mod sentinels;
mod space;

pub(super) use leaves::Leaf;
pub use live::SledStore;
pub(super) use live::{Live, Parts};
pub use reader::SledReader;
pub(super) use space::{Live as LiveBytes, Tidying};

use super::fdatasync::timed;
use super::files::failed;
use super::guard::caught;
use super::recovery::{Fault, Source};
use super::verify::Finding;
use super::{
    CommitRecord, Slice, StorageError, block, fdatasync_calls, files, layout, migrations, records,
};
use crate::limits;
use crate::types::entry::Entry;
use crate::types::{Base, Hash, Index, Stamp, Term};
use bytes::Bytes;
use sled::transaction::{TransactionError, Transactional};
use sled::{Db, IVec};
use space::Growth;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After a close in this process sled's own threads may hold the file a moment longer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Names of the trees. The positions are used as their numbers; the state trees come last, in the
/// order of [`Tree::ALL`].
const TREES: [&str; 8] = [
    "log", "runs", "commits", "meta", "users", "tokens", "inboxes", "sessions",
];
const LOG: usize = 0;
const RUNS: usize = 1;
const COMMITS: usize = 2;
const META: usize = 3;
const STATE: usize = 4;

/// What sled says of its own bytes is damage, wherever it meets them; what the operating system says
/// is a failure of the disk.
fn unreadable(what: &'static str) -> impl FnOnce(sled::Error) -> StorageError {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    move |error| match error {
        sled::Error::Io(ref io) if !matches!(io.kind(), InvalidData | UnexpectedEof) => {
            engine(what, error)
        }
        error => {
            let what = what.trim_end_matches(" in");
            StorageError::Damaged(format!("{what}: {error}"))
        }
    }
}

/// A write reads the page that it changes. But a bug of sled's that a write brings out may be met by
/// every replica at the same entry: it is no reason to put a store aside.
fn unwritten(what: &'static str) -> impl FnOnce(sled::Error) -> StorageError {
    move |error| match error {
        sled::Error::Io(_) | sled::Error::Corruption { .. } => unreadable(what)(error),
        error => engine(what, error),
    }
}

fn engine(what: &'static str, error: sled::Error) -> StorageError {
    StorageError::Engine {
        what,
        source: Box::new(error),
    }
}

fn named(error: StorageError, file: &Path) -> StorageError {
    let StorageError::Engine { what, source } = error else {
        return error;
    };
    match source.downcast::<sled::Error>().map(|error| *error) {
        Ok(sled::Error::Io(source)) => failed(what, file)(source),
        Ok(other) => engine(what, other),
        Err(source) => StorageError::Engine { what, source },
    }
}

/// Recovery goes on after damage, and collects what it finds.
fn fault(tree: &'static str, at: Index) -> impl FnOnce(sled::Error) -> Fault {
    move |error| match unreadable("cannot be read")(error) {
        StorageError::Damaged(sentence) => Finding::new(tree, at, sentence).into(),
        error => Fault::Failed(error),
    }
}

/// One insert or removal, ready for a transaction.
type Operation = (usize, IVec, Option<IVec>);

/// The open trees. Clones share them.
#[derive(Clone)]
pub(super) struct Engine {
    db: Db,
    trees: [sled::Tree; TREES.len()],
    /// sled's file, for errors.
    file: Arc<Path>,
    /// When it was opened.
    format: u32,
    sentinels: sentinels::Known,
    hot: hot::Hot,
}

impl Engine {
    /// Opens sled in `path`, which exists. Nothing is migrated: see [`Engine::migrate`].
    pub(super) fn open(path: &Path, cache_bytes: u64) -> Result<Self, StorageError> {
        layout::refuse_blobs(path)?;
        layout::remove_unfinished_index(path)?;
        let db = open_db(path, cache_bytes)?;
        let format = migrations::format_of(&db).map_err(unreadable("cannot open"))?;
        if format > migrations::FORMAT {
            return Err(layout::newer_format(path, format));
        }
        let mut trees = Vec::with_capacity(TREES.len());
        for name in TREES {
            trees.push(db.open_tree(name).map_err(unreadable("cannot open"))?);
        }
        let trees = trees.try_into().expect("one tree for each name");
        let file = path.join("db").into();
        let engine = Self {
            db,
            trees,
            file,
            format,
            sentinels: sentinels::Known::default(),
            hot: hot::Hot::default(),
        };
        if engine.has_hot_records() {
            engine.load_hot()?;
        }
        Ok(engine)
    }

    /// sled does not say which file it could not use.
    fn named<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        result.map_err(|error| named(error, &self.file))
    }

    /// The store's format version.
    pub(super) fn format(&self) -> u32 {
        self.format
    }

    fn has_bundles(&self) -> bool {
        self.format != migrations::WITHOUT_BUNDLES
    }

    fn has_sentinels(&self) -> bool {
        self.format >= migrations::WITH_SENTINELS
    }

    fn has_hot_records(&self) -> bool {
        self.format >= migrations::WITH_HOT_RECORDS
    }

    fn has_leaves_ahead(&self) -> bool {
        self.format >= migrations::WITH_LEAVES_AHEAD
    }

    /// Brings a store that was just created to the newest format.
    pub(super) fn migrate(&mut self) -> Result<(), StorageError> {
        migrations::run(&self.db).map_err(unwritten("cannot migrate"))?;
        if self.format == 0 {
            self.format = migrations::FORMAT;
        }
        Ok(())
    }

    /// Makes everything durable, as far as sled does that.
    pub(super) fn flush(&self) -> Result<(), StorageError> {
        let flushed = sled_locks::by_itself(|| self.db.flush());
        flushed.map_err(unwritten("cannot flush"))?;
        Ok(())
    }

    /// Says how the live bytes have changed. `live`: with a slice, what they were before it.
    fn commit(
        &self,
        operations: &[Operation],
        live: Option<space::Live>,
    ) -> Result<Growth, StorageError> {
        let mut touched: Vec<usize> = operations.iter().map(|(tree, ..)| *tree).collect();
        touched.sort_unstable();
        touched.dedup();
        if touched.is_empty() {
            return Ok(Growth::default());
        }
        let only_log = touched.iter().all(|tree| [LOG, COMMITS].contains(tree));
        if only_log && operations.iter().all(|(.., value)| value.is_some()) {
            return self.write_in_order(operations);
        }
        let trees: Vec<&sled::Tree> = touched.iter().map(|tree| &self.trees[*tree]).collect();
        let done: Result<Growth, TransactionError<()>> = trees[..].transaction(|views| {
            let mut grown = Growth::default();
            for (tree, key, value) in operations {
                let at = touched.binary_search(tree).expect("collected from these");
                let old = match value {
                    Some(value) => views[at].insert(key.clone(), value.clone())?,
                    None => views[at].remove(key.clone())?,
                };
                grown.replaced(*tree, key, old.as_ref(), value.as_ref());
            }
            if let (Some(live), Ok(at)) = (live, touched.binary_search(&META)) {
                views[at].insert(space::LIVE_KEY, live.grown(grown).value())?;
            }
            Ok(grown)
        });
        match done {
            Ok(grown) => Ok(grown),
            Err(TransactionError::Abort(())) => Ok(Growth::default()),
            Err(TransactionError::Storage(error)) => Err(unwritten("cannot write")(error)),
        }
    }

    /// The usual batch: new blocks, then a commit record. Without a transaction sled writes one
    /// buffer instead of two, each of which is fdatasynced and wakes every thread of its pool; and
    /// none is needed, because sled's log keeps the order: after a crash a prefix is there.
    fn write_in_order(&self, operations: &[Operation]) -> Result<Growth, StorageError> {
        let mut grown = Growth::default();
        for (tree, key, value) in operations {
            let done = match value {
                Some(value) => self.trees[*tree].insert(key, value),
                None => self.trees[*tree].remove(key),
            };
            let old = done.map_err(unwritten("cannot write"))?;
            grown.replaced(*tree, key, old.as_ref(), value.as_ref());
        }
        Ok(grown)
    }

    /// Entries from `from` on, about `bytes_max` bytes of them, at least one if there is any.
    pub(super) fn entries(
        &self,
        from: Index,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.named(caught(|| self.read_entries(from, bytes_max)))
    }

    fn read_entries(&self, from: Index, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let begins = self
            .blocks(sentinels::up_to(from))
            .next_back()
            .transpose()
            .map_err(unreadable("cannot read the log in"))?;
        // Nothing at or before it: the log begins above.
        let start = begins.map_or_else(|| IVec::from(&records::index_key(from)), |(key, _)| key);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for record in self.blocks(sentinels::above(start)) {
            let (key, value) = record.map_err(unreadable("cannot read the log in"))?;
            for entry in unpack(&key, &value)? {
                if entry.index() < from {
                    continue;
                }
                bytes += entry.bytes().len();
                if bytes > bytes_max && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// Commit records with indexes in `from..=to`.
    pub(super) fn commit_records(
        &self,
        from: Index,
        to: Index,
    ) -> Result<Vec<CommitRecord>, StorageError> {
        if from > to {
            return Ok(Vec::new());
        }
        let range = records::index_key(from)..=records::index_key(to);
        let parse = |record: sled::Result<(IVec, IVec)>| {
            let (key, value) = record.map_err(unreadable("cannot read the commit records in"))?;
            let key = records::parse_index("commits", &key)?;
            Ok(records::parse_commit(key, &value)?)
        };
        self.named(caught(|| {
            self.trees[COMMITS].range(range).map(parse).collect()
        }))
    }

    /// Drops every entry and commit record above `after`, and makes that durable as far as sled does: for a log whose
    /// end cannot be read.
    pub(super) fn cut_after(&self, after: Index) -> Result<(), StorageError> {
        let mut operations = Vec::new();
        self.truncate(after, &mut operations)?;
        for key in self.trees[COMMITS]
            .range(records::index_key(after.next())..)
            .keys()
        {
            operations.push((
                COMMITS,
                key.map_err(unreadable("cannot read the log in"))?,
                None,
            ));
        }
        self.commit(&operations, None)?;
        self.flush()
    }

    /// Operations that drop every entry above `after`, and the stamp and hash of what is last then.
    fn truncate(
        &self,
        after: Index,
        operations: &mut Vec<Operation>,
    ) -> Result<(Stamp, Hash), StorageError> {
        let above = sentinels::above(records::index_key(after.next()));
        for tree in [LOG, RUNS] {
            for key in self.trees[tree].range(above.clone()).keys() {
                let key = key.map_err(unreadable("cannot read the log in"))?;
                operations.push((tree, key, None));
            }
        }
        let Some(kept) = self.block_at(after)? else {
            let base = Source::base(self)?;
            return Ok((base.stamp, base.hash));
        };
        let last = kept.last().expect("a block is never empty");
        let end = (last.stamp(), last.hash());
        put_blocks(&kept, operations);
        Ok(end)
    }
}

impl Source for Engine {
    fn block_at(&self, at: Index) -> Result<Option<Vec<Entry>>, Fault> {
        let newest = at == Index(u64::MAX);
        let place = if newest { Index(0) } else { at };
        let record = self
            .blocks(sentinels::up_to(at))
            .next_back()
            .transpose()
            .map_err(fault("log", place))?;
        let Some((key, value)) = record else {
            return Ok(None);
        };
        let mut entries = unpack(&key, &value)?;
        entries.retain(|entry| entry.index() <= at);
        Ok(Some(entries))
    }

    fn block_from(&self, from: Index) -> Result<Option<Vec<Entry>>, Fault> {
        let record = self
            .blocks(sentinels::up_to(from))
            .next_back()
            .transpose()
            .map_err(fault("log", from))?;
        let Some((key, value)) = record else {
            return Ok(None);
        };
        let mut entries = unpack(&key, &value)?;
        entries.retain(|entry| entry.index() >= from);
        Ok((!entries.is_empty()).then_some(entries))
    }

    fn base(&self) -> Result<Base, Fault> {
        let value = self.trees[META]
            .get(records::BASE_KEY)
            .map_err(fault("meta", Index(0)))?;
        let base = value.map(|value| records::parse_base(&value)).transpose()?;
        Ok(base.unwrap_or_default())
    }

    fn runs(&self) -> Result<Vec<(Index, Term)>, Fault> {
        self.trees[RUNS]
            .iter()
            .map(|record| {
                let (key, value) = record.map_err(fault("runs", Index(0)))?;
                let first = records::parse_index("runs", &key)?;
                Ok((first, records::parse_run(first, &value)?))
            })
            .collect()
    }

    fn last_commit(&self) -> Result<Option<CommitRecord>, Fault> {
        let last = self.trees[COMMITS]
            .last()
            .map_err(fault("commits", Index(0)))?;
        let Some((key, value)) = last else {
            return Ok(None);
        };
        let key = records::parse_index("commits", &key)?;
        Ok(Some(records::parse_commit(key, &value)?))
    }

    fn applied(&self) -> Result<Option<Slice>, Fault> {
        if let Some(damage) = self.hot.damage() {
            return Err(Finding::new("meta", Index(0), damage).into());
        }
        let value = self.trees[META]
            .get(records::APPLIED_KEY)
            .map_err(fault("meta", Index(0)))?;
        Ok(value
            .map(|value| records::parse_applied(&value))
            .transpose()?)
    }
}

fn unpack(key: &IVec, value: &IVec) -> Result<Vec<Entry>, Fault> {
    let key = records::parse_index("log", key)?;
    block::unpack(key, &Bytes::copy_from_slice(value))
}

fn put_blocks(entries: &[Entry], operations: &mut Vec<Operation>) {
    for (first, block) in block::pack(entries) {
        let key = IVec::from(&records::index_key(first));
        operations.push((LOG, key, Some(block.into())));
    }
}

fn open_db(path: &Path, cache_bytes: u64) -> Result<Db, StorageError> {
    let config = sled::Config::new()
        .path(path)
        .segment_size(limits::SEGMENT_BYTES)
        .cache_capacity(cache_bytes)
        .use_compression(false)
        .flush_every_ms(None);
    let started = Instant::now();
    loop {
        match config.open() {
            // The directory's lock is ours, so whoever holds this one is a thread of a store that
            // this process has just closed.
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock")
                    && started.elapsed() < CLOSE_TIMEOUT =>
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            result => return result.map_err(unreadable("cannot open")),
        }
    }
}

/// Creates a store in an empty directory and makes it durable, down to the entries of `path`; the
/// entry of `path` itself is for the caller.
pub(super) fn create(path: &Path, cache_bytes: u64) -> Result<(), StorageError> {
    let calls = fdatasync_calls();
    let mut engine = Engine::open(path, cache_bytes)?;
    engine.migrate()?;
    engine.flush()?;
    if cfg!(target_os = "linux") && fdatasync_calls() == calls {
        return Err(StorageError::Unusable(
            "this binary was linked without the fdatasync redirect: its flushes do not reach the \
             disk"
                .into(),
        ));
    }
    drop(engine);
    // sled never fsyncs `conf`: after a power cut it has 0 bytes, and a store of another segment
    // size then opens empty.
    for file in ["conf", "db"] {
        files::sync_file(&path.join(file))?;
    }
    files::sync_directory(&path.join("blobs"))?;
    files::sync_directory(path)
}

/// A handle of our own to sled's file, opened BEFORE sled writes to it in this process, so that an
/// error of its writeback is reported here.
pub(super) struct DbFile {
    file: File,
    path: PathBuf,
}

impl DbFile {
    /// Opens the file of a store that exists. sled would create a missing one, and be empty.
    pub(super) fn open(store: &Path) -> Result<Self, StorageError> {
        let path = store.join("db");
        match File::open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(StorageError::Damaged("db: the file is missing".into()))
            }
            Err(error) => Err(failed("cannot open", &path)(error)),
        }
    }

    /// fdatasync.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        let synced = timed(|| self.file.sync_data());
        synced.map_err(failed("cannot fsync", &self.path))
    }
}
