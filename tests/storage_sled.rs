//! The store in sled and its directory: durability calls, locks, identity, and damage that is
//! found and never taken for an empty store.

mod storage_common;

use chat::storage::{
    FORMAT, Inspection, OpenOptions, Opened, StateReader, StorageError, Store, Tree, Write,
    fdatasync_calls, open_directory,
};
use chat::types::entry::Entry;
use chat::types::{ClusterId, Incarnation, Index, Members, ReplicaId, Stamp, Term};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use storage_common::{End, Random, all, append, commit, granted, open, options, put, slice};

/// A directory with 400 entries, committed and applied to the last, and a mark that says so.
fn filled(path: &Path) -> Vec<Entry> {
    let (mut store, recovered) = open(path);
    let entries = End::default().entries(2, 400, 300);
    for batch in entries.chunks(40) {
        append(&mut store, batch);
        store.sync().unwrap();
    }
    let last = entries.last().unwrap();
    let changes = (0..50)
        .map(|n| put(Tree::Inboxes, &[n], &[n; 200]))
        .collect();
    store
        .write(Write {
            commit: Some(commit(last)),
            slice: Some(slice(last, changes)),
            ..Write::default()
        })
        .unwrap();
    store.sync().unwrap();
    let mut state = granted(&recovered.hard_state.unwrap(), 2, 3);
    state.mark = last.stamp();
    store.write_hard_state(&state, true).unwrap();
    entries
}

#[test]
fn a_sync_reaches_the_disk_and_what_was_synced_is_there_again() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(directory.path());
    let before = fdatasync_calls();
    append(&mut store, &End::default().entries(1, 3, 100));
    store.sync().unwrap();
    assert!(
        fdatasync_calls() > before,
        "sled's flush must be redirected"
    );
    assert!(store.size_bytes() > 0);
    drop(store);
    let (store, recovered) = open(directory.path());
    assert_eq!(recovered.last, Stamp::new(Term(1), Index(3)));
    assert_eq!(all(&store).len(), 3);
}

#[test]
fn a_truncation_inside_a_block_keeps_the_block_s_beginning() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(directory.path());
    let entries = End::default().entries(1, 30, 5_000);
    append(&mut store, &entries);
    let new = End::of(&entries[16]).entries(4, 2, 10);
    store
        .write(Write {
            truncate_after: Some(Index(17)),
            append: new.clone(),
            ..Write::default()
        })
        .unwrap();
    store.sync().unwrap();
    let expected = [&entries[..17], &new[..]].concat();
    assert_eq!(all(&store), expected);
    drop(store);
    let (store, recovered) = open(directory.path());
    assert_eq!(all(&store), expected);
    assert_eq!(recovered.term_runs.last(), Some(&(Index(18), Term(4))));
    assert_eq!(recovered.damage, []);
}

#[test]
fn promises_survive_and_a_lazy_one_may() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, recovered) = open(directory.path());
    let first = recovered.hard_state.unwrap();
    assert_eq!(first.incarnation, options(1).incarnation);
    let state = granted(&first, 7, 2);
    store.write_hard_state(&state, true).unwrap();
    let mut marked = state.clone();
    marked.others_marks.insert(ReplicaId(3), Stamp::FORMATION);
    store.write_hard_state(&marked, false).unwrap();
    drop(store);
    // The incarnation offered for a new directory is not taken for one that exists.
    let options = OpenOptions {
        incarnation: chat::types::Incarnation([99; 16]),
        ..options(1)
    };
    let Opened::Good { recovered, .. } = open_directory(directory.path(), &options).unwrap() else {
        panic!("nothing is damaged");
    };
    assert_eq!(recovered.hard_state, Some(marked));
}

