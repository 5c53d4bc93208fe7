//! Messages of other replicas to a replica that believes who sent them: whatever they say, nothing
//! panics. What must not be believed at all never comes so far.

use super::craft::{Asked, OP_BYTES, happen};
use crate::consensus::{
    Body, Config, FormationStatus, HardState, Hello, Message, Node, Now, Ready, Refresh, Repair,
    SnapshotStep, Start, StepDone,
};
use crate::grpc::fuzzing::{MEMBERS, RUN, envelope_of, incarnation, messages as samples};
use crate::grpc::peer_convert::{Expected, from_envelope};
use crate::proto::peer as proto;
use crate::replica::PeerMessage;
use crate::types::entry::{Entry, Kind};
use crate::types::{
    Base, ClusterId, Hash, Index, LEVEL, Members, Monotonic, ReplicaId, RunNonce, Stamp, Term,
    WallTime,
};
use prost::Message as _;
use std::collections::BTreeMap;

pub(super) const ME: ReplicaId = ReplicaId(1);
/// The node's own run.
const OWN_RUN: RunNonce = RunNonce(4);
/// Microseconds between two messages.
const STEP_US: u64 = 5_000;
/// Turns in which a lonely candidate becomes primary, at most.
const PATIENCE: usize = 2_000;

/// A node, a clock, and a disk that takes its time.
pub(super) struct World {
    pub(super) node: Node,
    now: u64,
    /// Jobs become durable only some messages later.
    slow: bool,
    pub(super) asked: Asked,
}

impl World {
    pub(super) fn now(&self) -> Now {
        Now {
            mono: Monotonic(self.now),
            wall: WallTime(1_767_225_600_000_000 + self.now),
        }
    }

    /// For a while nothing comes.
    pub(super) fn pass(&mut self, us: u64) {
        for _ in 0..us / STEP_US {
            self.turn();
        }
    }

    pub(super) fn step(&mut self, message: Message) {
        let now = self.now();
        self.node.step(now, message);
    }

    /// Time passes and what was asked for is done. Returns what is sent.
    fn turn(&mut self) -> Vec<Message> {
        self.now += STEP_US;
        let now = self.now();
        self.node.tick(now);
        let mut sent = Vec::new();
        // A job may follow a job; nothing goes on for ever.
        for _ in 0..4 {
            let Ready {
                job,
                messages,
                snapshot_step,
                ..
            } = self.node.take_ready();
            for message in &messages {
                self.asked.note(message);
            }
            sent.extend(messages);
            if let Some(step) = snapshot_step {
                let checked = matches!(step, SnapshotStep::Check);
                let done = if checked {
                    StepDone::Checked(true)
                } else {
                    StepDone::Stored
                };
                self.node.on_snapshot_step(now, done);
            }
            let Some(job) = job else {
                break;
            };
            if self.slow {
                self.now += STEP_US * 3;
            }
            let now = self.now();
            self.node.on_persisted(now, job.id);
        }
        sent
    }
}

pub(super) fn members() -> Members {
    MEMBERS.iter().map(|id| (*id, incarnation(*id))).collect()
}

/// Entry 1 and a few commands of term 1.
pub(super) fn log() -> Vec<Entry> {
    let mut entries = vec![Entry::formation(&members())];
    for index in 2..=6 {
        let stamp = Stamp::new(Term(1), Index(index));
        let previous = entries.last().map_or(Hash::default(), Entry::hash);
        let kind = if index == 2 {
            Kind::TermStart
        } else {
            Kind::Command
        };
        let time = WallTime(index);
        entries.push(Entry::seal(stamp, time, previous, kind, b""));
    }
    entries
}

fn node(repair: Repair) -> Node {
    let tail = log();
    let last = tail.last().map_or(Stamp::ZERO, Entry::stamp);
    let mut hard_state = HardState::new_life(ME, incarnation(ME), Some(members()), last);
    hard_state.granted_to = None;
    hard_state.mark = last;
    hard_state.repair = repair;
    Node::new(Start {
        config: Config {
            id: ME,
            ids: MEMBERS.to_vec(),
            refresh_interval_us: 100_000,
            election_iters: 5,
            election_check_interval_us: 10_000,
            initialize_wait_us: 50_000,
            notice_wait_us: 0,
            build: "fuzz".into(),
            level: crate::types::LEVEL,
        },
        hard_state,
        members: members(),
        base: Base::default(),
        term_runs: vec![(Index(1), Term(0)), (Index(2), Term(1))],
        last,
        tail,
        tail_previous_hash: Hash::default(),
        commit: Index(4),
        applied: Index(4),
        level: crate::types::LEVEL,
        damage: None,
        run: OWN_RUN,
        seed: 7,
        now: Now::default(),
    })
}

/// What is said by another replica in good faith.
pub(super) fn from(peer: ReplicaId, term: Term, body: Body) -> Message {
    Message {
        from: peer,
        to: ME,
        cluster: Some(ClusterId::of_members(&members())),
        from_incarnation: incarnation(peer),
        to_incarnation: Some(incarnation(ME)),
        run: RUN,
        term,
        body,
    }
}

fn hello() -> Hello {
    let log = log();
    let last = log.last().expect("it is not empty");
    Hello {
        ids: MEMBERS.to_vec(),
        formation: FormationStatus::Formed(members()),
        last: last.stamp(),
        head_hash: last.hash(),
        commit: Index(4),
        primary: None,
        protocol: (1, 1),
        level: LEVEL,
        build: "fuzz".into(),
        damaged: false,
        admitted: true,
        repairing: false,
        knows_run: Some(OWN_RUN),
        remembers: Stamp::ZERO,
    }
}

