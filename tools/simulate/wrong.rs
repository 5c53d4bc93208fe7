//! States that are wrong on purpose, and what is believed meanwhile.
//!
//! From the moment at which a replica's state is made wrong to the moment at which it has noticed, it
//! may tell its clients anything: that is outside what is promised. What clients hear in that time is
//! taken as lost, whoever says it, for another replica's answer may come from the wrong one. Once the
//! replica has noticed, it must show nothing of its state.

use super::checker::Checker;
use super::network::slot;
use super::world::World;
use chat::consensus::Body;
use chat::replica::PeerMessage;
use chat::types::{Hash, Index};

/// Answers that were computed from a wrong state may travel so long, in virtual microseconds.
const TRAVEL_US: u64 = 1_000_000;

/// What is wrong on one replica.
#[derive(Clone, Copy, Debug)]
pub struct Wrong {
    /// The entry that was applied wrongly; `None`: the next one, that has not come yet.
    pub since: Option<Index>,
}

impl World {
    /// The next command is applied on this replica as if it were none.
    #[cfg(feature = "mutants")]
    pub fn misapply(&mut self, at: usize) {
        let doubted = self.checker.views[at].quarantined;
        if self.checker.views[at].wrong.is_some() || doubted {
            return;
        }
        if let Some(process) = self.process(at) {
            process.replica.misapply();
            self.note(|| format!("{} will apply an entry wrongly", at + 1));
            self.checker.count("entries applied wrongly");
            self.checker.views[at].wrong = Some(Wrong { since: None });
        }
    }

    /// After a step: has the replica applied the entry wrongly by now?
    pub fn look_at_wrong(&mut self, at: usize) {
        #[cfg(feature = "mutants")]
        if let Some(process) = &mut self.members[at].process
            && let Some(wrong) = &mut self.checker.views[at].wrong
        {
            wrong.since = wrong.since.or(process.replica.misapplied());
        }
        let view = &self.checker.views[at];
        let wrong = view.wrong.is_some_and(|wrong| wrong.since.is_some());
        if wrong && !view.quarantined {
            self.believe_after = self.now + TRAVEL_US;
        }
    }

    /// A wrong state that is given on before it is noticed: two are wrong then, which is outside.
    pub fn gives_on_what_is_wrong(&self, message: &PeerMessage) -> bool {
        let PeerMessage::Consensus(message) = message else {
            return false;
        };
        let state = matches!(
            message.body,
            Body::SnapshotOffer(_) | Body::SnapshotChunk(_)
        );
        state && self.checker.views[slot(message.from)].wrong.is_some()
    }

    /// May what a client hears be taken for true?
    pub fn believes(&self) -> bool {
        self.now >= self.believe_after
    }

    /// The process is gone: what it had computed wrongly and not written is gone with it.
    pub fn forget_unwritten(&mut self, at: usize) {
        let (_, applied) = self.members[at].disk.base_and_applied();
        let view = &mut self.checker.views[at];
        // A commit record carries the wrong state's digest also where the trees have not got so far.
        let reached = applied.max(view.commit_live);
        let written = |wrong: &Wrong| wrong.since.is_some_and(|since| since <= reached);
        view.wrong = view.wrong.filter(written);
    }
}

impl Checker {
    /// Is this digest no news for the others? One that is wrong is not; and a state that turns out
    /// right in spite of what was done to it is right.
    pub(super) fn is_wrong(&mut self, at: usize, index: Index, digest: Hash) -> bool {
        let Some(wrong) = self.views[at].wrong else {
            return false;
        };
        let known = self.digests.get(index.0 as usize).copied().flatten();
        if wrong.since.is_some_and(|since| since <= index) && known == Some(digest) {
            self.views[at].wrong = None;
            return false;
        }
        true
    }

    /// The replica knows that its state is wrong.
    pub(super) fn on_quarantined(&mut self, at: usize, index: Index, reason: &str) {
        self.count("replicas quarantined");
        let meant = self.views[at].wrong.is_some() || self.views[at].rotten;
        self.check(meant, "a good state is not doubted", || {
            format!("replica {} at {index}: {reason}", at + 1)
        });
    }

    /// Its state is right again.
    pub(super) fn on_rebuilt(&mut self, at: usize) {
        self.count("states rebuilt");
        self.views[at].wrong = None;
    }
}
