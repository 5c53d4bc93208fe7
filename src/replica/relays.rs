//! Reads that another replica answers, because this one's own state must not be shown.
//!
//! They go to the primary and come back once; a relayed read never travels on. What is lost on the
//! way is told to the client in time: it may ask again, here or elsewhere.

use super::Ticket;
use super::writes::take_where;
use crate::limits::READS_WAITING_MAX;
use crate::types::{Monotonic, ReplicaId};
use std::collections::BTreeMap;

struct Relayed {
    to: ReplicaId,
    ticket: Ticket,
    since: Monotonic,
}

/// Reads that wait for another replica's answer, by this run's own nonces.
pub(super) struct Relays {
    timeout_us: u64,
    nonces: u64,
    waiting: BTreeMap<u64, Relayed>,
}

impl Relays {
    pub(super) fn new(timeout_us: u64) -> Self {
        Self {
            timeout_us,
            nonces: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// A read goes to this replica; the nonce names it there. `None`: too many wait.
    pub(super) fn give(&mut self, ticket: Ticket, to: ReplicaId, now: Monotonic) -> Option<u64> {
        if self.waiting.len() >= READS_WAITING_MAX {
            return None;
        }
        self.nonces += 1;
        let relayed = Relayed {
            to,
            ticket,
            since: now,
        };
        self.waiting.insert(self.nonces, relayed);
        Some(self.nonces)
    }

    /// An answer came. `None`: nobody waits for it (any more).
    pub(super) fn take(&mut self, from: ReplicaId, nonce: u64) -> Option<Ticket> {
        self.waiting.get(&nonce).filter(|read| read.to == from)?;
        self.waiting.remove(&nonce).map(|read| read.ticket)
    }

    /// Those that waited too long, or were given to a replica that `keep` says no longer answers.
    pub(super) fn given_up(
        &mut self,
        now: Monotonic,
        keep: impl Fn(ReplicaId) -> bool,
    ) -> Vec<Ticket> {
        let timeout = self.timeout_us;
        let over = |read: &Relayed| now.since(read.since) >= timeout || !keep(read.to);
        let gone = take_where(&mut self.waiting, over);
        gone.into_iter().map(|read| read.ticket).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::testing::ms;

    #[test]
    fn an_answer_is_taken_once_and_only_from_whom_was_asked() {
        let (two, three) = (ReplicaId(2), ReplicaId(3));
        let mut relays = Relays::new(1_000_000);
        let first = relays.give(Ticket(7), two, ms(0)).unwrap();
        let second = relays.give(Ticket(8), two, ms(500)).unwrap();
        assert_eq!(relays.take(three, first), None);
        assert_eq!(relays.take(two, first), Some(Ticket(7)));
        assert_eq!(relays.take(two, first), None);
        assert_eq!(relays.given_up(ms(1_499), |_| true), []);
        assert_eq!(relays.given_up(ms(1_500), |_| true), [Ticket(8)]);
        assert_eq!(relays.take(two, second), None);
        relays.give(Ticket(9), three, ms(2_000)).unwrap();
        assert_eq!(relays.given_up(ms(2_000), |to| to != three), [Ticket(9)]);
    }
}
