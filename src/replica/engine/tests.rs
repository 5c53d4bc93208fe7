//! A few replicas with a perfect network and disks that take no time: a state that is wrong is
//! noticed and rebuilt.

mod held;
mod scrub;

use super::*;
use crate::consensus::{Body, HardState};
use crate::replica::{
    Consistency, DiskJob, Extra, ReadError, RewriteStep, Rewriting, Scrubbed, Workshop, Written,
    execute,
};
use crate::state_machine::{Answer, NewToken, Operation, Query};
use crate::storage::{MemDisk, MemReader, MemStore, StorageError, Store};
use crate::types::{ClientId, Incarnation, TokenHash};
use std::collections::BTreeMap;

/// Virtual microseconds between two ticks.
const TICK_US: u64 = 2_000;
const REFRESH_US: u64 = 20_000;
/// State digests are compared at multiples of this index here.
const DIGEST_EVERY: u64 = 8;

struct Member {
    disk: MemDisk,
    store: MemStore,
    workshop: Workshop,
    replica: Replica<MemReader>,
    /// No state is computed anew while this is set.
    holds: bool,
    held: Option<Box<DiskJob>>,
}

/// A cluster, and what came of what was asked.
struct Cluster {
    config: Config,
    members: Vec<Member>,
    now: u64,
    tickets: u64,
    written: BTreeMap<u64, Result<Written, WriteError>>,
    answered: BTreeMap<u64, Result<Answer, ReadError>>,
    events: Vec<(usize, Event)>,
    /// Kinds of message that were sent, by sender.
    offers: Vec<usize>,
    /// Scrubs that found nothing.
    scrubs: Vec<(usize, Scrubbed)>,
    /// Jobs that failed; any does if nobody `fails`.
    failures: Vec<(usize, StorageError)>,
    fails: bool,
}

impl Cluster {
    /// Formed, with a serving primary.
    fn new(n: u16, rewriting: Rewriting) -> Self {
        Self::scrubbing(n, rewriting, 0)
    }

    /// The same, with scrubs.
    fn scrubbing(n: u16, rewriting: Rewriting, scrub_interval_us: u64) -> Self {
        let ids: Vec<ReplicaId> = (1..=n).map(ReplicaId).collect();
        let config = Config {
            node: crate::consensus::Config {
                id: ReplicaId(1),
                ids,
                refresh_interval_us: REFRESH_US,
                election_iters: 4,
                election_check_interval_us: 4_000,
                initialize_wait_us: 60_000,
                notice_wait_us: 0,
                build: "test".into(),
                level: crate::types::LEVEL,
            },
            write_timeout_us: 1_000_000,
            read_timeout_us: 1_000_000,
            token_idle_us: 1 << 44,
            retention_us: 0,
            checkpoint_entries_max: 4,
            scrub_interval_us,
            rewriting,
            free_bytes_min: 0,
            digest_every: DIGEST_EVERY,
        };
        let mut cluster = Self {
            config,
            members: Vec::new(),
            now: 1_000,
            tickets: 0,
            written: BTreeMap::new(),
            answered: BTreeMap::new(),
            events: Vec::new(),
            offers: Vec::new(),
            scrubs: Vec::new(),
            failures: Vec::new(),
            fails: false,
        };
        for at in 0..usize::from(n) {
            let member = cluster.boot(at, MemDisk::new());
            cluster.members.push(member);
        }
        for at in 0..usize::from(n) {
            cluster.link(at);
        }
        let serving = |cluster: &Self| cluster.serving().is_some();
        assert!(cluster.until(2_000_000, serving), "{:?}", cluster.events);
        cluster
    }

