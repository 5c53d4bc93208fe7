//! The life of a simulated process: boot, disk jobs, death.

use super::disk::{self, Probe};
use super::network::id_of;
use super::trace::brief;
use super::world::{Happening, Process, World};
use chat::consensus::{FormationStatus, HardState, Role};
use chat::replica::{self, Config, DiskJob, Replica};
use chat::storage::{MemStore, Recovered, Store};
use chat::types::{Incarnation, ReplicaId, RunNonce, Stamp, Term};
use std::collections::BTreeMap;

impl World {
    /// Starts a process on this disk.
    pub fn boot(&mut self, at: usize) {
        if self.members[at].process.is_some() {
            return;
        }
        let run = RunNonce(self.rng.next());
        let Some((store, recovered)) = self.open_disk(at, run) else {
            return;
        };
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

    /// Opens the store and shows the checker what a crash has left; a new disk gets its first hard
    /// state.
    fn open_disk(&mut self, at: usize, run: RunNonce) -> Option<(MemStore, Recovered)> {
        let opened = self.members[at].disk.open(self.plan.cache_bytes);
        let opened = opened.and_then(|(store, recovered)| {
            let log = disk::log_of(&store)?;
            Ok((store, recovered, log))
        });
        let (mut store, mut recovered, log) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.checker.fail("a crash damages nothing", || {
                    format!("cannot open: {error}")
                });
                return None;
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
                return None;
            }
            recovered.hard_state = Some(hard);
        }
        Some((store, recovered))
    }

    fn replica_config(&self, at: usize) -> Config {
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

    /// A disk job begins; it takes its time.
    pub fn start_job(&mut self, at: usize, job: DiskJob) {
        let slow = self.now < self.members[at].slow_until;
        let time = self.plan.disk_time(&mut self.rng, slow);
        let life = self.members[at].life;
        let Some(process) = self.members[at].process.as_mut() else {
            return;
        };
        let busy = process.job.is_some() || process.done.is_some();
        self.checker.check(!busy, "one disk job at a time", || {
            format!("replica {} job {}", at + 1, job.number)
        });
        process.job = Some(job);
        self.schedule(time, Happening::DiskRuns { at, life });
    }

    /// The job's time is over: it is executed, or the process is killed inside it.
    pub fn disk_runs(&mut self, at: usize) {
        if self.process(at).is_some_and(|p| p.paused) {
            let life = self.members[at].life;
            self.schedule(1_000, Happening::DiskRuns { at, life });
            return;
        }
        let job = self.process(at).and_then(|p| p.job.take());
        let directed = match (&mut self.director, &job) {
            (Some(director), Some(job)) => director.kills_in(job),
            _ => false,
        };
        let dies = directed || (!self.healing && self.rng.chance(self.plan.persist_kill));
        if dies {
            let (after, done) = (self.rng.below(9), self.rng.chance(300));
            self.members[at].disk.fail_after(after, done);
        }
        let (Some(process), Some(job)) = (self.members[at].process.as_mut(), job) else {
            return;
        };
        let mut probe = Probe {
            store: &mut process.store,
            checker: &mut self.checker,
            at,
            primary: process.role == Role::Primary,
        };
        let result = replica::execute(&mut probe, job);
        self.members[at].disk.heal();
        match result {
            Ok(done) => {
                let life = self.members[at].life;
                if let Some(process) = self.process(at) {
                    process.done = Some(done);
                }
                let after = self.rng.between(1, 60);
                self.schedule(after, Happening::DiskTells { at, life });
            }
            Err(error) => {
                self.checker
                    .check(dies, "a disk job succeeds", || format!("{error:?}"));
                self.checker.count("kills inside a disk job");
                self.kill(at, "inside a disk job");
                self.restart_later(at);
            }
        }
    }
}

/// The promises of a replica that has none yet.
pub fn fresh(id: ReplicaId, incarnation: Incarnation) -> HardState {
    HardState {
        id,
        incarnation,
        formation: FormationStatus::Unformed,
        cluster: None,
        term: Term(0),
        granted_to: None,
        term_accepted: Term(0),
        mark: Stamp::ZERO,
        others_marks: BTreeMap::new(),
    }
}
