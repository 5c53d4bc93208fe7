//! A few consensus nodes with the simplest of networks and disks, driven by commands.

use chat::consensus::{
    AppendReply, Body, Config, FormationStatus, HardState, Job, Message, Node, Now, ReadId, Ready,
    Start,
};
use chat::types::entry::{Entry, Kind};
use chat::types::{
    FORMATION_LEVEL, Hash, Incarnation, Index, Level, Members, Monotonic, ReplicaId, RunNonce,
    Stamp, Term, WallTime,
};
use std::collections::{BTreeMap, BTreeSet};

struct Disk {
    hard: HardState,
    log: Vec<Entry>,
    life: u8,
}

struct Replica {
    node: Option<Node>,
    disk: Disk,
    job: Option<Job>,
    holds: bool,
    run: u64,
}

/// The replicas, the messages between them, and what is to be printed.
#[derive(Default)]
pub struct Cluster {
    replicas: BTreeMap<ReplicaId, Replica>,
    ids: Vec<ReplicaId>,
    cut: BTreeSet<(ReplicaId, ReplicaId)>,
    held_kinds: BTreeSet<String>,
    held: Vec<Message>,
    now_us: u64,
    reads: u64,
    /// The last printed answer of each replica: repeated ones are left out.
    answered: BTreeMap<ReplicaId, String>,
    names: BTreeMap<&'static str, ReplicaId>,
    /// The highest level that a replica's build knows, if not the first.
    knows: BTreeMap<ReplicaId, Level>,
    out: Vec<String>,
}

fn fresh(id: ReplicaId, life: u8) -> Disk {
    Disk {
        hard: HardState {
            id,
            incarnation: Incarnation([id.0 as u8 + 16 * life; 16]),
            formation: FormationStatus::Unformed,
            cluster: None,
            term: Term(0),
            granted_to: None,
            term_accepted: Term(0),
            mark: Stamp::ZERO,
            others_marks: BTreeMap::new(),
            repair: chat::consensus::Repair::No,
            given_up: chat::types::Term(0),
            quarantined: false,
            others_lives: BTreeMap::new(),
            others_as_of: Index(0),
        },
        log: Vec::new(),
        life,
    }
}

impl Cluster {
    /// Does one line; returns what happened.
    pub fn command(&mut self, line: &str) -> Vec<String> {
        let named = |word: &str| match self.names.get(word) {
            Some(id) => id.to_string(),
            None => word.to_owned(),
        };
        let words: Vec<String> = line.split_whitespace().map(named).collect();
        let id = |at: usize| -> ReplicaId {
            let word = words.get(at).map_or("", String::as_str);
            let number = word.parse();
            ReplicaId(number.unwrap_or_else(|_| panic!("{line}: {word:?} is no replica")))
        };
        match words[0].as_str() {
            "start" => self.start(id(1).0),
            "elect" => self.elect(id(1).0),
            "run" => self.run(u64::from(id(1).0)),
            "propose" => self.propose(id(1), &words[2]),
            "read" => self.read(id(1)),
            "kill" => self.kill(id(1)),
            "restart" => self.restart(id(1)),
            "knows" => {
                let level = words[2].parse().expect("a level");
                self.knows.insert(id(1), Level(level));
            }
            "wipe" => {
                self.kill(id(1));
                let replica = self.replicas.get_mut(&id(1)).unwrap();
                replica.disk = fresh(id(1), replica.disk.life + 1);
            }
            "damage" => {
                self.kill(id(1));
                let disk = &mut self.replicas.get_mut(&id(1)).unwrap().disk;
                disk.log.clear();
                disk.hard.repair = chat::consensus::Repair::UnderWay;
            }
            "cut" if words[2] == ">" => {
                self.cut.insert((id(1), id(3)));
            }
            "cut" => self.cut.extend([(id(1), id(2)), (id(2), id(1))]),
            "join" => {
                self.cut.remove(&(id(1), id(2)));
                self.cut.remove(&(id(2), id(1)));
            }
            "disk" => {
                self.replicas.get_mut(&id(1)).unwrap().holds = words[2] == "holds";
                self.settle();
            }
            "hold" => {
                self.held_kinds.insert(words[1..].join(" "));
            }
            "release" => {
                self.held_kinds.clear();
                for message in std::mem::take(&mut self.held) {
                    self.deliver(message);
                }
                self.settle();
            }
            "hand-over" => {
                let now = self.now();
                if let Some(node) = self.node(id(1)) {
                    node.hand_over(now);
                }
                self.settle();
            }
            "digest" => {
                let at = words[2].parse().expect("an index");
                self.digest(id(1), Index(at), words[3].as_bytes()[0]);
            }
            "doubt" => {
                let now = self.now();
                if let Some(node) = self.node(id(1)) {
                    let last = node.status().commit;
                    node.quarantine(now, last, "the script says so".into());
                }
                self.settle();
            }
            "rebuilt" => {
                let now = self.now();
                if let Some(node) = self.node(id(1)) {
                    let last = node.status().commit;
                    node.end_quarantine(now, last);
                }
                self.settle();
            }
            "status" => self.status(),
            other => panic!("no command {other:?}"),
        }
        std::mem::take(&mut self.out)
    }

