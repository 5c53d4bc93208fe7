//! Slices, and the overlay over the store.

use super::*;
use crate::limits::{BODY_BYTES_MAX, SLICE_BYTES_MAX, SLICE_RECORDS_MAX};

#[test]
fn a_slice_waits_for_its_commit_record_and_only_one_is_out() {
    let mut rig = Rig::new();
    rig.create("alice");
    let applied = rig.machine.applied();
    assert!(rig.machine.next_slice(applied, false).is_none(), "not full");
    assert!(rig.machine.next_slice(Index(1), true).is_none());
    rig.create("bob");
    // The forced part ended where it was asked for: it did not grow.
    let slice = rig.machine.next_slice(applied, false).unwrap();
    assert_eq!(slice.applied, applied);
    let now = rig.machine.applied();
    assert!(rig.machine.next_slice(now, true).is_none(), "one is out");
    rig.trees.write(slice);
    rig.check();
    rig.machine.slice_written();
    rig.check();
    let next = rig.machine.next_slice(now, true).unwrap();
    assert_eq!(next.applied, now);
    rig.trees.write(next);
    rig.machine.slice_written();
    assert!(rig.machine.next_slice(now, true).is_none(), "nothing left");
    rig.check();
}

#[test]
fn full_slices_are_bounded_and_handed_out_in_order() {
    let mut rig = Rig::new();
    for i in 0..600 {
        rig.create(&format!("user{i}"));
    }
    let applied = rig.machine.applied();
    let mut count = 0;
    while let Some(slice) = rig.machine.next_slice(applied, false) {
        let full = SLICE_RECORDS_MAX..SLICE_RECORDS_MAX + 20;
        assert!(full.contains(&slice.changes.len()));
        let before = rig.trees.slice.as_ref().map_or(Index(0), |s| s.applied);
        assert!(slice.applied > before);
        rig.trees.write(slice);
        rig.machine.slice_written();
        count += 1;
        rig.check();
    }
    assert!(count >= 3);
    assert!(rig.machine.unwritten_records() < SLICE_RECORDS_MAX);
}

#[test]
fn a_slice_of_long_messages_ends_early_and_what_is_unwritten_is_counted() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    let body = "x".repeat(BODY_BYTES_MAX);
    for _ in 0..=SLICE_BYTES_MAX / BODY_BYTES_MAX as u64 {
        rig.run(&alice.next(send("alice", &body)));
    }
    assert!(rig.machine.unwritten_records() < SLICE_RECORDS_MAX);
    assert!(rig.machine.unwritten_bytes() > SLICE_BYTES_MAX);
    let applied = rig.machine.applied();
    let full = rig.machine.next_slice(applied, false).unwrap();
    assert!(full.applied <= applied);
    rig.trees.write(full);
    rig.machine.slice_written();
    assert!(rig.machine.unwritten_bytes() < 4 * BODY_BYTES_MAX as u64);
    if let Some(rest) = rig.machine.next_slice(applied, true) {
        rig.trees.write(rest);
        rig.machine.slice_written();
    }
    assert_eq!(rig.machine.unwritten_bytes(), 0);
    rig.check();
}

#[test]
fn a_conversation_coalesces_into_few_records() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    for _ in 0..2_000 {
        rig.run(&alice.next(send("alice", "hello")));
    }
    let records = rig.machine.unwritten_records();
    assert!(records < 200, "{records} records for 2,000 messages");
}

#[test]
fn a_key_changed_while_its_slice_is_written_keeps_the_newer_value() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    let rename = |rig: &mut Rig, alice: &mut User, full_name: &str| {
        let full_name = full_name.to_owned();
        rig.run(&alice.next(Operation::UpdateProfile { full_name }));
    };
    rename(&mut rig, &mut alice, "first");
    let slice = rig.machine.next_slice(rig.machine.applied(), true).unwrap();
    rename(&mut rig, &mut alice, "second");
    rig.trees.write(slice);
    rig.machine.slice_written();
    let Answer::WhoAmI { account, .. } = rig.query(&Query::WhoAmI { token: alice.token }) else {
        panic!("not logged in");
    };
    assert_eq!(account.full_name, "second");
    rig.check();
}

#[test]
fn ranges_merge_store_and_overlay_in_both_directions() {
    use crate::state_machine::cache::Value;
    use crate::state_machine::overlay::{Overlay, View};
    let key = |n: u8| Bytes::copy_from_slice(&[n]);
    let mut trees = Trees::default();
    for n in (0..100).step_by(2) {
        trees.records.insert((Tree::Users, key(n)), key(n));
    }
    let mut overlay = Overlay::default();
    for n in 0..100 {
        match n % 5 {
            0 => overlay.put(
                Tree::Users,
                key(n)[..].into(),
                Some(Value::Bytes(key(n + 100))),
            ),
            1 | 2 => overlay.put(Tree::Users, key(n)[..].into(), None),
            _ => {}
        }
    }
    let view = View {
        reader: &trees,
        overlay: &overlay,
        cached: true,
    };
    let all: Vec<(Bytes, Bytes)> = (0..100_u8)
        .filter_map(|n| match n % 5 {
            0 => Some((key(n), key(n + 100))),
            1 | 2 => None,
            _ => n.is_multiple_of(2).then(|| (key(n), key(n))),
        })
        .collect();
    for (from, to) in [(0, 100), (3, 97), (10, 11), (11, 13), (50, 50), (60, 40)] {
        let within = |(k, _): &&(Bytes, Bytes)| k[0] >= from && k[0] < to;
        for limit in [0, 1, 2, 7, 100] {
            let (from, to) = (key(from), key(to));
            let found = view.range(Tree::Users, &from, &to, limit).unwrap();
            let want: Vec<_> = all.iter().filter(within).take(limit).cloned().collect();
            assert_eq!(found, want);
            let found = view.range_back(Tree::Users, &from, &to, limit).unwrap();
            let want: Vec<_> = all
                .iter()
                .rev()
                .filter(within)
                .take(limit)
                .cloned()
                .collect();
            assert_eq!(found, want);
        }
    }
}

#[test]
fn a_scan_names_the_record_that_is_wrong() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    for _ in 0..3 {
        rig.run(&alice.next(send("alice", "hello")));
    }
    rig.drain();
    let damage = |tree: Tree, rig: &Rig| {
        let mut trees = rig.trees.clone();
        let (key, value) = trees.within(tree, &[], &[0xff; 40]).next_back().unwrap();
        let mut bytes = value.to_vec();
        let at = bytes.iter().rposition(u8::is_ascii_lowercase).unwrap();
        bytes[at] = b'A';
        trees.records.insert((tree, key), bytes.into());
        rig.machine.scan_digest(&trees)
    };
    let error = damage(Tree::Inboxes, &rig).unwrap_err().to_string();
    assert!(error.contains("inboxes: record"), "{error}");
    let error = damage(Tree::Tokens, &rig).unwrap_err().to_string();
    assert!(error.contains("users: record"), "{error}");

    let mut trees = rig.trees.clone();
    trees.records.retain(|(tree, _), _| *tree != Tree::Inboxes);
    let error = rig.machine.scan_digest(&trees).unwrap_err().to_string();
    assert!(error.contains("message 1 is missing"), "{error}");
}
