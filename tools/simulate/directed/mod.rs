//! Directed generators: schedules that lead where random seeds seldom come.
//!
//! Each is a [`super::faults::Director`] on the same world, with a little chance of its own, so that many seeds
//! try the same situation in different interleavings. The unmutated code passes every one.

mod again;
mod clock;
mod copies;
mod cut;
mod indirect;
mod lives;
#[cfg(feature = "mutants")]
mod misapplied;
mod offers;
mod old;
mod readmission;
mod replayed;
mod rounds;
mod tails;

use super::faults::FaultSet;
use super::rng::Rng;
use super::run::Directed;
use super::world::Options;
use chat::consensus::{Body, Mutant};
use chat::replica::PeerMessage;

/// A generator.
pub struct Generator {
    /// Its name in the table.
    pub name: &'static str,
    /// The variants that it is for.
    #[cfg_attr(not(feature = "mutants"), allow(dead_code))]
    pub mutants: &'static [Mutant],
    /// Size of the cluster.
    pub replicas: usize,
    /// Events of its schedule.
    pub steps: u64,
    /// Makes the schedule of a seed.
    pub make: Directed,
}

impl Generator {
    /// What a run of it is asked for.
    pub fn options(&self) -> Options {
        Options {
            replicas: self.replicas,
            faults: FaultSet::NONE,
            steps: self.steps,
            trace: false,
        }
    }
}

/// All of them.
pub const GENERATORS: &[Generator] = &[
    Generator {
        name: "late copies at boot, 3",
        mutants: &[
            Mutant::AdoptUnchecked,
            Mutant::AdoptOlder,
            Mutant::AdoptTorn,
            Mutant::AdoptWithoutTerm,
            Mutant::LongestIsNewest,
        ],
        replicas: 3,
        steps: 8_000,
        make: |seed| Box::new(copies::LateCopies::new(Rng::new(seed))),
    },
    Generator {
        name: "late copies at boot, 5",
        mutants: &[
            Mutant::AdoptUnchecked,
            Mutant::AdoptTorn,
            Mutant::GrantToOlder,
        ],
        replicas: 5,
        steps: 12_000,
        make: |seed| Box::new(copies::LateCopies::new(Rng::new(seed))),
    },
    Generator {
        name: "committed indirectly",
        mutants: &[Mutant::AdoptWithoutPrefix],
        replicas: 5,
        steps: 20_000,
        make: |seed| Box::new(indirect::Indirect::new(Rng::new(seed))),
    },
    Generator {
        name: "readmission without others",
        mutants: &[Mutant::CountReadmittedEarly],
        replicas: 3,
        steps: 8_000,
        make: |seed| Box::new(readmission::Lonely::new(Rng::new(seed))),
    },
    Generator {
        name: "late offers",
        mutants: &[Mutant::SnapshotOlder],
        replicas: 3,
        steps: 8_000,
        make: |seed| Box::new(offers::LateOffers::new(Rng::new(seed))),
    },
    Generator {
        name: "late grants",
        mutants: &[Mutant::PrimaryAgain],
        replicas: 5,
        steps: 8_000,
        make: |seed| Box::new(again::LateGrants::new(Rng::new(seed))),
    },
    Generator {
        name: "stale rounds",
        mutants: &[Mutant::StaleRound],
        replicas: 3,
        steps: 20_000,
        make: |seed| Box::new(rounds::StaleRounds::new(Rng::new(seed))),
    },
    Generator {
        name: "old copies",
        mutants: &[Mutant::IgnoreRollback, Mutant::WriteUnvouched],
        replicas: 3,
        steps: 12_000,
        make: |seed| Box::new(old::OldCopies::new(Rng::new(seed))),
    },
    Generator {
        name: "cut logs",
        mutants: &[Mutant::TruncateUnnoted, Mutant::GiveUpOwnTerm],
        replicas: 3,
        steps: 12_000,
        make: |seed| Box::new(cut::CutLogs::new(Rng::new(seed))),
    },
    Generator {
        name: "readmission delivered again",
        mutants: &[Mutant::ForgetAtReplay],
        replicas: 3,
        steps: 12_000,
        make: |seed| Box::new(replayed::Replayed::new(Rng::new(seed))),
    },
    Generator {
        name: "new lives",
        mutants: &[Mutant::RememberOldLife],
        replicas: 3,
        steps: 8_000,
        make: |seed| Box::new(lives::NewLives::new(Rng::new(seed))),
    },
    Generator {
        name: "one wrong clock, 3",
        mutants: &[Mutant::OwnClock],
        replicas: 3,
        steps: 8_000,
        make: |seed| Box::new(clock::WrongClock::new(Rng::new(seed))),
    },
    Generator {
        name: "one wrong clock, 5",
        mutants: &[Mutant::OwnClock],
        replicas: 5,
        steps: 12_000,
        make: |seed| Box::new(clock::WrongClock::new(Rng::new(seed))),
    },
    Generator {
        name: "lost tails, 3",
        mutants: &[Mutant::UnfencedPoll, Mutant::PollMinority],
        replicas: 3,
        steps: 6_000,
        make: |seed| Box::new(tails::LostTails::new(Rng::new(seed))),
    },
    Generator {
        name: "lost tails, 5",
        mutants: &[Mutant::UnfencedPoll, Mutant::PollMinority],
        replicas: 5,
        steps: 10_000,
        make: |seed| Box::new(tails::LostTails::new(Rng::new(seed))),
    },
    // What it needs is in no shipped binary.
    #[cfg(feature = "mutants")]
    Generator {
        name: "wrong states, 3",
        mutants: &[Mutant::CompareNothing, Mutant::ServeQuarantined],
        replicas: 3,
        steps: 8_000,
        make: |seed| Box::new(misapplied::Misapplied::new(Rng::new(seed))),
    },
    #[cfg(feature = "mutants")]
    Generator {
        name: "wrong states, 5",
        mutants: &[Mutant::CompareNothing, Mutant::ServeQuarantined],
        replicas: 5,
        steps: 12_000,
        make: |seed| Box::new(misapplied::Misapplied::new(Rng::new(seed))),
    },
];

/// The first one whose name contains this.
pub fn find(name: &str) -> Option<&'static Generator> {
    GENERATORS.iter().find(|g| g.name.contains(name))
}

/// Those for this variant.
#[cfg(feature = "mutants")]
pub fn for_mutant(mutant: Mutant) -> impl Iterator<Item = &'static Generator> {
    GENERATORS
        .iter()
        .filter(move |g| g.mutants.contains(&mutant))
}

/// Entries on their way from a primary.
fn carries_entries(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Consensus(m)
        if matches!(&m.body, Body::Append(append) if !append.entries.is_empty()))
}
