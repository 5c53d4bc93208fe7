//! Everything that occurs, once, under a small number; and every step of a replica, once.
//!
//! A state of the whole world is a few numbers: of each replica's state, of the set of messages.
//! Replicas meet in far more combinations than each has states, so that a step of the shipped code
//! is run once for each pair of a replica's state and an input, and looked up ever after. Two
//! states of a replica are one if their bytes are (`Replica::view`); of these a blake3 hash is
//! kept.

use crate::checks::Broken;
use crate::options::{Network, REPLICAS};
use crate::replica::{Bytes, Disk, Input, Output, Replica};
use chat::consensus::{Body, Event, Message, Mutant, Role};
use chat::types::entry::{Entry, Kind};
use chat::types::{Hash, Index, Stamp};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

type Map<K, V> = std::collections::HashMap<K, V, foldhash::fast::FixedState>;

/// Number of a replica's state.
pub type LocalId = u32;
/// A state in a term beyond the bound.
pub const BEYOND: LocalId = LocalId::MAX;
/// Number of an entry.
pub type EntryId = u16;

/// What the checks must know of an entry.
pub struct Known {
    pub stamp: Stamp,
    pub command: bool,
}

/// What the world must know of a replica's state.
#[derive(Debug)]
pub struct Summary {
    pub term: u64,
    /// Its term on the disk: never falls.
    pub durable_term: u64,
    pub run: u8,
    pub met: [u8; REPLICAS],
    pub leads: bool,
    pub serving: bool,
    pub candidate: bool,
    pub granted: bool,
    pub led: u32,
    pub has_job: bool,
    pub truncates: bool,
    pub adopts: bool,
    pub commit: u64,
    /// The log on the disk, and as the node has it.
    pub disk: Box<[EntryId]>,
    pub memory: Box<[EntryId]>,
    pub broken: Option<Broken>,
}

impl Summary {
    /// Time passes here only when the disk has written a new term, and whatever a window waits for:
    /// what would come of it before comes of it after, too.
    pub fn may_tick(&self) -> bool {
        let waits = self.candidate && self.has_job;
        !self.leads && self.term == self.durable_term && !waits
    }
}

/// A replica's state.
pub struct Local {
    pub summary: Arc<Summary>,
    /// Made again from where it came from, if it is wanted after it was dropped.
    replica: Option<Box<Replica>>,
    /// The last other one that came here by another way: it must do the same. See [`Store::compare`].
    twin: Option<Box<Replica>>,
    /// None: a start, which is never dropped.
    from: Option<(LocalId, Input, u8)>,
}

/// So many replicas are kept whole.
const KEPT_MAX: usize = 40_000;

/// What an input does to a replica.
#[derive(Clone)]
pub struct Step {
    pub next: LocalId,
    pub says: Arc<[u32]>,
    /// It drew an election value: the other one makes another step.
    pub drew: bool,
}

impl Step {
    /// Nothing happens.
    fn nothing(local: LocalId) -> Self {
        Self {
            next: local,
            says: [].into(),
            drew: false,
        }
    }
}

/// See the module.
#[derive(Default)]
pub struct Store {
    /// What goes beyond this term is not looked at.
    pub terms: u64,
    pub network: Network,
    pub locals: Vec<Local>,
    kept: usize,
    local_ids: Map<[u8; 32], LocalId>,
    pub messages: Vec<Arc<Message>>,
    message_ids: Map<Arc<Message>, u32>,
    pub nets: Vec<Arc<[u32]>>,
    net_ids: Map<Arc<[u32]>, u32>,
    pub entries: Vec<Known>,
    entry_ids: Map<Hash, EntryId>,
    steps: Map<(LocalId, Input, u8), Step>,
    /// How many different steps of replicas brought about each kind of event.
    pub events: BTreeMap<&'static str, u64>,
    /// How many steps were taken from two replicas in the same state, to see them do the same.
    pub compared: u64,
    /// The wrong variant that is switched on.
    pub mutant: Option<Mutant>,
    /// What an assertion of the shipped code said when it failed.
    pub panic: Option<String>,
}

impl Store {
    /// Runs the shipped code once for each replica's state, input and choice.
    pub fn step(&mut self, local: LocalId, input: Input, choice: u8) -> Step {
        let key = (local, input, choice);
        if let Some(step) = self.steps.get(&key) {
            return step.clone();
        }
        let step = self.run(local, input, choice);
        self.steps.insert(key, step.clone());
        step
    }

