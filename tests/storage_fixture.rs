//! One directory of every format version, as the build of its time wrote it, opened by this build.
//!
//! A fixture is the data directory packed into one file: a store's `db` has 8 MiB, nearly all of it
//! one byte repeated. `UPDATE=1` writes the fixture of the current version if there is none; one
//! that exists is never written again, because it is what some replica has on its disk.

mod storage_common;

use bytes::Bytes;
use chat::storage::{FORMAT, Opened, StateReader, Store, Tree, Write, open_directory};
use chat::types::entry::Entry;
use chat::types::{Index, ReplicaId, Stamp, Term};
use std::path::{Path, PathBuf};
use storage_common::{End, all, append, commit, granted, open, options, put, slice};

/// Runs of at least this many equal bytes are stored as a run.
const RUN_BYTES_MIN: usize = 64;

fn fixture(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("tests/fixtures/v{version}/directory.packed"))
}

fn put_u32(packed: &mut Vec<u8>, number: usize) {
    packed.extend(u32::try_from(number).unwrap().to_be_bytes());
}

fn take<'a>(packed: &mut &'a [u8], bytes: usize) -> &'a [u8] {
    let (taken, rest) = packed.split_at(bytes);
    *packed = rest;
    taken
}

fn take_u32(packed: &mut &[u8]) -> usize {
    u32::from_be_bytes(take(packed, 4).try_into().unwrap()) as usize
}

/// Each file: length and bytes of its name, total length, then (literal length, literal bytes, run
/// length, run byte) until that is reached. Numbers have four bytes, big-endian.
fn pack(root: &Path, directory: &Path, packed: &mut Vec<u8>) {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            pack(root, &path, packed);
            continue;
        }
        let name = path.strip_prefix(root).unwrap().to_str().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        put_u32(packed, name.len());
        packed.extend(name.bytes());
        put_u32(packed, bytes.len());
        pack_bytes(&bytes, packed);
    }
}

fn pack_bytes(bytes: &[u8], packed: &mut Vec<u8>) {
    let run = |at: usize| bytes[at..].iter().take_while(|b| **b == bytes[at]).count();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let mut length = 0;
        while at < bytes.len() {
            length = run(at);
            if length >= RUN_BYTES_MIN {
                break;
            }
            at += length;
            length = 0;
        }
        put_u32(packed, at - start);
        packed.extend(&bytes[start..at]);
        put_u32(packed, length);
        packed.push(bytes.get(at).copied().unwrap_or(0));
        at += length;
    }
}

