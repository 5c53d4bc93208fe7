//! One replica: the shipped node, its disk, the job that is out, and what the checks remember.

use crate::checks::Broken;
use crate::options::{REPLICAS, Tick, config, id_of};
use chat::consensus::{
    AppendReply, Body, Driver, Event, FormationStatus, HardState, Job, Message, Node, Now, Ready,
    Repair, Start,
};
use chat::types::entry::{Entry, Kind};
use chat::types::{
    Base, ClusterId, Hash, Incarnation, Index, Members, Monotonic, ReplicaId, RunNonce, Stamp,
    Term, WallTime,
};
use std::collections::BTreeMap;
use std::hash::{Hash as _, Hasher};

/// What survives a crash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Disk {
    /// Fsynced promises.
    pub hard: HardState,
    /// Written after them and not fsynced: a crash may keep or lose it.
    pub lazy: Option<HardState>,
    /// The log, all of it durable.
    pub log: Vec<Entry>,
}

/// Something that happens to one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Its clock moves.
    Tick(Tick),
    /// A message arrives.
    Deliver(u32),
    /// The job that is out is done and durable.
    Persist,
    /// A client's command, if it serves as primary.
    Propose,
    /// The connection to this place opens, to that process run.
    LinkUp(usize, u8),
    /// It closes.
    LinkDown(usize),
    /// The process dies and starts again; which of the unsynced writes are there.
    Crash(Loss),
}

/// What a crash leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Loss {
    /// Steps of the job that is out that were done: none, the first, two, all three.
    pub steps: u8,
    /// The lazily written promises are there.
    pub lazy: bool,
    /// A commit record of all that was known is there.
    pub record: bool,
}

impl Loss {
    /// All that a crash may leave, with a job out or without.
    pub fn all(with_job: bool) -> impl Iterator<Item = Self> {
        let last = if with_job { 3 } else { 0 };
        (0..=last).flat_map(|steps| {
            (0..4).map(move |kept| Self {
                steps,
                lazy: kept & 1 != 0,
                record: kept & 2 != 0,
            })
        })
    }
}

/// What an input brings about besides the replica's next state.
#[derive(Default)]
pub struct Output {
    pub messages: Vec<Message>,
    pub events: Vec<Event>,
}

/// See the module.
#[derive(Clone)]
pub struct Replica {
    pub node: Node,
    pub clock: u64,
    pub disk: Disk,
    pub job: Option<Job>,
    /// Which process run this is, from 1.
    pub run: u8,
    /// The process run of each other replica at the last connection of this run; 0: none.
    pub met: [u8; REPLICAS],
    /// To whom a grant was made durable or sent in the term that is on the disk, in all runs. One of
    /// an earlier term would break another check: it leaves before it is durable.
    pub granted: Option<(Term, ReplicaId)>,
    /// Terms in which it became primary, a bit each, in all runs.
    pub led: u32,
    /// The check that failed here.
    pub broken: Option<Broken>,
}

impl Replica {
    /// A process starts on this disk.
    pub fn start(disk: Disk, run: u8, commit: Index) -> Self {
        let id = disk.hard.id;
        let broken = recovery_refuses(&disk);
        let clock = 1_000;
        let mut node = Node::new(Start {
            config: config(id),
            hard_state: disk.hard.clone(),
            members: Members::new(),
            base: Base::default(),
            term_runs: term_runs(&disk.log),
            last: last_of(&disk.log),
            tail: disk.log.clone(),
            tail_previous_hash: Hash::default(),
            commit,
            applied: Index(0),
            level: chat::types::LEVEL,
            damage: None,
            run: RunNonce(u64::from(id.0) * 100 + u64::from(run)),
            seed: u64::from(run),
            now: now_at(clock),
        });
        let ready = node.take_ready();
        let mut replica = Self {
            node,
            clock,
            disk,
            job: None,
            run,
            met: [0; REPLICAS],
            granted: None,
            led: 0,
            broken,
        };
        let mut output = Output::default();
        replica.absorb(ready, &mut output);
        assert!(output.messages.is_empty(), "nobody is connected yet");
        replica
    }

