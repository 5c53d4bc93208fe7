//! One request until it has an outcome: attempts, backoff, failover.

use super::cluster::Cluster;
use super::error::{Class, ClientError, Verdict, judge};
use crate::proto::chat::chat_service_client::ChatServiceClient;
use std::future::Future;
use std::time::{Duration, Instant};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(200);

/// What is called.
pub(super) type Stub = ChatServiceClient<Channel>;

/// What giving up means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Changes nothing.
    Read,
    /// Has a request id.
    Write,
    /// A write that ends the login: once it is applied, a retry under the same token is refused.
    LastWrite,
}

/// A reply and how it came.
pub(super) struct Answer<R> {
    pub body: R,
    /// 1 if the first attempt was answered.
    pub attempts: u32,
    /// Who answered.
    pub replica: Option<u16>,
}

/// Waits that double, with jitter, so that many clients do not come back at the same moment.
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: BACKOFF_MIN }
    }

    pub(super) fn wait(&mut self, asked: Option<Duration>) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(BACKOFF_MAX);
        let jittered = base.mul_f64(rand::random_range(0.5..=1.0));
        jittered.max(asked.unwrap_or_default())
    }
}

/// How the attempts went so far.
struct Progress {
    kind: Kind,
    attempts: u32,
    /// An attempt may have been applied.
    ambiguous: bool,
    deadline: Instant,
}

/// Calls until there is an outcome or the deadline has passed.
pub(super) async fn call<Q, R, F, Fut>(
    cluster: &Cluster,
    kind: Kind,
    bearer: Option<&MetadataValue<Ascii>>,
    message: Q,
    invoke: F,
) -> Result<Answer<R>, ClientError>
where
    Q: Clone,
    R: Default,
    F: Fn(Stub, Request<Q>) -> Fut,
    Fut: Future<Output = Result<Response<R>, Status>>,
{
    let options = cluster.options();
    let mut progress = Progress {
        kind,
        attempts: 0,
        ambiguous: false,
        deadline: Instant::now() + options.deadline,
    };
    let mut backoff = Backoff::new();
    let mut attempt_timeout = options.attempt_timeout;
    loop {
        progress.attempts += 1;
        if progress.attempts > 1 {
            cluster.count_retry();
        }
        let chosen = cluster.choose();
        let request = authorized(message.clone(), bearer);
        let left = progress.deadline.saturating_duration_since(Instant::now());
        let attempt = invoke(Stub::new(chosen.channel), request);
        let error = match tokio::time::timeout(attempt_timeout.min(left), attempt).await {
            Ok(Ok(response)) => {
                cluster.on_answer(chosen.number, response.metadata());
                return Ok(Answer {
                    replica: replica_of(response.metadata()),
                    attempts: progress.attempts,
                    body: response.into_inner(),
                });
            }
            Ok(Err(status)) => status,
            Err(_) => {
                cluster.on_unreachable(chosen.number, true);
                progress.ambiguous = true;
                // A slow replica (a queue of logins, say) must get the time that it needs.
                attempt_timeout = (attempt_timeout * 2).min(options.attempt_timeout * 4);
                Status::deadline_exceeded("a replica did not answer in time")
            }
        };
        let verdict = judge(&error);
        note_failure(cluster, chosen.number, &error, verdict);
        if !verdict.retry {
            return progress.refused(&error);
        }
        progress.ambiguous |= verdict.ambiguous;
        // What a replica asks for is to be left alone; another one may be tried at once.
        let moves = verdict.elsewhere && cluster.choose().number != chosen.number;
        let wait = backoff.wait(verdict.wait.filter(|_| !moves));
        if Instant::now() + wait >= progress.deadline {
            return Err(progress.gave_up(&error));
        }
        tokio::time::sleep(wait).await;
    }
}

/// A request with the login's token.
pub(super) fn authorized<Q>(message: Q, bearer: Option<&MetadataValue<Ascii>>) -> Request<Q> {
    let mut request = Request::new(message);
    if let Some(bearer) = bearer {
        request
            .metadata_mut()
            .insert("authorization", bearer.clone());
    }
    request
}

/// The id of the replica that answered.
pub(super) fn replica_of(metadata: &MetadataMap) -> Option<u16> {
    metadata.get("chat-replica")?.to_str().ok()?.parse().ok()
}

/// Chooses where the next attempt goes.
pub(super) fn note_failure(cluster: &Cluster, number: usize, status: &Status, verdict: Verdict) {
    if verdict.unreachable {
        cluster.on_unreachable(number, false);
        return;
    }
    if verdict.elsewhere {
        // Perhaps it is cut off from the others.
        cluster.prefer_another(number);
    }
    cluster.on_answer(number, status.metadata());
}

impl Progress {
    /// A replica said no. To the retry of a request that ends the login, "no such token" says
    /// that an earlier attempt has ended it.
    fn refused<R: Default>(&self, status: &Status) -> Result<Answer<R>, ClientError> {
        let error = ClientError::from_status(status);
        let gone = error.class() == Class::NotLoggedIn || error.reason == "USER_UNKNOWN";
        if gone && self.kind == Kind::LastWrite && self.ambiguous {
            return Ok(Answer {
                body: R::default(),
                attempts: self.attempts,
                replica: None,
            });
        }
        Err(error)
    }

    /// No replica gave an outcome in time. What is said here is about all attempts together: the
    /// last one's `NOT_APPLIED` is not true of an earlier one whose connection broke.
    fn gave_up(&self, last: &Status) -> ClientError {
        let reason = match (self.kind, self.ambiguous) {
            (Kind::Read, _) => "UNAVAILABLE",
            (Kind::Write | Kind::LastWrite, true) => "OUTCOME_UNKNOWN",
            (Kind::Write | Kind::LastWrite, false) => "NOT_APPLIED",
        };
        let last = ClientError::from_status(last);
        let message = format!(
            "gave up after {} attempts; the last one: {last}",
            self.attempts
        );
        ClientError::local(reason, Code::Unavailable, message)
    }
}
