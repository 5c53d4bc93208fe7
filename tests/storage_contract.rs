//! The store in sled and the one in memory do the same: random writes, compared with a model and
//! with each other, also after each is opened again. And the locks that sled is given.

#[allow(dead_code)] // what only sled uses
#[path = "../src/storage/sled_locks/lib.rs"]
mod sled_locks;
mod storage_common;

use bytes::Bytes;
use chat::storage::{
    Change, CommitRecord, MemDisk, MemStore, Recovered, SledStore, StateReader, Store, Tree, Write,
};
use chat::types::entry::Entry;
use chat::types::{Base, Index, Stamp, Term};
use sled_locks::{Condvar, Mutex};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use storage_common::{End, Random, all, commit, first_state, open, put, slice};

const HOUR: Duration = Duration::from_secs(3_600);

/// What a store should hold.
#[derive(Default, Clone)]
struct Model {
    log: Vec<Entry>,
    commits: BTreeMap<Index, CommitRecord>,
    applied: usize,
    /// So many entries are cut.
    base: usize,
    state: BTreeMap<(Tree, Bytes), Bytes>,
    term: u64,
}

impl Model {
    fn end(&self) -> End {
        self.log.last().map(End::of).unwrap_or_default()
    }

    /// A write as a replica could make it; changes the model accordingly.
    fn random_write(&mut self, random: &mut Random) -> Write {
        let mut write = Write::default();
        let committed = self
            .commits
            .keys()
            .last()
            .map_or(0, |index| index.0 as usize);
        if random.below(4) == 0 {
            let after = committed + random.below(self.log.len() - committed + 1);
            write.truncate_after = Some(Index(after as u64));
            self.log.truncate(after);
        }
        if random.below(3) == 0 {
            self.term += 1;
        }
        let large = random.below(8) == 0;
        let (count, payload) = if large { (12, 9_000) } else { (5, 40) };
        let count = random.below(count);
        write.append = self.end().entries(self.term, count, payload);
        self.log.extend(write.append.clone());
        if random.below(3) == 0 && self.log.len() > committed {
            let at = committed + random.below(self.log.len() - committed);
            let record = commit(&self.log[at]);
            self.commits.insert(record.stamp.index, record);
            write.commit = Some(record);
        }
        let committed = self
            .commits
            .keys()
            .last()
            .map_or(0, |index| index.0 as usize);
        if random.below(3) == 0 && committed > self.applied {
            self.applied = committed;
            let changes = (0..random.below(40)).map(|_| self.change(random)).collect();
            write.slice = Some(slice(&self.log[committed - 1], changes));
        }
        write
    }

    /// Cuts the log in place, somewhere at or below what the trees stand at, or not.
    fn random_cut(&mut self, random: &mut Random, store: &mut impl Store) {
        let most = random.below(self.applied + 1);
        let Some(point) = store.cut_point(Index(most as u64)).unwrap() else {
            return;
        };
        let at = point.0 as usize;
        assert!(
            self.base < at && at <= most,
            "{} to {at} of {most}",
            self.base
        );
        store.cut(&base_at(&self.log[at - 1])).unwrap();
        self.base = at;
        self.commits.retain(|index, _| *index >= point);
    }

    /// Keys of one byte after another of a few, which lie close together; in every other terms the same few again and
    /// again. Values that share a row, and others.
    fn change(&mut self, random: &mut Random) -> Change {
        let tree = Tree::ALL[random.below(4)];
        let several = if self.term % 8 < 4 { 20 } else { 3 };
        let key = Bytes::from(vec![b"acdr"[random.below(4)], random.below(several) as u8]);
        let bytes = [20, 300, 2_000][random.below(3)];
        let value = (random.below(4) > 0).then(|| Bytes::from(vec![9; random.below(bytes)]));
        match &value {
            Some(value) => self.state.insert((tree, key.clone()), value.clone()),
            None => self.state.remove(&(tree, key.clone())),
        };
        Change { tree, key, value }
    }

    fn check_state(&self, reader: &impl StateReader, tree: Tree) {
        let rows = |from: &[u8], to: &[u8]| -> Vec<(Bytes, Bytes)> {
            let of_tree = self.state.iter().filter(|((of, _), _)| *of == tree);
            let in_range = of_tree.filter(|((_, key), _)| from <= &key[..] && &key[..] < to);
            in_range
                .map(|((_, key), value)| (key.clone(), value.clone()))
                .collect()
        };
        for (from, to) in [
            (&b"c\x03"[..], &b"c\x0f"[..]),
            (b"a\x07", b"d"),
            (b"", b"zz"),
            (b"d\x05", b"d\x05\0"),
            (b"zz", b"zzz"),
        ] {
            let mut expected = rows(from, to);
            let found = reader.range(tree, from, to, 1_000).unwrap();
            assert_eq!(found, expected);
            let first = reader.range(tree, from, to, 5).unwrap();
            assert_eq!(first, expected[..expected.len().min(5)]);
            expected.reverse();
            expected.truncate(3);
            assert_eq!(reader.range_back(tree, from, to, 3).unwrap(), expected);
            assert_eq!(reader.range(tree, to, from, 9).unwrap(), []);
        }
        for first in *b"acdrz" {
            for second in 0..20 {
                let key = Bytes::from(vec![first, second]);
                let found = reader.get(tree, &key).unwrap();
                assert_eq!(found.as_ref(), self.state.get(&(tree, key)));
            }
        }
    }

