//! What the clients did and what they were told, with times: the evidence that the checks judge.
//!
//! Times are microseconds since the start of the run, all of one monotonic clock: an operation
//! that returned before another was invoked really happened before it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Microseconds since the start of the run.
pub type Micros = u64;

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// Acknowledged.
    Ok(T),
    /// Certainly not done.
    Not,
    /// Nobody told the client: done or not, now or later.
    Unknown,
}

/// Where a message is, as its receipt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Rises in the order of the log.
    pub message_id: u64,
    /// In the recipient's inbox, from 1.
    pub inbox_seq: u64,
}

/// One message that a client sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// What it says; unique in the run.
    pub number: u64,
    /// Whose inbox.
    pub to: String,
    /// Before the call.
    pub invoked: Micros,
    /// After it.
    pub returned: Micros,
    /// What came of it.
    pub outcome: Outcome<Place>,
}

/// A message as it was delivered: (place, message id, number).
pub type Delivered = (u64, u64, u64);

/// One look at an inbox, from `after` to the end of the backlog.
#[derive(Clone, Debug)]
pub struct Looked {
    /// Whose inbox.
    pub inbox: String,
    /// Before the stream was opened.
    pub invoked: Micros,
    /// Places up to this one were not asked for.
    pub after: u64,
    /// In the order in which they came.
    pub messages: Vec<Delivered>,
}

/// All that one listener heard, across its reconnects.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Whose inbox.
    pub inbox: String,
    /// In the order in which they came, each with its time.
    pub messages: Vec<(Micros, Delivered)>,
    /// Times that the stream went on elsewhere.
    pub reconnects: u64,
}

/// What came of a send to or by an account that is deleted meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Acknowledged.
    Accepted(Place),
    /// Refused: the recipient has no account.
    NoRecipient,
    /// Refused: the sender's login is gone.
    NoSender,
    /// Certainly not done.
    NotDone,
    /// Nobody told the client.
    Unknown,
}

/// A send to or by such an account.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What the message says.
    pub number: u64,
    /// Into its inbox.
    pub to_guest: bool,
    /// Under its login.
    pub by_guest: bool,
    /// Before the call.
    pub invoked: Micros,
    /// After it.
    pub returned: Micros,
    /// What came of it.
    pub answer: Answer,
}

/// An account that was deleted while others sent to it.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Before the first attempt to delete it.
    pub deletion: Micros,
    /// After the acknowledgement, if there was one.
    pub deleted: Option<Micros>,
    /// All sends to it and by it.
    pub attempts: Vec<Attempt>,
    /// What its listener heard, from the first message on.
    pub heard: Vec<(Micros, Delivered)>,
    /// The inbox of the account that was then created under the name, if it was and could be read.
    pub next_inbox: Option<Vec<Delivered>>,
}

/// One operation on one account, as the model of `check::account` knows it.
#[derive(Clone, Debug)]
pub struct Call<A> {
    /// Before the call.
    pub invoked: Micros,
    /// After it; `None` if nobody told the client what came of it: then it may happen at any later
    /// time, or never.
    pub returned: Option<Micros>,
    /// What was done, and what the answer was.
    pub action: A,
}

/// Everything that was recorded.
#[derive(Default)]
pub struct Record<A> {
    /// Messages.
    pub sent: Vec<Sent>,
    /// Looks at inboxes.
    pub looked: Vec<Looked>,
    /// Listeners.
    pub heard: Vec<Heard>,
    /// Accounts that were deleted while others sent to them.
    pub guests: Vec<Guest>,
    /// Operations on each account.
    pub accounts: BTreeMap<String, Vec<Call<A>>>,
    /// What no client should ever be told, as sentences.
    pub strange: Vec<String>,
    /// When writes were acknowledged and how long that took: (returned, latency).
    pub acknowledged: Vec<(Micros, Micros)>,
    /// Operations of all kinds that had no definite outcome.
    pub unknown: u64,
    /// Operations of all kinds that were certainly not done.
    pub not_done: u64,
}

/// Strange answers that are kept; more only repeat what is known.
const STRANGE_MAX: usize = 200;

/// Shared by all clients. Cheap to clone.
pub struct History<A> {
    started: Instant,
    /// The same by this machine's wall clock, which no fault turns.
    started_wall: SystemTime,
    record: Arc<Mutex<Record<A>>>,
}

