//! Everything that waits for the servers: a task for each, and none of them the interface's.
//!
//! # Order
//!
//! Messages are sent one after the other, so that they keep their order. If no replica takes one of
//! them, those behind it are dropped: sent alone, they would overtake it. The model, once it knows,
//! sends all of them again in a later round; what it sent before it knew is of an earlier one.
//!
//! # Never
//!
//! The one who takes commands waits for nothing but the next command. It is told by the thread
//! that writes files, for which the interface may be waiting.

use super::app::{Asked, Credentials, Event, Link, Refused, Unsent};
use super::form::Field;
use super::history::Request;
use chat::client::{
    Class, Client, ClientError, Cluster, Event as Heard, Listen, NewAccount, Protocol, SessionData,
};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Messages in one event at most: the screen is drawn in between.
const BUNCH_MAX: usize = 512;
/// Messages that wait to be sent; the model holds back sooner.
const SENDS_MAX: usize = 1_024;
/// A replica that has not answered for this long is worth a word.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at whether another replica was chosen.
const LOOK: Duration = Duration::from_millis(250);
/// Between two questions for the round-trip time.
const ASK: Duration = Duration::from_secs(2);
/// After a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// An event, and the login that it is about; 0: none.
pub type Tagged = (u64, Event);

/// What is wanted.
pub enum Command {
    /// Log in.
    SignIn(Credentials),
    /// Create an account.
    SignUp(Credentials),
    /// This login from now on.
    Use(u64, SessionData),
    /// None.
    Close,
    /// The inbox.
    Listen(Option<u64>),
    /// A message.
    Send(Job),
    /// Everything up to here was received.
    Ack(u64, Request),
    /// How far these have received what was sent to them.
    ListDelivered(Vec<String>),
    /// Names.
    Names(Asked),
    /// The end of the login.
    Logout(Request),
}

/// A message to send.
pub struct Job {
    /// Names it.
    pub key: u64,
    /// To whom.
    pub peer: String,
    /// What.
    pub body: String,
    /// Under which id.
    pub request: Request,
    /// What the model knew when it sent it.
    pub round: u64,
}

/// Microseconds since the Unix epoch.
pub fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_micros() as u64)
}

/// Takes commands until there are no more.
pub async fn run(
    cluster: Cluster,
    mut commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Tagged>,
) {
    let mut login: Option<Login> = None;
    while let Some(command) = commands.recv().await {
        match (command, &mut login) {
            (Command::SignIn(credentials), _) => {
                tokio::spawn(sign_in(cluster.clone(), credentials, false, events.clone()));
            }
            (Command::SignUp(credentials), _) => {
                tokio::spawn(sign_in(cluster.clone(), credentials, true, events.clone()));
            }
            (Command::Use(epoch, session), _) => {
                let told = Told {
                    epoch,
                    events: events.clone(),
                };
                login = Some(Login::start(cluster.clone(), session, told));
            }
            (Command::Close, _) => login = None,
            (_, None) => {}
            (command, Some(login)) => login.on_command(command),
        }
    }
}

/// Whom to tell what becomes of a login.
#[derive(Clone)]
struct Told {
    epoch: u64,
    events: mpsc::Sender<Tagged>,
}

impl Told {
    async fn tell(&self, event: Event) {
        // Nobody listens any more when the client ends.
        let _ = self.events.send((self.epoch, event)).await;
    }
}

/// What runs for one login; all of it ends when this is dropped.
struct Login {
    caller: Caller,
    told: Told,
    tasks: JoinSet<()>,
    listener: Option<tokio::task::AbortHandle>,
    sends: mpsc::Sender<Job>,
    acks: watch::Sender<Option<(u64, Request)>>,
}

