//! When a commit index is told to those whom no entries tell it.
//!
//! An append carries the commit index as of when it leaves. What is committed after the last one is told by
//! an append without entries, a *notice*, which wants no answer: the next entries, or the next heartbeat, do.
//!
//! A client that waits for each answer before it sends again would make a primary tell every commit in a
//! message of its own to each secondary, right before the next entries go there: a third of all that the
//! replicas have to do for such a client. So where small batches follow each other closely, a notice waits for
//! a moment for entries that carry it. Where nothing of that kind is to be expected it goes at once, and so
//! listeners on a secondary hear at once.

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
}

impl Notices {
    pub(super) fn new(now: Monotonic) -> Self {
        Self {
            due: now,
            proposed_at: now,
            expecting: false,
        }
    }

    pub(super) fn on_batch(&mut self, entries: usize, now: Monotonic) {
        let close = now.since(self.proposed_at) <= CLOSE_US;
        self.expecting = close && entries <= SMALL_ENTRIES;
        self.proposed_at = now;
    }

    /// The commit index has moved; `wait_us`: how long it may wait for entries.
    pub(super) fn on_commit(&mut self, now: Monotonic, wait_us: u64) {
        self.due = now.plus(if self.expecting { wait_us } else { 0 });
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
        let lacking = |(id, progress): (&ReplicaId, &Progress)| {
            self.peers[id].link && progress.lacks_commit(self.commit)
        };
        let waits = !leading.notices.are_due(self.now.mono);
        let waits = waits && leading.peers.iter().any(lacking);
        waits.then_some(leading.notices.due)
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
        } = self;
        assert!(*due <= now, "a notice waits");
    }
}
