//! Records of the state trees, and commands.

use crate::limits;
use crate::state_machine::{Auth, Command, NewToken, Operation, Query, StateMachine};
use crate::storage::{Change, Slice, StateReader, StorageError, Tree};
use crate::types::entry::{Entry, Kind};
use crate::types::{
    ClientId, Hash, InboxSeq, Incarnation, LEVEL, Members, ReplicaId, RequestId, Stamp, Term,
    TokenHash, UserId, WallTime,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A tree that is none: the state machine's own totals.
const TOTALS: u8 = 4;
/// Whose tokens, names and clients the state holds.
const PEOPLE: [&str; 3] = ["alice", "bob", "carol"];

/// State trees in memory.
#[derive(Default)]
struct Rows([BTreeMap<Bytes, Bytes>; 4]);

impl StateReader for Rows {
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
        Ok(self.between(tree, from, to).take(limit).collect())
    }
    fn range_back(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        Ok(self.between(tree, from, to).rev().take(limit).collect())
    }
}

impl Rows {
    fn between(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = (Bytes, Bytes)> {
        let (from, to) = (Bytes::copy_from_slice(from), Bytes::copy_from_slice(to));
        let rows = &self.0[tree as usize];
        let inside = (from <= to).then(|| rows.range(from..to));
        let copy = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
        inside.into_iter().flatten().map(copy)
    }

    fn write(&mut self, changes: &[Change]) {
        for change in changes {
            let tree = &mut self.0[change.tree as usize];
            match &change.value {
                Some(value) => tree.insert(change.key.clone(), value.clone()),
                None => tree.remove(&change.key),
            };
        }
    }
}

/// A state that has a bit of everything, as a store would hold it.
struct Sample {
    rows: Rows,
    slice: Slice,
}

static SAMPLE: LazyLock<Sample> = LazyLock::new(|| {
    let mut rows = Rows::default();
    let mut machine = StateMachine::open(None).expect("an empty machine opens");
    let members = Members::from([(ReplicaId(1), Incarnation([1; 16]))]);
    let formation = Entry::formation(&members);
    let mut last = formation.hash();
    machine.apply(&rows, &formation).expect("it is sound");
    let level = rmp_serde::to_vec(&LEVEL).expect("a number always encodes");
    let raised = seal_after(&machine, last, Kind::RaiseLevel, &level);
    last = raised.hash();
    machine.apply(&rows, &raised).expect("it is sound");
    for command in commands() {
        let entry = entry_after(&machine, last, &command);
        last = entry.hash();
        machine
            .apply(&rows, &entry)
            .expect("the commands are sound");
    }
    let applied = machine.applied();
    while let Some(slice) = machine.next_slice(applied, true) {
        rows.write(&slice.changes);
        machine.slice_written();
        if slice.applied == applied {
            let changes = Vec::new();
            return Sample {
                rows,
                slice: Slice { changes, ..slice },
            };
        }
    }
    unreachable!("a forced slice reaches what is applied")
});

fn entry_after(machine: &StateMachine, previous: Hash, command: &Command) -> Entry {
    seal_after(machine, previous, Kind::Command, &command.encode())
}

fn seal_after(machine: &StateMachine, previous: Hash, kind: Kind, payload: &[u8]) -> Entry {
    let stamp = Stamp::new(Term(1), machine.applied().next());
    let time = WallTime(1_000_000 + stamp.index.0 * 1_000);
    Entry::seal(stamp, time, previous, kind, payload)
}

fn token(person: usize) -> TokenHash {
    TokenHash([person as u8 + 1; 32])
}

fn client(person: usize) -> ClientId {
    ClientId([person as u8 + 1; 16])
}

fn new_token(person: usize, hash: TokenHash) -> NewToken {
    NewToken {
        hash,
        device: "phone".into(),
        client: client(person),
    }
}

fn of(person: usize, sequence: u64, operation: Operation) -> Command {
    Command {
        auth: Some(Auth {
            token: token(person),
        }),
        request: Some(RequestId {
            client: client(person),
            sequence,
        }),
        operation,
        front: false,
    }
}

fn message(to: usize, bytes: usize) -> Operation {
    Operation::SendMessage {
        recipient: PEOPLE[to].into(),
        body: vec![b'x'; bytes],
        content_type: "text/plain".into(),
    }
}

/// Accounts, messages, cursors, tokens; carol's account is deleted.
fn commands() -> Vec<Command> {
    let mut all = Vec::new();
    for (person, name) in PEOPLE.into_iter().enumerate() {
        let create = Operation::CreateAccount {
            name: name.into(),
            full_name: name.to_uppercase(),
            password_hash: "$argon2id$v=19$m=64,t=1,p=1$c2FsdA$aGFzaA".into(),
            token: new_token(person, token(person)),
        };
        let auth = None;
        all.push(Command {
            auth,
            ..of(person, 1, create)
        });
    }
    for sequence in 2..40 {
        let bytes = sequence as usize * 17;
        all.push(of(0, sequence, message(1, bytes)));
        all.push(of(1, sequence, message(2 * (bytes % 2), 5)));
    }
    let up_to = InboxSeq(7);
    all.push(of(1, 50, Operation::Acknowledge { up_to }));
    all.extend(others());
    all.push(of(2, 60, Operation::DeleteAccount));
    all
}

/// One command of each other sort.
fn others() -> Vec<Command> {
    let login = Operation::IssueToken {
        user: UserId(3),
        password_version: 1,
        token: new_token(0, TokenHash([77; 32])),
    };
    let password = Operation::ChangePassword {
        password_hash: "$argon2id$v=19$m=64,t=1,p=1$c2FsdA$b3RoZXI".into(),
        password_version: 1,
    };
    let full_name = "Bob the Second".into();
    let tokens = vec![token(0), TokenHash([99; 32])];
    let internal = |operation| Command {
        auth: None,
        request: None,
        operation,
        front: false,
    };
    let idle_us = 3_600_000_000;
    let users = vec![UserId(3), UserId(4), UserId(9)];
    vec![
        Command {
            auth: None,
            ..of(0, 51, login)
        },
        Command {
            front: true,
            ..of(0, 52, message(1, 3))
        },
        of(1, 53, password),
        of(1, 54, Operation::UpdateProfile { full_name }),
        of(1, 55, Operation::RevokeSession { session: 9 }),
        internal(Operation::ExtendTokens {
            tokens: tokens.clone(),
        }),
        internal(Operation::ExpireTokens { tokens, idle_us }),
        internal(Operation::ExpireMessages {
            users,
            before: WallTime(1_020_000),
        }),
        of(0, 56, Operation::RevokeOwnToken),
    ]
}

/// Rows of the trees as they might stand on a disk, and everything that reads them. A row is one byte
/// of tree, two of the key's length, two of the value's, and both.
pub(super) fn rows(data: &[u8]) {
    let sample = &*SAMPLE;
    let mut rows = Rows::default();
    let mut slice = sample.slice.clone();
    let mut rest = data;
    while let Some(([tree, k0, k1, v0, v1], after)) = rest.split_first_chunk::<5>() {
        let cut = |bytes: usize| bytes.min(after.len());
        let key = cut(usize::from(u16::from_be_bytes([*k0, *k1])));
        let value = cut(key + usize::from(u16::from_be_bytes([*v0, *v1])));
        let (key, value, after) = (&after[..key], &after[key..value], &after[value..]);
        let value = Bytes::copy_from_slice(value);
        match tree % 5 {
            TOTALS => slice.machine = value,
            tree => {
                let tree = &mut rows.0[usize::from(tree)];
                tree.insert(Bytes::copy_from_slice(key), value);
            }
        }
        rest = after;
    }
    // Totals that disagree with the digest beside them are not opened.
    let machine = StateMachine::open(Some(&slice));
    let machine = machine.or_else(|_| StateMachine::open(Some(&sample.slice)));
    read_all(machine.expect("the sample's own totals open"), &rows);
}

/// Every way in which a replica looks at its records. An error stops it: nothing follows.
fn read_all(mut machine: StateMachine, rows: &Rows) {
    let _ = machine.names(rows);
    let _ = machine.scan_digest(rows);
    let _ = machine.idle_tokens(rows, WallTime(u64::MAX), 1, 100);
    let _ = machine.old_inboxes(rows, WallTime(u64::MAX));
    for (person, name) in PEOPLE.iter().enumerate() {
        let token = token(person);
        let (name, peer) = ((*name).to_owned(), (*name).to_owned());
        let (after, limit) = (Some(InboxSeq(2)), 100);
        for query in [
            Query::Credentials { name },
            Query::WhoAmI { token },
            Query::Sessions { token },
            Query::Inbox {
                token,
                after: None,
                limit,
            },
            Query::Inbox {
                token,
                after,
                limit,
            },
            Query::Delivered {
                token,
                peers: vec![peer],
            },
        ] {
            let _ = machine.query(rows, &query);
        }
    }
    let mut last = Hash::default();
    for command in commands().iter().chain(&others()) {
        let entry = entry_after(&machine, last, command);
        last = entry.hash();
        if machine.apply(rows, &entry).is_err() {
            return;
        }
    }
    let applied = machine.applied();
    while machine.next_slice(applied, true).is_some() {
        machine.slice_written();
    }
}

/// The sample's rows: all of them, and each tree by itself.
pub(super) fn row_seeds() -> Vec<Vec<u8>> {
    let sample = &*SAMPLE;
    let frame = |tree: u8, key: &[u8], value: &[u8]| {
        let mut row = vec![tree];
        row.extend((key.len() as u16).to_be_bytes());
        row.extend((value.len() as u16).to_be_bytes());
        [&row, key, value].concat()
    };
    let mut trees: Vec<Vec<u8>> = Vec::new();
    for (number, tree) in (0..).zip(&sample.rows.0) {
        let rows = tree
            .iter()
            .flat_map(|(key, value)| frame(number, key, value));
        trees.push(rows.collect());
    }
    trees.push(frame(TOTALS, b"", &sample.slice.machine));
    trees.push(trees.concat());
    trees
}

/// A command, as it stands in an entry's payload or comes from another replica. One in good form is
/// applied without an error, because an error would stop every replica of the cluster.
pub(super) fn command(data: &[u8]) {
    let Some(command) = Command::decode(data) else {
        return;
    };
    assert_eq!(Command::decode(&command.encode()).as_ref(), Some(&command));
    let fits = command.encode().len() <= limits::ENTRY_PAYLOAD_BYTES_MAX;
    if !command.is_sound() || !fits {
        return;
    }
    let sample = &*SAMPLE;
    let mut machine = StateMachine::open(Some(&sample.slice)).expect("the sample opens");
    for _ in 0..2 {
        let entry = entry_after(&machine, Hash::default(), &command);
        machine
            .apply(&sample.rows, &entry)
            .expect("it is in good form");
    }
    let applied = machine.applied();
    while let Some(slice) = machine.next_slice(applied, true) {
        for change in &slice.changes {
            let bytes = change.key.len() + change.value.as_ref().map_or(0, Bytes::len);
            assert!(
                bytes <= limits::STATE_RECORD_BYTES_MAX,
                "{bytes} bytes in {}",
                change.tree.name()
            );
        }
        machine.slice_written();
    }
}

/// One command of each sort.
pub(super) fn command_seeds() -> Vec<Vec<u8>> {
    let few = commands().into_iter().take(6);
    let deletion = of(1, 60, Operation::DeleteAccount);
    let acknowledge = Operation::Acknowledge {
        up_to: InboxSeq(30),
    };
    let more = [deletion, of(1, 61, acknowledge)];
    let all = few.chain(others()).chain(more);
    all.map(|command| command.encode()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Index;

    #[test]
    fn the_sample_is_whole_and_its_seed_gives_it_back() {
        let sample = &*SAMPLE;
        let machine = StateMachine::open(Some(&sample.slice)).unwrap();
        let scanned = machine.scan_digest(&sample.rows).unwrap();
        assert_eq!(scanned, sample.slice.digest);
        assert!(sample.slice.applied > Index(80));
        assert!(sample.rows.0.iter().all(|tree| !tree.is_empty()));
        let users = &sample.rows.0[Tree::Users as usize];
        let kept = users.keys().any(|key| key.starts_with(b"g"));
        assert!(kept, "the creation of the account that was deleted");
    }
}
