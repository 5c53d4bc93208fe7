//! When the disk works beside the log: parts of the state for peers, the next store's steps, the cut of the
//! log where it is, the rewriting that gives space back, the rebuilding of a state that is doubted, and
//! the scrub that reads everything again.
//!
//! It decides; [`super::Workshop`] does. One piece of work at a time, and none of it in a job of the
//! core's.

mod due;
mod scrubbing;
#[cfg(test)]
mod tests;

use super::{Config, Cut, Extra, ExtraDone, Rebuilt, RewriteStep, Rewriting, Scrubbed};
use crate::consensus::{SnapshotChunk, SnapshotHead, SnapshotRead, SnapshotStep, StepDone};
use crate::limits::{CUT_ENTRIES_MIN, REPLICAS_MAX, REWRITE_STAGGERED};
use crate::storage::Slice;
use crate::types::{Base, Index, Monotonic, ReplicaId, WallTime};
use due::When;
use scrubbing::Scrubbing;
use std::collections::VecDeque;

/// A check that goes on is looked at again after this long, in microseconds.
const CHECK_PAUSE_US: u64 = 10_000;
/// A state that is held still is let go when nobody has asked for a part of it for so long.
const PIN_IDLE_US: u64 = 10_000_000;
/// Portions in one part of a copy that hurries.
const PORTIONS_HURRIED: usize = 4;
/// After a rewriting that failed the next one waits this long.
const FAILED_PAUSE_US: u64 = 600_000_000;
/// Nothing was written for so long, in microseconds: nobody waits for the disk. Twice as long on the second
/// replica, and so on.
const IDLE_US: u64 = 60_000_000;
/// Parts of the state that wait for the disk: a few for each peer, and what is lost is asked again.
const READS_MAX: usize = REPLICAS_MAX * 4;

/// A state that turns out wrong again after it was rebuilt is rebuilt again after so long, in
/// microseconds, twice as long each time ...
const REBUILD_PAUSE_US: u64 = 5_000_000;
/// ... but never longer than this.
const REBUILD_PAUSE_US_MAX: u64 = 600_000_000;

/// How far a rewriting is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Idle,
    /// The state is computed anew.
    Computing,
    Copying,
    Checking,
    Installing,
}

/// What the replica is like when work is looked for.
#[derive(Clone, Copy)]
pub(super) struct Sight<'a> {
    pub now: Monotonic,
    /// What the trees stand at.
    pub checkpoint: Option<&'a Slice>,
    /// Where the log begins.
    pub base: Index,
    /// What the connected peer has that is furthest behind.
    pub behind: Option<Index>,
    /// The log's own clock.
    pub log_time: WallTime,
    /// The replica is about to stop, or takes no part: no rewriting.
    pub rests: bool,
    /// What the core has handed out.
    pub written: Index,
    /// The disk is nearly full.
    pub low: bool,
    /// A rewriting fits on it.
    pub fits: bool,
    /// The state is doubted.
    pub rebuilding: Option<Rebuilding>,
}

/// What the rebuilding of a state depends on.
#[derive(Clone, Copy)]
pub(super) struct Rebuilding {
    /// There is nobody whose state could be taken.
    pub alone: bool,
    /// What the core has handed out, as far as it is durable in the log.
    pub delivered: Index,
    /// Somebody scans the trees as they are.
    pub frozen: bool,
    /// See [`super::Config::digest_every`].
    pub digest_every: u64,
}

/// What the replica's thread hears of.
#[derive(Debug)]
pub(super) enum News {
    /// A step of the core's is done.
    Step(StepDone),
    /// The state to offer to a peer.
    Head(ReplicaId, Box<SnapshotHead>),
    /// Rows that a peer has asked for.
    Rows(ReplicaId, SnapshotChunk),
    /// The store was rewritten, and its log begins here.
    Compacted(Base),
    /// The log was cut where it is, and begins here.
    Cut(Base),
    /// The store has other trees, computed anew.
    Rebuilt(Box<Rebuilt>),
    /// All of the store was read again, and is sound.
    Scrubbed(Scrubbed),
    /// The state changed too much meanwhile.
    ScrubGivenUp,
    /// The log is sound, and the state is not.
    StateWrong(String),
}

