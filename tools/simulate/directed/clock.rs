//! One clock is an hour ahead, and its replica becomes primary again and again: nobody's token, good
//! for half an hour without use, may expire.

use crate::faults::{Director, Plan};
use crate::rng::Rng;
use crate::world::World;
use chat::consensus::Config;

const HOUR_US: i64 = 3_600_000_000;

/// See the module.
pub struct WrongClock {
    rng: Rng,
    wrong: Option<usize>,
}

impl WrongClock {
    /// From a seed.
    pub fn new(rng: Rng) -> Self {
        Self { rng, wrong: None }
    }
}

impl Director for WrongClock {
    fn tune(&mut self, plan: &mut Plan, _config: &mut Config) {
        plan.double_wipe = false;
        plan.same_damage = 0;
        plan.think_us = 3_000;
        plan.token_idle_us = (HOUR_US / 2) as u64;
    }

    fn act(&mut self, world: &mut World) -> u64 {
        let wrong = *self.wrong.get_or_insert_with(|| {
            world.checker.nobody_expires = true;
            self.rng.below(world.members.len() as u64) as usize
        });
        world.members[wrong].clock.wall_ahead_us = HOUR_US;
        match world.primary() {
            Some(primary) if primary == wrong => {
                world.checker.count("primaries with a wrong clock");
                if self.rng.chance(500) {
                    // Not only at its election: it jumps.
                    world.members[wrong].clock.wall_ahead_us = 24 * HOUR_US;
                }
                self.rng.between(50_000, 300_000)
            }
            Some(primary) => {
                world.kill(primary, "for another primary");
                world.restart_later(primary);
                self.rng.between(100_000, 200_000)
            }
            None => 20_000,
        }
    }
}
