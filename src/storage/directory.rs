//! The data directory around a store: lock, identity, formats, creation.
//!
//! ```text
//! DIR/             0700
//!   lock           held with flock while a process uses the directory
//!   CURRENT        the name of the live store, "store-0001\n"
//!   hard_state     the promises: see `hard_state.rs`
//!   damaged-store-000N/   one that was put aside
//!   store-0001/    sled's files, and
//!     store_format   format version and segment size, as text
//! ```
//!
//! A store is complete and durable BEFORE `CURRENT` names it, and `CURRENT` is there BEFORE
//! `hard_state`, so that a crash while a directory is created leaves one that is created again; and
//! a hard state without a store is always a loss. A store that `CURRENT` does not name goes once the
//! live one has opened; a damaged one is put aside: see `repair`.

use super::files::{self, failed, private_directory, replace_file, sync_directory};
use super::guard::{self, answered, closed, guarded};
use super::hard_state::{Found, HardStateFile, Unreadable, Writer};
use super::layout::{
    create_store_at, current_store, newer_format, read_format, remove_others, rewritten_bytes,
    write_format,
};
use super::life::{begin_life, check_identity};
use super::recovery::recover;
use super::sled_store::{DbFile, Engine, Leaf, Live, LiveBytes, Parts, Tidying};
use super::{Recovered, SledStore, StorageError, history, repair};
use crate::consensus::HardState;
use crate::limits;
use crate::types::entry::Entry;
use crate::types::{Incarnation, Index, ReplicaId};
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// The name of the first store.
const FIRST_STORE: &str = "store-0001";

/// Who opens a directory, and how.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// This replica.
    pub id: ReplicaId,
    /// Every configured replica, this one included.
    pub ids: Vec<ReplicaId>,
    /// The incarnation for a new directory: 128 fresh random bits. Unused in one that exists.
    pub incarnation: Incarnation,
    /// sled's cache in bytes; its memory exceeds this by a few times.
    pub cache_bytes: u64,
    /// What has not opened or answered in this time never will.
    pub patience: Duration,
}

impl OpenOptions {
    /// Default of `cache_bytes`.
    pub const CACHE_BYTES: u64 = limits::STORE_CACHE_BYTES;
    /// Default of `patience`.
    pub const PATIENCE: Duration = guard::PATIENCE;
}

/// A directory that was opened.
pub enum Opened {
    /// The store is readable. `recovered.hard_state` is there; `recovered.damage` may not be empty,
    /// and then the replica takes no part.
    Good {
        /// The store, which holds the directory's lock.
        store: SledStore,
        /// What is in it, all of it durable.
        recovered: Recovered,
    },
    /// There was a store and it cannot be read: the replica takes no part.
    Damaged {
        /// Who this is, if the hard state can be read.
        hard_state: Option<HardState>,
        /// What is wrong, and what to do.
        sentence: String,
        /// Keeps other processes away while this is shown.
        lock: DirectoryLock,
    },
}

/// The exclusive use of a data directory, until dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock of a directory that exists; refuses at once if another process has it.
    pub fn take(directory: &Path) -> Result<Self, StorageError> {
        let path = directory.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed("cannot open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => Err(StorageError::Unusable(format!(
                "the data directory {} is in use by another process: stop that one, or name \
                 another directory",
                directory.display()
            ))),
            Err(std::fs::TryLockError::Error(error)) => Err(failed("cannot lock", &path)(error)),
        }
    }
}

