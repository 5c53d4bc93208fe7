//! The package of the current state: offered by the primary to a replica that needs what
//! the primary's log no longer has, taken in parts, built beside the live store, installed at once.
//!
//! The receiver asks for one part after the other; a transfer is named by its content, so that it
//! goes on where it was when parts are lost, and with another primary that has the same state.
//! While it is on its way the replica takes part fully, with the log that it has. It takes no part
//! only from the moment of the installation to its fsync, when the whole log is exchanged.
//!
//! # What makes an installation safe
//!
//! The state is that after a committed entry, offered by the primary of the PRESENT term. It is
//! refused, at the offer and again at the installation, if its index is below this replica's commit
//! point; and if the entry is in the log already, for then what follows it must stay (a quarantined
//! replica, whose log is good, takes the rows of such a state and keeps its log). Otherwise the
//! log that it takes the place of ends below that index, or holds another entry there, or has a
//! later term below it (terms never fall along a log): what is newer in it than the state's entry
//! conflicts with what was committed, and is truncated as legally as by an append. The mark is
//! lowered BEFORE, durably. The primary need not have committed in its own term yet: the receiver
//! may be the one whose acknowledgement that takes.

use super::log::Log;
use super::{
    AppendReply, Body, Event, FormationStatus, Message, Mutant, Node, Place, Repair, SnapshotChunk,
    SnapshotHead, SnapshotRead, SnapshotStep, StepDone,
};
use crate::types::refusals::RefusalKind;
use crate::types::{ClusterId, Hash, Index, Monotonic, ReplicaId, Term};

/// A snapshot on its way to this replica.
#[derive(Clone, Debug)]
pub(super) struct Receiving {
    from: ReplicaId,
    /// The term in which it was last offered.
    term: Term,
    head: Box<SnapshotHead>,
    name: Hash,
    /// Only the state is wanted: the log is kept, and holds the state's entry.
    keep: bool,
    /// Rows up to here are in the next store, or on their way to it.
    place: Option<Place>,
    /// No row follows `place`.
    complete: bool,
    stage: Stage,
    /// When it was last asked for.
    asked: Monotonic,
    /// When it last went on.
    moved: Monotonic,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Another step is out: it begins after that.
    Waiting,
    /// A step is out.
    Storing,
    /// Rows are asked for.
    Asking,
    /// Built and verified.
    Checked,
}

impl Node {
    /// The primary's side: what this peer needs next is cut from the log.
    pub(super) fn offer_snapshot(&mut self, peer: ReplicaId) {
        let now = self.now.mono;
        if self.is_quarantined() {
            return;
        }
        let Some(leading) = &mut self.leading else {
            return;
        };
        if let Some(progress) = leading.peers.get_mut(&peer) {
            progress.snapshot(now);
        }
        let at_least = self.log.base().stamp.index;
        self.ready.snapshot_reads.push(SnapshotRead {
            peer,
            wanted: None,
            at_least,
        });
    }

    pub(super) fn on_snapshot_request(
        &mut self,
        peer: ReplicaId,
        name: Hash,
        after: Option<Place>,
    ) {
        let now = self.now.mono;
        let at_least = self.log.base().stamp.index;
        let Some(leading) = self.leading.as_mut().filter(|_| !self.hard.quarantined) else {
            return;
        };
        let rebuilds = leading.rebuilding.contains(&peer);
        let Some(progress) = leading.peers.get_mut(&peer) else {
            return;
        };
        // A question that an offer of long ago has brought about is not answered.
        let asked = progress.is_taking_snapshot() || rebuilds;
        if !asked && !Mutant::SnapshotOlder.on() {
            return;
        }
        if progress.is_taking_snapshot() {
            progress.snapshot(now);
            progress.moved = now;
        }
        self.ready.snapshot_reads.push(SnapshotRead {
            peer,
            wanted: Some((name, after)),
            at_least,
        });
    }

    /// The state to offer to a peer.
    pub fn on_snapshot_head(&mut self, now: super::Now, peer: ReplicaId, head: SnapshotHead) {
        self.now = now;
        if self.leading.is_some() && !self.is_quarantined() {
            self.send(peer, Body::SnapshotOffer(Box::new(head)));
        }
    }

    /// Rows that a peer has asked for.
    pub fn on_snapshot_rows(&mut self, now: super::Now, peer: ReplicaId, chunk: SnapshotChunk) {
        self.now = now;
        if self.leading.is_some() && !self.is_quarantined() {
            self.send(peer, Body::SnapshotChunk(Box::new(chunk)));
        }
    }

