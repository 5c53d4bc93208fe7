//! Reads that wait: first for the index that makes them linearizable, then until it is applied.
//!
//! The query runs when it is answered, not before: a token is judged THEN, so that an
//! acknowledged revocation is honoured everywhere.

use super::Ticket;
use super::writes::take_where;
use crate::consensus::ReadId;
use crate::limits::READS_WAITING_MAX;
use crate::state_machine::{Answer, Query};
use crate::types::{Index, Monotonic};
use crate::types::{ReplicaId, RunNonce};
use std::collections::BTreeMap;

/// Deadlines are looked at this often, in microseconds.
const SWEEP_US: u64 = 20_000;

/// Who waits for a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    /// A client of this replica.
    Client(Ticket),
    /// Another replica, which must not answer from its own state.
    Peer {
        from: ReplicaId,
        run: RunNonce,
        nonce: u64,
    },
}

/// A read on its way.
pub(super) struct Read {
    pub asker: Asker,
    pub query: Query,
    /// What it would have been on arrival: only for the mutation gate.
    pub on_arrival: Option<Answer>,
    arrived: Monotonic,
}

/// Reads that have no answer yet.
pub(super) struct Reads {
    timeout_us: u64,
    last_id: u64,
    asked: BTreeMap<ReadId, Read>,
    waiting: BTreeMap<(Index, ReadId), Read>,
    sweep_at: Monotonic,
}

impl Reads {
    pub(super) fn new(timeout_us: u64) -> Self {
        Self {
            timeout_us,
            last_id: 0,
            asked: BTreeMap::new(),
            waiting: BTreeMap::new(),
            sweep_at: Monotonic(0),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.waiting.is_empty()
    }

    /// A read begins; `None`: too many wait. The caller asks the core for its index.
    pub(super) fn accept(
        &mut self,
        asker: Asker,
        query: Query,
        on_arrival: Option<Answer>,
        now: Monotonic,
    ) -> Option<ReadId> {
        if self.asked.len() + self.waiting.len() >= READS_WAITING_MAX {
            return None;
        }
        self.last_id += 1;
        let id = ReadId(self.last_id);
        let read = Read {
            asker,
            query,
            on_arrival,
            arrived: now,
        };
        self.asked.insert(id, read);
        Some(id)
    }

    /// The core says from which index on this read is right.
    pub(super) fn on_index(&mut self, id: ReadId, index: Index) {
        if let Some(read) = self.asked.remove(&id) {
            self.waiting.insert((index, id), read);
        }
    }

    /// The core has no index for it.
    pub(super) fn on_failed(&mut self, id: ReadId) -> Option<Asker> {
        self.asked.remove(&id).map(|read| read.asker)
    }

    /// The next read that may be answered at this applied index.
    pub(super) fn next_due(&mut self, applied: Index) -> Option<Read> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= applied).then(|| first.remove())
    }

    /// Those that waited too long.
    pub(super) fn late(&mut self, now: Monotonic) -> Vec<Asker> {
        if now < self.sweep_at {
            return Vec::new();
        }
        self.sweep_at = now.plus(SWEEP_US);
        let timeout = self.timeout_us;
        let late = |read: &Read| now.since(read.arrived) >= timeout;
        let asked = take_where(&mut self.asked, late);
        let waiting = take_where(&mut self.waiting, late);
        asked.iter().chain(&waiting).map(|r| r.asker).collect()
    }

    /// All of them, when the replica stops or may no longer serve.
    pub(super) fn give_up(&mut self) -> Vec<Asker> {
        let asked = std::mem::take(&mut self.asked).into_values();
        let waiting = std::mem::take(&mut self.waiting).into_values();
        asked.chain(waiting).map(|read| read.asker).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::testing::ms;

    fn accept(reads: &mut Reads, ticket: u64) -> ReadId {
        let query = Query::Credentials { name: "a".into() };
        let asker = Asker::Client(Ticket(ticket));
        reads.accept(asker, query, None, ms(0)).unwrap()
    }

    fn client(ticket: u64) -> Asker {
        Asker::Client(Ticket(ticket))
    }

    #[test]
    fn a_read_is_due_when_its_index_is_applied() {
        let mut reads = Reads::new(1_000_000);
        let (first, second) = (accept(&mut reads, 1), accept(&mut reads, 2));
        assert!(reads.next_due(Index(100)).is_none(), "no index yet");
        reads.on_index(second, Index(5));
        reads.on_index(first, Index(7));
        assert!(reads.next_due(Index(4)).is_none());
        assert_eq!(reads.next_due(Index(5)).unwrap().asker, client(2));
        assert!(reads.next_due(Index(6)).is_none());
        assert_eq!(reads.next_due(Index(7)).unwrap().asker, client(1));
    }

    #[test]
    fn failed_and_late_reads_are_given_back_once() {
        let mut reads = Reads::new(1_000_000);
        let (first, second) = (accept(&mut reads, 1), accept(&mut reads, 2));
        accept(&mut reads, 3);
        assert_eq!(reads.on_failed(first), Some(client(1)));
        assert_eq!(reads.on_failed(first), None);
        reads.on_index(second, Index(5));
        assert_eq!(reads.late(ms(999)), []);
        assert_eq!(reads.late(ms(1_020)), [client(3), client(2)]);
        assert!(reads.give_up().is_empty());
    }
}