/// Opens a replica's data directory, or creates a new one in an empty or missing directory.
///
/// Errors are for the operator: the directory is in use, belongs to another replica or cluster, or
/// was written by a newer version; or the disk failed. Damage is not an error: see [`Opened`].
pub fn open_directory(path: &Path, options: &OpenOptions) -> Result<Opened, StorageError> {
    prepare(path)?;
    let lock = DirectoryLock::take(path)?;
    let hard_state_path = path.join("hard_state");
    let (found, lost) = load_promises(&hard_state_path)?;
    if let Some(found) = &found {
        check_identity(path, &found.state, options)?;
    }
    if found.is_none() && lost.is_none() && files::read_text(&path.join("CURRENT"))?.is_none() {
        create_first_store(path, options.cache_bytes)?;
    }
    let place = Place {
        path,
        cache_bytes: options.cache_bytes,
        patience: options.patience,
    };
    let (opened, found) = repair::open_or_repair(&place, found)?;
    let (engine, db_file, recovered) = match opened {
        Ok(opened) => opened,
        Err(StorageError::Damaged(sentence)) => {
            let state = found.map(|found| found.state);
            return Ok(damaged((path, options), state, &sentence, lock));
        }
        Err(error) => return Err(error),
    };
    let found = match found {
        Some(found) => found,
        None => match begin_life(path, &engine, &recovered, options, lost)? {
            Ok(found) => found,
            Err(sentence) => return Ok(damaged((path, options), None, &sentence, lock)),
        },
    };
    let mut hard_state = HardStateFile::open(&hard_state_path)?;
    let writer = Writer::resume(&found, &mut hard_state)?;
    let recovered = Recovered {
        hard_state: Some(found.state),
        ..recovered
    };
    let base = recovered.base.clone();
    let last_hash = recovered.tail.last().map_or(base.hash, Entry::hash);
    let store_path = current_store(path)?;
    let rewritten_bytes = rewritten_bytes(&store_path)?;
    remove_others(path, &store_path)?;
    let recovered = Recovered {
        rewritten_bytes,
        last_repair: history::repairs(path)?.pop(),
        ..recovered
    };
    let store = SledStore::new(Parts {
        live: Live {
            bytes: live_bytes(&engine, &recovered)?,
            tidying: Tidying::default(),
            leaf: Leaf::default(),
            engine,
            db_file,
            path: store_path,
            last: recovered.last,
            last_hash,
            base: base.stamp.index,
        },
        directory: path.into(),
        rewritten_bytes,
        cache_bytes: options.cache_bytes,
        hard_state,
        writer,
        lock,
    });
    Ok(Opened::Good { store, recovered })
}

/// The promises that there are, or what is wrong with them.
fn load_promises(path: &Path) -> Result<(Option<Found>, Option<String>), StorageError> {
    match HardStateFile::load(path)? {
        None => Ok((None, None)),
        Some(Ok(found)) => Ok((Some(found), None)),
        Some(Err(Unreadable::Damaged(sentence))) => Ok((None, Some(sentence))),
        Some(Err(Unreadable::Newer(format))) => Err(newer_format(path, u32::from(format))),
    }
}

/// A store that was opened, and what is in it.
pub(super) type OpenedStore = Result<(Engine, DbFile, Recovered), StorageError>;

/// A directory that this process holds, and how its stores are opened.
pub(super) struct Place<'a> {
    pub(super) path: &'a Path,
    pub(super) cache_bytes: u64,
    pub(super) patience: Duration,
}

/// What was live with the last slice, and the entries since.
fn live_bytes(engine: &Engine, recovered: &Recovered) -> Result<Option<LiveBytes>, StorageError> {
    let applied = recovered.applied.as_ref().map(|slice| slice.applied);
    let live = engine.live(applied)?;
    Ok(live.map(|live| {
        let since = recovered.tail.iter().filter(|e| e.index() > live.last);
        let bytes: usize = since.map(|entry| entry.bytes().len()).sum();
        LiveBytes {
            log: live.log.saturating_add(bytes as u64),
            ..live
        }
    }))
}

