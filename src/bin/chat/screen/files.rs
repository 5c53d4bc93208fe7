//! The thread that reads and writes files, and lets through what may only happen after that.
//!
//! # Duties of order
//!
//! A message goes to the network AFTER its request id is on disk; an acknowledgement AFTER what it
//! acknowledges is. So both pass through here, and a batch of effects is one write and one fsync.

use super::app::{Effect, Event, Profiled, Unsent};
use super::history::{History, Owner, Record, Request};
use super::network::{Command, Job, Tagged};
use crate::Failure;
use crate::profile::Profile;
use chat::client::SessionData;
use std::collections::BTreeMap;
use std::io::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use tokio::sync::mpsc::Sender;

/// Sequences taken from the profile at once: each time costs an fsync of its own.
const SEQUENCES_AT_ONCE: u64 = 64;

/// Effects of one turn of the interface, and the login that they are about.
pub type Batch = (u64, Vec<Effect>);

/// The state of the thread.
pub struct Files {
    /// For what is read.
    pub events: Sender<Tagged>,
    /// For what may happen then.
    pub network: Sender<Command>,
    /// Batches that wait.
    pub waiting: Arc<AtomicUsize>,
    /// The login's profile.
    pub profile: Profile,
    /// Where histories are; none: nobody knows.
    pub directory: Option<PathBuf>,
    epoch: u64,
    open: Option<Open>,
}

/// A login in use.
struct Open {
    history: Option<History>,
    owner: Option<Owner>,
    requests: BTreeMap<u64, Request>,
    /// Reserved, and not used yet.
    spare: Option<(Request, u64)>,
}

impl Files {
    /// Before anything is known.
    pub fn new(
        events: Sender<Tagged>,
        network: Sender<Command>,
        waiting: Arc<AtomicUsize>,
        profile: Profile,
        directory: Option<PathBuf>,
    ) -> Self {
        Self {
            events,
            network,
            waiting,
            profile,
            directory,
            epoch: 0,
            open: None,
        }
    }

    /// Until there are no more batches.
    pub fn run(mut self, batches: &Receiver<Batch>) {
        while let Ok((epoch, batch)) = batches.recv() {
            self.epoch = epoch;
            self.on_batch(batch);
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn on_batch(&mut self, batch: Vec<Effect>) {
        let mut records = Vec::new();
        let mut then = Vec::new();
        for effect in batch {
            match effect {
                Effect::Keep(record) => {
                    if let (Record::Discarded { key } | Record::Accepted { key, .. }, Some(open)) =
                        (&record, &mut self.open)
                    {
                        open.requests.remove(key);
                    }
                    records.push(record);
                }
                Effect::Send {
                    key,
                    peer,
                    body,
                    time_us,
                    again,
                    round,
                } => {
                    let request = self.request_for(key, again);
                    let is_new = !again || request.as_ref().is_ok_and(|(_, new)| *new);
                    let id = request.as_ref().ok().map(|(request, _)| *request);
                    if is_new {
                        let (peer, body) = (peer.clone(), body.clone());
                        records.push(Record::Out {
                            key,
                            peer,
                            time_us,
                            body,
                            request: id,
                        });
                    }
                    match request {
                        Ok((request, _)) => {
                            then.push(Command::Send(Job {
                                key,
                                peer,
                                body,
                                request,
                                round,
                            }));
                        }
                        Err(failure) => {
                            let unsent = Unsent::Refused(words(&failure));
                            self.tell(Event::Sent(key, Err(unsent)));
                        }
                    }
                }
                Effect::Ack(up_to) => match self.reserve() {
                    Ok(request) => then.push(Command::Ack(up_to, request)),
                    Err(failure) => self.tell(Event::Trouble(words(&failure))),
                },
                other => {
                    self.write(&mut records, &mut then);
                    self.on_effect(other);
                }
            }
        }
        self.write(&mut records, &mut then);
    }

    fn on_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Open { session, new } => self.open(session, new),
            Effect::Identify(owner) => self.identify(owner),
            Effect::Listen(after) => self.pass(Command::Listen(after)),
            Effect::ListDelivered(peers) => self.pass(Command::ListDelivered(peers)),
            Effect::Names(asked) => self.pass(Command::Names(asked)),
            Effect::SignIn(credentials) => self.pass(Command::SignIn(credentials)),
            Effect::SignUp(credentials) => self.pass(Command::SignUp(credentials)),
            Effect::Logout => match self.reserve() {
                Ok(request) => self.pass(Command::Logout(request)),
                Err(failure) => self.tell(Event::LoggedOut(Err(words(&failure)))),
            },
            Effect::Forget => {
                if let Err(failure) = self.profile.remove() {
                    self.tell(Event::Trouble(words(&failure)));
                }
            }
            Effect::Close => {
                self.open = None;
                self.pass(Command::Close);
            }
            Effect::Profiles => {
                let all = Profile::all().into_iter();
                let all = all.map(|(name, account)| Profiled { name, account });
                self.tell(Event::Profiles(all.collect()));
            }
            Effect::Profile(name) => match Profile::named(&name) {
                Ok(profile) => {
                    self.profile = profile;
                    if let Ok(session) = self.profile.load() {
                        self.tell(Event::Resumed(session));
                    }
                }
                Err(failure) => self.tell(Event::Trouble(words(&failure))),
            },
            // Done above, or by the one who draws.
            Effect::Keep(_)
            | Effect::Send { .. }
            | Effect::Ack(_)
            | Effect::Bell
            | Effect::Mouse(_)
            | Effect::Redraw
            | Effect::Suspend
            | Effect::Quit => {}
        }
    }

