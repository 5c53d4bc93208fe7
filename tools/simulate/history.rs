//! What clients were told, compared with everything that any client was told before.

use super::world::World;
use chat::state_machine::{InboxMessage, Reply};
use chat::types::{Index, RequestId, UserId};
use std::collections::BTreeMap;

/// A message, as told: sender, the sender's number, message id.
type Told = (UserId, u64, Index);

/// What clients were told.
#[derive(Default)]
pub struct History {
    pub inboxes: BTreeMap<(UserId, u64), Told>,
    /// Last acknowledged place of each inbox.
    pub acknowledged: BTreeMap<UserId, u64>,
    pub replies: BTreeMap<RequestId, Reply>,
    pub next_ticket: u64,
    /// Clients begin nothing new.
    pub closing: bool,
}

impl World {
    /// A message was acknowledged to its sender.
    pub fn on_sent(&mut self, at: usize, to: usize, number: u64, place: u64, id: Index) {
        let (Some(sender), Some(user)) = (self.clients[at].user, self.clients[to].user) else {
            return;
        };
        self.checker.count("messages acknowledged");
        self.on_told(user, place, (sender, number, id));
        let last = self.history.acknowledged.entry(user).or_default();
        *last = place.max(*last);
    }

    fn on_told(&mut self, user: UserId, place: u64, told: Told) {
        let known = *self.history.inboxes.entry((user, place)).or_insert(told);
        self.checker
            .check(known == told, "a message keeps its place", || {
                format!("inbox of {user}, place {place}: {known:?} and then {told:?}")
            });
    }

    /// A read returned these messages of an inbox.
    pub fn on_inbox(&mut self, user: UserId, after: u64, messages: &[InboxMessage]) {
        for (place, message) in (after + 1..).zip(messages) {
            let gapless = message.seq.0 == place;
            self.checker.check(gapless, "an inbox has no gap", || {
                format!("inbox of {user}: {} where {place} is expected", message.seq)
            });
            let number = message.body.as_slice().try_into();
            let number = number.map_or(0, u64::from_be_bytes);
            self.on_told(user, place, (message.sender, number, message.id));
        }
    }

    /// At the end: every inbox is gapless, has what was acknowledged, and each sender's messages
    /// once and in order.
    pub fn check_history(&mut self) {
        let mut last: Option<(UserId, u64, Index)> = None;
        let mut next: BTreeMap<(UserId, UserId), u64> = BTreeMap::new();
        let inboxes = std::mem::take(&mut self.history.inboxes);
        for (&(user, place), &(sender, number, id)) in &inboxes {
            let expected = match last {
                Some((before, place, _)) if before == user => place + 1,
                _ => 1,
            };
            self.checker
                .check(place == expected, "an inbox has no gap", || {
                    format!("inbox of {user}: {place} where {expected} is expected")
                });
            let rises = last.is_none_or(|(before, _, other)| before != user || other < id);
            self.checker
                .check(rises, "an inbox is in the log's order", || {
                    format!("inbox of {user} at {place}")
                });
            let expected = next.entry((user, sender)).or_insert(1);
            let right = *expected == number;
            self.checker
                .check(right, "each message once and in order", || {
                    format!("inbox of {user}: {number} of {sender} where {expected} is expected")
                });
            *expected = number + 1;
            last = Some((user, place, id));
        }
        for (user, place) in std::mem::take(&mut self.history.acknowledged) {
            let there = inboxes.contains_key(&(user, place));
            self.checker
                .check(there, "what was acknowledged is there", || {
                    format!("inbox of {user}: {place} is missing")
                });
        }
    }
}
