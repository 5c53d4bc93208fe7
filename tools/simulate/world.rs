//! One world: the replicas, their disks and clocks, the events to come, and the loop.
//!
//! Everything happens on one thread, in virtual microseconds, from one seed: the same seed and
//! options give the same run. The replicas are the production ones; what is simulated is the
//! machine around them.

use super::checker::Checker;
use super::checker_io;
use super::clients::{Client, History};
use super::disk::{Disk, Failing, Probe};
use super::faults::{Director, FREE_ENOUGH, FaultSet, Plan};
use super::network::{Network, id_of};
use super::rng::Rng;
use chat::consensus::{self, Glance, HardState, Now, Role};
use chat::replica::{self, DiskDone, DiskJob, Input, Output, PeerMessage, Replica};
use chat::storage::{MemReader, MemStore};
use chat::types::{
    FORMATION_LEVEL, Incarnation, Level, Monotonic, ReplicaId, Stamp, Term, WallTime,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// What a run is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// 1, 3 or 5.
    pub replicas: usize,
    /// Which faults may happen.
    pub faults: FaultSet,
    /// Events of the phase with faults.
    pub steps: u64,
    /// Keep a trace.
    pub trace: bool,
}

/// Refresh intervals after the faults within which everything must work again.
pub const HEAL_REFRESHES_MAX: u64 = 500;
/// Lines of trace kept for a report.
const TRACE_LINES: usize = 80;

/// What can happen.
#[derive(Debug)]
pub enum Happening {
    /// A message arrives.
    Deliver(Box<PeerMessage>),
    /// A replica's clock ticks.
    Tick {
        at: usize,
        life: u64,
    },
    /// A replica has wanted a turn now.
    Wake {
        at: usize,
        life: u64,
    },
    /// The disk has done the job.
    DiskRuns {
        at: usize,
        life: u64,
    },
    /// The replica's thread hears of it.
    DiskTells {
        at: usize,
        life: u64,
    },
    Connect {
        from: usize,
        to: usize,
    },
    LinkLost {
        from: usize,
        to: usize,
    },
    KeepaliveLost {
        from: usize,
        to: usize,
    },
    /// The primary is asked to stop, as by SIGTERM, and starts again.
    StopPrimary,
    /// Disks that have changed places go back.
    SwapBack,
    /// A process starts, if none runs.
    Boot {
        at: usize,
    },
    /// A pause ends.
    Resume {
        at: usize,
        life: u64,
    },
    /// A client looks what to do.
    Client {
        client: usize,
    },
    /// A client has waited long enough.
    ClientTimeout {
        client: usize,
        ticket: u64,
    },
    /// The next fault, or the next act of a director.
    Fault,
    /// A partition ends.
    Unblock {
        from: usize,
        to: usize,
    },
}

struct Scheduled {
    at: u64,
    number: u64,
    what: Happening,
}
impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A replica's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Parts per million that it is fast (or slow).
    pub drift_ppm: i64,
    /// Where the monotonic clock of this run started.
    pub started: u64,
    /// Wall clock minus true time, in microseconds.
    pub wall_ahead_us: i64,
    /// What the wall clock shows if it stands still.
    pub wall_stopped: Option<WallTime>,
}

/// A running process.
pub struct Process {
    pub replica: Replica<MemReader>,
    pub store: MemStore,
    pub workshop: replica::Workshop,
    pub job: Option<Box<DiskJob>>,
    pub done: Option<DiskDone>,
    /// What arrived while it was paused.
    pub waiting: Vec<Input>,
    pub paused: bool,
    /// It is woken then.
    pub wake_at: Option<Monotonic>,
    /// When it was paused in the middle of a client's read.
    pub read_paused_at: Option<u64>,
    pub role: Role,
    pub term: Term,
    pub serving: bool,
    /// Answers of other replicas that this one has got and not passed on.
    pub relayed: u64,
}

/// A replica's machine.
pub struct Member {
    pub disk: Disk,
    pub process: Option<Process>,
    /// Rises with each boot and each death: events of an earlier life are void.
    pub life: u64,
    pub clock: Clock,
    /// Until then its disk is slow.
    pub slow_until: u64,
    /// Bytes free on it.
    pub free: u64,
    /// The highest level that its build knows.
    pub level: Level,
    /// Its own committed log names its incarnation.
    pub admitted: bool,
    /// An old copy of its disk.
    pub backup: Option<Backup>,
}

/// A copy of a disk, and what is on it.
pub struct Backup {
    pub copy: Disk,
    pub life: Incarnation,
    pub last: Stamp,
    pub given_up: Term,
}

