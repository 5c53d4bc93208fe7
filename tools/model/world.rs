//! All replicas and the network between them, as a model for stateright.

use crate::checks::{Broken, CommittedLogs, Summaries, check};
use crate::network::{Aside, Change, is_open};
use crate::options::{Bounds, Network, PAIRS, REPLICAS, Tick, id_of, place_of};
use crate::replica::{Disk, Input, Loss, disk_of};
use crate::search::Plan;
use crate::store::{BEYOND, LocalId, Store, Summary};
use chat::consensus::Body;
use chat::types::Term;
use stateright::{Model, Property};
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A state of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub replicas: [LocalId; REPLICAS],
    /// Messages that may still arrive.
    pub net: u32,
    /// The committed log as any replica ever knew it.
    pub committed: u32,
    pub crashes: u8,
    pub proposals: u8,
    pub cuts: u8,
    pub broken: Option<Broken>,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    pub what: What,
    /// Which election value is drawn.
    pub choice: u8,
    pub aside: Aside,
}

/// See [`Action`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// An input to one replica.
    Input(u8, Input),
    /// A message that was kept arrives.
    Arrive(u32),
    /// The connection between two replicas opens, and they say hello.
    Connect(u8, u8),
    /// It closes.
    Cut(u8, u8),
    /// A replica's window ends, after these ballots have arrived.
    Decide(u8, [Option<u32>; 2]),
    /// The first misses the primary and asks, the second misses it too and agrees.
    Elect(u8, u8),
    /// A candidate gets two grants.
    Win(u8, [u32; 2]),
}

/// The model.
pub struct Cluster {
    pub bounds: Bounds,
    pub start: Start,
    pub shared: Mutex<Shared>,
    /// States whose successors were looked for.
    pub expanded: AtomicU64,
    /// The time is over, and no state is expanded any more: a search on one thread does not look at
    /// the limit that the checker can be given.
    pub over: AtomicBool,
}

/// Where a run begins: all have booted, are connected and miss a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Start {
    /// Logs that hold nothing but the cluster's formation.
    Fresh,
    /// The same, and a primary was elected in term 1 and serves.
    Served,
    /// Term 2. The first was primary of term 1, the second of term 2, and each wrote the entry that
    /// begins its term, which nobody else has.
    Diverged,
}

impl Start {
    fn disk(self, place: usize) -> Disk {
        let (term, log): (u64, &[u64]) = match (self, place) {
            (Self::Fresh | Self::Served, _) => (0, &[]),
            (Self::Diverged, 0) => (2, &[1]),
            (Self::Diverged, 1) => (2, &[2]),
            (Self::Diverged, _) => (2, &[]),
        };
        disk_of(id_of(place), Term(term), log)
    }
}

/// What all states share.
#[derive(Default)]
pub struct Shared {
    pub store: Store,
    pub committed: CommittedLogs,
}

