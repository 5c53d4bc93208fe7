//! A perfect network and disk of a few nodes: the main path, step by step.

mod late;
mod notices;
mod time;

use super::*;
use crate::types::entry::{Entry, Kind};
use crate::types::*;
use std::collections::BTreeMap;

const STEP_US: u64 = 2_000;
const START_US: u64 = 1_700_000_000_000_000;

struct Cluster {
    nodes: BTreeMap<ReplicaId, Node>,
    /// How far a wall clock is ahead, in microseconds.
    ahead: BTreeMap<ReplicaId, i64>,
    committed: BTreeMap<ReplicaId, Vec<Entry>>,
    events: Vec<(ReplicaId, Event)>,
    reads: Vec<(ReadId, Index)>,
    now: u64,
}

impl Cluster {
    fn new(n: u16) -> Self {
        let ids: Vec<ReplicaId> = (1..=n).map(ReplicaId).collect();
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            ahead: BTreeMap::new(),
            committed: BTreeMap::new(),
            events: Vec::new(),
            reads: Vec::new(),
            now: 0,
        };
        for id in &ids {
            let node = Node::new(start(*id, &ids, 1));
            cluster.nodes.insert(*id, node);
        }
        cluster.connect();
        cluster
    }

    fn now(&self) -> Now {
        Now {
            mono: Monotonic(self.now),
            wall: WallTime(START_US + self.now),
        }
    }

    /// By this replica's clock.
    fn now_of(&self, id: ReplicaId) -> Now {
        let now = self.now();
        let ahead = self.ahead.get(&id).copied().unwrap_or(0);
        Now {
            wall: WallTime(now.wall.0.saturating_add_signed(ahead)),
            ..now
        }
    }

    fn connect(&mut self) {
        let now = self.now();
        let ids: Vec<ReplicaId> = self.nodes.keys().copied().collect();
        for a in &ids {
            for b in ids.iter().filter(|b| *b != a) {
                self.nodes.get_mut(a).unwrap().on_link_up(now, *b);
            }
        }
    }

    /// Does all that this disk is to do; what is said then.
    fn write_all(&mut self, now: Now, id: ReplicaId) -> Vec<Message> {
        let node = self.nodes.get_mut(&id).unwrap();
        let mut messages = Vec::new();
        loop {
            let ready = node.take_ready();
            messages.extend(ready.messages);
            match ready.job {
                Some(job) => node.on_persisted(now, job.id),
                None => return messages,
            }
        }
    }

    fn step(&mut self, message: Message) {
        let now = self.now_of(message.to);
        if let Some(node) = self.nodes.get_mut(&message.to) {
            node.step(now, message);
        }
    }

    fn kill(&mut self, id: ReplicaId) {
        self.nodes.remove(&id);
        let now = self.now();
        for node in self.nodes.values_mut() {
            node.on_link_down(now, id, true);
        }
    }

    fn run(&mut self, us: u64) {
        let until = self.now + us;
        while self.now < until {
            self.now += STEP_US;
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                let now = self.now_of(id);
                self.nodes.get_mut(&id).unwrap().tick(now);
            }
            self.settle();
        }
    }

    fn settle(&mut self) {
        let clocks: BTreeMap<ReplicaId, Now> = self
            .nodes
            .keys()
            .map(|id| (*id, self.now_of(*id)))
            .collect();
        for _ in 0..100 {
            let mut messages = Vec::new();
            for (id, node) in &mut self.nodes {
                let now = clocks[id];
                let ready = node.take_ready();
                messages.extend(ready.messages);
                self.committed
                    .entry(*id)
                    .or_default()
                    .extend(ready.committed);
                self.events
                    .extend(ready.events.into_iter().map(|e| (*id, e)));
                self.reads.extend(ready.reads);
                if let Some(job) = ready.job {
                    node.on_persisted(now, job.id);
                }
            }
            if messages.is_empty() && self.nodes.values_mut().all(|n| !n.has_news()) {
                return;
            }
            for message in messages {
                self.step(message);
            }
        }
        panic!("the network does not come to rest");
    }

    fn primary(&self) -> Option<ReplicaId> {
        let serving = |node: &&Node| node.status().serving;
        let found = self
            .nodes
            .values()
            .filter(serving)
            .max_by_key(|n| n.status().term);
        found.map(|n| n.status().id)
    }
}