/// See the module.
pub(super) struct Upkeep {
    policy: Rewriting,
    /// The size at which this replica rewrites its store is raised by so many halves, and it is idle by so
    /// many minutes later.
    later: u64,
    scrubbing: Scrubbing,
    stage: Stage,
    /// When the part of a copy that is out was handed out.
    copies_since: Option<Monotonic>,
    step: Option<SnapshotStep>,
    /// The step that is out, in case it goes on.
    out: Option<SnapshotStep>,
    reads: VecDeque<SnapshotRead>,
    /// The state that is held still, and when a part of it was last asked for.
    pinned: Option<(Index, Monotonic)>,
    /// The lowest one that was held since the rewriting began.
    needed: Option<Index>,
    /// It is let go at once.
    unpins: bool,
    again_at: Monotonic,
    not_before: Monotonic,
    /// The next store is for a state that is doubted.
    rebuilds: bool,
    /// How often that was tried in this run.
    attempts: u32,
    /// When a state to rebuild from was last asked for.
    wanted_at: Monotonic,
    /// What the state that is being computed stands at, at the end.
    computed: Index,
    /// What was last written, and since when nothing was.
    still: Option<(Index, Monotonic)>,
    size: u64,
    live: Option<u64>,
    rewritten: u64,
    /// What was live then, if this process has seen it.
    rewritten_live: Option<u64>,
    /// When that was, or when this process first looked, and where the log began then.
    rewritten_at: Option<(Monotonic, Index)>,
    /// The log is not cut in place before so much may go.
    cut_at: Index,
}

impl Upkeep {
    /// `rewritten`: the store's size after the last rewriting.
    pub(super) fn new(config: &Config, rewritten: u64) -> Self {
        let scrubbing = Scrubbing::new(config.scrub_interval_us, config.node.id);
        Self {
            later: u64::from(config.node.id.0.saturating_sub(1)) % REWRITE_STAGGERED,
            ..Self::with(config.rewriting, scrubbing, rewritten)
        }
    }

    fn with(policy: Rewriting, scrubbing: Scrubbing, rewritten: u64) -> Self {
        Self {
            policy,
            later: 0,
            scrubbing,
            stage: Stage::Idle,
            copies_since: None,
            step: None,
            out: None,
            reads: VecDeque::new(),
            pinned: None,
            needed: None,
            unpins: false,
            again_at: Monotonic(0),
            not_before: Monotonic(0),
            rebuilds: false,
            attempts: 0,
            wanted_at: Monotonic(0),
            computed: Index(0),
            still: None,
            size: 0,
            live: None,
            rewritten,
            rewritten_live: None,
            rewritten_at: None,
            cut_at: Index(0),
        }
    }

    /// The core's next step of building the next store. A rewriting is given up for it.
    pub(super) fn step(&mut self, step: SnapshotStep) {
        self.stage = Stage::Idle;
        self.scrubbing.dropped();
        self.step = Some(step);
    }

    /// Peers need parts of the state.
    pub(super) fn read(&mut self, reads: Vec<SnapshotRead>) {
        for read in reads {
            self.reads.retain(|other| other.peer != read.peer);
            if self.reads.len() < READS_MAX {
                self.reads.push_back(read);
            }
        }
    }

    /// The trees must get further for what a peer needs.
    pub(super) fn wants_checkpoint(&self, checkpoint: Index) -> bool {
        self.reads.iter().any(|read| read.at_least > checkpoint)
    }

    /// The next store, of this size, became the live one by a snapshot.
    pub(super) fn installed(&mut self, size_bytes: u64) {
        self.has_copied(size_bytes);
        self.stage = Stage::Idle;
        self.scrubbing.dropped();
        self.step = None;
        self.reads.clear();
        self.pinned = None;
    }

    /// The state is doubted: nothing is made of it any more, and it is rebuilt, at once if that is
    /// the first time.
    pub(super) fn doubted(&mut self, now: Monotonic) {
        self.stage = Stage::Idle;
        self.scrubbing.dropped();
        self.reads.clear();
        self.not_before = now.plus(self.rebuild_pause_us());
    }

