//! The node: its state, its public methods, and what all parts share.

use super::adoption::{Adoption, CopyService};
use super::clocks::Clocks;
use super::election::{Contest, Missing};
use super::jobs::Jobs;
use super::level::Levels;
use super::log::Log;
use super::membership::Membership;
use super::primary::PrimaryState;
use super::reads::Reads;
use super::refusing::Questions;
use super::rng::SplitMix;
use super::{
    Body, Config, Event, FormationStatus, HardState, Hello, JobId, Mutant, NotPrimary, Now, ReadId,
    Ready, Repair, Start,
};
use crate::limits::{UNCOMMITTED_BYTES_MAX, UNDURABLE_BYTES_MAX};
use crate::types::entry::{Entry, Kind};
use crate::types::refusals::Refusals;
use crate::types::{
    Base, ClusterId, Hash, Incarnation, Index, Monotonic, ReplicaId, RunNonce, Stamp, Term,
};
use std::collections::BTreeMap;

/// What is known of another replica.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// A connection to it is open.
    pub(super) link: bool,
    /// The last connection closed, and a new one was refused: its process is gone.
    pub(super) refused: bool,
    /// Its process run, from its `Hello`.
    pub(super) run: Option<RunNonce>,
    pub(super) incarnation: Option<Incarnation>,
    pub(super) hello: Option<Hello>,
    /// When a message of it last arrived in the present term.
    pub(super) heard: Option<Monotonic>,
    /// Its progress counter, and when that last rose.
    pub(super) progress: u64,
    pub(super) progressed: Option<Monotonic>,
    /// Its last durable stamp, as it last said.
    pub(super) last: Stamp,
    pub(super) hello_sent: Option<Monotonic>,
    /// It has seen this process run, and remembers nothing of this replica that is not here.
    pub(super) vouches: bool,
    /// Why nothing that it says is believed; until it says something else, or is gone.
    pub(super) refused_for: Option<String>,
    /// Its disk is nearly full, as it last said.
    pub(super) disk_low: bool,
    /// Digests of its state, as it last said in this run.
    pub(super) digests: Vec<(Index, Hash)>,
    /// Its state is doubted, as it last said.
    pub(super) quarantined: bool,
}

