//! Tests of hot records.

use super::super::{STATE, SledReader, layout};
use super::*;
use crate::storage::StateReader as _;
use crate::storage::records;
use crate::types::{Hash, Members};
use std::sync::atomic::{AtomicU64, Ordering};

const CACHE_BYTES: u64 = 1 << 20;

fn engine(directory: &tempfile::TempDir) -> Engine {
    layout::create_store_at(directory.path(), CACHE_BYTES).unwrap();
    Engine::open(directory.path(), CACHE_BYTES).unwrap()
}

fn put(tree: Tree, key: &[u8], value: Vec<u8>) -> Change {
    Change {
        tree,
        key: Bytes::copy_from_slice(key),
        value: Some(value.into()),
    }
}

/// A slice as the store writes it. Returns how many records stay hot.
fn write(engine: &Engine, changes: &[Change]) -> usize {
    let before = engine
        .applied()
        .unwrap()
        .map_or(Index(0), |slice| slice.applied);
    let slice = Slice {
        applied: before.next(),
        hash: Hash::default(),
        digest: Hash::default(),
        members: Members::new(),
        machine: Bytes::new(),
        changes: changes.to_vec(),
    };
    let value = records::applied_value(&slice);
    let mut operations = vec![(META, records::APPLIED_KEY.into(), Some(value.into()))];
    let parted = engine.put_slice(&slice, &mut operations).unwrap();
    engine.commit(&operations, None).unwrap();
    engine.written(parted);
    let hot = engine.hot.0.read().unwrap();
    hot.records.iter().map(BTreeMap::len).sum()
}

fn hot_rows(engine: &Engine) -> usize {
    let rows = engine.trees[META].scan_prefix(HOT_KEY);
    let rows = rows.map(|row| row.unwrap());
    rows.filter(|(key, _)| key.len() == HOT_KEY.len() + 1)
        .count()
}

fn random(state: &mut u64, below: u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1);
    (*state >> 33) % below
}

/// A reader sees what the model has, whichever way it asks.
fn check(reader: &SledReader, model: &[BTreeMap<Vec<u8>, Vec<u8>>; 4], state: &mut u64) {
    for tree in Tree::ALL {
        let of_tree = &model[tree as usize];
        let key = |state: &mut u64| vec![b'k', random(state, 40) as u8];
        for _ in 0..3 {
            let key = key(state);
            let found = reader.get(tree, &key).unwrap();
            assert_eq!(found.as_deref(), of_tree.get(&key).map(|value| &value[..]));
        }
        let (mut from, mut to) = (key(state), key(state));
        if from > to {
            (from, to) = (to, from);
        }
        let limit = random(state, 12) as usize;
        let within = of_tree.range(from.clone()..to.clone());
        let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        let plain = |found: Pairs| -> Vec<(Vec<u8>, Vec<u8>)> {
            let found = found.into_iter();
            found
                .map(|(key, value)| (key.to_vec(), value.to_vec()))
                .collect()
        };
        let up: Vec<_> = within.clone().take(limit).map(owned).collect();
        assert_eq!(plain(reader.range(tree, &from, &to, limit).unwrap()), up);
        let down: Vec<_> = within.rev().take(limit).map(owned).collect();
        assert_eq!(
            plain(reader.range_back(tree, &from, &to, limit).unwrap()),
            down
        );
    }
}

