//! The fenced poll: may what a damaged replica cannot read be given up?
//!
//! Only where no primary of the undamaged can exist. The replica kept the readable part of its log,
//! and held something above that: it asks everybody whether they ever had an entry there. Whatever
//! it held is of a term that it had reached; the question carries a higher one, and each replica
//! makes that durable BEFORE it answers. So after a majority of *never had it* no entry of an
//! earlier term can come to be there on a majority, and none was: a committed entry is on a
//! majority, and two majorities meet. Then, and only then, the replica goes on with what it can read.
//! (Compare "Protocol-Aware Recovery for Consensus-Based Storage", Alagappan et al., 2018, where the
//! leader asks.)
//!
//! A damaged replica answers too, if its log had a readable end below. One that cannot say counts for
//! neither side. Without a majority the replica halts and says so: see `repair`.

use super::{Body, Event};
use super::{Message, Mutant, Node, PollAnswer, Repair};
use crate::types::{Index, Monotonic, ReplicaId, Term};
use std::collections::BTreeMap;

/// A question that is under way.
#[derive(Clone, Debug)]
pub(super) struct Poll {
    nonce: u64,
    /// Every answer is of this term or a later one.
    fence: Term,
    answers: BTreeMap<ReplicaId, PollAnswer>,
    began: Monotonic,
    again_at: Monotonic,
}

impl Poll {
    fn who(&self, answer: PollAnswer) -> Vec<ReplicaId> {
        let given = self.answers.iter().filter(|(_, given)| **given == answer);
        given.map(|(id, _)| *id).collect()
    }

    /// Who has what is asked about.
    pub(super) fn held_by(&self) -> Vec<ReplicaId> {
        self.who(PollAnswer::Held)
    }
}

impl Node {
    /// The first entry that was held and cannot be read.
    pub(super) fn suspected(&self) -> Option<Index> {
        match self.hard.repair {
            Repair::Suspect(kept) => Some(kept.next()),
            _ => None,
        }
    }

    /// Might a poll still end well? Not after everyone has answered, or had two windows to.
    pub(super) fn poll_may_prove(&self) -> bool {
        self.suspected().is_some()
            && self.is_admitted()
            && self.poll.as_ref().is_none_or(|poll| {
                let waited = self.now.mono.since(poll.began) >= self.config.window_us() * 2;
                poll.answers.len() < self.peers.len() && !waited
            })
    }

    pub(super) fn tick_poll(&mut self) {
        let Repair::Suspect(above) = self.hard.repair else {
            return;
        };
        let idle = self.damage.is_none() && self.installing.is_none() && self.is_admitted();
        if !idle || self.boot_until.is_some() || !self.no_primary_can_be() {
            self.poll = None;
            return;
        }
        if self.poll.is_none() {
            if !Mutant::UnfencedPoll.on() {
                self.raise_term(Term(self.hard.term.0 + 1));
            }
            self.poll = Some(Poll {
                nonce: self.rng.next(),
                fence: self.hard.term,
                answers: BTreeMap::new(),
                began: self.now.mono,
                again_at: self.now.mono,
            });
        }
        let next = self.now.mono.plus(self.config.window_us());
        let Some(poll) = &mut self.poll else {
            return;
        };
        if self.now.mono < poll.again_at {
            return;
        }
        poll.again_at = next;
        let nonce = poll.nonce;
        self.broadcast(&Body::Poll { nonce, above });
    }

    /// The answer is sent in the present term, and leaves when that is durable. Whose answer counts
    /// is the asker's business: a log that is damaged here may not know it.
    pub(super) fn on_poll(&mut self, message: &Message, nonce: u64, above: Index) {
        if message.term > self.hard.term {
            return; // not fenced here
        }
        let held = self.log.last().index > above;
        let ended = match self.hard.repair {
            Repair::No => self.is_vouched_for(),
            Repair::Ended(at) => at <= above,
            Repair::Discard | Repair::UnderWay | Repair::Suspect(_) => false,
        };
        let answer = if held {
            PollAnswer::Held
        } else if ended && self.damage.is_none() && self.installing.is_none() {
            PollAnswer::Never
        } else {
            PollAnswer::Unknown
        };
        self.send(message.from, Body::PollReply { nonce, answer });
    }

    pub(super) fn on_poll_reply(&mut self, message: &Message, nonce: u64, answer: PollAnswer) {
        let counts = self.sender_counts(message);
        let asked = |poll: &Poll| poll.nonce == nonce;
        let (Repair::Suspect(above), true) =
            (self.hard.repair, self.poll.as_ref().is_some_and(asked))
        else {
            self.refuse_answer(message.from);
            return;
        };
        let remembered = self.hard.others_marks.get(&message.from);
        let contradicted = remembered.is_some_and(|mark| mark.index > above);
        let Some(poll) = &mut self.poll else {
            return;
        };
        if message.term < poll.fence || !counts {
            return;
        }
        let answer = match answer {
            PollAnswer::Never if contradicted => PollAnswer::Held,
            other => other,
        };
        poll.answers.insert(message.from, answer);
        let by = poll.who(PollAnswer::Never);
        let mut need = self.membership.majority();
        if Mutant::PollMinority.on() {
            need -= 1;
        }
        if by.len() >= need {
            self.give_up_suspected(above, by);
        }
    }

    /// LEGAL only after the poll. The mark falls with what it named.
    fn give_up_suspected(&mut self, above: Index, by: Vec<ReplicaId>) {
        self.hard.mark = self.hard.mark.min(self.log.last());
        let fence = self.poll.as_ref().map_or(Term(0), |poll| poll.fence);
        self.give_up_before(fence);
        self.become_whole();
        self.ask_after = self.now.mono;
        self.event(Event::Proven { above, by });
    }
}
