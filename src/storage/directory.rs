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
use super::guard::guarded;
use super::hard_state::{Found, HardStateFile, Unreadable, Writer};
use super::recovery::recover;
use super::sled_store::{self, DbFile, Engine, Live, Parts};
use super::{Recovered, SledStore, StorageError, migrations, repair};
use crate::consensus::{FormationStatus, HardState, Repair};
use crate::limits;
use crate::types::entry::Entry;
use crate::types::{Incarnation, Index, ReplicaId, Stamp};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The name of the first store.
const FIRST_STORE: &str = "store-0001";
/// Format version and segment size: sled's own `conf` may be lost in a power cut, and a store
/// opened with another segment size comes up empty without an error.
const STORE_FORMAT: &str = "store_format";

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
}

impl OpenOptions {
    /// Default of `cache_bytes`.
    pub const CACHE_BYTES: u64 = 64 * 1024 * 1024;
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
    let mut lost = None;
    let found = match HardStateFile::load(&hard_state_path)? {
        None => None,
        Some(Ok(found)) => Some(found),
        Some(Err(Unreadable::Newer(format))) => {
            return Err(newer_format(&hard_state_path, u32::from(format)));
        }
        Some(Err(Unreadable::Damaged(sentence))) => {
            lost = Some(sentence);
            None
        }
    };
    if let Some(found) = &found {
        check_identity(path, &found.state, options)?;
    }
    if found.is_none() && lost.is_none() && files::read_text(&path.join("CURRENT"))?.is_none() {
        create_first_store(path, options.cache_bytes)?;
    }
    let (opened, found) = open_or_repair(path, found, options.cache_bytes)?;
    let (engine, db_file, recovered) = match opened {
        Ok(opened) => opened,
        Err(StorageError::Damaged(sentence)) => {
            return Ok(damaged(path, found.map(|f| f.state), &sentence, lock));
        }
        Err(error) => return Err(error),
    };
    let found = match found {
        Some(found) => found,
        None => match begin_life(path, &engine, &recovered, options, lost)? {
            Ok(found) => found,
            Err(sentence) => return Ok(damaged(path, None, &sentence, lock)),
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
        ..recovered
    };
    let store = SledStore::new(Parts {
        live: Live {
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

type OpenedStore = Result<(Engine, DbFile, Recovered), StorageError>;

/// Opens the live store, or the empty one that takes the place of a damaged one. Returns the
/// promises as they are then.
fn open_or_repair(
    path: &Path,
    found: Option<Found>,
    cache_bytes: u64,
) -> Result<(OpenedStore, Option<Found>), StorageError> {
    let opened = open_store(path, found.as_ref(), cache_bytes);
    let Some(promises) = found.as_ref().filter(|f| repair::can_repair(&f.state)) else {
        return Ok((opened, found));
    };
    let Some((why, begun, mut begins_as)) = needs_repair(&opened, promises) else {
        return Ok((opened, found));
    };
    // Closed before it is put aside.
    drop(opened);
    if let Repair::Suspect(kept) = begins_as {
        if let Ok(promises) = repair::cut(path, promises, (kept, &why), cache_bytes) {
            let opened = open_store(path, Some(&promises), cache_bytes);
            if needs_repair(&opened, &promises).is_none() {
                return Ok((opened, Some(promises)));
            }
        }
        // Nothing of it can be used.
        begins_as = Repair::UnderWay;
    }
    let promises = repair::begin(path, promises, begun, (begins_as, &why), cache_bytes)?;
    let opened = open_store(path, Some(&promises), cache_bytes);
    Ok((opened, Some(promises)))
}

/// Why the store must be put aside, if it must, whether that has been done already, and what the
/// repair begins with.
fn needs_repair(opened: &OpenedStore, promises: &Found) -> Option<(String, bool, Repair)> {
    match opened {
        Err(StorageError::Damaged(sentence)) => {
            let begins_as = promises.state.repair.after(Repair::UnderWay);
            Some((sentence.clone(), false, begins_as))
        }
        Ok((_, _, recovered)) if repair::must_discard(recovered) => {
            let first = recovered.damage.first();
            let known = "it contradicted what was committed";
            let why = first.map_or_else(|| known.to_owned(), |(_, sentence)| sentence.clone());
            let begun = first.is_none() && repair::is_begun(recovered);
            Some((why, begun, repair::repair_begins_as(recovered)))
        }
        _ => None,
    }
}

/// Creates the directory, or closes one that is ours (or will be) to other users. One that holds
/// something else is left as it is: it might be a system's, named by mistake.
fn prepare(path: &Path) -> Result<(), StorageError> {
    let foreign = match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some() && !path.join("CURRENT").exists(),
        Err(_) => false,
    };
    if foreign {
        return Ok(());
    }
    private_directory(path)
}

/// Opens the live store and reads it.
fn open_store(
    path: &Path,
    found: Option<&Found>,
    cache_bytes: u64,
) -> Result<(Engine, DbFile, Recovered), StorageError> {
    let store_path = current_store(path)?;
    let format = read_format(&store_path)?;
    let db_file = DbFile::open(&store_path)?;
    let (open_path, state) = (store_path.clone(), found.map(|f| f.state.clone()));
    let (engine, recovered) = guarded(move || {
        let engine = Engine::open(&open_path, cache_bytes)?;
        engine.migrate()?;
        // What a killed process left in the page cache is readable and not durable yet.
        engine.flush()?;
        let recovered = recover(&engine, state, limits::LOG_CACHE_BYTES)?;
        Ok((engine, recovered))
    })?;
    db_file.sync()?;
    files::sync_file(&store_path.join("conf"))?;
    sync_directory(&store_path)?;
    if format < migrations::FORMAT {
        write_format(&store_path, rewritten_bytes(&store_path)?)?;
    }
    Ok((engine, db_file, recovered))
}

/// An empty store in a directory that does not exist, or only as a leftover.
pub(super) fn create_store_at(store: &Path, cache_bytes: u64) -> Result<(), StorageError> {
    remove_store(store)?;
    private_directory(store)?;
    sled_store::create(store, cache_bytes)?;
    write_format(store, 0)
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

/// The directory that `CURRENT` names.
pub(super) fn current_store(path: &Path) -> Result<PathBuf, StorageError> {
    let Some(text) = files::read_text(&path.join("CURRENT"))? else {
        return Err(StorageError::Damaged(
            "CURRENT: the file is missing, so nothing says which store is the live one".into(),
        ));
    };
    let name = text.trim_end();
    let digits = name.strip_prefix("store-").unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(StorageError::Damaged(format!(
            "CURRENT: it should name a store and says {name:?}"
        )));
    }
    let store = path.join(name);
    if store.is_dir() {
        Ok(store)
    } else {
        Err(StorageError::Damaged(format!(
            "CURRENT: it names {name}, which is missing"
        )))
    }
}

/// The directory after a store's.
pub(super) fn store_after(store: &Path) -> Result<PathBuf, StorageError> {
    let name = store.file_name().and_then(|name| name.to_str());
    let number = name
        .and_then(|name| name.strip_prefix("store-"))
        .and_then(|digits| digits.parse::<u64>().ok());
    let Some(number) = number else {
        return Err(StorageError::Unusable(format!(
            "{} has no number to count on from",
            store.display()
        )));
    };
    Ok(store.with_file_name(format!("store-{:04}", number + 1)))
}

/// Removes a store that CURRENT does not name, if it is there.
pub(super) fn remove_store(store: &Path) -> Result<(), StorageError> {
    match std::fs::remove_dir_all(store) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("cannot remove", store)(error))
        }
        _ => Ok(()),
    }
}

/// Stores that CURRENT does not name: one that was being built when the process ended, or an old
/// one. They go now that the live one has opened.
fn remove_others(path: &Path, live: &Path) -> Result<(), StorageError> {
    for entry in std::fs::read_dir(path).map_err(failed("cannot list", path))? {
        let entry = entry.map_err(failed("cannot list", path))?;
        let name = entry.file_name();
        let store = name.to_string_lossy().starts_with("store-");
        if store && entry.path() != live {
            remove_store(&entry.path())?;
        }
    }
    Ok(())
}

/// CURRENT names this store, durably, from now on.
pub(super) fn name_current(path: &Path, store: &Path) -> Result<(), StorageError> {
    let name = store.file_name().unwrap_or_default().to_string_lossy();
    replace_file(&path.join("CURRENT"), format!("{name}\n").as_bytes())
}

/// Writes the file that names format and segment size, and the store's size if it was rewritten.
pub(super) fn write_format(store: &Path, rewritten_bytes: u64) -> Result<(), StorageError> {
    let mut text = format_text();
    if rewritten_bytes > 0 {
        text = format!("{text}rewritten_bytes {rewritten_bytes}\n");
    }
    replace_file(&store.join(STORE_FORMAT), text.as_bytes())
}

/// What [`write_format`] has written down.
fn rewritten_bytes(store: &Path) -> Result<u64, StorageError> {
    let text = files::read_text(&store.join(STORE_FORMAT))?.unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("rewritten_bytes "));
    Ok(line
        .and_then(|bytes| bytes.trim().parse().ok())
        .unwrap_or(0))
}

