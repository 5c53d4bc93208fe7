//! What the disk is to do next, and how far it is: one [`DiskJob`] at a time.
//!
//! The core's job goes first and alone. Slices go when the core has nothing to write and it is this
//! replica's turn (see [`super::pace`]), or, when the trees lag too far behind, in turn
//! with its jobs. A commit record rides with the next entries, or goes alone when none come within
//! a refresh interval; it is never for an entry that is not in the store.

use super::workshop::{record_of, slice_of};
use super::{DiskDone, DiskJob, Extra, Rebuilt};
use crate::consensus::{Fetch, Job, JobId, SnapshotHead};
use crate::storage::{CommitRecord, Slice};
use crate::types::{Index, Monotonic};
use std::collections::VecDeque;

/// Commit records that wait for their entries to reach the store; beyond, older ones are thinned.
const RECORDS_WAITING_MAX: usize = 1_024;
/// A slice waits for this replica's turn for so long, in microseconds: where the log grows slowly, turns are
/// far between, and slices seldom.
const SLICE_WAIT_US: u64 = 250_000;

/// How much a job may carry at this moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Policy {
    /// Write a commit record alone after it waited this long, in microseconds.
    pub record_after_us: u64,
    /// The trees lag far: so many slices take their turn before the core's job. What is acknowledged, or
    /// on a primary proposed (see `UNDURABLE_BYTES_MAX`), comes no faster, then, than the trees follow,
    /// and memory is bounded by that.
    pub slices_in_turn: u64,
    /// A slice may go when the core has nothing to write.
    pub beside: bool,
    /// Write a slice even if it is not full, and the commit record now.
    pub force: bool,
    /// The state is doubted: nothing of it goes into the trees.
    pub hold: bool,
}

struct Out {
    number: u64,
    since: Monotonic,
    core: Option<JobId>,
    log_last: Index,
    wrote_log: bool,
    commit: Option<CommitRecord>,
    sync_commit: bool,
    slice: Option<Slice>,
    install: Option<Box<SnapshotHead>>,
}

/// Whether the trees are to stand still, for a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freeze {
    No,
    /// Once everything up to here is in them.
    Until(Index),
    Frozen,
}

/// What a finished job was.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Finished {
    pub core: Option<JobId>,
    pub slice: bool,
    /// The store is another now: it holds this.
    pub install: Option<Box<SnapshotHead>>,
}

/// The machine's next slice: (commit recorded, force).
type NextSlice<'a> = &'a mut dyn FnMut(Index, bool) -> Option<Slice>;

/// The disk's side of a replica.
pub(super) struct Disk {
    number: u64,
    out: Option<Out>,
    core: Option<Box<Job>>,
    fetches: Vec<Fetch>,
    /// Last entry in the store.
    log_last: Index,
    /// Not written yet, ascending.
    records: VecDeque<CommitRecord>,
    records_since: Monotonic,
    /// The record of this commit, or of a later one, is to be durable at once.
    urgent: Option<Index>,
    /// Newest one written, and the newest one that a sync has followed.
    written: Option<CommitRecord>,
    durable: Index,
    /// The last slice written, without its changes.
    checkpoint: Option<Slice>,
    /// Slices since the core's last job. An extra counts as all of them.
    slices_in_row: u64,
    /// When the last one was handed out.
    slice_at: Monotonic,
    extra_last: bool,
    freeze: Freeze,
    /// The machine had nothing more when it was last forced.
    exhausted: bool,
}

impl Disk {
    pub(super) fn new(
        log_last: Index,
        commit: Option<CommitRecord>,
        checkpoint: Option<Slice>,
    ) -> Self {
        Self {
            number: 0,
            out: None,
            core: None,
            fetches: Vec::new(),
            log_last,
            records: VecDeque::new(),
            records_since: Monotonic(0),
            urgent: None,
            written: commit,
            durable: commit.map_or(Index(0), |record| record.stamp.index),
            checkpoint,
            slices_in_row: 0,
            slice_at: Monotonic(0),
            extra_last: false,
            freeze: Freeze::No,
            exhausted: false,
        }
    }

    /// What the trees on the disk hold.
    pub(super) fn checkpoint(&self) -> Index {
        self.checkpoint.as_ref().map_or(Index(0), |s| s.applied)
    }

    /// For how long the job that is out has been out; 0 if none.
    pub(super) fn age_us(&self, now: Monotonic) -> u64 {
        self.out.as_ref().map_or(0, |out| now.since(out.since))
    }

    /// A job is out.
    pub(super) fn is_busy(&self) -> bool {
        self.out.is_some()
    }

    /// Nothing is out, and nothing of the core's or of the commit records waits.
    pub(super) fn is_idle(&self) -> bool {
        self.out.is_none() && self.core.is_none() && self.records.is_empty()
    }

    /// The last forced slice was the last there is.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// The core's next job.
    pub(super) fn set_core(&mut self, job: Box<Job>) {
        let out = self.out.as_ref().and_then(|out| out.core);
        assert!(
            self.core.is_none() && out.is_none(),
            "the core has one job out at a time"
        );
        self.core = Some(job);
    }

