//! [`Replica`]: one turn after the other.
//!
//! A turn is some [`Replica::handle`]s and one [`Replica::take_output`], which does, in this
//! order: propose or forward what is held; take the core's `Ready`; apply what is committed; tell
//! those who wait; put the next disk job together. It never blocks, and never looks at a clock.

mod doubt;
mod looks;
mod own;
mod peers;
mod reading;
#[cfg(test)]
mod tests;

use super::disk::{Disk, Policy};
use super::pace::{is_own_stretch, pace};
use super::reads::{Asker, Reads};
use super::relays::Relays;
use super::repairs::Repairs;
use super::room::Room;
use super::stopping::{Stage, Stopping};
use super::tokens::TokenUse;
use super::upkeep::{News, Sight, Upkeep};
use super::workshop::slice_of;
use super::writes::{Origin, Writes};
use super::{Config, DiskDone, Input, Output, PeerMessage, Ticket, WriteError};
use crate::consensus::{
    Body, Event, Message, Mutant, Node, Now, Ready, Role, SnapshotHead, SnapshotStep, Start,
};
use crate::limits::{UNWRITTEN_BYTES_PER_ENTRY, UNWRITTEN_RECORDS_PER_ENTRY};
use crate::state_machine::{Command, StateMachine, check_level_of};
use crate::storage::{self, CommitRecord, Recovered, Slice, StateReader, StorageError};
use crate::types::entry::{Entry, Kind};
use crate::types::{Index, Members, Monotonic, ReplicaId, RunNonce, WallTime};
use doubt::Standing;
use std::collections::BTreeSet;

/// The trees are brought up to date after this long without anything to apply, in microseconds.
const IDLE_US: u64 = 1_000_000;

/// One replica, without threads, sockets or clocks.
///
/// Invariants: entries are applied in order, each once; a write or read that was handed in gets
/// exactly one outcome; at most one disk job is out.
pub struct Replica<R: StateReader> {
    config: Config,
    reader: R,
    run: RunNonce,
    node: Node,
    machine: StateMachine,
    standing: Standing,
    now: Now,
    /// The core's status as it was last looked at: at least once a turn.
    primary: Option<ReplicaId>,
    role: Role,
    serving: bool,
    /// Peers with an open connection: a write is not given to one without, and stays certainly
    /// not applied.
    linked: BTreeSet<ReplicaId>,
    writes: Writes,
    reads: Reads,
    relays: Relays,
    tokens: TokenUse,
    disk: Disk,
    upkeep: Upkeep,
    room: Room,
    /// When something was last applied, and that entry's time: together the log's own clock.
    applied_at: Monotonic,
    applied_time: WallTime,
    expire_at: Monotonic,
    /// The core refused the last batch: it has enough under way.
    refused: bool,
    stopping: Option<Stopping>,
    repairs: Repairs,
    /// What the core wants done, of a turn that is half over: see [`Replica::take_first`].
    ready: Option<Ready>,
    output: Output,
}

