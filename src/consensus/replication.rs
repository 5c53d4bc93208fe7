//! Messages in, and the secondary's side of replication.

use super::{Append, AppendReply, Body, Message, Mutant, Node};
use crate::types::entry::Entry;
use crate::types::refusals::RefusalKind;
use crate::types::{ClusterId, Index, ReplicaId, Stamp, Term};

/// Of an ask that wants no answer.
pub(super) const NO_NONCE: u64 = 0;

impl Node {
    /// A message arrived.
    pub fn step(&mut self, now: super::Now, message: Message) {
        self.now = now;
        if !self.is_for_us(&message) {
            return;
        }
        if let Body::Hello(hello) = &message.body {
            let hello = hello.clone();
            self.note_term(&message);
            self.on_hello(&message, hello);
            return;
        }
        if !self.is_of_known_lives(&message) {
            return;
        }
        self.note_term(&message);
        if message.term == self.hard.term
            && let Some(peer) = self.peers.get_mut(&message.from)
        {
            peer.heard = Some(now.mono);
        }
        self.dispatch(message);
    }

    /// A higher term ends roles of a lower one. Only from members in force, as far as this replica
    /// knows them: a wiped replica cannot depose anybody.
    fn note_term(&mut self, message: &Message) {
        // What is left of a damaged log may be older than the last readmission.
        let known = self.is_admitted() && self.hard.repair == super::Repair::No;
        let believed = !known
            || self
                .membership
                .in_force(message.from, message.from_incarnation);
        let boot = matches!(message.body, Body::Hello(_) | Body::CopyPiece { .. });
        if boot && Mutant::AdoptWithoutTerm.on() {
            return;
        }
        if message.term > self.hard.term && believed && self.damage.is_none() {
            self.raise_term(message.term);
        }
    }

    fn dispatch(&mut self, message: Message) {
        let from = message.from;
        let current = message.term == self.hard.term;
        let behind = message.term < self.hard.term;
        match message.body.clone() {
            Body::Hello(_) => {}
            Body::Refresh(refresh) => self.on_refresh(&message, refresh),
            Body::Ask { nonce, last } => self.on_ask(&message, nonce, last),
            Body::Agree { nonce } => self.on_agree(&message, nonce),
            Body::Ballot(ballot) if current => self.on_ballot(&message, ballot),
            Body::Abstain if current => self.on_abstain(&message),
            Body::Grant { nonce, clock } if current => self.on_grant(&message, nonce, clock),
            Body::Append(append) if current => self.on_append(from, message.cluster, append),
            Body::AppendReply(reply) if current => self.on_append_reply(&message, reply),
            Body::Round { nonce } if current => self.on_round(&message, nonce),
            Body::RoundReply { nonce } if current => self.on_round_reply(&message, nonce),
            Body::ReadIndex { nonce } => self.on_read_index(from, nonce),
            Body::ReadIndexReply { nonce, index } => self.on_read_index_reply(from, nonce, index),
            Body::CampaignNow if current => self.on_campaign_now(&message),
            Body::CopyRequest {
                nonce,
                after,
                after_hash,
            } => {
                self.on_copy_request(from, nonce, after, after_hash);
            }
            Body::CopyPiece {
                nonce,
                entries,
                done,
            } => {
                self.on_copy_piece(from, nonce, entries, done);
            }
            Body::SnapshotOffer(head) if current => self.on_snapshot_offer(&message, *head),
            Body::SnapshotRequest { name, after } if current => {
                self.on_snapshot_request(from, name, after);
            }
            Body::SnapshotChunk(chunk) if current => self.on_snapshot_chunk(from, *chunk),
            Body::StateWanted { at_least } if current => self.on_state_wanted(from, at_least),
            Body::StateDoubted { index } if current => self.on_state_doubted(from, index),
            Body::RepairTo { index } if current => self.on_repair_to(from, index),
            Body::Poll { nonce, above } => self.on_poll(&message, nonce, above),
            Body::PollReply { nonce, answer } => self.on_poll_reply(&message, nonce, answer),
            Body::Ballot(_) | Body::Append(_) | Body::Round { .. } if behind => {
                // Tells the sender that its term is over. Not an answer: it may be lost.
                self.tell_term(from);
                self.refuse_term(&message);
            }
            _ => self.refuse_term(&message),
        }
    }

    fn tell_term(&mut self, to: ReplicaId) {
        let last = self.log.durable();
        let nonce = NO_NONCE;
        self.send(to, Body::Ask { nonce, last });
    }

    /// Entries from the primary of our term.
    fn on_append(&mut self, from: ReplicaId, cluster: Option<ClusterId>, append: Append) {
        if self.damage.is_some() || self.leading.is_some() || self.installing.is_some() {
            return;
        }
        if !is_chained(&append, self.hard.term) {
            let reason = "it sent entries that do not follow each other";
            self.refuse(from, RefusalKind::BrokenChain, reason);
            return;
        }
        if !self.is_formed() && !is_founding(&append, cluster) {
            let reason = "its first entry does not found its cluster";
            self.refuse(from, RefusalKind::OtherCluster, reason);
            return;
        }
        self.follow(from);
        let last = append
            .entries
            .last()
            .map_or(append.previous.index, Entry::index);
        let wants_answer = !append.notice || !append.entries.is_empty();
        if !self.agrees(&append) {
            return;
        }
        if !self.may_write() {
            // The primary goes on from here when it is told so, once others vouch.
            self.verified = self.verified.max(append.previous.index);
            return;
        }
        for entry in append.entries {
            if !self.accept(entry) {
                return;
            }
        }
        self.verified = self.verified.max(last);
        self.commit_known = self.commit_known.max(append.commit.min(self.verified));
        if self.hard.term_accepted < self.hard.term {
            self.hard.term_accepted = self.hard.term;
            self.jobs.want_hard_state(true);
        }
        self.ack_due |= wants_answer;
        self.advance_followed_commit();
        self.maybe_end_repair();
        self.maybe_acknowledge();
    }