    fn run(&mut self, local: LocalId, input: Input, choice: u8) -> Step {
        switch_on(self.mutant);
        self.make_whole(local);
        let before = self.whole(local);
        let mut replica = before.clone();
        let message = self.message_of(input);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            replica.apply(&input, message.as_deref(), choice)
        }));
        let output = match outcome {
            Ok(output) => output,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
                self.panic = text;
                replica = self.whole(local).clone();
                replica.broken = Some(Broken::Assertion);
                Output::default()
            }
        };
        self.compare(
            local,
            &input,
            message.as_deref(),
            choice,
            (&replica, &output),
        );
        for event in &output.events {
            *self.events.entry(name_of(event)).or_default() += 1;
        }
        if is_vain(message.as_deref(), &output) {
            return Step::nothing(local);
        }
        let next = if replica.node.hard_state().term.0 > self.terms {
            BEYOND
        } else {
            self.intern_replica(replica, Some((local, input, choice)))
        };
        let ballot = |message: &Message| matches!(message.body, Body::Ballot(_));
        let drew = output.messages.iter().any(ballot);
        let messages = output.messages.into_iter();
        let says = messages.map(|message| self.intern_message(message));
        Step {
            next,
            says: says.collect(),
            drew,
        }
    }

    /// Another replica with the same view takes the same step: does the view tell all that matters?
    fn compare(
        &mut self,
        local: LocalId,
        input: &Input,
        message: Option<&Message>,
        choice: u8,
        done: (&Replica, &Output),
    ) {
        let (replica, output) = done;
        if replica.broken.is_some() {
            return;
        }
        let Some(twin) = &self.locals[local as usize].twin else {
            return;
        };
        let mut twin = twin.clone();
        let said = twin.apply(input, message, choice);
        let ordered = self.network.driver().ordered;
        let alike = said.messages == output.messages
            || !ordered && same_set(&said.messages, &output.messages);
        let same = alike && self.bytes_of(&twin) == self.bytes_of(replica);
        assert!(
            same,
            "the view of a replica leaves out what matters for {input:?} {message:?}"
        );
        self.compared += 1;
    }

    fn bytes_of(&self, replica: &Replica) -> Bytes {
        let driver = self.network.driver();
        assert!(replica.clock < driver.run_us, "a run is too long");
        let mut bytes = Bytes::default();
        replica.view(driver, &mut bytes);
        bytes
    }

    fn message_of(&self, input: Input) -> Option<Arc<Message>> {
        match input {
            Input::Deliver(id) => Some(Arc::clone(&self.messages[id as usize])),
            _ => None,
        }
    }

    fn whole(&self, local: LocalId) -> &Replica {
        let replica = &self.locals[local as usize].replica;
        replica.as_deref().expect("it was made whole")
    }

    /// Takes the steps again that led to a replica's state that was dropped.
    fn make_whole(&mut self, local: LocalId) {
        let mut steps = Vec::new();
        let mut at = local;
        while self.locals[at as usize].replica.is_none() {
            let from = self.locals[at as usize].from;
            let from = from.expect("a start is never dropped");
            steps.push((at, from));
            at = from.0;
        }
        for (at, (before, input, choice)) in steps.into_iter().rev() {
            let mut replica = self.whole(before).clone();
            let message = self.message_of(input);
            replica.apply(&input, message.as_deref(), choice);
            self.keep(at, replica);
        }
    }

    fn keep(&mut self, local: LocalId, replica: Replica) {
        self.locals[local as usize].replica = Some(Box::new(replica));
        self.kept += 1;
    }

    fn keep_twin(&mut self, local: LocalId, replica: Replica) {
        let local = &mut self.locals[local as usize];
        self.kept += usize::from(local.twin.is_none());
        local.twin = Some(Box::new(replica));
    }

    /// Between two steps of the world, when there are too many.
    pub fn drop_some(&mut self) {
        if self.kept > KEPT_MAX {
            for local in self.locals.iter_mut().filter(|local| local.from.is_some()) {
                (local.replica, local.twin) = (None, None);
            }
            self.kept = 0;
        }
    }

    /// The number of a process that starts on this disk for the first time.
    pub fn start(&mut self, disk: Disk) -> LocalId {
        switch_on(self.mutant);
        let replica = Replica::start(disk, 1, Index(0));
        self.intern_replica(replica, None)
    }

    /// The number of a replica's state.
    fn intern_replica(&mut self, replica: Replica, from: Option<(LocalId, Input, u8)>) -> LocalId {
        let key = *blake3::hash(&self.bytes_of(&replica).0).as_bytes();
        if let Some(id) = self.local_ids.get(&key).copied() {
            self.keep_twin(id, replica);
            return id;
        }
        let id = self.locals.len() as LocalId;
        let summary = Arc::new(self.summary_of(&replica));
        self.locals.push(Local {
            summary,
            replica: None,
            twin: None,
            from,
        });
        self.keep(id, replica);
        self.local_ids.insert(key, id);
        id
    }

    fn summary_of(&mut self, replica: &Replica) -> Summary {
        let status = replica.node.status();
        let memory = replica.node.entries();
        let job = replica.job.as_ref();
        Summary {
            term: status.term.0,
            durable_term: replica.disk.hard.term.0,
            run: replica.run,
            met: replica.met,
            leads: status.role == Role::Primary,
            serving: status.serving,
            candidate: status.role == Role::Candidate,
            granted: replica.node.hard_state().granted_to.is_some(),
            led: replica.led,
            has_job: job.is_some(),
            truncates: job.is_some_and(|job| job.truncate_after.is_some()),
            adopts: replica.node.is_receiving(),
            commit: status.commit.0,
            disk: self.intern_log(&replica.disk.log),
            memory: self.intern_log(&memory),
            broken: replica.broken,
        }
    }

    fn intern_log(&mut self, log: &[Entry]) -> Box<[EntryId]> {
        log.iter()
            .map(|entry| {
                let next = self.entries.len() as EntryId;
                let id = *self.entry_ids.entry(entry.hash()).or_insert(next);
                if id == next {
                    let command = entry.kind() == Kind::Command;
                    let stamp = entry.stamp();
                    self.entries.push(Known { stamp, command });
                }
                id
            })
            .collect()
    }

    fn intern_message(&mut self, message: Message) -> u32 {
        if let Some(id) = self.message_ids.get(&message) {
            return *id;
        }
        let id = self.messages.len() as u32;
        let message = Arc::new(message);
        self.messages.push(Arc::clone(&message));
        self.message_ids.insert(message, id);
        id
    }

    /// The number of a set of messages, which is sorted.
    pub fn intern_net(&mut self, net: Vec<u32>) -> u32 {
        if let Some(id) = self.net_ids.get(net.as_slice()) {
            return *id;
        }
        let id = self.nets.len() as u32;
        let net: Arc<[u32]> = net.into();
        self.nets.push(Arc::clone(&net));
        self.net_ids.insert(net, id);
        id
    }

    /// How much there is of what.
    pub fn sizes(&self) -> String {
        format!(
            "{} states of a replica, {} steps of the shipped code ({} twice), {} messages, {} sets of them",
            self.locals.len(),
            self.steps.len(),
            self.compared,
            self.messages.len(),
            self.nets.len()
        )
    }
}

