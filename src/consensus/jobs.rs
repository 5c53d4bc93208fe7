//! What the storage thread is doing, what it does next, and which messages wait for it.

use super::{HardState, Job, JobId, Message, Mutant, SnapshotHead};
use crate::types::entry::Entry;
use crate::types::{Index, Monotonic, ReplicaId, Stamp, Term};
use std::collections::VecDeque;

/// A lazily written mark is fsynced after this many microseconds at the latest.
const MARK_SYNC_US: u64 = 100_000;

/// The one job that is out, the one that gathers, and what waits.
///
/// Invariant: a held message leaves only after the job that makes its term durable.
#[derive(Clone)]
pub(super) struct Jobs {
    next: JobId,
    pending: Job,
    /// The pending job begins with a hard state write.
    before: bool,
    /// The mark that this write shows: lowered by the pending truncation.
    lowered: Option<Stamp>,
    /// The mark as last handed out.
    written_mark: Stamp,
    /// A cluster of one fsyncs its mark with every batch: nobody else remembers it.
    always_sync: bool,
    hard_state: bool,
    sync: bool,
    out: Option<Out>,
    durable_term: Term,
    held: VecDeque<(JobId, Message)>,
    mark_lazy: bool,
    synced_at: Monotonic,
    /// The job after which the latest formation step is durable, until that has been told.
    formation: Option<JobId>,
    /// The job after which the latest grant is durable.
    grant: Option<JobId>,
    /// The job after which the present incarnation is durable.
    life: Option<JobId>,
    start_term: Term,
    /// The acknowledgement that the pending job's fsync would stand for.
    pub(super) ack: Option<(Term, ReplicaId, Index)>,
}

#[derive(Clone)]
struct Out {
    id: JobId,
    last: Index,
    term: Option<Term>,
    appends: bool,
    ack: Option<(Term, ReplicaId, Index)>,
}

/// What a finished job made durable.
pub(super) struct Done {
    /// Log entries up to here.
    pub(super) last: Index,
    pub(super) ack: Option<(Term, ReplicaId, Index)>,
}

impl Jobs {
    pub(super) fn new(durable_term: Term, written_mark: Stamp, always_sync: bool) -> Self {
        Self {
            next: JobId(1),
            pending: Job::default(),
            before: false,
            lowered: None,
            written_mark,
            always_sync,
            hard_state: false,
            sync: false,
            out: None,
            durable_term,
            held: VecDeque::new(),
            mark_lazy: false,
            synced_at: Monotonic(0),
            formation: None,
            grant: None,
            life: None,
            start_term: durable_term,
            ack: None,
        }
    }

    /// The job that gathers now.
    pub(super) fn pending_id(&self) -> JobId {
        self.next
    }

    pub(super) fn append(&mut self, entry: Entry) {
        self.pending.append.push(entry);
    }

    /// The log now ends at `last`. On the disk the mark is lowered first.
    pub(super) fn truncate(&mut self, last: Stamp) {
        let after = last.index;
        let pending = &mut self.pending;
        let first_pending = pending.append.first().map(Entry::index);
        pending.append.retain(|entry| entry.index() <= after);
        if first_pending.is_none_or(|first| after.next() < first) {
            let at = pending.truncate_after.map_or(after, |old| old.min(after));
            pending.truncate_after = Some(at);
            self.before = true;
            self.lowered = Some(self.lowered.map_or(last, |old| old.min(last)));
        }
        if let Some(out) = &mut self.out {
            out.last = out.last.min(after);
        }
    }

    /// The store is exchanged for the next one: what waits to be written to the old one goes. On the
    /// disk the mark is `lowered` first, if it must be.
    pub(super) fn install(&mut self, head: Box<SnapshotHead>, lowered: Option<Stamp>) {
        let base = head.base.stamp.index;
        self.pending.append.clear();
        self.pending.truncate_after = None;
        self.pending.install = Some(head);
        self.before |= lowered.is_some();
        self.lowered = lowered;
        self.want_hard_state(true);
        if let Some(out) = &mut self.out {
            out.last = out.last.min(base);
        }
    }

    /// The hard state has changed; `sync`: something that is to be sent depends on it.
    pub(super) fn want_hard_state(&mut self, sync: bool) {
        self.hard_state = true;
        self.sync |= sync;
    }

    /// The hard state must be durable BEFORE the pending job's entries (an adopted copy's term).
    pub(super) fn want_hard_state_first(&mut self) {
        self.before = true;
    }

    pub(super) fn term_is_durable(&self, term: Term) -> bool {
        term <= self.durable_term || Mutant::ForgetTerm.on()
    }

    /// The message leaves when its term is durable.
    pub(super) fn hold(&mut self, message: Message) {
        let covering = self.out.as_ref().filter(|out| {
            out.term >= Some(message.term) && self.life.is_none_or(|at| at <= out.id)
        });
        if let Some(out) = covering {
            self.held.push_back((out.id, message));
        } else {
            self.held.push_back((self.next, message));
            self.want_hard_state(true);
        }
    }

    /// Messages whose job is done.
    pub(super) fn released(&mut self) -> Vec<Message> {
        let waits = self.out.as_ref().map_or(self.next, |out| out.id);
        let mut free = Vec::new();
        while self.held.front().is_some_and(|(job, _)| *job < waits) {
            free.extend(self.held.pop_front().map(|(_, message)| message));
        }
        free
    }

    pub(super) fn maybe_sync_mark(&mut self, now: Monotonic) {
        if self.mark_lazy && now.since(self.synced_at) >= MARK_SYNC_US {
            self.want_hard_state(true);
        }
    }

