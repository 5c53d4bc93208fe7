//! Accounts that send to each other, look into their inboxes, and listen.
//!
//! They come in rounds: inboxes stay short enough to be read whole at the end, and new accounts
//! are made under faults too.

use super::{Crowd, Phase, patience};
use crate::history::{Delivered, Heard, Looked, Outcome, Place, Sent, body_of, number_of};
use chat::client::{Client, ClientError, Event, Listen, Message, Options, SessionData};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Accounts of a round.
const ACCOUNTS: usize = 4;
/// Senders of an account.
const SENDERS: usize = 4;
/// A round lasts this long.
const ROUND: Duration = Duration::from_secs(120);
/// Between two looks into an inbox.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// A look that takes longer shows nothing.
const LOOK_WAIT: Duration = Duration::from_secs(10);
/// Places before the end as last known that a look reads again.
const LOOK_BACK: u64 = 20;
/// The time of a message is not off by more, however wrong the clock of one replica is: a term begins
/// at the median, and is steered by a minute at most. Twice that, for two terms.
const TIME_OFF: Duration = Duration::from_secs(120);
/// Messages that a listener hears before it moves its cursor.
const ACK_EVERY: u64 = 200;

/// An account whose round is over, or nearly.
#[derive(Clone)]
pub struct Talker {
    /// Its name.
    pub name: String,
    data: SessionData,
    /// How far its listener is.
    heard: Arc<AtomicU64>,
}

impl Talker {
    /// An account and its login. Nobody listens to it.
    pub(super) fn of(name: &str, client: &Client) -> Self {
        Self {
            name: name.to_owned(),
            data: client.session().data(),
            heard: Arc::default(),
        }
    }

