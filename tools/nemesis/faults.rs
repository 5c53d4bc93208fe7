//! What goes wrong, when, and to whom: a schedule that depends on the seed alone. Whom "the
//! primary" means is decided when the fault begins.

use crate::rng::Rng;
use clap::ValueEnum;
use std::fmt;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// SIGKILL; started again when it heals.
    Kill,
    /// SIGSTOP for longer than the election timeout.
    Pause,
    /// Cut off from the other replicas, in half of the cases from the clients as well.
    Partition,
    /// One direction of its links is cut.
    OneWay,
    /// Its links are slow and, through the switch, lossy.
    Slow,
    /// No room on its disk.
    DiskFull,
    /// Killed, bytes of a file changed or cut off, started; repairs itself.
    Damage,
    /// Killed, its data directory removed, started.
    Wipe,
    /// Its wall clock jumps or stands still while it runs, or is another one after a restart; ends with
    /// the right one.
    Clock,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::OneWay => "one-way",
            Self::Slow => "slow",
            Self::DiskFull => "disk-full",
            Self::Damage => "damage",
            Self::Wipe => "wipe",
            Self::Clock => "clock",
        })
    }
}

impl Kind {
    /// The replica loses what it has promised: one at a time, and only when all are well.
    pub fn loses_memory(self) -> bool {
        matches!(self, Self::Damage | Self::Wipe)
    }

    /// It takes the process down, so that a second such fault takes the majority of three.
    fn touches_disk(self) -> bool {
        self.loses_memory() || self == Self::DiskFull
    }
}

/// Whom it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whoever is primary then.
    Primary,
    /// The replica at this place among those that no other fault of the step hits.
    Number(u64),
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// Whom.
    pub target: Target,
    /// Decides what a kind leaves open: which direction, how slow, which bytes.
    pub salt: u64,
}

impl Fault {
    /// Killed.
    pub fn of_the_primary() -> Self {
        Self {
            kind: Kind::Kill,
            target: Target::Primary,
            salt: 0,
        }
    }
}

/// Faults that begin together and heal together.
#[derive(Clone, Debug)]
pub struct Step {
    /// Milliseconds without a fault before it.
    pub quiet_ms: u64,
    /// One, or two on different replicas, or one on each.
    pub faults: Vec<Fault>,
    /// A moment later the primary is killed too: what a term begins with is seen only by an election.
    pub then_elect: bool,
    /// Milliseconds that they last.
    pub hold_ms: u64,
}

/// The schedule of a seed. Endless.
pub struct Schedule {
    rng: Rng,
    kinds: Vec<Kind>,
    replicas: u16,
    /// Kinds that have not been used since all were: none is left out by chance.
    left: Vec<Kind>,
}

impl Schedule {
    /// With these kinds of faults; there must be at least one.
    pub fn new(seed: u64, kinds: &[Kind], replicas: u16) -> Self {
        let mut kinds = kinds.to_vec();
        kinds.sort_unstable();
        kinds.dedup();
        Self {
            rng: Rng::new(seed),
            kinds,
            replicas,
            left: Vec::new(),
        }
    }

    /// What comes next.
    pub fn next(&mut self) -> Step {
        let quiet_ms = self.rng.between(1_000, 4_000);
        let hold_ms = self.rng.between(1_500, 6_000);
        let kind = self.kind();
        let mut faults: Vec<Fault> = if kind == Kind::Kill && self.rng.chance(250) {
            // Power off in the whole room.
            let all = 0..u64::from(self.replicas);
            all.map(|number| self.fault(kind, Target::Number(number)))
                .collect()
        } else {
            let first = self.target();
            let mut faults = vec![self.fault(kind, first)];
            if self.rng.chance(300) {
                faults.extend(self.second(kind));
            }
            faults
        };
        let alone = kind == Kind::Clock && faults.len() == 1;
        let then_elect = alone && self.kinds.contains(&Kind::Kill) && self.rng.chance(500);
        if then_elect {
            // Mostly one that may be elected then.
            faults[0].target = Target::Number(self.rng.below(1 << 32));
        }
        Step {
            quiet_ms,
            faults,
            then_elect,
            hold_ms,
        }
    }

    /// A second fault beside this one. Never two that touch disks: a disk that is full or damaged
    /// on one replica and lost on another is more than is promised.
    fn second(&mut self, first: Kind) -> Option<Fault> {
        let kind = *self.rng.pick(&self.kinds);
        let target = Target::Number(self.rng.below(1 << 32));
        let fault = self.fault(kind, target);
        let two_disks = first.touches_disk() && kind.touches_disk();
        let refused = two_disks || kind.loses_memory();
        (!refused).then_some(fault)
    }

    fn kind(&mut self) -> Kind {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
        }
        let at = self.rng.below(self.left.len() as u64) as usize;
        self.left.swap_remove(at)
    }

    fn target(&mut self) -> Target {
        if self.rng.chance(500) {
            Target::Primary
        } else {
            Target::Number(self.rng.below(1 << 32))
        }
    }

    fn fault(&mut self, kind: Kind, target: Target) -> Fault {
        Fault {
            kind,
            target,
            salt: self.rng.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule_and_every_kind_comes() {
        let kinds = Kind::value_variants();
        let steps = |seed| {
            let mut schedule = Schedule::new(seed, kinds, 3);
            let steps: Vec<Step> = (0..50).map(|_| schedule.next()).collect();
            steps
        };
        assert_eq!(format!("{:?}", steps(7)), format!("{:?}", steps(7)));
        assert_ne!(format!("{:?}", steps(7)), format!("{:?}", steps(8)));
        for kind in kinds {
            let comes = steps(7)[..kinds.len()]
                .iter()
                .any(|step| step.faults[0].kind == *kind);
            assert!(comes, "{kind}");
        }
    }

    #[test]
    fn only_one_replica_of_a_step_loses_its_memory() {
        let mut schedule = Schedule::new(3, Kind::value_variants(), 5);
        for _ in 0..2_000 {
            let step = schedule.next();
            let lost = step.faults.iter().filter(|f| f.kind.loses_memory()).count();
            assert!(lost <= 1, "{step:?}");
        }
    }
}