    fn runs(&self) -> Vec<(Index, Term)> {
        let mut runs: Vec<(Index, Term)> = Vec::new();
        for entry in &self.log[self.base..] {
            if runs.last().map(|run| run.1) != Some(entry.stamp().term) {
                runs.push((entry.index(), entry.stamp().term));
            }
        }
        runs
    }

    fn check(&self, store: &impl Store) {
        assert_eq!(all(store), self.log[self.base..]);
        let base = store.base().unwrap().stamp.index;
        assert_eq!(base, Index(self.base as u64));
        let all = store.commit_records(Index(0), Index(u64::MAX)).unwrap();
        assert_eq!(all, self.commits.values().copied().collect::<Vec<_>>());
        for tree in Tree::ALL {
            self.check_state(&store.reader(), tree);
        }
    }

    fn check_recovered(&self, recovered: &Recovered) {
        assert_eq!(recovered.damage, []);
        assert_eq!(recovered.last, self.end().stamp);
        assert_eq!(recovered.term_runs, self.runs());
        assert_eq!(recovered.commit, self.commits.values().last().copied());
        let applied = recovered
            .applied
            .as_ref()
            .map_or(0, |s| s.applied.0 as usize);
        assert_eq!(applied, self.applied);
        let first = recovered
            .tail
            .first()
            .map_or(0, |e| e.index().0 as usize - 1);
        assert!(first <= self.applied, "the tail begins at {first}");
        assert_eq!(recovered.tail, self.log[first..]);
    }
}

fn base_at(entry: &Entry) -> Base {
    Base {
        stamp: entry.stamp(),
        hash: entry.hash(),
        time: entry.time(),
        founders: storage_common::members(),
    }
}

/// Some hundred writes; `reopen` is called now and then.
fn run<S: Store>(seed: u64, mut reopen: impl FnMut(Option<S>) -> (S, Recovered)) {
    let mut random = Random(seed);
    let mut model = Model::default();
    let (mut store, recovered) = reopen(None);
    assert_eq!(recovered.last, Stamp::ZERO);
    for round in 0..200 {
        store.write(model.random_write(&mut random)).unwrap();
        if random.below(4) == 0 {
            model.random_cut(&mut random, &mut store);
        }
        if round % 10 == 0 {
            store.sync().unwrap();
            model.check(&store);
        }
        if round % 50 == 49 {
            let (next, recovered) = reopen(Some(store));
            model.check_recovered(&recovered);
            model.check(&next);
            store = next;
        }
    }
}

#[test]
fn the_store_in_memory_does_what_the_model_does() {
    for seed in 0..20 {
        let disk = MemDisk::new();
        run::<MemStore>(seed, |_| {
            let cache = if seed % 2 == 0 { 1 } else { usize::MAX };
            let (mut store, mut recovered) = MemStore::open_with_cache(&disk, cache).unwrap();
            if recovered.hard_state.is_none() {
                // Without promises a log that is not empty is damage.
                let state = first_state();
                store.write_hard_state(&state, true).unwrap();
                recovered.hard_state = Some(state);
            }
            (store, recovered)
        });
    }
}

#[test]
fn the_store_in_sled_does_what_the_model_does() {
    for seed in 0..2 {
        let directory = tempfile::tempdir().unwrap();
        run(seed, |store: Option<SledStore>| {
            let before = store.as_ref().map(|store| store.live_bytes().unwrap());
            drop(store);
            let (store, recovered) = open(directory.path());
            let after = store.live_bytes().unwrap();
            // The frames of the newest blocks are not counted, nor is a truncation since the last slice.
            let about = before.is_none_or(|before| before.abs_diff(after) < 200_000);
            assert!(
                about,
                "{before:?} bytes are live, and {after} after an open"
            );
            (store, recovered)
        });
        let blobs = directory.path().join("store-0001/blobs");
        assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0);
    }
}

