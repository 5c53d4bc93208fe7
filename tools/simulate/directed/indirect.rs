//! An entry is committed only through a later one that a holder of it lacks, and at the boot that
//! holder meets a copy with a newer stamp that was never committed (Figure 8 of the Raft paper,
//! with an adoption in the place of the election).
//!
//! With five replicas: the entries of A reach only R. A and R die; one of the others becomes
//! primary, writes for itself alone, and dies (X). A and R come back, one of them (W) becomes
//! primary, and its own entry reaches everyone but the other one (H), which hears only that what
//! it has is committed. Then all die. X and H boot, and with them one (V) that vouches for their
//! memory, gives nobody its copy, and dies before the wait for the others is over.

use super::carries_entries;
use crate::faults::{Director, Fate, Plan};
use crate::network::slot;
use crate::rng::Rng;
use crate::world::{Happening, World};
use chat::consensus::{Body, Config};
use chat::replica::PeerMessage;
use std::collections::BTreeSet;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Calm,
    OnlyR,
    X,
    W,
    Boot,
    Alone,
}

const BOOT_WAIT_US: u64 = 30_000;

/// See the module.
pub struct Indirect {
    rng: Rng,
    phase: Phase,
    since: u64,
    /// Entries do not reach these.
    deaf: BTreeSet<usize>,
    pair: [usize; 2],
    x: usize,
    v: usize,
}

impl Indirect {
    /// From a seed.
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            phase: Phase::Calm,
            since: 0,
            deaf: BTreeSet::new(),
            pair: [0, 0],
            x: 0,
            v: 0,
        }
    }

    fn enter(&mut self, world: &World, phase: Phase) {
        self.phase = phase;
        self.since = world.now;
    }

    fn start_over(&mut self, world: &mut World) -> u64 {
        self.deaf.clear();
        for at in 0..world.members.len() {
            world.schedule(1, Happening::Boot { at });
        }
        self.enter(world, Phase::Calm);
        100_000
    }

    fn calm(&mut self, world: &mut World) {
        let serving = world.primary().filter(|at| {
            world.members[*at]
                .process
                .as_ref()
                .is_some_and(|p| p.serving)
        });
        let alike = world.members.iter().all(|m| m.process.is_some());
        let Some(a) = serving.filter(|_| alike) else {
            return;
        };
        let others: Vec<usize> = (0..world.members.len()).filter(|at| *at != a).collect();
        let r = *self.rng.pick(&others);
        self.pair = [a, r];
        self.deaf = others.into_iter().filter(|at| *at != r).collect();
        self.enter(world, Phase::OnlyR);
    }

    /// A's entries are on R's disk and on no other.
    fn only_r(&mut self, world: &mut World) {
        let views = &world.checker.views;
        let own = views[self.pair[1]].durable.len();
        let ahead = self.deaf.iter().all(|at| views[*at].durable.len() < own);
        if !ahead {
            return;
        }
        for at in self.pair {
            world.kill(at, "it comes back later");
        }
        self.deaf = (0..world.members.len()).collect();
        self.enter(world, Phase::X);
    }

    /// One of the others is primary, and its first entry is on its own disk.
    fn x(&mut self, world: &mut World) {
        let Some(x) = world.primary() else {
            return;
        };
        let Some(term) = world.process(x).map(|p| p.term) else {
            return;
        };
        if world.checker.views[x].durable_last().term != term {
            return;
        }
        self.x = x;
        world.kill(x, "with an entry that nobody else has");
        for at in self.pair {
            world.boot(at);
        }
        // Whichever of the pair wins, the other gets no entries.
        self.deaf = self.pair.into_iter().collect();
        self.enter(world, Phase::W);
    }

    /// The other of the pair has written that all it has is committed.
    fn w(&mut self, world: &mut World) {
        let known = self.pair.into_iter().find(|at| {
            let view = &world.checker.views[*at];
            let last = view.durable_last();
            let elsewhere = world.primary().is_some_and(|p| p != *at);
            elsewhere && view.commit_live == last.index
        });
        let Some(h) = known else {
            return;
        };
        let others: Vec<usize> = (0..world.members.len())
            .filter(|at| *at != h && *at != self.x)
            .collect();
        self.v = *self.rng.pick(&others);
        for at in 0..world.members.len() {
            world.kill(at, "with all others");
            let soon = at == h || at == self.x || at == self.v;
            let after = if soon { 1_000 } else { 200_000 };
            world.schedule(after, Happening::Boot { at });
        }
        self.deaf.clear();
        self.enter(world, Phase::Boot);
    }

    /// It has vouched for the others.
    fn boot(&mut self, world: &mut World) {
        let up = world.members[self.v].process.is_some();
        if up && world.now > self.since + BOOT_WAIT_US {
            world.kill(self.v, "it has vouched");
            world.schedule(200_000, Happening::Boot { at: self.v });
            self.enter(world, Phase::Alone);
        }
    }
}

impl Director for Indirect {
    fn tune(&mut self, plan: &mut Plan, config: &mut Config) {
        plan.clients = 3;
        plan.think_us = 3_000;
        config.initialize_wait_us = BOOT_WAIT_US + 10_000;
    }

    fn act(&mut self, world: &mut World) -> u64 {
        if world.now > self.since + 400_000 {
            return self.start_over(world);
        }
        match self.phase {
            Phase::Calm => self.calm(world),
            Phase::OnlyR => self.only_r(world),
            Phase::X => self.x(world),
            Phase::W => self.w(world),
            Phase::Boot => self.boot(world),
            Phase::Alone => {}
        }
        500
    }

    fn fate(&mut self, message: &mut PeerMessage) -> Fate {
        if self.phase == Phase::Boot && slot(message.from()) == self.v && is_copy(message) {
            return Fate::Lost;
        }
        if !carries_entries(message) || !self.deaf.contains(&slot(message.to())) {
            return Fate::Pass;
        }
        match message {
            // The entries are left out and the news of commits is not: a heartbeat.
            PeerMessage::Consensus(m) if self.phase == Phase::W => {
                if let Body::Append(append) = &mut m.body {
                    append.entries.clear();
                }
                Fate::Pass
            }
            _ => Fate::Lost,
        }
    }
}

fn is_copy(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Consensus(m) if matches!(m.body, Body::CopyPiece { .. }))
}
