//! Odd networks, disks that are not what they were, and builds: bridges and rings, old copies, disks
//! that change places, replicas that come back under a build that knows more.

use super::disk::Disk;
use super::faults::Fault;
use super::network::id_of;
use super::world::{Backup, Happening, World};
use chat::types::{FORMATION_LEVEL, LEVEL, Level, Stamp};

/// The highest level of any build here.
const LEVEL_MAX: Level = Level(4);

impl World {
    /// Only some pairs reach each other: two halves and a bridge between them, a ring, or two
    /// replicas that reach only the primary.
    pub fn bridge(&mut self) {
        let n = self.members.len();
        if n < 3 {
            return;
        }
        let hub = self.victim();
        let shape = self.rng.below(3);
        self.note(|| format!("odd network {shape} about {}", hub + 1));
        self.checker.count("odd networks");
        let place = |at: usize| (at + n - hub) % n;
        for a in 0..n {
            for b in 0..n {
                let (x, y) = (place(a), place(b));
                let open = x == y
                    || match shape {
                        // The hub is in both halves.
                        0 => x == 0 || y == 0 || (x <= n / 2) == (y <= n / 2),
                        // Only neighbours.
                        1 => x.abs_diff(y) == 1 || x.abs_diff(y) == n - 1,
                        // The last two reach only the hub.
                        _ => x == 0 || y == 0 || (x < n - 2 && y < n - 2),
                    };
                if !open {
                    self.cut_for_a_while(a, b);
                }
            }
        }
    }

    /// What a build knows: everything, where none comes back under another one.
    pub fn level_at_first(&mut self) -> Level {
        if !self.plan.faults.has(Fault::Upgrade) {
            return LEVEL;
        }
        let newer = u32::from(self.rng.chance(300));
        Level(FORMATION_LEVEL.0 + newer)
    }

    /// Comes back under a build that knows one level more.
    pub fn upgrade(&mut self, at: usize) {
        if self.members[at].level >= LEVEL_MAX {
            return;
        }
        self.kill(at, "for a newer build");
        self.members[at].level = Level(self.members[at].level.0 + 1);
        self.checker.count("upgrades");
        self.restart_later(at);
    }

    /// Takes a copy of the disk, or puts the one back that was taken before: only one that lacks
    /// what a majority of the others remembers durably.
    pub fn roll_back(&mut self, at: usize) {
        if self.swapped.is_some() {
            return;
        }
        let id = id_of(at);
        let in_force = self.checker.in_force.get(&id).copied();
        let Some(Backup {
            copy,
            life,
            last,
            given_up,
        }) = self.members[at].backup.take()
        else {
            self.take_copy(at);
            return;
        };
        let remembering = self
            .checker
            .views
            .iter()
            .enumerate()
            .filter(|(other, view)| {
                let hard = view.hard_durable.as_ref();
                let mark = hard.and_then(|hard| hard.others_marks.get(&id));
                // What is remembered of the life before the last readmission is void, and may be on
                // a disk still.
                let since = self.checker.last_readmission;
                // And what was acknowledged before a cut is no alarm after it.
                let alarming =
                    |mark: &Stamp| *mark > last && mark.term >= given_up && mark.index >= since;
                *other != at && mark.is_some_and(alarming)
            });
        let remembered = remembering.count() >= self.checker.majority();
        if in_force != Some(life) || !remembered || !self.may_wipe() {
            if in_force == Some(life) {
                self.members[at].backup = Some(Backup {
                    copy,
                    life,
                    last,
                    given_up,
                });
            }
            return;
        }
        self.kill(at, "its disk goes back to an old copy");
        self.note(|| format!("{} goes back to {last}", at + 1));
        self.wiped += 1;
        self.members[at].disk = copy;
        self.members[at].admitted = false;
        self.checker.on_rolled_back(at);
        self.restart_later(at);
    }

    fn take_copy(&mut self, at: usize) {
        self.kill(at, "its disk is copied");
        let view = &self.checker.views[at];
        let whole = !view.damaged
            && !view.is_repairing()
            && view.exchanging.is_none()
            && !self.members[at].disk.is_rotten();
        let hard = view.hard_durable.as_ref().filter(|_| whole);
        if let Some((life, given_up)) = hard.map(|hard| (hard.incarnation, hard.given_up))
            && let Some(last) = self.last_on(at)
        {
            self.members[at].backup = Some(Backup {
                copy: self.members[at].disk.copy(),
                life,
                last,
                given_up,
            });
        }
        self.restart_later(at);
    }

    /// The last entry on a dead replica's disk.
    fn last_on(&self, at: usize) -> Option<Stamp> {
        let copy: Disk = self.members[at].disk.copy();
        let (_, recovered) = copy.open(1).ok()?;
        Some(recovered.last)
    }

    /// Two disks change places for a while.
    pub fn swap(&mut self, a: usize, b: usize) {
        // An empty disk is nobody's, and would be made the other's.
        let owned = |at: usize| self.checker.views[at].hard_durable.is_some();
        if a == b || self.swapped.is_some() || !owned(a) || !owned(b) {
            return;
        }
        for at in [a, b] {
            self.kill(at, "its disk is moved");
        }
        self.exchange_disks(a, b);
        self.swapped = Some((a, b));
        for at in [a, b] {
            self.restart_later(at);
        }
        let after = self.rng.around(100_000);
        self.schedule(after, Happening::SwapBack);
    }

    /// Every disk is where it belongs.
    pub fn swap_back(&mut self) {
        if let Some((a, b)) = self.swapped.take() {
            for at in [a, b] {
                self.kill(at, "its disk is moved back");
            }
            self.exchange_disks(a, b);
            for at in [a, b] {
                self.restart_later(at);
            }
        }
    }

    fn exchange_disks(&mut self, a: usize, b: usize) {
        self.note(|| format!("the disks of {} and {} change places", a + 1, b + 1));
        self.checker.count("disks exchanged");
        let (low, high) = (a.min(b), a.max(b));
        let (front, back) = self.members.split_at_mut(high);
        std::mem::swap(&mut front[low].disk, &mut back[0].disk);
    }
}
