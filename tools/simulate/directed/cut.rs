//! The end of a log is cut for older entries of a newer primary, and the replica is killed before an
//! entry of that primary's own term has come. It is no old copy; but one that goes back to that moment
//! later, when it has acknowledged more, is.

use super::carries_entries;
use crate::faults::{Director, Fate, Plan};
use crate::network::slot;
use crate::rng::Rng;
use crate::world::{Happening, World};
use chat::consensus::{Body, Config};
use chat::replica::PeerMessage;

/// See the module.
pub struct CutLogs {
    rng: Rng,
    stage: Stage,
    /// Primary first, and again.
    older: usize,
    /// Primary in between.
    cut: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Everything goes its way.
    Quiet,
    /// `older` is primary, and nobody gets its entries.
    Longer,
    /// It is down. `cut` becomes primary, and nobody gets its entries.
    Newer,
    /// It tells the others what it has.
    Told,
    /// That is down, and `older` primary again.
    Back,
    /// `cut` gets the entries of before.
    Cutting,
    /// Its disk was copied after that.
    Copied,
    /// It has acknowledged more, and goes back.
    GoesBack,
}

impl CutLogs {
    /// From a seed.
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            stage: Stage::Quiet,
            older: 0,
            cut: 0,
        }
    }

    fn enters(&mut self, stage: Stage, from_us: u64, to_us: u64) -> u64 {
        self.stage = stage;
        self.rng.between(from_us, to_us)
    }
}

impl Director for CutLogs {
    fn tune(&mut self, plan: &mut Plan, _config: &mut Config) {
        plan.double_wipe = false;
        plan.same_damage = 0;
        plan.think_us = 2_000;
    }

    fn act(&mut self, world: &mut World) -> u64 {
        let primary = world.primary();
        match self.stage {
            Stage::Quiet | Stage::GoesBack => {
                let Some(at) = primary else {
                    return self.enters(Stage::Quiet, 5_000, 10_000);
                };
                self.older = at;
                self.enters(Stage::Longer, 10_000, 20_000)
            }
            Stage::Longer => {
                world.kill(self.older, "with entries that nobody else has");
                self.enters(Stage::Newer, 1_000, 2_000)
            }
            Stage::Newer => {
                let Some(at) = primary.filter(|at| *at != self.older) else {
                    return 1_000;
                };
                self.cut = at;
                // Long enough for the others to hear what it has acknowledged.
                self.enters(Stage::Told, 25_000, 50_000)
            }
            Stage::Told => {
                world.kill(self.cut, "with an entry that nobody else has");
                world.schedule(1_000, Happening::Boot { at: self.older });
                self.enters(Stage::Back, 1_000, 2_000)
            }
            Stage::Back => {
                if primary != Some(self.older) {
                    return 2_000;
                }
                world.members[self.cut].backup = None;
                world.schedule(1_000, Happening::Boot { at: self.cut });
                self.enters(Stage::Cutting, 20_000, 80_000)
            }
            Stage::Cutting => {
                // Copies it.
                world.roll_back(self.cut);
                self.enters(Stage::Copied, 80_000, 160_000)
            }
            Stage::Copied => {
                world.roll_back(self.cut);
                self.enters(Stage::GoesBack, 150_000, 250_000)
            }
        }
    }

    fn fate(&mut self, message: &mut PeerMessage) -> Fate {
        let from = slot(message.from());
        let kept = match self.stage {
            Stage::Longer => from == self.older,
            Stage::Newer | Stage::Told => from != self.older,
            _ => false,
        };
        if kept && carries_entries(message) {
            return Fate::Lost;
        }
        let cutting = self.stage == Stage::Cutting && slot(message.to()) == self.cut;
        if let PeerMessage::Consensus(m) = message
            && let Body::Append(append) = &mut m.body
            && cutting
        {
            // As if the primary's batches were smaller, and the later ones lost.
            let term = m.term;
            append.entries.retain(|entry| entry.stamp().term < term);
        }
        Fate::Pass
    }
}