fn format_text() -> String {
    let segment = limits::SEGMENT_BYTES;
    format!("format {}\nsegment_bytes {segment}\n", migrations::FORMAT)
}

/// The format version of a store, whose segment size must be this build's.
pub(super) fn read_format(store: &Path) -> Result<u32, StorageError> {
    let path = store.join(STORE_FORMAT);
    let text = files::read_text(&path)?.unwrap_or_default();
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|number| number.trim().parse::<u64>().ok())
    };
    let Some(format) = number("format ").and_then(|f| u32::try_from(f).ok()) else {
        return Err(StorageError::Damaged(format!(
            "{STORE_FORMAT}: it is missing or does not name a format"
        )));
    };
    if format > migrations::FORMAT {
        return Err(newer_format(store, format));
    }
    match number("segment_bytes ") {
        Some(bytes) if bytes == limits::SEGMENT_BYTES as u64 => Ok(format),
        other => Err(StorageError::Damaged(format!(
            "{STORE_FORMAT}: segments should have {} bytes and it says {other:?}",
            limits::SEGMENT_BYTES
        ))),
    }
}

/// A store that this build must not touch.
pub(super) fn newer_format(path: &Path, format: u32) -> StorageError {
    StorageError::Unusable(format!(
        "{} has format {format}, and this build knows formats up to {}: a newer version wrote it, \
         run that one",
        path.display(),
        migrations::FORMAT
    ))
}

