//! A look at the store of a stopped replica, for `dump` and `verify`.
//!
//! Opening sled recovers: it truncates, rewrites, and so destroys the evidence that somebody is
//! looking for. So this takes the directory's lock, copies the store to a private temporary
//! directory, and opens the copy. It never migrates or repairs (but completes a cut of the log that a crash has
//! interrupted, in the copy), and never writes to the directory
//! (but for the lock file, if there was none).

use super::directory::DirectoryLock;
use super::files::failed;
use super::guard::{PATIENCE, guarded};
use super::hard_state::{HardStateFile, Unreadable};
use super::layout::{current_store, newer_format, read_format};
use super::recovery::recover;
use super::sled_store::Engine;
use super::verify::{LogVerifier, verify_log};
use super::{CommitRecord, Recovered, SledReader, StateReader, StorageError, Tree};
use crate::consensus::HardState;
use crate::limits;
use crate::types::Index;
use crate::types::entry::Entry;
use bytes::Bytes;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// sled's cache while inspecting, in bytes: everything is read once.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// The copy of a stopped replica's store. It goes when this is dropped.
pub struct Inspection {
    engine: Engine,
    hard_state: Result<Option<HardState>, String>,
    recovered: Recovered,
    format: u32,
    size_bytes: u64,
    // Dropped in this order: the copy after the engine that has it open, the lock last.
    _scratch: Scratch,
    _lock: DirectoryLock,
}

impl Inspection {
    /// Copies and opens the store in a data directory. Fails if a replica runs on it, if there is
    /// none, if a newer version wrote it, and with [`StorageError::Damaged`] if it is unreadable.
    pub fn open(directory: &Path) -> Result<Self, StorageError> {
        if !directory.join("CURRENT").exists() && !directory.join("hard_state").exists() {
            return Err(StorageError::Unusable(format!(
                "{} is not a data directory: it holds neither CURRENT nor hard_state",
                directory.display()
            )));
        }
        let lock = DirectoryLock::take(directory)?;
        let hard_state_path = directory.join("hard_state");
        let hard_state = match HardStateFile::load(&hard_state_path)? {
            None => Ok(None),
            Some(Ok(found)) => Ok(Some(found.state)),
            Some(Err(Unreadable::Damaged(sentence))) => Err(sentence),
            Some(Err(Unreadable::Newer(format))) => {
                return Err(newer_format(&hard_state_path, u32::from(format)));
            }
        };
        let store = current_store(directory)?;
        let format = read_format(&store)?;
        let scratch = Scratch::new()?;
        let size_bytes = copy(&store, &scratch.0)?;
        let (path, state) = (scratch.0.clone(), hard_state.clone().ok().flatten());
        let (engine, recovered) = guarded(PATIENCE, move || {
            let engine = Engine::open(&path, CACHE_BYTES)?;
            engine.finish_cut()?;
            let recovered = recover(&engine, state, limits::LOG_CACHE_BYTES)?;
            Ok((engine, recovered))
        })?;
        Ok(Self {
            engine,
            hard_state,
            recovered,
            format,
            size_bytes,
            _scratch: scratch,
            _lock: lock,
        })
    }

    /// The promises; `Ok(None)` if the file is missing, the sentence if it is damaged.
    pub fn hard_state(&self) -> Result<Option<&HardState>, &str> {
        match &self.hard_state {
            Ok(state) => Ok(state.as_ref()),
            Err(sentence) => Err(sentence),
        }
    }

    /// What a replica would start with, and what it would find wrong.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// The format version.
    pub fn format(&self) -> u32 {
        self.format
    }

    /// Bytes of the store's files.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Entries from `from` on, about `bytes_max` bytes of them, at least one if there is any.
    pub fn entries(&self, from: Index, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let engine = self.engine.clone();
        guarded(PATIENCE, move || engine.entries(from, bytes_max))
    }

    /// Commit records with indexes in `from..=to`, ascending.
    pub fn commit_records(
        &self,
        from: Index,
        to: Index,
    ) -> Result<Vec<CommitRecord>, StorageError> {
        let engine = self.engine.clone();
        guarded(PATIENCE, move || engine.commit_records(from, to))
    }

    /// At most `limit` records of a state tree with keys above `after` (`None`: from the first).
    pub fn state_records(
        &self,
        tree: Tree,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        // The next key after any is that key and a zero byte.
        let from = after.map_or_else(Vec::new, |key| [key, &[0]].concat());
        let reader = self.engine.reader();
        guarded(PATIENCE, move || {
            reader.range(tree, &from, &[0xFF; 64], limit)
        })
    }

    /// Reads the state trees.
    pub fn reader(&self) -> SledReader {
        self.engine.reader()
    }

    /// Checks the whole log: hash chain, and commit records against log hashes.
    pub fn verify_log(&self) -> LogVerifier {
        verify_log(
            &self.recovered.base,
            |from| self.entries(from, limits::APPEND_BYTES_MAX),
            |from, to| self.commit_records(from, to),
        )
    }
}

/// A private directory that goes when dropped.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Self, StorageError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mut tries = 0;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("chat-inspect-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            // Fails on a name that exists, so nobody can have prepared the directory.
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && tries < 100 => {
                    tries += 1;
                }
                Err(error) => return Err(failed("cannot create directory", &path)(error)),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A copy that stays behind harms nobody, and there is nobody to tell here.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Copies a directory of files and directories; returns the bytes of all files.
pub(super) fn copy(from: &Path, to: &Path) -> Result<u64, StorageError> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(from).map_err(failed("cannot list", from))? {
        let entry = entry.map_err(failed("cannot list", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            std::fs::create_dir(&target).map_err(failed("cannot create directory", &target))?;
            bytes += copy(&source, &target)?;
        } else {
            bytes += std::fs::copy(&source, &target).map_err(failed("cannot copy", &source))?;
        }
    }
    Ok(bytes)
}