impl<R: StateReader> Replica<R> {
    /// Starts from what recovery found. `recovered.hard_state` is `Some` here: the caller has
    /// created it for a new replica (a fresh incarnation, fsynced) before anything is sent.
    pub fn start(
        config: Config,
        recovered: Recovered,
        reader: R,
        run: RunNonce,
        seed: u64,
        now: Now,
    ) -> Result<Self, StorageError> {
        let missing = || StorageError::Unusable("a replica starts with its hard state".into());
        let hard_state = recovered.hard_state.clone().ok_or_else(missing)?;
        let doubted = hard_state.quarantined;
        let trees = recovered.applied.as_ref();
        let mut machine =
            StateMachine::open_knowing(trees.filter(|_| !doubted), config.node.level)?;
        machine.keep_digests_every(config.digest_every);
        let applied = trees.map_or(Index(0), |slice| slice.applied);
        let members = trees.map_or_else(Members::new, |slice| slice.members.clone());
        let recorded = recovered
            .commit
            .map_or(Index(0), |record| record.stamp.index);
        let damage = storage::damage_of(&recovered, &hard_state);
        let node = Node::new(Start {
            config: config.node.clone(),
            hard_state,
            members,
            level: machine.level(),
            base: recovered.base.clone(),
            term_runs: recovered.term_runs,
            last: recovered.last,
            tail: recovered.tail,
            tail_previous_hash: recovered.tail_previous_hash,
            commit: recorded.max(applied),
            applied,
            damage,
            run,
            seed,
            now,
        });
        let mut replica = Self {
            writes: Writes::new(config.node.id, run, config.write_timeout_us),
            reads: Reads::new(config.read_timeout_us),
            relays: Relays::new(config.read_timeout_us),
            tokens: TokenUse::new(config.token_idle_us, now.mono),
            disk: Disk::new(recovered.last.index, recovered.commit, recovered.applied),
            upkeep: Upkeep::new(&config, recovered.rewritten_bytes),
            room: Room::new(config.free_bytes_min),
            config,
            reader,
            run,
            node,
            machine,
            standing: Standing::at_start(doubted),
            now,
            primary: None,
            role: Role::Booting,
            serving: false,
            linked: BTreeSet::new(),
            applied_at: now.mono,
            applied_time: recovered.commit.map_or(WallTime(0), |record| record.time),
            expire_at: now.mono,
            refused: false,
            stopping: None,
            repairs: Repairs::new(recovered.last_repair),
            ready: None,
            output: Output::default(),
        };
        replica.tell_applied();
        replica.observe();
        Ok(replica)
    }

    /// One thing happened. Errors are the disk's or an entry's that this build does not know: the
    /// replica stops.
    pub fn handle(&mut self, input: Input, now: Now) -> Result<(), StorageError> {
        self.now = now;
        match input {
            Input::Tick => self.on_tick(),
            Input::Peer(message) => self.on_peer(message)?,
            Input::LinkUp(peer) => {
                self.linked.insert(peer);
                self.node.on_link_up(now, peer);
            }
            Input::LinkDown { peer, refused } => {
                self.linked.remove(&peer);
                self.node.on_link_down(now, peer, refused);
                self.writes.give_up_forwards(|to| to != peer);
            }
            Input::DiskDone(done) => self.on_disk_done(done)?,
            Input::Write(ticket, command) => self.on_write(ticket, command),
            Input::Read(ticket, query, consistency) => {
                self.on_read(Asker::Client(ticket), query, consistency)?;
            }
            Input::DiskSpace(free) => self.on_disk_space(free),
            Input::TokensUsed(tokens) => self.tokens.used(tokens, now.mono),
            Input::ShutDown => self.on_shut_down(),
        }
        Ok(())
    }

    /// The first half of [`Replica::take_output`], for a caller that passes on at once what others wait
    /// for: entries that were proposed or accepted go to the disk and to the peers before what is committed
    /// is applied. `None`: there is nothing of that kind to hurry with. The other half must follow before
    /// any input.
    pub fn take_first(&mut self) -> Result<Option<Output>, StorageError> {
        let ready = self.look_at_core()?;
        let notice =
            |message: &Message| matches!(&message.body, Body::Append(append) if append.notice);
        let hurry = ready.job.is_some() || !ready.messages.iter().all(notice);
        let first = hurry && !ready.committed.is_empty() && ready.events.is_empty();
        let ready = self.ready.insert(ready);
        if !first {
            return Ok(None);
        }
        let messages = std::mem::take(&mut ready.messages).into_iter();
        let job = ready.job.take();
        self.output
            .messages
            .extend(messages.map(PeerMessage::Consensus));
        if let Some(job) = job {
            self.disk.set_core(job);
            self.take_job();
        }
        // Nothing else: that the state has jumped, say, is looked at after the other half.
        Ok(Some(Output {
            job: self.output.job.take(),
            messages: std::mem::take(&mut self.output.messages),
            ..Output::default()
        }))
    }

    /// The core's wishes, after what is held was proposed.
    fn look_at_core(&mut self) -> Result<Ready, StorageError> {
        if let Some((index, reason)) = self.node.found_damage() {
            return Err(StorageError::Damaged(format!("at index {index}: {reason}")));
        }
        self.node.set_disk_age(self.disk.age_us(self.now.mono));
        self.observe();
        self.propose_own()?;
        self.send_writes();
        Ok(self.node.take_ready())
    }

