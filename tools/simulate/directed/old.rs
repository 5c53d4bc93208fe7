//! A disk goes back to an old copy, again and again, as soon as a majority of the others remembers
//! more: the replica must notice before it takes part, also if it is killed again while it catches
//! up, before anybody has told it what is remembered.

use crate::faults::{Director, Fate, Plan};
use crate::network::slot;
use crate::rng::Rng;
use crate::world::World;
use chat::consensus::{Body, Config};
use chat::replica::PeerMessage;

/// See the module.
pub struct OldCopies {
    rng: Rng,
    /// Went back to an old copy a moment ago.
    fresh: Option<usize>,
}

impl OldCopies {
    /// From a seed.
    pub fn new(rng: Rng) -> Self {
        Self { rng, fresh: None }
    }
}

impl Director for OldCopies {
    fn tune(&mut self, plan: &mut Plan, _config: &mut Config) {
        plan.double_wipe = false;
        plan.same_damage = 0;
        plan.think_us = 3_000;
        plan.away_us = 5_000;
    }

    fn act(&mut self, world: &mut World) -> u64 {
        if let Some(victim) = self.fresh.take() {
            world.kill(victim, "while it catches up");
            world.restart_later(victim);
            return self.rng.between(40_000, 100_000);
        }
        let victim = self.rng.below(world.members.len() as u64) as usize;
        world.roll_back(victim);
        if self.rng.chance(200)
            && let Some(primary) = world.primary()
        {
            world.kill(primary, "for an election");
            world.restart_later(primary);
        }
        if self.rng.chance(500) {
            self.fresh = Some(victim);
            return self.rng.between(20_000, 120_000);
        }
        self.rng.between(60_000, 200_000)
    }

    /// Nobody has heard of its new run yet, and what vouches for it gets lost.
    fn fate(&mut self, message: &mut PeerMessage) -> Fate {
        if self.fresh != Some(slot(message.to())) {
            return Fate::Pass;
        }
        if let PeerMessage::Consensus(m) = message {
            match &mut m.body {
                Body::Hello(hello) => hello.knows_run = None,
                Body::Refresh(refresh) => refresh.knows_run = None,
                _ => {}
            }
        }
        Fate::Pass
    }
}
