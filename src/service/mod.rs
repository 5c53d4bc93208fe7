//! What every front door calls: one method an operation, plain values in and out.
//!
//! Here a request is checked, its password hashed or verified, its token made, its id given, its
//! write retried; and here every error gets its stable word. The fronts convert and nothing else.
//!
//! Never here: what the cluster decides (the state machine checks token, accounts and ids again
//! when it applies), and any secret outside the newtypes that hide it. Passwords and tokens stay
//! on the replica that received them: only their hashes go on.
//!
//! # Request ids and retries
//!
//! A write goes to the replica with one request id for as long as the call lasts: the client's, or
//! one of the front's own. A second attempt under the same id is applied at most once, so a call
//! may retry an unknown outcome; once an outcome was unknown, "not applied" is never said again.

mod accounts;
mod backend;
mod deliver;
#[cfg(test)]
mod deliver_tests;
mod errors;
#[cfg(test)]
pub(crate) mod fake;
pub mod fuzzing;
mod listing;
mod messages;
mod passwords;
mod pipeline;
mod pool;
mod requests;
mod sessions;
#[cfg(test)]
mod tests;
mod tokens;
mod validate;

pub use backend::{Backend, Watcher};
pub use deliver::{Deliver, Deliveries};
pub use errors::{Code, Reason, ServiceError};
pub use passwords::{HashCost, HashCostError, Password};
pub use pipeline::Pipeline;
pub use requests::{
    ChangePassword, CreateAccount, DeliverMessages, ListAccounts, LoggedIn, Login, Page,
    SendMessage, Sent, WhoAmI,
};
pub use tokens::Token;
pub use validate::request_id;

use crate::limits;
use crate::replica::{Consistency, Handle, ReadError, WriteError};
use crate::state_machine::{Answer, Auth, Command, Operation, Query, Refusal, Reply};
use crate::types::{ClientId, ReplicaId, RequestId, TokenHash};
use passwords::Passwords;
use pool::Pool;
use rand::Rng as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// Client address of a replica as HOST:PORT, where it is known.
pub type AddressBook = Arc<dyn Fn(ReplicaId) -> Option<String> + Send + Sync>;

/// What a service is started with.
#[derive(Clone)]
pub struct Settings {
    /// For the replies' metadata: where the primary's clients connect.
    pub addresses: AddressBook,
    /// How long a call retries inside.
    pub call_retry: Duration,
    /// What a password hash costs.
    pub hash_cost: HashCost,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            addresses: Arc::new(|_| None),
            call_retry: Duration::from_millis(limits::CALL_RETRY_MS_MAX),
            hash_cost: HashCost::default(),
        }
    }
}

/// The operations. Cheap to clone: every front and every connection has one.
pub struct Service<B: Backend = Handle> {
    inner: Arc<Inner<B>>,
}

struct Inner<B> {
    backend: B,
    settings: Settings,
    passwords: Passwords,
    listings: Pool,
    streams: Arc<Semaphore>,
    closing: watch::Sender<bool>,
    /// This front's client id in this process run, and the last sequence given out.
    front: ClientId,
    sequence: AtomicU64,
}

impl<B: Backend> Clone for Service<B> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

/// What a write came to.
struct Outcome {
    reply: Reply,
    /// An earlier attempt of this call may have been applied: a refusal may be its echo.
    unsure: bool,
}

impl<B: Backend> Service<B> {
    /// A service on this replica. Fails if passwords cannot be hashed at the cost asked for.
    pub fn new(backend: B, settings: Settings) -> Result<Self, HashCostError> {
        let passwords = Passwords::new(settings.hash_cost)?;
        Ok(Self {
            inner: Arc::new(Inner {
                backend,
                settings,
                passwords,
                listings: Pool::new(limits::LISTINGS_AT_ONCE_MAX, limits::LISTINGS_WAITING_MAX),
                streams: Arc::new(Semaphore::new(limits::STREAMS_MAX)),
                closing: watch::Sender::new(false),
                front: random_client(),
                sequence: AtomicU64::new(0),
            }),
        })
    }

    /// This replica.
    pub fn replica(&self) -> ReplicaId {
        self.inner.backend.id()
    }

    /// Would this replica serve a client now: is a primary known, and may the own copy be shown?
    pub fn serves(&self) -> bool {
        self.inner.backend.serves()
    }

