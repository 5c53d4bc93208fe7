//! Sending, reading, acknowledging.

use super::*;
use crate::limits::{BODY_BYTES_MAX, DELIVER_BATCH_MAX, EXPIRE_BLOCKS_MAX};
use crate::state_machine::block::Message;
use crate::state_machine::overlay::Overlay;
use crate::state_machine::transaction::Transaction;
use crate::state_machine::{Cursor, InboxMessage, Notice, inboxes};
use crate::types::InboxSeq;

fn read(rig: &Rig, token: TokenHash, after: Option<u64>) -> (Vec<InboxMessage>, Cursor) {
    let answer = rig.query(&Query::Inbox {
        token,
        after: after.map(InboxSeq),
        limit: DELIVER_BATCH_MAX,
    });
    match answer {
        Answer::Inbox {
            messages, cursor, ..
        } => (messages, cursor),
        other => panic!("{other:?}"),
    }
}

fn ack(user: &mut User, up_to: u64) -> Command {
    user.next(Operation::Acknowledge {
        up_to: InboxSeq(up_to),
    })
}

#[test]
fn a_sent_message_waits_in_the_recipients_inbox() {
    let mut rig = Rig::new();
    let (mut alice, bob) = (rig.create("alice"), rig.create("bob"));
    let applied = rig.apply(&alice.next(send("bob", "hello")));
    let id = rig.machine.applied();
    let sent = Reply::Sent {
        id,
        inbox_seq: InboxSeq(1),
        time: rig.now,
    };
    assert_eq!(applied.reply, Some(sent));
    let waiting = Notice::Inbox {
        user: bob.id,
        seq: InboxSeq(1),
    };
    assert_eq!(applied.notices, [waiting]);
    let (messages, cursor) = read(&rig, bob.token, None);
    let expected = InboxMessage {
        id,
        seq: InboxSeq(1),
        sender: alice.id,
        sender_name: "alice".into(),
        time: rig.now,
        body: b"hello".to_vec(),
        content_type: "text/plain".into(),
    };
    assert_eq!(messages, [expected]);
    assert_eq!((cursor.first.0, cursor.last.0), (1, 1));
    assert!(read(&rig, alice.token, None).0.is_empty());
    let unknown = rig.run(&alice.next(send("nobody", "hello")));
    assert_eq!(unknown, refused(Refusal::RecipientUnknown));
    rig.check();
}

#[test]
fn many_messages_are_read_in_order_from_any_position_across_blocks() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    for i in 1..=300_u64 {
        // Every now and then one that fills a block alone, of bytes that MessagePack would double.
        let long = if i % 40 == 0 { BODY_BYTES_MAX } else { 100 };
        let operation = Operation::SendMessage {
            recipient: "alice".into(),
            body: vec![0xff; long],
            content_type: format!("number {i}"),
        };
        assert!(matches!(
            rig.run(&alice.next(operation)),
            Reply::Sent { inbox_seq, .. } if inbox_seq.0 == i
        ));
        if i == 150 {
            rig.drain();
        }
    }
    for after in [0, 1, 38, 39, 40, 41, 149, 150, 151, 299] {
        let (messages, _) = read(&rig, alice.token, Some(after));
        assert_eq!(messages.len() as u64, (300 - after).min(256));
        for (message, expected) in messages.iter().zip(after + 1..) {
            assert_eq!(message.seq.0, expected);
            assert_eq!(message.content_type, format!("number {expected}"));
        }
    }
    assert!(read(&rig, alice.token, Some(300)).0.is_empty());
    assert!(read(&rig, alice.token, Some(u64::MAX)).0.is_empty());
    rig.check();
    rig.drain();
    rig.check();
}

#[test]
fn large_messages_make_a_short_page() {
    let mut rig = Rig::new();
    let mut alice = rig.create("alice");
    let body = "x".repeat(BODY_BYTES_MAX);
    for _ in 0..100 {
        rig.run(&alice.next(send("alice", &body)));
    }
    let (first, cursor) = read(&rig, alice.token, None);
    assert_eq!(first.len(), 64, "one MiB of bodies");
    let (rest, _) = read(&rig, alice.token, Some(first.last().unwrap().seq.0));
    assert_eq!(rest.last().unwrap().seq, cursor.last);
}

