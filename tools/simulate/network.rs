//! Links between the simulated replicas: what a message meets on its way, and what each side is
//! told of its connections.
//!
//! A connection is directed: `from` opened it to `to`. A blocked path loses messages silently and
//! is noticed only after a while, as a real one is; a dead process refuses at once.

use super::faults::Fate;
use super::world::{Happening, World};
use chat::consensus::Body;
use chat::replica::{Input, PeerMessage};
use chat::types::ReplicaId;

/// What the network does to messages in this run.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// Messages lost, of a thousand.
    pub loss: u64,
    /// Appends that arrive without some of their last entries, of a thousand.
    pub prefix: u64,
    /// Messages delivered twice, of a thousand.
    pub duplicate: u64,
    /// Messages that do not wait for those before them, of a thousand.
    pub reorder: u64,
    /// Longest usual delay in microseconds.
    pub delay_us_max: u64,
    /// Messages that take up to twenty times as long, of a thousand.
    pub late: u64,
}

/// One directed pair of replicas.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// The connection is open, as `from` knows.
    pub up: bool,
    /// `from` was told that nobody listens there.
    pub refused: bool,
    /// Nothing gets through this way.
    pub blocked: bool,
    /// Arrival of the last message, for those that keep their order.
    pub last_arrival: u64,
    /// A connection attempt is scheduled.
    pub connecting: bool,
}

/// All pairs.
pub struct Network {
    /// What messages meet.
    pub weather: Weather,
    links: Vec<Vec<Link>>,
}

impl Network {
    /// Calm and unconnected.
    pub fn new(replicas: usize) -> Self {
        Self {
            weather: Weather {
                delay_us_max: 300,
                ..Weather::default()
            },
            links: vec![vec![Link::default(); replicas]; replicas],
        }
    }
    /// The directed pair.
    pub fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from][to]
    }
    /// Opens every path again.
    pub fn unblock(&mut self) {
        for link in self.links.iter_mut().flatten() {
            link.blocked = false;
        }
    }
    /// Blocks or opens one direction.
    pub fn block(&mut self, from: usize, to: usize, blocked: bool) {
        self.links[from][to].blocked = blocked;
    }
    fn open_path(&self, a: usize, b: usize) -> bool {
        !self.links[a][b].blocked && !self.links[b][a].blocked
    }
}

impl World {
    /// Sends a message, or loses it.
    pub fn send(&mut self, mut message: PeerMessage) {
        let (from, to) = (slot(message.from()), slot(message.to()));
        if !self.network.link(from, to).up || self.network.link(from, to).blocked {
            return;
        }
        if self.gives_on_what_is_wrong(&message) {
            return;
        }
        let weather = self.network.weather.clone();
        if self.rng.chance(weather.prefix) {
            self.shorten(&mut message);
        }
        let fate = self.fate(&mut message);
        if let Fate::Late(after) = fate {
            self.schedule(after, Happening::Deliver(Box::new(message)));
            return;
        }
        if self.rng.chance(weather.loss) || fate == Fate::Lost {
            self.note(|| format!("lost {from}>{to}", from = from + 1, to = to + 1));
            return;
        }
        let copies = 1 + u64::from(self.rng.chance(weather.duplicate));
        for _ in 0..copies {
            let mut delay = self.rng.between(30, weather.delay_us_max.max(30));
            if self.rng.chance(weather.late) {
                delay *= self.rng.between(1, 20);
            }
            let ordered = !self.rng.chance(weather.reorder);
            let now = self.now;
            let link = self.network.link(from, to);
            let mut at = now + delay;
            if ordered {
                at = at.max(link.last_arrival);
                link.last_arrival = at;
            }
            self.schedule(at - now, Happening::Deliver(Box::new(message.clone())));
        }
    }

