//! Lost memory: what the others remember of a replica, and what it does when that is more than it has.
//!
//! A disk may go back to an old copy: restored from a backup, swapped, cloned. Everything on it is
//! whole, and it breaks promises all the same: what was acknowledged is not there, and a grant that
//! was given may be given again. Nothing on the disk itself can show that, but the others can. The
//! primary's refreshes name the stamp that each member has acknowledged; everybody remembers the
//! highest (written lazily), and says in every `Hello` and refresh what it remembers of the receiver.
//!
//! A replica takes part in a process run, and writes to its log, only AFTER so many others have seen
//! that run that with itself they are a majority, and none of them remembers more of it than its log
//! held at the start. As long as a majority remembers, one of those does. If one remembers more, the
//! replica has lost its promises: it goes on under a new incarnation, and counts again when that is
//! readmitted.
//!
//! A durable log's last stamp falls only in a repair, which has rules of its own, after a fenced
//! poll, which is recorded (`HardState::given_up`), and for a moment when another log takes the place of
//! one that conflicts, in parts or by a snapshot. Within a process run that is known to be legal; a replica
//! that is killed in that moment is readmitted without need. That costs time; beside another replica that waits
//! for its readmission it costs the majority (seed 2049435 of three, see `docs/simulation.md`).

use super::{Event, Mutant, Node, Repair};
use crate::types::{Incarnation, ReplicaId, RunNonce, Stamp};
use std::collections::BTreeMap;

impl Node {
    /// What the primary says that each member has acknowledged.
    pub(super) fn remember(&mut self, acknowledged: &BTreeMap<ReplicaId, Stamp>) {
        for (id, stamp) in acknowledged {
            let known = *id == self.config.id || self.peers.contains_key(id);
            if known && *stamp > Stamp::ZERO {
                let mark = self.hard.others_marks.entry(*id).or_insert(*stamp);
                *mark = (*mark).max(*stamp);
            }
        }
    }

    /// A readmission is delivered, perhaps again after a restart. What the life before acknowledged
    /// lies below its entry, what the present one acknowledged does not: that must not be forgotten.
    pub(super) fn forget_memory_before(&mut self, id: ReplicaId, readmission: Stamp) {
        let mark = self.hard.others_marks.get(&id);
        if mark.is_some_and(|mark| *mark < readmission) || Mutant::ForgetAtReplay.on() {
            self.hard.others_marks.remove(&id);
        }
    }

    /// What this replica remembers of a peer's present incarnation.
    pub(super) fn remembered(&self, of: ReplicaId) -> Stamp {
        let present = self
            .peers
            .get(&of)
            .and_then(|peer| peer.incarnation)
            .is_some_and(|life| self.membership.in_force(of, life));
        let mark = self.hard.others_marks.get(&of).filter(|_| present);
        mark.copied().unwrap_or(Stamp::ZERO)
    }

    /// Have enough others seen this process run, and found nothing missing?
    pub(super) fn is_vouched_for(&self) -> bool {
        let vouching = self.peers.values().filter(|peer| peer.vouches).count();
        vouching + 1 >= self.membership.majority() || Mutant::IgnoreRollback.on()
    }

    /// May the log change? What was written before enough others have seen this run would stand in
    /// it after a crash, and the next run could not tell that it began with less.
    pub(super) fn may_write(&self) -> bool {
        self.is_vouched_for() || Mutant::WriteUnvouched.on()
    }

    /// A peer says what it remembers of this replica.
    pub(super) fn hear_memory(
        &mut self,
        from: ReplicaId,
        knows_run: Option<RunNonce>,
        remembers: Stamp,
    ) {
        // Of another life, or of an earlier run: it may remember more by now.
        let busy = self.damage.is_some() || self.installing.is_some();
        if knows_run != Some(self.run) || busy {
            return;
        }
        let whole = self.hard.repair == Repair::No;
        let given_up = remembers.term < self.hard.given_up;
        // Until enough others vouch nothing was acknowledged in this run: what came meanwhile proves
        // nothing about the promises.
        let vouched = self.is_vouched_for();
        // After that nothing is lost but by a truncation, which is legal: what takes the place of the
        // old entries may come in parts, the first of them older than what the others remember.
        let has = if vouched {
            self.log.last().max(self.dropped)
        } else {
            self.began_with
        };
        if remembers > has && whole && !given_up && !Mutant::IgnoreRollback.on() {
            self.begin_new_life(from, remembers, has);
            return;
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.vouches = true;
        }
        if !vouched && self.is_vouched_for() {
            // What was acknowledged without counting counts now.
            self.ack_due = true;
            self.maybe_acknowledge();
            self.maybe_end_boot();
        }
    }

    /// The promises are lost: the log is a source of bytes, and the new incarnation is readmitted.
    fn begin_new_life(&mut self, from: ReplicaId, remembers: Stamp, has: Stamp) {
        self.step_down("its disk is an old copy");
        self.contest = None;
        self.missing = None;
        self.adoption = None;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.rng.next().to_be_bytes());
        bytes[8..].copy_from_slice(&self.rng.next().to_be_bytes());
        self.hard.incarnation = Incarnation(bytes);
        // What was granted in this term is not known: the one grant is used.
        self.hard.granted_to = Some(self.config.id);
        self.hard.others_marks.clear();
        (self.began_with, self.dropped) = (self.log.last(), Stamp::ZERO);
        self.jobs.want_life();
        for peer in self.peers.values_mut() {
            peer.vouches = false;
        }
        self.event(Event::LostMemory {
            from,
            remembers,
            has,
        });
        let peers: Vec<ReplicaId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.send_hello(peer);
        }
    }
}