    /// The primary as known here.
    pub fn primary(&self) -> Option<ReplicaId> {
        self.inner.backend.primary()
    }

    /// HOST:PORT of the primary's client address, when both are known.
    pub fn primary_address(&self) -> Option<String> {
        let primary = self.inner.backend.primary()?;
        (self.inner.settings.addresses)(primary)
    }

    /// Ends every open stream with `UNAVAILABLE`, and every new one: the server is stopping.
    pub fn close_streams(&self) {
        self.inner.closing.send_replace(true);
    }

    /// Writes, and retries under the same id until the deadline.
    async fn write(
        &self,
        token: Option<TokenHash>,
        request: Option<RequestId>,
        operation: Operation,
    ) -> Result<Outcome, ServiceError> {
        let mut command = Command {
            auth: token.map(|token| Auth { token }),
            request: Some(request.unwrap_or_else(|| self.front_request())),
            operation,
            front: request.is_none(),
        };
        let mut attempts = Attempts::new(self.inner.settings.call_retry);
        let mut unsure = false;
        loop {
            // Not cut off at the deadline: what the replica still holds is certainly not applied,
            // and it says so itself in a bounded time.
            let error = match self.inner.backend.write(command.clone()).await {
                // Other calls of this front moved the floor past an id that was slow. It is the
                // front's own, so a fresh one will do, unless the old one may have been applied.
                Ok(written)
                    if command.front && written.reply == Reply::Refused(Refusal::RequestTooOld) =>
                {
                    if unsure {
                        return Err(Reason::OutcomeUnknown.into());
                    }
                    command.request = Some(self.front_request());
                    WriteError::NotApplied
                }
                Ok(written) => {
                    let reply = written.reply;
                    if let Some(token) = token
                        && reply != Reply::Refused(Refusal::TokenInvalid)
                    {
                        self.inner.backend.token_used(token);
                    }
                    return Ok(Outcome { reply, unsure });
                }
                Err(error) => error,
            };
            unsure |= error == WriteError::OutcomeUnknown;
            let retry = matches!(error, WriteError::NotApplied | WriteError::OutcomeUnknown);
            if !retry || !attempts.pause().await {
                // This attempt was not applied, but an earlier one may have been.
                let error = if unsure {
                    WriteError::OutcomeUnknown
                } else {
                    error
                };
                return Err(error.into());
            }
        }
    }

    /// Reads, and retries until the deadline. A refusal is an error here.
    async fn read(&self, query: Query, consistency: Consistency) -> Result<Answer, ServiceError> {
        let mut attempts = Attempts::new(self.inner.settings.call_retry);
        loop {
            let attempt = self.inner.backend.read(query.clone(), consistency);
            let error = match tokio::time::timeout_at(attempts.deadline, attempt).await {
                Ok(Ok(Answer::Refused(refusal))) => return Err(refusal.into()),
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => ReadError::Unavailable,
            };
            if error != ReadError::Unavailable || !attempts.pause().await {
                return Err(error.into());
            }
        }
    }

    /// An id for a client that brought none.
    fn front_request(&self) -> RequestId {
        RequestId {
            client: self.inner.front,
            sequence: self.inner.sequence.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }
}

/// Spaces the attempts of one call: pauses double, with a random part so that many calls that
/// failed together do not return together.
struct Attempts {
    deadline: Instant,
    pause_ms: u64,
}

impl Attempts {
    fn new(limit: Duration) -> Self {
        Self {
            deadline: Instant::now() + limit,
            pause_ms: limits::CALL_PAUSE_MS_MIN,
        }
    }

    /// Waits before the next attempt; false if there is no time for one.
    async fn pause(&mut self) -> bool {
        let ms = rand::rng().random_range(self.pause_ms / 2..=self.pause_ms);
        let next = Instant::now() + Duration::from_millis(ms);
        if next >= self.deadline {
            return false;
        }
        tokio::time::sleep_until(next).await;
        self.pause_ms = (self.pause_ms * 2).min(limits::CALL_PAUSE_MS_MAX);
        true
    }
}

fn random_client() -> ClientId {
    ClientId(rand::rng().random())
}

/// A reply of another kind than its command can have.
fn unexpected_reply(operation: &'static str, reply: &Reply) -> ServiceError {
    match reply {
        Reply::Refused(refusal) => (*refusal).into(),
        _ => ServiceError::internal(operation),
    }
}
