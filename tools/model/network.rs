//! A state in the making: inputs to replicas, and what becomes of what they say.

use crate::checks::Summaries;
use crate::options::{Bounds, Network, REPLICAS, Tick, place_of};
use crate::replica::Input;
use crate::store::{BEYOND, Step, Store, Summary};
use crate::world::World;
use chat::consensus::{Body, Message};
use std::collections::VecDeque;
use std::sync::Arc;

/// Which message of all that are said in a step is kept back; the others arrive at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aside {
    /// None.
    Nothing,
    /// The one of this number arrives later, or never.
    Late(u8),
    /// The one of this number arrives at once, and again later.
    Again(u8),
}

/// See the module.
pub struct Change<'a> {
    pub bounds: &'a Bounds,
    pub store: &'a mut Store,
    pub world: World,
    aside: Aside,
    /// How many messages could have been kept back.
    pub said: u8,
    /// For the network to keep.
    sent: Vec<u32>,
}

impl<'a> Change<'a> {
    /// Nothing has happened yet.
    pub fn new(bounds: &'a Bounds, store: &'a mut Store, world: World, aside: Aside) -> Self {
        Self {
            bounds,
            store,
            world,
            aside,
            said: 0,
            sent: Vec::new(),
        }
    }

    pub fn summary(&self, place: usize) -> Arc<Summary> {
        let local = self.world.replicas[place];
        Arc::clone(&self.store.locals[local as usize].summary)
    }

    /// One input to one replica, and what comes of it at once.
    pub fn apply(&mut self, place: usize, input: Input, choice: u8) {
        let said = self.apply_one(place, input, choice);
        self.talk(said);
    }

    /// Time passes for one replica until it misses the primary; false if it does not come to that.
    /// Its question reaches nobody unless it is `heard`.
    pub fn miss(&mut self, place: usize, heard: bool) -> bool {
        for _ in 0..2 {
            let mut said = self.apply_one(place, Input::Tick(Tick::Long), 0);
            let is_ask = |id: &u32| {
                let body = &self.store.messages[*id as usize].body;
                matches!(body, Body::Ask { .. })
            };
            let asks = said.iter().any(is_ask);
            if !heard {
                said.retain(|id| !is_ask(id));
            }
            self.talk(said);
            if asks || self.is_beyond() {
                return asks;
            }
        }
        false
    }

    /// Has a replica gone beyond the bounds?
    pub fn is_beyond(&self) -> bool {
        self.world.replicas.contains(&BEYOND)
    }

    fn apply_one(&mut self, place: usize, input: Input, choice: u8) -> Vec<u32> {
        if self.is_beyond() {
            return Vec::new();
        }
        let Step { next, says, .. } = self.store.step(self.world.replicas[place], input, choice);
        self.world.replicas[place] = next;
        says.to_vec()
    }

    /// Messages are heard in the order in which they are said, until nobody has anything to say.
    fn talk(&mut self, said: Vec<u32>) {
        let mut queue: VecDeque<u32> = said.into();
        let mut turns = 0;
        while let Some(id) = queue.pop_front() {
            if self.is_beyond() {
                return;
            }
            turns += 1;
            assert!(turns < 200, "the talk never ends");
            let message = Arc::clone(&self.store.messages[id as usize]);
            if self.arrives_now(id, &message) {
                queue.extend(self.apply_one(place_of(message.to), Input::Deliver(id), 0));
            }
        }
    }