    /// What came of it. Take it after every input, or after a batch of inputs: what was proposed
    /// in between goes out as one batch. [`StorageError::Damaged`], here and of [`Replica::handle`]:
    /// this run ends, and the next open repairs the store.
    pub fn take_output(&mut self) -> Result<Output, StorageError> {
        let ready = match self.ready.take() {
            Some(ready) => ready,
            None => self.look_at_core()?,
        };
        let Ready {
            job,
            messages,
            committed,
            reads,
            reads_failed,
            fetches,
            snapshot_reads,
            snapshot_step,
            events,
        } = ready;
        if let Some(job) = job {
            self.disk.set_core(job);
        }
        self.disk.fetch(fetches);
        self.upkeep.read(snapshot_reads);
        if let Some(step) = snapshot_step {
            if let SnapshotStep::Begin { head, .. } = &step {
                // Not at its installation: by then the store of this build would be gone.
                check_level_of(&slice_of(head, Vec::new()), self.config.node.level)?;
            }
            self.upkeep.step(step);
        }
        let messages = messages.into_iter().map(PeerMessage::Consensus);
        self.output.messages.extend(messages);
        self.apply(&committed)?;
        self.on_events(events)?;
        for (id, index) in reads {
            self.reads.on_index(id, index);
        }
        for id in reads_failed {
            let failed = self.reads.on_failed(id);
            self.answer_unavailable(failed);
        }
        self.serve_reads()?;
        self.take_job();
        self.stop_further();
        self.collect_outcomes();
        Ok(std::mem::take(&mut self.output))
    }

    fn on_tick(&mut self) {
        let now = self.now;
        self.node.set_disk_age(self.disk.age_us(now.mono));
        self.node.tick(now);
        self.writes.tick(now.mono);
        self.give_up_late_reads();
        self.maybe_want_state();
    }

    fn on_disk_done(&mut self, done: DiskDone) -> Result<(), StorageError> {
        let finished = self.disk.on_done(&done);
        if finished.slice && !self.is_doubted() {
            self.machine.slice_written();
        }
        if let Some(head) = finished.install {
            self.jump(&head, done.size_bytes.unwrap_or_default())?;
        }
        self.node.set_disk_age(self.disk.age_us(self.now.mono));
        if let Some(job) = finished.core {
            self.node.on_persisted(self.now, job);
        }
        for (peer, entries) in done.fetched {
            if peer == self.config.node.id {
                self.catch_up(&entries)?;
            } else {
                self.node.on_fetched(self.now, peer, entries);
            }
        }
        let now = self.now;
        self.upkeep.knows_live(done.live_bytes);
        let size_bytes = done.size_bytes.unwrap_or_else(|| self.upkeep.size());
        match self.upkeep.on_done(done.extra, size_bytes, now.mono) {
            None => {}
            Some(News::Step(done)) => self.node.on_snapshot_step(now, done),
            Some(News::Head(peer, head)) => self.node.on_snapshot_head(now, peer, *head),
            Some(News::Rows(peer, chunk)) => self.node.on_snapshot_rows(now, peer, chunk),
            Some(News::Compacted(base)) => {
                // The two stores are equal at this moment: no slice was written meanwhile.
                self.reader.switch();
                self.node.on_compacted(now, base);
            }
            Some(News::Cut(base)) if Mutant::CutUntold.on() => drop(base),
            Some(News::Cut(base)) => self.node.on_compacted(now, base),
            Some(News::Rebuilt(rebuilt)) => self.on_rebuilt(&rebuilt)?,
            Some(News::Scrubbed(scrubbed)) => self.output.scrubbed = Some(scrubbed),
            Some(News::ScrubGivenUp) => self.output.scrub_given_up = true,
            Some(News::StateWrong(sentence)) => self.doubt(&sentence)?,
        }
        Ok(())
    }

    /// The store holds another replica's state: everything that was applied here is void. What
    /// waited for entries that were never applied here has no known outcome.
    fn jump(&mut self, head: &SnapshotHead, size_bytes: u64) -> Result<(), StorageError> {
        self.reader.switch();
        let slice = slice_of(head, Vec::new());
        self.machine = self.open_machine(Some(&slice))?;
        self.on_installed();
        self.upkeep.installed(size_bytes);
        self.writes.on_jump(self.machine.applied());
        self.applied_at = self.now.mono;
        self.applied_time = head.base.time;
        self.output.jumped = true;
        self.tell_applied();
        Ok(())
    }