fn start(id: ReplicaId, ids: &[ReplicaId], run: u64) -> Start {
    Start {
        base: Base::default(),
        config: Config {
            id,
            ids: ids.to_vec(),
            refresh_interval_us: 100_000,
            election_iters: 5,
            election_check_interval_us: 10_000,
            initialize_wait_us: 2_000_000,
            notice_wait_us: 0,
            build: "test".into(),
            level: crate::types::LEVEL,
        },
        hard_state: HardState {
            id,
            incarnation: Incarnation([id.0 as u8; 16]),
            formation: FormationStatus::Unformed,
            cluster: None,
            term: Term(0),
            granted_to: None,
            term_accepted: Term(0),
            mark: Stamp::ZERO,
            others_marks: BTreeMap::new(),
            repair: crate::consensus::Repair::No,
            given_up: crate::types::Term(0),
            quarantined: false,
            others_lives: BTreeMap::new(),
            others_as_of: Index(0),
        },
        members: Members::new(),
        level: Level(0),
        term_runs: Vec::new(),
        last: Stamp::ZERO,
        tail: Vec::new(),
        tail_previous_hash: Hash::default(),
        commit: Index(0),
        applied: Index(0),
        damage: None,
        run: RunNonce(run * 100 + u64::from(id.0)),
        seed: u64::from(id.0),
        now: Now::default(),
    }
}

fn command(text: &str) -> (Kind, Vec<u8>) {
    (Kind::Command, text.as_bytes().to_vec())
}

#[test]
fn nodes_form_elect_and_commit() {
    for n in [1, 3, 5] {
        let mut cluster = Cluster::new(n);
        cluster.run(500_000);
        let primary = cluster.primary().expect("a primary serves");
        let now = cluster.now();
        let node = cluster.nodes.get_mut(&primary).unwrap();
        let first = node.propose(now, &[command("a"), command("b")]).unwrap();
        node.read_index(now, ReadId(7));
        cluster.run(10_000);
        for entries in cluster.committed.values() {
            assert_eq!(entries.last().unwrap().index(), first.next());
            assert_eq!(entries.last().unwrap().payload(), b"b");
        }
        assert_eq!(cluster.reads.len(), 1);
    }
}

#[test]
fn a_killed_primary_is_replaced_within_a_few_steps_and_a_secondary_reads() {
    let mut cluster = Cluster::new(3);
    cluster.run(500_000);
    let first = cluster.primary().unwrap();
    cluster.kill(first);
    cluster.run(10 * STEP_US);
    let second = cluster.primary().expect("replaced by the fast path");
    assert_ne!(first, second);
    let now = cluster.now();
    let secondary = *cluster.nodes.keys().find(|id| **id != second).unwrap();
    cluster
        .nodes
        .get_mut(&secondary)
        .unwrap()
        .read_index(now, ReadId(1));
    cluster.run(10_000);
    assert_eq!(cluster.reads.len(), 1);
    cluster.kill(secondary);
    cluster.run(2_000_000);
    assert_eq!(cluster.primary(), None, "no majority, no primary");
}

#[test]
fn a_handover_ends_in_another_primary_without_a_gap() {
    let mut cluster = Cluster::new(3);
    cluster.run(500_000);
    let first = cluster.primary().unwrap();
    let now = cluster.now();
    cluster.nodes.get_mut(&first).unwrap().hand_over(now);
    cluster.run(10 * STEP_US);
    assert_ne!(cluster.primary().expect("handed over"), first);
}

