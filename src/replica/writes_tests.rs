//! Tests of [`super`].

use super::*;
use crate::replica::testing::{ms, stamp};
use crate::state_machine::Operation;

const ME: ReplicaId = ReplicaId(1);
const OTHER: ReplicaId = ReplicaId(2);
const RUN: RunNonce = RunNonce(7);

fn writes() -> Writes {
    Writes::new(ME, RUN, 1_000_000)
}

fn command() -> Command {
    Command {
        auth: None,
        request: None,
        operation: Operation::RevokeOwnToken,
        front: false,
    }
}

fn accept(writes: &mut Writes, tickets: std::ops::RangeInclusive<u64>, at: Monotonic) {
    for ticket in tickets {
        writes.accept(Origin::Client(Ticket(ticket)), command(), at);
    }
}

fn propose(writes: &mut Writes, term: u64, first: u64) -> usize {
    let count = writes.batch().len();
    writes.on_proposed(count, Term(term), Index(first));
    count
}

fn outcomes(writes: &mut Writes) -> Vec<(u64, Result<u64, WriteError>)> {
    writes
        .take_outcomes()
        .written
        .into_iter()
        .map(|(ticket, outcome)| (ticket.0, outcome.map(|w| w.index.0)))
        .collect()
}

fn written(index: u64) -> Written {
    Written {
        reply: Reply::Done,
        index: Index(index),
    }
}

fn sent_nonces(writes: &mut Writes) -> Vec<u64> {
    writes
        .take_outcomes()
        .messages
        .into_iter()
        .filter_map(|message| match message {
            PeerMessage::Forward { nonce, .. } => Some(nonce),
            _ => None,
        })
        .collect()
}

#[test]
fn a_proposal_is_answered_when_the_entry_of_its_stamp_is_applied() {
    let mut writes = writes();
    accept(&mut writes, 1..=2, ms(0));
    assert_eq!(propose(&mut writes, 3, 10), 2);
    writes.on_applied(stamp(3, 10), Some(Reply::Done));
    assert_eq!(outcomes(&mut writes), [(1, Ok(10))]);
    writes.on_applied(stamp(4, 11), Some(Reply::Done));
    assert_eq!(
        outcomes(&mut writes),
        [(2, Err(WriteError::NotApplied))],
        "another term's entry at the index is another write"
    );
}

#[test]
fn what_nobody_was_given_is_not_applied_and_what_was_proposed_is_unknown() {
    let mut writes = writes();
    accept(&mut writes, 1..=1, ms(0));
    propose(&mut writes, 3, 10);
    accept(&mut writes, 2..=2, ms(0));
    writes.tick(ms(499));
    assert_eq!(outcomes(&mut writes), []);
    writes.tick(ms(520));
    assert_eq!(outcomes(&mut writes), [(2, Err(WriteError::NotApplied))]);
    writes.tick(ms(1_000));
    assert_eq!(
        outcomes(&mut writes),
        [(1, Err(WriteError::OutcomeUnknown))]
    );
    assert_eq!(writes.len(), 0);
}

#[test]
fn a_batch_is_bounded_and_the_rest_waits_in_order() {
    let mut writes = writes();
    accept(&mut writes, 1..=BATCH_ENTRIES_MAX as u64 + 5, ms(0));
    assert_eq!(propose(&mut writes, 3, 10), BATCH_ENTRIES_MAX);
    assert_eq!(writes.held(), 5);
    let next = 10 + BATCH_ENTRIES_MAX as u64;
    assert_eq!(propose(&mut writes, 3, next), 5);
    writes.on_applied(stamp(3, next), Some(Reply::Done));
    assert_eq!(
        outcomes(&mut writes),
        [(BATCH_ENTRIES_MAX as u64 + 1, Ok(next))]
    );
}

#[test]
fn a_batch_that_was_refused_is_still_there() {
    let mut writes = writes();
    accept(&mut writes, 1..=2, ms(0));
    assert_eq!(writes.batch().len(), 2);
    assert_eq!(writes.batch().len(), 2);
    assert_eq!(writes.held(), 2);
}