    /// Entries that a peer needs.
    pub(super) fn fetch(&mut self, fetches: Vec<Fetch>) {
        self.fetches.extend(fetches);
    }

    /// Something was applied; this is the record of it.
    pub(super) fn record(&mut self, record: CommitRecord, now: Monotonic) {
        if self.records.is_empty() {
            self.records_since = now;
        }
        if self.records.len() == RECORDS_WAITING_MAX {
            self.records.remove(RECORDS_WAITING_MAX / 2);
        }
        self.records.push_back(record);
        self.exhausted = false;
    }

    /// The record of this commit is to be durable at once: until all disks know that a readmission is
    /// committed, the loss of another one may leave the rest without a primary.
    pub(super) fn hurry(&mut self, commit: Index) {
        self.urgent = Some(commit);
    }

    /// The state that the records are about is doubted: they are not written.
    pub(super) fn forget_records(&mut self) {
        self.records.clear();
        self.urgent = None;
        self.exhausted = false;
    }

    /// The next job, if the disk is free and there is something to do. Extra work takes the turn of
    /// a slice, and neither comes twice between two of the core's jobs.
    pub(super) fn next_job(
        &mut self,
        policy: Policy,
        now: Monotonic,
        next_slice: NextSlice<'_>,
        next_extra: &mut dyn FnMut() -> Option<Extra>,
    ) -> Option<Box<DiskJob>> {
        if self.out.is_some() {
            return None;
        }
        // A rewritten store holds the same records: only another state must wait for a scan.
        let scanned = self.freeze == Freeze::Frozen;
        if scanned && self.core.as_ref().is_some_and(|job| job.install.is_some()) {
            return None;
        }
        if let Some(extra) = self.extra_in_turn(policy, next_extra) {
            return Some(self.extra_job(extra, now));
        }
        let force = policy.force || matches!(self.freeze, Freeze::Until(_));
        let slice_turn = self.is_slice_turn(policy, force, now);
        let slice = slice_turn.then(|| self.slice(force, next_slice)).flatten();
        self.extra_last &= !slice_turn;
        let core = if slice.is_some() {
            None
        } else {
            self.core.take()
        };
        let (log_last, wrote_log) = match &core {
            Some(job) => log_after(job, self.log_last),
            None => (self.log_last, false),
        };
        let waited = now.since(self.records_since) >= policy.record_after_us;
        let along = wrote_log || force || waited;
        let commit = self.record_for(along, slice.as_ref(), log_last, now);
        let fetches = std::mem::take(&mut self.fetches);
        if core.is_none() && commit.is_none() && slice.is_none() && fetches.is_empty() {
            return None;
        }
        let hurried = |at: &mut Index| commit.is_some_and(|record| record.stamp.index >= *at);
        let sync_commit = self.urgent.take_if(hurried).is_some();
        self.number += 1;
        self.slices_in_row = match &slice {
            Some(_) => self.slices_in_row.saturating_add(1),
            None => 0,
        };
        if slice.is_some() {
            self.slice_at = now;
        }
        self.out = Some(Out {
            number: self.number,
            since: now,
            core: core.as_ref().map(|job| job.id),
            log_last,
            wrote_log,
            commit,
            sync_commit,
            slice: slice.as_ref().map(without_changes),
            install: core.as_ref().and_then(|job| job.install.clone()),
        });
        Some(Box::new(DiskJob {
            number: self.number,
            core,
            commit,
            sync_commit,
            slice,
            fetches,
            extra: None,
        }))
    }

    fn is_slice_turn(&self, policy: Policy, force: bool, now: Monotonic) -> bool {
        let waited = now.since(self.slice_at) >= SLICE_WAIT_US;
        let beside = self.core.is_none() && (policy.beside || force || waited);
        let in_turn = policy.slices_in_turn.max(u64::from(force));
        !policy.hold && (beside || self.slices_in_row < in_turn)
    }

    /// The commit record of a job, if it is due: a slice stands on one that is durable or in its own
    /// write.
    fn record_for(
        &mut self,
        along: bool,
        slice: Option<&Slice>,
        log_last: Index,
        now: Monotonic,
    ) -> Option<CommitRecord> {
        let due = along || slice.is_some() || self.urgent.is_some();
        let newest = due.then(|| self.take_record(log_last)).flatten();
        if newest.is_some() {
            // Those that are left are of entries that the store does not have yet.
            self.records_since = now;
        }
        newest.or_else(|| {
            let undurable = slice?.applied > self.durable;
            undurable.then_some(self.written).flatten()
        })
    }

    /// Extra work, if it is its turn and there is some.
    fn extra_in_turn(
        &mut self,
        policy: Policy,
        next_extra: &mut dyn FnMut() -> Option<Extra>,
    ) -> Option<Extra> {
        let beside = self.core.is_none() || self.slices_in_row == 0;
        let pressing = policy.slices_in_turn > 0 && !policy.hold;
        let turn = beside && !(pressing && self.extra_last);
        let extra = if turn { next_extra() } else { None };
        if extra.is_some() {
            // The core's job is next, and then slices are.
            (self.extra_last, self.slices_in_row) = (true, u64::MAX);
        }
        extra
    }

