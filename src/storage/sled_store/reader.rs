//! Reads of the state trees, from any thread.

use super::hot::{self, Direction, Hot};
use super::rows::Rows;
use super::{Engine, STATE, named};
use crate::storage::guard::caught;
use crate::storage::{StateReader, StorageError, Tree};
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

/// Reads the state trees of a [`super::SledStore`], from any thread. Clones share one look: after
/// [`StateReader::switch`] all of them read the store that took the place of the old one.
#[derive(Clone)]
pub struct SledReader {
    seen: Arc<RwLock<Seen>>,
}

/// What readers read, and what they read after the next switch.
struct Seen {
    now: Engine,
    then: Option<(Engine, PathBuf)>,
}

impl SledReader {
    /// The store's readers read `next` from the next switch on. Then the directory of the one before
    /// goes: `next` was opened and scanned, and CURRENT names it durably.
    pub(super) fn exchange(&self, next: Engine, old: PathBuf) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        seen.then = Some((next, old));
    }

    fn read<T>(
        &self,
        tree: Tree,
        read: impl FnOnce(&Hot, Rows) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        let now = &seen.now;
        let (rows, bundles) = (now.trees[STATE + tree as usize].clone(), now.has_bundles());
        let (hot, file) = (now.hot.clone(), Arc::clone(&now.file));
        drop(seen);
        let read = caught(|| read(&hot, Rows::new(tree, &rows, bundles)));
        read.map_err(|error| named(error, &file))
    }
}

impl StateReader for SledReader {
    fn switch(&self) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        let Some((next, path)) = seen.then.take() else {
            return;
        };
        let old = std::mem::replace(&mut seen.now, next);
        drop(seen);
        // Closing a store flushes it, and a large file takes its time to go: not on this thread.
        let gone = std::thread::Builder::new()
            .name("store-close".into())
            .spawn(move || {
                drop(old);
                if let Err(error) = std::fs::remove_dir_all(&path) {
                    tracing::warn!("cannot remove {}: {error}", path.display());
                }
            });
        if let Err(error) = gone {
            tracing::warn!("the old store goes at the next start: {error}");
        }
    }

    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.read(tree, |hot, rows| match hot.get(tree, key)? {
            Some(value) => Ok(Some(value)),
            None => rows.get(key),
        })
    }

    fn range(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        self.read(tree, |hot, rows| {
            let hot = hot.range(tree, (from, to), limit, Direction::Up)?;
            let stored = rows.range((from, to), limit)?;
            Ok(hot::merged(hot, stored, limit, Direction::Up))
        })
    }

    fn range_back(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        self.read(tree, |hot, rows| {
            let hot = hot.range(tree, (from, to), limit, Direction::Down)?;
            let stored = rows.range_back((from, to), limit)?;
            Ok(hot::merged(hot, stored, limit, Direction::Down))
        })
    }
}

impl Engine {
    /// Reads the state trees.
    pub(in crate::storage) fn reader(&self) -> SledReader {
        let seen = Seen {
            now: self.clone(),
            then: None,
        };
        SledReader {
            seen: Arc::new(RwLock::new(seen)),
        }
    }
}