/// Everything.
pub struct World {
    pub options: Options,
    pub plan: Plan,
    pub rng: Rng,
    pub now: u64,
    pub members: Vec<Member>,
    pub network: Network,
    pub checker: Checker,
    pub clients: Vec<Client>,
    pub history: History,
    pub director: Option<Box<dyn Director>>,
    /// Faults are over.
    pub healing: bool,
    pub events: u64,
    pub wiped: u64,
    /// Whose disks have changed places.
    pub swapped: Option<(usize, usize)>,
    /// What clients hear before this is taken as lost: see `wrong`.
    pub believe_after: u64,
    pub config: consensus::Config,
    /// Answers that are asked for, by ticket.
    pub tickets: BTreeMap<u64, (usize, usize)>,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
}

impl World {
    /// A world at its beginning: all replicas new and about to boot.
    pub fn new(seed: u64, options: Options, mut director: Option<Box<dyn Director>>) -> Self {
        let mut rng = Rng::new(seed);
        let mut plan = Plan::draw(&mut rng, &options);
        let n = options.replicas;
        let mut config = consensus::Config {
            id: ReplicaId(1),
            ids: (0..n).map(id_of).collect(),
            refresh_interval_us: 20_000,
            election_iters: rng.between(3, 5) as u32,
            election_check_interval_us: rng.between(3, 6) * 1_000,
            initialize_wait_us: rng.between(30, 150) * 1_000,
            notice_wait_us: [0, 500, 20_000][seed as usize % 3],
            build: "simulated".into(),
            level: FORMATION_LEVEL,
        };
        if let Some(director) = &mut director {
            director.tune(&mut plan, &mut config);
        }
        let mut world = Self {
            members: Vec::new(),
            network: Network::new(n),
            checker: Checker::new(n),
            clients: Vec::new(),
            history: History::default(),
            director,
            healing: false,
            events: 0,
            wiped: 0,
            swapped: None,
            believe_after: 0,
            config,
            tickets: BTreeMap::new(),
            queue: BinaryHeap::new(),
            scheduled: 0,
            now: 1_000_000,
            options,
            plan,
            rng,
        };
        world.network.weather = world.plan.weather.clone();
        for at in 0..n {
            let clock = world.plan.clock(&mut world.rng);
            let level = world.level_at_first();
            world.members.push(Member {
                disk: Disk::new(),
                process: None,
                life: 0,
                clock,
                slow_until: 0,
                free: FREE_ENOUGH,
                level,
                admitted: false,
                backup: None,
            });
            let after = world.rng.around(world.plan.boot_spread_us);
            world.schedule(after, Happening::Boot { at });
        }
        world.start_clients();
        world.schedule(50_000, Happening::Fault);
        world
    }

    /// Something happens later.
    pub fn schedule(&mut self, after_us: u64, what: Happening) {
        self.scheduled += 1;
        self.queue.push(Reverse(Scheduled {
            at: self.now + after_us,
            number: self.scheduled,
            what,
        }));
    }