#[test]
fn only_one_process_and_only_its_owner_may_enter() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new");
    let (store, _) = open(&path);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let sentence = |result: Result<Opened, StorageError>| match result {
        Err(StorageError::Unusable(sentence)) => sentence,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it should not open"),
    };
    let second = sentence(open_directory(&path, &options(1)));
    assert!(second.contains("in use by another process"), "{second}");
    assert!(second.contains(path.to_str().unwrap()), "{second}");
    assert!(
        Inspection::open(&path).is_err(),
        "an inspection takes it too"
    );
    drop(store);
    let other = sentence(open_directory(&path, &options(2)));
    assert!(other.contains("belongs to replica 1"), "{other}");
    open(&path);
}

#[test]
fn a_store_of_a_larger_cluster_is_refused_by_a_cluster_of_one() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, recovered) = open(directory.path());
    append(&mut store, &End::default().entries(1, 1, 0));
    store.sync().unwrap();
    let mut state = recovered.hard_state.unwrap();
    state.formation = chat::consensus::FormationStatus::Formed(storage_common::members());
    store.write_hard_state(&state, true).unwrap();
    drop(store);
    let alone = OpenOptions {
        ids: vec![ReplicaId(1)],
        ..options(1)
    };
    let Err(StorageError::Unusable(sentence)) = open_directory(directory.path(), &alone) else {
        panic!("it should not open");
    };
    assert!(sentence.contains("replicas 1, 2, 3"), "{sentence}");
    open(directory.path());
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    let file = directory.path().join("store-0001/store_format");
    let newer = format!("format {}\nsegment_bytes 8388608\n", FORMAT + 1);
    std::fs::write(&file, &newer).unwrap();
    let Err(StorageError::Unusable(sentence)) = open_directory(directory.path(), &options(1))
    else {
        panic!("it should not open");
    };
    assert!(sentence.contains("a newer version wrote it"), "{sentence}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), newer);
    assert!(Inspection::open(directory.path()).is_err());
}

#[test]
fn a_directory_that_was_open_to_others_is_closed_by_the_first_start() {
    let directory = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, permissions).unwrap();
    };
    // As of a disk that was just mounted.
    std::fs::create_dir(directory.path().join("lost+found")).unwrap();
    mode(directory.path(), 0o755);
    let (store, _) = open(directory.path());
    let now = directory.path().metadata().unwrap().permissions().mode();
    assert_eq!(now & 0o777, 0o700);
    drop(store);

    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("passwd"), "somebody's").unwrap();
    mode(other.path(), 0o1777);
    let Err(StorageError::Unusable(sentence)) = open_directory(other.path(), &options(1)) else {
        panic!("it should not open");
    };
    assert!(sentence.contains("holds other files"), "{sentence}");
    let after = other.path().metadata().unwrap().permissions().mode();
    assert_eq!(after & 0o7777, 0o1777);
    assert_eq!(other.path().read_dir().unwrap().count(), 1);
}

/// The sentence that says what is wrong, `None` if nothing is.
fn damage(path: &Path) -> Option<String> {
    open_directory(path, &options(1))
        .unwrap()
        .damage()
        .map(|(_, sentence)| sentence)
}

#[test]
fn each_file_that_is_lost_is_missed() {
    for (file, word) in [
        ("CURRENT", "CURRENT"),
        ("store-0001/db", "db"),
        ("store-0001/store_format", "store_format"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path());
        assert_eq!(damage(directory.path()), None);
        std::fs::remove_file(directory.path().join(file)).unwrap();
        let sentence = damage(directory.path()).expect(file);
        assert!(sentence.contains(word), "{file}: {sentence}");
    }
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    std::fs::remove_file(directory.path().join("store-0001/conf")).unwrap();
    assert_eq!(
        damage(directory.path()),
        None,
        "store_format knows the size"
    );
}

/// A store of the cluster whose members are given, with 40 entries.
fn formed(path: &Path, members: &Members) {
    let (mut store, _) = open(path);
    let first = Entry::formation(members);
    let end = End {
        stamp: first.stamp(),
        hash: first.hash(),
    };
    append(&mut store, &[first]);
    append(&mut store, &end.entries(2, 40, 100));
    store.sync().unwrap();
}