    /// The receiver's side: a primary of the present term offers its state.
    pub(super) fn on_snapshot_offer(&mut self, message: &Message, head: SnapshotHead) {
        let from = message.from;
        if self.damage.is_some() || self.leading.is_some() || self.installing.is_some() {
            return;
        }
        let cluster = self.hard.cluster.or(message.cluster);
        if cluster != Some(ClusterId::of_members(&head.base.founders)) {
            let reason = "it offers the state of another cluster";
            self.refuse(from, RefusalKind::OtherCluster, reason);
            return;
        }
        self.follow(from);
        if !self.may_write() {
            return; // it is offered again
        }
        let keep = self.keeps_log_under(&head);
        if let Err(reason) = self.may_take(&head)
            && !keep
        {
            self.refuse_snapshot(from, &head, reason);
            return;
        }
        let name = head.name();
        let now = self.now.mono;
        let same = |r: &&mut Receiving| r.name == name && r.keep == keep;
        if let Some(receiving) = self.receiving.as_mut().filter(same) {
            (receiving.from, receiving.term) = (from, self.hard.term);
            match receiving.stage {
                Stage::Asking => self.ask_for_rows(),
                Stage::Checked => self.maybe_install_snapshot(),
                Stage::Waiting | Stage::Storing => {}
            }
            return;
        }
        self.receiving = Some(Receiving {
            from,
            term: self.hard.term,
            head: Box::new(head),
            name,
            keep,
            place: None,
            complete: false,
            stage: Stage::Waiting,
            asked: now,
            moved: now,
        });
        self.maybe_begin();
    }