/// The core of one replica. Every method that takes `now` may fill the next [`Ready`]; take it
/// after each call (or after several).
///
/// Invariants: `delivered <= commit <= last`, and on a secondary `commit <= durable` (one that was
/// primary may have committed what its own disk writes only now); at most one job is out; a message whose
/// term is not durable waits in `jobs`.
#[derive(Clone)]
pub struct Node {
    pub(super) config: Config,
    pub(super) run: RunNonce,
    pub(super) rng: SplitMix,
    pub(super) now: Now,
    /// As it will be once every job is done.
    pub(super) hard: HardState,
    /// The term was reached in this process run: only then may it be balloted in.
    pub(super) reached: bool,
    pub(super) log: Log,
    pub(super) jobs: Jobs,
    pub(super) commit: Index,
    pub(super) delivered: Index,
    pub(super) membership: Membership,
    pub(super) levels: Levels,
    pub(super) peers: BTreeMap<ReplicaId, Peer>,
    /// Whom this replica follows in `hard.term`; itself if primary.
    pub(super) primary: Option<ReplicaId>,
    /// When the primary last showed progress.
    pub(super) primary_seen: Monotonic,
    /// Our log is known to agree with the primary of this term up to here.
    pub(super) verified: Index,
    /// What that primary has committed.
    pub(super) commit_known: Index,
    pub(super) acked: Index,
    pub(super) ack_due: bool,
    pub(super) leading: Option<PrimaryState>,
    /// Hard limit on a stuck disk or proposal; doubles with each step-down for it.
    pub(super) stuck_limit_us: u64,
    pub(super) contest: Option<Contest>,
    /// The last term in which a contest was opened: one ballot a term.
    pub(super) contested: Option<Term>,
    /// Contests in a row that no primary came of: each doubles the grant timeout.
    pub(super) lost_rounds: u32,
    pub(super) missing: Option<Missing>,
    /// Asks that wait for this replica to miss the primary itself.
    pub(super) asks: BTreeMap<ReplicaId, (u64, Stamp, Monotonic)>,
    /// After a contest without a winner, or a refused one: no asking before this.
    pub(super) ask_after: Monotonic,
    pub(super) retiring_until: Option<Monotonic>,
    pub(super) boot_until: Option<Monotonic>,
    pub(super) may_adopt: bool,
    pub(super) adoption: Option<Adoption>,
    /// An adopted copy is being installed by this job: no part is taken.
    pub(super) installing: Option<JobId>,
    pub(super) copies: BTreeMap<ReplicaId, CopyService>,
    pub(super) reads: Reads,
    /// A primary's state on its way into the next store.
    pub(super) receiving: Option<super::snapshot::Receiving>,
    /// A step of building the next store is out.
    pub(super) snapshot_step_out: bool,
    /// Where the repair ends: index, and the term of the primary that named it.
    pub(super) repair_target: Option<(Term, Index)>,
    /// The question to the others about what this replica cannot read.
    pub(super) poll: Option<super::poll::Poll>,
    /// The last entry that was there before anything of this process run's. `None`: the present life
    /// began in this run, which has forgotten nothing.
    pub(super) began_with: Option<Stamp>,
    /// Nothing can repair this replica: what was told last about that.
    pub(super) halt: Option<Event>,
    pub(super) damage: Option<(Index, String)>,
    /// The job after which damage that was found in this run is written down.
    pub(super) damage_noted: Option<JobId>,
    pub(super) applied: Index,
    pub(super) comparison: super::digests::Comparison,
    pub(super) disk_low: bool,
    pub(super) clocks: Clocks,
    /// The last copy that was adopted in this run, and from whom.
    pub(super) adopted: Option<(ReplicaId, Stamp)>,
    pub(super) disk_age_us: u64,
    pub(super) progress: u64,
    pub(super) refresh_at: Monotonic,
    pub(super) waiting_told: Option<Monotonic>,
    pub(super) refusals: Refusals,
    pub(super) questions: Questions,
    pub(super) ready: Ready,
}

impl Node {
    /// Starts from what recovery found.
    pub fn new(start: Start) -> Self {
        let Start { config, now, .. } = start.clone();
        let (log, commit) = log_of(&start);
        let (mut hard_state, applied) = (start.hard_state, start.applied);
        let (term, mark) = (hard_state.term, hard_state.mark);
        let jobs = Jobs::new(term, mark, config.ids.len() == 1);
        let raised = raise_to_log(&mut hard_state, log.last().term);
        let mut rng = SplitMix::new(start.seed);
        let mut node = Self {
            run: start.run,
            reads: Reads::new(rng.next()),
            rng,
            now,
            jobs,
            comparison: super::digests::Comparison::at_start(&hard_state, applied),
            hard: hard_state,
            reached: raised || Mutant::ReballotAfterRestart.on(),
            commit: commit.max(applied),
            delivered: applied,
            membership: Membership::new(start.members, &config.ids),
            levels: Levels::new(start.level),
            peers: peers_of(&config),
            primary: None,
            primary_seen: now.mono,
            verified: Index(0),
            commit_known: Index(0),
            acked: Index(0),
            ack_due: false,
            leading: None,
            stuck_limit_us: config.election_timeout_us() * 4,
            contest: None,
            contested: None,
            lost_rounds: 0,
            missing: None,
            asks: BTreeMap::new(),
            ask_after: now.mono,
            retiring_until: None,
            boot_until: Some(now.mono.plus(config.initialize_wait_us)),
            may_adopt: true,
            adoption: None,
            installing: None,
            copies: BTreeMap::new(),
            receiving: None,
            snapshot_step_out: false,
            repair_target: None,
            poll: None,
            halt: None,
            began_with: Some(log.last()),
            damage: start.damage,
            damage_noted: None,
            applied,
            disk_low: false,
            clocks: Clocks::default(),
            adopted: None,
            disk_age_us: 0,
            progress: 0,
            refresh_at: now.mono,
            waiting_told: None,
            refusals: Refusals::default(),
            questions: Questions::default(),
            ready: Ready::default(),
            log,
            config,
        };
        node.recover(raised);
        node
    }