    /// One input; `choice` is the election value that is drawn, if one is.
    pub fn apply(&mut self, input: &Input, message: Option<&Message>, choice: u8) -> Output {
        let mut output = Output::default();
        if let Input::Crash(loss) = input {
            self.crash(*loss);
            return output;
        }
        if let Input::Tick(tick) = input {
            self.clock += tick.us();
        }
        let now = now_at(self.clock);
        let seed = seed_of(self.disk.hard.id, self.run, choice);
        self.node.reseed(seed);
        match input {
            Input::Tick(_) => self.node.tick(now),
            Input::Deliver(_) => {
                let message = message.expect("a delivery has its message").clone();
                self.node.step(now, message);
            }
            Input::Persist => {
                let job = self.job.take().expect("only a job that is out is done");
                let id = job.id;
                self.write(job, 3);
                self.node.on_persisted(now, id);
            }
            Input::Propose => {
                // Names its proposer: two primaries of one term would write different entries.
                let payload = vec![self.disk.hard.id.0 as u8];
                let done = self.node.propose(now, &[(Kind::Command, payload)]);
                done.expect("it serves");
            }
            Input::LinkUp(place, run) => {
                self.met[*place] = *run;
                self.node.on_link_up(now, id_of(*place));
            }
            Input::LinkDown(place) => {
                self.met[*place] = 0;
                self.node.on_link_down(now, id_of(*place), false);
            }
            Input::Crash(_) => {}
        }
        let ready = self.node.take_ready();
        self.absorb(ready, &mut output);
        output
    }

    fn absorb(&mut self, ready: Ready, output: &mut Output) {
        let asks_store = !ready.fetches.is_empty()
            || !ready.snapshot_reads.is_empty()
            || ready.snapshot_step.is_some();
        assert!(!asks_store, "the whole log is in memory");
        for event in &ready.events {
            self.note_event(event);
        }
        for message in &ready.messages {
            self.check_message(message);
        }
        if let Some(job) = ready.job {
            assert!(self.job.is_none(), "one job at a time");
            self.job = Some(*job);
        }
        output.messages = ready.messages;
        output.events = ready.events;
    }

    fn note_event(&mut self, event: &Event) {
        match event {
            Event::BecamePrimary(term) => {
                let bit = 1 << term.0;
                if self.led & bit != 0 {
                    self.breaks(Broken::PrimaryAgain);
                }
                self.led |= bit;
            }
            Event::Damaged { .. } | Event::CannotRepair { .. } => {
                self.breaks(Broken::SoundLogDamaged);
            }
            Event::LostMemory { .. } => self.breaks(Broken::SoundMemoryLost),
            Event::Refused { kind, .. } if !kind.is_ordinary() => {
                self.breaks(Broken::PeerRefused);
            }
            _ => {}
        }
    }

    /// Nothing leaves before what it promises is durable.
    fn check_message(&mut self, message: &Message) {
        let hard = &self.disk.hard;
        let hello = matches!(message.body, Body::Hello(_));
        if message.term > hard.term && !hello {
            self.breaks(Broken::SentBeforeDurable);
            return;
        }
        let durable = last_of(&self.disk.log);
        match &message.body {
            Body::Grant { .. } => {
                if hard.term != message.term || hard.granted_to != Some(message.to) {
                    self.breaks(Broken::SentBeforeDurable);
                }
                self.note_grant(message.term, message.to);
            }
            Body::Ballot(ballot) if ballot.last != durable => {
                self.breaks(Broken::SentBeforeDurable);
            }
            Body::AppendReply(AppendReply::Match { index, .. }) if *index > durable.index => {
                self.breaks(Broken::AcknowledgedBeforeDurable);
            }
            _ => {}
        }
    }

    fn note_grant(&mut self, term: Term, to: ReplicaId) {
        if let Some((before, other)) = self.granted
            && before == term
            && other != to
        {
            self.breaks(Broken::TwoGrants);
        }
        self.granted = Some((term, to));
    }

    fn breaks(&mut self, check: Broken) {
        self.broken.get_or_insert(check);
    }

    /// The first so many steps of a job, in their order.
    fn write(&mut self, job: Job, steps: u8) {
        if steps >= 1
            && let Some(hard) = job.hard_state_before
        {
            self.write_hard(hard, true);
        }
        if steps >= 2 {
            assert!(job.install.is_none(), "no snapshots in the model");
            if let Some(after) = job.truncate_after {
                self.disk.log.truncate(after.0 as usize);
            }
            self.disk.log.extend(job.append);
        }
        if steps >= 3
            && let Some(hard) = job.hard_state_after
        {
            self.write_hard(hard, job.sync_hard_state);
        }
    }

    fn write_hard(&mut self, hard: HardState, sync: bool) {
        if hard.term < self.disk.hard.term {
            self.breaks(Broken::TermFell);
        }
        let before = &self.disk.hard;
        if !sync {
            let promises = (before.term, before.granted_to, &before.formation);
            let same = promises == (hard.term, hard.granted_to, &hard.formation);
            assert!(same, "a lazy write changes no promise");
            self.disk.lazy = (hard != *before).then_some(hard);
            return;
        }
        self.granted = self.granted.filter(|(term, _)| *term == hard.term);
        if let Some(to) = hard.granted_to {
            self.note_grant(hard.term, to);
        }
        self.disk.hard = hard;
        self.disk.lazy = None;
    }

