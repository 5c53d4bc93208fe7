//! One request until it has an outcome: attempts, backoff, failover.

use super::cluster::Cluster;
use super::error::{ClientError, Verdict, explained, judge};
use super::mismatch::explain;
use super::operation::{Operation, attempt, primary_of};
use super::session::Session;
use super::wire::Lane;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(200);

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
    /// When the attempt that was answered began.
    pub began: Instant,
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
    /// The last refusal that a replica explained: it says more than a connection that failed.
    said: Option<ClientError>,
    deadline: Instant,
}

/// Calls until there is an outcome or the deadline has passed.
pub(super) async fn call<Q: Operation>(
    cluster: &Cluster,
    kind: Kind,
    session: Option<&Session>,
    message: Q,
) -> Result<Answer<Q::Reply>, ClientError> {
    let options = cluster.options();
    let mut progress = Progress {
        kind,
        attempts: 0,
        ambiguous: false,
        said: None,
        deadline: Instant::now() + options.deadline,
    };
    let mut backoff = Backoff::new();
    // What hashes a password waits in a queue of such. All else that takes long waits for a primary
    // that hangs, and another replica knows of the next one. The only replica gets the time in which
    // it says what became of a write that it holds for want of a primary.
    let mut attempt_timeout = options.attempt_timeout / if Q::LANE == Lane::Fast { 4 } else { 1 };
    loop {
        progress.attempts += 1;
        if progress.attempts > 1 {
            cluster.count_retry();
        }
        let chosen = cluster.choose();
        let began = Instant::now();
        let left = progress.deadline.saturating_duration_since(began);
        if chosen.only {
            attempt_timeout = attempt_timeout.max(options.attempt_timeout);
        }
        let attempt = attempt(chosen.channel, message.clone(), session);
        let error = match tokio::time::timeout(attempt_timeout.min(left), attempt).await {
            Ok(Ok(answer)) => {
                cluster.on_answer(chosen.number, answer.primary.as_deref());
                return Ok(Answer {
                    began,
                    replica: answer.replica,
                    attempts: progress.attempts,
                    body: answer.body,
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
        let (error, verdict) = learn_from(cluster, chosen.number, error).await;
        if !verdict.retry {
            return progress.refused(&error, began);
        }
        progress.ambiguous |= verdict.ambiguous;
        if explained(&error) {
            progress.said = Some(ClientError::from_status(&error));
        }
        // What a replica asks for is to be left alone; another one may be tried at once.
        let moves = verdict.elsewhere && cluster.choose().number != chosen.number;
        let wait = backoff.wait(verdict.wait.filter(|_| !moves));
        // So far it is certainly not applied, and that is worth more than one attempt more which
        // the deadline would cut off in the middle.
        let certain = kind != Kind::Read && progress.said.is_some() && !progress.ambiguous;
        if Instant::now() + wait + attempt_timeout * u32::from(certain) >= progress.deadline {
            return Err(progress.gave_up(&error));
        }
        tokio::time::sleep(wait).await;
    }
}

/// What a failed attempt says, and what it means for the next one.
async fn learn_from(cluster: &Cluster, number: usize, status: Status) -> (Status, Verdict) {
    let status = explain(cluster, number, status).await;
    let mut verdict = judge(&status);
    if verdict.wrong {
        verdict.retry = cluster.on_wrong_protocol(number);
    }
    note_failure(cluster, number, &status, verdict);
    (status, verdict)
}

/// Chooses where the next attempt goes.
pub(super) fn note_failure(cluster: &Cluster, number: usize, status: &Status, verdict: Verdict) {
    if verdict.wrong {
        return;
    }
    if verdict.unreachable {
        cluster.on_unreachable(number, false);
        return;
    }
    if verdict.elsewhere {
        // Perhaps it is cut off from the others.
        cluster.prefer_another(number);
    }
    cluster.on_answer(number, primary_of(status.metadata()));
}

impl Progress {
    /// A replica said no. To the retry of a request that ends the login, "no such token" says
    /// that an earlier attempt has ended it. A client that was dropped says nothing of the kind: its
    /// token was good, and no attempt of it has run or will.
    fn refused<R: Default>(
        &self,
        status: &Status,
        began: Instant,
    ) -> Result<Answer<R>, ClientError> {
        let error = ClientError::from_status(status);
        let gone = matches!(error.reason.as_str(), "TOKEN_INVALID" | "USER_UNKNOWN");
        if gone && self.kind == Kind::LastWrite && self.ambiguous {
            return Ok(Answer {
                body: R::default(),
                attempts: self.attempts,
                replica: None,
                began,
            });
        }
        Err(error)
    }

    /// No replica gave an outcome in time. What is said here is about all attempts together: the
    /// last one's `NOT_APPLIED` is not true of an earlier one whose connection broke.
    fn gave_up(&self, last: &Status) -> ClientError {
        let last = ClientError::from_status(last);
        let full = last.reason == "DISK_FULL";
        let reason = match (self.kind, self.ambiguous) {
            (Kind::Read, _) => "UNAVAILABLE",
            (Kind::Write | Kind::LastWrite, true) => "OUTCOME_UNKNOWN",
            (Kind::Write | Kind::LastWrite, false) if full => "DISK_FULL",
            (Kind::Write | Kind::LastWrite, false) => "NOT_APPLIED",
        };
        let said = match &self.said {
            Some(said) if *said != last => format!("a replica said: {said}; "),
            _ => String::new(),
        };
        let message = format!(
            "gave up after {} attempts; {said}the last one: {last}",
            self.attempts
        );
        ClientError::local(reason, Code::Unavailable, message)
    }
}