/// Trees below the base of the log could never be brought up to date.
#[test]
fn a_log_is_never_cut_above_what_the_trees_stand_at() {
    let directory = tempfile::tempdir().unwrap();
    let (mut sled, _) = open(directory.path());
    let (mut memory, _) = MemStore::open(&MemDisk::new()).unwrap();
    assert_eq!(cut_too_high(&mut sled), cut_too_high(&mut memory));
    drop(sled);
    let (sled, recovered) = open(directory.path());
    assert_eq!(recovered.damage, []);
    assert_eq!(all(&sled).len(), 9);
}

fn cut_too_high(store: &mut impl Store) -> String {
    let log = End::default().entries(1, 9, 10);
    for entry in &log {
        storage_common::append(store, std::slice::from_ref(entry));
    }
    let write = Write {
        commit: Some(commit(&log[7])),
        slice: Some(slice(&log[4], Vec::new())),
        ..Write::default()
    };
    store.write(write).unwrap();
    store.sync().unwrap();
    assert_eq!(store.cut_point(Index(5)).unwrap(), Some(Index(5)));
    let refused = store.cut(&base_at(&log[5])).unwrap_err();
    assert_eq!(all(store), log);
    refused.to_string()
}

/// The next store's log begins later than was said at first, and its first entry must follow the new base.
#[test]
fn the_log_of_the_next_store_may_begin_later_than_it_was_begun_with() {
    let directory = tempfile::tempdir().unwrap();
    let (mut sled, _) = open(directory.path());
    let (mut memory, _) = MemStore::open(&MemDisk::new()).unwrap();
    begins_later(&mut sled);
    begins_later(&mut memory);
    drop(sled);
    let (sled, recovered) = open(directory.path());
    assert_eq!(sled.base().unwrap().stamp.index, Index(6));
    assert_eq!(recovered.last.index, Index(9));
}

fn begins_later(store: &mut impl Store) {
    let log = End::default().entries(1, 9, 10);
    storage_common::append(store, &log);
    let write = Write {
        commit: Some(commit(&log[7])),
        slice: Some(slice(&log[7], Vec::new())),
        ..Write::default()
    };
    store.write(write.clone()).unwrap();
    store.sync().unwrap();
    let base = |at: usize| base_at(&log[at]);
    let entries = |from: usize| Write {
        append: log[from..].to_vec(),
        ..Write::default()
    };
    assert!(store.next_cut(&base(5)).is_err(), "there is none");
    store.next_begin(&base(2)).unwrap();
    store.next_cut(&base(5)).unwrap();
    assert!(store.next_write(entries(3)).is_err(), "after the old base");
    store.next_begin(&base(2)).unwrap();
    store.next_cut(&base(5)).unwrap();
    store.next_write(entries(6)).unwrap();
    store.next_write(write).unwrap();
    let checked = loop {
        if let Some(checked) = store.next_check(|slice, _| Ok(slice.digest)).unwrap() {
            break checked;
        }
        std::thread::yield_now();
    };
    checked.unwrap();
    store.next_install().unwrap();
    assert_eq!(store.base().unwrap(), base(5));
    assert_eq!(all(store), log[6..]);
}

/// What two slices in succession change is kept apart from the trees: the next store gets it as any other record.
#[test]
fn the_next_store_has_what_is_changed_again_and_again() {
    let directory = tempfile::tempdir().unwrap();
    let (mut sled, _) = open(directory.path());
    let (mut memory, _) = MemStore::open(&MemDisk::new()).unwrap();
    let expected = copies(&mut sled);
    assert_eq!(copies(&mut memory), expected);
    drop(sled);
    let (sled, recovered) = open(directory.path());
    assert_eq!(recovered.damage, []);
    assert_eq!(records(&sled.reader()), expected);
}

fn records(reader: &impl StateReader) -> Vec<(Tree, Bytes, Bytes)> {
    let of = |tree| {
        let found = reader.range(tree, b"", &[0xff], 1_000).unwrap();
        found
            .into_iter()
            .map(move |(key, value)| (tree, key, value))
    };
    Tree::ALL.into_iter().flat_map(of).collect()
}

