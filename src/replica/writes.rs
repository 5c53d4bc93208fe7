//! Writes that have no outcome yet, wherever they are on their way.
//!
//! A write is *held* until there is a primary to give it to; then it is *proposed* here, or
//! *forwarded* to the primary, whose answer may wait until the entry is *applied here* too.
//!
//! What may be said about an outcome, and only that:
//!
//! - `Ok` when the entry of the very stamp it was proposed at has been applied (or the primary
//!   says so);
//! - `NotApplied` only when it was never given to anybody, or when another entry was committed at
//!   its index: then nobody can commit it any more;
//! - `OutcomeUnknown` in every other case. That its entry was truncated here proves nothing: until
//!   the entry that took its place is committed, a third replica that still holds the old one may
//!   win an election and commit it.

use super::forwards::Taken;
use super::{PeerMessage, Ticket, WriteError, Written, payload};
use crate::limits::{APPEND_BYTES_MAX, BATCH_ENTRIES_MAX, HELD_WRITE_MS_MAX, PENDING_WRITES_MAX};
use crate::state_machine::{Command, Reply};
use crate::types::entry::Kind;
use crate::types::{Index, Monotonic, ReplicaId, RunNonce, Stamp, Term, TokenHash};
use std::collections::BTreeMap;

/// How long a forwarded write that the primary has answered waits to be applied here.
const APPLY_WAIT_US: u64 = 100_000;
/// After a refusal by the primary, when to try again: it is about to serve, or about to go.
const FORWARD_PAUSE_US: u64 = 10_000;
/// Deadlines are looked at this often.
const SWEEP_US: u64 = 20_000;

/// Who waits for a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client of this replica.
    Client(Ticket),
    /// Another replica.
    Forward {
        from: ReplicaId,
        run: RunNonce,
        nonce: u64,
    },
    /// Nobody: uses of these tokens.
    Extend(Vec<TokenHash>),
    /// Nobody: the primary's own expiry.
    Expire,
}

struct Held {
    origin: Origin,
    command: Command,
    /// Encoded when it was first about to be proposed.
    payload: Option<Vec<u8>>,
    arrived: Monotonic,
}

struct Proposed {
    term: Term,
    origin: Origin,
    arrived: Monotonic,
}

struct Forwarded {
    to: ReplicaId,
    order: u64,
    held: Held,
}

struct Answered {
    origin: Origin,
    written: Written,
    until: Monotonic,
}

/// What came of it since it was last asked.
#[derive(Default)]
pub(super) struct Outcomes {
    pub written: Vec<(Ticket, Result<Written, WriteError>)>,
    pub messages: Vec<PeerMessage>,
    /// Uses of tokens that were not told.
    pub not_extended: Vec<TokenHash>,
}

/// Writes that have no outcome yet.
///
/// Invariants: every write is in exactly one of `held`, `proposed`, `forwarded` and `answered`;
/// `held` is in order of arrival.
pub(super) struct Writes {
    me: ReplicaId,
    run: RunNonce,
    timeout_us: u64,
    arrivals: u64,
    nonces: u64,
    held: BTreeMap<u64, Held>,
    proposed: BTreeMap<Index, Proposed>,
    forwarded: BTreeMap<u64, Forwarded>,
    answered: BTreeMap<(Index, u64), Answered>,
    taken: Taken,
    forward_after: Monotonic,
    sweep_at: Monotonic,
    expiring: bool,
    outcomes: Outcomes,
}

impl Writes {
    pub(super) fn new(me: ReplicaId, run: RunNonce, timeout_us: u64) -> Self {
        Self {
            me,
            run,
            timeout_us,
            arrivals: 0,
            nonces: 0,
            held: BTreeMap::new(),
            proposed: BTreeMap::new(),
            forwarded: BTreeMap::new(),
            answered: BTreeMap::new(),
            taken: Taken::default(),
            forward_after: Monotonic(0),
            sweep_at: Monotonic(0),
            expiring: false,
            outcomes: Outcomes::default(),
        }
    }

    /// Everything that waits, counted.
    pub(super) fn len(&self) -> usize {
        self.held.len() + self.proposed.len() + self.forwarded.len() + self.answered.len()
    }

    /// Writes that nobody was given yet.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// An expiry proposed by this replica is under way.
    pub(super) fn is_expiring(&self) -> bool {
        self.expiring
    }

    pub(super) fn take_outcomes(&mut self) -> Outcomes {
        std::mem::take(&mut self.outcomes)
    }

