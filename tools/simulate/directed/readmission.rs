//! A replica is readmitted while the others are deaf: only the primary and the newcomer hold it.

use super::carries_entries;
use crate::faults::{Director, Fate, Plan};
use crate::network::slot;
use crate::rng::Rng;
use crate::world::World;
use chat::consensus::Config;
use chat::replica::PeerMessage;

/// See the module.
pub struct Lonely {
    rng: Rng,
    /// Nobody but this one gets entries.
    newcomer: Option<usize>,
}

impl Lonely {
    /// From a seed.
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            newcomer: None,
        }
    }
}

impl Director for Lonely {
    fn tune(&mut self, plan: &mut Plan, _config: &mut Config) {
        plan.double_wipe = false;
        plan.think_us = 5_000;
    }

    fn act(&mut self, world: &mut World) -> u64 {
        if self.newcomer.take().is_some() {
            return self.rng.between(60_000, 200_000);
        }
        let Some(primary) = world.primary() else {
            return 5_000;
        };
        let victim = self.rng.below(world.members.len() as u64) as usize;
        if victim == primary || !world.may_wipe() {
            return 10_000;
        }
        world.wipe(victim);
        world.boot(victim);
        self.newcomer = Some(victim);
        self.rng.between(60_000, 150_000)
    }

    fn fate(&mut self, message: &mut PeerMessage) -> Fate {
        let deaf = self
            .newcomer
            .is_some_and(|newcomer| slot(message.to()) != newcomer);
        if deaf && carries_entries(message) {
            Fate::Lost
        } else {
            Fate::Pass
        }
    }
}