#[test]
fn cursors_belong_to_devices_and_never_move_back() {
    let mut rig = Rig::new();
    let (mut alice, mut bob) = (rig.create("alice"), rig.create("bob"));
    rig.run(&bob.login("phone", "phone", 1));
    for _ in 0..5 {
        rig.run(&alice.next(send("bob", "hello")));
    }
    let at = |n| Reply::Acknowledged { up_to: InboxSeq(n) };
    assert_eq!(rig.run(&ack(&mut bob, 3)), at(3));
    assert_eq!(rig.run(&ack(&mut bob, 2)), at(3));
    let beyond = rig.run(&ack(&mut bob, 6));
    assert_eq!(beyond, refused(Refusal::CursorBeyondEnd));
    assert_eq!(read(&rig, bob.token, None).0[0].seq, InboxSeq(4));
    assert_eq!(read(&rig, token("phone"), None).0[0].seq, InboxSeq(1));
    // The device's cursor outlives its tokens.
    rig.run(&bob.next(Operation::RevokeOwnToken));
    rig.run(&bob.login("default", "later", 1));
    assert_eq!(read(&rig, token("later"), None).0[0].seq, InboxSeq(4));
    rig.check();
}

#[test]
fn senders_hear_once_that_their_messages_were_received() {
    let mut rig = Rig::new();
    let (mut alice, mut bob) = (rig.create("alice"), rig.create("bob"));
    let mut carol = rig.create("carol");
    rig.run(&bob.login("phone", "phone", 1));
    let mut ids = Vec::new();
    for i in 0..4 {
        let sender = if i % 2 == 0 { &mut alice } else { &mut carol };
        rig.run(&sender.next(send("bob", "hello")));
        ids.push(rig.machine.applied());
    }
    let received = |user: &User, up_to| Notice::Delivered {
        user: user.id,
        peer: "bob".into(),
        up_to,
    };
    let delivered = |rig: &Rig, user: &User| {
        rig.query(&Query::Delivered {
            token: user.token,
            peers: ["bob", "nobody"].map(String::from).to_vec(),
        })
    };
    let marks = |bob| Answer::Delivered(vec![bob, Index(0)]);
    assert_eq!(delivered(&rig, &alice), marks(Index(0)));
    let first = rig.apply(&ack(&mut bob, 3));
    let both = [received(&alice, ids[2]), received(&carol, ids[1])];
    assert_eq!(first.notices, both);
    assert_eq!(delivered(&rig, &alice), marks(ids[2]));
    assert_eq!(delivered(&rig, &carol), marks(ids[1]));
    // Another device of the same account receives them later: no news.
    let mut phone = bob.clone();
    phone.token = token("phone");
    phone.client = client("phone");
    phone.sequence = 1;
    assert_eq!(rig.apply(&ack(&mut phone, 2)).notices, []);
    let last = rig.apply(&ack(&mut phone, 4));
    assert_eq!(last.notices, [received(&carol, ids[3])]);
    rig.check();
}

#[test]
fn one_acknowledgement_of_a_long_inbox_is_bounded() {
    let mut rig = Rig::new();
    let (mut alice, mut bob) = (rig.create("alice"), rig.create("bob"));
    rig.run(&alice.next(send("bob", "first")));
    for _ in 0..1_500 {
        rig.run(&bob.next(send("bob", "to myself")));
    }
    let applied = rig.apply(&ack(&mut bob, 1_501));
    // Alice's message lies more than 1,024 back: its receipt is not reported.
    assert_eq!(applied.notices.len(), 1);
    rig.check();
}

