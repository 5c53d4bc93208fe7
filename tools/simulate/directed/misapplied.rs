//! One replica after the other applies an entry wrongly, and all of them come and go.

use crate::faults::{Director, FaultSet, Plan};
use crate::rng::Rng;
use crate::world::World;

/// See the module.
pub struct Misapplied {
    rng: Rng,
}

impl Misapplied {
    /// From a seed.
    pub fn new(rng: Rng) -> Self {
        Self { rng }
    }
}

impl Director for Misapplied {
    fn tune(&mut self, plan: &mut Plan, _: &mut chat::consensus::Config) {
        plan.faults = FaultSet::NONE;
        plan.away_us = 60_000;
        plan.think_us = 2_000;
        plan.token_idle_us = 1 << 44;
        plan.digest_every = *self.rng.pick(&[2, 4, 16]);
        plan.checkpoint_entries = *self.rng.pick(&[4, 64]);
        plan.rewriting.keep_entries = *self.rng.pick(&[0, 20, 1 << 40]);
        plan.rewriting.bytes_min = *self.rng.pick(&[200, 2_000]);
        plan.double_wipe = false;
    }

    fn act(&mut self, world: &mut World) -> u64 {
        let n = world.members.len() as u64;
        let at = self.rng.below(n) as usize;
        // One wrong state at a time, beside a majority that is there and knows what is right: one
        // that needs a state might be given the wrong one.
        let mut views = world.checker.views.iter();
        let wrong = views.find(|view| view.wrong.is_some());
        let noticed = wrong.is_none_or(|view| view.quarantined);
        if wrong.is_none() && all_there(world) && self.rng.chance(700) {
            world.misapply(at);
        } else if noticed && self.rng.chance(300) {
            let other = self.rng.below(n) as usize;
            world.kill(other, "beside a wrong state");
            world.restart_later(other);
        } else if noticed && self.rng.chance(200) {
            world.feed(at, chat::replica::Input::ShutDown);
        }
        self.rng.between(30_000, 250_000)
    }
}

/// Everybody runs, and lacks little.
fn all_there(world: &World) -> bool {
    let applied = world.members.iter().map(|member| {
        let process = member.process.as_ref()?;
        Some(process.replica.applied().0)
    });
    let applied: Option<Vec<u64>> = applied.collect();
    applied.is_some_and(|applied| {
        let newest = applied.iter().max().copied().unwrap_or(0);
        applied.iter().all(|index| newest - index < 5)
    })
}