    /// The part of the start that may already want something done.
    fn recover(&mut self, raised: bool) {
        assert_eq!(
            self.hard.id, self.config.id,
            "the caller checked whose directory it is"
        );
        if self.damage.is_some() {
            return;
        }
        assert!(
            self.commit <= self.log.last().index,
            "recovery calls this damage"
        );
        if Mutant::KeepOnlyCommitted.on() && self.commit > Index(0) {
            self.truncate(self.commit, Term(0));
        }
        let mut index = self.delivered.next();
        while index <= self.log.last().index {
            let entry = self
                .log
                .entry_at(index)
                .expect("the tail reaches below")
                .clone();
            self.membership.on_append(&entry);
            self.levels.on_append(&entry);
            self.note_formation(&entry);
            index = index.next();
        }
        if self.hard.cluster.is_some() && self.log.last() >= Stamp::FORMATION {
            self.commit = self.commit.max(Index(1));
        }
        let founders = self.log.base().founders.clone();
        if !self.is_formed() && !founders.is_empty() {
            // A snapshot was installed, and a crash came before the promises that go with it.
            self.hard.cluster = Some(ClusterId::of_members(&founders));
            self.hard.formation = FormationStatus::Formed(founders);
            self.jobs.want_formation();
        }
        if raised {
            self.jobs.want_hard_state(true);
        }
        // Membership first: what follows asks whether this replica is admitted.
        self.deliver();
    }

    /// Time passes. Call at least every 5 ms.
    pub fn tick(&mut self, now: Now) {
        self.now = now;
        if self.disk_age_us < self.config.election_timeout_us() {
            self.progress += 1;
        }
        self.tick_boot();
        self.tick_formation();
        self.tick_adoption();
        self.tick_election();
        self.tick_primary();
        self.tick_room();
        self.tick_digests();
        self.tick_reads();
        self.tick_snapshot();
        self.tick_repair();
        self.tick_poll();
        if now.mono >= self.refresh_at {
            self.refresh_at = now.mono.plus(self.config.refresh_interval_us);
            self.send_refreshes();
        }
        self.jobs.maybe_sync_mark(now.mono);
    }

    /// The age in microseconds of the disk job that is out (0 if none). Call before each tick: a
    /// hanging disk stops the progress that the others see.
    pub fn set_disk_age(&mut self, age_us: u64) {
        self.disk_age_us = age_us;
    }

    /// A connection to `peer` is open.
    pub fn on_link_up(&mut self, now: Now, peer: ReplicaId) {
        self.now = now;
        let Some(known) = self.peers.get_mut(&peer) else {
            return;
        };
        known.link = true;
        known.refused = false;
        known.hello_sent = None;
        self.send_hello(peer);
        if let Some(leading) = &mut self.leading {
            leading.on_link_up(peer, self.log.last().index);
        }
    }

    /// The connection to `peer` closed; `refused`: and nobody listens there any more.
    pub fn on_link_down(&mut self, now: Now, peer: ReplicaId, refused: bool) {
        self.now = now;
        let Some(known) = self.peers.get_mut(&peer) else {
            return;
        };
        known.link = false;
        known.refused = refused;
        known.refused_for = None;
        if refused {
            self.tick_election();
        }
    }

