//! What becomes of a message that is sent.

use super::model::states;
use super::*;

#[test]
fn a_message_is_sending_then_accepted_then_delivered() {
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/msg bob hello");
    assert_eq!(states(&stage), [("hello".into(), State::Sending)]);
    stage.accept(30);
    assert_eq!(states(&stage), [("hello".into(), State::Accepted)]);
    let delivered = |stage: &Stage| {
        let talk = stage.app.talk().unwrap();
        talk.is_delivered(&talk.messages()[0])
    };
    assert!(!delivered(&stage));
    stage.event(Event::Delivered("bob".into(), 29));
    assert!(!delivered(&stage));
    stage.event(Event::Delivered("bob".into(), 30));
    assert!(delivered(&stage));
}

#[test]
fn receipts_that_came_while_nobody_listened_are_asked_for() {
    let mut stage = Stage::logged_in(80, 24);
    for (peer, id) in [("bob", 30), ("carol", 31), ("dave", 32)] {
        stage.say(&format!("/msg {peer} hello"));
        stage.accept(id);
    }
    stage.hear("erin", 1, "nothing was sent to me");
    stage.say("not accepted yet");
    stage.event(Event::Delivered("carol".into(), 31));
    stage.effects.clear();
    stage.event(Event::EndOfBacklog);
    let [Effect::ListDelivered(peers)] = &stage.effects[..] else {
        panic!("{:?}", stage.effects);
    };
    assert_eq!(*peers, ["bob", "dave"]);
    for peer in ["bob", "dave"] {
        stage.event(Event::Delivered(peer.into(), 32));
    }
    stage.effects.clear();
    stage.event(Event::EndOfBacklog);
    assert!(stage.effects.is_empty());
}

#[test]
fn what_failed_is_tried_again_in_its_order_and_marked_as_a_retry() {
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/msg bob one");
    stage.fail("why");
    stage.say("two");
    stage.fail("why");
    stage.effects.clear();
    stage.control('r');
    let sent: Vec<(&str, bool)> = stage
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send { body, again, .. } => Some((body.as_str(), *again)),
            _ => None,
        })
        .collect();
    assert_eq!(sent, [("one", true), ("two", true)]);
    assert_eq!(states(&stage)[0].1, State::Sending);
    stage.fail("again");
    stage.control('x');
    assert_eq!(states(&stage), [("one".into(), State::Sending)]);
    stage.key(KeyCode::Up);
    assert_eq!(stage.app.editor().text(), "two");
}

/// What is to be sent, in this order, and in which round.
fn sent(stage: &Stage) -> Vec<(&str, bool, u64)> {
    let sends = stage.effects.iter().filter_map(|effect| match effect {
        Effect::Send {
            body, again, round, ..
        } => Some((body.as_str(), *again, *round)),
        _ => None,
    });
    sends.collect()
}

#[test]
fn what_no_replica_took_waits_with_all_behind_it_and_goes_out_by_itself() {
    let mut stage = Stage::logged_in(80, 24);
    assert_eq!(stage.app.farewell(), None);
    stage.say("/msg bob one");
    let left = stage.app.farewell().unwrap();
    assert!(left.starts_with("1 message is still on its way;"), "{left}");
    let first = stage.last_key();
    stage.say("two");
    stage.say("/msg carol three");
    let left = stage.app.farewell().unwrap();
    assert!(left.starts_with("3 messages are still on their"), "{left}");
    stage.event(Event::Link(Link::Down { since_us: NOW }));
    let later = Unsent::Later("no replica could take it in time".into());
    stage.event(Event::Sent(first, Err(later)));
    assert_eq!(stage.app.sending(), 3, "none has failed");
    assert!(stage.frame().contains("3 on the way"));
    // What is written meanwhile is kept, and does not overtake them.
    stage.effects.clear();
    stage.say("four");
    let [Effect::Keep(Record::Out { request: None, .. })] = stage.effects[..] else {
        panic!("{:?}", stage.effects);
    };
    // None is kept as failed: another run would send them too.
    assert!(!stage.has(|e| matches!(e, Effect::Keep(Record::Failed { .. }))));
    stage.effects.clear();
    stage.up("127.0.0.1:7402", 900);
    let again = |body| (body, true, 1);
    assert_eq!(
        sent(&stage),
        [again("one"), again("two"), again("three"), again("four")]
    );
    // They are on their way: the next sign of life sends nothing again.
    stage.effects.clear();
    stage.up("127.0.0.1:7402", 900);
    assert!(stage.effects.is_empty());
    stage.say("five");
    assert_eq!(sent(&stage), [("five", false, 1)]);
}

#[test]
fn what_waits_can_be_discarded_and_tried_at_once() {
    let mut stage = Stage::logged_in(80, 24);
    stage.say("/msg bob one");
    let first = stage.last_key();
    stage.say("two");
    stage.event(Event::Sent(first, Err(Unsent::Later("why".into()))));
    assert!(stage.frame().contains("why; it goes out by itself"));
    stage.control('x');
    assert!(
        stage.has(|e| matches!(e, Effect::Keep(Record::Discarded { key }) if *key == first + 1))
    );
    stage.effects.clear();
    stage.control('r');
    assert_eq!(sent(&stage), [("one", true, 1)]);
}

#[test]
fn what_was_on_its_way_when_the_client_died_goes_on_its_way_again() {
    let mut stage = Stage::new(80, 24);
    stage.event(Event::Resumed(session()));
    let out = |key: u64| Record::Out {
        key,
        peer: "bob".into(),
        time_us: NOW,
        body: format!("message {key}"),
        request: None,
    };
    stage.event(Event::History(vec![
        out(1),
        out(2),
        out(3),
        Record::Accepted {
            key: 1,
            id: 9,
            time_us: NOW,
        },
        Record::Failed {
            key: 2,
            why: "no".into(),
        },
    ]));
    stage.event(Event::HistoryLoaded { writable: true });
    stage.event(Event::Account(account()));
    stage.event(Event::HistoryReady { emptied: false });
    assert_eq!(stage.last_key(), 3);
    assert!(stage.has(|e| matches!(
        e,
        Effect::Send {
            key: 3,
            again: true,
            ..
        }
    )));
    assert!(!stage.has(|e| matches!(e, Effect::Send { key: 2, .. })));
    // A new one has a key of its own.
    stage.say("new");
    assert_eq!(stage.last_key(), 4);
}
