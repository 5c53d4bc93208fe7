//! A damaged replica fills an empty store from the primary and takes part again, DESIGN-wise "lost
//! or damaged disk": corruption is not absence.
//!
//! What it had acknowledged is not known any more: its mark is only a lower bound. A majority may
//! have committed entries that it alone holds beside the primary. So it grants, ballots, agrees and
//! acknowledges nothing until its durable log has reached an index that a serving primary names
//! AFTER that primary has forgotten everything this replica acknowledged in earlier process runs:
//! whatever those acknowledgements helped to commit lies below. A new primary names a new one.

use super::{Body, Event, JobId, Mutant, Node, Repair};
use crate::types::{Index, ReplicaId};

/// That nothing can be repaired is said this often, in microseconds.
const HALT_EVERY_US: u64 = 60_000_000;

impl Node {
    /// May the log be less than what this replica has acknowledged?
    pub(super) fn is_repairing(&self) -> bool {
        self.hard.repair != Repair::No && !Mutant::GrantInRepair.on()
    }

    /// The log turned out wrong in this run: the next open begins the repair. In a cluster of one
    /// there is nobody to repair it from.
    pub(super) fn note_damage(&mut self) {
        if self.peers.is_empty() {
            self.damage_noted = Some(JobId(0));
            return;
        }
        self.hard.repair = Repair::Discard;
        self.damage_noted = Some(self.jobs.pending_id());
        self.jobs.want_hard_state(true);
    }

    /// A repairing replica has said hello. What it acknowledged in an earlier run is forgotten by
    /// now.
    pub(super) fn tell_repair_target(&mut self, to: ReplicaId) {
        if self.leading.as_ref().is_some_and(|leading| leading.serving) {
            let index = self.log.last().index;
            self.send(to, Body::RepairTo { index });
        }
    }

    pub(super) fn on_repair_to(&mut self, from: ReplicaId, index: Index) {
        if self.hard.repair == Repair::No || self.damage.is_some() || self.leading.is_some() {
            return;
        }
        self.follow(from);
        self.repair_target = Some((self.hard.term, index));
        self.maybe_end_repair();
    }

    /// Without a target of the present primary's it is asked for one, by a hello.
    pub(super) fn tick_repair(&mut self) {
        let named = self.repair_target.is_some_and(|(t, _)| t == self.hard.term);
        if self.hard.repair == Repair::No || named || self.damage.is_some() {
            return;
        }
        self.maybe_tell_halt();
        if let Some(primary) = self.primary {
            let due = self.peers.get(&primary).is_some_and(|peer| {
                peer.hello_sent.is_none_or(|sent| {
                    self.now.mono.since(sent) >= self.config.refresh_interval_us * 2
                })
            });
            if due {
                self.send_hello(primary);
            }
        }
    }

    /// The others that are known to have lost what they acknowledged, by their own word: what this
    /// replica itself knows of incarnations went with its store. It counts only for a peer that was
    /// readmitted since it spoke.
    pub(super) fn known_damaged(&self) -> Vec<ReplicaId> {
        let lost = |(id, peer): &(&ReplicaId, &super::node::Peer)| {
            peer.hello.as_ref().is_some_and(|hello| {
                let in_force = peer
                    .incarnation
                    .is_some_and(|life| self.membership.in_force(**id, life));
                hello.repairing || hello.damaged || !(hello.admitted || in_force)
            })
        };
        let mut damaged: Vec<ReplicaId> =
            self.peers.iter().filter(lost).map(|(id, _)| *id).collect();
        damaged.push(self.config.id);
        damaged.sort_unstable();
        damaged
    }

    /// Are so many damaged that those left can elect nobody?
    pub(super) fn no_primary_can_be(&self) -> bool {
        let whole = self.config.ids.len() - self.known_damaged().len();
        let alone = self.primary.is_none() || self.misses_primary();
        alone && whole < self.membership.majority()
    }

    /// With a majority of damaged replicas there is no primary to repair from, and nothing that
    /// proves which entries were never committed.
    fn maybe_tell_halt(&mut self) {
        let told = self.waiting_told;
        let due = told.is_none_or(|at| self.now.mono.since(at) >= HALT_EVERY_US);
        // Before the boot is over not everybody has spoken.
        let due = due && self.boot_until.is_none();
        if !due || !self.no_primary_can_be() || self.poll_may_prove() {
            return;
        }
        self.waiting_told = Some(self.now.mono);
        let event = Event::CannotRepair {
            damaged: self.known_damaged(),
            mark: self.hard.mark,
            suspect: self.suspected(),
            held_by: self
                .poll
                .as_ref()
                .map_or_else(Vec::new, super::poll::Poll::held_by),
        };
        self.halt = Some(event.clone());
        self.event(event);
    }

    pub(super) fn maybe_end_repair(&mut self) {
        let Some((term, index)) = self.repair_target else {
            return;
        };
        let current = term == self.hard.term && self.primary.is_some();
        let still = self.installing.is_some() || self.damage.is_some();
        let needed = if Mutant::EndRepairAtMark.on() {
            self.hard.mark.index
        } else {
            index
        };
        if self.hard.repair == Repair::No || !current || still || self.agreed() < needed {
            return;
        }
        self.become_whole();
        self.ack_due = true;
        self.event(Event::Repaired { index });
    }

    /// The repair is over: this replica takes part again, and everybody is told.
    pub(super) fn become_whole(&mut self) {
        self.hard.repair = Repair::No;
        self.began_with = Some(self.log.last());
        self.repair_target = None;
        self.poll = None;
        self.halt = None;
        self.jobs.want_hard_state(true);
        let peers: Vec<ReplicaId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.send_hello(peer);
        }
    }
}
