//! What the pure parts cost: `cargo bench -p chat-benches`.
//!
//! Times are of this machine; compare two builds with `--save-baseline` and `--baseline`, or count
//! instructions under callgrind, which does not depend on the neighbours.

use bytes::Bytes;
use chat::state_machine::{Auth, Command, NewToken, Operation, Reply, StateMachine};
use chat::storage::{Slice, StateReader, StorageError, Tree};
use chat::types::entry::{Entry, Kind};
use chat::types::{
    ClientId, Hash, Incarnation, Index, Members, ReplicaId, RequestId, Stamp, Term, TokenHash,
    WallTime,
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Accounts that send; as many receive.
const SENDERS: usize = 100;
/// Entries that are applied and timed at once.
const BATCH: u64 = 1_024;

/// Trees in memory, written by slices only.
#[derive(Default)]
struct Trees([BTreeMap<Bytes, Bytes>; Tree::ALL.len()]);

impl Trees {
    fn write(&mut self, slice: Slice) {
        for change in slice.changes {
            let tree = &mut self.0[change.tree as usize];
            match change.value {
                Some(value) => tree.insert(change.key, value),
                None => tree.remove(&change.key),
            };
        }
    }

    fn within(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = (Bytes, Bytes)> {
        self.0[tree as usize]
            .range(Bytes::copy_from_slice(from)..Bytes::copy_from_slice(to))
            .map(|(key, value)| (key.clone(), value.clone()))
    }
}

impl StateReader for Trees {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.0[tree as usize].get(key).cloned())
    }
    fn range(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        Ok(self.within(tree, from, to).take(limit).collect())
    }
    fn range_back(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        Ok(self.within(tree, from, to).rev().take(limit).collect())
    }
}

/// A log that grows, and a machine that applies it.
struct Rig {
    machine: StateMachine,
    trees: Trees,
    last: Entry,
    /// Requests of each sender so far.
    sequences: [u64; SENDERS],
    sent: usize,
}

impl Rig {
    fn new() -> Self {
        let members: Members = [(ReplicaId(1), Incarnation([1; 16]))].into();
        let formation = Entry::formation(&members);
        let mut rig = Self {
            machine: StateMachine::open(None).expect("an empty machine"),
            trees: Trees::default(),
            last: formation.clone(),
            sequences: [1; SENDERS],
            sent: 0,
        };
        rig.apply(&formation);
        for number in 0..SENDERS * 2 {
            let entry = rig.seal(&create(number));
            let reply = rig.apply(&entry);
            assert!(matches!(reply, Some(Reply::LoggedIn { .. })));
        }
        rig
    }

    fn seal(&mut self, command: &Command) -> Entry {
        let stamp = Stamp::new(Term(1), self.last.index().next());
        let time = WallTime(1_000_000 + stamp.index.0 * 50);
        let payload = command.encode();
        self.last = Entry::seal(stamp, time, self.last.hash(), Kind::Command, &payload);
        self.last.clone()
    }

    fn apply(&mut self, entry: &Entry) -> Option<Reply> {
        let applied = self.machine.apply(&self.trees, entry);
        applied.expect("trees in memory do not fail").reply
    }

    /// The next messages, each sender in turn, as a load generator sends them.
    fn messages(&mut self, count: u64) -> Vec<Entry> {
        (0..count)
            .map(|_| {
                let sender = self.sent % SENDERS;
                self.sent += 1;
                self.sequences[sender] += 1;
                let recipient = SENDERS + self.sent * 7 % SENDERS;
                let command = message(sender, recipient, self.sequences[sender]);
                self.seal(&command)
            })
            .collect()
    }

    /// Applies them and writes the slices that are full.
    fn run(&mut self, entries: &[Entry]) {
        for entry in entries {
            let reply = self.apply(entry);
            assert!(matches!(reply, Some(Reply::Sent { .. })));
        }
        while let Some(slice) = self.machine.next_slice(self.machine.applied(), false) {
            self.trees.write(slice);
            self.machine.slice_written();
        }
    }
}

fn id<const N: usize>(number: usize) -> [u8; N] {
    let hash = blake3::hash(&number.to_be_bytes());
    let mut bytes = [0; N];
    bytes.copy_from_slice(&hash.as_bytes()[..N]);
    bytes
}

fn create(number: usize) -> Command {
    Command {
        auth: None,
        request: Some(RequestId {
            client: ClientId(id(number)),
            sequence: 1,
        }),
        operation: Operation::CreateAccount {
            name: format!("user-{number}"),
            full_name: String::new(),
            password_hash: "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA".to_owned(),
            token: NewToken {
                hash: TokenHash(id(number)),
                device: "default".to_owned(),
                client: ClientId(id(number)),
            },
        },
        front: false,
    }
}

fn message(sender: usize, recipient: usize, sequence: u64) -> Command {
    Command {
        auth: Some(Auth {
            token: TokenHash(id(sender)),
        }),
        request: Some(RequestId {
            client: ClientId(id(sender)),
            sequence,
        }),
        operation: Operation::SendMessage {
            recipient: format!("user-{recipient}"),
            body: vec![b'x'; 150],
            content_type: "text/plain".to_owned(),
        },
        front: false,
    }
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state_machine");
    group.throughput(Throughput::Elements(BATCH));
    let mut rig = Rig::new();
    // Until every sender's remembered replies fill their window, and the oldest go.
    for _ in 0..300 {
        let entries = rig.messages(BATCH);
        rig.run(&entries);
    }
    group.bench_function("apply 1,024 messages and hand out slices", |bencher| {
        bencher.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let entries = rig.messages(BATCH);
                let start = Instant::now();
                rig.run(&entries);
                spent += start.elapsed();
            }
            spent
        });
    });
    group.finish();
}

fn entries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("entry");
    group.throughput(Throughput::Elements(1));
    let command = message(1, 2, 3);
    let payload = command.encode();
    let stamp = Stamp::new(Term(1), Index(9));
    let seal =
        |payload: &[u8]| Entry::seal(stamp, WallTime(5), Hash([7; 32]), Kind::Command, payload);
    group.bench_function("seal", |bencher| bencher.iter(|| seal(black_box(&payload))));
    let sealed = seal(&payload);
    group.bench_function("parse and hash", |bencher| {
        bencher.iter(|| Entry::parse(black_box(sealed.bytes())));
    });
    group.bench_function("encode a command", |bencher| {
        bencher.iter(|| black_box(&command).encode());
    });
    group.bench_function("decode a command", |bencher| {
        bencher.iter_batched(
            || payload.clone(),
            |p| Command::decode(&p),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, apply, entries);
criterion_main!(benches);