    /// What makes an installation safe; see the module.
    fn may_take(&self, head: &SnapshotHead) -> Result<(), &'static str> {
        let base = head.base.stamp;
        if Mutant::SnapshotOlder.on() {
            return Ok(());
        }
        if self.log.stamp_at(base.index) == Some(base) {
            return Err("its last entry is in the log already");
        }
        if base.index < self.commit {
            return Err("it is older than what is committed here");
        }
        if base.term > self.hard.term {
            return Err("it is of a later term than its sender");
        }
        Ok(())
    }

    /// A quarantined replica wants the state and nothing else, if its log goes on from there.
    fn keeps_log_under(&self, head: &SnapshotHead) -> bool {
        let base = head.base.stamp;
        self.is_quarantined() && self.log.stamp_at(base.index) == Some(base)
    }

    fn refuse_snapshot(&mut self, from: ReplicaId, head: &SnapshotHead, reason: &'static str) {
        self.event(Event::SnapshotRefused { from, reason });
        let previous = head.base.stamp;
        // What is held already needs no snapshot: with a lower hint it would be offered for ever.
        let held = self.log.stamp_at(previous.index) == Some(previous);
        let hint = if held {
            previous.index
        } else {
            self.log.last().index.min(self.commit)
        };
        self.reply_to_primary(AppendReply::Conflict { previous, hint });
    }

    fn maybe_begin(&mut self) {
        let Some(receiving) = &mut self.receiving else {
            return;
        };
        if receiving.stage == Stage::Waiting && !self.snapshot_step_out {
            receiving.stage = Stage::Storing;
            let head = receiving.head.clone();
            let keep = receiving.keep.then(|| self.log.base().clone());
            self.step_snapshot(SnapshotStep::Begin { head, keep });
        }
    }

    fn step_snapshot(&mut self, step: SnapshotStep) {
        assert!(
            !std::mem::replace(&mut self.snapshot_step_out, true),
            "one step at a time"
        );
        self.ready.snapshot_step = Some(step);
    }

    fn ask_for_rows(&mut self) {
        let Some(receiving) = &mut self.receiving else {
            return;
        };
        receiving.stage = Stage::Asking;
        receiving.asked = self.now.mono;
        let (name, after) = (receiving.name, receiving.place.clone());
        let from = receiving.from;
        if receiving.term == self.hard.term {
            self.send(from, Body::SnapshotRequest { name, after });
        }
    }

    pub(super) fn on_snapshot_chunk(&mut self, from: ReplicaId, chunk: SnapshotChunk) {
        let now = self.now.mono;
        let Some(receiving) = &mut self.receiving else {
            self.refuse_answer(from);
            return;
        };
        let fits = receiving.name == chunk.name
            && receiving.from == from
            && receiving.stage == Stage::Asking
            && receiving.place == chunk.after;
        if !fits {
            // A part that came twice, or of another transfer.
            self.refuse_answer(from);
            return;
        }
        receiving.stage = Stage::Storing;
        receiving.moved = now;
        receiving.complete = chunk.done;
        if let Some(last) = chunk.rows.last() {
            receiving.place = Some(last.place.clone());
        }
        // The primary's clock of a stuck receiver runs on while rows are stored.
        self.primary_seen = now;
        self.step_snapshot(SnapshotStep::Rows(chunk.rows));
    }

    /// The step that was out is done.
    pub fn on_snapshot_step(&mut self, now: super::Now, done: StepDone) {
        self.now = now;
        self.snapshot_step_out = false;
        let Some(receiving) = &mut self.receiving else {
            return;
        };
        receiving.moved = now.mono;
        match (receiving.stage, done) {
            (Stage::Storing, StepDone::Stored) if receiving.complete && receiving.keep => {
                // What follows is between the replica and its disk.
                self.receiving = None;
                self.step_snapshot(SnapshotStep::Keep);
            }
            (Stage::Storing, StepDone::Stored) if receiving.complete => {
                self.step_snapshot(SnapshotStep::Check);
            }
            (Stage::Storing, StepDone::Stored) => self.ask_for_rows(),
            (Stage::Storing, StepDone::Checked(true)) => {
                receiving.stage = Stage::Checked;
                self.maybe_install_snapshot();
            }
            (Stage::Storing, StepDone::Checked(false)) => {
                let (from, index) = (receiving.from, receiving.head.base.stamp.index);
                self.receiving = None;
                let reason = "its rows have another digest than it says";
                self.event(Event::SnapshotRefused { from, reason });
                self.send(from, Body::StateDoubted { index });
            }
            _ => self.maybe_begin(),
        }
    }

    /// Lost questions are asked again; a transfer that stands still is given up.
    pub(super) fn tick_snapshot(&mut self) {
        let again = self.config.refresh_interval_us * 2;
        let patience = self.config.election_timeout_us() * 20;
        let now = self.now.mono;
        let Some(receiving) = &self.receiving else {
            return;
        };
        let idle = receiving.stage != Stage::Storing && now.since(receiving.moved) > patience;
        if idle || self.leading.is_some() || self.damage.is_some() {
            self.receiving = None;
        } else if receiving.stage == Stage::Asking && now.since(receiving.asked) >= again {
            self.ask_for_rows();
        }
    }

    /// ORDER: built, fsynced and verified BEFORE; a mark lowered BEFORE; exchanged atomically by the storage thread; the
    /// promises (formation, mark) after it. No part is taken in between.
    fn maybe_install_snapshot(&mut self) {
        let ready = self.receiving.as_ref().is_some_and(|receiving| {
            let offered = receiving.term == self.hard.term && self.primary == Some(receiving.from);
            receiving.stage == Stage::Checked && offered
        });
        if !ready || self.leading.is_some() || self.damage.is_some() || self.installing.is_some() {
            return;
        }
        let Some(receiving) = self.receiving.take() else {
            return;
        };
        let (from, head) = (receiving.from, receiving.head);
        if let Err(reason) = self.may_take(&head) {
            self.refuse_snapshot(from, &head, reason);
            return;
        }
        let base = head.base.clone();
        let stamp = base.stamp;
        self.adoption = None;
        self.copies.clear();
        let newest = self.hard.mark.max(self.log.last());
        let newer = newest > stamp && self.hard.repair == Repair::No;
        self.log = Log::begin_at(base.clone());
        self.commit = stamp.index;
        self.delivered = stamp.index;
        self.commit_known = stamp.index;
        (self.verified, self.acked) = (Index(0), Index(0));
        self.ack_due = false;
        self.membership.replace(head.members.clone());
        self.forget_lives_before(stamp.index, None);
        if newer {
            self.give_up_before(self.hard.term);
        }
        self.hard.mark = if newer {
            stamp
        } else {
            self.hard.mark.max(stamp)
        };
        self.hard.term_accepted = self.hard.term;
        if !self.is_formed() {
            self.hard.cluster = Some(ClusterId::of_members(&base.founders));
            self.hard.formation = FormationStatus::Formed(base.founders);
            self.jobs.want_formation();
        }
        self.jobs.install(head, newer.then_some(stamp));
        self.installing = Some(self.jobs.pending_id());
        self.event(Event::SnapshotInstalled { from, base: stamp });
    }

    /// The primary learns where to go on.
    pub(super) fn after_installation(&mut self) {
        let previous = self.log.base().stamp;
        if self.log.last() == previous && self.primary.is_some() && self.leading.is_none() {
            let hint = previous.index;
            self.reply_to_primary(AppendReply::Conflict { previous, hint });
        }
    }

    /// A primary's state is on its way into the next store: nothing else may be built there.
    pub fn is_receiving(&self) -> bool {
        self.receiving.is_some() || self.installing.is_some()
    }

    /// Nothing that the present primary could go on with is on its way.
    pub(super) fn receives_nothing_now(&self) -> bool {
        let now = |receiving: &Receiving| receiving.term == self.hard.term;
        self.installing.is_none() && !self.receiving.as_ref().is_some_and(now)
    }

    /// Where the log begins.
    pub fn base(&self) -> Index {
        self.log.base().stamp.index
    }

    /// The log was cut, in place or by a rewriting, and begins after this.
    pub fn on_compacted(&mut self, now: super::Now, base: crate::types::Base) {
        self.now = now;
        if base.stamp.index > self.log.base().stamp.index {
            assert!(
                base.stamp.index <= self.delivered,
                "only what is applied is cut"
            );
            self.log.cut(base);
        }
    }
}
