//! What a node's future depends on, as bytes: for the model checker (`tools/model`), which must
//! know when it has been here before. Only with the feature `model`; no shipped binary has it.
//!
//! # Two nodes with the same view behave alike
//!
//! Each `view` takes its type apart field by field, without `..`: a new field does not compile
//! before somebody has said what it means here. A field goes in as it is (through `Hash`, which
//! writes every bit of it, lengths and variants included), but for these:
//!
//! - *Times.* A node only ever asks whether a deadline is reached, or whether something is longer
//!   ago than a limit. So the answer goes in and not the time. That is enough for a clock that
//!   moves as [`Driver`] says: one tick decides every limit that can be decided, and how far
//!   ahead a deadline lies makes no difference to a driver that may also jump beyond all of them.
//!   What only a tick asks goes in as the next tick will see it.
//! - *Job numbers* rise for ever: they go in as how long ago they were given, and one that is done
//!   like none.
//! - *The generator of random numbers* stays out: the driver sets it before every input
//!   ([`Node::reseed`]).
//! - What is never read again, each time with the reason beside it.

use super::election::{Contest, Missing};
use super::node::Peer;
use super::rng::SplitMix;
use super::{Hello, JobId, Message, Node};
use crate::types::entry::Entry;
use crate::types::{Index, Monotonic};
use std::hash::{Hash, Hasher};

/// What a node is not in when its view is taken.
const ABSENT: &str = "the view knows no snapshots, polls, damage, halts and digests";

/// What the driver of a node does, and does not.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    /// Each tick comes at least this many microseconds after the input before it, and no other
    /// input moves the clock.
    pub tick_us: u64,
    /// No run of a process is longer than this.
    pub run_us: u64,
    /// The order in which a node says messages makes a difference, and that it says one twice.
    pub ordered: bool,
}

/// Gathers a view.
pub(super) struct View<'a> {
    hasher: &'a mut dyn Hasher,
    now: Monotonic,
    driver: Driver,
    next_job: JobId,
}

impl View<'_> {
    /// As it is, every bit.
    pub(super) fn put(&mut self, value: &impl Hash) {
        value.hash(&mut self.hasher);
    }

    /// A part that there may be.
    fn part<T>(&mut self, part: Option<&T>, view: impl FnOnce(&T, &mut Self)) {
        self.put(&part.is_some());
        if let Some(part) = part {
            view(part, self);
        }
    }

    /// A deadline: is it reached?
    pub(super) fn reached(&self, at: Monotonic) -> bool {
        self.now >= at
    }

    /// Is it no longer ago than the limit? Asked at any moment.
    pub(super) fn recent(&self, at: Monotonic, limit_us: u64) -> bool {
        self.decided(limit_us);
        self.now.since(at) <= limit_us
    }

    /// The same, asked by ticks only: as the next one will see it.
    pub(super) fn recent_at_tick(&self, at: Monotonic, limit_us: u64) -> bool {
        self.decided(limit_us);
        self.now.plus(self.driver.tick_us).since(at) <= limit_us
    }

    /// A limit that some ticks reach and others do not would make nodes differ whose views are
    /// the same.
    fn decided(&self, limit_us: u64) {
        let decided = limit_us < self.driver.tick_us || limit_us >= self.driver.run_us;
        assert!(decided, "a limit of {limit_us} does not fit the driver");
    }

    /// Messages that wait, each for a job.
    pub(super) fn waiting<'m>(&mut self, held: impl Iterator<Item = (JobId, &'m Message)>) {
        let each = held.map(|(job, message)| {
            let mut bytes = Bytes(Vec::new());
            (self.age(job), message).hash(&mut bytes);
            bytes.0
        });
        let mut all: Vec<Vec<u8>> = each.collect();
        if !self.driver.ordered {
            all.sort_unstable();
            all.dedup();
        }
        self.put(&all);
    }

    /// How long ago a job was given, in jobs.
    pub(super) fn age(&self, job: JobId) -> u64 {
        self.next_job.0 - job.0
    }

    /// The same, of a job that there may be.
    pub(super) fn job(&mut self, job: Option<JobId>) {
        self.put(&job.map(|job| self.age(job)));
    }
}

impl Node {
    /// Feeds the hasher with all that decides what this node will do. See the module.
    pub fn view(&self, driver: Driver, hasher: &mut dyn Hasher) {
        let mut view = View {
            hasher,
            now: self.now.mono,
            driver,
            next_job: self.jobs.pending_id(),
        };
        self.view_into(&mut view);
    }