    fn now(&self) -> Now {
        Now {
            mono: Monotonic(self.now_us),
            wall: WallTime(1_000_000_000 + self.now_us),
        }
    }
    fn node(&mut self, id: ReplicaId) -> Option<&mut Node> {
        self.replicas.get_mut(&id).and_then(|r| r.node.as_mut())
    }

    fn start(&mut self, n: u16) {
        self.ids = (1..=n).map(ReplicaId).collect();
        for id in self.ids.clone() {
            let replica = Replica {
                node: None,
                disk: fresh(id, 1),
                job: None,
                holds: false,
                run: 0,
            };
            self.replicas.insert(id, replica);
        }
        for id in self.ids.clone() {
            self.restart(id);
        }
    }

    /// New replicas with a serving primary, without a word about how; gives them their names.
    fn elect(&mut self, n: u16) {
        self.start(n);
        let serving = |cluster: &Self| {
            let mut running = cluster.replicas.iter();
            running.find_map(|(id, r)| r.node.as_ref()?.status().serving.then_some(*id))
        };
        for _ in 0..300 {
            self.run(1);
            if serving(self).is_some() {
                break;
            }
        }
        self.run(25);
        self.out.clear();
        let primary = serving(self).expect("a perfect network elects a primary");
        self.names.insert("P", primary);
        let others = self.ids.iter().copied().filter(|id| *id != primary);
        self.names
            .extend(["A", "B", "C", "D"].into_iter().zip(others));
        for (name, id) in self.names.clone() {
            self.out.push(format!("{name} is {id}"));
        }
    }

    fn restart(&mut self, id: ReplicaId) {
        let config = Config {
            id,
            ids: self.ids.clone(),
            refresh_interval_us: 20_000,
            election_iters: 4,
            election_check_interval_us: 4_000,
            initialize_wait_us: 60_000,
            notice_wait_us: 0,
            build: "transcript".into(),
            level: self.knows.get(&id).copied().unwrap_or(FORMATION_LEVEL),
        };
        let now = self.now();
        let replica = self.replicas.get_mut(&id).unwrap();
        replica.run += 1;
        let run = replica.run;
        let log = &replica.disk.log;
        let mut term_runs: Vec<(Index, Term)> = Vec::new();
        for entry in log {
            if term_runs
                .last()
                .is_none_or(|(_, term)| *term != entry.stamp().term)
            {
                term_runs.push((entry.index(), entry.stamp().term));
            }
        }
        // Nothing is known of commits: the hardest start.
        replica.node = Some(Node::new(Start {
            base: chat::types::Base::default(),
            config,
            hard_state: replica.disk.hard.clone(),
            members: Members::new(),
            level: Level(0),
            term_runs,
            last: log.last().map_or(Stamp::ZERO, Entry::stamp),
            tail: log.clone(),
            tail_previous_hash: Hash::default(),
            commit: Index(0),
            applied: Index(0),
            damage: None,
            run: RunNonce(run * 100 + u64::from(id.0)),
            seed: run * 1_000 + u64::from(id.0),
            now,
        }));
        let others: Vec<ReplicaId> = self.ids.iter().copied().filter(|o| *o != id).collect();
        for other in others {
            if self.replicas[&other].node.is_none() {
                continue;
            }
            for (a, b) in [(id, other), (other, id)] {
                if let Some(node) = self.node(a) {
                    node.on_link_up(now, b);
                }
            }
        }
        self.settle();
    }

