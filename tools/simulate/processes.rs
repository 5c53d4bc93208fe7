//! Processes of the world: boots, kills, and what is fed to them.

use super::disk::{self, Probe};
use super::network::id_of;
use super::world::{Happening, Process, World, brief, fresh};
use chat::consensus::Role;
use chat::replica::{Config, Input, PeerMessage, Replica};
use chat::storage::{MemStore, Recovered, Store};
use chat::types::{Incarnation, RunNonce, Stamp, Term};

impl World {
    /// Starts a process on this disk.
    pub fn boot(&mut self, at: usize) {
        if self.members[at].process.is_some() {
            return;
        }
        let run = RunNonce(self.rng.next());
        let (mut store, mut recovered) = match self.members[at].disk.open(self.plan.cache_bytes) {
            Ok(opened) => opened,
            Err(error) => {
                self.checker.fail("a crash damages nothing", || {
                    format!("cannot open: {error}")
                });
                return;
            }
        };
        let log = match disk::log_of(&store) {
            Ok(log) => log,
            Err(error) => {
                self.checker.fail("a crash damages nothing", || {
                    format!("cannot read: {error}")
                });
                return;
            }
        };
        self.note(|| {
            let last = log.last().map_or(Stamp::ZERO, |m| m.0);
            format!(
                "{} boots: log to {last}, hard {:?}",
                at + 1,
                brief(recovered.hard_state.as_ref())
            )
        });
        self.checker.on_open(at, &recovered, log, run);
        if recovered.hard_state.is_none() {
            let hard = fresh(id_of(at), Incarnation(self.rng.bytes()));
            let mut probe = Probe {
                store: &mut store,
                checker: &mut self.checker,
                at,
                primary: false,
            };
            if let Err(error) = probe.write_hard_state(&hard, true) {
                self.checker
                    .fail("a new disk can be written", || error.to_string());
                return;
            }
            recovered.hard_state = Some(hard);
        }
        self.start_process(at, run, store, recovered);
    }

    /// Starts the replica on what its disk holds.
    fn start_process(&mut self, at: usize, run: RunNonce, store: MemStore, recovered: Recovered) {
        self.members[at].clock.started = self.rng.below(1 << 40);
        let now = self.clock(at);
        let seed = self.rng.next();
        let started = Replica::start(
            self.replica_config(at),
            recovered,
            store.reader(),
            run,
            seed,
            now,
        );
        let replica = match started {
            Ok(replica) => replica,
            Err(error) => {
                self.checker.fail("a replica starts from its own disk", || {
                    format!("{error:?}")
                });
                return;
            }
        };
        let status = replica.status();
        self.checker
            .on_started(at, status.node.last, status.node.commit);
        self.members[at].life += 1;
        let life = self.members[at].life;
        self.members[at].process = Some(Process {
            replica,
            store,
            job: None,
            done: None,
            waiting: Vec::new(),
            paused: false,
            role: Role::Booting,
            term: Term(0),
            serving: false,
            status: None,
        });
        let after = self.rng.between(1, 4_000);
        self.schedule(after, Happening::Tick { at, life });
        for other in 0..self.members.len() {
            self.reconnect(at, other, 2_000);
        }
        self.absorb(at);
    }

    pub(super) fn replica_config(&self, at: usize) -> Config {
        let mut node = self.config.clone();
        node.id = id_of(at);
        Config {
            node,
            write_timeout_us: 400_000,
            read_timeout_us: 200_000,
            token_idle_us: self.plan.token_idle_us,
            checkpoint_entries_max: self.plan.checkpoint_entries,
        }
    }

    /// The process is gone from one moment to the next.
    pub fn kill(&mut self, at: usize, why: &'static str) {
        if self.members[at].process.take().is_none() {
            return;
        }
        self.note(|| format!("{} is killed: {why}", at + 1));
        self.checker.count("kills");
        self.members[at].life += 1;
        self.members[at].disk.heal();
        self.members[at].disk.crash(&mut self.rng);
        self.on_process_gone(at);
        let lost: Vec<u64> = self
            .tickets
            .iter()
            .filter(|(_, (_, replica))| *replica == at)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in lost {
            self.tickets.remove(&ticket);
            self.client_lost(ticket);
        }
    }

    /// Something happens to a replica.
    pub fn feed(&mut self, at: usize, input: Input) {
        if self.process(at).is_some_and(|p| p.paused) {
            if !matches!(input, Input::Tick)
                && let Some(process) = self.process(at)
            {
                process.waiting.push(input);
            }
            return;
        }
        self.handle(at, input);
        self.absorb(at);
    }

    pub(super) fn handle(&mut self, at: usize, input: Input) {
        let now = self.clock(at);
        if let Input::Peer(PeerMessage::Consensus(message)) = &input {
            self.checker.on_received(at, message);
        }
        if self.options.trace {
            self.note_input(at, &input);
        }
        let Some(process) = self.members[at].process.as_mut() else {
            return;
        };
        if let Err(error) = process.replica.handle(input, now) {
            self.checker.fail("a replica never stops by itself", || {
                format!("replica {}: {error:?}", at + 1)
            });
        }
    }

    pub(super) fn resume(&mut self, at: usize) {
        let Some(process) = self.process(at) else {
            return;
        };
        process.paused = false;
        let waiting = std::mem::take(&mut process.waiting);
        self.note(|| format!("{} resumes with {} inputs", at + 1, waiting.len()));
        for input in waiting {
            self.handle(at, input);
            self.look(at, true);
        }
        self.feed(at, Input::Tick);
    }
}
