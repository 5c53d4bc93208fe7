//! The wrong variants of the store in memory, step by step. They are tests of this program, because
//! those under `tests/` would build every binary with the variants in it.
#![cfg(feature = "mutants")]

#[path = "../../../tests/storage_common/mod.rs"]
mod storage_common;

use chat::consensus::Mutant;
use chat::storage::{MemDisk, MemStore, Store, Write};
use chat::types::{Index, ReplicaId, Stamp};
use storage_common::{End, Random, all, append, first_state, granted};

/// Forgets an fsynced grant in some crash after a lazy write.
fn forgets() -> bool {
    (0..200).any(|seed| {
        let disk = MemDisk::new();
        let (mut store, _) = MemStore::open(&disk).unwrap();
        let state = granted(&first_state(), 5, 2);
        store.write_hard_state(&first_state(), true).unwrap();
        store.write_hard_state(&state, true).unwrap();
        let mut marked = state.clone();
        marked.others_marks.insert(ReplicaId(3), Stamp::FORMATION);
        store.write_hard_state(&marked, false).unwrap();
        let mut random = Random(seed);
        disk.crash(&mut |n| random.below(n));
        let (_, recovered) = MemStore::open(&disk).unwrap();
        recovered.hard_state != Some(state) && recovered.hard_state != Some(marked)
    })
}

#[test]
fn a_lazy_write_over_the_fsynced_generation_forgets_a_grant() {
    assert!(!forgets());
    Mutant::activate(Some(Mutant::LazyOverwrites));
    assert!(forgets());
}

#[test]
fn a_torn_adoption_leaves_half() {
    Mutant::activate(Some(Mutant::AdoptTorn));
    let disk = MemDisk::new();
    let (mut store, _) = MemStore::open(&disk).unwrap();
    let old = End::default().entries(1, 4, 20);
    append(&mut store, &old);
    store.sync().unwrap();
    let new = End::of(&old[1]).entries(2, 6, 20);
    let write = Write {
        truncate_after: Some(Index(2)),
        append: new,
        ..Write::default()
    };
    store.write(write).unwrap();
    assert_eq!(all(&store).len(), 8);
    disk.crash(&mut |_| 0);
    let (store, _) = MemStore::open(&disk).unwrap();
    assert_eq!(all(&store).len(), 5);
}