    fn extra_job(&mut self, extra: Extra, now: Monotonic) -> Box<DiskJob> {
        self.number += 1;
        self.out = Some(Out {
            number: self.number,
            since: now,
            core: None,
            log_last: self.log_last,
            wrote_log: false,
            commit: None,
            sync_commit: false,
            slice: None,
            install: None,
        });
        Box::new(DiskJob {
            number: self.number,
            core: None,
            commit: None,
            sync_commit: false,
            slice: None,
            fetches: std::mem::take(&mut self.fetches),
            extra: Some(extra),
        })
    }

    /// The store was exchanged for one that holds this.
    fn exchanged(&mut self, record: CommitRecord, checkpoint: Slice) {
        self.records.clear();
        self.urgent = None;
        self.written = Some(record);
        self.durable = record.stamp.index;
        self.checkpoint = Some(checkpoint);
        self.exhausted = false;
    }

    /// The store was exchanged for one with the same log and other trees.
    pub(super) fn on_rebuilt(&mut self, rebuilt: &Rebuilt) {
        self.exchanged(rebuilt.record, rebuilt.applied.clone());
    }

    /// A job is done.
    pub(super) fn on_done(&mut self, done: &DiskDone) -> Finished {
        let Some(out) = self.out.take_if(|out| out.number == done.number) else {
            return Finished::default();
        };
        self.log_last = out.log_last;
        if let Some(head) = out.install {
            self.exchanged(record_of(&head), slice_of(&head, Vec::new()));
            return Finished {
                core: out.core,
                slice: false,
                install: Some(head),
            };
        }
        if out.commit.is_some() {
            self.written = out.commit;
        }
        if out.wrote_log || out.sync_commit {
            self.durable = self.written.map_or(Index(0), |record| record.stamp.index);
        }
        let slice = out.slice.is_some();
        if slice {
            self.checkpoint = out.slice;
        }
        Finished {
            core: out.core,
            slice,
            install: None,
        }
    }

    /// Write everything up to `applied` to the trees, then hold slices back.
    pub(super) fn freeze(&mut self, applied: Index) {
        self.freeze = Freeze::Until(applied);
        self.exhausted = false;
    }

    /// Slices may go again.
    pub(super) fn thaw(&mut self) {
        self.freeze = Freeze::No;
    }

    /// The last slice written, without its changes.
    pub(super) fn checkpoint_slice(&self) -> Option<&Slice> {
        self.checkpoint.as_ref()
    }

    /// Do the trees stand still?
    pub(super) fn is_frozen(&mut self) -> bool {
        if let Freeze::Until(target) = self.freeze
            && self
                .out
                .as_ref()
                .is_none_or(|out| out.slice.is_none() && out.install.is_none())
            && (self.checkpoint() >= target || self.exhausted && self.records.is_empty())
        {
            self.freeze = Freeze::Frozen;
        }
        self.freeze == Freeze::Frozen
    }

    fn slice(
        &mut self,
        force: bool,
        next_slice: &mut dyn FnMut(Index, bool) -> Option<Slice>,
    ) -> Option<Slice> {
        if self.freeze == Freeze::Frozen {
            return None;
        }
        let waiting = self.newest_record(self.log_last).map(|at| self.records[at]);
        let limit = waiting.or(self.written)?.stamp.index;
        let slice = next_slice(limit, force);
        let newest = self.records.back().copied().or(self.written)?.stamp.index;
        self.exhausted = force && slice.is_none() && limit == newest;
        if let Some(slice) = &slice {
            assert!(
                slice.applied <= limit,
                "a slice goes no further than commit records do"
            );
        }
        slice
    }

    fn newest_record(&self, log_last: Index) -> Option<usize> {
        self.records
            .partition_point(|record| record.stamp.index <= log_last)
            .checked_sub(1)
    }

    fn take_record(&mut self, log_last: Index) -> Option<CommitRecord> {
        let at = self.newest_record(log_last)?;
        self.records.drain(..=at).next_back()
    }
}

/// The store's last entry after a job, and whether the job writes to the log.
fn log_after(job: &Job, before: Index) -> (Index, bool) {
    if let Some(head) = &job.install {
        return (head.base.stamp.index, true);
    }
    let kept = job.truncate_after.map_or(before, |after| after.min(before));
    let last = job
        .append
        .last()
        .map_or(kept, crate::types::entry::Entry::index);
    (last, job.truncate_after.is_some() || !job.append.is_empty())
}

fn without_changes(slice: &Slice) -> Slice {
    Slice {
        applied: slice.applied,
        hash: slice.hash,
        digest: slice.digest,
        members: slice.members.clone(),
        machine: slice.machine.clone(),
        changes: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
