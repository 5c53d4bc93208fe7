//! Which incarnation of each replica counts.
//!
//! From the append of a `ReplaceIncarnation` until its commit is known, on each replica that
//! holds it, neither the old nor the new incarnation counts, and a majority is still of all n.

use super::Mutant;
use crate::types::entry::{Entry, ReplaceIncarnation};
use crate::types::{Incarnation, Index, Members, ReplicaId};
use std::collections::BTreeSet;

/// Membership as committed, and the readmissions in the log above the commit point.
#[derive(Clone)]
pub(super) struct Membership {
    committed: Members,
    pending: Vec<(Index, ReplaceIncarnation)>,
    /// Replaced in this process run. What such an incarnation sent may still arrive.
    retired: BTreeSet<(ReplicaId, Incarnation)>,
    size: usize,
}

impl Membership {
    pub(super) fn new(committed: Members, ids: &[ReplicaId]) -> Self {
        Self {
            committed,
            pending: Vec::new(),
            retired: BTreeSet::new(),
            size: ids.len(),
        }
    }

    /// The state of another replica took the place of this one's: membership as of that.
    pub(super) fn replace(&mut self, committed: Members) {
        self.committed = committed;
        self.pending.clear();
    }

    pub(super) fn committed(&self) -> &Members {
        &self.committed
    }

    /// How many of all n make a majority.
    pub(super) fn majority(&self) -> usize {
        self.size / 2 + 1
    }

    /// Does this incarnation count for grants, asks, matches and read rounds?
    pub(super) fn counts(&self, id: ReplicaId, incarnation: Incarnation) -> bool {
        if Mutant::CountReadmittedEarly.on() {
            let early = self.pending.iter().find(|(_, r)| r.id == id);
            if let Some((_, replace)) = early {
                return replace.new == incarnation;
            }
        }
        self.in_force(id, incarnation) && self.pending.iter().all(|(_, r)| r.id != id)
    }

    /// Is this incarnation the one in force as committed?
    pub(super) fn in_force(&self, id: ReplicaId, incarnation: Incarnation) -> bool {
        if Mutant::CountReadmittedEarly.on() {
            let new = |(_, r): &(Index, ReplaceIncarnation)| r.id == id && r.new == incarnation;
            if self.pending.iter().any(new) {
                return true;
            }
        }
        self.committed.get(&id) == Some(&incarnation)
    }

    /// Was it replaced, as far as this process run knows?
    pub(super) fn is_retired(&self, id: ReplicaId, incarnation: Incarnation) -> bool {
        self.retired.contains(&(id, incarnation))
    }

    /// A readmission waits for its commit: no other may be proposed.
    pub(super) fn is_changing(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn on_append(&mut self, entry: &Entry) {
        if let Some(replace) = entry.replace_incarnation() {
            self.pending.push((entry.index(), replace));
        }
    }

    pub(super) fn on_truncate(&mut self, after: Index) {
        self.pending.retain(|(index, _)| *index <= after);
    }

    /// The entry is committed. Returns whom it readmits.
    pub(super) fn on_commit(&mut self, entry: &Entry) -> Option<(ReplicaId, Incarnation)> {
        if let Some(formation) = entry.as_formation() {
            self.committed = formation.members;
        }
        let replace = entry.replace_incarnation()?;
        self.pending.retain(|(index, _)| *index != entry.index());
        // Proposed against the incarnation in force; a leftover of an earlier term may be stale.
        if self.committed.get(&replace.id) != Some(&replace.old) {
            return None;
        }
        self.committed.insert(replace.id, replace.new);
        self.retired.insert((replace.id, replace.old));
        Some((replace.id, replace.new))
    }
}

#[cfg(feature = "model")]
impl Membership {
    pub(super) fn view(&self, view: &mut super::view::View) {
        let Self {
            committed,
            pending,
            retired,
            size,
        } = self;
        view.put(&(committed, pending, retired, size));
    }
}