/// sled puts a leaf that is too large into a file that it never fsyncs. `limits` rules that out,
/// so such a file means that part of the store may be missing after the next power cut.
pub(super) fn refuse_blobs(store: &Path) -> Result<(), StorageError> {
    let blobs = store.join("blobs");
    let first = match std::fs::read_dir(&blobs) {
        Ok(mut entries) => entries.next(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("cannot list", &blobs)(error)),
    };
    match first {
        None => Ok(()),
        Some(Ok(entry)) => Err(StorageError::Damaged(format!(
            "blobs: {} was never fsynced and should not exist",
            entry.file_name().to_string_lossy()
        ))),
        Some(Err(error)) => Err(failed("cannot list", &blobs)(error)),
    }
}

/// Writes the promises of a replica that has none; `lost` says why, if it had some. The inner `Err`
/// says what is damaged.
fn begin_life(
    path: &Path,
    engine: &Engine,
    recovered: &Recovered,
    options: &OpenOptions,
    mut lost: Option<String>,
) -> Result<Result<Found, String>, StorageError> {
    let last = recovered.last;
    if lost.is_none() && last != Stamp::ZERO {
        lost = Some(format!(
            "hard_state: the file is missing although the log ends at {last}"
        ));
    }
    let state = match new_life(engine, recovered, options, lost.as_deref()) {
        Ok(state) => state,
        Err(sentence) => return Ok(Err(sentence)),
    };
    check_identity(path, &state, options)?;
    let file = path.join("hard_state");
    keep_evidence(&file)?;
    HardStateFile::create(&file, &state)?;
    if let Some(sentence) = lost {
        tracing::warn!(
            "the promises of this replica are lost ({sentence}): it goes on as {} with the log \
             that it has, and does not count until the others have readmitted it",
            state.incarnation
        );
    }
    Ok(match HardStateFile::load(&file)? {
        Some(Ok(found)) => Ok(found),
        _ => Err("hard_state: it does not read as it was just written".into()),
    })
}