    /// A line for the trace, if one is kept.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if self.options.trace {
            let line = format!(
                "{:>10.3} ms {}",
                (self.now - 1_000_000) as f64 / 1e3,
                line()
            );
            if TRACE_ALL.get() {
                println!("{line}");
            }
            LAST_LINES.with_borrow_mut(|last| {
                if last.len() == TRACE_LINES {
                    last.pop_front();
                }
                last.push_back(line);
            });
        }
    }

    /// A replica's clocks now.
    pub fn clock(&self, at: usize) -> Now {
        let clock = self.members[at].clock;
        let elapsed = self.now as i64;
        let drifted = elapsed + elapsed / 1_000 * clock.drift_ppm / 1_000;
        let wall = WallTime((1_700_000_000_000_000 + elapsed + clock.wall_ahead_us) as u64);
        Now {
            mono: Monotonic(clock.started + drifted as u64),
            wall: clock.wall_stopped.unwrap_or(wall),
        }
    }

    /// Runs one event. False: nothing is left.
    pub fn step(&mut self) -> bool {
        let Some(Reverse(next)) = self.queue.pop() else {
            return false;
        };
        self.now = next.at;
        self.events += 1;
        match next.what {
            Happening::Deliver(message) => {
                if let PeerMessage::ForwardReadReply { to, .. } = &*message
                    && let Some(process) = self.process(super::network::slot(*to))
                {
                    process.relayed += 1;
                }
                self.deliver(*message);
            }
            Happening::Tick { at, life } => {
                if self.lives(at, life) {
                    let after = self.rng.between(2_500, 4_500);
                    self.schedule(after, Happening::Tick { at, life });
                    self.feed(at, Input::Tick);
                }
            }
            Happening::Wake { at, life } => self.wake(at, life),
            Happening::DiskRuns { at, life } => {
                if self.lives(at, life) {
                    self.disk_runs(at);
                }
            }
            Happening::DiskTells { at, life } => {
                if self.lives(at, life)
                    && let Some(done) = self.process(at).and_then(|p| p.done.take())
                {
                    self.feed(at, Input::DiskDone(done));
                }
            }
            Happening::Connect { from, to } => self.connect(from, to),
            Happening::LinkLost { from, to } => self.link_lost(from, to),
            Happening::KeepaliveLost { from, to } => self.keepalive_lost(from, to),
            Happening::Boot { at } => self.boot(at),
            Happening::SwapBack => self.swap_back(),
            Happening::StopPrimary => {
                if let Some(at) = self.primary() {
                    self.feed(at, Input::ShutDown);
                }
            }
            Happening::Resume { at, life } => {
                if self.lives(at, life) {
                    self.resume(at);
                }
            }
            Happening::Client { client } => self.client_wakes(client),
            Happening::ClientTimeout { client, ticket } => self.client_timeout(client, ticket),
            Happening::Fault => self.next_fault(),
            Happening::Unblock { from, to } => self.network.block(from, to, false),
        }
        true
    }

    pub(super) fn lives(&self, at: usize, life: u64) -> bool {
        self.members[at].life == life && self.members[at].process.is_some()
    }
    /// The running process at a place.
    pub fn process(&mut self, at: usize) -> Option<&mut Process> {
        self.members[at].process.as_mut()
    }

    /// Takes what a step brought, checks it, and passes it on.
    pub(super) fn absorb(&mut self, at: usize) {
        let Some(process) = self.members[at].process.as_mut() else {
            return;
        };
        let output = match super::processes::halves(&mut process.replica) {
            Ok(output) => output,
            Err(error) => return self.on_stopped(at, error),
        };
        for event in &output.events {
            self.checker.on_event(at, event);
        }
        if self.options.trace {
            self.note_output(at, &output);
        }
        let seen = self.look(at, output.job.is_some());
        self.checker.runs[at].last = seen.map_or(Stamp::ZERO, |seen| seen.last);
        self.look_at_wrong(at);
        for message in &output.messages {
            if let PeerMessage::Consensus(message) = message {
                self.checker.on_message(at, message);
            }
        }
        self.pass_on(at, output);
        self.wake_later(at);
        let lives = self.members[at].process.is_some();
        self.checker.views[at].quarantined = lives && seen.is_some_and(|seen| seen.doubted);
    }

    /// Shows the replica to the checker.
    pub(super) fn look(&mut self, at: usize, job: bool) -> Option<Glance> {
        let process = self.members[at].process.as_mut()?;
        let (node, applied, digest) = process.replica.glance();
        let idle = process.job.is_none() && process.done.is_none() && !job;
        process.role = node.role;
        process.term = node.term;
        process.serving = node.serving;
        self.checker.on_glance(at, &node, (applied, digest), idle);
        self.members[at].admitted = node.admitted;
        Some(node)
    }

    fn pass_on(&mut self, at: usize, output: Output) {
        for message in output.messages {
            self.send(message);
        }
        for (ticket, outcome) in output.written {
            self.on_written(at, ticket.0, outcome);
        }
        for (ticket, outcome) in output.answered {
            self.on_answered(at, ticket.0, outcome);
        }
        if let Some(job) = output.job {
            self.start_job(at, job);
        }
        if output.shut_down {
            self.kill(at, "it has shut down");
            let after = self.rng.around(50_000);
            self.schedule(after, Happening::Boot { at });
        }
    }

    fn start_job(&mut self, at: usize, job: Box<DiskJob>) {
        let slow = self.now < self.members[at].slow_until;
        let time = self.plan.disk_time(&mut self.rng, slow);
        let life = self.members[at].life;
        let Some(process) = self.members[at].process.as_mut() else {
            return;
        };
        let busy = process.job.is_some() || process.done.is_some();
        self.checker.check(!busy, "one disk job at a time", || {
            format!("replica {} job {}", at + 1, job.number)
        });
        process.job = Some(job);
        self.schedule(time, Happening::DiskRuns { at, life });
    }

    /// Half of the jobs that fail do so by an error, the others by a kill in their middle.
    fn how_it_fails(&mut self) -> Option<Failing> {
        match self.rng.below(6) {
            0 => Some(Failing::Read),
            1 => Some(Failing::Write),
            2 => Some(Failing::Sync),
            _ => None,
        }
    }

    /// The job's time is over: it is executed, or the process is killed inside it.
    fn disk_runs(&mut self, at: usize) {
        if self.process(at).is_some_and(|p| p.paused) {
            let life = self.members[at].life;
            self.schedule(1_000, Happening::DiskRuns { at, life });
            return;
        }
        let job = self.process(at).and_then(|p| p.job.take());
        let directed = match (&mut self.director, &job) {
            (Some(director), Some(job)) => director.kills_in(job),
            _ => false,
        };
        let dies = directed || (!self.healing && self.rng.chance(self.plan.persist_kill));
        let meets =
            !dies && !self.healing && self.rng.chance(self.plan.damage_met) && self.may_wipe();
        let failing = if meets {
            Some(Failing::Damage)
        } else if dies && !directed {
            self.how_it_fails()
        } else {
            None
        };
        if dies && failing.is_none() {
            let (after, done) = (self.rng.below(9), self.rng.chance(300));
            self.members[at].disk.fail_after(after, done);
        }
        let check_goes_on = self.rng.chance(700);
        let (Some(process), Some(job)) = (self.members[at].process.as_mut(), job) else {
            return;
        };
        let mut probe = Probe {
            store: &mut process.store,
            checker: &mut self.checker,
            at,
            primary: process.role == Role::Primary,
            failing,
            failed: false,
            check_goes_on,
        };
        let tell = |done| process.done = Some(done);
        let result = replica::execute(&mut probe, &mut process.workshop, *job, tell);
        self.members[at].disk.heal();
        match result {
            Ok(()) => {
                let life = self.members[at].life;
                let after = self.rng.between(1, 60);
                self.schedule(after, Happening::DiskTells { at, life });
            }
            Err(error) if meets || self.is_rot(at, &error) => self.meets_damage(at, error),
            Err(error) => {
                self.checker
                    .check(dies, "a disk job succeeds", || format!("{error:?}"));
                self.checker.count(match failing {
                    None => "kills inside a disk job",
                    Some(Failing::Read) => "reads that failed",
                    Some(Failing::Write) => "writes that failed",
                    Some(Failing::Sync) => "fsyncs that failed",
                    Some(Failing::Damage) => "damage met",
                });
                self.kill(at, "inside a disk job");
                self.restart_later(at);
            }
        }
    }

    pub(super) fn note_input(&mut self, at: usize, input: &Input) {
        match input {
            Input::Tick | Input::DiskDone(_) => {}
            Input::Peer(PeerMessage::Consensus(m)) => {
                if !matches!(m.body, consensus::Body::Refresh(_)) {
                    self.note(|| format!("{} < {} term {} {:?}", at + 1, m.from, m.term, m.body));
                }
            }
            Input::Peer(m) => self.note(|| format!("{} < {m:?}", at + 1)),
            other => self.note(|| format!("{} < {other:?}", at + 1)),
        }
    }

    fn note_output(&mut self, at: usize, output: &Output) {
        for event in &output.events {
            self.note(|| format!("{} event {event:?}", at + 1));
        }
        for message in &output.messages {
            if let PeerMessage::Consensus(m) = message {
                let quiet = matches!(m.body, consensus::Body::Refresh(_));
                if !quiet {
                    let body = checker_io::name(&m.body);
                    self.note(|| format!("{} > {} term {} {body}", at + 1, m.to, m.term));
                }
            }
        }
        if let Some(core) = output.job.as_ref().and_then(|job| job.core.as_ref()) {
            self.note(|| {
                format!(
                    "{} job {}: before {:?}, truncate {:?}, append {:?}, after {:?} sync {}",
                    at + 1,
                    core.id.0,
                    brief(core.hard_state_before.as_ref()),
                    core.truncate_after,
                    core.append,
                    brief(core.hard_state_after.as_ref()),
                    core.sync_hard_state
                )
            });
        }
    }
}

pub(super) fn brief(hard: Option<&HardState>) -> Option<(Term, Option<ReplicaId>, Stamp)> {
    hard.map(|h| (h.term, h.granted_to, h.mark))
}

thread_local! {
    /// Print every line of the trace.
    pub static TRACE_ALL: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    /// The last lines of the trace: they outlive a world that panics.
    pub static LAST_LINES: std::cell::RefCell<VecDeque<String>> =
        const { std::cell::RefCell::new(VecDeque::new()) };
}