/// Copies tree after tree into the next store while slices go to both. Returns what is there then.
fn copies(store: &mut impl Store) -> Vec<(Tree, Bytes, Bytes)> {
    let log = End::default().entries(1, 30, 10);
    storage_common::append(store, &log);
    let reader = store.reader();
    let mut at = 0;
    let mut next_slice = |changes: Vec<Change>| {
        at += 1;
        Write {
            commit: Some(commit(&log[at])),
            slice: Some(slice(&log[at], changes)),
            ..Write::default()
        }
    };
    // Some are there from the first, one comes and goes, one comes when the others are hot, and one is not changed any more
    // once it was copied.
    let busy = |n: u8| -> Vec<Change> {
        let of_tree = |tree| {
            let mut changes = vec![put(tree, b"c1", &[n; 40]), put(tree, b"c2", &[n; 2_000])];
            changes.extend((n > 2).then(|| put(tree, b"c3", &[n; 9])));
            let gone = n.is_multiple_of(3);
            let change = put(tree, b"c4", &[n; 30]);
            let value = change.value.clone().filter(|_| !gone);
            changes.push(Change { value, ..change });
            changes.push(put(tree, &[b'd', n], &[n; 50]));
            changes.extend((n < 5 + tree as u8).then(|| put(tree, b"e", &[n; 70])));
            changes
        };
        Tree::ALL.into_iter().flat_map(of_tree).collect()
    };
    for n in 0..5 {
        store.write(next_slice(busy(n))).unwrap();
    }
    store.next_begin(&base_at(&log[0])).unwrap();
    let entries = Write {
        append: log[1..].to_vec(),
        ..Write::default()
    };
    store.next_write(entries).unwrap();
    for (n, tree) in (5..).zip(Tree::ALL) {
        let rows = reader.range(tree, b"", &[0xff], 1_000).unwrap();
        let rows = rows.into_iter().map(|(key, value)| put(tree, &key, &value));
        let copied = Write {
            commit: None,
            ..next_slice(rows.collect())
        };
        store.next_write(copied).unwrap();
        let write = next_slice(busy(n));
        store.write(write.clone()).unwrap();
        let mut of_copied = write;
        let slice = of_copied.slice.as_mut().unwrap();
        slice.changes.retain(|change| change.tree <= tree);
        store.next_write(of_copied).unwrap();
    }
    let checked = loop {
        let count: chat::storage::Scan = |slice, reader| {
            let found = reader.range(Tree::Sessions, b"", &[0xff], 1_000)?;
            assert!(
                found
                    .iter()
                    .any(|(key, value)| key == "c1" && value[0] == 8)
            );
            Ok(slice.digest)
        };
        if let Some(checked) = store.next_check(count).unwrap() {
            break checked;
        }
        std::thread::yield_now();
    };
    checked.unwrap();
    for n in 9..11 {
        let write = next_slice(busy(n));
        store.write(write.clone()).unwrap();
        store.next_write(write).unwrap();
    }
    let before = records(&reader);
    store.next_install().unwrap();
    reader.switch();
    assert_eq!(records(&reader), before);
    store.write(next_slice(busy(11))).unwrap();
    let after = records(&reader);
    assert!(
        after
            .iter()
            .any(|(_, key, value)| key == "c2" && value[0] == 11)
    );
    assert_eq!(after.len(), 4 * (5 + 12));
    store.sync().unwrap();
    after
}

/// Work for a pool as sled's: whoever puts something into the queue wakes one worker, and all of it is done,
/// whatever the others do meanwhile.
#[test]
fn no_work_is_forgotten_by_a_pool_whose_workers_are_woken_one_by_one() {
    const TASKS: u32 = 20_000;
    let queue = Mutex::new((VecDeque::new(), 0));
    let (work, over) = (Condvar::new(), Condvar::new());
    let worker = || {
        let mut state = queue.lock();
        while state.1 < TASKS {
            match state.0.pop_front() {
                Some(()) => state.1 += 1,
                None => drop(work.wait_until(&mut state, Instant::now() + HOUR)),
            }
        }
        work.notify_all();
        over.notify_all();
    };
    std::thread::scope(|scope| {
        for _ in 0..7 {
            scope.spawn(worker);
        }
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..TASKS / 4 {
                    queue.lock().0.push_back(());
                    work.notify_all();
                }
            });
        }
        let mut state = queue.lock();
        while state.1 < TASKS {
            let waited = over.wait_for(&mut state, Duration::from_secs(60));
            if waited.timed_out() {
                eprintln!("{} tasks of {TASKS} are done", state.1);
                std::process::abort(); // the workers would be waited for
            }
        }
    });
}

/// All who wait for the same thing hear of it.
#[test]
fn everybody_who_waits_for_something_else_is_woken() {
    let (flag, told) = (Mutex::new(false), Condvar::new());
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                let mut flag = flag.lock();
                while !*flag {
                    told.wait(&mut flag);
                }
            });
        }
        *flag.lock() = true;
        told.notify_all();
    });
}

/// A [`Condvar`] that wakes one of those who wait until a moment is right for sled. (The server only
/// flushes it by itself.)
#[test]
fn only_sled_has_the_locks_that_were_made_for_it() {
    let lock = std::fs::read_to_string("Cargo.lock").unwrap();
    let users = lock.split("[[package]]").filter(|package| {
        package.contains("\n \"parking_lot 0.11.") || package.contains("\n \"parking_lot\",")
    });
    let names: Vec<_> = users.filter_map(|package| package.lines().nth(1)).collect();
    assert_eq!(names, ["name = \"chat-server\"", "name = \"sled\""]);
}