    fn on_write(&mut self, ticket: Ticket, command: Command) {
        if self.stopping.is_some() {
            let refused = (ticket, Err(WriteError::ShuttingDown));
            self.output.written.push(refused);
            return;
        }
        self.writes
            .accept(Origin::Client(ticket), command, self.now.mono);
    }

    fn open_machine(&self, slice: Option<&Slice>) -> Result<StateMachine, StorageError> {
        let mut machine = StateMachine::open_knowing(slice, self.config.node.level)?;
        machine.keep_digests_every(self.config.digest_every);
        Ok(machine)
    }

    fn on_shut_down(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(Stopping::new(self.now.mono));
        self.disk.thaw();
        // Alone, there is nobody to hand over to, and what is proposed must still be committed.
        if self.config.node.ids.len() > 1 {
            self.node.hand_over(self.now);
        }
    }

    /// Looks at the core, and draws what follows from a change of primary.
    fn observe(&mut self) {
        let seen = self.node.glance();
        let primary = seen.primary;
        self.role = seen.role;
        self.serving = seen.serving && seen.role == Role::Primary;
        if self.primary != primary {
            self.primary = primary;
            self.writes.give_up_forwards(|to| Some(to) == primary);
        }
    }

    /// Proposes what is held, or gives it to the primary; without one it waits.
    fn send_writes(&mut self) {
        let me = self.config.node.id;
        if self.serving {
            if self.node.refuses_for_space() {
                self.writes.refuse_for_space();
            }
            let batch = self.writes.batch();
            if batch.is_empty() {
                return;
            }
            // Refused: stays held, and goes to whoever is primary next.
            let proposed = self.node.propose(self.now, &batch);
            self.refused = proposed.is_err();
            if let Ok(first) = proposed {
                let term = self.node.glance().term;
                if self.writes.on_proposed(batch.len(), term, first) {
                    self.node.note_awaited_elsewhere();
                }
            }
        } else if let Some(primary) = self.primary
            && primary != me
            && self.linked.contains(&primary)
        {
            self.writes.forward(primary, self.now.mono);
        }
    }

    /// What is committed while the state is doubted is applied later: see `doubt`.
    fn apply(&mut self, committed: &[Entry]) -> Result<(), StorageError> {
        if self.is_doubted() || self.node.is_quarantined() {
            return Ok(());
        }
        self.apply_in_order(committed)
    }

    fn apply_in_order(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        let Some(last) = entries.last() else {
            return Ok(());
        };
        for entry in entries {
            let applied = self.machine.apply(&self.reader, entry);
            let Some(applied) = self.sound(applied)? else {
                return Ok(());
            };
            assert_eq!(
                self.machine.applied(),
                entry.index(),
                "entries are applied in order, each once"
            );
            self.output.notices.extend(applied.notices);
            self.writes.on_applied(entry.stamp(), applied.reply);
        }
        self.applied_at = self.now.mono;
        self.applied_time = last.time();
        let record = CommitRecord {
            stamp: last.stamp(),
            hash: last.hash(),
            digest: self.machine.digest(),
            time: last.time(),
        };
        self.disk.record(record, self.now.mono);
        let readmits = |entry: &&Entry| entry.kind() == Kind::ReplaceIncarnation;
        if let Some(readmission) = entries.iter().rev().find(readmits) {
            self.disk.hurry(readmission.index());
        }
        self.tell_applied();
        Ok(())
    }

    fn tell_applied(&mut self) {
        let applied = (self.machine.applied(), self.machine.level());
        let digests = self.machine.digests();
        self.node.set_applied(applied, digests, self.room.is_low());
    }

