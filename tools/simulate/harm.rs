//! What is done to the disks of the simulated replicas: one at a time, for two that forget are outside
//! of what is promised.

use super::disk::Disk;
use super::world::World;
use chat::types::Index;

impl World {
    /// One disk at a time, and only once every disk knows that the readmission before is committed:
    /// two lost disks of three, nearly at once, are outside the fault model.
    pub fn may_wipe(&self) -> bool {
        let others = self.members.len() > 1 && self.swapped.is_none();
        others && self.members.iter().all(|m| m.admitted) && self.wiped < 3 && {
            let views = &self.checker.views;
            // A repair is over when its end is durable: until then it begins anew after a kill.
            self.readmission_is_known()
                && views
                    .iter()
                    .all(|view| !view.damaged && !view.is_repairing())
                && self.members.iter().all(|m| !m.disk.is_rotten())
        }
    }

    /// Every disk knows that the last readmission is committed. Before that the loss of another disk
    /// may leave the rest without a primary.
    pub fn readmission_is_known(&self) -> bool {
        let readmitted = self.checker.last_readmission;
        let mut views = self.checker.views.iter();
        views.all(|view| view.commit_durable >= readmitted)
    }

    /// The tail is lost down to below what was acknowledged, or an entry among the last is another:
    /// what an open must see.
    pub fn damage(&mut self, at: usize) {
        if self.rng.chance(500) {
            self.rot_long_ago(at);
            return;
        }
        let mark = self.mark(at);
        if self.rng.chance(500) && self.rot(at) || mark == 0 {
            return;
        }
        let base = self.members[at].disk.base_and_applied().0.0;
        if base < mark {
            let after = self.rng.between(base, mark - 1);
            self.lose_tail(at, after);
        }
    }

    /// Something that was written long ago cannot be read any more. Nobody knows before it is read: a
    /// running replica goes on, until it needs it or its scrub comes by.
    fn rot_long_ago(&mut self, at: usize) {
        let (_, applied) = self.members[at].disk.base_and_applied();
        let durable = Index(self.checker.views[at].durable.len() as u64);
        let upto = applied.min(durable);
        let rotten = self.members[at].disk.rot(upto, &mut self.rng);
        if rotten {
            self.note(|| format!("{}: something up to {upto} rots", at + 1));
            self.checker.count("records that rotted");
            self.checker.views[at].rotten = true;
        }
    }

    /// What a replica has promised to hold, at least.
    pub fn mark(&self, at: usize) -> u64 {
        let hard = self.checker.views[at].hard_durable.as_ref();
        hard.map_or(0, |hard| hard.mark.index.0)
    }

    /// Another entry stands before the last one. False if an open would not see that: below what
    /// the trees stand at it does not look, that is a scrub's business.
    pub fn rot(&mut self, at: usize) -> bool {
        let (base, applied) = self.members[at].disk.base_and_applied();
        let last = self.checker.views[at].durable.len() as u64;
        if last <= 2 || applied.0 >= last || base.0 + 1 >= last {
            return false;
        }
        self.kill(at, "its disk is damaged");
        // What was not synced may have gone with that.
        let last = self.checker.views[at].durable.len() as u64;
        self.rot_entry(at, Index(last - 1));
        true
    }

    /// An entry is another.
    pub fn rot_entry(&mut self, at: usize, index: Index) {
        self.kill(at, "its disk is damaged");
        self.note(|| format!("{}: entry {index} rots", at + 1));
        self.members[at].disk.rewrite_entry(index);
        self.harmed(at);
    }

    /// The log's end is gone.
    pub fn lose_tail(&mut self, at: usize, after: u64) {
        self.kill(at, "its disk is damaged");
        self.note(|| format!("{} loses its log above {after}", at + 1));
        self.members[at].disk.lose_log_after(Index(after));
        self.harmed(at);
    }

    pub(super) fn harmed(&mut self, at: usize) {
        self.wiped += 1;
        self.members[at].admitted = false;
        self.checker.on_damaged(at);
    }

    /// Replaces the disk by an empty one.
    pub fn wipe(&mut self, at: usize) {
        self.kill(at, "its disk is replaced");
        self.note(|| format!("{} has an empty disk", at + 1));
        self.wiped += 1;
        self.members[at].disk = Disk::new();
        self.members[at].admitted = false;
        self.checker.on_wiped(at);
    }

    /// Loses the hard state, and nothing else.
    pub fn lose_promises(&mut self, at: usize) {
        self.kill(at, "its hard state is lost");
        self.wiped += 1;
        self.members[at].disk.lose_hard_state();
        self.members[at].admitted = false;
        self.checker.on_promises_lost(at);
    }
}
