//! The store in memory under power cuts at every operation: what was synced is there, what was not
//! is there as a whole or not at all, in order, and a grant that was fsynced is never forgotten.

mod storage_common;

use chat::storage::{
    Effect, MemDisk, MemStore, Recovered, StateReader, StorageError, Store, Tree, Write,
};
use chat::types::entry::Entry;
use chat::types::{Index, Stamp, Term};
use storage_common::{End, Random, all, commit, first_state, granted, put, slice};

/// What must have survived, at the least and at the most.
#[derive(Default, Clone)]
struct Progress {
    /// The logs after each write so far; one of them, from `synced` on, is what is found.
    logs: Vec<Vec<Entry>>,
    synced: usize,
    term_fsynced: u64,
    term_written: u64,
    mark_fsynced: u64,
}

/// One process run that a power cut may end anywhere.
fn live(disk: &MemDisk, progress: &mut Progress) -> Result<(), StorageError> {
    let (mut store, recovered) = MemStore::open(disk)?;
    let mut state = recovered.hard_state.unwrap_or_else(first_state);
    store.write_hard_state(&state, true)?;
    let mut log: Vec<Entry> = Vec::new();
    for round in 0..6u64 {
        let end = log.last().map(End::of).unwrap_or_default();
        let mut write = Write {
            append: end.entries(round, 4, 20),
            ..Write::default()
        };
        if round % 2 == 1 {
            let keep = log.len() - 1;
            log.truncate(keep);
            write.truncate_after = Some(Index(keep as u64));
            write.append = End::of(&log[keep - 1]).entries(round, 3, 20);
        }
        log.extend(write.append.clone());
        let first = &log[0];
        let key = [round as u8];
        write.commit = Some(commit(first));
        write.slice = Some(slice(first, vec![put(Tree::Users, &key, &key)]));
        progress.logs.push(log.clone());
        store.write(write)?;
        if round % 3 != 0 {
            store.sync()?;
            progress.synced = progress.logs.len() - 1;
            state.mark = Stamp::new(Term(0), Index(log.len() as u64 - 1));
            store.write_hard_state(&state, false)?;
        }
        progress.term_written = round;
        state = granted(&state, round, 2);
        store.write_hard_state(&state, true)?;
        progress.term_fsynced = round;
        progress.mark_fsynced = state.mark.index.0;
    }
    Ok(())
}

fn judge(progress: &Progress, store: &MemStore, recovered: &Recovered) {
    assert_eq!(recovered.damage, []);
    let log = all(store);
    let matching = progress.logs[progress.synced..]
        .iter()
        .position(|l| *l == log);
    let first_run = progress.synced == 0 && log.is_empty();
    assert!(matching.is_some() || first_run, "{log:?}");
    if let Some(at) = matching {
        // The slice rode in the same write as the entries.
        let key = [(progress.synced + at) as u8];
        let value = store.reader().get(Tree::Users, &key).unwrap();
        assert_eq!(value.as_deref(), Some(&key[..]));
        let beyond = [key[0] + 1];
        assert_eq!(store.reader().get(Tree::Users, &beyond).unwrap(), None);
    }
    let Some(state) = &recovered.hard_state else {
        assert_eq!(progress.logs.len(), 0, "the hard state was created first");
        return;
    };
    assert!(state.term.0 >= progress.term_fsynced, "{state:?}");
    assert!(state.term.0 <= progress.term_written, "{state:?}");
    assert!(state.mark.index.0 >= progress.mark_fsynced, "{state:?}");
}

#[test]
fn a_power_cut_at_every_operation_loses_only_what_was_not_synced() {
    let disk = MemDisk::new();
    live(&disk, &mut Progress::default()).unwrap();
    let operations = disk.operations();
    assert!(operations > 40, "{operations}");
    for at in 0..operations {
        for seed in 0..40 {
            let effect = [Effect::None, Effect::Done][seed as usize % 2];
            let disk = MemDisk::new();
            let mut progress = Progress::default();
            disk.fail_after(at, effect);
            assert!(live(&disk, &mut progress).is_err());
            let mut random = Random(seed);
            disk.crash(&mut |n| random.below(n));
            let (store, recovered) = MemStore::open(&disk).unwrap();
            judge(&progress, &store, &recovered);
        }
    }
}

#[test]
fn a_kill_loses_nothing_that_was_written() {
    let disk = MemDisk::new();
    let (mut store, _) = MemStore::open(&disk).unwrap();
    store.write_hard_state(&first_state(), true).unwrap();
    let entries = End::default().entries(1, 10, 20);
    storage_common::append(&mut store, &entries);
    let (again, recovered) = MemStore::open(&disk).unwrap();
    assert_eq!(all(&again), entries);
    assert_eq!(recovered.last.index, Index(10));
    // What was recovered is durable: a power cut now takes nothing.
    disk.crash(&mut |_| 0);
    let (again, _) = MemStore::open(&disk).unwrap();
    assert_eq!(all(&again), entries);
    let dead = store.write(Write::default());
    assert!(dead.is_err(), "the killed process is dead");
}

#[test]
fn losses_of_a_lying_disk_are_damage() {
    let fresh = || {
        let disk = MemDisk::new();
        let (mut store, _) = MemStore::open(&disk).unwrap();
        let entries = End::default().entries(3, 10, 20);
        storage_common::append(&mut store, &entries);
        store.sync().unwrap();
        let mut state = first_state();
        state.mark = Stamp::new(Term(3), Index(10));
        store.write_hard_state(&state, true).unwrap();
        disk
    };
    let damage = |disk: &MemDisk| MemStore::open(disk).unwrap().1.damage;
    let disk = fresh();
    assert_eq!(damage(&disk), []);
    disk.lose_log_after(Index(7));
    assert_eq!(damage(&disk)[0].0, Index(8));

    let disk = fresh();
    disk.lose_hard_state();
    let (_, recovered) = MemStore::open(&disk).unwrap();
    assert!(recovered.hard_state.is_none(), "the promises are gone");
    assert_eq!(
        (recovered.last.index, recovered.damage),
        (Index(10), vec![])
    );

    let disk = fresh();
    disk.rewrite_entry(Index(5), b"another");
    assert_eq!(damage(&disk)[0].0, Index(6));

    disk.wipe();
    let (_, recovered) = MemStore::open(&disk).unwrap();
    assert!(recovered.hard_state.is_none());
    assert_eq!((recovered.last, recovered.damage), (Stamp::ZERO, vec![]));
}

#[test]
fn a_write_that_does_not_continue_the_log_is_refused_whole() {
    let disk = MemDisk::new();
    let (mut store, _) = MemStore::open(&disk).unwrap();
    let entries = End::default().entries(1, 5, 20);
    let gap = Write {
        append: entries[2..].to_vec(),
        ..Write::default()
    };
    assert!(store.write(gap).is_err());
    assert_eq!(all(&store), []);
    let large = slice(&entries[0], vec![put(Tree::Users, b"k", &[0; 40_000])]);
    let write = Write {
        append: entries,
        slice: Some(large),
        ..Write::default()
    };
    let error = store.write(write).unwrap_err().to_string();
    assert!(error.contains("users"), "{error}");
    assert_eq!(all(&store), []);
}
