//! A primary writes what nobody else gets, loses just that, and another replica has a hole in its
//! log: only a fenced poll can prove that the cluster may go on. Or one of the others has got it,
//! and nothing can.

use super::carries_entries;
use crate::faults::{Director, Fate, Plan};
use crate::network::slot;
use crate::rng::Rng;
use crate::world::World;
use chat::consensus::Config;
use chat::replica::PeerMessage;

/// See the module.
pub struct LostTails {
    rng: Rng,
    /// Entries from this one are lost, but for those to the other.
    mute: Option<(usize, Option<usize>)>,
    done: bool,
}

impl LostTails {
    /// From a seed.
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            mute: None,
            done: false,
        }
    }

    /// Damages the mute primary and others, so that too few are whole.
    fn strike(&mut self, world: &mut World, primary: usize, heard: Option<usize>) {
        let len = |at: usize| world.checker.views[at].live.len() as u64;
        let n = world.members.len();
        let deaf: Vec<usize> = (0..n)
            .filter(|at| *at != primary && Some(*at) != heard)
            .collect();
        let known = deaf.iter().map(|at| len(*at)).max().unwrap_or(0);
        let recorded = world.checker.views[primary].commit_live.0;
        let committed = if heard.is_none() { recorded } else { 0 };
        let after = known.max(committed);
        if after >= world.mark(primary) || after == 0 {
            return;
        }
        let holes = n - world.checker.majority();
        let mut struck = Vec::new();
        for at in deaf {
            if struck.len() < holes && world.rot(at) {
                struck.push(at);
            }
        }
        if struck.len() == holes {
            world.lose_tail(primary, after);
            world.checker.count("tails lost beside holes");
            self.done = true;
            struck.push(primary);
        }
        for at in struck {
            world.restart_later(at);
        }
    }
}

impl Director for LostTails {
    fn tune(&mut self, plan: &mut Plan, _config: &mut Config) {
        plan.double_wipe = false;
        plan.same_damage = 0;
        plan.may_halt = true;
        plan.think_us = 3_000;
        plan.checkpoint_entries = 256;
        plan.rewriting.bytes_min = 1 << 40;
    }

    fn act(&mut self, world: &mut World) -> u64 {
        if self.done {
            self.mute = None;
            return 100_000;
        }
        if let Some((primary, heard)) = self.mute.take() {
            if world.primary() == Some(primary) && world.may_wipe() {
                self.strike(world, primary, heard);
            }
            return self.rng.between(20_000, 100_000);
        }
        let Some(primary) = world.primary() else {
            return 5_000;
        };
        let n = world.members.len() as u64;
        let other = self.rng.below(n) as usize;
        let heard = (self.rng.chance(400) && other != primary).then_some(other);
        self.mute = Some((primary, heard));
        self.rng.between(25_000, 45_000)
    }

    fn fate(&mut self, message: &mut PeerMessage) -> Fate {
        let lost = self.mute.is_some_and(|(primary, heard)| {
            slot(message.from()) == primary && Some(slot(message.to())) != heard
        });
        if lost && carries_entries(message) {
            Fate::Lost
        } else {
            Fate::Pass
        }
    }
}