    fn on_events(&mut self, events: Vec<Event>) -> Result<(), StorageError> {
        self.look_at_repair(&events);
        if events.is_empty() {
            return Ok(());
        }
        if events
            .iter()
            .any(|event| matches!(event, Event::StateDoubted { .. }))
        {
            self.upkeep.doubted_by_peer(self.now.mono);
        }
        self.output.events.extend(events);
        self.observe();
        self.stop_applying()?;
        if !self.may_serve() {
            let refused = self.reads.give_up();
            self.answer_unavailable(refused);
        }
        Ok(())
    }

    /// How far the trees are behind the log, in entries or what counts as so many.
    fn load(&self, lag: u64) -> u64 {
        let records = self.machine.unwritten_records() as u64 / UNWRITTEN_RECORDS_PER_ENTRY;
        let bytes = self.machine.unwritten_bytes() / UNWRITTEN_BYTES_PER_ENTRY;
        lag.max(records).max(bytes)
    }

    fn take_job(&mut self) {
        if self.disk.is_busy() {
            return;
        }
        let (applied, now) = (self.machine.applied(), self.now.mono);
        let lag = applied.0.saturating_sub(self.disk.checkpoint().0);
        let (load, load_max) = (self.load(lag), self.config.checkpoint_entries_max);
        let idle = lag > 0 && now.since(self.applied_at) >= IDLE_US;
        let last = self.stopping.as_ref().is_some_and(Stopping::is_last_stage);
        let wanted = self.upkeep.wants_checkpoint(self.disk.checkpoint());
        let idles = self.stopping.is_some() || self.node.is_receiving();
        let rests = idles || !self.may_serve() && !self.is_doubted();
        let ids = &self.config.node.ids;
        let own = is_own_stretch(applied, (self.config.node.id, ids), load_max);
        let pace = pace(load, load_max, own);
        let policy = Policy {
            record_after_us: self.config.node.refresh_interval_us,
            slices_in_turn: pace.slices_in_turn,
            beside: pace.beside,
            force: load > load_max || (idle || wanted) && !self.disk.is_exhausted() || last,
            hold: self.is_doubted(),
        };
        let checkpoint = self.disk.checkpoint_slice().cloned();
        let sight = Sight {
            now,
            checkpoint: checkpoint.as_ref(),
            base: self.node.base(),
            behind: self.node.lowest_match(),
            rebuilding: (self.standing == Standing::Doubted).then(|| super::upkeep::Rebuilding {
                alone: self.config.node.ids.len() == 1,
                delivered: self.node.delivered().min(self.node.durable()),
                frozen: self.disk.is_frozen(),
                digest_every: self.config.digest_every,
            }),
            log_time: self.log_time(),
            rests,
            written: self.node.delivered(),
            low: self.room.is_low(),
            fits: self.room.fits(self.upkeep.copy_bytes()),
        };
        let machine = &mut self.machine;
        let mut next_slice = |recorded, force| machine.next_slice(recorded, force);
        let upkeep = &mut self.upkeep;
        let mut next_extra = || upkeep.next(sight);
        let job = self
            .disk
            .next_job(policy, now, &mut next_slice, &mut next_extra);
        self.output.job = job;
    }

    /// A step towards the end, if the replica is stopping.
    fn stop_further(&mut self) {
        let Some(stopping) = &mut self.stopping else {
            return;
        };
        let me = self.config.node.id;
        let alone = self.config.node.ids.len() == 1;
        let given = alone || self.role != Role::Primary;
        let taken = alone || self.primary.is_some_and(|primary| primary != me);
        let stage = Stage {
            role_given: given,
            role_taken: taken,
            writes: self.writes.len(),
            disk_idle: self.disk.is_idle() && self.output.job.is_none(),
            checkpointed: self.disk.is_exhausted()
                || self.disk.checkpoint() >= self.machine.applied(),
        };
        let was_last = stopping.is_last_stage();
        stopping.advance(stage, self.now.mono);
        self.output.shut_down = stopping.is_done();
        if stopping.is_last_stage() && !was_last {
            self.writes.give_up();
            let refused = self.reads.give_up();
            self.answer_unavailable(refused);
        }
    }

    fn collect_outcomes(&mut self) {
        let outcomes = self.writes.take_outcomes();
        self.output.written.extend(outcomes.written);
        self.output.messages.extend(outcomes.messages);
        self.tokens.failed(&outcomes.not_extended);
    }
}