    /// Every step of this job is done and durable.
    pub fn on_persisted(&mut self, now: Now, job: JobId) {
        self.now = now;
        let done = self.jobs.on_done(job);
        self.log.set_durable(
            done.last
                .max(self.log.durable().index)
                .min(self.log.last().index),
        );
        if self.installing.is_some_and(|installing| installing <= job) {
            self.installing = None;
            self.after_installation();
            self.maybe_win();
        }
        let messages = self.jobs.released();
        self.ready.messages.extend(messages);
        if Mutant::AckAfterGrant.on()
            && let Some((term, primary, index)) = done.ack
            && term < self.hard.term
        {
            let counting = true;
            let body = Body::AppendReply(super::AppendReply::Match { index, counting });
            self.send_in_term(primary, term, body);
        }
        self.after_persisted_formation();
        self.after_persisted_election();
        self.advance_followed_commit();
        self.maybe_end_repair();
        self.maybe_acknowledge();
        if let Some(leading) = &mut self.leading {
            leading.own_moved = now.mono;
        }
    }

    /// What to do next. Empty most of the time.
    pub fn take_ready(&mut self) -> Ready {
        self.maybe_commit();
        self.send_appends();
        self.deliver();
        self.jobs.ack = match self.primary {
            Some(primary) if self.leading.is_none() => {
                Some((self.hard.term, primary, self.verified))
            }
            _ => None,
        };
        let log_last = self.log.last().index;
        self.ready.job = self.jobs.take(&self.hard, log_last, self.now.mono);
        std::mem::take(&mut self.ready)
    }

    fn deliver(&mut self) {
        while self.delivered < self.commit {
            let index = self.delivered.next();
            let entry = self
                .log
                .entry_at(index)
                .expect("what is not delivered is in memory");
            let entry = entry.clone();
            let replaced = self.membership.on_commit(&entry);
            if let Some((id, incarnation)) = replaced {
                self.forget_lives_before(index, Some(id));
                self.forget_life_before(id, incarnation);
                self.event(Event::Readmitted(id, incarnation));
            }
            if let Some(level) = self.levels.on_commit(&entry) {
                self.event(Event::LevelRaised(level));
            }
            self.note_delivered(entry.payload().len());
            self.delivered = index;
            self.ready.committed.push(entry);
        }
        self.log.trim(self.delivered);
    }

    /// What is known of a readmitted replica's life before is void: a hello that was late may be
    /// the last that was heard of it.
    fn forget_life_before(&mut self, id: ReplicaId, incarnation: Incarnation) {
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.incarnation != Some(incarnation)
        {
            (peer.run, peer.incarnation, peer.hello) = (None, None, None);
        }
    }

    /// How far the log is durable.
    pub fn durable(&self) -> Index {
        self.log.durable().index
    }

    /// The promises as they will be once every job is done.
    pub fn hard_state(&self) -> &HardState {
        &self.hard
    }

    pub(super) fn event(&mut self, event: Event) {
        self.ready.events.push(event);
    }

    /// Drops entries above `after` for another log, that of a primary of `term` or one that ends in
    /// `term`. LEGAL only on a proven conflict with a current-term primary or an adoption under all
    /// its conditions. The mark is lowered, and `term` written down, durably, BEFORE.
    pub(super) fn truncate(&mut self, after: Index, term: Term) {
        assert!(after >= self.commit, "a committed entry never goes");
        assert!(
            self.leading.is_none(),
            "a primary never rewrites its own log"
        );
        self.give_up_before(term);
        self.log.truncate(after);
        // In a repair the mark is not of this log, and stays a lower bound of what was lost.
        if self.hard.mark.index > after && self.hard.repair == Repair::No {
            self.hard.mark = self.log.last();
        }
        self.membership.on_truncate(after);
        self.levels.on_truncate(after);
        self.jobs.truncate(self.log.last());
        self.verified = self.verified.min(after);
        self.acked = self.acked.min(after);
        self.event(Event::Truncated { after });
    }