    /// Does it arrive now? It may be lost, or kept.
    fn arrives_now(&mut self, id: u32, message: &Message) -> bool {
        let open = self.connected(place_of(message.from), place_of(message.to));
        match message.body {
            Body::Hello(_) | Body::Ask { .. } | Body::Agree { .. } => open,
            // Ends a window early, as a tick does.
            Body::Abstain if self.bounds.network == Network::Any => false,
            // Never by itself, here; by a connection that opens, a hello says the same.
            Body::Refresh(_) if self.bounds.network == Network::Any => false,
            _ if self.bounds.network == Network::Any => {
                self.sent.push(id);
                false
            }
            _ => {
                let number = self.said;
                self.said += 1;
                let aside = self.aside;
                if matches!(aside, Aside::Late(n) | Aside::Again(n) if n == number) {
                    self.sent.push(id);
                }
                open && aside != Aside::Late(number)
            }
        }
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        is_open(&self.summary(a), &self.summary(b), a, b)
    }

    /// A connection opens, and both sides say hello.
    pub fn connect(&mut self, a: usize, b: usize) {
        if self.is_beyond() {
            return;
        }
        self.cut(a, b);
        // Twice: a hello says which run of the receiver its sender has seen, and the next refresh,
        // which would say it again, never comes by itself.
        for _ in 0..2 {
            let mut hellos = Vec::new();
            for (here, there) in [(a, b), (b, a)] {
                if self.is_beyond() {
                    return;
                }
                let run = self.summary(there).run;
                hellos.extend(self.apply_one(here, Input::LinkUp(there, run), 0));
            }
            self.talk(hellos);
        }
    }

    /// A connection closes.
    pub fn cut(&mut self, a: usize, b: usize) {
        for (here, there) in [(a, b), (b, a)] {
            if self.summary(here).met[there] != 0 {
                let said = self.apply_one(here, Input::LinkDown(there), 0);
                assert!(said.is_empty(), "a closed connection says nothing");
            }
        }
    }

    /// The process that has just started is connected to all others again.
    pub fn connect_all(&mut self, place: usize, backwards: bool) {
        let mut others: Vec<usize> = (0..REPLICAS).filter(|other| *other != place).collect();
        if backwards {
            others.reverse();
        }
        for other in others {
            self.connect(place, other);
        }
    }

    /// A message that was kept arrives.
    pub fn arrive(&mut self, id: u32, choice: u8) {
        if self.bounds.network != Network::Any {
            let mut net = self.store.nets[self.world.net as usize].to_vec();
            net.retain(|other| *other != id);
            self.world.net = self.store.intern_net(net);
        }
        let to = place_of(self.store.messages[id as usize].to);
        self.apply(to, Input::Deliver(id), choice);
    }

    /// What the network holds in the end; `None` if that is more than it may.
    pub fn settle(&mut self, replicas: &Summaries) -> Option<()> {
        let held = &self.store.nets[self.world.net as usize];
        if held.is_empty() && self.sent.is_empty() {
            return Some(());
        }
        let mut net = held.to_vec();
        net.extend_from_slice(&self.sent);
        net.sort_unstable();
        net.dedup();
        net.retain(|id| !is_dead(&self.store.messages[*id as usize], replicas));
        let full = match self.bounds.network {
            Network::Any => false,
            Network::Late(most) => net.len() > usize::from(most),
        };
        self.world.net = self.store.intern_net(net);
        (!full).then_some(())
    }
}

/// Do both ends know of the same connection, between the present runs?
pub fn is_open(x: &Summary, y: &Summary, a: usize, b: usize) -> bool {
    x.met[b] == y.run && y.met[a] == x.run
}

/// A message that its receiver will ignore for ever is as good as lost.
fn is_dead(message: &Message, replicas: &Summaries) -> bool {
    let (from, to) = (place_of(message.from), place_of(message.to));
    let run = (message.run.0 % 100) as u8;
    // Of a process that is gone, to one that does not know it or knows its successor.
    if run < replicas[from].run && replicas[to].met[from] != run {
        return true;
    }
    match message.body {
        // Taken in their own term only. A term on a disk never falls.
        Body::Abstain
        | Body::Grant { .. }
        | Body::AppendReply(_)
        | Body::CampaignNow
        | Body::Ballot(_)
        | Body::Append(_) => message.term.0 < replicas[to].durable_term,
        _ => false,
    }
}
