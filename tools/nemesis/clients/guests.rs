//! Accounts that are deleted in the middle of what is sent to them and by them, and whose names are
//! taken again.
//!
//! One after the other, beside a host that stays: the host sends to the guest through two logins, the
//! guest to the host and to itself, and a listener hears the guest's inbox. Then the guest deletes itself.

use super::talk::{Talker, delivered};
use super::{Crowd, Phase, patience};
use crate::history::{Answer, Attempt, Delivered, Guest, Micros, Outcome, Place, Sent, body_of};
use chat::client::{Client, Event, Listen, NewAccount};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Guests of a host: its inbox stays short enough to be read whole at the end.
const GUESTS: usize = 40;
/// Between two sends of a sender, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 40..160;
/// From the first sends to the deletion, in milliseconds.
const STAY_MS: std::ops::Range<u64> = 300..4_000;
/// From the deletion's acknowledgement to the last sends, in milliseconds.
const AFTER_MS: std::ops::Range<u64> = 200..1_200;
/// Between two attempts at what must succeed in the end.
const AGAIN: Duration = Duration::from_millis(100);
/// For one look into the inbox of the next account of the name.
const LOOK_WAIT: Duration = Duration::from_secs(10);

/// The one who stays.
struct Host {
    name: String,
    /// Its logins.
    hands: [Client; 2],
}

/// Receives guests until the phase is over. Returns the hosts, whose inboxes are as good as any.
pub async fn receive(crowd: Crowd) -> Vec<Talker> {
    let mut hosts = Vec::new();
    while let Some((name, first)) = crowd.account("h").await {
        hosts.push(Talker::of(&name, &first));
        let Some(second) = log_in(&crowd, &name).await else {
            break;
        };
        let host = Host {
            name,
            hands: [first, second],
        };
        for _ in 0..GUESTS {
            let Some((name, client)) = crowd.account("g").await else {
                break;
            };
            let guest = visit(&crowd, &host, name, &client).await;
            crowd.history.record().guests.push(guest);
        }
    }
    hosts
}

/// Comes, talks, and is deleted.
async fn visit(crowd: &Crowd, host: &Host, name: String, client: &Client) -> Guest {
    let (stop, stopping) = watch::channel(false);
    let [left, right] = &host.hands;
    let pair = [host.name.as_str(), name.as_str()];
    let (left, right, by, heard, deleted) = tokio::join!(
        send(crowd, left, &pair[1..], &stopping),
        send(crowd, right, &pair[1..], &stopping),
        send(crowd, client, &pair, &stopping),
        listen(crowd, client, &stopping),
        async {
            sleep(random(STAY_MS)).await;
            let deleted = delete(crowd, client, &name).await;
            sleep(random(AFTER_MS)).await;
            stop.send_replace(true);
            deleted
        },
    );
    for attempt in by
        .iter()
        .filter(|a| !a.to_guest && a.answer == Answer::NoSender)
    {
        // Before, an earlier try of the request may have been applied.
        let after = deleted.1.is_some_and(|deleted| attempt.invoked > deleted);
        crowd.history.sent(Sent {
            number: attempt.number,
            to: host.name.clone(),
            invoked: attempt.invoked,
            returned: attempt.returned,
            outcome: if after {
                Outcome::Not
            } else {
                Outcome::Unknown
            },
        });
    }
    let next_inbox = match deleted.1 {
        Some(_) => next_of_the_name(crowd, &name).await,
        None => None,
    };
    Guest {
        name,
        deletion: deleted.0,
        deleted: deleted.1,
        attempts: [left, right, by].concat(),
        heard,
        next_inbox,
    }
}

fn random(milliseconds: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rand::random_range(milliseconds))
}