fn refresh(is_primary: bool) -> Refresh {
    let last = hello().last;
    Refresh {
        progress: 1,
        is_primary,
        primary: is_primary.then_some(ReplicaId(2)),
        last,
        settled: Stamp::FORMATION,
        commit: Index(4),
        applied: Index(4),
        digests: Vec::new(),
        acknowledged: BTreeMap::new(),
        members: BTreeMap::new(),
        members_at: Index(0),
        clock: WallTime(1_767_225_600_000_000),
        disk_low: false,
        quarantined: false,
        knows_run: Some(OWN_RUN),
        remembers: Stamp::ZERO,
    }
}

/// A replica as it is in the middle of its life; four sorts.
fn begin(sort: u8) -> World {
    let repair = if sort % 4 == 3 {
        Repair::UnderWay
    } else {
        Repair::No
    };
    let mut world = World {
        node: node(repair),
        now: 1_000,
        slow: sort & 4 != 0,
        asked: Asked::default(),
    };
    for peer in &MEMBERS[1..] {
        let now = world.now();
        world.node.on_link_up(now, *peer);
        if sort % 4 != 2 {
            world.step(from(*peer, Term(1), Body::Hello(hello())));
        }
    }
    match sort % 4 {
        1 => become_primary(&mut world),
        2 => {}
        _ => {
            let body = Body::Refresh(refresh(true));
            world.step(from(ReplicaId(2), Term(1), body));
        }
    }
    world.turn();
    world
}

/// The others agree, grant and acknowledge.
fn become_primary(world: &mut World) {
    for _ in 0..PATIENCE {
        if world.node.status().serving {
            return;
        }
        for message in world.turn() {
            let answer = match message.body {
                Body::Ask { nonce, .. } => Body::Agree { nonce },
                Body::Ballot(ballot) => Body::Grant {
                    nonce: ballot.nonce,
                    clock: WallTime(1_767_225_600_000_000),
                },
                Body::Append(append) => Body::AppendReply(crate::consensus::AppendReply::Match {
                    index: append
                        .entries
                        .last()
                        .map_or(append.previous.index, Entry::index),
                    counting: true,
                }),
                _ => continue,
            };
            world.step(from(message.to, message.term, answer));
        }
    }
    panic!("two friends make a primary");
}

/// One byte says what the replica is; then envelopes, each after its length.
pub(super) fn messages(data: &[u8]) {
    let Some((sort, mut rest)) = data.split_first() else {
        return;
    };
    let mut world = begin(*sort);
    while let Ok(envelope) = proto::Envelope::decode_length_delimited(&mut rest) {
        let from = ReplicaId(envelope.from as u16);
        let expected = Expected { from, to: ME };
        let Ok(received) = from_envelope(envelope, expected) else {
            continue;
        };
        if let PeerMessage::Consensus(message) = received.message {
            world.step(message);
            world.turn();
        }
    }
    for _ in 0..50 {
        world.turn();
    }
}

/// One byte says what the replica is; then what happens, in a few bytes each.
pub(super) fn crafted(data: &[u8]) {
    let Some((sort, ops)) = data.split_first() else {
        return;
    };
    let mut world = begin(*sort);
    for op in ops.as_chunks::<OP_BYTES>().0 {
        happen(&mut world, *op);
        world.turn();
    }
    for _ in 0..50 {
        world.turn();
    }
}

/// Something of each sort.
pub(super) fn crafted_seeds() -> Vec<Vec<u8>> {
    let ops = (0..8u8).flat_map(|few| (0..32).map(move |what| [what, few & 1, 6, few, 1, 6]));
    let all: Vec<u8> = ops.flatten().collect();
    (0..8).map(|sort| [&[sort][..], &all].concat()).collect()
}

/// A message of each sort to each sort of replica.
pub(super) fn message_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for sort in 0..8 {
        let term = if sort % 4 == 1 { Term(2) } else { Term(1) };
        let mut all = vec![sort];
        for body in samples() {
            let message = from(ReplicaId(2), term, body);
            let one =
                envelope_of(&PeerMessage::Consensus(message)).encode_length_delimited_to_vec();
            all.extend(&one);
            seeds.push([&[sort][..], &one].concat());
        }
        seeds.push(all);
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::{Append, Role};

    #[test]
    fn each_sort_of_replica_is_what_it_says_and_believes_its_primary() {
        let secondary = begin(0).node.status();
        assert_eq!(secondary.primary, Some(ReplicaId(2)));
        assert!(begin(1).node.status().serving);
        assert_eq!(begin(2).node.status().role, Role::Booting);
        assert_eq!(begin(3).node.status().role, Role::Repairing);

        let mut world = begin(0);
        let last = log().pop().unwrap();
        let stamp = Stamp::new(Term(1), Index(7));
        let entry = Entry::seal(stamp, WallTime(7), last.hash(), Kind::Command, b"");
        let append = Append {
            previous: last.stamp(),
            previous_hash: last.hash(),
            entries: vec![entry],
            commit: Index(7),
            notice: false,
        };
        world.step(from(ReplicaId(2), Term(1), Body::Append(append)));
        world.turn();
        assert_eq!(world.node.status().commit, Index(7));
        assert!(world.node.refusals().rows().is_empty());
    }
}
