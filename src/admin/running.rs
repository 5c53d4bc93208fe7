//! The log of the replica that runs in this process.

use super::verify::LogSource;
use crate::replica::Handle;
use crate::storage::{CommitRecord, StateReader, StorageError};
use crate::types::entry::Entry;
use crate::types::{Base, Index};

/// Reads through the replica's storage thread. Blocks: use it on a blocking thread of tokio only.
pub struct RunningLog {
    handle: Handle,
    runtime: tokio::runtime::Handle,
}

impl RunningLog {
    /// Within a tokio runtime.
    pub fn new(handle: Handle) -> Self {
        Self {
            handle,
            runtime: tokio::runtime::Handle::current(),
        }
    }
}

fn stopped() -> StorageError {
    StorageError::Unusable("the replica has stopped".to_owned())
}

impl LogSource for RunningLog {
    fn base(&self) -> Result<Base, StorageError> {
        let base = self.handle.base();
        self.runtime.block_on(base).ok_or_else(stopped)?
    }

    fn entries(&self, from: Index, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let entries = self.handle.entries(from, bytes_max);
        self.runtime.block_on(entries).ok_or_else(stopped)?
    }

    fn commit_records(&self, from: Index, to: Index) -> Result<Vec<CommitRecord>, StorageError> {
        let records = self.handle.commit_records(from, to);
        self.runtime.block_on(records).ok_or_else(stopped)?
    }

    /// They move while the replica runs.
    fn trees(&self) -> Option<&dyn StateReader> {
        None
    }
}