#[test]
fn lost_promises_are_a_new_life_in_the_same_cluster_with_the_same_log() {
    let members: Members = (1..=3)
        .map(|id| (ReplicaId(id), Incarnation([id as u8; 16])))
        .collect();
    let reborn = OpenOptions {
        incarnation: Incarnation([9; 16]),
        ..options(1)
    };
    type Lose = fn(&Path);
    let lose: [(&str, Lose); 2] = [
        ("missing", |file| std::fs::remove_file(file).unwrap()),
        ("unreadable", |file| {
            std::fs::write(file, [7; 16384]).unwrap();
        }),
    ];
    for (how, lose) in lose {
        let directory = tempfile::tempdir().unwrap();
        formed(directory.path(), &members);
        lose(&directory.path().join("hard_state"));
        let opened = open_directory(directory.path(), &reborn).unwrap();
        let Opened::Good { recovered, .. } = opened else {
            panic!("{how}: {:?}", opened.damage());
        };
        let state = recovered.hard_state.unwrap();
        assert_eq!(recovered.damage, [], "{how}");
        assert_eq!(recovered.last, Stamp::new(Term(2), Index(41)));
        assert_eq!(state.incarnation, reborn.incarnation, "{how}");
        assert_eq!(state.cluster, Some(ClusterId::of_members(&members)));
        // It may have granted in the log's term, and does not grant again there.
        assert_eq!(state.term, Term(2));
        assert_eq!(state.granted_to, Some(ReplicaId(1)));
        let kept = directory.path().join("hard_state.unreadable").exists();
        assert_eq!(kept, how == "unreadable", "evidence is kept");
    }
}

#[test]
fn lost_promises_of_a_cluster_of_one_are_damage() {
    let directory = tempfile::tempdir().unwrap();
    formed(
        directory.path(),
        &Members::from([(ReplicaId(1), Incarnation([1; 16]))]),
    );
    std::fs::remove_file(directory.path().join("hard_state")).unwrap();
    let alone = OpenOptions {
        ids: vec![ReplicaId(1)],
        ..options(1)
    };
    let opened = open_directory(directory.path(), &alone).unwrap();
    let (_, sentence) = opened.damage().expect("nobody can readmit it");
    assert!(sentence.contains("hard_state"), "{sentence}");
    assert!(advises_a_backup(&sentence), "{sentence}");
}

/// What a cluster of one is told: an empty directory would be the end of all messages.
fn advises_a_backup(sentence: &str) -> bool {
    sentence.contains("restore it from a backup")
        && sentence.contains("do not start with one")
        && !sentence.contains("it is readmitted")
}

#[test]
fn only_a_replica_that_others_can_fill_is_told_to_begin_with_an_empty_directory() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    std::fs::remove_file(directory.path().join("CURRENT")).unwrap();
    let alone = OpenOptions {
        ids: vec![ReplicaId(1)],
        ..options(1)
    };
    let opened = open_directory(directory.path(), &alone).unwrap();
    let (_, sentence) = opened.damage().expect("CURRENT is missing");
    assert!(advises_a_backup(&sentence), "{sentence}");
    drop(opened);
    let sentence = damage(directory.path()).expect("CURRENT is missing");
    assert!(sentence.contains("it is readmitted"), "{sentence}");
}

#[test]
fn a_file_under_blobs_is_fatal() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    std::fs::write(directory.path().join("store-0001/blobs/17"), b"x").unwrap();
    let sentence = damage(directory.path()).unwrap();
    assert!(sentence.contains("blobs"), "{sentence}");
}