impl Cluster {
    /// Nothing is explored yet.
    pub fn new(plan: &Plan) -> Self {
        let mut shared = Shared::default();
        shared.store.terms = plan.bounds.terms;
        shared.store.network = plan.bounds.network;
        shared.store.mutant = plan.mutant;
        Self {
            bounds: plan.bounds.clone(),
            start: plan.start,
            shared: Mutex::new(shared),
            expanded: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// Whatever a panic of a checker thread has done.
    pub fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, shared: &mut Shared, world: &World, action: Action) -> Option<(World, u8)> {
        let Shared { store, committed } = shared;
        let mut change = Change::new(&self.bounds, store, *world, action.aside);
        match action.what {
            What::Input(place, input) => {
                match input {
                    Input::Propose => change.world.proposals += 1,
                    Input::Crash(_) => change.world.crashes += 1,
                    _ => {}
                }
                let place = usize::from(place);
                if matches!(input, Input::Crash(_)) && self.bounds.network != Network::Any {
                    change.apply(place, input, 0);
                    change.connect_all(place, action.choice == 1);
                } else {
                    change.apply(place, input, action.choice);
                }
            }
            What::Arrive(id) => change.arrive(id, action.choice),
            What::Connect(a, b) => change.connect(usize::from(a), usize::from(b)),
            What::Cut(a, b) => {
                change.world.cuts += 1;
                change.cut(usize::from(a), usize::from(b));
            }
            What::Decide(place, ballots) => {
                let place = usize::from(place);
                for id in ballots.into_iter().flatten() {
                    change.apply(place, Input::Deliver(id), 0);
                }
                if !change.is_beyond() && !change.summary(place).granted {
                    change.apply(place, Input::Tick(Tick::Short), 0);
                }
                if change.is_beyond() || !change.summary(place).granted {
                    return None;
                }
            }
            What::Elect(asks, agrees) => {
                let (asks, agrees) = (usize::from(asks), usize::from(agrees));
                let term = change.summary(asks).term;
                if !change.miss(agrees, false) || !change.miss(asks, true) || change.is_beyond() {
                    return None;
                }
                if change.summary(asks).term == term {
                    return None;
                }
            }
            What::Win(place, grants) => {
                let place = usize::from(place);
                for id in grants {
                    change.apply(place, Input::Deliver(id), 0);
                }
                if change.is_beyond() || !change.summary(place).leads {
                    return None;
                }
            }
        }
        Self::finish(change, committed, world)
    }

    fn finish(
        mut change: Change<'_>,
        logs: &mut CommittedLogs,
        before: &World,
    ) -> Option<(World, u8)> {
        if change.is_beyond() {
            return None;
        }
        let now = change.world.summaries(change.store);
        change.settle(&now)?;
        let was = before.summaries(change.store);
        let mut world = change.world;
        let known = Arc::clone(&logs.logs[world.committed as usize]);
        let mut committed = Cow::Borrowed(&*known);
        world.broken = check(change.store, &mut committed, &was, &now);
        if let Cow::Owned(committed) = committed {
            world.committed = logs.intern(committed);
        }
        Some((world, change.said))
    }
}

impl World {
    fn summaries(&self, store: &Store) -> Summaries {
        self.replicas
            .map(|id| Arc::clone(&store.locals[id as usize].summary))
    }

