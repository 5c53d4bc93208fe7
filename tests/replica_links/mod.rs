//! What the tests of running replicas share: links in this process, and commands.
#![allow(dead_code)] // each test binary uses a part of it

use chat::replica::transport::{PeerInbox, Transport};
use chat::replica::{Config, Handle, PeerMessage, WriteError, Written};
use chat::state_machine::{Auth, Command, NewToken, Operation};
use chat::types::{ClientId, ReplicaId, RequestId, TokenHash};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Nothing here takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The links between the replicas of one test.
#[derive(Clone, Default)]
pub struct Net(Arc<Mutex<BTreeMap<ReplicaId, PeerInbox>>>);

impl Transport for Net {
    fn send(&self, message: PeerMessage) {
        let inbox = self.0.lock().unwrap().get(&message.to()).cloned();
        if let Some(inbox) = inbox {
            inbox.deliver(vec![message]);
        }
    }
}

impl Net {
    pub fn connect(&self, id: ReplicaId, inbox: PeerInbox) {
        let mut inboxes = self.0.lock().unwrap();
        for (peer, other) in inboxes.iter() {
            other.link_up(id);
            inbox.link_up(*peer);
        }
        inboxes.insert(id, inbox);
    }

    pub fn cut(&self, id: ReplicaId) {
        let mut inboxes = self.0.lock().unwrap();
        if let Some(inbox) = inboxes.remove(&id) {
            for (peer, other) in inboxes.iter() {
                other.link_down(id, true);
                inbox.link_down(*peer, true);
            }
        }
    }
}

pub fn config(id: u16, replicas: u16) -> Config {
    Config {
        node: chat::consensus::Config {
            id: ReplicaId(id),
            ids: (1..=replicas).map(ReplicaId).collect(),
            refresh_interval_us: 50_000,
            election_iters: 4,
            election_check_interval_us: 10_000,
            initialize_wait_us: 5_000_000,
            notice_wait_us: 0,
            build: "test".into(),
            level: chat::types::LEVEL,
        },
        write_timeout_us: 5_000_000,
        read_timeout_us: 5_000_000,
        token_idle_us: 3_600_000_000,
        retention_us: 0,
        checkpoint_entries_max: 10_000,
        rewriting: chat::replica::Rewriting::default(),
        scrub_interval_us: 0,
        free_bytes_min: 0,
        digest_every: chat::limits::DIGEST_EVERY,
    }
}

pub fn token(name: &str) -> TokenHash {
    TokenHash(*blake3::hash(name.as_bytes()).as_bytes())
}

pub fn request(name: &str, sequence: u64) -> RequestId {
    let client = ClientId(token(name).0[..16].try_into().unwrap());
    RequestId { client, sequence }
}

pub fn create(name: &str) -> Command {
    Command {
        auth: None,
        request: Some(request(name, 1)),
        operation: Operation::CreateAccount {
            name: name.into(),
            full_name: name.into(),
            password_hash: "hash".into(),
            token: NewToken {
                hash: token(name),
                device: "default".into(),
                client: request(name, 1).client,
            },
        },
        front: false,
    }
}

pub fn send(from: &str, sequence: u64, to: &str) -> Command {
    Command {
        auth: Some(Auth { token: token(from) }),
        request: Some(request(from, sequence)),
        operation: Operation::SendMessage {
            recipient: to.into(),
            body: sequence.to_string().into_bytes(),
            content_type: "text/plain".into(),
        },
        front: false,
    }
}

/// As a front does: again under the same request id until there is a reply.
pub async fn write(handle: &Handle, command: &Command) -> Written {
    tokio::time::timeout(PATIENCE, async {
        loop {
            match handle.write(command.clone()).await {
                Ok(written) => return written,
                Err(WriteError::NotApplied | WriteError::OutcomeUnknown) => {}
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
    .unwrap()
}