    /// A peer that was given the state says that it is wrong. It is read again, and what was held of
    /// it is let go, for that alone may be it.
    pub(super) fn doubted_by_peer(&mut self, now: Monotonic) {
        self.unpins |= self.scrubbing.doubt(now);
    }

    fn rebuild_pause_us(&self) -> u64 {
        let again = self.attempts.checked_sub(1);
        let pause = again.map_or(0, |times| REBUILD_PAUSE_US << times.min(16));
        pause.min(REBUILD_PAUSE_US_MAX)
    }

    /// The log alone is enough to rebuild the state: all of it is there, and it has not led to a
    /// wrong one before.
    fn replays(&self, base: Index, alone: bool) -> bool {
        base == Index(0) && (alone || self.attempts.is_multiple_of(2))
    }

    /// Is a state to rebuild from to be asked for now?
    pub(super) fn wants_state(
        &mut self,
        now: Monotonic,
        base: Index,
        alone: bool,
        pause_us: u64,
    ) -> bool {
        let busy = self.stage != Stage::Idle || self.step.is_some() || self.out.is_some();
        let due = now >= self.not_before && now.since(self.wanted_at) >= pause_us;
        if busy || alone || !due || self.replays(base, alone) {
            return false;
        }
        self.wanted_at = now;
        true
    }

    /// The next store of a rewriting is there.
    pub(super) fn is_rewriting(&self) -> bool {
        self.stage != Stage::Idle
    }

    /// The next piece of work.
    pub(super) fn next(&mut self, sight: Sight<'_>) -> Option<Extra> {
        if sight.now < self.again_at {
            return None;
        }
        if let Some(step) = self.step.take() {
            let known = matches!(step, SnapshotStep::Check | SnapshotStep::Keep);
            self.out = known.then(|| step.clone());
            return Some(Extra::Step(step));
        }
        if let Some(checkpoint) = sight.checkpoint
            && let Some(at) = self
                .reads
                .iter()
                .position(|read| read.at_least <= checkpoint.applied)
            && let Some(read) = self.reads.remove(at)
        {
            let pinned = self.pinned.map_or(checkpoint.applied, |(at, _)| at);
            self.pinned = Some((pinned.max(read.at_least), sight.now));
            return Some(Extra::Read(read, checkpoint.clone()));
        }
        if let Some((_, used)) = self.pinned
            && sight.now.since(used) >= PIN_IDLE_US
        {
            self.unpins = true;
        }
        if std::mem::take(&mut self.unpins) {
            self.pinned = None;
            return Some(Extra::Unpin);
        }
        if self.out.is_some() || sight.rests {
            return None;
        }
        if let Some(rebuilding) = sight.rebuilding {
            let step = self.rebuild(sight, rebuilding)?;
            return Some(Extra::Rewrite(step));
        }
        let step = match self.stage {
            Stage::Idle | Stage::Computing => match self.begin(sight) {
                Some(begin) => begin,
                None => return self.scrub(sight).or_else(|| self.cut_in_place(sight)),
            },
            Stage::Copying => {
                let hurries = self.hurries(sight.low);
                self.copies_since = Some(sight.now).filter(|_| !hurries);
                RewriteStep::Copy {
                    portions: if hurries { PORTIONS_HURRIED } else { 1 },
                    cut: sight
                        .checkpoint
                        .map(|applied| self.cut_by_copying(sight, applied.applied)),
                }
            }
            Stage::Checking => RewriteStep::Check,
            Stage::Installing => RewriteStep::Install,
        };
        Some(Extra::Rewrite(step))
    }