#[test]
fn readers_see_what_was_written_whether_it_is_hot_or_not_and_so_do_those_of_the_next_open() {
    let (mut hot, mut cold) = (0, 0);
    for seed in 0..12 {
        let directory = tempfile::tempdir().unwrap();
        let mut engine = engine(&directory);
        let mut model: [BTreeMap<Vec<u8>, Vec<u8>>; 4] = Default::default();
        let mut state = seed;
        for slice in 0..40 {
            let busy = 10 * (slice / 8);
            let count = random(&mut state, 60);
            let changes: Vec<Change> = (0..count)
                .map(|_| {
                    let tree = Tree::ALL[random(&mut state, 4) as usize];
                    // The same few for some slices, some of them twice in one.
                    let key = (busy + random(&mut state, 8)) % 40;
                    let most = [20, 2_000, 20_000][random(&mut state, 3) as usize];
                    let bytes = random(&mut state, most) as usize;
                    let value = vec![random(&mut state, 100) as u8; bytes];
                    let mut change = put(tree, &[b'k', key as u8], value);
                    if random(&mut state, 4) == 0 {
                        change.value = None;
                    }
                    change
                })
                .collect();
            for change in &changes {
                let of_tree = &mut model[change.tree as usize];
                match &change.value {
                    Some(value) => of_tree.insert(change.key.to_vec(), value.to_vec()),
                    None => of_tree.remove(&change.key[..]),
                };
            }
            let are_hot = write(&engine, &changes);
            hot += are_hot;
            cold += model.iter().map(BTreeMap::len).sum::<usize>() - are_hot;
            check(&engine.reader(), &model, &mut state);
            if random(&mut state, 4) == 0 {
                engine.flush().unwrap();
                drop(engine);
                engine = Engine::open(directory.path(), CACHE_BYTES).unwrap();
                check(&engine.reader(), &model, &mut state);
            }
        }
        write(&engine, &[]);
        assert_eq!(hot_rows(&engine), 1, "nobody is busy any more");
        check(&engine.reader(), &model, &mut state);
    }
    assert!(hot > 2_000 && cold > 2_000, "{hot} and {cold}");
}

#[test]
fn what_every_slice_changes_is_written_to_its_tree_when_one_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(&directory);
    let row = || {
        engine.trees[STATE + Tree::Inboxes as usize]
            .get(b"busy")
            .unwrap()
    };
    for n in 1..=5_u8 {
        let hot = write(&engine, &[put(Tree::Inboxes, b"busy", vec![n])]);
        assert_eq!(hot, usize::from(n > 1));
        assert_eq!(row().unwrap()[..], [1], "as the first slice left it");
        let seen = engine.reader().get(Tree::Inboxes, b"busy").unwrap();
        assert_eq!(seen.unwrap()[..], [n]);
    }
    assert_eq!(write(&engine, &[put(Tree::Inboxes, b"other", vec![1])]), 0);
    assert_eq!(
        (row().unwrap()[..].to_vec(), hot_rows(&engine)),
        (vec![5], 1)
    );
    let remove = Change {
        value: None,
        ..put(Tree::Inboxes, b"busy", vec![])
    };
    for n in 6..8 {
        write(&engine, &[put(Tree::Inboxes, b"busy", vec![n])]);
    }
    write(&engine, &[remove]);
    assert_eq!(row(), None);
    assert_eq!(engine.reader().get(Tree::Inboxes, b"busy").unwrap(), None);
}

#[test]
fn hot_records_are_bounded_and_what_has_no_room_goes_to_its_tree() {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(&directory);
    for bytes in [
        1_000,
        HOT_RECORD_BYTES_MAX - 8,
        HOT_RECORD_BYTES_MAX - 7,
        20_000,
    ] {
        let key = |n: u64| n.to_be_bytes();
        let all = |_| {
            (0..1_500)
                .map(|n| put(Tree::Inboxes, &key(n), vec![7; bytes]))
                .collect()
        };
        let slices: Vec<Vec<Change>> = (0..2).map(all).collect();
        write(&engine, &slices[0]);
        let hot = write(&engine, &slices[1]);
        let fit = bytes + 8 <= HOT_RECORD_BYTES_MAX;
        let most = if fit {
            BYTES_MAX / (bytes + 8 + HEAD_BYTES)
        } else {
            0
        };
        assert_eq!(hot, most.min(1_500), "of {bytes} bytes");
        assert!(hot_rows(&engine) <= usize::from(HOT_ROWS));
        engine.flush().unwrap();
        for n in [0, 700, 1_499] {
            let found = engine.reader().get(Tree::Inboxes, &key(n)).unwrap();
            assert_eq!(found.map(|value| value.len()), Some(bytes));
        }
    }
}