fn unpack(mut packed: &[u8], root: &Path) {
    let packed = &mut packed;
    while !packed.is_empty() {
        let length = take_u32(packed);
        let name = std::str::from_utf8(take(packed, length)).unwrap();
        let total = take_u32(packed);
        let mut bytes = Vec::with_capacity(total);
        while bytes.len() < total {
            let literal = take_u32(packed);
            bytes.extend(take(packed, literal));
            let run = take_u32(packed);
            let byte = take(packed, 1)[0];
            bytes.resize(bytes.len() + run, byte);
        }
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// What every fixture holds: three terms, two commit records, a slice, promises. Since version 4 also large blocks, in a leaf
/// made ahead.
fn entries(version: u32) -> Vec<Entry> {
    let mut entries = End::default().entries(1, 20, 50);
    entries.extend(End::of(&entries[19]).entries(2, 10, 3_000));
    entries.extend(End::of(&entries[29]).entries(5, 5, 0));
    if version >= 4 {
        entries.extend(End::of(&entries[34]).entries(5, 21, 6_000));
    }
    entries
}

/// One record in each tree, and since version 2 more, which share rows there; since version 3 also many of one inbox and of
/// one client, which have sentinels.
fn records(version: u32) -> Vec<(Tree, Vec<u8>, Vec<u8>)> {
    let one = Tree::ALL.map(|tree| (tree, vec![1, 2], tree.name().as_bytes().to_vec()));
    let small = |n: u8| Tree::ALL.map(|tree| (tree, vec![b'c', n], vec![n; 90]));
    let more = (0..30).flat_map(small).filter(|_| version >= 2);
    let last = |n: u8| u64::from(n).to_be_bytes().to_vec();
    let long = |n: u8| {
        let block = [vec![9; 8], last(n)].concat();
        let group = [b"r".to_vec(), vec![9; 16], last(n)].concat();
        [(Tree::Inboxes, block), (Tree::Sessions, group)]
            .map(|(tree, key)| (tree, key, vec![n; 40]))
    };
    let rising = (0..20).flat_map(long).filter(|_| version >= 3);
    one.into_iter().chain(more).chain(rising).collect()
}

fn fill(path: &Path, version: u32) {
    let entries = entries(version);
    let (mut store, recovered) = open(path);
    for batch in entries.chunks(7) {
        append(&mut store, batch);
    }
    let changes = records(version)
        .iter()
        .map(|(tree, key, value)| put(*tree, key, value))
        .collect();
    // The first of them are changed by two slices: since version 4 they are hot.
    let few = records(version).into_iter().take(40);
    let busy = few.map(|(tree, key, _)| put(tree, &key, b"before"));
    let before = (version >= 4).then(|| slice(&entries[20], busy.collect()));
    for slice in before.into_iter().chain([slice(&entries[21], changes)]) {
        store
            .write(Write {
                commit: Some(commit(&entries[24])),
                slice: Some(slice),
                ..Write::default()
            })
            .unwrap();
    }
    store
        .write(Write {
            commit: Some(commit(&entries[32])),
            ..Write::default()
        })
        .unwrap();
    store.sync().unwrap();
    let mut state = granted(&recovered.hard_state.unwrap(), 5, 3);
    state.mark = entries[34].stamp();
    state.term_accepted = Term(5);
    state
        .others_marks
        .insert(ReplicaId(2), Stamp::new(Term(2), Index(28)));
    store.write_hard_state(&state, true).unwrap();
}

#[test]
fn this_build_reads_what_version_1_wrote() {
    read_fixture(1);
}

#[test]
fn this_build_reads_what_version_2_wrote() {
    read_fixture(2);
}

#[test]
fn this_build_reads_what_version_3_wrote() {
    read_fixture(3);
}

#[test]
fn this_build_reads_what_version_4_wrote() {
    read_fixture(4);
}

fn read_fixture(version: u32) {
    let path = fixture(version);
    if !path.exists() && FORMAT == version && std::env::var_os("UPDATE").is_some() {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path(), version);
        let mut packed = Vec::new();
        pack(directory.path(), directory.path(), &mut packed);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, packed).unwrap();
    }
    let packed = std::fs::read(&path).expect("the fixture is in the repository");
    assert!(packed.len() < 200_000, "{} bytes", packed.len());
    let directory = tempfile::tempdir().unwrap();
    unpack(&packed, directory.path());

    let Opened::Good { store, recovered } = open_directory(directory.path(), &options(1)).unwrap()
    else {
        panic!("the fixture is not damaged");
    };
    let entries = entries(version);
    assert_eq!(recovered.damage, []);
    assert_eq!(all(&store), entries);
    assert_eq!(recovered.tail, entries);
    let runs = [(1, 0), (2, 1), (21, 2), (31, 5)];
    assert_eq!(recovered.term_runs, runs.map(|(i, t)| (Index(i), Term(t))));
    assert_eq!(
        store.commit_records(Index(0), Index(100)).unwrap(),
        [commit(&entries[24]), commit(&entries[32])]
    );
    assert_eq!(recovered.applied, Some(slice(&entries[21], Vec::new())));
    let mut expected = records(version);
    expected.sort();
    let reader = store.reader();
    let of_tree = |tree: Tree| {
        let found = reader.range(tree, &[], &[255], 1_000).unwrap();
        let record = move |(key, value): (Bytes, Bytes)| (tree, key.to_vec(), value.to_vec());
        found.into_iter().map(record)
    };
    let found: Vec<_> = Tree::ALL.into_iter().flat_map(of_tree).collect();
    assert_eq!(found, expected);
    let state = recovered.hard_state.unwrap();
    assert_eq!(
        (state.term, state.granted_to),
        (Term(5), Some(ReplicaId(3)))
    );
    assert_eq!(state.incarnation, options(1).incarnation);
    assert_eq!(state.mark, entries[34].stamp());
    assert_eq!(
        state.others_marks[&ReplicaId(2)],
        Stamp::new(Term(2), Index(28))
    );
}

#[test]
fn every_version_has_a_fixture() {
    for version in 1..=FORMAT {
        assert!(fixture(version).exists(), "no fixture of version {version}");
    }
}

#[test]
fn packing_is_undone_by_unpacking() {
    let from = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    let contents = [
        vec![],
        vec![5; 63],
        [vec![1, 2, 3], vec![0; 1_000], vec![9]].concat(),
    ];
    for (n, bytes) in contents.iter().enumerate() {
        std::fs::write(from.path().join(n.to_string()), bytes).unwrap();
    }
    let mut packed = Vec::new();
    pack(from.path(), from.path(), &mut packed);
    unpack(&packed, to.path());
    for (n, bytes) in contents.iter().enumerate() {
        assert_eq!(
            &std::fs::read(to.path().join(n.to_string())).unwrap(),
            bytes
        );
    }
}
