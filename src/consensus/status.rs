//! Looks inside a node.

use super::primary::PrimaryState;
use super::{Node, Role, Status};
use crate::types::{Incarnation, Index, Level, ReplicaId, Stamp, Term};
use std::collections::BTreeMap;

/// What changes from step to step, of [`Status`]: it costs no allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// What it is.
    pub role: Role,
    /// Current term.
    pub term: Term,
    /// Whom it follows (itself if primary).
    pub primary: Option<ReplicaId>,
    /// The primary has committed in its own term (false elsewhere).
    pub serving: bool,
    /// Last entry, durable or not.
    pub last: Stamp,
    /// Last durable entry.
    pub durable: Stamp,
    /// Commit index.
    pub commit: Index,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its own committed log names that incarnation.
    pub admitted: bool,
    /// The level in force.
    pub level: Level,
    /// The state is doubted.
    pub doubted: bool,
}

impl Node {
    /// A short look inside, for every step.
    pub fn glance(&self) -> Glance {
        let incarnation = self.hard.incarnation;
        Glance {
            role: self.role(),
            term: self.hard.term,
            primary: self.seen_primary(),
            serving: self.leading.as_ref().is_some_and(|l| l.serving),
            last: self.log.last(),
            durable: self.log.durable(),
            commit: self.commit,
            incarnation,
            admitted: self.membership.committed().get(&self.config.id) == Some(&incarnation),
            level: self.levels.in_force(),
            doubted: self.comparison.doubt.is_some(),
        }
    }

    /// As primary: the lowest entry up to which the log of a connected peer is known to be ours.
    pub fn lowest_match(&self) -> Option<Index> {
        let leading = self.leading.as_ref()?;
        let linked = leading.peers.iter().filter(|(id, _)| self.peers[id].link);
        linked.map(|(_, progress)| progress.matched).min()
    }

    /// A look inside.
    pub fn status(&self) -> Status {
        Status {
            id: self.config.id,
            incarnation: self.hard.incarnation,
            cluster: self.hard.cluster,
            role: self.role(),
            term: self.hard.term,
            primary: self.seen_primary(),
            serving: self.leading.as_ref().is_some_and(|l| l.serving),
            base: self.log.base().stamp.index,
            last: self.log.last(),
            durable: self.log.durable(),
            head_hash: self.log.head_hash(),
            commit: self.commit,
            members: self.membership.committed().clone(),
            level: self.levels.in_force(),
            matches: self
                .leading
                .as_ref()
                .map_or_else(BTreeMap::new, PrimaryState::matches),
            connected: self
                .peers
                .iter()
                .filter(|(_, p)| p.link)
                .map(|(id, _)| *id)
                .collect(),
            damage: self.damage.clone(),
            quarantine: self.comparison.doubt.clone(),
            digest_agreed: self.comparison.agreed,
            digest_tie: self.comparison.tie(),
            adopted: self.adopted,
            refused: self
                .peers
                .iter()
                .filter_map(|(id, peer)| Some((*id, peer.refused_for.clone()?)))
                .collect(),
            clock_ahead_us: self.clocks.wrong(self.config.id),
            halt: self.halt.clone().filter(|_| self.no_primary_can_be()),
        }
    }

    /// What this replica is just now.
    pub(super) fn role(&self) -> Role {
        if self.damage.is_some() {
            Role::Damaged
        } else if self.is_repairing() {
            Role::Repairing
        } else if self.leading.is_some() {
            Role::Primary
        } else if self.is_formed() && !self.is_admitted() {
            Role::NotAdmitted
        } else if self.is_quarantined() {
            Role::Quarantined
        } else if self.retiring_until.is_some() {
            Role::Retiring
        } else if self.contest.is_some() {
            Role::Candidate
        } else if self.boot_until.is_some() && self.primary.is_none() {
            Role::Booting
        } else {
            Role::Secondary
        }
    }
}