/// A kill or a loss of power while sled writes its index, which it does at an open. Found by
/// `powercut states`.
#[test]
fn an_index_that_was_half_written_is_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    let entries = filled(directory.path());
    let store = directory.path().join("store-0001");
    // By its name the newest one.
    let half = store.join("snap.00FFFFFFFFFFFFFF.generating");
    for content in [
        &b""[..],
        b"the first bytes of an index that is not there yet",
    ] {
        std::fs::write(&half, content).unwrap();
        assert_eq!(damage(directory.path()), None);
        assert!(!half.exists());
        let (opened, _) = open(directory.path());
        assert_eq!(all(&opened), entries);
        drop(opened);
        std::fs::write(&half, content).unwrap();
        Inspection::open(directory.path()).unwrap();
        assert!(half.exists(), "an inspection looks at a copy");
        std::fs::remove_file(&half).unwrap();
    }
}

#[test]
fn a_cut_file_is_never_an_empty_store() {
    let directory = tempfile::tempdir().unwrap();
    let entries = filled(directory.path());
    let db = directory.path().join("store-0001/db");
    let whole = std::fs::read(&db).unwrap();
    for keep in [0, 1, 4096, 100_000, whole.len() / 4] {
        std::fs::write(&db, &whole[..keep]).unwrap();
        remove_snapshots(directory.path());
        match open_directory(directory.path(), &options(1)).unwrap() {
            // Only fillers were cut off.
            Opened::Good { store, recovered } if recovered.damage.is_empty() => {
                assert_eq!(all(&store), entries, "cut to {keep} bytes");
                assert!(keep > 100_000, "cut to {keep} bytes");
            }
            _ => {}
        }
    }
}

fn remove_snapshots(path: &Path) {
    for entry in std::fs::read_dir(path.join("store-0001")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("snap") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[test]
fn flipped_bytes_are_damage_or_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let entries = filled(directory.path());
    let db = directory.path().join("store-0001/db");
    let whole = std::fs::read(&db).unwrap();
    let mut random = Random(1);
    let mut found = 0;
    for _ in 0..12 {
        std::fs::write(&db, &whole).unwrap();
        remove_snapshots(directory.path());
        let at = random.below(200_000);
        let file = std::fs::File::options().write(true).open(&db).unwrap();
        file.write_all_at(&[!whole[at]], at as u64).unwrap();
        match open_directory(directory.path(), &options(1)) {
            Ok(Opened::Good { store, recovered }) if recovered.damage.is_empty() => {
                assert_eq!(all(&store), entries, "byte {at}");
            }
            Ok(_) => found += 1,
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(found > 0, "at least one of these bytes matters");
}

/// As after many clean stops: sled then keeps an index of its pages in `snap.*`, and an open does not
/// read them all.
#[test]
fn flipped_bytes_are_damage_or_change_nothing_also_where_an_open_reads_only_an_index() {
    let directory = tempfile::tempdir().unwrap();
    let mut entries = filled(directory.path());
    // More than a segment: an open reads the newest one from its beginning.
    let (mut store, _) = open(directory.path());
    let more = End::of(&entries[399]).entries(2, 1_200, 20_000);
    for batch in more.chunks(40) {
        append(&mut store, batch);
        store.sync().unwrap();
    }
    let last = more.last().unwrap();
    store
        .write(Write {
            commit: Some(commit(last)),
            slice: Some(slice(last, Vec::new())),
            ..Write::default()
        })
        .unwrap();
    drop(store);
    entries.extend(more);
    for _ in 0..2 {
        closed(directory.path());
        drop(open(directory.path()));
    }
    closed(directory.path());
    let files = stored(directory.path());
    assert!(files.iter().any(|(name, _)| name.starts_with("snap")));
    let whole = &files.iter().find(|(name, _)| name == "db").unwrap().1;
    let used = whole.len() - whole.iter().rev().take_while(|b| **b == 0).count();
    let mut random = Random(7);
    let (mut found, mut unread, mut tried) = (0, 0, 0);
    // One byte in ten is of the second kind; where sled put what differs from run to run.
    while tried < 30 || tried < 300 && (found == 0 || unread == 0) {
        tried += 1;
        closed(directory.path());
        restore(directory.path(), &files);
        let db = directory.path().join("store-0001/db");
        let at = random.below(used);
        let file = std::fs::File::options().write(true).open(&db).unwrap();
        file.write_all_at(&[!whole[at]], at as u64).unwrap();
        match open_directory(directory.path(), &options(1)) {
            Ok(Opened::Good { store, recovered }) if recovered.damage.is_empty() => {
                match read_all(&store) {
                    Ok(read) => assert_eq!(read, entries, "byte {at}"),
                    Err(StorageError::Damaged(_)) => unread += 1,
                    Err(error) => panic!("byte {at}: {error:?}"),
                }
            }
            Ok(_) => found += 1,
            Err(error) => panic!("byte {at}: {error:?}"),
        }
    }
    assert!(
        found > 0 && unread > 0,
        "{found} at open, {unread} later, of {tried}"
    );
}

/// Returns when sled has let go of its file: a moment after the store was dropped.
fn closed(path: &Path) {
    let db = std::fs::File::open(path.join("store-0001/db")).unwrap();
    db.lock().unwrap();
}

/// Every file of the store with its bytes.
fn stored(path: &Path) -> Vec<(String, Vec<u8>)> {
    let store = std::fs::read_dir(path.join("store-0001")).unwrap();
    let files = store.map(|e| e.unwrap().path()).filter(|p| p.is_file());
    files
        .map(|file| {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(&file).unwrap())
        })
        .collect()
}

/// The store as it was, and nothing else.
fn restore(path: &Path, files: &[(String, Vec<u8>)]) {
    let store = path.join("store-0001");
    for (name, _) in stored(path) {
        std::fs::remove_file(store.join(name)).unwrap();
    }
    for (name, bytes) in files {
        std::fs::write(store.join(name), bytes).unwrap();
    }
}

/// All entries, commit records and state records.
fn read_all(store: &impl Store) -> Result<Vec<Entry>, StorageError> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let from = entries.last().map_or(Index(1), |e| e.index().next());
        let page = store.entries(from, 10_000)?;
        if page.is_empty() {
            break;
        }
        entries.extend(page);
    }
    store.commit_records(Index(1), Index(u64::MAX))?;
    for tree in Tree::ALL {
        store.reader().range(tree, &[], &[0xFF; 9], usize::MAX)?;
        store.reader().get(tree, &[7])?;
    }
    Ok(entries)
}