    fn some(&self, model: &Cluster, is: impl Fn(&Summary) -> bool) -> bool {
        let shared = model.shared();
        self.summaries(&shared.store)
            .iter()
            .any(|replica| is(replica))
    }
}

impl Model for Cluster {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut shared = self.shared();
        let Shared { store, committed } = &mut *shared;
        let replicas: [LocalId; REPLICAS] =
            std::array::from_fn(|place| store.start(self.start.disk(place)));
        let formation = store.locals[replicas[0] as usize].summary.disk[0];
        let world = World {
            replicas,
            net: store.intern_net(Vec::new()),
            committed: committed.intern(vec![(formation, 0)]),
            crashes: 0,
            proposals: 0,
            cuts: 0,
            broken: None,
        };
        let at_once = Bounds {
            network: Network::Late(0),
            ..self.bounds.clone()
        };
        let mut change = Change::new(&at_once, store, world, Aside::Nothing);
        for (a, b) in PAIRS {
            change.connect(a, b);
        }
        // Everybody misses the primary, and has asked when nobody else did.
        for place in 0..REPLICAS {
            let replica = change.world.replicas[place];
            let step = change.store.step(replica, Input::Tick(Tick::Long), 0);
            change.world.replicas[place] = step.next;
        }
        if self.start == Start::Served {
            serve(&mut change);
        }
        let first = Self::finish(change, committed, &world);
        first.into_iter().map(|(world, _)| world).collect()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        self.expanded.fetch_add(1, Ordering::Relaxed);
        if world.broken.is_some() {
            return;
        }
        let mut shared = self.shared();
        shared.store.drop_some();
        let mut found = Vec::new();
        self.find_actions(&mut shared.store, world, &mut found);
        for (what, draws) in found {
            for choice in 0..draws {
                let aside = Aside::Nothing;
                let action = Action {
                    what,
                    choice,
                    aside,
                };
                actions.push(action);
                let Network::Late(most) = self.bounds.network else {
                    continue;
                };
                let room = shared.store.nets[world.net as usize].len() < usize::from(most);
                let gives_room = matches!(what, What::Arrive(_)) && most > 0;
                if !room && !gives_room {
                    continue;
                }
                let Some((_, said)) = self.next(&mut shared, world, action) else {
                    continue;
                };
                for number in 0..said {
                    for aside in [Aside::Late(number), Aside::Again(number)] {
                        actions.push(Action {
                            what,
                            choice,
                            aside,
                        });
                    }
                }
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut shared = self.shared();
        self.next(&mut shared, world, action)
            .map(|(world, _)| world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties()
    }
}

impl Cluster {
    /// What may happen, and how many election values may be drawn in it.
    fn find_actions(&self, store: &mut Store, world: &World, found: &mut Vec<(What, u8)>) {
        let net = Arc::clone(&store.nets[world.net as usize]);
        let replicas = world.summaries(store);
        let any = self.bounds.network == Network::Any;
        let mut add = |store: &mut Store, what: What, place: usize, input: Input| {
            let step = store.step(world.replicas[place], input, 0);
            let news = |id: &u32| !any || net.binary_search(id).is_err();
            let idle = step.next == world.replicas[place] && !step.says.iter().any(news);
            if !idle {
                found.push((what, if step.drew { self.bounds.draws } else { 1 }));
            }
        };
        for id in net.iter() {
            if any && waits_for_others(store, world, &replicas, *id) {
                continue;
            }
            let to = place_of(store.messages[*id as usize].to);
            add(store, What::Arrive(*id), to, Input::Deliver(*id));
        }
        for (place, replica) in replicas.iter().enumerate() {
            let mut inputs = Vec::new();
            let undecided = replica.candidate && !replica.granted && !replica.has_job;
            if undecided && !any {
                inputs.push(Input::Tick(Tick::Short));
            }
            // See `find_elections`.
            let long = Input::Tick(Tick::Long);
            if replica.leads || replica.may_tick() && asks_for_copy(store, world, place) {
                inputs.push(long);
            }
            if replica.has_job {
                inputs.push(Input::Persist);
            }
            if replica.serving && world.proposals < self.bounds.entries {
                inputs.push(Input::Propose);
            }
            for input in inputs {
                add(store, What::Input(place as u8, input), place, input);
            }
        }
        if world.crashes < self.bounds.crashes {
            find_crashes(store, world, found);
        }
        find_elections(&replicas, found);
        if any {
            find_composed(store, &replicas, &net, found);
        }
        for (a, b) in PAIRS {
            let (x, y) = (a as u8, b as u8);
            let open = is_open(&replicas[a], &replicas[b], a, b);
            if !open {
                found.push((What::Connect(x, y), 1));
            } else if world.cuts < self.bounds.cuts {
                found.push((What::Cut(x, y), 1));
            }
        }
    }
}

/// Ballots to a candidate, and a grant that does not make it primary: see [`find_composed`].
fn waits_for_others(store: &mut Store, world: &World, replicas: &Summaries, id: u32) -> bool {
    let message = &store.messages[id as usize];
    let to = place_of(message.to);
    if replicas[to].term != message.term.0 {
        return false;
    }
    match message.body {
        Body::Ballot(_) => replicas[to].candidate,
        Body::Grant { .. } => {
            let next = store.step(world.replicas[to], Input::Deliver(id), 0).next;
            next == BEYOND || !store.locals[next as usize].summary.leads
        }
        _ => false,
    }
}

/// An election without trouble.
fn serve(change: &mut Change<'_>) {
    let missed = change.miss(1, false) && change.miss(0, true);
    assert!(missed, "they miss a primary from the start");
    let busy = |change: &Change<'_>| (0..REPLICAS).find(|place| change.summary(*place).has_job);
    while let Some(place) = busy(change) {
        change.apply(place, Input::Persist, 0);
    }
}

/// That a replica misses the primary, or gives up a contest, shows when it asks or agrees, and in
/// nothing before. So it does that then.
fn find_elections(replicas: &Summaries, found: &mut Vec<(What, u8)>) {
    for (a, asks) in replicas.iter().enumerate() {
        for (b, agrees) in replicas.iter().enumerate() {
            let able = asks.may_tick() && agrees.may_tick();
            if a != b && able && is_open(asks, agrees, a, b) {
                found.push((What::Elect(a as u8, b as u8), 1));
            }
        }
    }
}

/// Does the next tick ask for somebody's copy?
fn asks_for_copy(store: &mut Store, world: &World, place: usize) -> bool {
    let step = store.step(world.replicas[place], Input::Tick(Tick::Long), 0);
    let mut says = step.says.iter();
    says.any(|id| matches!(store.messages[*id as usize].body, Body::CopyRequest { .. }))
}

/// Each different outcome of a crash once.
fn find_crashes(store: &mut Store, world: &World, found: &mut Vec<(What, u8)>) {
    for (place, local) in world.replicas.iter().enumerate() {
        let mut left = Vec::new();
        for loss in Loss::all(store.locals[*local as usize].summary.has_job) {
            let input = Input::Crash(loss);
            let next = store.step(*local, input, 0).next;
            if !left.contains(&next) {
                left.push(next);
                found.push((What::Input(place as u8, input), 2));
            }
        }
    }
}

/// What ballots that have arrived do before the window ends, and grants before there are two, is
/// to be counted. So they arrive at the end, together: whatever else happens in between happens
/// alike without them.
fn find_composed(store: &Store, replicas: &Summaries, net: &[u32], found: &mut Vec<(What, u8)>) {
    for (place, replica) in replicas.iter().enumerate() {
        if !replica.candidate {
            continue;
        }
        let at = place as u8;
        let mut ballots = Vec::new();
        let mut grants = Vec::new();
        for id in net {
            let message = &store.messages[*id as usize];
            if place_of(message.to) != place || message.term.0 != replica.term {
                continue;
            }
            match message.body {
                Body::Ballot(_) => ballots.push(*id),
                Body::Grant { .. } => grants.push(*id),
                _ => {}
            }
        }
        if !replica.granted && !replica.has_job {
            found.push((What::Decide(at, [None, None]), 1));
            for (n, a) in ballots.iter().enumerate() {
                found.push((What::Decide(at, [Some(*a), None]), 1));
                for b in &ballots[n + 1..] {
                    found.push((What::Decide(at, [Some(*a), Some(*b)]), 1));
                }
            }
        }
        for (n, a) in grants.iter().enumerate() {
            for b in &grants[n + 1..] {
                found.push((What::Win(at, [*a, *b]), 1));
            }
        }
    }
}

fn holds<const CHECK: u8>(_: &Cluster, world: &World) -> bool {
    world.broken.is_none_or(|broken| broken as u8 != CHECK)
}

fn properties() -> Vec<Property<Cluster>> {
    let holds: [fn(&Cluster, &World) -> bool; 14] = [
        holds::<1>,
        holds::<2>,
        holds::<3>,
        holds::<4>,
        holds::<5>,
        holds::<6>,
        holds::<7>,
        holds::<8>,
        holds::<9>,
        holds::<10>,
        holds::<11>,
        holds::<12>,
        holds::<13>,
        holds::<14>,
    ];
    let always = Broken::ALL.iter().zip(holds);
    let mut all: Vec<Property<Cluster>> = always
        .map(|(broken, holds)| Property::always(broken.property(), holds))
        .collect();
    all.extend([
        Property::sometimes("a primary is elected", |model: &Cluster, world: &World| {
            world.some(model, |replica| replica.leads)
        }),
        Property::sometimes(
            "two replicas believe to be primary",
            |model: &Cluster, world: &World| {
                let all = world.summaries(&model.shared().store);
                all.iter().filter(|replica| replica.leads).count() > 1
            },
        ),
        Property::sometimes(
            "a command is committed",
            |model: &Cluster, world: &World| {
                let shared = model.shared();
                let mut log = shared.committed.logs[world.committed as usize].iter();
                log.any(|(entry, _)| shared.store.entries[usize::from(*entry)].command)
            },
        ),
        Property::sometimes(
            "a primary crashes and another follows",
            |model: &Cluster, world: &World| {
                let all = world.summaries(&model.shared().store);
                let followed = |dead: &Summary| {
                    let mut others = all.iter().filter(|other| other.leads);
                    dead.run > 1 && dead.led != 0 && others.any(|other| other.led > dead.led)
                };
                all.iter().any(|dead| followed(dead))
            },
        ),
        Property::sometimes(
            "a conflict is truncated",
            |model: &Cluster, world: &World| world.some(model, |replica| replica.truncates),
        ),
        Property::sometimes("a copy is adopted", |model: &Cluster, world: &World| {
            world.some(model, |replica| replica.adopts)
        }),
    ]);
    all
}
