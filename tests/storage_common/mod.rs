//! What the storage tests share: entries, writes, and a directory that is opened again and again.
#![allow(dead_code)] // each test binary uses a part of it

use bytes::Bytes;
use chat::consensus::{FormationStatus, HardState};
use chat::storage::{
    Change, CommitRecord, OpenOptions, Opened, Recovered, SledStore, Slice, Store, Tree, Write,
    open_directory,
};
use chat::types::entry::{Entry, Kind};
use chat::types::{Hash, Incarnation, Index, Members, ReplicaId, Stamp, Term, WallTime};
use std::collections::BTreeMap;
use std::path::Path;

pub fn options(id: u16) -> OpenOptions {
    OpenOptions {
        id: ReplicaId(id),
        ids: vec![ReplicaId(1), ReplicaId(2), ReplicaId(3)],
        incarnation: Incarnation([id as u8; 16]),
        cache_bytes: 8 * 1024 * 1024,
        patience: OpenOptions::PATIENCE,
    }
}

/// Opens a directory that must be readable.
pub fn open(path: &Path) -> (SledStore, Recovered) {
    match open_directory(path, &options(1)).unwrap() {
        Opened::Good { store, recovered } => (store, recovered),
        Opened::Damaged { sentence, .. } => panic!("{sentence}"),
    }
}

/// A small reproducible source of numbers (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

pub fn members() -> Members {
    (1..=3)
        .map(|id| (ReplicaId(id), Incarnation([id as u8; 16])))
        .collect()
}

/// The end of a log, from which the next entries are made.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct End {
    pub stamp: Stamp,
    pub hash: Hash,
}

impl End {
    pub fn of(entry: &Entry) -> Self {
        Self {
            stamp: entry.stamp(),
            hash: entry.hash(),
        }
    }

    /// `count` entries of a term after this end. Entry 1 is a formation.
    pub fn entries(self, term: u64, count: usize, payload: usize) -> Vec<Entry> {
        let mut end = self;
        (0..count)
            .map(|_| {
                let index = end.stamp.index.next();
                let entry = if index == Index(1) {
                    Entry::formation(&members())
                } else {
                    let payload = vec![(index.0 * 31 + term) as u8; payload];
                    let stamp = Stamp::new(Term(term), index);
                    Entry::seal(stamp, WallTime(index.0), end.hash, Kind::Command, &payload)
                };
                end = Self::of(&entry);
                entry
            })
            .collect()
    }
}

pub fn commit(entry: &Entry) -> CommitRecord {
    CommitRecord {
        stamp: entry.stamp(),
        hash: entry.hash(),
        digest: Hash([7; 32]),
        time: entry.time(),
    }
}

pub fn put(tree: Tree, key: &[u8], value: &[u8]) -> Change {
    Change {
        tree,
        key: Bytes::copy_from_slice(key),
        value: Some(Bytes::copy_from_slice(value)),
    }
}

pub fn slice(entry: &Entry, changes: Vec<Change>) -> Slice {
    Slice {
        applied: entry.index(),
        hash: entry.hash(),
        digest: Hash([8; 32]),
        members: members(),
        machine: Bytes::from_static(b"totals"),
        changes,
    }
}

pub fn append(store: &mut impl Store, entries: &[Entry]) {
    store
        .write(Write {
            append: entries.to_vec(),
            ..Write::default()
        })
        .unwrap();
}

pub fn all(store: &impl Store) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let from = entries.last().map_or(Index(1), |e| e.index().next());
        let page = store.entries(from, 10_000).unwrap();
        if page.is_empty() {
            return entries;
        }
        entries.extend(page);
    }
}

pub fn granted(state: &HardState, term: u64, to: u16) -> HardState {
    HardState {
        term: Term(term),
        granted_to: Some(ReplicaId(to)),
        ..state.clone()
    }
}

/// The promises of a replica that has made none.
pub fn first_state() -> HardState {
    HardState {
        id: ReplicaId(1),
        incarnation: Incarnation([1; 16]),
        formation: FormationStatus::Unformed,
        cluster: None,
        term: Term(0),
        granted_to: None,
        term_accepted: Term(0),
        mark: Stamp::ZERO,
        others_marks: BTreeMap::new(),
        repair: chat::consensus::Repair::No,
        given_up: chat::types::Term(0),
        quarantined: false,
        others_lives: BTreeMap::new(),
        others_as_of: Index(0),
    }
}
