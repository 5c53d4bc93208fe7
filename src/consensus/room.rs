//! Room on the disks: whether the primary may take new writes.
//!
//! Elections, commits and reads are never refused for space; only what clients want written is,
//! and only when no majority could go on without the replicas that are low. Each says in its
//! refreshes whether it is: see `crate::replica` for when.

use super::{Event, Node};
use crate::types::ReplicaId;

impl Node {
    /// This primary takes no writes of clients until there is room again.
    pub fn refuses_for_space(&self) -> bool {
        self.leading.as_ref().is_some_and(|leading| leading.full)
    }

    /// Judges it anew. A replica that is silent is not counted on either: else the last replica
    /// with room beside a dead one would let the one that is low run full.
    pub(super) fn tick_room(&mut self) {
        let timeout = self.config.election_timeout_us();
        let now = self.now.mono;
        let mut low: Vec<ReplicaId> = self
            .peers
            .iter()
            .filter(|(_, p)| p.disk_low)
            .map(|(id, _)| *id)
            .collect();
        let with_room = self
            .peers
            .values()
            .filter(|peer| !peer.disk_low && peer.heard.is_some_and(|at| now.since(at) <= timeout));
        let with_room = with_room.count() + usize::from(!self.disk_low);
        if self.disk_low {
            low.push(self.config.id);
            low.sort_unstable();
        }
        let full = !low.is_empty() && with_room < self.membership.majority();
        let Some(leading) = &mut self.leading else {
            return;
        };
        if leading.full == full {
            return;
        }
        leading.full = full;
        self.event(if full {
            Event::WritesRefused { low }
        } else {
            Event::WritesAccepted
        });
    }
}
