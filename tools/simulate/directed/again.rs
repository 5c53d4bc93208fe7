//! Some grants arrive only after the primary that they made has stepped down.

use crate::faults::{Director, Fate, Plan};
use crate::network::slot;
use crate::rng::Rng;
use crate::world::{Happening, World};
use chat::consensus::{Body, Config};
use chat::replica::PeerMessage;
use chat::types::Term;
use std::collections::BTreeMap;

/// See the module.
pub struct LateGrants {
    rng: Rng,
    /// Grants that were let through at once, by term.
    prompt: BTreeMap<Term, u64>,
    /// Nothing but late grants reaches this one.
    isolated: Option<usize>,
    seen: Term,
}

impl LateGrants {
    /// From a seed.
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            prompt: BTreeMap::new(),
            isolated: None,
            seen: Term(0),
        }
    }
}

impl Director for LateGrants {
    fn tune(&mut self, plan: &mut Plan, config: &mut Config) {
        plan.think_us = 5_000;
        // A primary steps down while the election that made it could still go on.
        config.election_iters = 3;
        config.election_check_interval_us = 6_000;
    }

    fn act(&mut self, world: &mut World) -> u64 {
        if self.isolated.take().is_some() {
            if let Some(primary) = world.primary() {
                world.kill(primary, "for a new election");
                world.schedule(20_000, Happening::Boot { at: primary });
            }
            return self.rng.between(20_000, 60_000);
        }
        let newest = world.primary().and_then(|at| {
            let term = world.process(at)?.term;
            (term > self.seen).then_some((at, term))
        });
        let Some((at, term)) = newest else {
            return 1_000;
        };
        self.seen = term;
        self.isolated = Some(at);
        150_000
    }

    fn fate(&mut self, message: &mut PeerMessage) -> Fate {
        if let PeerMessage::Consensus(m) = message
            && matches!(m.body, Body::Grant { .. })
        {
            let prompt = self.prompt.entry(m.term).or_default();
            *prompt += 1;
            // With its own grant two more make it primary.
            return if *prompt <= 2 {
                Fate::Pass
            } else {
                Fate::Late(self.rng.between(40_000, 95_000))
            };
        }
        let cut = self
            .isolated
            .is_some_and(|at| slot(message.to()) == at || slot(message.from()) == at);
        if cut { Fate::Lost } else { Fate::Pass }
    }
}
