//! Two accounts that talk at full speed, and a record of everything that was promised to them.

use anyhow::{Context, Result, bail};
use chat::client::{Client, Cluster, Event, Listen, Options, Receipt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Sends that one client has under way at once.
const IN_FLIGHT: usize = 16;
/// Messages that a listener hears before it moves its cursor.
const ACK_EVERY: u64 = 256;

/// An acknowledged message.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// Who sent it.
    pub from: usize,
    /// What it says: unique.
    pub body: String,
    /// Its place in the recipient's inbox, as the receipt says.
    pub inbox_seq: u64,
    /// The highest place that this sender had been acknowledged BEFORE it sent this one: this one
    /// must come later.
    pub after_seq: u64,
}

/// A delivered message: (whose inbox, place, body).
pub type Delivered = (usize, u64, String);

/// What the talking came to.
#[derive(Clone, Copy, Debug)]
pub struct Spoken {
    /// From the first send to the last acknowledgement.
    pub took: Duration,
    /// Sends that needed more than one attempt.
    pub retried: u64,
    /// From the kill to the next acknowledgement that a survivor gave to an attempt which began
    /// after it.
    pub resumed: Option<Duration>,
}

/// The conversation.
pub struct Talk {
    shared: Arc<Shared>,
    senders: JoinSet<Result<()>>,
    listeners: Vec<JoinHandle<Result<()>>>,
    started: Instant,
}

struct Shared {
    acknowledged: watch::Sender<u64>,
    /// The last quarter of the messages waits for this, so that the kill is in the middle however
    /// fast the rest goes.
    killed: watch::Sender<bool>,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    acknowledged: Vec<Acknowledged>,
    delivered: Vec<Delivered>,
    retried: u64,
    kill: Option<Kill>,
    resumed: Option<Duration>,
}

struct Kill {
    victims: Vec<u16>,
    /// Before the first signal: what is measured begins here.
    begins: Instant,
    /// The victims were gone. An attempt that began earlier may be one that they had committed.
    done: Option<Instant>,
}

impl Kill {
    fn is_survived_by(&self, receipt: &Receipt) -> bool {
        // A reply that a victim sent before its death may be read after it.
        receipt.replica.is_none_or(|id| !self.victims.contains(&id))
            && self.done.is_some_and(|done| receipt.attempt_began >= done)
    }
}

impl Talk {
    /// Each of the two sends half of the messages to the other, and listens.
    pub fn start(clients: &[Client], messages: u64) -> Self {
        let shared = Arc::new(Shared {
            acknowledged: watch::Sender::new(0),
            killed: watch::Sender::new(false),
            record: Mutex::default(),
        });
        let each = messages.div_ceil(2);
        let mut senders = JoinSet::new();
        let mut listeners = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            let other = clients[1 - number].session().username().to_owned();
            let next = Arc::new(AtomicU64::new(0));
            let newest = Arc::new(AtomicU64::new(0));
            for _ in 0..IN_FLIGHT {
                senders.spawn(send_some(Sender {
                    number,
                    client: client.clone(),
                    other: other.clone(),
                    each,
                    next: next.clone(),
                    newest: newest.clone(),
                    shared: shared.clone(),
                }));
            }
            listeners.push(tokio::spawn(hear(
                number,
                client.clone(),
                each,
                shared.clone(),
            )));
        }
        Self {
            shared,
            senders,
            listeners,
            started: Instant::now(),
        }
    }

    /// How many messages are acknowledged so far.
    pub fn acknowledged(&self) -> watch::Receiver<u64> {
        self.shared.acknowledged.subscribe()
    }

    /// Waits until so many are acknowledged.
    pub async fn until(&mut self, count: u64) -> Result<()> {
        let mut acknowledged = self.acknowledged();
        let reached = acknowledged.wait_for(|now| *now >= count);
        tokio::pin!(reached);
        loop {
            tokio::select! {
                outcome = &mut reached => {
                    outcome.context("nobody counts any more")?;
                    return Ok(());
                }
                // A sender that has sent its share ends well; one that gave up ends the demo.
                Some(ended) = self.senders.join_next() => ended.context("a sender panicked")??,
            }
        }
    }

    /// These are about to be killed.
    pub fn killing(&self, victims: &[u16]) {
        self.shared.record().kill = Some(Kill {
            victims: victims.to_vec(),
            begins: Instant::now(),
            done: None,
        });
    }

    /// They are gone: the next acknowledgement of an attempt that begins now ends the gap.
    pub fn killed(&self) {
        if let Some(kill) = &mut self.shared.record().kill {
            kill.done = Some(Instant::now());
        }
        self.shared.killed.send_replace(true);
    }

    /// Waits for the last acknowledgement.
    pub async fn finish(&mut self) -> Result<Spoken> {
        while let Some(ended) = self.senders.join_next().await {
            ended.context("a sender panicked")??;
        }
        let record = self.shared.record();
        Ok(Spoken {
            took: self.started.elapsed(),
            retried: record.retried,
            resumed: record.resumed,
        })
    }

    /// What the listeners heard, once they have heard it all or the patience is at its end.
    pub async fn delivered(&mut self, patience: Duration) -> Vec<Delivered> {
        let deadline = tokio::time::Instant::now() + patience;
        for listener in &mut self.listeners {
            match tokio::time::timeout_at(deadline, &mut *listener).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => eprintln!("a listener failed: {error:#}"),
                Ok(Err(error)) => eprintln!("a listener failed: {error}"),
                Err(_) => eprintln!("a listener did not hear everything in {patience:?}"),
            }
            listener.abort();
        }
        self.shared.record().delivered.clone()
    }

    /// Both inboxes from their beginning, from the replica at this address.
    pub async fn read_again(&self, clients: &[Client], address: &str) -> Result<Vec<Delivered>> {
        let mut all = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            // The same login on a cluster of its own: only this replica is asked.
            let options = Options {
                follow_primary: false,
                ..client.cluster().options()
            };
            let cluster = Cluster::connect_with([address], options)?;
            let reader = Client::resume(&cluster, client.session().data())?;
            let mut inbox = reader.listen(Listen {
                after: Some(0),
                ..Listen::default()
            });
            loop {
                match inbox.next().await.context("the inbox ended")?? {
                    Event::Message(message) => {
                        let body = String::from_utf8_lossy(&message.body).into_owned();
                        all.push((number, message.inbox_seq, body));
                    }
                    Event::EndOfBacklog => break,
                    _ => {}
                }
            }
        }
        Ok(all)
    }

    /// Everything that was promised.
    pub fn acknowledgements(&self) -> Vec<Acknowledged> {
        self.shared.record().acknowledged.clone()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.listeners.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_receipt(&self, message: Acknowledged, receipt: Receipt) {
        let mut record = self.record();
        record.acknowledged.push(message);
        record.retried += u64::from(receipt.attempts > 1);
        if record.resumed.is_none()
            && let Some(kill) = &record.kill
            && kill.is_survived_by(&receipt)
        {
            record.resumed = Some(kill.begins.elapsed());
        }
        drop(record);
        self.acknowledged.send_modify(|count| *count += 1);
    }
}

