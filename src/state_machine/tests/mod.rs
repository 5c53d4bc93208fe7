//! The machine over a store in memory, driven by commands.

mod accounts;
mod joined;
mod messages;
mod overlay;
mod replay;
mod requests;
mod tokens;

use super::{
    Answer, Applied, Auth, Command, NewToken, Operation, Query, Refusal, Reply, StateMachine,
};
use crate::storage::{Slice, StateReader, StorageError, Tree};
use crate::types::entry::{Entry, Kind};
use crate::types::{
    ClientId, Hash, Incarnation, Index, LEVEL, Level, Members, ReplicaId, RequestId, Stamp, Term,
    TokenHash, UserId, WallTime,
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Trees in memory, written by slices only.
#[derive(Clone, Default)]
pub struct Trees {
    records: BTreeMap<(Tree, Bytes), Bytes>,
    pub slice: Option<Slice>,
}

impl Trees {
    fn write(&mut self, mut slice: Slice) {
        for change in std::mem::take(&mut slice.changes) {
            let key = (change.tree, change.key);
            match change.value {
                Some(value) => self.records.insert(key, value),
                None => self.records.remove(&key),
            };
        }
        self.slice = Some(slice);
    }

    fn within(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = (Bytes, Bytes)> {
        let key = |bytes| (tree, Bytes::copy_from_slice(bytes));
        self.records
            .range(key(from)..key(to))
            .map(|((_, key), value)| (key.clone(), value.clone()))
    }
}

impl StateReader for Trees {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let key = (tree, Bytes::copy_from_slice(key));
        Ok(self.records.get(&key).cloned())
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

/// A machine, its store, and the log so far.
pub struct Rig {
    pub machine: StateMachine,
    pub trees: Trees,
    pub log: Vec<Entry>,
    pub now: WallTime,
}

pub const SECOND: u64 = 1_000_000;

impl Rig {
    pub fn new() -> Self {
        let members: Members = [(ReplicaId(1), Incarnation([1; 16]))].into();
        let mut rig = Self {
            machine: StateMachine::open(None).unwrap(),
            trees: Trees::default(),
            log: Vec::new(),
            now: WallTime(1_000 * SECOND),
        };
        rig.apply_entry(Entry::formation(&members));
        rig
    }

    pub fn apply_entry(&mut self, entry: Entry) -> Applied {
        self.log.push(entry.clone());
        self.machine.apply(&self.trees, &entry).unwrap()
    }

    /// This level comes into force.
    pub fn raise(&mut self, level: Level) -> Applied {
        let payload = rmp_serde::to_vec(&level).unwrap();
        self.apply_entry(self.seal(Kind::RaiseLevel, &payload))
    }

    pub fn seal(&self, kind: Kind, payload: &[u8]) -> Entry {
        let stamp = Stamp::new(Term(1), self.machine.applied().next());
        let previous = self.log.last().map_or(Hash::default(), Entry::hash);
        Entry::seal(stamp, self.now, previous, kind, payload)
    }

    /// Applies a command one millisecond after the last one.
    pub fn apply(&mut self, command: &Command) -> Applied {
        self.now.0 += 1_000;
        self.apply_entry(self.seal(Kind::Command, &command.encode()))
    }

    pub fn run(&mut self, command: &Command) -> Reply {
        self.apply(command).reply.unwrap()
    }

    /// Creates an account whose first token, client and request come from `name`.
    pub fn create(&mut self, name: &str) -> User {
        let client = client(name);
        let request = request(name, 1);
        match self.run(&create(name, Some(request), token(name))) {
            Reply::LoggedIn { account, session } => User {
                id: account.user,
                token: token(name),
                client,
                session,
                sequence: 1,
            },
            other => panic!("{name} was not created: {other:?}"),
        }
    }

    pub fn query(&self, query: &Query) -> Answer {
        self.machine.query(&self.trees, query).unwrap()
    }

    /// Writes everything out.
    pub fn drain(&mut self) {
        while let Some(slice) = self.machine.next_slice(self.machine.applied(), true) {
            self.trees.write(slice);
            self.machine.slice_written();
        }
        assert_eq!(self.machine.unwritten_records(), 0);
    }

    /// The stored digest is what a scan finds.
    pub fn check(&self) {
        let scanned = self.machine.scan_digest(&self.trees).unwrap();
        assert_eq!(scanned, self.machine.digest());
    }
}

/// A test's account.
#[derive(Clone, Debug)]
pub struct User {
    pub id: UserId,
    pub token: TokenHash,
    pub client: ClientId,
    pub session: u64,
    pub sequence: u64,
}

impl User {
    /// The operation under this user's next sequence.
    pub fn next(&mut self, operation: Operation) -> Command {
        self.sequence += 1;
        self.with(self.sequence, operation)
    }

    pub fn with(&self, sequence: u64, operation: Operation) -> Command {
        Command {
            auth: Some(Auth { token: self.token }),
            request: Some(RequestId {
                client: self.client,
                sequence,
            }),
            operation,
            front: false,
        }
    }

    /// A login with a client and token of its own.
    pub fn login(&self, device: &str, secret: &str, password_version: u32) -> Command {
        Command {
            auth: None,
            request: Some(request(secret, 1)),
            operation: Operation::IssueToken {
                user: self.id,
                password_version,
                token: new_token(device, secret),
            },
            front: false,
        }
    }
}

pub fn token(secret: &str) -> TokenHash {
    TokenHash(*blake3::hash(secret.as_bytes()).as_bytes())
}

pub fn client(name: &str) -> ClientId {
    ClientId::from_slice(&token(name).0[..16]).unwrap()
}

pub fn request(name: &str, sequence: u64) -> RequestId {
    RequestId {
        client: client(name),
        sequence,
    }
}

pub fn new_token(device: &str, secret: &str) -> NewToken {
    NewToken {
        hash: token(secret),
        device: device.to_owned(),
        client: client(secret),
    }
}

/// An account creation. The client is `name`'s.
pub fn create(name: &str, request: Option<RequestId>, hash: TokenHash) -> Command {
    Command {
        auth: None,
        request,
        operation: Operation::CreateAccount {
            name: name.to_owned(),
            full_name: format!("{name} in full"),
            password_hash: format!("hash of {name}"),
            token: NewToken {
                hash,
                device: "default".to_owned(),
                client: client(name),
            },
        },
        front: false,
    }
}

pub fn send(recipient: &str, body: &str) -> Operation {
    Operation::SendMessage {
        recipient: recipient.to_owned(),
        body: body.as_bytes().to_vec(),
        content_type: "text/plain".to_owned(),
    }
}

/// A command of the replicas themselves.
pub fn internal(operation: Operation) -> Command {
    Command {
        auth: None,
        request: None,
        operation,
        front: false,
    }
}

pub fn refused(refusal: Refusal) -> Reply {
    Reply::Refused(refusal)
}
