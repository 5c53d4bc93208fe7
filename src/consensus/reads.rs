//! Linearizable reads by read-index (Ongaro's thesis, section 6.4), without clock-based leases.
//!
//! A round's nonce is never reused, so that an answer left over from an earlier round confirms
//! nothing. Rounds are shared by the reads that wait when one begins.

use super::refusing::Question;
use super::{Body, Message, Mutant, Node, ReadId};
use crate::limits::READS_WAITING_MAX;
use crate::types::{Index, Monotonic, ReplicaId};
use std::collections::BTreeSet;

/// Who wants the read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    Local(ReadId),
    Remote { peer: ReplicaId, nonce: u64 },
}

/// A majority round under way.
#[derive(Clone, Debug)]
struct Round {
    nonce: u64,
    index: Index,
    confirmed: BTreeSet<ReplicaId>,
    readers: Vec<(Reader, Monotonic)>,
    began: Monotonic,
}

/// A secondary's question under way.
#[derive(Clone, Debug)]
struct Pending {
    nonce: u64,
    reads: Vec<(ReadId, Monotonic)>,
    asked: Monotonic,
}

/// Reads that wait.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    /// Not in a round or question yet.
    waiting: Vec<(Reader, Monotonic)>,
    round: Option<Round>,
    question: Option<Pending>,
    next_nonce: u64,
}

impl Reads {
    /// `nonces`: where they begin, drawn afresh for each process run: a late answer to an earlier
    /// run must not answer a question of this one.
    pub(super) fn new(nonces: u64) -> Self {
        Self {
            waiting: Vec::new(),
            round: None,
            question: None,
            next_nonce: nonces,
        }
    }

    fn nonce(&mut self) -> u64 {
        self.next_nonce = self.next_nonce.wrapping_add(1);
        self.next_nonce
    }
}

impl Node {
    fn read_wait_us(&self) -> u64 {
        self.config.election_timeout_us() * 4
    }

    pub(super) fn start_read(&mut self, reader: Reader) {
        if self.reads.waiting.len() >= READS_WAITING_MAX {
            self.fail(reader);
            return;
        }
        self.reads.waiting.push((reader, self.now.mono));
        self.drive_reads();
    }

    fn fail(&mut self, reader: Reader) {
        if let Reader::Local(read) = reader {
            self.ready.reads_failed.push(read);
        }
    }

    /// Starts a round (primary) or asks the primary (secondary), if none is under way.
    pub(super) fn drive_reads(&mut self) {
        if self.reads.waiting.is_empty() {
            return;
        }
        if let Some(leading) = &self.leading {
            if leading.serving && self.reads.round.is_none() {
                self.start_round();
            }
        } else if let Some(primary) = self.primary
            && self.reads.question.is_none()
        {
            self.ask_primary(primary);
        }
    }

    /// Takes the commit index FIRST, then asks the majority.
    fn start_round(&mut self) {
        let nonce = self.reads.nonce();
        let readers = std::mem::take(&mut self.reads.waiting);
        let mut confirmed = BTreeSet::new();
        if self.self_counts() {
            confirmed.insert(self.config.id);
        }
        self.maybe_commit();
        self.questions.ask(Question::Round, nonce);
        self.reads.round = Some(Round {
            nonce,
            index: self.commit,
            confirmed,
            readers,
            began: self.now.mono,
        });
        self.broadcast(&Body::Round { nonce });
        self.maybe_end_round();
    }

    pub(super) fn on_round(&mut self, message: &Message, nonce: u64) {
        if self.takes_part() && self.leading.is_none() {
            self.follow(message.from);
            self.send(message.from, Body::RoundReply { nonce });
        }
    }

    pub(super) fn on_round_reply(&mut self, message: &Message, nonce: u64) {
        let expected = self.expects(Question::Round, nonce, message.from);
        if !expected && !Mutant::StaleRound.on() {
            return;
        }
        let counts = self.sender_counts(message);
        if let Some(round) = &mut self.reads.round
            && (round.nonce == nonce || Mutant::StaleRound.on())
            && counts
        {
            round.confirmed.insert(message.from);
            self.maybe_end_round();
        }
    }