#[test]
fn hot_rows_that_are_wrong_or_missing_are_damage_of_the_state() {
    type Wrong = (u8, fn(&mut Vec<u8>));
    let wrong: [Wrong; 11] = [
        (1, |row| row[0] = 9),
        (1, |row| row[1] = 0),
        (1, |row| row[1] = 3),
        (2, |row| row[1] = 1),
        (1, |row| row[ROW_HEAD_BYTES - 1] += 1),
        (2, |row| row[ROW_HEAD_BYTES - 1] += 1),
        (1, |row| row[ROW_HEAD_BYTES] = 4),
        (1, |row| row.truncate(row.len() - 1)),
        (1, |row| row.extend_from_within(ROW_HEAD_BYTES..)),
        (1, Vec::clear),
        (2, Vec::clear),
    ];
    for (number, wrong) in wrong {
        let directory = tempfile::tempdir().unwrap();
        let engine = engine(&directory);
        for n in 0..2 {
            let of = |user: u8| put(Tree::Users, &[user], vec![n; 10_000]);
            write(&engine, &[1, 2, 3, 4].map(of));
        }
        assert_eq!(hot_rows(&engine), 2);
        let meta = &engine.trees[META];
        let key = row_key(number);
        let mut row = meta.get(&key).unwrap().unwrap().to_vec();
        wrong(&mut row);
        if row.is_empty() {
            meta.remove(&key).unwrap();
        } else {
            meta.insert(&key, row).unwrap();
        }
        engine.flush().unwrap();
        drop(engine);
        let engine = Engine::open(directory.path(), CACHE_BYTES).unwrap();
        assert!(engine.applied().is_err());
        let read = engine.reader().get(Tree::Users, &[1]);
        assert!(matches!(read, Err(StorageError::Damaged(_))), "{read:?}");
        assert_eq!(engine.block_at(Index(1)).unwrap(), None, "of the log");
        let slice = Slice {
            applied: Index(3),
            hash: Hash::default(),
            digest: Hash::default(),
            members: Members::new(),
            machine: Bytes::new(),
            changes: Vec::new(),
        };
        let written = engine.put_slice(&slice, &mut Vec::new());
        assert!(written.is_err(), "it would hide what is missing");
    }
}

#[test]
fn a_store_of_an_older_format_has_no_hot_rows() {
    let directory = tempfile::tempdir().unwrap();
    let new = engine(&directory);
    new.trees[META]
        .insert("format", &3_u32.to_be_bytes())
        .unwrap();
    new.flush().unwrap();
    drop(new);
    let engine = Engine::open(directory.path(), CACHE_BYTES).unwrap();
    for n in 0..3 {
        assert_eq!(write(&engine, &[put(Tree::Users, b"busy", vec![n; 30])]), 0);
        assert_eq!(hot_rows(&engine), 0);
    }
}

#[test]
fn a_reader_meets_a_record_that_becomes_hot_and_goes_to_its_tree_meanwhile() {
    const ROUNDS: u64 = 2_000;
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(&directory);
    let tree = Tree::Inboxes;
    let written = AtomicU64::new(0);
    write(&engine, &[put(tree, b"busy", 0_u64.to_be_bytes().into())]);
    let number = |value: &Bytes| u64::from_be_bytes(value[..].try_into().unwrap());
    std::thread::scope(|scope| {
        let reader = engine.reader();
        let written = &written;
        let reads = scope.spawn(move || {
            let mut last = 0;
            while last < ROUNDS {
                let least = written.load(Ordering::Acquire).max(last);
                let got = number(&reader.get(tree, b"busy").unwrap().expect("it is there"));
                let up = reader.range(tree, b"a", b"c", 9).unwrap();
                let down = reader.range_back(tree, b"a", b"c", 1).unwrap();
                assert_eq!((up.len(), down.len()), (1, 1));
                let (up, down) = (number(&up[0].1), number(&down[0].1));
                assert!(
                    least <= got && got <= up && up <= down,
                    "{least} {got} {up} {down}"
                );
                last = down;
            }
        });
        for n in 1..=ROUNDS {
            let comes_and_goes = |n: u64| Change {
                value: (!n.is_multiple_of(4)).then(|| vec![1; 20].into()),
                ..put(tree, b"z", vec![])
            };
            let busy = put(tree, b"busy", n.to_be_bytes().into());
            write(&engine, &[busy, comes_and_goes(n)]);
            written.store(n, Ordering::Release);
            if n % 3 == 0 {
                write(&engine, &[comes_and_goes(n + 1)]);
            }
            if reads.is_finished() {
                break;
            }
        }
        reads.join().unwrap();
    });
}