    /// The last place that its listener has heard.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}

/// Talks in rounds until the phase is over. The accounts of the last round are told when their
/// senders have ended and only their listeners go on. Returns all accounts.
pub async fn talk(crowd: Crowd, drained: watch::Sender<Option<Vec<Talker>>>) -> Vec<Talker> {
    let mut all = Vec::new();
    while crowd.phase() == Phase::Run {
        let talkers = accounts(&crowd).await;
        all.extend(talkers.iter().cloned());
        round(&crowd, &talkers, &drained).await;
    }
    all
}

async fn accounts(crowd: &Crowd) -> Vec<Talker> {
    let mut talkers = Vec::new();
    while talkers.len() < ACCOUNTS {
        let Some((name, client)) = crowd.account("t").await else {
            break;
        };
        talkers.push(Talker::of(&name, &client));
    }
    talkers
}

async fn round(crowd: &Crowd, talkers: &[Talker], drained: &watch::Sender<Option<Vec<Talker>>>) {
    let names: Arc<Vec<String>> = Arc::new(talkers.iter().map(|t| t.name.clone()).collect());
    let (stop, stopping) = watch::channel(false);
    let (end, ending) = watch::channel(false);
    let mut senders = JoinSet::new();
    let mut listeners = JoinSet::new();
    for talker in talkers {
        for _ in 0..SENDERS {
            let task = send(
                crowd.clone(),
                talker.name.clone(),
                names.clone(),
                stopping.clone(),
            );
            senders.spawn(task);
        }
        senders.spawn(look(crowd.clone(), talker.clone(), stopping.clone()));
        listeners.spawn(listen(crowd.clone(), talker.clone(), ending.clone()));
    }
    tokio::select! {
        () = sleep(ROUND) => {}
        () = crowd.reached(Phase::Drain) => {}
    }
    // Senders first: listeners of the last round hear everything.
    stop.send_replace(true);
    while senders.join_next().await.is_some() {}
    if crowd.phase() != Phase::Run {
        drained.send_replace(Some(talkers.to_vec()));
        crowd.reached(Phase::End).await;
    }
    end.send_replace(true);
    while listeners.join_next().await.is_some() {}
}

/// A login of one's own, so that each task is a client of its own.
async fn log_in(crowd: &Crowd, name: &str, stopping: &watch::Receiver<bool>) -> Option<Client> {
    while !*stopping.borrow() {
        let cluster = crowd.cluster(patience()).ok()?;
        match Client::login(&cluster, name, name, "").await {
            Ok(client) => return Some(client),
            Err(error) => {
                crowd.outcome::<()>(&error, "log in with the right password");
            }
        }
    }
    None
}

async fn send(
    crowd: Crowd,
    name: String,
    names: Arc<Vec<String>>,
    stopping: watch::Receiver<bool>,
) {
    let Some(client) = log_in(&crowd, &name, &stopping).await else {
        return;
    };
    let pause = Duration::from_secs((ACCOUNTS * SENDERS) as u64) / crowd.rate.max(1) as u32;
    while !*stopping.borrow() {
        let next = Instant::now() + pause;
        let number = crowd.number();
        let to = names[rand::random_range(0..names.len())].clone();
        let invoked = crowd.history.now();
        let result = client.send(&to, body_of(number)).await;
        let returned = crowd.history.now();
        let outcome = match result {
            Ok(receipt) => Outcome::Ok(Place {
                message_id: receipt.message_id,
                inbox_seq: receipt.inbox_seq,
            }),
            Err(error) => crowd.outcome(&error, "send to an account that is there"),
        };
        crowd.history.sent(Sent {
            number,
            to,
            invoked,
            returned,
            outcome,
        });
        sleep_until(next).await;
    }
}

/// Looks into the inbox again and again, each time through a random replica.
async fn look(crowd: Crowd, talker: Talker, stopping: watch::Receiver<bool>) {
    let mut known = 0_u64;
    while !*stopping.borrow() {
        sleep(LOOK_EVERY).await;
        let number = rand::random_range(0..crowd.addresses.len());
        let Ok(cluster) = crowd.one_replica(number, LOOK_WAIT) else {
            return;
        };
        let Ok(client) = Client::resume(&cluster, talker.data.clone()) else {
            return;
        };
        let after = known.saturating_sub(LOOK_BACK);
        let invoked = crowd.history.now();
        let Ok(Ok(messages)) = timeout(LOOK_WAIT, backlog(&crowd, &client, after)).await else {
            continue;
        };
        known = messages.last().map_or(known, |last| last.0);
        crowd.history.record().looked.push(Looked {
            inbox: talker.name.clone(),
            invoked,
            after,
            messages,
        });
    }
}

/// All messages after a place that are there when the stream begins.
pub(super) async fn backlog(
    crowd: &Crowd,
    client: &Client,
    after: u64,
) -> Result<Vec<Delivered>, ClientError> {
    let (mut messages, mut last_us) = (Vec::new(), 0);
    let mut listener = client.listen(Listen {
        after: Some(after),
        heartbeat: Duration::from_millis(500),
    });
    while let Some(event) = listener.next().await {
        match event {
            Ok(Event::Message(message)) => messages.push(delivered(crowd, &mut last_us, &message)),
            Ok(Event::EndOfBacklog) => break,
            Ok(_) => {}
            Err(error) => {
                told(crowd, &error, "look into an inbox");
                return Err(error);
            }
        }
    }
    Ok(messages)
}

/// Listens from the first message on, across everything, until it is told to end.
async fn listen(crowd: Crowd, talker: Talker, mut ending: watch::Receiver<bool>) {
    let mut heard = Heard {
        inbox: talker.name.clone(),
        ..Heard::default()
    };
    tokio::select! {
        // Fails only if the round is over.
        _ = ending.wait_for(|end| *end) => {}
        () = hear(&crowd, &talker, &mut heard) => {}
    }
    crowd.history.record().heard.push(heard);
}

/// Never ends by itself, but for a defect of this tool.
async fn hear(crowd: &Crowd, talker: &Talker, heard: &mut Heard) {
    let Ok(cluster) = crowd.cluster(Options::default().deadline) else {
        return;
    };
    let Ok(client) = Client::resume(&cluster, talker.data.clone()) else {
        return;
    };
    let mut last_us = 0;
    loop {
        let after = heard.messages.last().map_or(0, |(_, last)| last.0);
        let mut listener = client.listen(Listen {
            after: Some(after),
            heartbeat: Duration::from_millis(500),
        });
        while let Some(event) = listener.next().await {
            match event {
                Ok(Event::Message(message)) => {
                    let now = crowd.history.now();
                    heard
                        .messages
                        .push((now, delivered(crowd, &mut last_us, &message)));
                    talker.heard.store(message.inbox_seq, Ordering::Relaxed);
                    if message.inbox_seq.is_multiple_of(ACK_EVERY) {
                        // Sequences of its own: other tasks use the same login to look only.
                        if let Err(error) = client.ack(message.inbox_seq).await {
                            crowd.outcome::<()>(&error, "acknowledge messages");
                        }
                    }
                }
                Ok(Event::Reconnected) => heard.reconnects += 1,
                Ok(_) => {}
                Err(error) => told(crowd, &error, "listen"),
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A listener's error: no replica in time is no wonder, anything else is.
fn told(crowd: &Crowd, error: &ClientError, doing: &str) {
    if error.reason != "UNAVAILABLE" {
        crowd.outcome::<()>(error, doing);
    }
}

pub(super) fn delivered(crowd: &Crowd, last_us: &mut u64, message: &Message) -> Delivered {
    let (time_us, place) = (message.time_us, message.inbox_seq);
    if time_us < *last_us {
        crowd.history.strange(format!(
            "the message at place {place} is of {time_us}, and one before it of {last_us}"
        ));
    }
    if !crowd.history.is_of_this_run(time_us, TIME_OFF) {
        let off_s = TIME_OFF.as_secs();
        crowd.history.strange(format!(
            "the message at place {place} is of {time_us}: more than {off_s} s off"
        ));
    }
    *last_us = time_us;
    let number = number_of(&message.body).unwrap_or_else(|| {
        crowd.history.strange(format!(
            "the message at place {} has a body that nobody sent",
            message.inbox_seq
        ));
        u64::MAX
    });
    (message.inbox_seq, message.message_id, number)
}

/// The whole inbox as one replica shows it.
pub async fn read_inbox(
    crowd: &Crowd,
    talker: &Talker,
    replica: usize,
    deadline: Duration,
) -> Result<Vec<Delivered>, ClientError> {
    let cluster = crowd.one_replica(replica, deadline)?;
    let client = Client::resume(&cluster, talker.data.clone())?;
    backlog(crowd, &client, 0).await
}