    fn kill(&mut self, id: ReplicaId) {
        let now = self.now();
        let replica = self.replicas.get_mut(&id).unwrap();
        replica.node = None;
        replica.job = None;
        replica.holds = false;
        for other in self.ids.clone() {
            if let Some(node) = self.node(other) {
                node.on_link_down(now, id, true);
            }
        }
        self.settle();
    }

    /// Its state after `at` has a digest that this letter stands for.
    fn digest(&mut self, id: ReplicaId, at: Index, letter: u8) {
        if let Some(node) = self.node(id) {
            let level = node.status().level;
            node.set_applied((at, level), vec![(at, Hash([letter; 32]))], false);
        }
        self.settle();
    }

    fn propose(&mut self, id: ReplicaId, text: &str) {
        let now = self.now();
        let payload = [(Kind::Command, text.as_bytes().to_vec())];
        if let Some(node) = self.node(id) {
            let outcome = node.propose(now, &payload);
            self.out.push(match outcome {
                Ok(index) => format!("{id}: proposed at {index}"),
                Err(refused) => format!("{id}: refused, primary {:?}", refused.primary),
            });
        }
        self.settle();
    }

    fn read(&mut self, id: ReplicaId) {
        let now = self.now();
        self.reads += 1;
        let read = ReadId(self.reads);
        if let Some(node) = self.node(id) {
            node.read_index(now, read);
        }
        self.settle();
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_us += 1_000;
            let now = self.now();
            for id in self.ids.clone() {
                if let Some(node) = self.node(id) {
                    node.tick(now);
                }
            }
            self.settle();
        }
    }

    /// Messages and jobs, until nothing moves.
    fn settle(&mut self) {
        for _ in 0..200 {
            let mut moved = false;
            for id in self.ids.clone() {
                let now = self.now();
                moved |= self.do_job(id, now);
                let Some(node) = self.node(id) else {
                    continue;
                };
                let ready = node.take_ready();
                moved |= self.absorb(id, ready);
            }
            if !moved {
                return;
            }
        }
        panic!("the cluster never comes to rest");
    }

    fn do_job(&mut self, id: ReplicaId, now: Now) -> bool {
        let replica = self.replicas.get_mut(&id).unwrap();
        if replica.holds {
            return false;
        }
        let Some(job) = replica.job.take() else {
            return false;
        };
        let disk = &mut replica.disk;
        if let Some(hard) = job.hard_state_before {
            disk.hard = hard;
        }
        if let Some(after) = job.truncate_after {
            disk.log.truncate(after.0 as usize);
        }
        disk.log.extend(job.append);
        if let Some(hard) = job.hard_state_after {
            disk.hard = hard;
        }
        if let Some(node) = &mut replica.node {
            node.on_persisted(now, job.id);
        }
        true
    }

    fn absorb(&mut self, id: ReplicaId, ready: Ready) -> bool {
        let mut moved = false;
        for event in &ready.events {
            self.out.push(format!("{id}: {event:?}"));
        }
        for entry in &ready.committed {
            let text = String::from_utf8_lossy(entry.payload()).into_owned();
            let text = if entry.kind() == Kind::Command {
                text
            } else {
                format!("{:?}", entry.kind())
            };
            self.out
                .push(format!("{id}: commits {} {text}", entry.stamp()));
        }
        for (read, index) in &ready.reads {
            self.out
                .push(format!("{id}: read {} is served at {index}", read.0));
        }
        for read in &ready.reads_failed {
            self.out.push(format!("{id}: read {} fails", read.0));
        }
        let now = self.now();
        for fetch in &ready.fetches {
            let log = &self.replicas[&id].disk.log;
            let entries = log
                .iter()
                .skip(fetch.from.0 as usize - 1)
                .cloned()
                .collect();
            if let Some(node) = self.node(id) {
                node.on_fetched(now, fetch.peer, entries);
            }
            moved = true;
        }
        if let Some(job) = ready.job {
            let replica = self.replicas.get_mut(&id).unwrap();
            assert!(replica.job.is_none(), "one job at a time");
            replica.job = Some(*job);
            moved = true;
        }
        for message in ready.messages {
            moved |= !matches!(message.body, Body::Refresh(_));
            self.send(message);
        }
        moved
    }

    fn send(&mut self, message: Message) {
        let (kind, detail) = describe(&message.body);
        let lost = self.cut.contains(&(message.from, message.to));
        let held = self.held_kinds.contains(kind);
        if let Some(detail) = detail {
            let end = if lost {
                " (lost)"
            } else if held {
                " (held)"
            } else {
                ""
            };
            let line = format!(
                "{} -> {} term {} {kind}{detail}{end}",
                message.from, message.to, message.term
            );
            let again = kind == "match" && self.answered.get(&message.from) == Some(&line);
            if !again {
                self.answered.insert(message.from, line.clone());
                self.out.push(line);
            }
        }
        if held {
            self.held.push(message);
        } else if !lost {
            self.deliver(message);
        }
    }

    fn deliver(&mut self, message: Message) {
        let now = self.now();
        if let Some(node) = self.node(message.to) {
            node.step(now, message);
        }
    }

    fn status(&mut self) {
        for (id, replica) in &self.replicas {
            let Some(node) = &replica.node else {
                self.out.push(format!("{id}: not running"));
                continue;
            };
            let status = node.status();
            let serving = if status.serving { ", serving" } else { "" };
            let level = if status.level > FORMATION_LEVEL {
                format!(", level {}", status.level)
            } else {
                String::new()
            };
            self.out.push(format!(
                "{id}: {:?}{serving}, term {}, follows {:?}, last {}, durable {}, commit {}{level}",
                status.role,
                status.term,
                status.primary,
                status.last,
                status.durable,
                status.commit
            ));
        }
    }
}