impl Place<'_> {
    /// Opens the live store and reads it.
    pub(super) fn open_store(&self, found: Option<&Found>) -> OpenedStore {
        let store = current_store(self.path)?;
        let format = read_format(&store)?;
        let (path, state) = (store.clone(), found.map(|f| f.state.clone()));
        let (cache_bytes, patience) = (self.cache_bytes, self.patience);
        let at = ("cannot open", &*store);
        let db_file = answered(patience, at, move || DbFile::open(&path))?;
        let path = store.clone();
        let (engine, recovered) = guarded(patience, move || {
            let mut engine = Engine::open(&path, cache_bytes)?;
            engine.migrate()?;
            engine.finish_cut()?;
            // What a killed process left in the page cache is readable and not durable yet.
            engine.flush()?;
            let recovered = recover(&engine, state, limits::LOG_CACHE_BYTES)?;
            Ok((engine, recovered))
        })?;
        let (path, at) = (store.clone(), ("cannot fsync", &*store));
        let db_file = answered(patience, at, move || {
            db_file.sync()?;
            files::sync_file(&path.join("conf"))?;
            sync_directory(&path)?;
            Ok(db_file)
        })?;
        if format < engine.format() {
            write_format(&store, rewritten_bytes(&store)?)?;
        }
        Ok((engine, db_file, recovered))
    }

    /// Before the store is put aside. One that cannot be closed is left to its threads.
    pub(super) fn close(&self, opened: OpenedStore) {
        if !closed(self.patience, opened) {
            tracing::warn!(
                "the damaged store in {} does not close: a thread of it is left behind",
                self.path.display()
            );
        }
    }
}

/// Creates the directory, or closes one that is ours (or will be) to other users. One that holds
/// somebody else's files, as `/tmp` does, was named by mistake.
fn prepare(path: &Path) -> Result<(), StorageError> {
    let names = match std::fs::read_dir(path) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed("cannot list", path))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed("cannot list", path)(error)),
    };
    let ours = |name: &OsString| {
        let name = name.to_string_lossy();
        ["lock", "CURRENT", "hard_state"].contains(&&*name) || name.starts_with("store-")
    };
    // Of a file system of its own.
    let empty = names.iter().all(|name| name == "lost+found");
    if !empty && !names.iter().any(ours) {
        return Err(StorageError::Unusable(format!(
            "{} is no data directory of a replica and holds other files: name one that is empty, or \
             that is not there yet",
            path.display()
        )));
    }
    private_directory(path)
}

/// Builds the first store beside its place, then puts it there; `CURRENT` last.
fn create_first_store(path: &Path, cache_bytes: u64) -> Result<(), StorageError> {
    let store = path.join(FIRST_STORE);
    if !store.exists() {
        let beside = path.join("store-0001.new");
        create_store_at(&beside, cache_bytes)?;
        std::fs::rename(&beside, &store).map_err(failed("cannot rename to", &store))?;
        sync_directory(path)?;
        if let Some(parent) = path.canonicalize().ok().as_deref().and_then(Path::parent) {
            sync_directory(parent)?;
        }
    }
    replace_file(&path.join("CURRENT"), format!("{FIRST_STORE}\n").as_bytes())
}

fn damaged(
    (path, options): (&Path, &OpenOptions),
    hard_state: Option<HardState>,
    sentence: &str,
    lock: DirectoryLock,
) -> Opened {
    let next = what_next((path, options.id), options.ids.len() == 1);
    Opened::Damaged {
        hard_state,
        sentence: format!(
            "the store in {} is damaged and this replica takes no part ({sentence}). Nothing was \
             changed. {next}",
            path.display()
        ),
        lock,
    }
}

/// An empty directory is filled by the others, and loses everything where there are none.
fn what_next((path, id): (&Path, ReplicaId), alone: bool) -> String {
    if !alone {
        return "If the other replicas are well, move the directory away and start this replica \
                with an empty one: it is readmitted and catches up"
            .to_owned();
    }
    format!(
        "There is no other replica to fill an empty directory: do not start with one, everything \
         would be lost. Keep this directory and restore it from a backup; without one, \
         `chat-admin recover --data-dir {id}={}` shows what is left in it",
        path.display()
    )
}

impl Opened {
    /// What keeps this replica from taking part, if anything: index and sentence.
    pub fn damage(&self) -> Option<(Index, String)> {
        match self {
            Self::Good { recovered, .. } => recovered.damage.first().cloned(),
            Self::Damaged { sentence, .. } => Some((Index(0), sentence.clone())),
        }
    }
}