    /// Does the entry before the batch stand in our log, with the same hash? Otherwise the primary
    /// is told where to look.
    fn agrees(&mut self, append: &Append) -> bool {
        let previous = append.previous;
        let base = self.log.base().stamp.index;
        if previous.index < base {
            // What was cut is committed; what is left of the batch comes again.
            let hint = self.commit.max(base);
            self.reply_to_primary(AppendReply::Conflict { previous, hint });
            return false;
        }
        let ours = self.log.stamp_at(previous.index);
        if ours != Some(previous) {
            if previous.index <= self.commit && ours.is_some() {
                self.conflict_below_commit(previous.index);
                return false;
            }
            let hint = match ours {
                None => self.log.last().index,
                Some(_) => self
                    .log
                    .run_start(previous.index)
                    .previous()
                    .max(self.commit),
            };
            let reply = AppendReply::Conflict { previous, hint };
            self.reply_to_primary(reply);
            return false;
        }
        let hash = self.log.hash_at(previous.index);
        if hash.is_some_and(|hash| hash != append.previous_hash) {
            self.become_damaged(
                previous.index,
                format!("entry {previous} has another hash than the primary's"),
            );
            return false;
        }
        true
    }

    /// Takes one entry of the primary's; false if the log turned out damaged.
    fn accept(&mut self, entry: Entry) -> bool {
        let stamp = entry.stamp();
        if let Some(ours) = self.log.term_at(stamp.index) {
            let same_hash = self
                .log
                .entry_at(stamp.index)
                .is_none_or(|e| e.hash() == entry.hash());
            if ours == stamp.term && same_hash {
                return true;
            }
            if ours == stamp.term || stamp.index <= self.commit {
                self.conflict_below_commit(stamp.index);
                return false;
            }
            // A proven conflict with a primary of the current term.
            self.truncate(stamp.index.previous(), self.hard.term);
        }
        if self.log.head_hash() != entry.previous_hash() {
            self.conflict_below_commit(stamp.index.previous());
            return false;
        }
        self.append(entry);
        true
    }

    fn conflict_below_commit(&mut self, index: Index) {
        let commit = self.commit;
        self.become_damaged(
            index,
            format!("entry {index} differs from the primary's (committed up to {commit})"),
        );
    }

    /// Commits what the primary has committed, as far as it is durable here.
    pub(super) fn advance_followed_commit(&mut self) {
        if self.leading.is_none() && self.primary.is_some() {
            let to = self.commit_known.min(self.log.durable().index);
            self.commit = self.commit.max(to);
        }
    }

    /// What any peer has committed is committed here too, as far as its log is known to be ours:
    /// it has our entry at its last stamp. Without this a replica whose primary died before it
    /// heard of a readmission's commit would never count the readmitted one, and the two could
    /// not elect.
    pub(super) fn learn_commit(&mut self, last: Stamp, commit: Index) {
        if self.leading.is_none()
            && self.damage.is_none()
            && self.installing.is_none()
            && self.log.stamp_at(last.index) == Some(last)
        {
            let to = commit.min(last.index).min(self.log.durable().index);
            self.commit = self.commit.max(to);
        }
    }

    /// How far our log is durable and known to be the present primary's.
    pub(super) fn agreed(&self) -> Index {
        self.verified.min(self.log.durable().index)
    }

    /// Acknowledges what is durable and as the primary of the PRESENT term has it: an fsync that
    /// ends in a later term, or after a grant (which only a later term can see), says nothing.
    pub(super) fn maybe_acknowledge(&mut self) {
        if self.leading.is_some() || self.primary.is_none() || self.damage.is_some() {
            return;
        }
        if self.installing.is_some() || (!self.ack_due && self.acked >= self.verified) {
            return;
        }
        let mut index = self.agreed();
        if Mutant::AckBeforeFsync.on() {
            index = self.verified;
        }
        let complete = index == self.verified;
        if index <= self.acked && !(self.ack_due && complete) {
            return;
        }
        self.acked = index;
        if complete {
            self.ack_due = false;
        }
        let counting = self.is_admitted() && !self.is_repairing() && self.is_vouched_for();
        self.reply_to_primary(AppendReply::Match { index, counting });
    }

    pub(super) fn reply_to_primary(&mut self, reply: AppendReply) {
        if let Some(primary) = self.primary {
            self.send(primary, Body::AppendReply(reply));
        }
    }
}

/// A replica without a cluster learns it from entry 1, whose members must hash to the id that
/// the sender says it belongs to.
fn is_founding(append: &Append, cluster: Option<ClusterId>) -> bool {
    let first = append
        .entries
        .first()
        .filter(|_| append.previous.index == Index(0));
    first.is_none_or(|entry| {
        let members = entry.as_formation().map(|formation| formation.members);
        members.is_some_and(|members| Some(ClusterId::of_members(&members)) == cluster)
    })
}

/// Consecutive entries, chained by hash to the one before, in terms that do not exceed the
/// sender's. Bytes that say otherwise are refused before they touch the log.
fn is_chained(append: &Append, term: Term) -> bool {
    let mut stamp = append.previous;
    let mut hash = append.previous_hash;
    for entry in &append.entries {
        let next = entry.stamp();
        let follows = next.index == stamp.index.next()
            && next.term >= stamp.term
            && next.term <= term
            && entry.previous_hash() == hash;
        if !follows {
            return false;
        }
        stamp = next;
        hash = entry.hash();
    }
    true
}