struct Sender {
    number: usize,
    client: Client,
    other: String,
    each: u64,
    next: Arc<AtomicU64>,
    /// The highest place acknowledged to this account so far.
    newest: Arc<AtomicU64>,
    shared: Arc<Shared>,
}

async fn send_some(sender: Sender) -> Result<()> {
    loop {
        let number = sender.next.fetch_add(1, Ordering::Relaxed);
        if number >= sender.each {
            return Ok(());
        }
        if number >= sender.each / 4 * 3 {
            let mut killed = sender.shared.killed.subscribe();
            killed.wait_for(|killed| *killed).await?;
        }
        let body = format!("{}-{number}", sender.client.session().username());
        let after_seq = sender.newest.load(Ordering::SeqCst);
        let receipt = sender
            .client
            .send(&sender.other, body.clone())
            .await
            .with_context(|| format!("{body} was not acknowledged"))?;
        sender.newest.fetch_max(receipt.inbox_seq, Ordering::SeqCst);
        let message = Acknowledged {
            from: sender.number,
            body,
            inbox_seq: receipt.inbox_seq,
            after_seq,
        };
        sender.shared.on_receipt(message, receipt);
    }
}

async fn hear(number: usize, client: Client, expected: u64, shared: Arc<Shared>) -> Result<()> {
    let mut inbox = client.listen(Listen::default());
    let mut heard = 0;
    while heard < expected {
        let Some(message) = inbox.next_message().await else {
            bail!("the inbox ended after {heard} messages");
        };
        let message = message?;
        let body = String::from_utf8_lossy(&message.body).into_owned();
        shared
            .record()
            .delivered
            .push((number, message.inbox_seq, body));
        heard += 1;
        if heard % ACK_EVERY == 0 || heard == expected {
            client.ack(message.inbox_seq).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_survivor_was_asked_after_the_kill_ends_the_gap() {
        let begins = Instant::now();
        let at = |ms| begins + Duration::from_millis(ms);
        let mut kill = Kill {
            victims: vec![1],
            begins,
            done: None,
        };
        let receipt = |replica, attempt_began| Receipt {
            message_id: 1,
            inbox_seq: 1,
            time_us: 1,
            attempts: 1,
            replica: Some(replica),
            attempt_began,
        };
        assert!(
            !kill.is_survived_by(&receipt(2, at(5))),
            "nobody is dead yet"
        );
        kill.done = Some(at(5));
        let committed_before = receipt(2, at(4));
        assert!(!kill.is_survived_by(&committed_before));
        assert!(!kill.is_survived_by(&receipt(1, at(6))), "a victim's");
        assert!(kill.is_survived_by(&receipt(2, at(6))));
    }
}
