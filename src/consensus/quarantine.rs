//! A replica whose state is wrong and whose log is good.
//!
//! Its state was contradicted by a majority (see `digests`), or a scan of its trees has found that
//! they are not what was summed up. The log, and all that was promised with it, is another matter: a
//! quarantined replica logs, acknowledges, grants and agrees as before, for a majority may need it.
//! It serves no reads and no streams and sends no snapshots; whoever runs it applies nothing until
//! the state has been rebuilt, from the log or from the primary's state.
//!
//! As primary it would have to serve, so it avoids that: it abstains while another may win, and
//! ballots only after two rounds of which no primary came (its copy of the log may be the only one
//! that is new enough). As primary it commits the entry of its own term, takes no proposals, and
//! gives the role to a replica of good state as soon as one holds all that it holds. Where there is
//! none it stays, and serves nothing, until it is rebuilt.

use super::digests::Comparison;
use super::{Body, Event, Node};
use crate::types::{Index, ReplicaId};

/// Rounds without a primary after which a quarantined replica ballots.
const ROUNDS: u32 = 2;

impl Node {
    /// Is this replica's state doubted?
    pub fn is_quarantined(&self) -> bool {
        self.hard.quarantined
    }

    /// Everything up to here was handed out in [`super::Ready::committed`].
    pub fn delivered(&self) -> Index {
        self.delivered
    }

    /// This replica's state was found wrong, at (about) this index: see the module.
    pub fn quarantine(&mut self, now: super::Now, index: Index, reason: String) {
        self.now = now;
        self.enter_quarantine(index, reason);
    }

    pub(super) fn enter_quarantine(&mut self, index: Index, reason: String) {
        if self.is_quarantined() || self.damage.is_some() {
            return;
        }
        self.hard.quarantined = true;
        self.comparison = Comparison {
            doubt: Some((index, reason.clone())),
            ..Comparison::default()
        };
        self.jobs.want_hard_state(true);
        if let Some(leading) = &mut self.leading {
            leading.serving = false;
        }
        self.event(Event::Quarantined { index, reason });
        self.maybe_retreat();
    }

    /// The state is that after this entry, by a rebuilding: it is shown again.
    pub fn end_quarantine(&mut self, now: super::Now, index: Index) {
        self.now = now;
        if !self.is_quarantined() {
            return;
        }
        self.hard.quarantined = false;
        self.comparison.doubt = None;
        self.jobs.want_hard_state(true);
        self.event(Event::Rebuilt { index });
        self.maybe_serve();
    }

    /// May the others do without this replica's ballot?
    pub(super) fn abstains_for_its_state(&self) -> bool {
        self.is_quarantined() && self.lost_rounds < ROUNDS
    }

    /// An entry of the primary's own term is committed: it serves, if its state may be shown.
    pub(super) fn maybe_serve(&mut self) {
        let (commit, quarantined) = (self.commit, self.is_quarantined());
        let Some(leading) = &mut self.leading else {
            return;
        };
        if leading.serving || quarantined || commit < leading.term_start {
            return;
        }
        leading.serving = true;
        let term = self.hard.term;
        self.event(Event::Serving(term));
    }

    /// A quarantined primary gives its role away.
    pub(super) fn maybe_retreat(&mut self) {
        if !self.is_quarantined() {
            return;
        }
        let last = self.log.last().index;
        let commit = self.commit;
        let heir = self.heir();
        let Some(leading) = &mut self.leading else {
            return;
        };
        let own_term = commit >= leading.term_start;
        let equal = heir.is_some_and(|id| leading.peers[&id].matched == last);
        if own_term && equal && leading.handing_over.is_none() {
            leading.handing_over = Some((heir, self.now.mono));
            self.maybe_hand_over();
        }
    }

    /// The connected replica that the role is best given to: one that counts, whose state is good,
    /// and that holds most of the log.
    pub(super) fn heir(&self) -> Option<ReplicaId> {
        let leading = self.leading.as_ref()?;
        let best = leading.peers.iter().filter(|(id, _)| {
            let peer = &self.peers[*id];
            let counts = peer
                .incarnation
                .is_some_and(|life| self.membership.counts(**id, life));
            let repairing = peer.hello.as_ref().is_some_and(|hello| hello.repairing);
            peer.link && counts && !repairing && !peer.quarantined
        });
        best.max_by_key(|(_, progress)| progress.matched)
            .map(|(id, _)| *id)
    }

    /// Asks the primary for its state, after this index or a later one.
    pub fn want_state(&mut self, now: super::Now, at_least: Index) {
        self.now = now;
        if self.is_quarantined()
            && self.leading.is_none()
            && self.receives_nothing_now()
            && let Some(primary) = self.primary
        {
            self.send(primary, Body::StateWanted { at_least });
        }
    }

    /// The primary's side: a quarantined replica rebuilds its state from this one's.
    pub(super) fn on_state_wanted(&mut self, peer: ReplicaId, at_least: Index) {
        if self.is_quarantined() {
            return;
        }
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.serving) else {
            return;
        };
        leading.rebuilding.insert(peer);
        self.ready.snapshot_reads.push(super::SnapshotRead {
            peer,
            wanted: None,
            at_least: at_least.max(self.log.base().stamp.index),
        });
    }

    /// A replica that was given this one's state found that it is not what it says.
    pub(super) fn on_state_doubted(&mut self, by: ReplicaId, index: Index) {
        if self.leading.is_some() {
            self.event(Event::StateDoubted { by, index });
        }
    }
}

/// "replica 2", "replicas 2, 3".
pub(super) fn names(ids: &[ReplicaId]) -> String {
    let named: Vec<String> = ids.iter().map(ToString::to_string).collect();
    match named.as_slice() {
        [one] => format!("replica {one}"),
        many => format!("replicas {}", many.join(", ")),
    }
}
