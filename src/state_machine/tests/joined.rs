//! From level 3 on what is being filled stands in the row that changes with it. The random logs of
//! `replay` cross that level too; here is what they would not tell.

use super::*;
use crate::limits::{DELIVER_BATCH_MAX, REPLIES_MAX};
use crate::state_machine::Notice;
use crate::state_machine::records::{Client, Head, decode, keys};
use crate::types::InboxSeq;

const BEFORE: Level = Level(2);
const JOINED: Level = Level(3);

impl Rig {
    /// Writes everything out and returns the keys of what was changed since.
    fn changes(&mut self) -> Vec<(Tree, u8)> {
        let mut changes = Vec::new();
        while let Some(slice) = self.machine.next_slice(self.machine.applied(), true) {
            changes.extend(slice.changes.iter().map(|c| (c.tree, c.key[0])));
            self.trees.write(slice);
            self.machine.slice_written();
        }
        changes
    }

    fn stored<T: serde::de::DeserializeOwned>(&self, tree: Tree, key: &[u8]) -> T {
        let bytes = self.trees.get(tree, key).unwrap().unwrap();
        decode(tree, key, &bytes).unwrap()
    }

    fn client_of(&self, user: &User) -> Client {
        self.stored(Tree::Sessions, &keys::client(user.id, &user.client))
    }

    fn rows(&self, tree: Tree, prefix: &[u8]) -> usize {
        let of = |(t, key): &&(Tree, Bytes)| *t == tree && key.starts_with(prefix);
        self.trees.records.keys().filter(of).count()
    }

    fn sends_to_itself(&mut self, user: &User, sequence: u64) {
        let reply = self.run(&user.with(sequence, send("alice", "x")));
        assert!(matches!(reply, Reply::Sent { .. }), "{sequence}");
        self.check();
    }