    /// ORDER: exchanged only AFTER the core has handed out every entry that is in the new trees.
    fn rebuild(&mut self, sight: Sight<'_>, rebuilding: Rebuilding) -> Option<RewriteStep> {
        self.rebuilds = true;
        match self.stage {
            Stage::Idle => {
                if sight.now < self.not_before || !self.replays(sight.base, rebuilding.alone) {
                    return None;
                }
                self.stage = Stage::Computing;
                Some(RewriteStep::Replay)
            }
            Stage::Computing => Some(RewriteStep::Rebuild {
                committed: rebuilding.delivered,
                digest_every: rebuilding.digest_every,
            }),
            Stage::Copying => Some(RewriteStep::Copy {
                portions: 1,
                cut: None,
            }),
            Stage::Checking => Some(RewriteStep::Check),
            Stage::Installing => {
                let passed = rebuilding.delivered >= self.computed && !rebuilding.frozen;
                passed.then_some(RewriteStep::Install)
            }
        }
    }

    /// Only while nothing else is built: that reads and checks all of it, too.
    fn scrub(&mut self, sight: Sight<'_>) -> Option<Extra> {
        let checkpoint = sight.checkpoint?;
        let part = self.scrubbing.next(sight.now)?;
        Some(Extra::Scrub(part, checkpoint.clone()))
    }

    /// It was last rewritten long ago, and a tenth of its log or more can go.
    fn is_old(&mut self, sight: Sight<'_>, applied: Index) -> bool {
        let (since, base) = *self.rewritten_at.get_or_insert((sight.now, sight.base));
        let least = self.policy.keep_entries.saturating_add(self.cut_min());
        let above = applied.0.saturating_sub(base.0);
        let age_us = self.policy.age_us;
        age_us > 0 && sight.now.since(since) >= age_us && above >= least
    }

    /// A part of what may go of the log, once that is worth a job.
    fn cut_in_place(&mut self, sight: Sight<'_>) -> Option<Extra> {
        let applied = sight.checkpoint?.applied;
        let cut = self.cut(sight, applied, self.pinned.map(|(at, _)| at));
        let least = CUT_ENTRIES_MIN.min(self.cut_min());
        let worth = self.cut_at.max(Index(sight.base.0 + least));
        if self.stage != Stage::Idle || cut.base < worth {
            return None;
        }
        // Of what is found not to go yet nothing is tried before there is more.
        self.cut_at = Index(cut.base.0 + least);
        Some(Extra::Cut(cut))
    }

    /// Nothing was written for some time.
    fn is_idle(&mut self, now: Monotonic, written: Index) -> bool {
        let still = self.still.filter(|(at, _)| *at == written);
        let (_, since) = *self.still.insert(still.unwrap_or((written, now)));
        now.since(since) >= IDLE_US * (1 + self.later)
    }

    fn begin(&mut self, sight: Sight<'_>) -> Option<RewriteStep> {
        let applied = sight.checkpoint?.clone();
        let idle = self.is_idle(sight.now, sight.written);
        let when = match (sight.low, idle) {
            (true, _) => When::Low,
            (false, true) => When::Idle,
            (false, false) => When::Busy,
        };
        let grown = self.size > self.due(when);
        let old = !grown && !self.policy.keep_log && self.is_old(sight, applied.applied);
        if !(old || grown) || !sight.fits || sight.now < self.not_before {
            return None;
        }
        self.needed = None;
        let base = self.rewritten_at.map_or(sight.base, |(_, base)| base);
        let least = if old { base.0 + self.cut_min() } else { 0 };
        let cut = self.cut_by_copying(sight, applied.applied);
        self.stage = Stage::Copying;
        self.scrubbing.dropped();
        self.rebuilds = false;
        Some(RewriteStep::Begin {
            cut,
            applied,
            least: Index(least),
        })
    }

    /// What a peer is given the state for must still follow it in the log, also when it has the state: it
    /// may be far behind by then.
    fn cut_by_copying(&mut self, sight: Sight<'_>, applied: Index) -> Cut {
        let pinned = self.pinned.map(|(at, _)| at);
        self.needed = self.needed.into_iter().chain(pinned).min();
        self.cut(sight, applied, self.needed)
    }