async fn log_in(crowd: &Crowd, name: &str) -> Option<Client> {
    while crowd.phase() == Phase::Run {
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

/// To one of these at a time. The first is the host, if there are two.
async fn send(
    crowd: &Crowd,
    client: &Client,
    names: &[&str],
    stopping: &watch::Receiver<bool>,
) -> Vec<Attempt> {
    let by_guest = names.len() > 1;
    let mut attempts = Vec::new();
    while !*stopping.borrow() {
        let to = names[rand::random_range(0..names.len())];
        let number = crowd.number();
        let invoked = crowd.history.now();
        let result = client.send(to, body_of(number)).await;
        let returned = crowd.history.now();
        let answer = match result {
            Ok(receipt) => Answer::Accepted(Place {
                message_id: receipt.message_id,
                inbox_seq: receipt.inbox_seq,
            }),
            Err(error) if error.reason == "RECIPIENT_UNKNOWN" => Answer::NoRecipient,
            Err(error) if error.reason == "TOKEN_INVALID" && by_guest => Answer::NoSender,
            Err(error) => match crowd.outcome::<()>(&error, "send to or by a guest") {
                Outcome::Not => Answer::NotDone,
                _ => Answer::Unknown,
            },
        };
        let to_guest = by_guest.then_some(to) != Some(names[0]);
        attempts.push(Attempt {
            number,
            to_guest,
            by_guest,
            invoked,
            returned,
            answer,
        });
        let outcome = match answer {
            Answer::Accepted(place) => Some(Outcome::Ok(place)),
            Answer::NotDone | Answer::NoRecipient => Some(Outcome::Not),
            Answer::Unknown => Some(Outcome::Unknown),
            // Judged when it is known when the account went.
            Answer::NoSender => None,
        };
        if let Some(outcome) = outcome.filter(|_| !to_guest) {
            crowd.history.sent(Sent {
                number,
                to: to.to_owned(),
                invoked,
                returned,
                outcome,
            });
        }
        sleep(random(PAUSE_MS)).await;
    }
    attempts
}

/// The guest's inbox from its first message on, for as long as there is one.
async fn listen(
    crowd: &Crowd,
    client: &Client,
    stopping: &watch::Receiver<bool>,
) -> Vec<(Micros, Delivered)> {
    let mut heard: Vec<(Micros, Delivered)> = Vec::new();
    let mut stopping = stopping.clone();
    let hear = async {
        let mut last_us = 0;
        loop {
            let after = heard.last().map_or(0, |(_, (place, ..))| *place);
            let mut listener = client.listen(Listen {
                after: Some(after),
                heartbeat: Duration::from_millis(500),
            });
            while let Some(event) = listener.next().await {
                match event {
                    Ok(Event::Message(message)) => {
                        heard.push((
                            crowd.history.now(),
                            delivered(crowd, &mut last_us, &message),
                        ));
                    }
                    Ok(_) => {}
                    Err(error) if error.reason == "TOKEN_INVALID" => return,
                    Err(error) if error.reason == "UNAVAILABLE" => {}
                    Err(error) => {
                        crowd.outcome::<()>(&error, "listen");
                    }
                }
            }
            sleep(AGAIN).await;
        }
    };
    tokio::select! {
        // Fails only if the visit is over.
        _ = stopping.wait_for(|stop| *stop) => {}
        () = hear => {}
    }
    heard
}

/// Until it is done or the phase is over: when it was first asked for, and when it was known to be done.
async fn delete(crowd: &Crowd, client: &Client, password: &str) -> (Micros, Option<Micros>) {
    if rand::random_range(0..3) == 0 {
        match client.delete_account("another").await {
            Err(error) if error.reason == "BAD_CREDENTIALS" => {}
            Err(error) => {
                crowd.outcome::<()>(&error, "delete an account with a wrong password");
            }
            Ok(()) => {
                let told = format!("to delete {password} with a wrong password: done");
                crowd.history.strange(told);
            }
        }
    }
    let invoked = crowd.history.now();
    loop {
        match client.delete_account(password).await {
            Ok(()) => return (invoked, Some(crowd.history.now())),
            // Nobody else ends this login.
            Err(error) if error.reason == "TOKEN_INVALID" => {
                return (invoked, Some(crowd.history.now()));
            }
            Err(error) => {
                crowd.outcome::<()>(&error, "delete an account with the right password");
            }
        }
        if crowd.phase() != Phase::Run {
            return (invoked, None);
        }
        sleep(AGAIN).await;
    }
}

/// Creates another account under the name, and looks what it begins with. `None`: it was not to be had
/// in time.
async fn next_of_the_name(crowd: &Crowd, name: &str) -> Option<Vec<Delivered>> {
    let client = create_again(crowd, name).await?;
    let number = rand::random_range(0..crowd.addresses.len());
    let cluster = crowd.one_replica(number, LOOK_WAIT).ok()?;
    let client = Client::resume(&cluster, client.session().data()).ok()?;
    let look = super::talk::backlog(crowd, &client, 0);
    timeout(LOOK_WAIT, look).await.ok()?.ok()
}

async fn create_again(crowd: &Crowd, name: &str) -> Option<Client> {
    let mut taken_before = false;
    while crowd.phase() == Phase::Run {
        let cluster = crowd.cluster(patience()).ok()?;
        match Client::create_account(&cluster, NewAccount::named(name, "next")).await {
            Ok(client) => return Some(client),
            // By this, in an attempt whose outcome was unknown: another run of this loop takes too
            // long to be worth it.
            Err(error) if error.reason == "NAME_TAKEN" && taken_before => return None,
            Err(error) => {
                let outcome = crowd.outcome::<()>(&error, "create an account under a free name");
                taken_before |= outcome == Outcome::Unknown;
            }
        }
    }
    None
}