    /// The records, and then what waited for them.
    fn write(&mut self, records: &mut Vec<Record>, then: &mut Vec<Command>) {
        let history = self.open.as_mut().and_then(|open| open.history.as_mut());
        if let (Some(history), false) = (history, records.is_empty())
            && let Err(error) = history.append(records)
        {
            self.tell(Event::Trouble(format!(
                "the history cannot be written: {error}"
            )));
        }
        records.clear();
        for command in then.drain(..) {
            self.pass(command);
        }
    }

    fn open(&mut self, session: SessionData, new: bool) {
        if new && let Err(failure) = self.profile.store(&session) {
            self.tell(Event::Trouble(words(&failure)));
        }
        self.pass(Command::Use(self.epoch, session.clone()));
        let mut open = Open {
            history: None,
            owner: None,
            requests: BTreeMap::new(),
            spare: None,
        };
        let history = match &self.directory {
            Some(directory) => History::open(directory, self.profile.name(), &session.username),
            None => Err(Error::other("neither XDG_DATA_HOME nor HOME is set")),
        };
        let history = history.and_then(|mut history| {
            history.load(|records| {
                for record in &records {
                    match record {
                        Record::Owner(owner) => open.owner = Some(owner.clone()),
                        Record::Out {
                            key,
                            request: Some(request),
                            ..
                        } => {
                            open.requests.insert(*key, *request);
                        }
                        Record::Accepted { key, .. } | Record::Discarded { key } => {
                            open.requests.remove(key);
                        }
                        _ => {}
                    }
                }
                self.tell(Event::History(records));
            })?;
            Ok(history)
        });
        match history {
            Ok(history) => {
                self.tell(Event::HistoryLoaded {
                    writable: history.is_writable(),
                });
                open.history = Some(history);
            }
            Err(error) => {
                self.tell(Event::Trouble(format!(
                    "the history cannot be read: {error}"
                )));
                self.tell(Event::HistoryLoaded { writable: true });
            }
        }
        self.open = Some(open);
    }

    /// The history must be of this account: another one of the same name, or of another cluster,
    /// has other messages at the same places.
    fn identify(&mut self, owner: Owner) {
        let Some(open) = &mut self.open else { return };
        let emptied = open.owner.as_ref().is_some_and(|kept| *kept != owner);
        if let Some(history) = &mut open.history
            && open.owner.as_ref() != Some(&owner)
        {
            let replaced = if emptied { history.replace() } else { Ok(()) };
            let written = replaced.and_then(|()| history.append(&[Record::Owner(owner.clone())]));
            if let Err(error) = written {
                self.tell(Event::Trouble(format!(
                    "the history cannot be written: {error}"
                )));
            }
        }
        if let Some(open) = &mut self.open {
            open.owner = Some(owner);
            if emptied {
                open.requests.clear();
            }
        }
        self.tell(Event::HistoryReady { emptied });
    }

    /// The id for this message, and whether it is a new one.
    fn request_for(&mut self, key: u64, again: bool) -> Result<(Request, bool), Failure> {
        let known = self.open.as_ref().and_then(|open| open.requests.get(&key));
        if let (true, Some(request)) = (again, known) {
            return Ok((*request, false));
        }
        let request = self.reserve()?;
        if let Some(open) = &mut self.open {
            open.requests.insert(key, request);
        }
        Ok((request, true))
    }

    fn reserve(&mut self) -> Result<Request, Failure> {
        let open = self.open.as_mut().ok_or(Failure::NoLogin)?;
        let (request, left) = if let Some(spare) = open.spare.take() {
            spare
        } else {
            let data = self.profile.reserve(SEQUENCES_AT_ONCE)?;
            let request = Request {
                client: data.client_id,
                sequence: data.next_sequence,
            };
            (request, SEQUENCES_AT_ONCE)
        };
        if left > 1 {
            let next = Request {
                sequence: request.sequence + 1,
                ..request
            };
            open.spare = Some((next, left - 1));
        }
        Ok(request)
    }

