//! Looks inside a [`Replica`], and what an administrator may ask of it.

use super::Replica;
use crate::consensus::{Event, Glance, Mutant, Now, Repair, Role};
use crate::replica::{Space, Status};
use crate::storage::{Slice, StateReader};
use crate::types::{Hash, Index, Monotonic, ReplicaId};

impl<R: StateReader> Replica<R> {
    /// A short look inside, with the applied index and the digest there.
    pub fn glance(&self) -> (Glance, Index, Hash) {
        let (applied, digest) = (self.machine.applied(), self.machine.digest());
        (self.node.glance(), applied, digest)
    }

    /// A look inside.
    pub fn status(&self) -> Status {
        Status {
            node: self.node.status(),
            applied: self.machine.applied(),
            digest: self.machine.digest(),
            digests: self.machine.digests(),
            checkpoint: self.disk.checkpoint(),
            cleanups: self.machine.cleanups(),
            low: self.room.seen().filter(|_| self.room.is_low()),
            space: self.room.seen(),
            refuses_writes: self.node.refuses_for_space(),
            last_repair: self.repairs.last().cloned(),
            refusals: self.node.refusals().clone(),
        }
    }

    /// Is the last repair over?
    pub(super) fn look_at_repair(&mut self, events: &[Event]) {
        let repairing = self.node.hard_state().repair != Repair::No;
        let reached = self.machine.applied().max(self.node.durable());
        let repaired =
            self.repairs
                .look(events, (repairing, self.primary), (reached, self.now.wall));
        self.output.repaired = repaired;
    }

    /// The next command is applied as if it were none: to see that noticed.
    #[cfg(any(test, feature = "mutants"))]
    pub fn misapply(&mut self) {
        self.machine.misapply().next();
    }

    /// The one that was.
    #[cfg(any(test, feature = "mutants"))]
    pub fn misapplied(&mut self) -> Option<crate::types::Index> {
        self.machine.misapply().done()
    }

    /// Free space was looked at.
    pub(super) fn on_disk_space(&mut self, free: u64) {
        let building = self.upkeep.is_rewriting() || self.node.is_receiving();
        let rewriting = if building {
            0
        } else {
            self.upkeep.copy_bytes()
        };
        if !self.room.see(free, rewriting) {
            return;
        }
        let seen = self.room.seen().filter(|_| self.room.is_low());
        self.output.events.push(match seen {
            Some(Space { free, needed }) => Event::DiskLow { free, needed },
            None => Event::DiskRoom,
        });
        self.tell_applied();
    }

    /// This replica.
    pub fn id(&self) -> ReplicaId {
        self.config.node.id
    }

    /// Index of the last applied entry.
    pub fn applied(&self) -> Index {
        self.machine.applied()
    }

    /// The primary as known at the last turn.
    pub fn primary(&self) -> Option<ReplicaId> {
        self.primary
    }

    /// False on a replica whose copy must not be shown to anybody: it is damaged, its state is
    /// doubted, or its place in the cluster is another's.
    pub fn may_serve(&self) -> bool {
        let takes_no_part = matches!(
            self.role,
            Role::Damaged | Role::NotAdmitted | Role::Repairing
        );
        !takes_no_part && (!self.is_doubted() || Mutant::ServeQuarantined.on())
    }

    /// Writes wait that the next turn would propose: do not wait for an input.
    pub fn wants_turn(&self) -> bool {
        self.serving && !self.refused && self.writes.held() > 0
    }

    /// Reads wait, of clients here or of other replicas: a turn to come looks things up for them.
    pub fn reads_wait(&self) -> bool {
        !self.reads.is_empty()
    }

    /// A turn with a tick is wanted at this moment, if there is none before.
    pub fn wake_at(&self) -> Option<Monotonic> {
        self.node.wake_at()
    }

    /// Gives the primary role to another replica, if this one has it.
    pub fn hand_over(&mut self, now: Now) {
        self.now = now;
        self.node.hand_over(now);
    }

    /// Asks that the trees stand still, at what is applied now or later: for a scan.
    pub fn freeze(&mut self) {
        self.disk.freeze(self.machine.applied());
    }

    /// Do the trees stand still? It takes some turns.
    pub fn is_frozen(&mut self) -> bool {
        self.disk.is_frozen()
    }

    /// The last slice written, without its changes: the state that the trees hold. `None` if
    /// nothing was written to them yet.
    pub fn checkpoint(&self) -> Option<Slice> {
        self.disk.checkpoint_slice().cloned()
    }

    /// The trees may move again.
    pub fn thaw(&mut self) {
        self.disk.thaw();
    }
}