impl<A> Clone for History<A> {
    fn clone(&self) -> Self {
        Self {
            started: self.started,
            started_wall: self.started_wall,
            record: Arc::clone(&self.record),
        }
    }
}

impl<A> History<A> {
    /// Begins now.
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            started_wall: SystemTime::now(),
            record: Arc::new(Mutex::new(Record {
                sent: Vec::new(),
                looked: Vec::new(),
                heard: Vec::new(),
                guests: Vec::new(),
                accounts: BTreeMap::new(),
                strange: Vec::new(),
                acknowledged: Vec::new(),
                unknown: 0,
                not_done: 0,
            })),
        }
    }

    /// The time.
    pub fn now(&self) -> Micros {
        self.started.elapsed().as_micros() as Micros
    }

    /// Microseconds since the Unix epoch that lie between the start of the run and now, or beside it by
    /// no more than `off`.
    pub fn is_of_this_run(&self, time_us: u64, off: Duration) -> bool {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(time_us);
        time + off >= self.started_wall && time <= self.started_wall + self.started.elapsed() + off
    }

    /// What is recorded. Held for a few instructions at a time, never across an await.
    pub fn record(&self) -> MutexGuard<'_, Record<A>> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message was sent, or not.
    pub fn sent(&self, sent: Sent) {
        let mut record = self.record();
        let latency = sent.returned - sent.invoked;
        match &sent.outcome {
            Outcome::Ok(_) => record.acknowledged.push((sent.returned, latency)),
            Outcome::Not => record.not_done += 1,
            Outcome::Unknown => record.unknown += 1,
        }
        record.sent.push(sent);
    }

    /// An operation on an account.
    pub fn call(&self, account: &str, call: Call<A>) {
        let mut record = self.record();
        record.unknown += u64::from(call.returned.is_none());
        let calls = record.accounts.entry(account.to_owned()).or_default();
        calls.push(call);
    }

    /// Something that no client should ever be told.
    pub fn strange(&self, sentence: String) {
        let mut record = self.record();
        if record.strange.len() < STRANGE_MAX {
            record.strange.push(sentence);
        }
    }

    /// A write that was invoked at or after `from` has been acknowledged; when that was known.
    pub fn acknowledged_since(&self, from: Micros) -> Option<Micros> {
        first_acknowledged(&self.record().acknowledged, from)
    }
}

/// When the first write that was invoked at or after `from` was acknowledged. The list is in the
/// order of acknowledgement, but for a few microseconds.
pub fn first_acknowledged(acknowledged: &[(Micros, Micros)], from: Micros) -> Option<Micros> {
    let begin = acknowledged.partition_point(|(returned, _)| *returned < from);
    acknowledged[begin..]
        .iter()
        .find(|(returned, latency)| returned - latency >= from)
        .map(|(returned, _)| *returned)
}

/// The body of a message: its number, and as much padding as the number says.
pub fn body_of(number: u64) -> String {
    let mut body = format!("{number}:");
    let length = (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as usize; // below 1,024
    let mut word = number;
    while body.len() < length {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let _ = write!(body, "{word:016x}");
    }
    body
}

/// The number of a body that is whole; `None` for any other bytes.
pub fn number_of(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let number = text.split_once(':')?.0.parse().ok()?;
    (body_of(number) == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_was_changed_has_no_number() {
        for number in [0, 1, 77, 123_456_789] {
            let mut body = body_of(number).into_bytes();
            assert_eq!(number_of(&body), Some(number));
            let last = body.len() - 1;
            body[last] ^= 1;
            assert_eq!(number_of(&body), None);
        }
    }

    #[test]
    fn a_time_that_a_wrong_clock_made_is_not_of_this_run() {
        let history: History<()> = History::start();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_us = now.unwrap().as_micros() as u64;
        let off = Duration::from_secs(120);
        for (time_us, of_this_run) in [
            (now_us, true),
            (now_us - 60_000_000, true),
            (now_us + 60_000_000, true),
            (now_us - 200_000_000, false),
            (now_us + 200_000_000, false),
        ] {
            assert_eq!(history.is_of_this_run(time_us, off), of_this_run);
        }
    }

    #[test]
    fn a_write_that_began_before_does_not_show_that_writes_work_again() {
        let acknowledged = [(10, 1), (25, 20), (30, 4)];
        assert_eq!(first_acknowledged(&acknowledged, 11), Some(30));
        assert_eq!(first_acknowledged(&acknowledged, 27), None);
    }
}