    fn tell(&self, event: Event) {
        // Nobody listens any more when the client ends.
        let _ = self.events.blocking_send((self.epoch, event));
    }

    fn pass(&self, command: Command) {
        let _ = self.network.blocking_send(command);
    }
}

/// `$XDG_DATA_HOME/chat`, or `~/.local/share/chat`.
pub fn directory() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_DATA_HOME")
        .filter(|path| Path::new(path).is_absolute())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share")));
    Some(base?.join("chat"))
}

/// With its causes.
fn words(failure: &Failure) -> String {
    let mut text = failure.to_string();
    let mut source = std::error::Error::source(failure);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    /// A thread's state without its thread, and what it tells.
    struct Desk {
        files: Files,
        events: mpsc::Receiver<Tagged>,
        network: mpsc::Receiver<Command>,
    }

    fn desk(base: &Path) -> Desk {
        let (told, events) = mpsc::channel(64);
        let (commands, network) = mpsc::channel(64);
        let profile = Profile::in_directory(base.join("config"), "work").unwrap();
        let directory = Some(base.join("data"));
        let files = Files::new(told, commands, Arc::default(), profile, directory);
        Desk {
            files,
            events,
            network,
        }
    }

    /// What the next run will read.
    fn kept(base: &Path) -> Vec<Record> {
        let mut all = Vec::new();
        let mut history = History::open(&base.join("data"), "work", "alice").unwrap();
        history.load(|records| all.extend(records)).unwrap();
        all
    }

    impl Desk {
        fn open(&mut self, new: bool) {
            let session = SessionData {
                username: "alice".into(),
                user_id: 4,
                device: "default".into(),
                token: "secret".into(),
                client_id: [7; 16],
                next_sequence: 2,
            };
            self.files.on_batch(vec![Effect::Open { session, new }]);
            let used = self.network.try_recv();
            assert!(matches!(used, Ok(Command::Use(..))));
        }

        fn send(&mut self, key: u64, again: bool) -> Request {
            let (peer, body) = ("bob".to_owned(), format!("message {key}"));
            let effect = Effect::Send {
                key,
                peer,
                body,
                time_us: 0,
                again,
                round: 0,
            };
            self.files.on_batch(vec![effect]);
            match self.network.try_recv() {
                Ok(Command::Send(job)) => job.request,
                _ => panic!("not sent"),
            }
        }

        fn told(&mut self) -> Vec<Event> {
            let mut told = Vec::new();
            while let Ok((_, event)) = self.events.try_recv() {
                told.push(event);
            }
            told
        }
    }

    #[test]
    fn a_retry_has_the_request_id_of_the_first_attempt_also_in_the_next_run() {
        let base = tempfile::tempdir().unwrap();
        let mut first = desk(base.path());
        first.open(true);
        let (one, two) = (first.send(1, false), first.send(2, false));
        assert_ne!(one, two);
        assert_eq!(first.send(1, true), one);
        drop(first);
        let mut second = desk(base.path());
        second.open(false);
        assert_eq!(second.send(2, true), two);
        assert_eq!(second.send(1, true), one);
        let new = second.send(3, false);
        assert!(new.sequence > two.sequence, "{new:?}");
    }

    #[test]
    fn the_request_id_is_kept_before_the_message_is_sent() {
        let base = tempfile::tempdir().unwrap();
        let mut desk = desk(base.path());
        desk.open(true);
        let request = desk.send(1, false);
        let is_it = |record: &Record| matches!(record, Record::Out { key: 1, request: kept, .. } if *kept == Some(request));
        assert!(kept(base.path()).iter().any(is_it));
    }

    #[test]
    fn the_history_of_another_account_of_this_name_is_set_aside() {
        let base = tempfile::tempdir().unwrap();
        let owner = |created_us| Owner {
            user_id: 4,
            created_us,
        };
        let mut desk = desk(base.path());
        desk.open(true);
        for (created_us, is_other) in [(1, false), (1, false), (2, true), (2, false)] {
            desk.told();
            desk.files
                .on_batch(vec![Effect::Identify(owner(created_us))]);
            let told = desk.told();
            let [Event::HistoryReady { emptied }] = told[..] else {
                panic!("{told:?}");
            };
            assert_eq!(emptied, is_other);
        }
        assert_eq!(kept(base.path()), [Record::Owner(owner(2))]);
        assert!(base.path().join("data/work.alice.history.old").exists());
    }
}