    /// An append with fewer entries: its sender could as well have sent that.
    fn shorten(&mut self, message: &mut PeerMessage) {
        let PeerMessage::Consensus(message) = message else {
            return;
        };
        if let Body::Append(append) = &mut message.body
            && !append.entries.is_empty()
        {
            let kept = self.rng.below(append.entries.len() as u64) as usize;
            append.entries.truncate(kept);
            self.checker.count("appends cut to a prefix");
        }
    }

    /// A message arrives.
    pub fn deliver(&mut self, message: PeerMessage) {
        let (from, to) = (slot(message.from()), slot(message.to()));
        if self.network.link(from, to).blocked {
            return;
        }
        if self.members[to].process.is_some() {
            self.feed(to, Input::Peer(message));
        }
    }

    /// `from` tries to open a connection to `to`.
    pub fn connect(&mut self, from: usize, to: usize) {
        self.network.link(from, to).connecting = false;
        if self.members[from].process.is_none() || self.network.link(from, to).up {
            return;
        }
        let open = self.network.open_path(from, to);
        if open && self.members[to].process.is_some() {
            let link = self.network.link(from, to);
            link.up = true;
            link.refused = false;
            self.feed(from, Input::LinkUp(id_of(to)));
            return;
        }
        if open && !self.network.link(from, to).refused {
            self.network.link(from, to).refused = true;
            self.feed(
                from,
                Input::LinkDown {
                    peer: id_of(to),
                    refused: true,
                },
            );
        }
        self.reconnect(from, to, 4_000);
    }

    /// Schedules an attempt, if none is.
    pub fn reconnect(&mut self, from: usize, to: usize, mean_us: u64) {
        if from != to && !self.network.link(from, to).connecting {
            self.network.link(from, to).connecting = true;
            let after = self.rng.around(mean_us);
            self.schedule(after, Happening::Connect { from, to });
        }
    }

    /// A process has gone: those who can see it are told soon.
    pub fn on_process_gone(&mut self, gone: usize) {
        for other in 0..self.members.len() {
            self.network.link(gone, other).up = false;
            self.network.link(gone, other).refused = false;
            if other != gone && self.network.link(other, gone).up {
                let after = self.rng.between(50, 1_000);
                self.schedule(
                    after,
                    Happening::LinkLost {
                        from: other,
                        to: gone,
                    },
                );
            }
        }
    }

    /// The connection breaks, if it stands.
    pub fn link_lost(&mut self, from: usize, to: usize) {
        if !self.network.link(from, to).up {
            return;
        }
        let open = self.network.open_path(from, to);
        let dead = self.members[to].process.is_none();
        if dead && !open {
            // Nobody says that the process is gone: the keepalive finds out.
            let after = self.rng.between(50_000, 300_000);
            self.schedule(after, Happening::KeepaliveLost { from, to });
            return;
        }
        self.close(from, to, dead && open);
    }

    /// The keepalive of a silent connection gives up.
    pub fn keepalive_lost(&mut self, from: usize, to: usize) {
        let silent = !self.network.open_path(from, to) || self.members[to].process.is_none();
        if silent && self.network.link(from, to).up {
            self.close(from, to, false);
        }
    }

    fn close(&mut self, from: usize, to: usize, refused: bool) {
        let link = self.network.link(from, to);
        link.up = false;
        link.refused = refused;
        if self.members[from].process.is_some() {
            self.feed(
                from,
                Input::LinkDown {
                    peer: id_of(to),
                    refused,
                },
            );
            self.reconnect(from, to, 3_000);
        }
    }

    /// Blocks one direction and lets the keepalives notice.
    pub fn cut(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        self.network.block(from, to, true);
        for (a, b) in [(from, to), (to, from)] {
            let after = self.rng.between(80_000, 400_000);
            self.schedule(after, Happening::KeepaliveLost { from: a, to: b });
        }
    }
}

/// Place of a replica in the world's lists.
pub fn slot(id: ReplicaId) -> usize {
    usize::from(id.0) - 1
}

/// The replica at a place.
pub fn id_of(slot: usize) -> ReplicaId {
    ReplicaId(slot as u16 + 1)
}