    /// How much of the log may go while the trees stand there, and a peer needs what follows this entry.
    fn cut(&self, sight: Sight<'_>, applied: Index, needed: Option<Index>) -> Cut {
        let mut base = sight.base;
        if !self.policy.keep_log {
            let below = |entries| Index(applied.0.saturating_sub(entries));
            // Where space is short a peer that lacks them is given the state.
            let behind = sight.behind.filter(|_| !sight.low);
            let behind = behind.map(|at| at.max(below(self.policy.keep_behind)));
            let kept = [needed, behind].into_iter().flatten().min();
            let cut = below(self.policy.keep_entries);
            base = base.max(cut.min(kept.unwrap_or(cut)));
        }
        let keep_age_us = self.policy.keep_age_us;
        Cut {
            base,
            keep_since: WallTime(sight.log_time.0.saturating_sub(keep_age_us)),
        }
    }

    /// A rewriting for its age alone cuts at least so many entries.
    fn cut_min(&self) -> u64 {
        1 + self.policy.keep_entries / 10
    }

    /// As long as a part of a copy has taken: what clients wait for is on the same disk.
    fn rest_after_copying(&mut self, now: Monotonic) {
        if let Some(since) = self.copies_since.take() {
            self.again_at = now.plus(now.since(since));
        }
    }

    fn rewrite_failed(&mut self, now: Monotonic) {
        self.stage = Stage::Idle;
        self.attempts += u32::from(self.rebuilds);
        let pause = if self.rebuilds {
            self.rebuild_pause_us()
        } else {
            FAILED_PAUSE_US
        };
        self.not_before = now.plus(pause);
    }

    /// Of the store, as it was last looked at.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// A job is done.
    pub(super) fn on_done(
        &mut self,
        done: Option<ExtraDone>,
        size_bytes: u64,
        now: Monotonic,
    ) -> Option<News> {
        self.size = size_bytes;
        let out = self.out.take();
        self.rest_after_copying(now);
        match done? {
            ExtraDone::GoesOn => {
                if out.is_some() || self.stage == Stage::Checking {
                    self.again_at = now.plus(CHECK_PAUSE_US);
                }
                self.step = self.step.take().or(out);
            }
            ExtraDone::Step(done) => {
                if out == Some(SnapshotStep::Keep) && done == StepDone::Stored {
                    self.stage = Stage::Computing;
                }
                return Some(News::Step(done));
            }
            ExtraDone::Computed(index) if self.stage == Stage::Computing => {
                self.computed = index;
                self.stage = Stage::Copying;
            }
            ExtraDone::Rebuilt(rebuilt) => {
                (self.stage, self.pinned) = (Stage::Idle, None);
                self.has_copied(size_bytes);
                self.attempts += 1;
                return Some(News::Rebuilt(rebuilt));
            }
            ExtraDone::Copied if self.stage == Stage::Copying => self.stage = Stage::Checking,
            ExtraDone::Checked if self.stage == Stage::Checking => self.stage = Stage::Installing,
            ExtraDone::Rewritten(base) => {
                self.stage = Stage::Idle;
                self.has_copied(size_bytes);
                self.rewritten_at = Some((now, base.stamp.index));
                return Some(News::Compacted(base));
            }
            ExtraDone::Cut(base) => {
                self.cut_at = Index(0);
                return Some(News::Cut(base));
            }
            ExtraDone::RewriteFailed => self.rewrite_failed(now),
            ExtraDone::NothingToCut => {
                self.stage = Stage::Idle;
                let base = self.rewritten_at.map_or(Index(0), |(_, base)| base);
                self.rewritten_at = Some((now, base));
            }
            done
            @ (ExtraDone::Scrubbed(_) | ExtraDone::ScrubGivenUp | ExtraDone::StateWrong(_)) => {
                return self.scrubbing.on_done(done, now);
            }
            ExtraDone::Head(peer, head) => {
                let base = head.base.stamp.index;
                self.pinned = self.pinned.map(|(_, used)| (base, used));
                return Some(News::Head(peer, head));
            }
            ExtraDone::Rows(peer, chunk) => return Some(News::Rows(peer, chunk)),
            ExtraDone::Copied
            | ExtraDone::Computed(_)
            | ExtraDone::Checked
            | ExtraDone::Nothing => {}
        }
        None
    }
}