impl Login {
    fn start(cluster: Cluster, session: SessionData, told: Told) -> Self {
        let caller = Caller { cluster, session };
        let (sends, jobs) = mpsc::channel(SENDS_MAX);
        let (acks, wanted) = watch::channel(None);
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_asking(caller.clone(), told.clone()));
        tasks.spawn(send_all(caller.clone(), jobs, told.clone()));
        tasks.spawn(ack_all(caller.clone(), wanted));
        Self {
            caller,
            told,
            tasks,
            listener: None,
            sends,
            acks,
        }
    }

    fn on_command(&mut self, command: Command) {
        // What has ended takes no memory.
        while self.tasks.try_join_next().is_some() {}
        let (caller, told) = (self.caller.clone(), self.told.clone());
        match command {
            Command::Listen(after) => {
                if let Some(old) = self.listener.take() {
                    old.abort();
                }
                self.listener = Some(self.tasks.spawn(listen(caller, after, told)));
            }
            Command::Send(job) => {
                if let Err(full) = self.sends.try_send(job) {
                    let key = full.into_inner().key;
                    let why = Unsent::Refused("too many messages are waiting".into());
                    self.tasks
                        .spawn(async move { told.tell(Event::Sent(key, Err(why))).await });
                }
            }
            Command::Ack(up_to, request) => {
                self.acks.send_replace(Some((up_to, request)));
            }
            Command::ListDelivered(peers) => {
                self.tasks.spawn(list_delivered(caller, peers, told));
            }
            Command::Names(asked) => {
                self.tasks.spawn(names(caller, asked, told));
            }
            Command::Logout(request) => {
                self.tasks.spawn(async move {
                    let outcome = match caller.under(request) {
                        Ok(client) => client.logout().await,
                        Err(error) => Err(error),
                    };
                    let outcome = match outcome {
                        // It had ended already.
                        Err(error) if error.class() == Class::NotLoggedIn => Ok(()),
                        outcome => outcome.map_err(|error| in_words(&error)),
                    };
                    told.tell(Event::LoggedOut(outcome)).await;
                });
            }
            Command::SignIn(_) | Command::SignUp(_) | Command::Use(..) | Command::Close => {}
        }
    }
}

/// A login, and the servers.
#[derive(Clone)]
struct Caller {
    cluster: Cluster,
    session: SessionData,
}

impl Caller {
    /// For reads.
    fn reader(&self) -> Result<Client, ClientError> {
        Client::resume(&self.cluster, self.session.clone())
    }

    /// For one write, under this id. A login that came later may repeat what an earlier one sent.
    fn under(&self, request: Request) -> Result<Client, ClientError> {
        let session = SessionData {
            client_id: request.client,
            next_sequence: request.sequence,
            ..self.session.clone()
        };
        Client::resume(&self.cluster, session)
    }
}

async fn sign_in(
    cluster: Cluster,
    credentials: Credentials,
    sign_up: bool,
    events: mpsc::Sender<Tagged>,
) {
    let Credentials {
        name,
        password,
        full_name,
        device,
    } = credentials;
    let outcome = if sign_up {
        let account = NewAccount {
            username: name,
            password,
            full_name,
            device,
        };
        Client::create_account(&cluster, account).await
    } else {
        Client::login(&cluster, &name, &password, &device).await
    };
    let event = match outcome {
        Ok(client) => Event::SignedIn(client.session().data()),
        Err(error) => Event::SignInFailed(refused(&cluster, &error)),
    };
    let _ = events.send((0, event)).await;
}

