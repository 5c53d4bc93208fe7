//! Who sends, and who receives.

use anyhow::Context;
use chat::client::{Client, Cluster, NewAccount, SessionData};
use std::cell::Cell;
use std::rc::Rc;

/// Accounts created at once: the server hashes two passwords at a time.
const AT_ONCE: usize = 8;

/// An account that is logged in.
pub struct Login {
    /// The secret.
    pub token: String,
    /// Registered by the login.
    pub client_id: bytes::Bytes,
    sequence: Cell<u64>,
}

impl Login {
    fn new(data: &SessionData) -> Rc<Self> {
        Rc::new(Self {
            token: data.token.clone(),
            client_id: data.client_id.to_vec().into(),
            sequence: Cell::new(data.next_sequence),
        })
    }

    /// For a message: as the client library gives them.
    pub fn request_id(&self) -> chat::proto::chat::RequestId {
        let sequence = self.sequence.get();
        self.sequence.set(sequence + 1);
        chat::proto::chat::RequestId {
            client_id: self.client_id.clone(),
            sequence,
        }
    }
}

/// The accounts of one run.
pub struct People {
    /// Logged in.
    pub senders: Vec<Rc<Login>>,
    /// Names of others.
    pub recipients: Vec<String>,
}

/// New ones: so many that send, and as many that receive.
pub async fn create(address: &str, count: usize) -> anyhow::Result<People> {
    let cluster = Cluster::connect([address]).context("not an address")?;
    let run: u32 = rand::random();
    let mut tasks = tokio::task::JoinSet::new();
    let mut people = People {
        senders: Vec::with_capacity(count),
        recipients: Vec::with_capacity(count),
    };
    for number in 0..count * 2 {
        if tasks.len() == AT_ONCE
            && let Some(done) = tasks.join_next().await
        {
            people.add(done??, count);
        }
        let account = NewAccount::named(&format!("bench-{run:08x}-{number}"), "bench");
        let cluster = cluster.clone();
        tasks.spawn(async move { Client::create_account(&cluster, account).await });
    }
    while let Some(done) = tasks.join_next().await {
        people.add(done??, count);
    }
    Ok(people)
}

impl People {
    fn add(&mut self, client: Client, senders: usize) {
        let data = client.session().data();
        if self.senders.len() < senders {
            self.senders.push(Login::new(&data));
        } else {
            self.recipients.push(data.username);
        }
    }
}