    /// A write begins its way.
    pub(super) fn accept(&mut self, origin: Origin, command: Command, now: Monotonic) {
        if self.len() >= PENDING_WRITES_MAX {
            self.settle(origin, Err(WriteError::Overloaded));
            return;
        }
        self.expiring |= origin == Origin::Expire;
        self.arrivals += 1;
        let held = Held {
            origin,
            command,
            payload: None,
            arrived: now,
        };
        self.held.insert(self.arrivals, held);
    }

    /// A write that another replica was given. `open`: this replica is, or is about to be, the one
    /// who proposes it. False: it was taken before.
    pub(super) fn accept_forward(
        &mut self,
        origin: (ReplicaId, RunNonce, u64),
        command: Command,
        open: Result<(), WriteError>,
        now: Monotonic,
    ) -> bool {
        let (from, run, nonce) = origin;
        if !self.taken.take(from, run, nonce) {
            return false;
        }
        let origin = Origin::Forward { from, run, nonce };
        match open {
            Ok(()) => self.accept(origin, command, now),
            Err(error) => self.settle(origin, Err(error)),
        }
        true
    }

    /// The next batch to propose, oldest first; empty if nothing waits.
    pub(super) fn batch(&mut self) -> Vec<(Kind, Vec<u8>)> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut too_long = Vec::new();
        for (order, held) in &mut self.held {
            if held.payload.is_none() {
                held.payload = payload::encode(&held.command);
            }
            let Some(payload) = &held.payload else {
                too_long.push(*order);
                continue;
            };
            bytes += payload.len();
            if batch.len() == BATCH_ENTRIES_MAX || bytes > APPEND_BYTES_MAX {
                break;
            }
            batch.push((Kind::Command, payload.clone()));
        }
        for order in too_long {
            if let Some(held) = self.held.remove(&order) {
                tracing::warn!(
                    operation = held.command.operation.name(),
                    "a command that is too long for an entry was refused"
                );
                self.settle(held.origin, Err(WriteError::NotApplied));
            }
        }
        batch
    }

    /// The last [`Self::batch`], of this many, was proposed in `term` from `first` on. True: a client of
    /// another replica waits for one of them.
    pub(super) fn on_proposed(&mut self, count: usize, term: Term, first: Index) -> bool {
        let mut index = first;
        let mut awaited = false;
        for _ in 0..count {
            let (_, held) = self
                .held
                .pop_first()
                .expect("the batch was taken from here and nothing came between");
            awaited |= matches!(held.origin, Origin::Forward { .. });
            let proposed = Proposed {
                term,
                origin: held.origin,
                arrived: held.arrived,
            };
            if let Some(old) = self.proposed.insert(index, proposed) {
                self.settle(old.origin, Err(WriteError::OutcomeUnknown));
            }
            index = index.next();
        }
        awaited
    }

    /// Gives what is held to another replica, the primary. Forwards never travel on: who sent them
    /// asks again.
    pub(super) fn forward(&mut self, primary: ReplicaId, now: Monotonic) {
        if self.held.is_empty() || now < self.forward_after {
            return;
        }
        for (order, held) in std::mem::take(&mut self.held) {
            if !matches!(held.origin, Origin::Client(_) | Origin::Extend(_)) {
                self.settle(held.origin, Err(WriteError::NotApplied));
                continue;
            }
            self.nonces += 1;
            self.outcomes.messages.push(PeerMessage::Forward {
                from: self.me,
                to: primary,
                run: self.run,
                nonce: self.nonces,
                command: held.command.clone(),
            });
            let forwarded = Forwarded {
                to: primary,
                order,
                held,
            };
            self.forwarded.insert(self.nonces, forwarded);
        }
    }

    /// The primary answered a forward of this run. False: none of this name waits for its answer.
    pub(super) fn on_forward_reply(
        &mut self,
        from: ReplicaId,
        nonce: u64,
        outcome: Result<Written, WriteError>,
        applied: Index,
        now: Monotonic,
    ) -> bool {
        if self.forwarded.get(&nonce).is_none_or(|f| f.to != from) {
            return false;
        }
        let Some(Forwarded { order, held, .. }) = self.forwarded.remove(&nonce) else {
            return false;
        };
        match outcome {
            Ok(written) if written.index > applied => {
                let answered = Answered {
                    origin: held.origin,
                    until: now.plus(APPLY_WAIT_US),
                    written,
                };
                self.answered
                    .insert((answered.written.index, nonce), answered);
            }
            // Certainly not applied, so that it may wait for the next primary.
            Err(WriteError::NotApplied | WriteError::ShuttingDown) => {
                self.forward_after = now.plus(FORWARD_PAUSE_US);
                self.held.insert(order, held);
            }
            outcome => self.settle(held.origin, outcome),
        }
        true
    }

    /// An entry was applied here.
    pub(super) fn on_applied(&mut self, stamp: Stamp, reply: Option<Reply>) {
        if let Some(proposed) = self.proposed.remove(&stamp.index) {
            let index = stamp.index;
            let outcome = if proposed.term == stamp.term {
                let reply = reply.expect("what was proposed here is a command, and has a reply");
                Ok(Written { reply, index })
            } else {
                // Another entry has this index for ever.
                Err(WriteError::NotApplied)
            };
            self.settle(proposed.origin, outcome);
        }
        while let Some(first) = self.answered.first_entry() {
            if first.key().0 > stamp.index {
                break;
            }
            let answered = first.remove();
            self.settle(answered.origin, Ok(answered.written));
        }
    }

    /// The state jumped to this index, past entries that were never applied here.
    pub(super) fn on_jump(&mut self, applied: Index) {
        let after = self.proposed.split_off(&applied.next());
        for (_, passed) in std::mem::replace(&mut self.proposed, after) {
            self.settle(passed.origin, Err(WriteError::OutcomeUnknown));
        }
        let after = self.answered.split_off(&(applied.next(), 0));
        for (_, answered) in std::mem::replace(&mut self.answered, after) {
            self.settle(answered.origin, Ok(answered.written));
        }
    }

    /// Forwards to a replica that `keep` says no longer counts have no known outcome.
    pub(super) fn give_up_forwards(&mut self, keep: impl Fn(ReplicaId) -> bool) {
        for forwarded in take_where(&mut self.forwarded, |f| !keep(f.to)) {
            self.settle(forwarded.held.origin, Err(WriteError::OutcomeUnknown));
        }
    }

    /// The disks are nearly full: nothing goes on but the expiry, which gives space back.
    pub(super) fn refuse_for_space(&mut self) {
        for held in take_where(&mut self.held, |held| held.origin != Origin::Expire) {
            self.settle(held.origin, Err(WriteError::DiskFull));
        }
    }

    /// Time passed.
    pub(super) fn tick(&mut self, now: Monotonic) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now.plus(SWEEP_US);
        let timeout = self.timeout_us;
        let patience = (timeout / 2).min(HELD_WRITE_MS_MAX * 1_000);
        // Held ones are oldest first.
        while let Some(first) = self.held.first_entry() {
            if now.since(first.get().arrived) < patience {
                break;
            }
            let held = first.remove();
            self.settle(held.origin, Err(WriteError::NotApplied));
        }
        let late = |arrived: Monotonic| now.since(arrived) >= timeout;
        for proposed in take_where(&mut self.proposed, |p| late(p.arrived)) {
            self.settle(proposed.origin, Err(WriteError::OutcomeUnknown));
        }
        for forwarded in take_where(&mut self.forwarded, |f| late(f.held.arrived)) {
            self.settle(forwarded.held.origin, Err(WriteError::OutcomeUnknown));
        }
        for answered in take_where(&mut self.answered, |a| now >= a.until) {
            self.settle(answered.origin, Ok(answered.written));
        }
    }

    /// The replica stops: everything gets what can be said of it.
    pub(super) fn give_up(&mut self) {
        for (_, held) in std::mem::take(&mut self.held) {
            self.settle(held.origin, Err(WriteError::NotApplied));
        }
        for (_, proposed) in std::mem::take(&mut self.proposed) {
            self.settle(proposed.origin, Err(WriteError::OutcomeUnknown));
        }
        self.give_up_forwards(|_| false);
        for (_, answered) in std::mem::take(&mut self.answered) {
            self.settle(answered.origin, Ok(answered.written));
        }
    }

    fn settle(&mut self, origin: Origin, outcome: Result<Written, WriteError>) {
        match origin {
            Origin::Client(ticket) => self.outcomes.written.push((ticket, outcome)),
            Origin::Forward { from, run, nonce } => {
                self.outcomes.messages.push(PeerMessage::ForwardReply {
                    from: self.me,
                    to: from,
                    run,
                    nonce,
                    outcome,
                });
            }
            Origin::Extend(tokens) => {
                if outcome.is_err() {
                    self.outcomes.not_extended.extend(tokens);
                }
            }
            Origin::Expire => self.expiring = false,
        }
    }
}

/// Takes the values out for which `wanted` holds, in the order of their keys.
pub(super) fn take_where<K: Ord + Copy, V>(
    map: &mut BTreeMap<K, V>,
    wanted: impl Fn(&V) -> bool,
) -> Vec<V> {
    let keys: Vec<K> = map
        .iter()
        .filter(|(_, value)| wanted(value))
        .map(|(key, _)| *key)
        .collect();
    keys.iter().filter_map(|key| map.remove(key)).collect()
}

#[cfg(test)]
#[path = "writes_tests.rs"]
mod tests;