    fn crash(&mut self, loss: Loss) {
        let known = self.node.commit_index();
        if let Some(job) = self.job.take() {
            self.write(job, loss.steps);
        }
        let lazy = self.disk.lazy.take();
        if let (true, Some(hard)) = (loss.lazy, lazy) {
            self.disk.hard = hard;
        }
        let durable = last_of(&self.disk.log).index;
        // The record of a commit rides with a later write: none of them may be there, or all.
        let commit = if loss.record {
            known.min(durable)
        } else {
            Index(0)
        };
        let (granted, led) = (self.granted, self.led);
        let broken = self.broken;
        *self = Self::start(self.disk.clone(), self.run + 1, commit);
        (self.granted, self.led) = (granted, led);
        self.broken = broken.or(self.broken);
    }

    /// All that decides what this replica does and what is checked of it, as bytes.
    pub fn view(&self, driver: Driver, into: &mut Bytes) {
        self.node.view(driver, into);
        self.disk.hash(into);
        self.job.is_some().hash(into);
        if let Some(job) = &self.job {
            // Its number rises for ever and means nothing: at most one is out.
            let id = Default::default();
            Job { id, ..job.clone() }.hash(into);
        }
        (self.run, self.met, self.granted, self.led).hash(into);
        self.broken.hash(into);
    }
}

/// What `storage::recovery` would call damage.
fn recovery_refuses(disk: &Disk) -> Option<Broken> {
    (last_of(&disk.log) < disk.hard.mark).then_some(Broken::SoundLogDamaged)
}

/// The wall clocks stand at their last moment: times saturate, and entries differ in nothing but
/// what they are.
fn now_at(clock: u64) -> Now {
    Now {
        mono: Monotonic(clock),
        wall: WallTime(u64::MAX),
    }
}

fn last_of(log: &[Entry]) -> Stamp {
    log.last().map_or(Stamp::ZERO, Entry::stamp)
}

fn term_runs(log: &[Entry]) -> Vec<(Index, Term)> {
    let mut runs: Vec<(Index, Term)> = Vec::new();
    for entry in log {
        let term = entry.stamp().term;
        if runs.last().is_none_or(|(_, last)| *last != term) {
            runs.push((entry.index(), term));
        }
    }
    runs
}

/// Different for each run of each replica, so that nonces are; the second number drawn, the
/// election value, is low for choice 0 and high for choice 1.
fn seed_of(id: ReplicaId, run: u8, choice: u8) -> u64 {
    let base = (u64::from(id.0) << 32) | (u64::from(run) << 24);
    (base..base + 64)
        .find(|seed| second_draw_is_high(*seed) == (choice == 1))
        .expect("half of all seeds are")
}

/// As the node's generator draws: SplitMix64.
fn second_draw_is_high(seed: u64) -> bool {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(2));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)) >> 63 == 1
}

/// The disk of a founding member: entry 1, and entries of these terms after it.
pub fn disk_of(id: ReplicaId, term: Term, terms_of_log: &[u64]) -> Disk {
    let members: Members = (0..REPLICAS)
        .map(|place| (id_of(place), Incarnation([place as u8 + 1; 16])))
        .collect();
    let mut log = vec![Entry::formation(&members)];
    for term in terms_of_log {
        let previous = log.last().map_or_else(Hash::default, Entry::hash);
        let stamp = Stamp::new(Term(*term), Index(log.len() as u64 + 1));
        let time = WallTime(u64::MAX);
        log.push(Entry::seal(stamp, time, previous, Kind::TermStart, &[]));
    }
    let hard = HardState {
        id,
        incarnation: members[&id],
        formation: FormationStatus::Formed(members.clone()),
        cluster: Some(ClusterId::of_members(&members)),
        term,
        granted_to: None,
        term_accepted: last_of(&log).term,
        mark: last_of(&log),
        others_marks: BTreeMap::new(),
        repair: Repair::No,
        given_up: Term(0),
        quarantined: false,
        others_lives: BTreeMap::new(),
        others_as_of: Index(0),
    };
    let lazy = None;
    Disk { hard, lazy, log }
}

/// A hasher that keeps what it is fed with.
#[derive(Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn finish(&self) -> u64 {
        unreachable!("the bytes themselves are wanted")
    }
}