    fn bodies(&self, user: &User) -> Vec<Vec<u8>> {
        let (token, after) = (user.token, Some(InboxSeq(0)));
        let limit = DELIVER_BATCH_MAX;
        let query = Query::Inbox {
            token,
            after,
            limit,
        };
        match self.query(&query) {
            Answer::Inbox { messages, .. } => messages.into_iter().map(|m| m.body).collect(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_message_changes_two_rows_instead_of_five() {
    let mut rig = Rig::new();
    rig.raise(BEFORE);
    let (mut alice, bob) = (rig.create("alice"), rig.create("bob"));
    rig.run(&alice.next(send("bob", "first")));
    rig.changes();
    rig.run(&alice.next(send("bob", "before")));
    let head = (Tree::Users, b'h');
    let client = (Tree::Sessions, b'c');
    let before = [
        head,
        head,
        (Tree::Inboxes, 0),
        client,
        (Tree::Sessions, b'r'),
    ];
    assert_eq!(rig.changes(), before);

    rig.raise(JOINED);
    // What was being filled goes on in its rows; the client leaves its owner's sum.
    rig.run(&alice.next(send("bob", "crossing")));
    assert_eq!(rig.changes(), before);
    rig.check();
    // The block is full, and alice's next replies are of another group.
    rig.run(&alice.next(send("bob", &"x".repeat(4_000))));
    rig.run(&alice.with(64, send("bob", "joined")));
    rig.changes();
    rig.run(&alice.with(65, send("bob", "since")));
    assert_eq!(rig.changes(), [head, client]);
    rig.check();
    let crossed = rig.bodies(&bob);
    let firsts: Vec<u8> = crossed.iter().map(|body| body[0]).collect();
    assert_eq!(firsts, *b"fbcxjs");
}

/// Older builds of the cluster read the same rows, and do not know the new fields.
#[test]
fn rows_of_before_have_no_field_more() {
    let mut rig = Rig::new();
    rig.raise(BEFORE);
    let alice = rig.create("alice");
    rig.drain();
    let fields = |tree, key: &[u8]| rig.trees.get(tree, key).unwrap().unwrap()[1] & 0x0f;
    assert_eq!(fields(Tree::Users, &keys::head(alice.id)), 5);
    let client = keys::client(alice.id, &alice.client);
    assert_eq!(fields(Tree::Sessions, &client), 6);
}

#[test]
fn a_full_block_and_a_full_group_get_rows_of_their_own() {
    let mut rig = Rig::new();
    rig.raise(JOINED);
    let mut alice = rig.create("alice");
    for number in 0..100 {
        rig.run(&alice.next(send("alice", &format!("{number} {}", "x".repeat(300)))));
        if number % 7 == 0 {
            rig.drain();
            rig.check();
        }
    }
    rig.drain();
    let of_alice = alice.id.0.to_be_bytes();
    let head: Head = rig.stored(Tree::Users, &keys::head(alice.id));
    let last = head.block(alice.id).unwrap().unwrap();
    assert_eq!((last.first, last.last()), (head.open_block, InboxSeq(100)));
    let rows = rig.rows(Tree::Inboxes, &of_alice);
    assert!(
        (8..=11).contains(&rows),
        "{rows} blocks of about ten messages"
    );
    // Sequences 1 to 101: the group of 96 and above stands in the client.
    assert_eq!(rig.rows(Tree::Sessions, b"r"), 3);
    assert_eq!(rig.client_of(&alice).apart.unwrap().group, 3);
    let bodies = rig.bodies(&alice);
    assert_eq!(bodies.len(), 100);
    for (number, body) in bodies.iter().enumerate() {
        assert!(body.starts_with(format!("{number} ").as_bytes()));
    }
    // All are remembered, wherever they stand.
    for sequence in [2, 31, 32, 95, 96, 101] {
        let number = sequence - 2;
        let again = alice.with(
            sequence,
            send("alice", &format!("{number} {}", "x".repeat(300))),
        );
        assert!(matches!(rig.run(&again), Reply::Sent { .. }), "{sequence}");
        let other = alice.with(sequence, send("alice", "other"));
        assert_eq!(rig.run(&other), refused(Refusal::RequestIdReused));
    }
    assert_eq!(rig.bodies(&alice).len(), 100);
}

#[test]
fn a_message_that_fills_a_block_alone_does_not_stand_in_the_head() {
    let mut rig = Rig::new();
    rig.raise(JOINED);
    let mut alice = rig.create("alice");
    for length in [100, 10_000, 10_000, 100] {
        rig.run(&alice.next(send("alice", &"x".repeat(length))));
        rig.drain();
        let head = rig.trees.get(Tree::Users, &keys::head(alice.id));
        let bytes = head.unwrap().unwrap().len();
        assert!(bytes < 5_000, "{bytes} bytes");
        rig.check();
    }
    let lengths: Vec<usize> = rig.bodies(&alice).iter().map(Vec::len).collect();
    assert_eq!(lengths, [100, 10_000, 10_000, 100]);
}

#[test]
fn replies_stay_together_when_sequences_come_out_of_order() {
    let mut rig = Rig::new();
    rig.raise(BEFORE);
    let alice = rig.create("alice");
    let run = |rig: &mut Rig, sequence| rig.sends_to_itself(&alice, sequence);
    // A group that has a row already goes on there, and one below the one in the client gets one.
    run(&mut rig, 70);
    rig.raise(JOINED);
    for sequence in [71, 40, 72, 100, 41, 73, 200, 101, 10, 201] {
        run(&mut rig, sequence);
    }
    rig.drain();
    assert_eq!(rig.client_of(&alice).apart.unwrap().group, 200 / 32);
    // Groups 0, 1, 2 and 3.
    assert_eq!(rig.rows(Tree::Sessions, b"r"), 4);
    let before = rig.bodies(&alice).len();
    for sequence in [70, 71, 40, 72, 100, 41, 73, 200, 101, 10, 201] {
        run(&mut rig, sequence);
    }
    assert_eq!(rig.bodies(&alice).len(), before, "each ran once");
    // A jump: everything is forgotten that lies below the window.
    run(&mut rig, 201 + 3 * REPLIES_MAX);
    rig.drain();
    assert_eq!(rig.rows(Tree::Sessions, b"r"), 1, "of five four at once");
    run(&mut rig, 202 + 3 * REPLIES_MAX);
    rig.drain();
    assert_eq!(rig.rows(Tree::Sessions, b"r"), 0);
}

/// The newest group has a row of before, and a late one below it stands in the client.
#[test]
fn a_late_group_in_the_client_is_forgotten_with_the_rows_about_it() {
    let mut rig = Rig::new();
    rig.raise(BEFORE);
    let alice = rig.create("alice");
    let run = |rig: &mut Rig, sequence| rig.sends_to_itself(&alice, sequence);
    for group in 1..=10 {
        run(&mut rig, group * 32);
    }
    let newest = 164 * 32 + 30;
    run(&mut rig, newest);
    rig.raise(JOINED);
    run(&mut rig, 100 * 32 + 31);
    rig.drain();
    assert_eq!(rig.client_of(&alice).apart.unwrap().group, 100);
    run(&mut rig, newest + 1);
    run(&mut rig, newest + 2);
    rig.drain();
    let client = rig.client_of(&alice);
    assert_eq!(
        (client.lowest_group, client.apart.unwrap().group),
        (101, 165)
    );
    assert_eq!(
        rig.rows(Tree::Sessions, b"r"),
        1,
        "that of the newest before"
    );
}

/// The creation's reply, which a login under its id replaces, stands in the client.
#[test]
fn a_repeated_login_replaces_its_reply_in_the_client() {
    let mut rig = Rig::new();
    rig.raise(JOINED);
    let mut alice = rig.create("alice");
    rig.run(&alice.next(send("alice", "kept")));
    let mut login = alice.login("default", "second", 1);
    login.request = Some(request("alice", 1));
    if let Operation::IssueToken { token, .. } = &mut login.operation {
        token.client = alice.client;
    }
    let first = rig.run(&login);
    assert!(matches!(first, Reply::LoggedIn { .. }));
    rig.check();
    assert_eq!(rig.run(&login), first);
    let kept = alice.with(2, send("alice", "kept"));
    assert!(matches!(rig.run(&kept), Reply::Sent { .. }));
    assert_eq!(rig.bodies(&alice).len(), 1);
    rig.check();
    rig.drain();
    assert_eq!(rig.rows(Tree::Sessions, b"r"), 0);
}

#[test]
fn the_block_in_the_head_goes_by_age_and_the_inbox_counts_on() {
    let mut rig = Rig::new();
    rig.raise(JOINED);
    let mut alice = rig.create("alice");
    rig.run(&alice.next(send("alice", "old")));
    let trees = rig.trees.clone();
    let old = |rig: &mut Rig| rig.machine.old_inboxes(&trees, WallTime(u64::MAX)).unwrap();
    assert_eq!(old(&mut rig), [alice.id]);
    let (users, before) = (vec![alice.id], WallTime(u64::MAX));
    rig.run(&internal(Operation::ExpireMessages { users, before }));
    rig.check();
    assert!(old(&mut rig).is_empty());
    assert!(rig.bodies(&alice).is_empty());
    let sent = rig.run(&alice.next(send("alice", "new")));
    assert!(matches!(sent, Reply::Sent { inbox_seq, .. } if inbox_seq == InboxSeq(2)));
    assert_eq!(rig.bodies(&alice), [b"new"]);
    rig.check();
}

#[test]
fn a_deleted_account_takes_what_its_clients_have_out_of_the_digest() {
    let mut rig = Rig::new();
    rig.raise(BEFORE);
    let (mut alice, mut bob) = (rig.create("alice"), rig.create("bob"));
    rig.run(&alice.login("phone", "never asks again", 1));
    rig.raise(JOINED);
    rig.run(&alice.login("phone", "asks since", 1));
    for user in [&mut alice, &mut bob] {
        rig.run(&user.next(send("alice", "x")));
        rig.check();
    }
    assert_eq!(rig.run(&alice.next(Operation::DeleteAccount)), Reply::Done);
    rig.check();
    while rig.machine.cleanups() > 0 {
        rig.run(&internal(Operation::clean_up()));
        rig.check();
    }
    rig.drain();
    rig.check();
    let of_alice = [b"c".as_slice(), &alice.id.0.to_be_bytes()].concat();
    assert_eq!(rig.rows(Tree::Sessions, &of_alice), 0);
}

/// A front's replies too are in no sum but the total.
#[test]
fn a_front_that_was_known_before_is_set_apart_and_one_that_is_dropped_is_gone() {
    let mut rig = Rig::new();
    rig.raise(BEFORE);
    let alice = rig.create("alice");
    let by_front = |front: &str, sequence| Command {
        request: Some(request(front, sequence)),
        front: true,
        ..alice.with(sequence, send("alice", "x"))
    };
    rig.run(&by_front("old", 1));
    rig.raise(JOINED);
    rig.run(&by_front("old", 2));
    rig.check();
    for number in 0..crate::limits::FRONTS_MAX {
        rig.run(&by_front(&format!("front {number}"), 1));
        rig.check();
    }
    // "old" was dropped: what comes under its name now is new.
    let before = rig.bodies(&alice).len();
    rig.run(&by_front("old", 2));
    assert_eq!(rig.bodies(&alice).len(), before + 1);
    rig.check();
}

#[test]
fn senders_hear_that_what_stands_in_the_head_was_received() {
    let mut rig = Rig::new();
    rig.raise(JOINED);
    let (mut alice, mut bob) = (rig.create("alice"), rig.create("bob"));
    rig.run(&alice.next(send("bob", &"x".repeat(4_000))));
    rig.run(&bob.next(send("bob", "to myself")));
    rig.run(&alice.next(send("bob", "in the head")));
    let newest = rig.machine.applied();
    let up_to = InboxSeq(3);
    let applied = rig.apply(&bob.next(Operation::Acknowledge { up_to }));
    let received = |user: &User, up_to| Notice::Delivered {
        user: user.id,
        peer: "bob".into(),
        up_to,
    };
    let to_bob = received(&bob, newest.previous());
    assert_eq!(applied.notices, [received(&alice, newest), to_bob]);
    rig.check();
}