#[test]
fn a_primary_whose_disk_is_behind_refuses_more_though_the_others_commit() {
    let mut cluster = Cluster::new(3);
    cluster.run(500_000);
    let primary = cluster.primary().unwrap();
    let now = cluster.now();
    // A mebibyte.
    let large = vec![(Kind::Command, vec![7; 16 * 1024]); 64];
    // Its own disk finishes nothing, and the others are told at once.
    let mut jobs = Vec::new();
    let mut taken = 0;
    for _ in 0..20 {
        let node = cluster.nodes.get_mut(&primary).unwrap();
        taken += usize::from(node.propose(now, &large).is_ok());
        let ready = node.take_ready();
        jobs.extend(ready.job.map(|job| job.id));
        for message in ready.messages {
            cluster.step(message);
        }
        let others: Vec<_> = cluster.nodes.keys().copied().collect();
        for id in others.into_iter().filter(|id| *id != primary) {
            for message in cluster.write_all(now, id) {
                cluster.step(message);
            }
        }
    }
    let node = cluster.nodes.get_mut(&primary).unwrap();
    let limit = crate::limits::UNDURABLE_BYTES_MAX / (1024 * 1024);
    assert_eq!((jobs.len(), taken), (1, limit));
    assert_eq!(node.status().commit, node.status().last.index);
    while let Some(job) = jobs.pop() {
        node.on_persisted(now, job);
        jobs.extend(node.take_ready().job.map(|job| job.id));
    }
    assert!(node.propose(now, &large).is_ok());
}

#[test]
fn a_wiped_replica_is_readmitted() {
    let mut cluster = Cluster::new(3);
    cluster.run(500_000);
    let primary = cluster.primary().unwrap();
    let wiped = *cluster.nodes.keys().find(|id| **id != primary).unwrap();
    cluster.kill(wiped);
    let ids: Vec<ReplicaId> = (1..=3).map(ReplicaId).collect();
    let mut again = start(wiped, &ids, 2);
    again.hard_state.incarnation = Incarnation([99; 16]);
    again.now = cluster.now();
    cluster.nodes.insert(wiped, Node::new(again));
    cluster.connect();
    cluster.run(1_000_000);
    let status = cluster.nodes[&wiped].status();
    assert_eq!(status.role, Role::Secondary, "{:?}", cluster.events);
    assert_eq!(status.members[&wiped], Incarnation([99; 16]));
    assert_eq!(status.commit, cluster.nodes[&primary].status().commit);
}

#[test]
fn a_damaged_replica_names_no_primary_that_is_gone() {
    let mut cluster = Cluster::new(3);
    cluster.run(500_000);
    let first = cluster.primary().unwrap();
    let damaged = *cluster.nodes.keys().find(|id| **id != first).unwrap();
    let node = cluster.nodes.get_mut(&damaged).unwrap();
    node.become_damaged(Index(2), "for the test".into());
    cluster.run(200_000);
    cluster.kill(first);
    cluster.run(1_000_000);
    let status = cluster.nodes[&damaged].status();
    assert_eq!((status.role, status.primary), (Role::Damaged, None));
}

#[test]
fn a_new_primary_refuses_writes_from_the_first_moment_if_a_majority_is_low() {
    let mut cluster = Cluster::new(3);
    cluster.run(500_000);
    for node in cluster.nodes.values_mut() {
        let (applied, level) = (node.status().commit, node.status().level);
        node.set_applied((applied, level), Vec::new(), true);
    }
    cluster.run(300_000);
    let first = cluster.primary().unwrap();
    let before = cluster.events.len();
    cluster.kill(first);
    cluster.run(10 * STEP_US);
    let second = cluster.primary().expect("another follows");
    assert!(cluster.nodes[&second].refuses_for_space());
    // No tick has passed between: what waits for a primary goes to it as soon as it serves.
    let events = cluster.events[before..]
        .iter()
        .filter(|(on, _)| *on == second);
    let told = |event: &Event| matches!(event, Event::WritesRefused { .. } | Event::Serving(_));
    let told: Vec<&Event> = events.map(|(_, event)| event).filter(|e| told(e)).collect();
    assert!(
        matches!(told[..], [Event::WritesRefused { .. }, Event::Serving(_)]),
        "{told:?}"
    );
}