    fn view_into(&self, view: &mut View) {
        // By what they are about: one to a line, they are longer than a function may be.
        #[rustfmt::skip]
        let Self {
            config, run, now, hard, reached, log, jobs, commit, delivered, membership, peers,
            rng: _, // set before every input
            primary, primary_seen, verified, commit_known, acked, ack_due, leading, stuck_limit_us,
            contest, contested, lost_rounds, missing, asks, ask_after, retiring_until, boot_until,
            may_adopt, adoption, installing, copies, reads, receiving, snapshot_step_out,
            repair_target, poll, began_with, damage, damage_noted, waiting_told,
            halt: _, refusals: _, clocks: _, adopted: _, // told, decide nothing
            levels: _, // all builds know the same
            applied, comparison, disk_low, disk_age_us, progress, refresh_at, questions, ready,
        } = self;
        let taken = ready.messages.is_empty() && ready.job.is_none() && ready.events.is_empty();
        assert!(taken, "a view is of a node whose `Ready` was taken");
        view.put(&(config.id, run, now.wall, hard, reached));
        log.view(view);
        jobs.view(view);
        view.put(&(commit, delivered));
        membership.view(view);
        for (id, peer) in peers {
            view.put(id);
            peer.view(view, config, boot_until.is_some());
        }
        // Below the commit index it changes nothing.
        view.put(&(primary, verified, commit_known.max(commit), acked, ack_due));
        // Whoever is followed anew is seen anew.
        let follows = primary.is_some() && leading.is_none();
        let silence = config.election_timeout_us();
        view.put(&(follows && view.recent(*primary_seen, silence)));
        view.part(leading.as_ref(), |it, view| it.view(view, *stuck_limit_us));
        view.put(&(stuck_limit_us, *contested == Some(hard.term))); // compared with the present term only
        let decided = hard.granted_to.is_some();
        view.part(contest.as_ref(), |it, view| it.view(view, decided));
        // How far ahead a deadline is set; counted only while the state is doubted.
        view.put(&hard.quarantined.then_some(lost_rounds));
        view.part(missing.as_ref(), Missing::view);
        let balloted = contest.as_ref().is_some_and(Contest::has_balloted);
        questions.view(view, [missing.is_some(), balloted, true, true]);
        // Those whose time is over are dropped before anybody looks at them.
        let live = asks.iter().filter(|(_, ask)| !view.reached(ask.2));
        let live: Vec<_> = live.map(|(from, ask)| (from, ask.0, ask.1)).collect();
        view.put(&live);
        // Read where there is neither; whatever ends either sets it anew.
        let idle = primary.is_none() && contest.is_none();
        view.put(&(idle && view.reached(*ask_after)));
        view.put(&[retiring_until, boot_until].map(|at| at.map(|at| view.reached(at))));
        view.put(may_adopt);
        view.job(*installing);
        let limit = self.adoption_limit_us();
        view.part(adoption.as_ref(), |it, view| it.view(view, limit));
        view.put(&copies.len());
        for (id, copy) in copies {
            view.put(id);
            copy.view(view);
        }
        reads.view(view);
        // Not in the model: the log is never cut, no disk is damaged, no state is wrong.
        let absent = receiving.is_none() && poll.is_none() && waiting_told.is_none();
        assert!(absent && damage_noted.is_none(), "{ABSENT}");
        assert!(comparison.is_untouched(), "{ABSENT}");
        view.put(&(snapshot_step_out, repair_target, damage, applied));
        view.put(&(began_with, disk_low, disk_age_us, progress));
        view.put(&view.reached(*refresh_at));
    }

    /// The part of the log that is in memory, durable or not.
    pub fn entries(&self) -> Vec<Entry> {
        let first = self.log.base().stamp.index.next();
        let last = self.log.last().index;
        let all = self.log.entries(first, last, usize::MAX);
        all.expect("a log so short is all in memory")
    }

    /// The commit index, which `status` tells too, without the rest of it.
    pub fn commit_index(&self) -> Index {
        self.commit
    }

    /// Sets the generator of random numbers.
    pub fn reseed(&mut self, seed: u64) {
        self.rng = SplitMix::new(seed);
    }
}

impl Peer {
    fn view(&self, view: &mut View, config: &super::Config, booting: bool) {
        let Self {
            link,
            refused,
            run,
            incarnation,
            hello,
            heard,
            progress,
            progressed,
            last,
            hello_sent,
            refused_for: _, // told, decides nothing
            vouches,
            disk_low,
            digests,
            quarantined,
        } = self;
        view.put(&(link, refused, run, incarnation, last, progress));
        view.put(&(vouches, disk_low, digests, quarantined));
        view.put(&hello.is_some());
        if let Some(hello) = hello {
            view_hello(hello, view, booting);
        }
        let refresh = config.refresh_interval_us;
        let silence = config.election_timeout_us();
        view.put(&progressed.is_some_and(|at| view.recent(at, refresh * 2)));
        view.put(&hello_sent.is_some_and(|at| view.recent(at, refresh / 4)));
        view.put(&heard.is_some_and(|at| view.recent_at_tick(at, silence)));
    }
}

/// What is kept of a peer's hello.
fn view_hello(hello: &Hello, view: &mut View, booting: bool) {
    let Hello {
        // Looked at when it arrives, and not again.
        ids: _,
        last: _,
        head_hash: _,
        commit: _,
        protocol: _,
        level: _,
        build: _,
        admitted: _,
        remembers: _,
        formation,
        primary,
        damaged,
        repairing,
        knows_run,
    } = hello;
    view.put(&(formation, damaged, repairing, knows_run));
    // The end of the boot hangs on it, and a run boots once.
    view.put(&primary.filter(|_| booting));
}

/// A hasher that keeps what it is fed with.
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn finish(&self) -> u64 {
        unreachable!("the bytes themselves are wanted")
    }
}
