//! What is on the disk: log, commit records, state trees, hard state.
//!
//! `sled_store` is the only file that imports sled (besides `migrations/`). Everything above
//! works through [`Store`], so that the simulator runs the same replica on a disk in memory whose
//! live and durable images differ.
//!
//! | file | what |
//! |---|---|
//! | `block` | entries packed into the values of the `log` tree |
//! | `records` | every other key and value |
//! | `hard_state` | the promises: two generations of two copies in a file of their own |
//! | `recovery` | what a store holds when it is opened, and what is wrong with it |
//! | `sled_store` | [`SledStore`], the store of a running replica |
//! | `directory` | the data directory around it: lock, identity, formats, creation |
//! | `memory` | [`MemStore`], the same on a disk in memory that can be cut off at any operation |
//! | `inspect`, `verify` | `dump` and `verify`, of a stopped and of a running replica |
//! | `fdatasync` | the redirect that makes sled's flush reach the disk |
//!
//! The layout byte by byte, and why it is so, is in `docs/storage.md`. Storage never looks into
//! the records of the state trees, never repairs anything, and never returns an empty store where
//! there was a full one.
//!
//! # Duties of order
//!
//! A caller writes a [`Write`] and then calls [`Store::sync`] BEFORE anything that depends on it
//! leaves the replica. A failed write or sync is never retried: the replica stops.

mod block;
mod directory;
mod fdatasync;
mod files;
mod guard;
mod hard_state;
mod inspect;
mod memory;
#[path = "../../migrations/mod.rs"]
mod migrations;
mod records;
mod recovery;
mod sled_store;
#[cfg(test)]
mod testing;
mod verify;

pub use directory::{DirectoryLock, OpenOptions, Opened, open_directory};
pub use fdatasync::fdatasync_calls;
pub use inspect::Inspection;
pub use memory::{Effect, MemDisk, MemReader, MemStore};
pub use migrations::FORMAT;
pub use sled_store::{SledReader, SledStore};
pub use verify::{Finding, LogVerifier, verify_log};

use crate::consensus::HardState;
use crate::types::entry::Entry;
use crate::types::{Hash, Index, Members, Stamp, WallTime};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The trees that hold state, written only by checkpoint slices. Keys and values belong to the
/// state machine; storage does not look into them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tree {
    /// User records and the name index.
    Users,
    /// blake3 of the token → token record.
    Tokens,
    /// (user id, inbox sequence) → message or block of messages.
    Inboxes,
    /// Idempotency floors and replies, cursors, the rest.
    Sessions,
}

impl Tree {
    /// All of them, in the order of their names in the store.
    pub const ALL: [Self; 4] = [Self::Users, Self::Tokens, Self::Inboxes, Self::Sessions];
    /// The tree's name in the store.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Tokens => "tokens",
            Self::Inboxes => "inboxes",
            Self::Sessions => "sessions",
        }
    }
}

/// One record to put (or, without a value, to remove).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub tree: Tree,
    /// Big-endian parts, so that byte order is the natural order.
    pub key: Bytes,
    /// The new value; `None` removes.
    pub value: Option<Bytes>,
}

/// Says that everything up to an index is committed, and what it looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRecord {
    /// The commit point.
    pub stamp: Stamp,
    /// Hash of the entry there.
    pub hash: Hash,
    /// State digest after it.
    pub digest: Hash,
    /// Time of the entry there.
    pub time: WallTime,
}

/// The complete effect of a contiguous range of entries on all state trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Last entry of the range: the trees are at this index afterwards.
    pub applied: Index,
    /// Its hash.
    pub hash: Hash,
    /// State digest there.
    pub digest: Hash,
    /// Membership there.
    pub members: Members,
    /// Opaque to storage: the state machine's own totals (digest lanes, counters).
    pub machine: Bytes,
    /// The records.
    pub changes: Vec<Change>,
}

/// What is written at once, atomically: all of it or, after a crash before `sync`, perhaps none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// Drop log entries above this index. Rewrites the block that holds it, if it lies inside one.
    pub truncate_after: Option<Index>,
    /// Consecutive entries; packed into blocks of at most `BLOCK_BYTES_MAX`.
    pub append: Vec<Entry>,
    /// A commit record. Its index is at or below the last entry.
    pub commit: Option<CommitRecord>,
    /// A checkpoint slice. Its index is at or below a commit record in the store or in this write.
    pub slice: Option<Slice>,
}

/// What a store holds when it is opened. All of it is durable: an open BEGINS with a sync, because
/// what a killed process left in the page cache is readable and may still be lost.
///
/// With `damage` the other fields are what could be read, and need not agree with each other.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The promises; `None`: no file, which is a new replica if the log is empty too and lost
    /// promises otherwise.
    pub hard_state: Option<HardState>,
    /// (first index, term) of each run of equal terms.
    pub term_runs: Vec<(Index, crate::types::Term)>,
    /// Last entry, `Stamp::ZERO` if none.
    pub last: Stamp,
    /// Everything above `applied`, and before it as much as is kept in memory; consecutive.
    pub tail: Vec<Entry>,
    /// Hash of the entry before the tail's first.
    pub tail_previous_hash: Hash,
    /// The newest commit record.
    pub commit: Option<CommitRecord>,
    /// What the trees hold; `None` in a new store. `changes` is empty.
    pub applied: Option<Slice>,
    /// What is wrong, first finding first: (index, sentence naming tree and index).
    pub damage: Vec<(Index, String)>,
}

/// What can go wrong with a disk.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// An operating system call failed.
    #[error("{what} {path}")]
    Io {
        /// "cannot write", "cannot fsync", …
        what: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// sled reported an error.
    #[error("the store failed: {what}")]
    Engine {
        /// What was being done.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store's bytes are wrong.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The directory cannot be used as asked; the sentence says what to do.
    #[error("{0}")]
    Unusable(String),
}

/// A replica's disk. One writer; readers share a [`StateReader`].
pub trait Store: Send {
    /// Reads committed state; cheap to clone, usable from any thread.
    type Reader: StateReader + Clone + Send + Sync + 'static;

    /// Writes atomically. Not durable before [`Store::sync`].
    fn write(&mut self, write: Write) -> Result<(), StorageError>;
    /// Makes every earlier `write` durable (fdatasync).
    fn sync(&mut self) -> Result<(), StorageError>;
    /// Writes the hard state file; fdatasyncs it if `sync`. A write without `sync` never touches
    /// the last fsynced generation.
    fn write_hard_state(&mut self, state: &HardState, sync: bool) -> Result<(), StorageError>;
    /// Entries from `from` on, about `bytes_max` bytes of them, at least one if there is any.
    fn entries(&self, from: Index, bytes_max: usize) -> Result<Vec<Entry>, StorageError>;
    /// Commit records with indexes in `from..=to`, ascending.
    fn commit_records(&self, from: Index, to: Index) -> Result<Vec<CommitRecord>, StorageError>;
    /// A handle for reads of the state trees.
    fn reader(&self) -> Self::Reader;
    /// Bytes on disk.
    fn size_bytes(&self) -> u64;
}

/// Reads state trees as the last written slice left them.
pub trait StateReader {
    /// One record.
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, StorageError>;
    /// Records with `from <= key < to`, ascending, at most `limit`.
    fn range(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError>;
    /// Like `range`, descending.
    fn range_back(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError>;
}
