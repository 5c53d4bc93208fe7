//! Appends reach only a part, all processes die, and at the boot copies arrive late.

use super::carries_entries;
use crate::faults::{Director, Fate, Plan};
use crate::network::slot;
use crate::rng::Rng;
use crate::world::{Happening, World};
use chat::consensus::{Body, Config};
use chat::replica::{DiskJob, PeerMessage};
use std::collections::BTreeSet;

/// See the module.
pub struct LateCopies {
    rng: Rng,
    /// Entries do not reach these.
    deaf: BTreeSet<usize>,
    turn: u64,
}

impl LateCopies {
    /// From a seed.
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            deaf: BTreeSet::new(),
            turn: 0,
        }
    }
}

impl Director for LateCopies {
    fn tune(&mut self, plan: &mut Plan, config: &mut Config) {
        plan.clients = 4;
        plan.think_us = 1_000;
        config.initialize_wait_us = 40_000;
        config.election_check_interval_us = 6_000;
    }

    fn act(&mut self, world: &mut World) -> u64 {
        self.turn += 1;
        let n = world.members.len();
        if self.turn.is_multiple_of(3) {
            self.deaf.clear();
            for at in 0..n {
                world.kill(at, "with all others");
                let after = self.rng.between(1_000, 45_000);
                world.schedule(after, Happening::Boot { at });
            }
            return self.rng.between(120_000, 200_000);
        }
        let primary = world.primary();
        self.deaf = (0..n)
            .filter(|at| Some(*at) != primary && self.rng.chance(600))
            .collect();
        if self.rng.chance(500)
            && let Some(primary) = primary
            && self.turn % 3 == 2
        {
            // The old primary keeps what only it has.
            world.kill(primary, "with a tail of its own");
            world.schedule(90_000, Happening::Boot { at: primary });
            return self.rng.between(50_000, 150_000);
        }
        self.rng.between(5_000, 60_000)
    }

    fn fate(&mut self, message: &mut PeerMessage) -> Fate {
        if carries_entries(message) && self.deaf.contains(&slot(message.to())) {
            return Fate::Lost;
        }
        let PeerMessage::Consensus(message) = message else {
            return Fate::Pass;
        };
        match message.body {
            Body::CopyPiece { .. } => Fate::Late(self.rng.between(100, 47_000)),
            // News of commits: what is acknowledged stays unknown to be committed for a while.
            Body::Append(_) | Body::Refresh(_) if self.rng.chance(500) => Fate::Lost,
            _ => Fate::Pass,
        }
    }

    fn kills_in(&mut self, job: &DiskJob) -> bool {
        let truncates = job
            .core
            .as_ref()
            .is_some_and(|core| core.truncate_after.is_some());
        truncates && self.rng.chance(300)
    }
}
