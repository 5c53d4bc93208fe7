//! A turn: what waited in the queue goes to the replica, and what came of it to whom it concerns.

use super::clock::Clock;
use super::outcomes::{Teller, Waiter};
use super::queue::{Frozen, Item, Tickets};
use super::shared::Shared;
use super::storage_thread::Work;
use super::transport::Transport;
use super::turns::{TurnEnd, Turns};
use super::{Input, Names, Output, ReadError, Replica, Ticket, counting, events};
use crate::consensus::Now;
use crate::limits::BATCH_ENTRIES_MAX;
use crate::metrics::Metrics;
use crate::state_machine::Answer;
use crate::storage::{StateReader, StorageError};
use crate::types::{Index, Monotonic, ReplicaId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use tokio::sync::oneshot;

/// Microseconds between two ticks: what the core asks for.
const TICK_US: u64 = 5_000;

/// A replica and everybody whom it concerns.
pub(super) struct Driver<R: StateReader, T: Transport> {
    replica: Replica<R>,
    id: ReplicaId,
    clock: Clock,
    shared: Arc<Shared>,
    work: Sender<Work>,
    transport: T,
    tickets: Tickets,
    writes: BTreeMap<Ticket, Waiter>,
    reads: BTreeMap<Ticket, oneshot::Sender<Result<Answer, ReadError>>>,
    /// Who waits for the trees to stand still.
    freezing: Option<oneshot::Sender<Frozen>>,
    tick_at: Monotonic,
    /// The replica wants a turn then.
    wake_at: Option<Monotonic>,
    primary_seen: Monotonic,
    lost_after_us: u64,
    metrics: Arc<Metrics>,
    /// At the last turn.
    applied: Index,
}

impl<R: StateReader + Send, T: Transport> Turns for Driver<R, T> {
    /// At least one turn, for the tick; none is larger than a batch.
    fn take_turns(&mut self, mut items: VecDeque<Item>) -> Result<TurnEnd, StorageError> {
        let before = self.applied;
        loop {
            let shut_down = self.turn(&mut items)?;
            if shut_down || items.is_empty() {
                let applied = self.applied.0.saturating_sub(before.0);
                return Ok(TurnEnd {
                    applied: applied as usize,
                    reads_wait: self.replica.reads_wait(),
                    shut_down,
                });
            }
        }
    }

    fn tick_at(&self) -> Monotonic {
        self.tick_at
    }

    fn wake_at(&self) -> Option<Monotonic> {
        let at_once = self.replica.wants_turn().then(Monotonic::default);
        at_once.or(self.wake_at)
    }

    fn now(&self) -> Monotonic {
        self.clock.now().mono
    }
}

impl<R: StateReader, T: Transport> Driver<R, T> {
    pub(super) fn new(
        replica: Replica<R>,
        clock: Clock,
        shared: Arc<Shared>,
        (work, transport): (Sender<Work>, T),
        lost_after_us: u64,
        metrics: Arc<Metrics>,
    ) -> Self {
        let now = clock.now().mono;
        let applied = replica.applied();
        Self {
            id: replica.id(),
            replica,
            clock,
            shared,
            work,
            transport,
            tickets: Tickets::default(),
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            freezing: None,
            tick_at: now,
            wake_at: None,
            primary_seen: now,
            lost_after_us,
            metrics,
            applied,
        }
    }

    /// True: the replica has shut down.
    fn turn(&mut self, items: &mut VecDeque<Item>) -> Result<bool, StorageError> {
        let now = self.clock.now();
        if now.mono >= self.tick_at {
            self.tick_at = now.mono.plus(TICK_US);
            self.replica.handle(Input::Tick, now)?;
            let used = self.shared.take_used();
            if !used.is_empty() {
                self.replica.handle(Input::TokensUsed(used), now)?;
            }
        } else if self.wake_at.is_some_and(|at| now.mono >= at) {
            self.replica.handle(Input::Tick, now)?;
        }
        let count = items.len().min(BATCH_ENTRIES_MAX);
        for item in items.drain(..count) {
            self.on_item(item, now)?;
        }
        if let Some(first) = self.replica.take_first()? {
            self.pass_on(first);
        }
        let output = self.replica.take_output()?;
        self.wake_at = self.replica.wake_at();
        let shut_down = output.shut_down;
        let jumped = output.jumped;
        self.pass_on(output);
        if jumped {
            self.jump()?;
        }
        self.tell_primary(now.mono);
        self.tell_frozen();
        Ok(shut_down)
    }

    fn on_item(&mut self, item: Item, now: Now) -> Result<(), StorageError> {
        match item {
            Item::Input(input) => {
                if matches!(input, Input::ShutDown) {
                    self.shared.set_shut_down();
                }
                return self.replica.handle(input, now);
            }
            Item::Write(command, waiter) => {
                let ticket = self.tickets.next();
                self.writes.insert(ticket, waiter);
                return self.replica.handle(Input::Write(ticket, command), now);
            }
            Item::Writes(writes) => {
                for (command, slot) in writes {
                    let ticket = self.tickets.next();
                    self.writes.insert(ticket, Waiter::Slot(slot));
                    self.replica.handle(Input::Write(ticket, command), now)?;
                }
            }
            Item::Read(query, consistency, sender) => {
                let ticket = self.tickets.next();
                self.reads.insert(ticket, sender);
                let input = Input::Read(ticket, query, consistency);
                return self.replica.handle(input, now);
            }
            // Whoever asked may have gone away; the answer is theirs to lose.
            Item::Status(sender) => drop(sender.send(self.replica.status())),
            Item::HandOver => self.replica.hand_over(now),
            Item::Freeze(sender) => {
                self.replica.freeze();
                self.freezing = Some(sender);
            }
            Item::Thaw => {
                self.freezing = None;
                self.replica.thaw();
            }
        }
        Ok(())
    }

    fn pass_on(&mut self, output: Output) {
        counting::count(&self.metrics, &output);
        self.count_applied();
        // BEFORE the messages: the logs of several replicas then show what came of what.
        for event in &output.events {
            events::log(self.id, event);
        }
        if let Some(scrubbed) = &output.scrubbed {
            events::log_scrub(self.id, scrubbed);
        }
        if output.scrub_given_up {
            tracing::warn!(
                "replica {}: the state changed too much while it was scrubbed; it is tried again later",
                self.id
            );
        }
        for message in output.messages {
            self.transport.send(message);
        }
        if let Some(job) = output.job {
            // A storage thread that is gone has told why, and has closed the queue.
            let _ = self.work.send(Work::Job(job));
        }
        if let Some(end) = output.repaired {
            let _ = self.work.send(Work::Repaired(end));
        }
        // BEFORE the outcomes, so that whoever created an account finds it in the next listing.
        for notice in output.notices {
            self.shared.notice(notice);
        }
        let mut teller = Teller::default();
        for (ticket, outcome) in output.written {
            if let Some(waiter) = self.writes.remove(&ticket) {
                teller.tell(waiter, outcome);
            }
        }
        teller.finish();
        for (ticket, answer) in output.answered {
            if let Some(sender) = self.reads.remove(&ticket) {
                let _ = sender.send(answer);
            }
        }
    }

    /// Entries by the index: a state that was installed was not applied one by one.
    fn count_applied(&mut self) {
        let applied = self.replica.applied();
        let before = std::mem::replace(&mut self.applied, applied);
        self.metrics.entries.add(applied.0.saturating_sub(before.0));
    }

    /// The state is another one: the names too, and streams begin again from what is there.
    fn jump(&mut self) -> Result<(), StorageError> {
        self.applied = self.replica.applied();
        let names = self.replica.names()?;
        let names = names.into_iter().map(|(name, _)| name).collect();
        self.shared.replace_names(Names::new(names));
        Ok(())
    }

    fn tell_primary(&mut self, now: Monotonic) {
        let primary = self.replica.primary();
        if primary.is_some() {
            self.primary_seen = now;
        }
        let missed = now.since(self.primary_seen) >= self.lost_after_us;
        let lost = missed || !self.replica.may_serve();
        self.shared.set_primary(primary, lost);
    }

    fn tell_frozen(&mut self) {
        if self.freezing.is_none() || !self.replica.is_frozen() {
            return;
        }
        if let Some(sender) = self.freezing.take() {
            let _ = sender.send(Frozen {
                status: self.replica.status(),
                slice: self.replica.checkpoint(),
            });
        }
    }
}
