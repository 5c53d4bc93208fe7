//! Load, and the check of what it was promised.

use chat::client::{Client, ClientError, Event, Listen, Message, Receipt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Sends under way at once.
const IN_FLIGHT: usize = 8;

/// A message that was tried.
pub struct Sent {
    /// What it says: unique.
    pub body: String,
    /// Highest place that this sender had been acknowledged before it sent this one.
    pub after_seq: u64,
    /// What it was promised.
    pub outcome: Result<Receipt, ClientError>,
}

/// A sender that does not stop until it is told to.
pub struct Load {
    tasks: JoinSet<Vec<Sent>>,
    stop: watch::Sender<bool>,
    acknowledged: watch::Sender<u64>,
}

impl Load {
    /// Sends from now on.
    pub fn start(from: &Client, to: &str) -> Self {
        let stop = watch::Sender::new(false);
        let acknowledged = watch::Sender::new(0);
        let next = Arc::new(AtomicU64::new(0));
        let newest = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (client, to) = (from.clone(), to.to_owned());
            let (next, newest) = (next.clone(), newest.clone());
            let (stop, acknowledged) = (stop.subscribe(), acknowledged.clone());
            tasks.spawn(async move {
                let mut sent = Vec::new();
                while !*stop.borrow() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let body = format!("{}-{number}", client.session().username());
                    let after_seq = newest.load(Ordering::SeqCst);
                    let outcome = client.send(&to, body.clone()).await;
                    if let Ok(receipt) = &outcome {
                        newest.fetch_max(receipt.inbox_seq, Ordering::SeqCst);
                        acknowledged.send_modify(|count| *count += 1);
                    }
                    let failed = outcome.is_err();
                    sent.push(Sent {
                        body,
                        after_seq,
                        outcome,
                    });
                    if failed {
                        break;
                    }
                }
                sent
            });
        }
        Self {
            tasks,
            stop,
            acknowledged,
        }
    }

    /// Waits for so many more acknowledgements.
    pub async fn more(&self, count: u64) {
        let mut acknowledged = self.acknowledged.subscribe();
        let goal = *acknowledged.borrow() + count;
        let reached = acknowledged.wait_for(|now| *now >= goal);
        let reached = tokio::time::timeout(super::PATIENCE, reached).await;
        assert!(reached.is_ok(), "no {count} more acknowledgements in time");
    }

    /// Stops, and returns all that was tried.
    pub async fn stop(mut self) -> Vec<Sent> {
        self.stop.send_replace(true);
        let mut all = Vec::new();
        while let Some(sent) = self.tasks.join_next().await {
            all.extend(sent.unwrap());
        }
        all
    }
}

/// The whole inbox, from its beginning to its end just now.
pub async fn read_inbox(client: &Client) -> Vec<Message> {
    let mut inbox = client.listen(Listen {
        after: Some(0),
        ..Listen::default()
    });
    let mut messages = Vec::new();
    loop {
        match inbox.next().await.expect("an error comes before the end") {
            Ok(Event::Message(message)) => messages.push(message),
            Ok(Event::EndOfBacklog) => return messages,
            Ok(_) => {}
            Err(error) => panic!("the inbox cannot be read: {error}"),
        }
    }
}

/// Everything acknowledged is there exactly once, where its receipt says, after all that was
/// acknowledged before it was sent; what was not acknowledged is there once at most; no place is
/// empty.
pub fn check_inbox(inbox: &[Message], sent: &[Sent]) {
    let mut places: BTreeMap<&[u8], Vec<&Message>> = BTreeMap::new();
    for (expected, message) in (1..).zip(inbox) {
        assert_eq!(message.inbox_seq, expected, "a gap in the inbox");
        places.entry(&message.body).or_default().push(message);
    }
    for sent in sent {
        let found = places.remove(sent.body.as_bytes()).unwrap_or_default();
        match &sent.outcome {
            Ok(receipt) => {
                assert_eq!(
                    found.len(),
                    1,
                    "{} is there {} times",
                    sent.body,
                    found.len()
                );
                let place = (found[0].message_id, found[0].inbox_seq, found[0].time_us);
                let promised = (receipt.message_id, receipt.inbox_seq, receipt.time_us);
                assert_eq!(
                    place, promised,
                    "{} is not where its receipt says",
                    sent.body
                );
                assert!(
                    receipt.inbox_seq > sent.after_seq,
                    "{} is at {}, and {} had been acknowledged before it was sent",
                    sent.body,
                    receipt.inbox_seq,
                    sent.after_seq
                );
            }
            Err(error) if error.reason == "OUTCOME_UNKNOWN" => {
                assert!(found.len() <= 1, "{} is there twice", sent.body);
            }
            Err(error) => assert!(
                found.is_empty(),
                "{} was refused ({error}) and is there",
                sent.body
            ),
        }
    }
    assert!(places.is_empty(), "messages that nobody sent: {places:?}");
}