    fn maybe_end_round(&mut self) {
        let majority = self.membership.majority();
        let complete = |round: &Round| round.confirmed.len() >= majority;
        if !self.reads.round.as_ref().is_some_and(complete) {
            return;
        }
        let Some(round) = self.reads.round.take() else {
            return;
        };
        for (reader, _) in round.readers {
            match reader {
                Reader::Local(read) => self.ready.reads.push((read, round.index)),
                Reader::Remote { peer, nonce } => {
                    let index = round.index;
                    self.send(peer, Body::ReadIndexReply { nonce, index });
                    if let Some(leading) = &mut self.leading {
                        leading.notices.hurry(self.now.mono);
                    }
                }
            }
        }
        self.drive_reads();
    }

    fn ask_primary(&mut self, primary: ReplicaId) {
        let nonce = self.reads.nonce();
        let waiting = std::mem::take(&mut self.reads.waiting);
        let local = waiting
            .into_iter()
            .filter_map(|(reader, since)| match reader {
                Reader::Local(read) => Some((read, since)),
                Reader::Remote { .. } => None,
            });
        let reads: Vec<_> = local.collect();
        if reads.is_empty() {
            return;
        }
        self.questions.ask(Question::ReadIndex, nonce);
        self.reads.question = Some(Pending {
            nonce,
            reads,
            asked: self.now.mono,
        });
        self.send(primary, Body::ReadIndex { nonce });
    }

    pub(super) fn on_read_index(&mut self, peer: ReplicaId, nonce: u64) {
        if self.leading.is_some() {
            self.start_read(Reader::Remote { peer, nonce });
        }
    }

    pub(super) fn on_read_index_reply(&mut self, from: ReplicaId, nonce: u64, index: Index) {
        if !self.expects(Question::ReadIndex, nonce, from) {
            return;
        }
        if self
            .reads
            .question
            .as_ref()
            .is_some_and(|q| q.nonce == nonce)
            && let Some(question) = self.reads.question.take()
        {
            let ready = question.reads.into_iter().map(|(read, _)| (read, index));
            self.ready.reads.extend(ready);
            self.drive_reads();
        }
    }

    /// The primary changed: what waits is asked again, of the new one.
    pub(super) fn reads_to_new_primary(&mut self) {
        self.take_back_question();
        self.drive_reads();
    }

    fn take_back_question(&mut self) {
        if let Some(question) = self.reads.question.take() {
            let back = question.reads.into_iter();
            let back = back.map(|(read, since)| (Reader::Local(read), since));
            self.reads.waiting.extend(back);
        }
    }

    fn take_back_round(&mut self) {
        if let Some(round) = self.reads.round.take() {
            self.reads.waiting.extend(round.readers);
        }
    }

    /// Stepping down: others ask the next primary; our own reads wait for it too.
    pub(super) fn fail_remote_reads(&mut self) {
        self.take_back_round();
        self.reads
            .waiting
            .retain(|(reader, _)| matches!(reader, Reader::Local(_)));
    }

    /// Lost questions and rounds are asked again under a new nonce; what waited too long fails.
    pub(super) fn tick_reads(&mut self) {
        let now = self.now.mono;
        let again = self.config.refresh_interval_us * 2;
        let lost = |since: Monotonic| now.since(since) >= again;
        if self.reads.question.as_ref().is_some_and(|q| lost(q.asked)) {
            self.take_back_question();
        }
        if self.reads.round.as_ref().is_some_and(|r| lost(r.began)) {
            self.take_back_round();
        }
        let limit = self.read_wait_us();
        let waiting = std::mem::take(&mut self.reads.waiting);
        for (reader, since) in waiting {
            if now.since(since) >= limit {
                self.fail(reader);
            } else {
                self.reads.waiting.push((reader, since));
            }
        }
        self.drive_reads();
    }
}

#[cfg(feature = "model")]
impl Reads {
    pub(super) fn view(&self, view: &mut super::view::View) {
        let Self {
            waiting,
            round,
            question,
            next_nonce,
        } = self;
        let idle = waiting.is_empty() && round.is_none() && question.is_none();
        assert!(idle, "the view knows no reads");
        view.put(next_nonce);
    }
}
