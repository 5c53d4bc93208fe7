//! The level in force, and raising it.
//!
//! A build knows levels up to one of its own and says so in its hello. Every cluster begins at the
//! level of entry 1, whatever its builds know; a serving primary raises it, by an entry, once every
//! member has shown in its present run that it knows a higher one. A replica that meets a level
//! beyond its build stops: the state machine says so at that entry, and nothing is skipped.

use super::{Mutant, Node};
use crate::types::entry::{Entry, Kind};
use crate::types::{Index, Level, ReplicaId};

/// The level as committed, and the raises in the log above the commit point.
///
/// Invariant: `in_force` never falls.
#[derive(Clone)]
pub(super) struct Levels {
    in_force: Level,
    raising: Vec<Index>,
}

impl Levels {
    /// With what is in force at the applied index.
    pub(super) fn new(in_force: Level) -> Self {
        Self {
            in_force,
            raising: Vec::new(),
        }
    }

    pub(super) fn in_force(&self) -> Level {
        self.in_force
    }

    /// The state at the applied index says so: after the installation of another one it is the
    /// only one that knows.
    pub(super) fn learn(&mut self, applied: Index, in_force: Level) {
        self.in_force = self.in_force.max(in_force);
        self.raising.retain(|index| *index > applied);
    }

    pub(super) fn on_append(&mut self, entry: &Entry) {
        if entry.kind() == Kind::RaiseLevel {
            self.raising.push(entry.index());
        }
    }

    pub(super) fn on_truncate(&mut self, after: Index) {
        self.raising.retain(|index| *index <= after);
    }

    /// The entry is committed. Returns the level that it has raised to.
    pub(super) fn on_commit(&mut self, entry: &Entry) -> Option<Level> {
        let formed = entry.as_formation().map(|formation| formation.level);
        let raised = entry.raise_level();
        self.raising.retain(|index| *index != entry.index());
        self.in_force = self.in_force.max(formed.or(raised)?);
        raised
    }
}

impl Node {
    /// A serving primary raises the level to the highest that every member knows. One entry at a
    /// time; a member that is away, or not admitted, has shown nothing.
    pub(super) fn maybe_raise_level(&mut self) {
        let serving = self
            .leading
            .as_ref()
            .is_some_and(|l| l.serving && l.handing_over.is_none());
        let in_force = self.levels.in_force();
        if !serving || self.config.level <= in_force || !self.levels.raising.is_empty() {
            return;
        }
        let known = self.peers.keys().map(|id| self.known_level(*id));
        let lowest = if Mutant::RaiseEarly.on() {
            known.flatten().min()
        } else {
            // None is the least: who has shown nothing knows nothing.
            known.min().unwrap_or(Some(self.config.level))
        };
        let level = lowest.map_or(in_force, |lowest| lowest.min(self.config.level));
        if level > in_force {
            let payload = rmp_serde::to_vec(&level).expect("a number always encodes");
            self.propose_entry(Kind::RaiseLevel, &payload);
        }
    }

    /// The highest level that this member has shown to know: in its run that is there now, under
    /// the incarnation in force, to this run.
    fn known_level(&self, id: ReplicaId) -> Option<Level> {
        let peer = self.peers.get(&id).filter(|peer| peer.link)?;
        let counts = self.membership.counts(id, peer.incarnation?);
        let hello = peer.hello.as_ref()?;
        (counts && hello.knows_run == Some(self.run)).then_some(hello.level)
    }
}
