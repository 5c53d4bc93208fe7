//! What is refused of what the others send: counted, told once an hour, and without effect.
//!
//! Some of it is seen in every cluster: a message that was on its way while its sender restarted, an
//! answer that was late. The rest is a mistake of an operator, or hostile. Neither can be told from
//! the other with certainty, so that both are counted; only what an operator can do something about
//! is a warning.

use super::{Body, Event, Message, Node};
use crate::limits::TERM_JUMP_MAX;
use crate::types::refusals::{RefusalKind, Refusals};
use crate::types::{ReplicaId, RunNonce};

/// What an answer belongs to. Each has its own nonces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Question {
    /// Does the other miss the primary, too?
    Ask,
    /// A ballot, answered by a grant.
    Ballot,
    /// Is this replica still primary?
    Round,
    /// What is committed?
    ReadIndex,
}

/// The last question of each sort, and who has answered it: each peer does so once.
#[derive(Clone, Debug, Default)]
pub(super) struct Questions {
    asked: [(u64, Vec<ReplicaId>); 4],
}

impl Questions {
    /// Under a new nonce.
    pub(super) fn ask(&mut self, question: Question, nonce: u64) {
        let (last, answered) = &mut self.asked[question as usize];
        *last = nonce;
        answered.clear();
    }

    /// Is this the first answer of this peer to the last question, whether or not that is still
    /// open? Then it may be late, but it is no replay.
    fn answers(&mut self, question: Question, nonce: u64, peer: ReplicaId) -> bool {
        let (last, answered) = &mut self.asked[question as usize];
        let first = *last == nonce && !answered.contains(&peer);
        if first {
            answered.push(peer);
        }
        first
    }
}

impl Node {
    /// Everything that was refused so far.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Something was refused of what a peer sent.
    pub(super) fn refuse(&mut self, peer: ReplicaId, kind: RefusalKind, reason: &str) {
        if self.refusals.count((peer, kind), reason, self.now.mono) {
            let reason = reason.to_owned();
            self.event(Event::Refused { peer, kind, reason });
        }
    }

    /// Nothing that this peer says is believed, until it says something else.
    fn shun(&mut self, from: ReplicaId, kind: RefusalKind, reason: String) {
        self.refuse(from, kind, &reason);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.refused_for = Some(reason);
        }
    }

    /// The caller refused what a peer sent: something that the core does not see.
    pub fn on_refused(
        &mut self,
        now: super::Now,
        peer: ReplicaId,
        kind: RefusalKind,
        reason: &str,
    ) {
        self.now = now;
        self.refuse(peer, kind, reason);
    }

    /// Is this the process run in which the peer said hello?
    pub fn knows_run(&self, peer: ReplicaId, run: RunNonce) -> bool {
        self.peers.get(&peer).is_some_and(|p| p.run == Some(run))
    }

    /// False for what answers another question than the last one, or answers it again.
    pub(super) fn expects(&mut self, question: Question, nonce: u64, peer: ReplicaId) -> bool {
        let expected = self.questions.answers(question, nonce, peer);
        if !expected {
            self.refuse_answer(peer);
        }
        expected
    }

    pub(super) fn refuse_answer(&mut self, peer: ReplicaId) {
        let reason = "it answers what was not asked, or was answered";
        self.refuse(peer, RefusalKind::Replay, reason);
    }

    /// Right cluster, right receiver, known sender, a term that can be.
    pub(super) fn is_for_us(&mut self, message: &Message) -> bool {
        let from = message.from;
        if message.to != self.config.id || !self.peers.contains_key(&from) {
            // Stopped at the door, and counted there: see `crate::net`.
            return false;
        }
        if let (Some(theirs), Some(ours)) = (message.cluster, self.hard.cluster)
            && theirs != ours
        {
            let reason = format!("it belongs to cluster {theirs:?}, this replica to {ours:?}");
            self.shun(from, RefusalKind::OtherCluster, reason);
            return false;
        }
        if message.term.0 > self.hard.term.0.saturating_add(TERM_JUMP_MAX) {
            let reason = "its term is so far above this replica's that no election led to it";
            self.refuse(from, RefusalKind::AbsurdTerm, reason);
            return false;
        }
        if let Body::Hello(hello) = &message.body
            && let Some((kind, reason)) = self.hello_refusal(hello)
        {
            self.shun(from, kind, reason);
            return false;
        }
        true
    }

    /// Is it from the life and the run that said hello, to this life of this replica? Otherwise a
    /// hello is asked for, and nothing is believed.
    pub(super) fn is_of_known_lives(&mut self, message: &Message) -> bool {
        let peer = &self.peers[&message.from];
        let (kind, reason) = if peer.run != Some(message.run) {
            let reason = "it is of another process run than the one that said hello";
            (RefusalKind::OtherRun, reason)
        } else if peer.incarnation != Some(message.from_incarnation) {
            let reason = "its sender is not the incarnation that said hello";
            (RefusalKind::OtherIncarnation, reason)
        } else if message.to_incarnation != Some(self.hard.incarnation) {
            let reason = "it is for another incarnation of this replica";
            (RefusalKind::OtherIncarnation, reason)
        } else {
            return true;
        };
        self.refuse(message.from, kind, reason);
        self.maybe_send_hello(message.from);
        false
    }

    /// A message that belongs to its term, and this is not the term.
    pub(super) fn refuse_term(&mut self, message: &Message) {
        if self.damage.is_some() {
            return; // takes no part in terms any more
        }
        let (kind, reason) = if message.term < self.hard.term {
            (RefusalKind::EarlierTerm, "its term has ended")
        } else {
            let reason = "it is of a later term, and its sender is not in force here";
            (RefusalKind::LaterTerm, reason)
        };
        self.refuse(message.from, kind, reason);
    }
}

#[cfg(feature = "model")]
impl Questions {
    /// `open`: an answer would have an effect. Each is asked anew before that is so again.
    pub(super) fn view(&self, view: &mut super::view::View, open: [bool; 4]) {
        let Self { asked } = self;
        for ((nonce, answered), open) in asked.iter().zip(open) {
            let mut by = answered.clone();
            by.sort_unstable(); // who, and not in which order
            view.put(&open.then_some((nonce, by)));
        }
    }
}
