//! Answers to read rounds arrive late, when their primary is cut off and another one writes.

use crate::faults::{Director, Fate, Plan};
use crate::network::slot;
use crate::rng::Rng;
use crate::world::World;
use chat::consensus::{Body, Config};
use chat::replica::PeerMessage;

/// See the module.
pub struct StaleRounds {
    rng: Rng,
    /// Nothing but late answers reaches this one.
    isolated: Option<usize>,
}

impl StaleRounds {
    /// From a seed.
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            isolated: None,
        }
    }
}

impl Director for StaleRounds {
    fn tune(&mut self, plan: &mut Plan, config: &mut Config) {
        plan.double_wipe = false;
        plan.same_damage = 0;
        plan.clients = 4;
        plan.think_us = 500;
        config.election_iters = 3;
    }

    fn act(&mut self, world: &mut World) -> u64 {
        if self.isolated.take().is_some() {
            return self.rng.between(100_000, 200_000);
        }
        let Some(primary) = world.primary() else {
            return 5_000;
        };
        self.isolated = Some(primary);
        self.rng.between(120_000, 200_000)
    }

    fn fate(&mut self, message: &mut PeerMessage) -> Fate {
        if let PeerMessage::Consensus(m) = message
            && matches!(m.body, Body::RoundReply { .. })
            && self.rng.chance(500)
        {
            return Fate::Late(self.rng.between(20_000, 160_000));
        }
        let cut = self
            .isolated
            .is_some_and(|at| slot(message.to()) == at || slot(message.from()) == at);
        if cut { Fate::Lost } else { Fate::Pass }
    }
}
