//! What is on the disk: log, commit records, state trees, hard state.
//!
//! Only `sled_store` imports sled (and `migrations/`). Everything above
//! works through [`Store`], so that the simulator runs the same replica on a disk in memory whose
//! live and durable images differ.
//!
//! | file | what |
//! |---|---|
//! | `block` | entries packed into the values of the `log` tree |
//! | `records` | every other key and value |
//! | `hard_state` | the promises: two generations of two copies in a file of their own |
//! | `recovery` | what a store holds when it is opened, and what is wrong with it |
//! | `sled_store` | [`SledStore`], the store of a running replica; in it `reader`, who reads the state, `rows` and `bundle`, which row has a record of it, `cut`, the log's cut in place, `sentinels`, where it ends, and the empty rows behind what grows, `leaves`, which are made before what is to come to them, `hot`, what one slice after the other changes, and `space`, live bytes and the cleaning of segments |
//! | `repair` | a damaged store is put aside for an empty one |
//! | `shape` | what can still be said of a damaged log |
//! | `salvage` | what is left of a cluster that cannot repair itself, and the operator's way back |
//! | `directory` | the data directory around it: lock, formats, creation |
//! | `layout` | the stores in a directory, their names, and which one is live |
//! | `life` | whose directory it is; the first promises, and those of a replica that lost its own |
//! | `history` | what a running replica has met of damage, and the last repairs |
//! | `guard` | reads that may panic or hang |
//! | `memory` | [`MemStore`], the same on a disk in memory that can be cut off at any operation |
//! | `inspect`, `verify` | `dump` and `verify`, of a stopped and of a running replica |
//! | `fdatasync` | the redirect that makes sled's flush reach the disk |
//! | `sled_locks/` | a crate of its own: the locks that sled is given instead of `parking_lot` |
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
pub mod fuzzing;
mod guard;
mod hard_state;
mod history;
mod inspect;
mod layout;
mod life;
mod memory;
#[path = "../../migrations/mod.rs"]
mod migrations;
mod records;
mod recovery;
mod repair;
mod salvage;
mod shape;
mod sled_store;
#[cfg(test)]
mod testing;
mod verify;

pub use directory::{DirectoryLock, OpenOptions, Opened, open_directory};
pub use fdatasync::{fdatasync_calls, fsync_times};
pub use files::free_bytes;
pub(crate) use guard::{PATIENCE, guarded};
pub use history::{RepairEnd, RepairNote, note_damage, repairs};
pub use inspect::Inspection;
pub use memory::{Effect, MemDisk, MemReader, MemStore};
pub use migrations::FORMAT;
pub(crate) use recovery::damage_of;
pub use repair::{must_discard, repair_begins_as};
pub use salvage::{Remains, Remnant, rebuild};
pub use sled_store::{SledReader, SledStore};
pub use verify::{Finding, LogVerifier, verify_log};

