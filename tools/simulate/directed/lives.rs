//! A replica whose disk was replaced is readmitted and restarted before it has got a single entry,
//! by others who were killed the moment that they heard of the readmission: what they remember of its
//! old life is not asked of the new one.

use crate::faults::{Director, Fate, Plan};
use crate::network::slot;
use crate::rng::Rng;
use crate::world::{Happening, World};
use chat::consensus::{Body, Config};
use chat::replica::PeerMessage;
use chat::types::Index;

/// See the module.
pub struct NewLives {
    rng: Rng,
    victim: usize,
    /// When its disk was replaced, virtual microseconds. Until it is readmitted.
    replaced: Option<u64>,
    /// The last readmission before that.
    before: Index,
    /// Nothing fills it until then.
    starved_until: u64,
    now: u64,
}

impl NewLives {
    /// From a seed.
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            victim: 0,
            replaced: None,
            before: Index(0),
            starved_until: 0,
            now: 0,
        }
    }
}

impl Director for NewLives {
    fn tune(&mut self, plan: &mut Plan, config: &mut Config) {
        plan.double_wipe = false;
        plan.same_damage = 0;
        plan.think_us = 20_000;
        plan.checkpoint_entries = 1;
        config.initialize_wait_us = 20_000;
    }

    fn act(&mut self, world: &mut World) -> u64 {
        self.now = world.now;
        let Some(since) = self.replaced else {
            if world.primary().is_none() || !world.may_wipe() {
                return 5_000;
            }
            self.victim = self.rng.below(world.members.len() as u64) as usize;
            world.wipe(self.victim);
            world.boot(self.victim);
            self.replaced = Some(world.now);
            self.starved_until = u64::MAX;
            self.before = world.checker.last_readmission;
            return 100;
        };
        let committed = world.checker.last_readmission;
        let mut views = world.checker.views.iter().enumerate();
        let known = committed > self.before
            && views.all(|(at, view)| at == self.victim || view.commit_durable >= committed);
        if !known && world.now < since + 500_000 {
            return 100;
        }
        self.replaced = None;
        self.starved_until = world.now + 150_000;
        for at in (0..world.members.len()).filter(|at| *at != self.victim) {
            world.kill(at, "it has heard of the readmission");
            world.schedule(20_000, Happening::Boot { at });
        }
        world.kill(self.victim, "before it is filled");
        world.schedule(80_000, Happening::Boot { at: self.victim });
        self.rng.between(300_000, 500_000)
    }

    fn fate(&mut self, message: &mut PeerMessage) -> Fate {
        let starved = self.now < self.starved_until && slot(message.to()) == self.victim;
        let fills = matches!(message, PeerMessage::Consensus(m)
            if matches!(m.body, Body::Append(_) | Body::SnapshotOffer(_)));
        if starved && fills {
            Fate::Lost
        } else {
            Fate::Pass
        }
    }
}