    fn boot(&self, at: usize, disk: MemDisk) -> Member {
        let mut config = self.config.clone();
        config.node.id = ReplicaId(at as u16 + 1);
        let (mut store, mut recovered) = MemStore::open(&disk).unwrap();
        if recovered.hard_state.is_none() {
            let incarnation = Incarnation([at as u8 + 1; 16]);
            let hard = HardState::new_life(config.node.id, incarnation, None, recovered.last);
            store.write_hard_state(&hard, true).unwrap();
            recovered.hard_state = Some(hard);
        }
        let run = RunNonce(self.now + at as u64);
        let replica = Replica::start(config, recovered, store.reader(), run, run.0, self.time());
        Member {
            disk,
            store,
            workshop: Workshop::default(),
            replica: replica.unwrap(),
            holds: false,
            held: None,
        }
    }

    fn link(&mut self, at: usize) {
        let now = self.time();
        for other in 0..self.members.len() {
            if other != at {
                let peer = ReplicaId(other as u16 + 1);
                let up = Input::LinkUp(peer);
                self.members[at].replica.handle(up, now).unwrap();
            }
        }
    }

    /// As by SIGKILL, and started again at once.
    fn restart(&mut self, at: usize) {
        let holds = self.members[at].holds;
        self.members[at] = self.boot(at, self.members[at].disk.clone());
        self.members[at].holds = holds;
        let (now, peer) = (self.time(), ReplicaId(at as u16 + 1));
        for other in 0..self.members.len() {
            if other != at {
                let replica = &mut self.members[other].replica;
                let refused = true;
                let down = Input::LinkDown { peer, refused };
                replica.handle(down, now).unwrap();
                replica.handle(Input::LinkUp(peer), now).unwrap();
            }
        }
        self.link(at);
        self.settle();
    }

    fn time(&self) -> Now {
        Now {
            mono: Monotonic(self.now),
            wall: WallTime(1_700_000_000_000_000 + self.now),
        }
    }

    fn run(&mut self, us: u64) {
        self.until(us, |_| false);
    }

    /// Time passes, until then at most. True if it came to that.
    fn until(&mut self, us: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + us;
        while self.now < end && !done(self) {
            self.now += TICK_US;
            let now = self.time();
            for member in &mut self.members {
                member.replica.handle(Input::Tick, now).unwrap();
            }
            self.settle();
        }
        done(self)
    }

