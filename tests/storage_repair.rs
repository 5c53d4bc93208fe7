//! How a repair begins: what is put aside and kept, and that a crash anywhere loses none of it.

mod storage_common;

use chat::consensus::{FormationStatus, Repair};
use chat::storage::{
    OpenOptions, Opened, Recovered, SledStore, Store, note_damage, open_directory, repairs,
};
use chat::types::Stamp;
use std::path::Path;
use storage_common::{End, append, members, open, options};

/// A replica of a formed cluster that has acknowledged 400 entries.
fn formed(path: &Path) {
    let (mut store, recovered) = open(path);
    let entries = End::default().entries(2, 400, 300);
    append(&mut store, &entries);
    store.sync().unwrap();
    let mut state = recovered.hard_state.unwrap();
    state.formation = FormationStatus::Formed(members());
    state.term = entries[399].stamp().term;
    state.mark = entries[399].stamp();
    store.write_hard_state(&state, true).unwrap();
}

fn opened(path: &Path) -> (SledStore, Recovered) {
    match open_directory(path, &options(1)).unwrap() {
        Opened::Good { store, recovered } => (store, recovered),
        Opened::Damaged { sentence, .. } => panic!("{sentence}"),
    }
}

fn repair_of(recovered: &Recovered) -> Repair {
    recovered.hard_state.as_ref().unwrap().repair
}

/// Names in a data directory that begin with this, in order.
fn names(path: &Path, prefix: &str) -> Vec<String> {
    let names = std::fs::read_dir(path).unwrap();
    let names = names.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

/// Damage that every open finds.
fn cut(store: &Path) {
    let db = std::fs::File::options()
        .write(true)
        .open(store.join("db"))
        .unwrap();
    db.set_len(4_096).unwrap();
}

/// A file that says which store this is, wherever it goes.
fn label(store: &Path, text: &str) {
    std::fs::write(store.join("label"), text).unwrap();
}

fn label_of(store: &Path) -> Option<String> {
    std::fs::read_to_string(store.join("label")).ok()
}

#[test]
fn what_a_run_has_met_is_repaired_by_the_next_open_which_would_find_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    formed(path);
    let (store, recovered) = opened(path);
    assert_eq!(repair_of(&recovered), Repair::No);
    assert_eq!(recovered.last_repair, None);
    // Whatever the store does just now.
    note_damage(path, "log at index 7: a page is lost").unwrap();
    drop(store);

    let (store, recovered) = opened(path);
    assert_eq!(repair_of(&recovered), Repair::UnderWay);
    assert_eq!(recovered.last, Stamp::ZERO);
    assert_eq!(names(path, "damaged-"), ["damaged-store-0001"]);
    assert_eq!(names(path, "damage_found"), Vec::<String>::new());
    let note = recovered.last_repair.unwrap();
    assert_eq!(note.why, "log at index 7: a page is lost");
    assert_eq!(note.kept_in.as_deref(), Some("damaged-store-0001"));
    assert!(note.while_running && note.ended.is_none());
    drop(store);
    let (_store, recovered) = opened(path);
    assert_eq!(repair_of(&recovered), Repair::UnderWay);
    assert_eq!(
        repairs(path).unwrap().len(),
        1,
        "it goes on, and begins no more"
    );
}

#[test]
fn a_store_that_was_filled_in_a_repair_takes_the_place_of_none_that_was_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    formed(path);
    label(&path.join("store-0001"), "all that was acknowledged");
    cut(&path.join("store-0001"));
    drop(opened(path));
    assert_eq!(names(path, "damaged-"), ["damaged-store-0001"]);

    // Damaged again before the repair is over.
    note_damage(path, "commits: a page is lost").unwrap();
    let (store, recovered) = opened(path);
    let kept = path.join("damaged-store-0001");
    assert_eq!(
        label_of(&kept).as_deref(),
        Some("all that was acknowledged")
    );
    assert_eq!(names(path, "damaged-").len(), 1);
    assert_eq!(names(path, "store-"), ["store-0003"]);
    let note = recovered.last_repair.unwrap();
    assert!(note.again);
    assert_eq!(note.kept_in.as_deref(), Some("damaged-store-0001"));
    drop(store);

    // Once it is over, what is there is worth more.
    let (mut store, recovered) = opened(path);
    let mut state = recovered.hard_state.unwrap();
    state.repair = Repair::No;
    state.mark = Stamp::ZERO;
    append(&mut store, &End::default().entries(2, 3, 10));
    store.sync().unwrap();
    store.write_hard_state(&state, true).unwrap();
    drop(store);
    cut(&path.join("store-0003"));
    note_damage(path, "and again").unwrap();
    drop(opened(path));
    assert_eq!(names(path, "damaged-"), ["damaged-store-0003"]);
}

#[test]
fn a_crash_while_a_store_is_put_aside_loses_none() {
    type Crash = fn(&Path);
    let crashes: [(&str, Crash); 4] = [
        ("before anything", |_| {}),
        ("with an empty store beside", |path| {
            std::fs::create_dir(path.join("store-0002")).unwrap();
        }),
        ("after the rename", |path| {
            std::fs::create_dir(path.join("store-0002")).unwrap();
            let (from, to) = (path.join("store-0001"), path.join("damaged-store-0001"));
            std::fs::rename(from, to).unwrap();
        }),
        ("without CURRENT", |path| {
            std::fs::remove_file(path.join("CURRENT")).unwrap();
        }),
    ];
    for (when, crash) in crashes {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        formed(path);
        label(&path.join("store-0001"), "the only one");
        cut(&path.join("store-0001"));
        crash(path);
        let (store, recovered) = opened(path);
        assert_eq!(repair_of(&recovered), Repair::UnderWay, "{when}");
        let kept = path.join("damaged-store-0001");
        assert_eq!(label_of(&kept).as_deref(), Some("the only one"), "{when}");
        assert_eq!(names(path, "store-"), ["store-0002"], "{when}");
        drop(store);
        drop(opened(path));
        assert_eq!(label_of(&kept).as_deref(), Some("the only one"), "{when}");
    }
}

/// As a crash right there: the store cannot be put aside.
#[test]
fn current_names_the_empty_store_only_after_the_damaged_one_is_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    formed(path);
    label(&path.join("store-0001"), "the only one");
    cut(&path.join("store-0001"));
    let obstacle = path.join("damaged-store-0001");
    std::fs::write(&obstacle, "no directory").unwrap();
    assert!(open_directory(path, &options(1)).is_err());
    let current = std::fs::read_to_string(path.join("CURRENT")).unwrap();
    assert_eq!(current, "store-0001\n");
    std::fs::remove_file(&obstacle).unwrap();
    drop(opened(path));
    assert_eq!(label_of(&obstacle).as_deref(), Some("the only one"));
}

#[test]
fn a_disk_that_does_not_answer_is_no_damage_and_does_not_hold_up_the_open_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    formed(path);
    let db = path.join("store-0001/db");
    std::fs::remove_file(&db).unwrap();
    // Nobody writes to it: whoever opens it for reading waits.
    let made = std::process::Command::new("mkfifo").arg(&db).status();
    assert!(made.unwrap().success());
    let impatient = OpenOptions {
        patience: std::time::Duration::from_millis(50),
        ..options(1)
    };
    let error = open_directory(path, &impatient).err().unwrap();
    assert!(error.to_string().contains("cannot open"), "{error}");
    assert_eq!(names(path, "damaged-"), Vec::<String>::new());
    // The thread that waits goes on, and ends.
    drop(std::fs::File::options().write(true).open(&db).unwrap());
}
