//! Small values and a store that only remembers what it was asked, for the tests of this module.

use crate::consensus::{FormationStatus, HardState};
use crate::storage::{
    Checked, CommitRecord, Scan, Slice, StateReader, StorageError, Store, Tree, Write,
};
use crate::types::entry::{Entry, Kind};
use crate::types::{
    Base, Hash, Incarnation, Index, Members, Monotonic, ReplicaId, Stamp, Term, WallTime,
};
use bytes::Bytes;
use std::fmt::Write as _;

pub(super) fn stamp(term: u64, index: u64) -> Stamp {
    Stamp::new(Term(term), Index(index))
}

pub(super) fn entry(term: u64, index: u64) -> Entry {
    Entry::seal(
        stamp(term, index),
        WallTime(index),
        Hash::default(),
        Kind::Command,
        b"x",
    )
}

pub(super) fn record(term: u64, index: u64) -> CommitRecord {
    CommitRecord {
        stamp: stamp(term, index),
        hash: Hash::default(),
        digest: Hash::default(),
        time: WallTime(0),
    }
}

pub(super) fn slice(index: u64) -> Slice {
    Slice {
        applied: Index(index),
        hash: Hash::default(),
        digest: Hash::default(),
        members: Members::new(),
        machine: Bytes::new(),
        changes: Vec::new(),
    }
}

pub(super) fn hard_state(term: u64) -> HardState {
    HardState {
        id: ReplicaId(1),
        incarnation: Incarnation([1; 16]),
        formation: FormationStatus::Unformed,
        cluster: None,
        term: Term(term),
        granted_to: None,
        term_accepted: Term(0),
        mark: Stamp::ZERO,
        others_marks: std::collections::BTreeMap::new(),
        repair: crate::consensus::Repair::No,
        given_up: crate::types::Term(0),
        quarantined: false,
        others_lives: std::collections::BTreeMap::new(),
        others_as_of: Index(0),
    }
}

pub(super) fn ms(ms: u64) -> Monotonic {
    Monotonic(ms * 1_000)
}

/// Writes down what it is asked; fails at the n-th operation if told to.
#[derive(Default)]
pub(super) struct FakeStore {
    pub operations: Vec<String>,
    pub fail_at: Option<usize>,
    pub first: Option<Entry>,
    /// The log cannot be read.
    pub damaged: bool,
    /// The next store cannot be begun.
    pub next_is_full: bool,
}

impl FakeStore {
    fn did(&mut self, what: String) -> Result<(), StorageError> {
        self.operations.push(what);
        if self.fail_at == Some(self.operations.len()) {
            return Err(StorageError::Damaged("as the test wants".into()));
        }
        Ok(())
    }
}

impl Store for FakeStore {
    type Reader = NoReader;

    fn write(&mut self, write: Write) -> Result<(), StorageError> {
        let mut text = String::from("write");
        if let Some(after) = write.truncate_after {
            let _ = write!(text, " truncate {after}");
        }
        if let (Some(first), Some(last)) = (write.append.first(), write.append.last()) {
            let _ = write!(text, " append {}..{}", first.index(), last.index());
        }
        if let Some(commit) = write.commit {
            let _ = write!(text, " commit {}", commit.stamp.index);
        }
        if let Some(slice) = write.slice {
            let _ = write!(text, " slice {}", slice.applied);
        }
        self.did(text)
    }
    fn sync(&mut self) -> Result<(), StorageError> {
        self.did("sync".into())
    }
    fn write_hard_state(&mut self, state: &HardState, sync: bool) -> Result<(), StorageError> {
        let how = if sync { "synced" } else { "lazy" };
        self.did(format!("hard state term {} {how}", state.term))
    }
    fn base(&self) -> Result<Base, StorageError> {
        Ok(Base::default())
    }
    fn entries(&self, from: Index, _: usize) -> Result<Vec<Entry>, StorageError> {
        if self.damaged {
            return Err(StorageError::Damaged("as the test wants".into()));
        }
        Ok(self
            .first
            .clone()
            .filter(|_| from == Index(1))
            .into_iter()
            .collect())
    }
    fn commit_records(&self, _: Index, _: Index) -> Result<Vec<CommitRecord>, StorageError> {
        Ok(Vec::new())
    }
    fn cut_point(&self, most: Index) -> Result<Option<Index>, StorageError> {
        Ok(Some(most))
    }
    fn cut(&mut self, base: &Base) -> Result<(), StorageError> {
        self.did(format!("cut in place after {}", base.stamp.index))
    }
    fn reader(&self) -> NoReader {
        NoReader
    }
    fn next_begin(&mut self, base: &Base) -> Result<(), StorageError> {
        if self.next_is_full {
            return Err(StorageError::Unusable("as the test wants".into()));
        }
        self.did(format!("next after {}", base.stamp.index))
    }
    fn next_cut(&mut self, base: &Base) -> Result<(), StorageError> {
        self.did(format!("cut next after {}", base.stamp.index))
    }
    fn next_write(&mut self, _: Write) -> Result<(), StorageError> {
        self.did("next write".into())
    }
    fn next_reader(&self) -> Result<Box<dyn StateReader>, StorageError> {
        Ok(Box::new(NoReader))
    }
    fn next_check(&mut self, _: Scan) -> Result<Option<Checked>, StorageError> {
        self.did("next check".into())?;
        Ok(Some(Ok(Hash::default())))
    }
    fn next_install(&mut self) -> Result<(), StorageError> {
        self.did("install".into())
    }
    fn next_drop(&mut self) -> Result<(), StorageError> {
        self.did("next drop".into())
    }
    fn rewritten_bytes(&self) -> u64 {
        0
    }
    fn size_bytes(&self) -> u64 {
        0
    }
}

/// Holds nothing.
#[derive(Clone)]
pub(super) struct NoReader;

type Records = Vec<(Bytes, Bytes)>;

impl StateReader for NoReader {
    fn get(&self, _: Tree, _: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(None)
    }
    fn range(&self, _: Tree, _: &[u8], _: &[u8], _: usize) -> Result<Records, StorageError> {
        Ok(Vec::new())
    }
    fn range_back(&self, _: Tree, _: &[u8], _: &[u8], _: usize) -> Result<Records, StorageError> {
        Ok(Vec::new())
    }
}