/// The promises of a replica that has made none, or has lost them: a new incarnation. `Err` says
/// why the store cannot be gone on with.
fn new_life(
    engine: &Engine,
    recovered: &Recovered,
    options: &OpenOptions,
    lost: Option<&str>,
) -> Result<HardState, String> {
    let mut findings: Vec<String> = lost.map(str::to_owned).into_iter().collect();
    findings.extend(
        recovered
            .damage
            .iter()
            .map(|(_, sentence)| sentence.clone()),
    );
    let last = recovered.last;
    let reader = engine.clone();
    let of_base = &recovered.base.founders;
    let founders = match guarded(move || reader.entries(Index(1), 1)) {
        _ if !of_base.is_empty() => Some(of_base.clone()),
        Ok(entries) => entries
            .first()
            .and_then(Entry::as_formation)
            .map(|formation| formation.members),
        Err(error) => {
            findings.push(error.to_string());
            None
        }
    };
    if founders.is_none() && last != Stamp::ZERO {
        findings.push("log: entry 1 does not name a cluster".into());
    }
    // A cluster of one has nobody who could readmit it, and its mark is the only proof that the
    // log is whole.
    let alone = lost.is_some() && options.ids.len() == 1;
    if recovered.damage.is_empty() && (founders.is_some() || last == Stamp::ZERO) && !alone {
        let incarnation = options.incarnation;
        return Ok(HardState::new_life(options.id, incarnation, founders, last));
    }
    Err(findings.join("; "))
}

/// A file of promises that cannot be read is kept beside its place, the newest one of them.
fn keep_evidence(hard_state: &Path) -> Result<(), StorageError> {
    let kept = hard_state.with_extension("unreadable");
    match std::fs::rename(hard_state, &kept) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("cannot rename to", &kept)(error))
        }
        _ => Ok(()),
    }
}

fn check_identity(
    path: &Path,
    state: &HardState,
    options: &OpenOptions,
) -> Result<(), StorageError> {
    if state.id != options.id {
        return Err(StorageError::Unusable(format!(
            "the data directory {} belongs to replica {}, and this is replica {}: check --id and \
             --data-dir",
            path.display(),
            state.id,
            options.id
        )));
    }
    let FormationStatus::Formed(members) = &state.formation else {
        return Ok(());
    };
    let mut ids = options.ids.clone();
    ids.sort_unstable();
    if members.keys().eq(&ids) {
        return Ok(());
    }
    let list = |ids: &mut dyn Iterator<Item = &ReplicaId>| {
        let ids: Vec<_> = ids.map(ToString::to_string).collect();
        ids.join(", ")
    };
    Err(StorageError::Unusable(format!(
        "the data directory {} belongs to a cluster of the replicas {}, and this one was started \
         for the replicas {}: check --peers and --data-dir",
        path.display(),
        list(&mut members.keys()),
        list(&mut ids.iter())
    )))
}

fn damaged(
    path: &Path,
    hard_state: Option<HardState>,
    sentence: &str,
    lock: DirectoryLock,
) -> Opened {
    Opened::Damaged {
        hard_state,
        sentence: format!(
            "the store in {} is damaged and this replica takes no part ({sentence}). Nothing was \
             changed. If the other replicas are well, move the directory away and start this \
             replica with an empty one: it is readmitted and catches up",
            path.display()
        ),
        lock,
    }
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