#[test]
fn an_inbox_that_is_too_long_loses_its_oldest_messages() {
    let mut rig = Rig::new();
    let alice = rig.create("alice");
    rig.drain();
    let slice = rig.trees.slice.clone().unwrap();
    let mut machine = StateMachine::open(Some(&slice)).unwrap();
    let mut overlay = Overlay::default();
    let mut totals = machine.totals().clone();
    for i in 1..=500_u64 {
        let index = Index(100 + i);
        let trees = &rig.trees;
        let mut tx = Transaction::new(trees, &mut overlay, &mut totals, index, WallTime(i));
        let message = Message {
            id: index,
            sender: alice.id,
            sender_name: "alice".into(),
            time: WallTime(i),
            content_type: "".into(),
            body: vec![7; 500].into(),
        };
        let seq = inboxes::append(&mut tx, alice.id, &message, 50).unwrap();
        assert_eq!(seq, InboxSeq(i));
        tx.finish();
    }
    machine.replace(overlay, totals);
    rig.machine = machine;
    let (messages, cursor) = read(&rig, alice.token, None);
    let kept = cursor.last.0 - cursor.first.0 + 1;
    assert!((40..=50).contains(&kept), "{kept} kept");
    assert_eq!(messages.first().unwrap().seq, cursor.first);
    assert_eq!(messages.last().unwrap().seq, InboxSeq(500));
    assert_eq!(messages.len() as u64, kept);
    rig.check();
}

#[test]
fn old_messages_go_by_age_and_the_inbox_counts_on() {
    let mut rig = Rig::new();
    let (mut alice, bob) = (rig.create("alice"), rig.create("bob"));
    let large = "x".repeat(3_000);
    for _ in 0..5 {
        rig.run(&alice.next(send("bob", &large)));
    }
    let middle = rig.now;
    rig.now.0 += 100 * SECOND;
    rig.run(&alice.next(send("bob", &large)));

    let old = |rig: &mut Rig, before| {
        let trees = rig.trees.clone();
        rig.machine.old_inboxes(&trees, before).unwrap()
    };
    assert!(old(&mut rig, WallTime(0)).is_empty());
    let before = WallTime(middle.0 + 1);
    assert_eq!(old(&mut rig, before), [bob.id]);
    let expire = |before| {
        let users = vec![alice.id, bob.id, UserId(99)];
        internal(Operation::ExpireMessages { users, before })
    };
    rig.run(&expire(before));
    let (messages, cursor) = read(&rig, bob.token, None);
    assert_eq!((cursor.first.0, cursor.last.0), (6, 6));
    assert_eq!(messages.len(), 1);
    assert!(old(&mut rig, before).is_empty());
    rig.check();

    // The last block goes too, and the next message has the next sequence.
    rig.run(&expire(WallTime(u64::MAX)));
    let (messages, cursor) = read(&rig, bob.token, None);
    assert!(messages.is_empty());
    assert_eq!((cursor.first.0, cursor.last.0), (7, 6));
    rig.check();
    rig.run(&alice.next(send("bob", "later")));
    let (messages, _) = read(&rig, bob.token, Some(0));
    assert_eq!((messages.len(), messages[0].seq), (1, InboxSeq(7)));
    rig.check();
}

#[test]
fn one_entry_drops_a_bounded_number_of_blocks() {
    let mut rig = Rig::new();
    let (mut alice, bob) = (rig.create("alice"), rig.create("bob"));
    let large = "x".repeat(3_000);
    for _ in 0..EXPIRE_BLOCKS_MAX + 10 {
        rig.run(&alice.next(send("bob", &large)));
    }
    let users = vec![bob.id];
    let before = WallTime(u64::MAX);
    let expire = internal(Operation::ExpireMessages { users, before });
    rig.run(&expire);
    let (messages, cursor) = read(&rig, bob.token, Some(0));
    assert_eq!(cursor.first.0, EXPIRE_BLOCKS_MAX as u64 + 1);
    assert_eq!(messages.len(), 10);
    rig.run(&expire);
    assert!(read(&rig, bob.token, Some(0)).0.is_empty());
    rig.check();
}