    /// Adds one entry to the log and to the next job.
    pub(super) fn append(&mut self, entry: Entry) {
        self.membership.on_append(&entry);
        self.levels.on_append(&entry);
        self.note_formation(&entry);
        self.log.append(entry.clone());
        self.hard.mark = self.hard.mark.max(entry.stamp());
        self.jobs.append(entry);
    }

    fn note_formation(&mut self, entry: &Entry) {
        if let Some(formation) = entry.as_formation()
            && !self.is_formed()
        {
            self.hard.cluster = Some(ClusterId::of_members(&formation.members));
            self.hard.formation = FormationStatus::Formed(formation.members);
            self.jobs.want_formation();
        }
    }

    /// Damage that was found in this run and is written down: the store is to be opened again, and
    /// that begins the repair.
    pub fn found_damage(&self) -> Option<(Index, &str)> {
        let noted = self.damage_noted.is_some_and(|job| self.jobs.is_done(job));
        let (index, reason) = self.damage.as_ref().filter(|_| noted)?;
        Some((*index, reason))
    }

    /// A log that contradicts what was committed: takes no part from now on, and begins to repair
    /// itself as soon as that is written down.
    pub(super) fn become_damaged(&mut self, index: Index, reason: String) {
        if self.damage.is_none() {
            self.step_down("its log is damaged");
            self.contest = None;
            self.damage = Some((index, reason.clone()));
            self.note_damage();
            self.event(Event::Damaged { index, reason });
            let peers: Vec<ReplicaId> = self.peers.keys().copied().collect();
            for peer in peers {
                self.send_hello(peer);
            }
        }
    }

    /// Proposes commands as one batch; returns the index of the first.
    pub fn propose(&mut self, now: Now, payloads: &[(Kind, Vec<u8>)]) -> Result<Index, NotPrimary> {
        self.now = now;
        let refused = NotPrimary {
            primary: self.primary.filter(|id| *id != self.config.id),
        };
        let Some(leading) = &mut self.leading else {
            return Err(refused);
        };
        let full = leading.uncommitted_bytes > UNCOMMITTED_BYTES_MAX
            || self.log.undurable_bytes() > UNDURABLE_BYTES_MAX;
        if !leading.serving || leading.handing_over.is_some() || full {
            return Err(refused);
        }
        leading.notices.on_batch(payloads.len(), now.mono);
        let first = self.log.last().index.next();
        for (kind, payload) in payloads {
            self.propose_entry(*kind, payload);
        }
        Ok(first)
    }

    /// Wants a linearizable read; answered in `Ready::reads` or `reads_failed`.
    pub fn read_index(&mut self, now: Now, read: ReadId) {
        self.now = now;
        self.start_read(super::reads::Reader::Local(read));
    }
}

/// The term is at least that of the last entry. Was it raised by that?
fn raise_to_log(hard_state: &mut HardState, term: Term) -> bool {
    let raised = term > hard_state.term;
    if raised {
        hard_state.term = term;
        hard_state.granted_to = None;
    }
    raised
}

/// All but this replica, nothing known of them.
fn peers_of(config: &Config) -> BTreeMap<ReplicaId, Peer> {
    let others = config.ids.iter().filter(|id| **id != config.id);
    others.map(|id| (*id, Peer::default())).collect()
}

/// The log and the commit index to start with.
fn log_of(start: &Start) -> (Log, Index) {
    if start.damage.is_some() {
        // What recovery says of a damaged log is a best effort: nothing is built on it.
        let empty = Log::begin_at(Base::default());
        return (empty, start.applied);
    }
    let (runs, tail) = (start.term_runs.clone(), start.tail.clone());
    let base = start.base.clone();
    let log = Log::new(base, runs, start.last, tail, start.tail_previous_hash);
    (log, start.commit)
}

#[cfg(test)]
impl Node {
    /// Anything to take without new input?
    pub(super) fn has_news(&self) -> bool {
        !self.ready.messages.is_empty() || self.ready.job.is_some() || self.jobs.has_work()
    }
}