#[test]
fn an_inspection_reads_everything_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let entries = filled(directory.path());
    let before = fingerprint(directory.path());
    let inspection = Inspection::open(directory.path()).unwrap();
    assert_eq!(inspection.format(), FORMAT);
    assert_eq!(inspection.hard_state().unwrap().unwrap().term, Term(2));
    assert_eq!(inspection.recovered().last, entries[399].stamp());
    assert_eq!(inspection.recovered().damage, []);
    let verified = inspection.verify_log();
    assert_eq!(verified.findings(), []);
    assert_eq!(verified.compared(), (400, 1));
    assert_eq!(verified.last(), entries[399].stamp());
    let mut after: Option<Vec<u8>> = None;
    let mut records = 0;
    loop {
        let page = inspection
            .state_records(Tree::Inboxes, after.as_deref(), 7)
            .unwrap();
        let Some((key, _)) = page.last() else { break };
        after = Some(key.to_vec());
        records += page.len();
    }
    assert_eq!(records, 50);
    let one = inspection
        .reader()
        .get(Tree::Inboxes, &[3])
        .unwrap()
        .unwrap();
    assert_eq!(one[..], [3; 200]);
    drop(inspection);
    assert_eq!(fingerprint(directory.path()), before);
    assert!(Inspection::open(&directory.path().join("none")).is_err());
}

/// Names, lengths and hashes of all files.
fn fingerprint(path: &Path) -> Vec<(String, u64, blake3::Hash)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(fingerprint(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            let name = path.display().to_string();
            files.push((name, bytes.len() as u64, blake3::hash(&bytes)));
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files
}
