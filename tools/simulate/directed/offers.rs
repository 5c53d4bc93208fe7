//! Offers of a state that come late: the log of the one to whom they were made has gone on.

use crate::faults::{Director, Fate, FaultSet, Plan};
use crate::rng::Rng;
use crate::world::World;
use chat::consensus::Body;
use chat::replica::PeerMessage;

/// See the module. Logs are cut soon, a secondary is away for a while, and every second offer is late.
pub struct LateOffers {
    rng: Rng,
    offers: u64,
}

impl LateOffers {
    /// From a seed.
    pub fn new(rng: Rng) -> Self {
        Self { rng, offers: 0 }
    }
}

impl Director for LateOffers {
    fn tune(&mut self, plan: &mut Plan, _: &mut chat::consensus::Config) {
        plan.faults = FaultSet::NONE;
        plan.away_us = 150_000;
        plan.think_us = 1_500;
        plan.token_idle_us = 1 << 44;
        plan.checkpoint_entries = 4;
        plan.rewriting = chat::replica::Rewriting {
            bytes_min: 200,
            keep_entries: 0,
            keep_behind: 0,
            age_us: 0,
            keep_age_us: 0,
            keep_log: false,
        };
        plan.double_wipe = false;
    }

    fn act(&mut self, world: &mut World) -> u64 {
        let primary = world.primary();
        let at = self.rng.below(world.members.len() as u64) as usize;
        if primary.is_some_and(|primary| primary != at) {
            world.kill(at, "and misses what is cut meanwhile");
            world.restart_later(at);
        }
        self.rng.between(200_000, 500_000)
    }

    fn fate(&mut self, message: &mut PeerMessage) -> Fate {
        let offer = matches!(message, PeerMessage::Consensus(m)
            if matches!(m.body, Body::SnapshotOffer(_)));
        if !offer {
            return Fate::Pass;
        }
        self.offers += 1;
        if self.offers.is_multiple_of(2) {
            Fate::Pass
        } else {
            Fate::Late(self.rng.between(200_000, 450_000))
        }
    }
}
