//! When a commit index is told to those whom no entries tell it.
//!
//! An append carries the commit index as of when it leaves. What is committed after the last one is told by
//! an append without entries, a *notice*, which wants no answer: the next entries, or the next heartbeat, do.
//!
//! A client that waits for each answer before it sends again would make a primary tell every commit in a
//! message of its own to each secondary, right before the next entries go there: a third of all that the
//! replicas have to do for such a client. So where small batches follow each other closely, a notice waits for
//! a moment for entries that carry it. Where nothing of that kind is to be expected it goes at once, and so
//! listeners on a secondary hear at once. Nor does it wait after a write that came through a secondary: its
//! client is not answered before that secondary has applied it, and sends nothing before.

use super::Node;
use super::progress::Progress;
use crate::types::{Monotonic, ReplicaId};

/// Two batches within so many microseconds: a third one is expected.
const CLOSE_US: u64 = 2_000;
/// Beside a batch of more, a notice is no cost, and the secondaries had better apply what it tells them while
/// the next batch gathers.
const SMALL_ENTRIES: usize = 4;

/// When a primary tells its commit index.
#[derive(Clone, Debug)]
pub(super) struct Notices {
    /// At once, to everybody who lacks it, from this moment on.
    due: Monotonic,
    /// When a batch was last proposed.
    proposed_at: Monotonic,
    /// It was small, and came soon after the one before.
    expecting: bool,
    /// Somebody lacks the commit index that is due.
    owed: bool,
}

impl Notices {
    pub(super) fn new(now: Monotonic) -> Self {
        Self {
            due: now,
            proposed_at: now,
            expecting: false,
            owed: false,
        }
    }

    pub(super) fn on_batch(&mut self, entries: usize, now: Monotonic) {
        let close = now.since(self.proposed_at) <= CLOSE_US;
        self.expecting = close && entries <= SMALL_ENTRIES;
        self.proposed_at = now;
    }

    /// The commit index has moved; `wait_us`: how long it may wait for entries. What is owed already is not
    /// put off.
    pub(super) fn on_commit(&mut self, now: Monotonic, wait_us: u64) {
        let due = now.plus(if self.expecting { wait_us } else { 0 });
        self.due = if self.owed { self.due.min(due) } else { due };
        self.owed = true;
    }

    /// Somebody waits for it on a secondary.
    pub(super) fn hurry(&mut self, now: Monotonic) {
        self.due = self.due.min(now);
    }

    pub(super) fn are_due(&self, now: Monotonic) -> bool {
        self.due <= now
    }
}

impl Node {
    /// A turn is wanted at this moment, if there is none before: a notice is due then.
    pub fn wake_at(&self) -> Option<Monotonic> {
        let leading = self.leading.as_ref()?;
        let waits = !leading.notices.are_due(self.now.mono) && self.somebody_lacks_commit();
        waits.then_some(leading.notices.due)
    }

    /// A write of the batch proposed last came through a secondary, where its client waits.
    pub fn note_awaited_elsewhere(&mut self) {
        if let Some(leading) = &mut self.leading {
            leading.notices.expecting = false;
        }
    }

    /// After everything was sent.
    pub(super) fn note_told(&mut self) {
        let owed = self.somebody_lacks_commit();
        if let Some(leading) = &mut self.leading {
            leading.notices.owed = owed;
        }
    }

    fn somebody_lacks_commit(&self) -> bool {
        let lacks = |(id, progress): (&ReplicaId, &Progress)| {
            self.peers[id].link && progress.lacks_commit(self.commit)
        };
        let leading = self.leading.as_ref();
        leading.is_some_and(|leading| leading.peers.iter().any(lacks))
    }
}

#[cfg(feature = "model")]
impl Notices {
    /// In the model nothing waits: the configuration says so.
    pub(super) fn view(&self, now: Monotonic) {
        let Self {
            due,
            proposed_at: _,
            expecting: _,
            owed: _,
        } = self;
        assert!(*due <= now, "a notice waits");
    }
}