    /// Messages and jobs, until nothing moves.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = false;
            for at in 0..self.members.len() {
                let output = self.members[at].replica.take_output().unwrap();
                moved |= self.absorb(at, output);
            }
            if !moved {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    fn absorb(&mut self, at: usize, output: Output) -> bool {
        let now = self.time();
        let member = &mut self.members[at];
        let mut job = output.job.or(member.held.take());
        let rebuilds = |job: &DiskJob| {
            let step = job.extra.as_ref();
            matches!(step, Some(Extra::Rewrite(RewriteStep::Rebuild { .. })))
        };
        if member.holds && job.as_deref().is_some_and(rebuilds) {
            member.held = job.take();
        }
        let moved = job.is_some() || !output.messages.is_empty();
        if let Some(job) = job {
            let Member {
                store,
                workshop,
                replica,
                ..
            } = member;
            let tell = |done| replica.handle(Input::DiskDone(done), now).unwrap();
            match execute(store, workshop, *job, tell) {
                Ok(()) => {}
                Err(error) if self.fails => self.failures.push((at, error)),
                Err(error) => panic!("replica {}: {error}", at + 1),
            }
        }
        for message in output.messages {
            if let PeerMessage::Consensus(message) = &message
                && matches!(message.body, Body::SnapshotOffer(_))
            {
                self.offers.push(at);
            }
            let to = usize::from(message.to().0) - 1;
            let input = Input::Peer(message);
            self.members[to].replica.handle(input, now).unwrap();
        }
        self.scrubs.extend(output.scrubbed.map(|found| (at, found)));
        self.events
            .extend(output.events.into_iter().map(|e| (at, e)));
        let written = output.written.into_iter();
        self.written
            .extend(written.map(|(t, outcome)| (t.0, outcome)));
        let answered = output.answered.into_iter();
        self.answered
            .extend(answered.map(|(t, answer)| (t.0, answer)));
        moved
    }

    fn serving(&self) -> Option<usize> {
        let serves = |member: &Member| member.replica.status().node.serving;
        self.members.iter().position(serves)
    }

    /// A replica that is not primary.
    fn secondary(&self) -> usize {
        let primary = self.serving().unwrap();
        (primary + 1) % self.members.len()
    }

    /// Creates an account through this replica.
    fn create(&mut self, at: usize, name: &str) {
        self.tickets += 1;
        let mut secret = [0; 32];
        secret[..name.len()].copy_from_slice(name.as_bytes());
        let command = Command {
            auth: None,
            request: None,
            operation: Operation::CreateAccount {
                name: name.into(),
                full_name: String::new(),
                password_hash: "hash".into(),
                token: NewToken {
                    hash: TokenHash(secret),
                    device: "default".into(),
                    client: ClientId([1; 16]),
                },
            },
            front: false,
        };
        let now = self.time();
        let write = Input::Write(Ticket(self.tickets), command);
        self.members[at].replica.handle(write, now).unwrap();
        self.settle();
        let outcome = self.written.get(&self.tickets);
        assert!(matches!(outcome, Some(Ok(_))), "{name}: {outcome:?}");
    }

    /// Is there an account of this name, as this replica says?
    fn knows(&mut self, at: usize, name: &str) -> Result<bool, ReadError> {
        self.tickets += 1;
        let now = self.time();
        let query = Query::Credentials { name: name.into() };
        let read = Input::Read(Ticket(self.tickets), query, Consistency::Linearizable);
        self.members[at].replica.handle(read, now).unwrap();
        self.settle();
        match self.answered.remove(&self.tickets) {
            Some(Ok(Answer::Credentials(found))) => Ok(found.is_some()),
            Some(Ok(other)) => panic!("{other:?}"),
            Some(Err(error)) => Err(error),
            None => panic!("no answer"),
        }
    }

    fn status(&self, at: usize) -> crate::replica::Status {
        self.members[at].replica.status()
    }

    fn is_doubted(&self, at: usize) -> bool {
        self.status(at).node.quarantine.is_some()
    }

    fn saw(&self, at: usize, what: fn(&Event) -> bool) -> usize {
        let events = self.events.iter();
        events
            .filter(|(who, event)| *who == at && what(event))
            .count()
    }

    /// All replicas have the same state.
    fn is_equal(&self) -> bool {
        let first = self.status(0);
        let equal = |at: usize| {
            let status = self.status(at);
            (status.applied, status.digest) == (first.applied, first.digest)
        };
        (0..self.members.len()).all(equal)
    }
}

fn quarantined(event: &Event) -> bool {
    matches!(event, Event::Quarantined { .. })
}
fn rebuilt(event: &Event) -> bool {
    matches!(event, Event::Rebuilt { .. })
}

/// Logs are cut after every few entries.
const CUTS: Rewriting = Rewriting {
    bytes_min: 200,
    keep_entries: 0,
    keep_behind: 0,
    age_us: 0,
    keep_age_us: 0,
    keep_log: false,
};

/// Applies an entry wrongly on this replica, and goes on until a digest was compared.
fn misapply(cluster: &mut Cluster, at: usize) {
    let primary = cluster.serving().unwrap();
    for n in 0..20 {
        cluster.create(primary, &format!("before{n}"));
    }
    cluster.run(REFRESH_US * 10);
    cluster.members[at].replica.misapply();
    cluster.create(primary, "lost");
    let applied = cluster.status(at).applied;
    assert_eq!(cluster.status(primary).applied, applied);
    assert!(!cluster.is_equal());
    for n in 0..DIGEST_EVERY {
        cluster.create(primary, &format!("after{n}"));
    }
}

#[test]
fn an_entry_that_was_applied_wrongly_is_noticed_and_the_state_rebuilt_from_the_log() {
    let mut cluster = Cluster::new(3, Rewriting::default());
    let wrong = cluster.secondary();
    misapply(&mut cluster, wrong);
    let noticed = |cluster: &Cluster| cluster.saw(wrong, quarantined) == 1;
    assert!(cluster.until(REFRESH_US * 3, noticed));
    let whole = |cluster: &Cluster| cluster.saw(wrong, rebuilt) == 1;
    assert!(
        cluster.until(REFRESH_US * 5, whole),
        "{:?}",
        cluster.status(wrong)
    );
    assert!(cluster.is_equal());
    assert_eq!(cluster.knows(wrong, "lost"), Ok(true));
    // The digests that were wrong are right on the disk too.
    cluster.run(2_000_000);
    cluster.restart(wrong);
    cluster.run(REFRESH_US * 20);
    assert!(cluster.is_equal());
    assert_eq!(cluster.saw(wrong, quarantined), 1);
    assert!(cluster.offers.is_empty());
}

#[test]
fn where_the_log_was_cut_the_state_comes_from_the_primary_and_the_log_is_kept() {
    let mut cluster = Cluster::new(3, CUTS);
    let wrong = cluster.secondary();
    misapply(&mut cluster, wrong);
    let base = cluster.status(wrong).node.base;
    assert!(base > Index(0), "cut");
    let whole = |cluster: &Cluster| cluster.saw(wrong, rebuilt) == 1;
    assert!(
        cluster.until(REFRESH_US * 30, whole),
        "{:?}",
        cluster.status(wrong)
    );
    assert!(cluster.is_equal());
    assert_eq!(cluster.knows(wrong, "lost"), Ok(true));
    assert!(!cluster.offers.is_empty());
    let taken = |event: &Event| matches!(event, Event::SnapshotInstalled { .. });
    assert_eq!(cluster.saw(wrong, taken), 0, "only the rows were taken");
}

#[test]
fn a_doubted_replica_passes_reads_on_and_answers_writes_and_remembers_its_doubt() {
    let mut cluster = Cluster::new(3, Rewriting::default());
    let wrong = cluster.secondary();
    cluster.members[wrong].holds = true;
    misapply(&mut cluster, wrong);
    let noticed = |cluster: &Cluster| cluster.is_doubted(wrong);
    assert!(cluster.until(REFRESH_US * 3, noticed));
    for _ in 0..2 {
        assert!(!cluster.members[wrong].replica.may_serve());
        assert_eq!(cluster.knows(wrong, "lost"), Ok(true), "another answers");
        cluster.create(wrong, "through");
        cluster.restart(wrong);
        assert!(cluster.is_doubted(wrong), "the promises say so");
        let linked = |cluster: &Cluster| cluster.members[wrong].replica.primary().is_some();
        assert!(cluster.until(REFRESH_US * 3, linked));
    }
    cluster.members[wrong].holds = false;
    let whole = |cluster: &Cluster| cluster.saw(wrong, rebuilt) == 1;
    assert!(cluster.until(REFRESH_US * 10, whole));
    cluster.run(REFRESH_US * 3);
    assert!(cluster.is_equal());
}

#[test]
fn a_primary_whose_state_is_wrong_hands_over_and_is_rebuilt() {
    let mut cluster = Cluster::new(3, Rewriting::default());
    let wrong = cluster.serving().unwrap();
    let primary = wrong;
    for n in 0..20 {
        cluster.create(primary, &format!("before{n}"));
    }
    cluster.members[wrong].replica.misapply();
    // Its own clients are told something wrong until it has noticed.
    let other = (wrong + 1) % 3;
    cluster.create(other, "lost");
    let mut n = 0;
    while cluster.saw(wrong, quarantined) == 0 && n < 100 {
        n += 1;
        cluster.create(other, &format!("after{n}"));
        cluster.run(REFRESH_US);
    }
    assert!(n <= DIGEST_EVERY + 3, "{n}");
    let whole = |cluster: &Cluster| cluster.saw(wrong, rebuilt) == 1 && cluster.is_equal();
    assert!(
        cluster.until(1_000_000, whole),
        "{:?}",
        cluster.status(wrong)
    );
    let serving = |cluster: &Cluster| cluster.serving().is_some_and(|at| at != wrong);
    assert!(cluster.until(1_000_000, serving));
    assert_eq!(cluster.knows(wrong, "lost"), Ok(true));
}