#[test]
fn a_forward_is_answered_when_applied_here_or_after_a_bounded_wait() {
    let mut writes = writes();
    accept(&mut writes, 1..=3, ms(0));
    writes.forward(OTHER, ms(0));
    assert_eq!(sent_nonces(&mut writes), [1, 2, 3]);
    writes.on_forward_reply(OTHER, 1, Ok(written(5)), Index(5), ms(1));
    assert_eq!(outcomes(&mut writes), [(1, Ok(5))]);
    writes.on_forward_reply(OTHER, 2, Ok(written(6)), Index(5), ms(1));
    writes.on_forward_reply(OTHER, 3, Ok(written(7)), Index(5), ms(1));
    assert_eq!(outcomes(&mut writes), []);
    writes.on_applied(stamp(1, 6), None);
    assert_eq!(outcomes(&mut writes), [(2, Ok(6))]);
    writes.tick(ms(150));
    assert_eq!(outcomes(&mut writes), [(3, Ok(7))]);
}

#[test]
fn a_refused_forward_waits_for_the_next_primary_and_keeps_its_place() {
    let mut writes = writes();
    accept(&mut writes, 1..=1, ms(0));
    writes.forward(OTHER, ms(0));
    accept(&mut writes, 2..=2, ms(0));
    sent_nonces(&mut writes);
    writes.on_forward_reply(OTHER, 1, Err(WriteError::NotApplied), Index(0), ms(1));
    assert_eq!(writes.held(), 2);
    writes.forward(OTHER, ms(2));
    assert_eq!(
        sent_nonces(&mut writes),
        Vec::<u64>::new(),
        "not at once: it would only spin"
    );
    assert_eq!(propose(&mut writes, 4, 9), 2);
    writes.on_applied(stamp(4, 9), Some(Reply::Done));
    assert_eq!(outcomes(&mut writes), [(1, Ok(9))]);
}

#[test]
fn a_lost_link_or_another_primary_leaves_forwards_unknown() {
    let mut writes = writes();
    accept(&mut writes, 1..=1, ms(0));
    writes.forward(OTHER, ms(0));
    accept(&mut writes, 2..=2, ms(0));
    writes.give_up_forwards(|to| to != OTHER);
    assert_eq!(
        outcomes(&mut writes),
        [(1, Err(WriteError::OutcomeUnknown))]
    );
    writes.on_forward_reply(OTHER, 1, Ok(written(5)), Index(9), ms(1));
    assert_eq!(outcomes(&mut writes), [], "too late");
    assert_eq!(writes.held(), 1);
}

#[test]
fn a_doubled_forward_is_proposed_once_and_answered_to_its_run() {
    let mut writes = writes();
    for _ in 0..2 {
        writes.accept_forward((OTHER, RunNonce(3), 8), command(), Ok(()), ms(0));
    }
    assert_eq!(propose(&mut writes, 3, 10), 1);
    writes.on_applied(stamp(3, 10), Some(Reply::Done));
    assert_eq!(
        writes.take_outcomes().messages,
        [PeerMessage::ForwardReply {
            from: ME,
            to: OTHER,
            run: RunNonce(3),
            nonce: 8,
            outcome: Ok(written(10)),
        }]
    );
}

#[test]
fn a_forward_never_travels_on() {
    let mut writes = writes();
    writes.accept_forward((OTHER, RunNonce(3), 8), command(), Ok(()), ms(0));
    writes.forward(ReplicaId(3), ms(0));
    let messages = writes.take_outcomes().messages;
    assert!(matches!(
        messages[..],
        [PeerMessage::ForwardReply {
            outcome: Err(WriteError::NotApplied),
            ..
        }]
    ));
}

#[test]
fn beyond_the_limit_a_write_is_refused_at_once() {
    let mut writes = writes();
    accept(&mut writes, 1..=PENDING_WRITES_MAX as u64, ms(0));
    accept(&mut writes, 0..=0, ms(0));
    assert_eq!(outcomes(&mut writes), [(0, Err(WriteError::Overloaded))]);
}

#[test]
fn at_the_end_nothing_is_left_without_an_outcome() {
    let mut writes = writes();
    accept(&mut writes, 1..=1, ms(0));
    propose(&mut writes, 3, 10);
    accept(&mut writes, 2..=2, ms(0));
    writes.forward(OTHER, ms(0));
    accept(&mut writes, 3..=3, ms(0));
    writes.give_up();
    let mut seen = outcomes(&mut writes);
    seen.sort_by_key(|(ticket, _)| *ticket);
    assert_eq!(
        seen,
        [
            (1, Err(WriteError::OutcomeUnknown)),
            (2, Err(WriteError::OutcomeUnknown)),
            (3, Err(WriteError::NotApplied))
        ]
    );
    assert_eq!(writes.len(), 0);
}