/// Asks whose login this is, again and again: that tells whether the servers are there, how far
/// away, and keeps the login from expiring.
async fn keep_asking(caller: Caller, told: Told) {
    let Ok(client) = caller.reader() else {
        return told
            .tell(Event::LoginEnded("the stored login is not one".into()))
            .await;
    };
    let mut known = false;
    loop {
        let before = caller.cluster.stats();
        let asked = Instant::now();
        let answer = client.who_am_i();
        tokio::pin!(answer);
        let in_time = tokio::time::timeout(PATIENCE, &mut answer).await;
        let answer = if let Ok(answer) = in_time {
            answer
        } else {
            let since_us = now_us().saturating_sub(PATIENCE.as_micros() as u64);
            told.tell(Event::Link(Link::Down { since_us })).await;
            answer.await
        };
        let after = caller.cluster.stats();
        match answer {
            Ok((account, _)) => {
                let first_try = before.retries == after.retries;
                let link = Link::Up {
                    replica: caller.cluster.current(),
                    rtt_us: first_try.then(|| asked.elapsed().as_micros() as u64),
                };
                told.tell(Event::Link(link)).await;
                if !std::mem::replace(&mut known, true) {
                    told.tell(Event::Account(account)).await;
                }
                if !first_try {
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            }
            Err(error) if error.class() == Class::NotLoggedIn => {
                return told.tell(Event::LoginEnded(in_words(&error))).await;
            }
            Err(error) if error.reason == "WRONG_PROTOCOL" => {
                told.tell(Event::Link(Link::Wrong(in_words(&error)))).await;
                tokio::time::sleep(ASK).await;
                continue;
            }
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        }
        let now = Instant::now();
        while now.elapsed() < ASK && caller.cluster.stats().failovers == after.failovers {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// One after the other.
async fn send_all(caller: Caller, mut jobs: mpsc::Receiver<Job>, told: Told) {
    let mut round = 0;
    while let Some(job) = jobs.recv().await {
        // It would overtake one that was not taken.
        if job.round < round {
            continue;
        }
        let outcome = match caller.under(job.request) {
            Ok(client) => client.send(&job.peer, job.body).await,
            Err(error) => Err(error),
        };
        let error = match outcome {
            Ok(receipt) => {
                told.tell(Event::Sent(job.key, Ok(receipt))).await;
                continue;
            }
            Err(error) => error,
        };
        let why = in_words(&error);
        let unsent = if is_worth_waiting(&error) {
            round = job.round + 1;
            Unsent::Later(why)
        } else {
            Unsent::Refused(why)
        };
        told.tell(Event::Sent(job.key, Err(unsent))).await;
    }
}

/// Whether the same request may be taken later, or under the next login of the account.
fn is_worth_waiting(error: &ClientError) -> bool {
    // The servers have forgotten what the request's client id did before.
    error.class() != Class::Refused && error.reason != "CLIENT_UNKNOWN"
}

/// Acknowledges the newest; what was overtaken meanwhile is part of it.
async fn ack_all(caller: Caller, mut wanted: watch::Receiver<Option<(u64, Request)>>) {
    while wanted.changed().await.is_ok() {
        let Some((up_to, request)) = *wanted.borrow_and_update() else {
            continue;
        };
        let Ok(client) = caller.under(request) else {
            return;
        };
        while let Err(error) = client.ack(up_to).await {
            if error.class() != Class::Unreachable || wanted.has_changed().unwrap_or(true) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn listen(caller: Caller, after: Option<u64>, told: Told) {
    let Ok(client) = caller.reader() else { return };
    let mut after = after;
    loop {
        let mut inbox = client.listen(Listen {
            after,
            ..Listen::default()
        });
        let mut bunch = Vec::new();
        let error = loop {
            // What is here already is told together.
            let next = if bunch.is_empty() {
                inbox.next().await
            } else {
                match tokio::time::timeout(Duration::ZERO, inbox.next()).await {
                    Ok(next) if bunch.len() < BUNCH_MAX => next,
                    outcome => {
                        told.tell(Event::Inbox(std::mem::take(&mut bunch))).await;
                        match outcome {
                            Ok(next) => next,
                            Err(_) => continue,
                        }
                    }
                }
            };
            let event = match next {
                Some(Ok(Heard::Message(message))) => {
                    after = Some(message.inbox_seq);
                    bunch.push(message);
                    continue;
                }
                Some(Ok(Heard::Heartbeat { .. })) => continue,
                Some(Ok(Heard::Delivered {
                    peer,
                    up_to_message_id,
                })) => Event::Delivered(peer, up_to_message_id),
                Some(Ok(Heard::Removed { up_to })) => {
                    after = Some(up_to);
                    Event::Removed(up_to)
                }
                Some(Ok(Heard::EndOfBacklog)) => Event::EndOfBacklog,
                Some(Ok(Heard::Reconnected)) => Event::Reconnected,
                Some(Err(error)) => break Some(error),
                None => break None,
            };
            if !bunch.is_empty() {
                told.tell(Event::Inbox(std::mem::take(&mut bunch))).await;
            }
            told.tell(event).await;
        };
        if !bunch.is_empty() {
            told.tell(Event::Inbox(bunch)).await;
        }
        match error {
            Some(error) if error.class() == Class::NotLoggedIn => {
                return told.tell(Event::LoginEnded(in_words(&error))).await;
            }
            Some(error) if matches!(error.reason.as_str(), "GAP" | "CURSOR_BEYOND_END") => {
                return told.tell(Event::InboxTrimmed).await;
            }
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// What fails is asked again when the inbox goes on: that is what made it fail.
async fn list_delivered(caller: Caller, peers: Vec<String>, told: Told) {
    let Ok(client) = caller.reader() else { return };
    let Ok(marks) = client.list_delivered(&peers).await else {
        return;
    };
    for (peer, id) in marks {
        told.tell(Event::Delivered(peer, id)).await;
    }
}

async fn names(caller: Caller, asked: Asked, told: Told) {
    let page = match caller.reader() {
        Ok(client) => {
            client
                .list_accounts(&asked.pattern, 0, &asked.page_token)
                .await
        }
        Err(error) => Err(error),
    };
    let page = page.map_err(|error| in_words(&error));
    told.tell(Event::Names(asked, page)).await;
}

/// Where the servers are, for people.
pub fn described(cluster: &Cluster) -> String {
    let protocol = match cluster.options().protocol {
        Protocol::Grpc => "gRPC",
        Protocol::Wire => "the wire protocol",
    };
    format!("{} over {protocol}", cluster.addresses().join(", "))
}

/// Why nobody was logged in, and what to change.
fn refused(cluster: &Cluster, error: &ClientError) -> Refused {
    let about = match error.reason.as_str() {
        "NAME_TAKEN" | "INVALID_NAME" => Some(Field::Name),
        "INVALID_PASSWORD" | "BAD_CREDENTIALS" => Some(Field::Password),
        "FULL_NAME_TOO_LONG" => Some(Field::FullName),
        "DEVICE_ID_INVALID" | "TOO_MANY_DEVICES" => Some(Field::Device),
        _ => None,
    };
    let why = match error.class() {
        Class::Unreachable => format!(
            "no replica could do it in time, at {}: is chat-server running there?",
            described(cluster)
        ),
        Class::Refused | Class::NotLoggedIn => in_words(error),
    };
    Refused { why, about }
}

/// For people.
fn in_words(error: &ClientError) -> String {
    match error.reason.as_str() {
        "RECIPIENT_UNKNOWN" => "nobody has this name".into(),
        "BAD_CREDENTIALS" => "no account has this name and password".into(),
        "NAME_TAKEN" => "somebody has this name already".into(),
        "NOT_APPLIED" => "no replica could take it in time; it was certainly not done".into(),
        "OUTCOME_UNKNOWN" => {
            "no replica answered in time; perhaps it was done, and trying again is safe".into()
        }
        "TOKEN_INVALID" => "the login has ended: please log in again".into(),
        "CLIENT_UNKNOWN" => {
            "sent under a login that the servers have forgotten: nobody can tell whether it was"
                .into()
        }
        "REQUEST_TOO_OLD" => "too long ago: nobody can tell any more whether it was sent".into(),
        "WRONG_PROTOCOL" => crate::with_hint(error),
        _ => error.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chat::client::Options;

    /// Nobody listens there.
    fn nowhere() -> Caller {
        let options = Options {
            deadline: Duration::from_millis(50),
            ..Options::default()
        };
        let session = SessionData {
            username: "alice".into(),
            user_id: 4,
            device: "default".into(),
            token: "secret".into(),
            client_id: [7; 16],
            next_sequence: 2,
        };
        Caller {
            cluster: Cluster::connect_with(["127.0.0.1:1"], options).unwrap(),
            session,
        }
    }

    #[tokio::test]
    async fn what_was_sent_before_the_model_knew_that_one_waits_does_not_overtake_it() {
        let (told, mut events) = mpsc::channel(8);
        let (sender, jobs) = mpsc::channel(8);
        let job = |key, round| Job {
            key,
            peer: "bob".into(),
            body: "hello".into(),
            request: Request {
                client: [7; 16],
                sequence: key,
            },
            round,
        };
        for (key, round) in [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1)] {
            sender.send(job(key, round)).await.unwrap();
        }
        drop(sender);
        let told = Told {
            epoch: 1,
            events: told,
        };
        send_all(nowhere(), jobs, told).await;
        let mut tried = Vec::new();
        while let Some((_, event)) = events.recv().await {
            let Event::Sent(key, Err(Unsent::Later(_))) = event else {
                panic!("{event:?}");
            };
            tried.push(key);
        }
        assert_eq!(tried, [1, 1], "the second and third of each round wait");
    }
}