/// Name, and what is worth printing; `None`: too frequent to be printed.
fn describe(body: &Body) -> (&'static str, Option<String>) {
    match body {
        Body::Hello(_) => ("hello", None),
        Body::Refresh(_) => ("refresh", None),
        Body::Ask { last, .. } => ("ask", Some(format!(" last {last}"))),
        Body::Agree { .. } => ("agree", Some(String::new())),
        Body::Ballot(ballot) => ("ballot", Some(format!(" last {}", ballot.last))),
        Body::Abstain => ("abstain", Some(String::new())),
        Body::Grant { .. } => ("grant", Some(String::new())),
        Body::Append(append) if append.entries.is_empty() => ("append", None),
        Body::Append(append) => {
            let entries: Vec<String> = append
                .entries
                .iter()
                .map(|e| e.stamp().to_string())
                .collect();
            (
                "append",
                Some(format!(" after {} {}", append.previous, entries.join(" "))),
            )
        }
        Body::AppendReply(AppendReply::Match { index, counting }) => {
            let note = if *counting { "" } else { ", not counting" };
            ("match", Some(format!(" {index}{note}")))
        }
        Body::AppendReply(AppendReply::Conflict { previous, hint }) => {
            ("conflict", Some(format!(" at {previous}, hint {hint}")))
        }
        Body::SnapshotOffer(head) => (
            "snapshot offer",
            Some(format!(" after {}", head.base.stamp)),
        ),
        Body::SnapshotRequest { .. } => ("snapshot request", Some(String::new())),
        Body::SnapshotChunk(_) => ("snapshot chunk", Some(String::new())),
        Body::RepairTo { index } => ("repair to", Some(format!(" {index}"))),
        Body::Poll { above, .. } => ("poll", Some(format!(" above {above}"))),
        Body::PollReply { answer, .. } => ("poll reply", Some(format!(" {answer:?}"))),
        Body::Round { .. } => ("round", Some(String::new())),
        Body::RoundReply { .. } => ("round reply", Some(String::new())),
        Body::ReadIndex { .. } => ("read index", Some(String::new())),
        Body::ReadIndexReply { index, .. } => ("read index reply", Some(format!(" {index}"))),
        Body::StateWanted { at_least } => ("state wanted", Some(format!(" from {at_least}"))),
        Body::StateDoubted { index } => ("state doubted", Some(format!(" {index}"))),
        Body::CampaignNow => ("campaign now", Some(String::new())),
        Body::CopyRequest { after, .. } => ("copy request", Some(format!(" after {after}"))),
        Body::CopyPiece { entries, .. } => {
            ("copy piece", Some(format!(" {} entries", entries.len())))
        }
    }
}
