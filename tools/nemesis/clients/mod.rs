//! The clients: the real client library, on random replicas, with deadlines that are often too
//! short, so that outcomes are really unknown.

pub mod arena;
pub mod guests;
pub mod talk;

use crate::check::account::Action;
use crate::history::Outcome;
use chat::client::{Class, Client, ClientError, Cluster, NewAccount, Options};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// What is written down.
pub type History = crate::history::History<Action>;

/// How long the clients go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Everything.
    Run,
    /// No new operations; listeners go on.
    Drain,
    /// Nothing.
    End,
}

/// What all clients share. Cheap to clone.
#[derive(Clone)]
pub struct Crowd {
    /// Where the replicas are, in the order of their ids.
    pub addresses: Arc<Vec<String>>,
    /// Where everything is written down.
    pub history: History,
    /// Numbers for messages and names.
    numbers: Arc<AtomicU64>,
    /// Messages a second, of all senders together.
    pub rate: u64,
    phase: watch::Receiver<Phase>,
}

impl Crowd {
    /// Clients of these replicas. They look at `phase`.
    pub fn new(
        addresses: Vec<String>,
        history: History,
        rate: u64,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        Self {
            addresses: Arc::new(addresses),
            history,
            numbers: Arc::default(),
            rate,
            phase,
        }
    }

    /// A number that no other has.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The phase at this moment.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Resolves when this phase, or a later one, has begun.
    pub async fn reached(&self, phase: Phase) {
        let mut watched = self.phase.clone();
        // Fails only if the run is over, which is later than any phase.
        let _ = watched.wait_for(|now| *now >= phase).await;
    }

    /// A handle that begins at a random replica; half of them go on to the primary.
    pub fn cluster(&self, deadline: Duration) -> Result<Cluster, ClientError> {
        let mut addresses = self.addresses.as_ref().clone();
        let first = rand::random_range(0..addresses.len());
        addresses.rotate_left(first);
        let options = Options {
            attempt_timeout: Duration::from_secs(4).min(deadline),
            deadline,
            follow_primary: rand::random(),
            ..Options::default()
        };
        Cluster::connect_with(addresses, options)
    }

    /// A handle on one replica only.
    pub fn one_replica(&self, number: usize, deadline: Duration) -> Result<Cluster, ClientError> {
        let options = Options {
            deadline,
            follow_primary: false,
            ..Options::default()
        };
        Cluster::connect_with([&self.addresses[number % self.addresses.len()]], options)
    }

    /// A new account, however long it takes. `None` when the phase is over.
    pub async fn account(&self, prefix: &str) -> Option<(String, Client)> {
        while self.phase() == Phase::Run {
            let name = format!("{prefix}{}", self.number());
            let Ok(cluster) = self.cluster(patience()) else {
                return None;
            };
            let account = NewAccount::named(&name, &name);
            match Client::create_account(&cluster, account).await {
                Ok(client) => return Some((name, client)),
                Err(error) => {
                    self.outcome::<()>(&error, "create an account under a new name");
                }
            }
        }
        None
    }

    /// What a failed write means. What no client should be told is written down as a finding.
    pub fn outcome<T>(&self, error: &ClientError, doing: &str) -> Outcome<T> {
        match error.reason.as_str() {
            "NOT_APPLIED" => Outcome::Not,
            "OUTCOME_UNKNOWN" => Outcome::Unknown,
            _ if error.class() == Class::Unreachable => Outcome::Unknown,
            _ => {
                self.history.strange(format!("to {doing}: {error}"));
                Outcome::Unknown
            }
        }
    }
}

/// A deadline: often shorter than an election, sometimes longer than any fault.
pub fn patience() -> Duration {
    let milliseconds = [400, 1_500, 5_000, 15_000];
    Duration::from_millis(milliseconds[rand::random_range(0..milliseconds.len())])
}
