//! Clients that send as fast as they can until the power goes.

use super::judge::{BIN, Expected, HOT, Sent};
use super::process::Replica;
use anyhow::{Context as _, bail};
use chat::client::{Client, Cluster, NewAccount, Options};
use chat::limits;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Accounts that send, and the requests that each has under way: 256 together, which a turn of the
/// replica gathers in one batch. Batches at their full size are what `--store-only` writes.
const SENDERS: usize = 4;
const IN_FLIGHT: usize = 64;
/// Every so many messages one is for the hot recipient.
const HOT_EVERY: u64 = 4;
/// Bytes of a body, in turn: blocks of many small entries, and of a single large one.
const BODY_BYTES: [usize; 6] = [40, 200, 40, 1_500, 40, limits::BODY_BYTES_MAX];
/// Longest wait for an answer. After a cut the connection is closed at once.
const DEADLINE: Duration = Duration::from_secs(20);
/// Longest wait for the first receipt.
const FIRST_PATIENCE: Duration = Duration::from_secs(60);
pub const PASSWORD: &str = "a test password";

/// Clients at work.
pub struct Load {
    tasks: JoinSet<Vec<Sent>>,
    stop: Arc<AtomicBool>,
    receipts: watch::Receiver<u64>,
}

pub fn handle(replica: &Replica) -> anyhow::Result<Cluster> {
    let options = Options {
        deadline: DEADLINE,
        ..Options::default()
    };
    Ok(Cluster::connect_with([&replica.client_addr], options)?)
}

/// A login with a name of its own, in an account that may be new.
pub async fn account(cluster: &Cluster, name: &str) -> anyhow::Result<Client> {
    match Client::login(cluster, name, PASSWORD, "").await {
        Ok(client) => Ok(client),
        Err(error) if error.reason == "BAD_CREDENTIALS" => {
            let new = NewAccount::named(name, PASSWORD);
            let created = Client::create_account(cluster, new).await;
            created.with_context(|| format!("cannot create the account {name}"))
        }
        Err(error) => Err(error).with_context(|| format!("cannot log in as {name}")),
    }
}

impl Load {
    /// Begins. The account of the last round's messages goes first, and a new one is in its place.
    pub async fn start(
        replica: &Replica,
        round: u32,
        expected: &mut Expected,
    ) -> anyhow::Result<Self> {
        let cluster = handle(replica)?;
        account(&cluster, HOT).await?;
        if let Some(old) = expected.drop_bin() {
            let old = account(&cluster, &old).await?;
            old.delete_account(PASSWORD)
                .await
                .context("cannot delete an account")?;
        }
        let bin = format!("{BIN}{round}");
        account(&cluster, &bin).await?;
        expected.new_bin(&bin);
        let stop = Arc::new(AtomicBool::new(false));
        let (told, receipts) = watch::channel(0);
        let newest = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let mut tasks = JoinSet::new();
        for number in 0..SENDERS {
            let client = account(&cluster, &format!("sender{number}")).await?;
            let sender = Sender {
                client,
                name: format!("{round}-{number}"),
                bin: bin.clone(),
                next: AtomicU64::new(0),
                stop: Arc::clone(&stop),
                told: told.clone(),
                newest: Arc::clone(&newest),
            };
            let sender = Arc::new(sender);
            for _ in 0..IN_FLIGHT {
                tasks.spawn(Arc::clone(&sender).run());
            }
        }
        Ok(Self {
            tasks,
            stop,
            receipts,
        })
    }

    /// From now on the power may go.
    pub async fn first_receipt(&self) -> anyhow::Result<()> {
        let mut receipts = self.receipts.clone();
        let first = receipts.wait_for(|count| *count > 0);
        let first = tokio::time::timeout(FIRST_PATIENCE, first).await;
        if !matches!(first, Ok(Ok(_))) {
            bail!("no message was acknowledged within a minute");
        }
        Ok(())
    }

    /// The replica is dead. Notes what was tried; returns how many receipts there were.
    pub async fn end(mut self, expected: &mut Expected) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(sent) = self.tasks.join_next().await {
            expected.extend(sent.context("a client panicked")?);
        }
        Ok(*self.receipts.borrow())
    }
}

struct Sender {
    client: Client,
    name: String,
    bin: String,
    next: AtomicU64,
    stop: Arc<AtomicBool>,
    told: watch::Sender<u64>,
    /// Of the other recipient, and of the hot one: the last place with a receipt.
    newest: Arc<[AtomicU64; 2]>,
}

impl Sender {
    async fn run(self: Arc<Self>) -> Vec<Sent> {
        let mut all = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let hot = number.is_multiple_of(HOT_EVERY);
            let to = if hot { HOT } else { &self.bin };
            let bytes = BODY_BYTES[(number / HOT_EVERY) as usize % BODY_BYTES.len()];
            let name = format!("{}-{number}", self.name);
            let newest = &self.newest[usize::from(hot)];
            let after_seq = newest.load(Ordering::SeqCst);
            let sending = self.client.send(to, body(&name, bytes));
            let receipt = tokio::select! {
                outcome = sending => outcome.ok(),
                // The client library would look for the replica until the deadline.
                () = self.stopped() => None,
            };
            if let Some(receipt) = &receipt {
                newest.fetch_max(receipt.inbox_seq, Ordering::SeqCst);
                self.told.send_modify(|count| *count += 1);
            }
            all.push(Sent {
                name,
                to: to.to_owned(),
                bytes,
                after_seq,
                receipt,
            });
        }
        all
    }

    async fn stopped(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Its name, and the same letter for the rest, which the name gives.
pub fn body(name: &str, bytes: usize) -> Vec<u8> {
    let letter = name
        .bytes()
        .fold(b'a', |sum, byte| b'a' + (sum ^ byte) % 26);
    let mut body = format!("{name} ").into_bytes();
    body.resize(bytes.max(body.len()), letter);
    body
}