    /// Hands the pending job out, if there is one and none is out.
    pub(super) fn take(
        &mut self,
        hard: &HardState,
        last: Index,
        now: Monotonic,
    ) -> Option<Box<Job>> {
        let wanted = self.hard_state || self.before || !self.pending.is_empty();
        if self.out.is_some() || !wanted {
            return None;
        }
        let mut job = Box::new(std::mem::take(&mut self.pending));
        let hard = self.as_written(hard);
        let lowered = self.lowered.take().unwrap_or(self.written_mark);
        if std::mem::take(&mut self.before) {
            job.hard_state_before = Some(HardState {
                mark: lowered.min(self.written_mark),
                ..hard.clone()
            });
        }
        let appends = !job.append.is_empty() || job.install.is_some();
        let wanted = std::mem::take(&mut self.hard_state);
        let sync = std::mem::take(&mut self.sync);
        if wanted || appends || job.hard_state_before.is_some() {
            self.written_mark = hard.mark;
            job.hard_state_after = Some(hard.clone());
            job.sync_hard_state = sync || (appends && self.always_sync);
        }
        if job.is_empty() {
            return None;
        }
        let synced = job.sync_hard_state || job.hard_state_before.is_some();
        self.mark_lazy = job.hard_state_after.is_some() && !job.sync_hard_state;
        if synced {
            self.synced_at = now;
        }
        job.id = self.next;
        self.next = JobId(self.next.0 + 1);
        self.out = Some(Out {
            id: job.id,
            last,
            term: synced.then_some(hard.term),
            appends,
            ack: self.ack,
        });
        Some(job)
    }

    fn as_written(&self, hard: &HardState) -> HardState {
        let mut written = hard.clone();
        if Mutant::ForgetTerm.on() && written.term > self.durable_term {
            written.term = self.durable_term;
            written.granted_to = None;
        }
        if Mutant::ForgetGrant.on() {
            written.granted_to = None;
        }
        written
    }

    pub(super) fn on_done(&mut self, job: JobId) -> Done {
        let out = self.out.take().expect("a job is done only if one is out");
        assert_eq!(out.id, job, "jobs end in their order");
        if let Some(term) = out.term {
            self.durable_term = self.durable_term.max(term);
        }
        Done {
            last: out.last,
            ack: out.ack,
        }
    }

    /// A formation step is to be made durable and then told.
    pub(super) fn want_formation(&mut self) {
        self.formation = Some(self.next);
        self.want_hard_state(true);
    }

    /// What `HardState::formation` says is on the disk.
    pub(super) fn formation_is_durable(&self) -> bool {
        self.formation.is_none_or(|job| self.is_done(job))
    }

    /// Once after each formation step that became durable.
    pub(super) fn take_formation_news(&mut self) -> bool {
        let news = self.formation.is_some() && self.formation_is_durable();
        if news {
            self.formation = None;
        }
        news
    }

    /// A grant was given: it leaves when it is durable.
    pub(super) fn want_grant(&mut self) {
        self.grant = Some(self.next);
        self.want_hard_state(true);
    }

    /// A new incarnation begins: nothing leaves before it is durable.
    pub(super) fn want_life(&mut self) {
        self.life = Some(self.next);
        self.want_hard_state(true);
    }

    pub(super) fn life_is_durable(&self) -> bool {
        self.life.is_none_or(|job| self.is_done(job))
    }

    pub(super) fn grant_is_durable(&self) -> bool {
        self.grant.is_none_or(|job| self.is_done(job)) || Mutant::ForgetGrant.on()
    }

    /// Entries are being written, or wait to be.
    pub(super) fn appends_under_way(&self) -> bool {
        !self.pending.append.is_empty()
            || self.pending.install.is_some()
            || self.out.as_ref().is_some_and(|out| out.appends)
    }

    /// For the mutant that ballots again in the term that it found on the disk.
    pub(super) fn term_raised_here(&self) -> bool {
        self.durable_term > self.start_term
    }

    /// Is this job (or an earlier one) done?
    pub(super) fn is_done(&self, job: JobId) -> bool {
        job < self.out.as_ref().map_or(self.next, |out| out.id)
    }

    #[cfg(test)]
    pub(super) fn has_work(&self) -> bool {
        self.out.is_none() && (!self.pending.is_empty() || self.hard_state || self.before)
    }
}

#[cfg(feature = "model")]
impl Jobs {
    pub(super) fn view(&self, view: &mut super::view::View) {
        let Self {
            next: _, // the others go in as seen from it
            pending,
            before,
            lowered,
            written_mark,
            always_sync,
            hard_state,
            sync,
            out,
            durable_term,
            held,
            mark_lazy,
            synced_at,
            formation,
            grant,
            life,
            start_term,
            ack: _, // set anew before each job is taken
        } = self;
        view.put(&(pending, before, lowered, written_mark, always_sync));
        view.put(&(hard_state, sync, durable_term, start_term));
        view.waiting(held.iter().map(|(job, message)| (*job, message)));
        view.put(&out.is_some());
        if let Some(out) = out {
            out.view(view);
        }
        view.put(&(*mark_lazy && !view.recent(*synced_at, MARK_SYNC_US)));
        view.put(mark_lazy);
        view.job(*formation);
        view.job(grant.filter(|job| !self.is_done(*job)));
        view.job(life.filter(|job| !self.is_done(*job)));
    }
}

#[cfg(feature = "model")]
impl Out {
    fn view(&self, view: &mut super::view::View) {
        let Self {
            id,
            last,
            term,
            appends,
            ack,
        } = self;
        view.job(Some(*id));
        let read = Mutant::AckAfterGrant.on();
        view.put(&(last, term, appends, ack.filter(|_| read)));
    }
}