fn same_set(a: &[Message], b: &[Message]) -> bool {
    a.iter().all(|message| b.contains(message)) && b.iter().all(|message| a.contains(message))
}

/// A question that is not answered at once is lost: it would be kept until the next tick, and the
/// asker asks again.
fn is_vain(message: Option<&Message>, output: &Output) -> bool {
    let ask = message.is_some_and(|message| matches!(message.body, Body::Ask { .. }));
    let agree = |message: &Message| matches!(message.body, Body::Agree { .. });
    ask && !output.messages.iter().any(agree)
}

#[cfg(feature = "mutants")]
fn switch_on(mutant: Option<Mutant>) {
    // For this thread: which one the checker runs on is its own business.
    Mutant::activate(mutant);
}

#[cfg(not(feature = "mutants"))]
fn switch_on(_: Option<Mutant>) {}

fn name_of(event: &Event) -> &'static str {
    match event {
        Event::Asking => "misses the primary",
        Event::ElectionStarted(_) => "starts an election",
        Event::BecamePrimary(_) => "becomes primary",
        Event::Serving(_) => "serves",
        Event::SteppedDown { .. } => "steps down",
        Event::Primary { .. } => "follows a primary",
        Event::Truncated { .. } => "truncates",
        Event::Adopted { .. } => "adopts a copy",
        Event::AdoptionRefused { .. } => "refuses a copy",
        Event::Damaged { .. } => "is damaged",
        Event::LostMemory { .. } => "has lost its memory",
        Event::Refused { .. } => "tells that it refused a message",
        _ => "something else",
    }
}
