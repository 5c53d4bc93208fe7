//! A readmission is delivered again after a restart, since the trees stand below it: what its replica
//! has acknowledged since must not be forgotten by that.
//!
//! V's disk is replaced and V is readmitted; a copy of its disk is taken; V acknowledges more, and the
//! others remember that. Then its disk goes back to the copy, all others die, and V boots with one of
//! them, the third being late.

use crate::faults::{Director, Plan};
use crate::rng::Rng;
use crate::world::{Happening, World};
use chat::consensus::Config;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Calm,
    Replaced,
    Copied,
    Back,
}

/// See the module.
pub struct Replayed {
    rng: Rng,
    phase: Phase,
    since: u64,
    victim: usize,
}

impl Replayed {
    /// From a seed.
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            phase: Phase::Calm,
            since: 0,
            victim: 0,
        }
    }

    fn enter(&mut self, world: &World, phase: Phase) {
        self.phase = phase;
        self.since = world.now;
    }

    fn calm(&mut self, world: &mut World) {
        if world.primary().is_none() || !world.may_wipe() {
            return;
        }
        self.victim = self.rng.below(world.members.len() as u64) as usize;
        world.members[self.victim].backup = None;
        world.wipe(self.victim);
        world.boot(self.victim);
        self.enter(world, Phase::Replaced);
    }

    fn replaced(&mut self, world: &mut World) {
        if world.members[self.victim].admitted && world.readmission_is_known() {
            world.roll_back(self.victim);
            self.enter(world, Phase::Copied);
        }
    }

    /// Goes back as soon as a majority remembers more than the copy holds.
    fn copied(&mut self, world: &mut World) {
        world.roll_back(self.victim);
        if world.members[self.victim].admitted {
            return;
        }
        let others: Vec<usize> = (0..world.members.len())
            .filter(|at| *at != self.victim)
            .collect();
        let with = *self.rng.pick(&others);
        for at in others {
            world.kill(at, "its memory is put to the test");
            let after = if at == with { 500 } else { 150_000 };
            world.schedule(after, Happening::Boot { at });
        }
        world.boot(self.victim);
        self.enter(world, Phase::Back);
    }
}

impl Director for Replayed {
    fn tune(&mut self, plan: &mut Plan, config: &mut Config) {
        plan.double_wipe = false;
        plan.same_damage = 0;
        plan.think_us = 3_000;
        plan.away_us = 2_000;
        // The trees stay behind.
        plan.checkpoint_entries = 4_096;
        config.initialize_wait_us = 20_000;
    }

    fn act(&mut self, world: &mut World) -> u64 {
        match self.phase {
            Phase::Calm => self.calm(world),
            Phase::Replaced => self.replaced(world),
            Phase::Copied => self.copied(world),
            Phase::Back if world.now > self.since + 300_000 => self.enter(world, Phase::Calm),
            Phase::Back => {}
        }
        2_000
    }
}
