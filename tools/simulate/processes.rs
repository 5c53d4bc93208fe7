//! Processes of the world: boots, kills, and what is fed to them.

use super::disk::Probe;
use super::network::id_of;
use super::world::{Happening, Process, World, brief};
use chat::consensus::{HardState, Repair, Role};
use chat::replica::{Config, Input, Output, PeerMessage, Replica};
use chat::storage::{self, MemReader, MemStore, Recovered, StorageError, Store};
use chat::types::{Incarnation, Index, Members, RunNonce, Stamp, Term};

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
        let foreign = recovered.hard_state.as_ref();
        if foreign.is_some_and(|hard| hard.id != id_of(at)) {
            // As a real replica, which exits.
            self.checker.count("foreign disks refused");
            return;
        }
        let log = self.members[at].disk.log();
        if self.members[at].disk.is_rotten() && !recovered.damage.is_empty() {
            self.harmed(at);
        }
        self.note(|| {
            let last = log.last().map_or(Stamp::ZERO, |m| m.0);
            format!(
                "{} boots: log to {last}, hard {:?}",
                at + 1,
                brief(recovered.hard_state.as_ref())
            )
        });
        self.checker.on_open(at, &recovered, log, run);
        let noted = std::mem::take(&mut self.members[at].disk.noted);
        if noted || storage::must_discard(&recovered) {
            match self.begin_repair(at, recovered, noted) {
                Some(opened) => (store, recovered) = opened,
                None => return,
            }
        }
        if recovered.hard_state.is_none() {
            let founders = founders_of(&store, &recovered);
            let incarnation = Incarnation(self.rng.bytes());
            let hard = HardState::new_life(id_of(at), incarnation, founders, recovered.last);
            let mut probe = Probe {
                store: &mut store,
                checker: &mut self.checker,
                at,
                primary: false,
                failing: None,
                failed: false,
                check_goes_on: false,
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

    /// What opening a data directory does with a damaged store.
    fn begin_repair(
        &mut self,
        at: usize,
        recovered: Recovered,
        noted: bool,
    ) -> Option<(MemStore, Recovered)> {
        self.note(|| format!("{} repairs itself: {:?}", at + 1, recovered.damage));
        self.checker.count("repairs begun");
        let before = recovered.hard_state.as_ref().map(|hard| hard.repair);
        let begins_as = if noted {
            before.unwrap_or_default().after(Repair::UnderWay)
        } else {
            storage::repair_begins_as(&recovered)
        };
        let disk = &self.members[at].disk;
        let mut kept = None;
        if let Repair::Suspect(above) = begins_as {
            disk.cut_after(above);
            kept = Some(above);
        } else {
            disk.discard();
        }
        self.checker.on_repair_begun(at, kept);
        let hard = recovered.hard_state?.with_repair(begins_as);
        let opened = disk.open(self.plan.cache_bytes).and_then(|(mut store, _)| {
            store.write_hard_state(&hard, true)?;
            let (mut store, recovered) = disk.open(self.plan.cache_bytes)?;
            if recovered.damage.is_empty() {
                return Ok((store, recovered));
            }
            // What is left of the log does not fit the trees: nothing of it can be used.
            let repair = Repair::UnderWay;
            store.write_hard_state(&hard.clone().with_repair(repair), true)?;
            disk.discard();
            self.checker.on_repair_begun(at, None);
            disk.open(self.plan.cache_bytes)
        });
        match opened {
            Ok(opened) => {
                self.checker
                    .on_repair_written(at, opened.1.hard_state.as_ref());
                Some(opened)
            }
            Err(error) => {
                self.checker
                    .fail("a repair can begin", || format!("{error}"));
                None
            }
        }
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
            Err(StorageError::Damaged(_)) if self.members[at].disk.is_rotten() => {
                self.checker.count("damage met at a start");
                self.members[at].disk.noted = true;
                self.harmed(at);
                self.restart_later(at);
                return;
            }
            Err(error) => {
                self.checker.fail("a replica starts from its own disk", || {
                    format!("{error:?}")
                });
                return;
            }
        };
        let (node, ..) = replica.glance();
        self.checker.levels[at] = self.members[at].level;
        self.checker.on_started(at, node.last, node.commit);
        self.members[at].life += 1;
        let life = self.members[at].life;
        self.members[at].process = Some(Process {
            replica,
            store,
            workshop: chat::replica::Workshop::with_portions(self.plan.portions),
            job: None,
            done: None,
            waiting: Vec::new(),
            paused: false,
            wake_at: None,
            read_paused_at: None,
            role: Role::Booting,
            term: Term(0),
            serving: false,
            relayed: 0,
        });
        let after = self.rng.between(1, 4_000);
        self.schedule(after, Happening::Tick { at, life });
        for other in 0..self.members.len() {
            self.reconnect(at, other, 2_000);
        }
        self.absorb(at);
        self.feed_free(at);
    }

    pub(super) fn replica_config(&self, at: usize) -> Config {
        let mut node = self.config.clone();
        node.id = id_of(at);
        node.level = self.members[at].level;
        Config {
            node,
            write_timeout_us: 400_000,
            read_timeout_us: 200_000,
            token_idle_us: self.plan.token_idle_us,
            retention_us: 0,
            checkpoint_entries_max: self.plan.checkpoint_entries,
            rewriting: self.plan.rewriting,
            scrub_interval_us: self.plan.scrub_us,
            free_bytes_min: 1_000,
            digest_every: self.plan.digest_every,
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
        self.forget_unwritten(at);
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
            self.on_stopped(at, error);
        }
    }

    /// The replica is woken when it wants to be.
    pub(super) fn wake_later(&mut self, at: usize) {
        let (now, life) = (self.clock(at).mono, self.members[at].life);
        let Some(process) = self.process(at) else {
            return;
        };
        let wanted = process.replica.wake_at();
        let before = std::mem::replace(&mut process.wake_at, wanted);
        if let Some(moment) = wanted.filter(|_| wanted != before) {
            self.schedule(moment.since(now) + 1, Happening::Wake { at, life });
        }
    }

    pub(super) fn wake(&mut self, at: usize, life: u64) {
        let now = self.clock(at).mono;
        if !self.lives(at, life) {
            return;
        }
        let Some(moment) = self.process(at).and_then(|process| process.wake_at) else {
            return;
        };
        if moment > now {
            // Its clock is slower than the world's.
            self.schedule(moment.since(now), Happening::Wake { at, life });
            return;
        }
        self.checker.count("turns for a commit notice that waited");
        self.feed(at, Input::Tick);
    }

    /// A run ends by itself only over damage, which begins its repair.
    pub(super) fn on_stopped(&mut self, at: usize, error: StorageError) {
        if self.is_rot(at, &error) {
            self.meets_damage(at, error);
            return;
        }
        let damaged = matches!(error, StorageError::Damaged(_)) && self.checker.views[at].damaged;
        self.checker
            .check(damaged, "a replica never stops by itself", || {
                format!("replica {}: {error:?}", at + 1)
            });
        self.end_damaged(at);
    }

    /// What was read is damage that this disk has, and nobody knew.
    pub(super) fn is_rot(&self, at: usize, error: &StorageError) -> bool {
        matches!(error, StorageError::Damaged(_)) && self.members[at].disk.is_rotten()
    }

    /// A disk job comes upon damage. The process may be gone before it has written that down: then
    /// nobody knows, and nothing came of it.
    pub(super) fn meets_damage(&mut self, at: usize, error: StorageError) {
        self.note(|| format!("{} comes upon damage: {error}", at + 1));
        if self.rng.chance(300) {
            self.kill(at, "before it has said that it is damaged");
            self.restart_later(at);
            return;
        }
        self.end_damaged(at);
        self.harmed(at);
    }

    fn end_damaged(&mut self, at: usize) {
        self.checker.count("runs that ended over damage");
        self.members[at].disk.noted = true;
        self.kill(at, "it is damaged");
        self.restart_later(at);
    }

    pub(super) fn resume(&mut self, at: usize) {
        let Some(process) = self.process(at) else {
            return;
        };
        process.paused = false;
        let paused_at = process.read_paused_at.take();
        let waiting = std::mem::take(&mut process.waiting);
        if paused_at.is_some_and(|at| self.now - at > self.config.election_timeout_us()) {
            self.checker
                .count("reads paused beyond an election timeout");
        }
        self.note(|| format!("{} resumes with {} inputs", at + 1, waiting.len()));
        for input in waiting {
            self.handle(at, input);
            self.look(at, true);
        }
        self.feed(at, Input::Tick);
    }
}

/// A turn's output, taken in two halves as the replica's thread does. No time passes between them here.
pub(super) fn halves(replica: &mut Replica<MemReader>) -> Result<Output, StorageError> {
    let first = replica.take_first()?.unwrap_or_default();
    let mut output = replica.take_output()?;
    output.messages.splice(0..0, first.messages);
    assert!(first.job.is_none() || output.job.is_none(), "one job");
    output.job = first.job.or(output.job);
    Ok(output)
}

/// The founders, as this disk knows them.
fn founders_of(store: &MemStore, recovered: &Recovered) -> Option<Members> {
    let formation = store
        .entries(Index(1), 1)
        .ok()
        .and_then(|entries| entries.first()?.as_formation());
    let of_base = &recovered.base.founders;
    formation
        .map(|formation| formation.members)
        .or_else(|| (!of_base.is_empty()).then(|| of_base.clone()))
}