use crate::consensus::{HardState, Repair};
use crate::types::entry::Entry;
use crate::types::{Base, Hash, Index, Members, Stamp, WallTime};
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
/// The exception is a write of entries and a commit record alone: of that the first entries may be
/// there without the rest, the commit record only with all of them.
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
    /// Where the log begins: the trees stand there or above.
    pub base: Base,
    /// (first index, term) of each run of equal terms.
    pub term_runs: Vec<(Index, crate::types::Term)>,
    /// Last entry; the base's stamp if there is none.
    pub last: Stamp,
    /// Everything above `applied`, and before it as much as is kept in memory; consecutive.
    pub tail: Vec<Entry>,
    /// Hash of the entry before the tail's first (the base's if the tail is empty).
    pub tail_previous_hash: Hash,
    /// The newest commit record.
    pub commit: Option<CommitRecord>,
    /// What the trees hold; `None` in a new store. `changes` is empty.
    pub applied: Option<Slice>,
    /// Bytes on disk right after the last rewriting; 0 if there was none.
    pub rewritten_bytes: u64,
    /// What is wrong, first finding first: (index, sentence naming tree and index).
    pub damage: Vec<(Index, String)>,
    /// With damage: what a repair would begin with, by the readable parts of the log alone.
    pub shape: Repair,
    /// The last repair of this replica, ended or not.
    pub last_repair: Option<RepairNote>,
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

    /// Writes atomically, as [`Write`] says. Not durable before [`Store::sync`].
    fn write(&mut self, write: Write) -> Result<(), StorageError>;
    /// Makes every earlier `write` durable (fdatasync).
    fn sync(&mut self) -> Result<(), StorageError>;
    /// Writes the hard state file; fdatasyncs it if `sync`. A write without `sync` never touches
    /// the last fsynced generation.
    fn write_hard_state(&mut self, state: &HardState, sync: bool) -> Result<(), StorageError>;
    /// Where the log begins.
    fn base(&self) -> Result<Base, StorageError>;
    /// Entries from `from` on (from the first that is left, if that is above), about `bytes_max`
    /// bytes of them, at least one if there is any.
    fn entries(&self, from: Index, bytes_max: usize) -> Result<Vec<Entry>, StorageError>;
    /// Commit records with indexes in `from..=to`, ascending.
    fn commit_records(&self, from: Index, to: Index) -> Result<Vec<CommitRecord>, StorageError>;
    /// Where the log is cut in place at little cost: the highest such index up to `most` within a
    /// bounded number of records above the base. `None`: nowhere yet.
    fn cut_point(&self, most: Index) -> Result<Option<Index>, StorageError>;
    /// The log begins after this base, whose index [`Store::cut_point`] has named: entries up to it go,
    /// and commit records before it. Not durable before [`Store::sync`]; after a crash all of it or none.
    /// ORDER: the trees stand there or above.
    fn cut(&mut self, base: &Base) -> Result<(), StorageError>;
    /// A handle for reads of the state trees.
    fn reader(&self) -> Self::Reader;

    /// Does a long piece of reading where it holds up nobody: at once, unless the store has a thread
    /// for it. `work` is given what it calls between two reads, which takes the time that others
    /// are to have.
    fn beside(&self, work: Beside) -> Result<(), StorageError> {
        work(&|| ());
        Ok(())
    }

    /// Begins to build the next store beside this one, with a log that begins after this base and
    /// nothing else. One that is half built goes. This store stays as it is.
    fn next_begin(&mut self, base: &Base) -> Result<(), StorageError>;
    /// The log of the next store begins after this base instead, which is higher. ORDER: before its first
    /// entry or commit record.
    fn next_cut(&mut self, base: &Base) -> Result<(), StorageError>;
    /// Writes to the next store.
    fn next_write(&mut self, write: Write) -> Result<(), StorageError>;
    /// Reads the state trees of the next store as they are now.
    fn next_reader(&self) -> Result<Box<dyn StateReader>, StorageError>;
    /// Makes the next store durable, opens it again as at a start, and scans its state trees with
    /// `scan`. `None`: that goes on; call again.
    fn next_check(&mut self, scan: Scan) -> Result<Option<Checked>, StorageError>;
    /// Makes the next store durable and puts it in the place of this one, atomically. Readers go
    /// on with the old one until [`StateReader::switch`]. ORDER: after a check.
    fn next_install(&mut self) -> Result<(), StorageError>;
    /// The next store, if there is one, goes.
    fn next_drop(&mut self) -> Result<(), StorageError>;
    /// Bytes on disk right after the last rewriting; 0 if there was none.
    fn rewritten_bytes(&self) -> u64;

    /// Bytes on disk.
    fn size_bytes(&self) -> u64;

    /// Bytes of all that is in it, without what it takes to keep them; `None`: not known.
    fn live_bytes(&self) -> Option<u64> {
        None
    }

    /// Remembers, for people, how the last repair ended. Nothing depends on it.
    fn note_repaired(&mut self, end: &RepairEnd) -> Result<(), StorageError> {
        let _ = end;
        Ok(())
    }
}

/// Work for [`Store::beside`].
pub type Beside = Box<dyn FnOnce(&dyn Fn()) + Send>;

/// Recomputes the digest of the state trees as they stand at a slice.
pub type Scan = fn(&Slice, &dyn StateReader) -> Result<Hash, StorageError>;

/// What a check of the next store found: the digest of its records, or what is wrong.
pub type Checked = Result<Hash, String>;

/// Reads state trees as the last written slice left them.
pub trait StateReader {
    /// The store was exchanged for the next one: every clone of this reader reads that from now on.
    fn switch(&self) {}

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
