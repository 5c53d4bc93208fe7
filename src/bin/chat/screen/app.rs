//! The model: what is on the screen, and what an event changes.
//!
//! [`App::update`] takes one event and returns what is to be done about it. It does no I/O, waits
//! for nothing and reads no clock: the time comes with the event. So a test can play any
//! conversation, and the interface never waits for the network.

use super::editor::Editor;
use super::form::Form;
use super::history::{Owner, Record};
use super::talk::{Pane, Talk};
use super::zone::Zone;
use chat::client::{Account, Message, Page, Receipt, SessionData};
use ratatui::crossterm::event::{KeyEvent, MouseEvent};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Messages kept in memory; the oldest of the longest conversation go first.
pub const MESSAGES_MAX: usize = 400_000;
/// Bytes of bodies kept in memory; the same.
pub const BYTES_MAX: usize = 128 * 1024 * 1024;
/// Messages on their way at once.
pub const SENDING_MAX: usize = 500;
/// Lines that can be called back with the arrow keys.
pub const SPOKEN_MAX: usize = 200;
/// Names known for completion.
pub const NAMES_MAX: usize = 10_000;
/// How long a remark stays, in microseconds.
const NOTICE_US: u64 = 8_000_000;

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// A key.
    Key(KeyEvent),
    /// Text that came at once.
    Paste(String),
    /// The mouse, if it is on.
    Mouse(MouseEvent),
    /// The screen has this size now (columns, rows).
    Resize(u16, u16),
    /// A second or so has passed.
    Tick,
    /// The terminal is gone, or the system ends.
    Quit,
    /// A stored login was found, and is taken into use.
    Resumed(SessionData),
    /// The profiles that there are.
    Profiles(Vec<Profiled>),
    /// Remembered, oldest first.
    History(Vec<Record>),
    /// That was all; whether more can be written.
    HistoryLoaded {
        /// No other process has it open.
        writable: bool,
    },
    /// The history is known to be this account's (or has been emptied).
    HistoryReady {
        /// It was somebody else's: forget what came of it.
        emptied: bool,
    },
    /// A file cannot be read or written.
    Trouble(String),
    /// Logged in by the form.
    SignedIn(SessionData),
    /// Not logged in.
    SignInFailed(String),
    /// Whose login it is.
    Account(Account),
    /// The login is no longer valid.
    LoginEnded(String),
    /// The login was ended as one wished, or not.
    LoggedOut(Result<(), String>),
    /// How the connection is.
    Link(Link),
    /// Messages came.
    Inbox(Vec<Message>),
    /// This peer has everything up to this message.
    Delivered(String, u64),
    /// The servers keep nothing of the inbox up to here, and it was not heard before.
    Removed(u64),
    /// What had been waiting is here.
    EndOfBacklog,
    /// The inbox goes on at another replica.
    Reconnected,
    /// The servers do not keep the inbox from where it was asked for.
    InboxTrimmed,
    /// A message was accepted, or not.
    Sent(u64, Result<Receipt, String>),
    /// Names that match a pattern, or why not.
    Names(Asked, Result<Page, String>),
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Take a login into use; keep it in the profile if it is new.
    Open {
        /// The login.
        session: SessionData,
        /// Made just now.
        new: bool,
    },
    /// Log in.
    SignIn(Credentials),
    /// Create an account.
    SignUp(Credentials),
    /// Make sure that the history is this account's.
    Identify(Owner),
    /// Read the inbox, from behind this place or from where the servers think best.
    Listen(Option<u64>),
    /// Remember.
    Keep(Record),
    /// Send (AFTER its request id is kept).
    Send {
        /// Names it.
        key: u64,
        /// To whom.
        peer: String,
        /// What.
        body: String,
        /// When it was written.
        time_us: u64,
        /// Under the request id that it had before.
        again: bool,
    },
    /// Tell the servers that this device has everything up to here (AFTER it is kept).
    Ack(u64),
    /// Ask for names.
    Names(Asked),
    /// End the login.
    Logout,
    /// It has ended: the profile forgets it.
    Forget,
    /// Nothing more is wanted of this login now.
    Close,
    /// Look which profiles there are.
    Profiles,
    /// Go on with another profile.
    Profile(String),
    /// Ring.
    Bell,
    /// Take or leave the mouse.
    Mouse(bool),
    /// Draw everything anew.
    Redraw,
    /// Stop, as Ctrl-Z does elsewhere.
    Suspend,
    /// End.
    Quit,
}

/// From the form.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The account.
    pub name: String,
    /// Its password.
    pub password: String,
    /// For a new account.
    pub full_name: String,
    /// May be empty.
    pub device: String,
}

impl std::fmt::Debug for Credentials {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("name", &self.name)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// A question for names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// A regular expression.
    pub pattern: String,
    /// Of the page before; empty for the first.
    pub page_token: String,
    /// What for.
    pub purpose: Purpose,
}

/// What names are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The search.
    Search,
    /// The Tab key.
    Completion,
}

/// A profile, and who is logged in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profiled {
    /// Its name.
    pub name: String,
    /// The account, if there is a login.
    pub account: Option<String>,
}

/// How the connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing was heard yet.
    Connecting,
    /// A replica answers.
    Up {
        /// Where requests go.
        replica: String,
        /// There and back, in microseconds; none right after a failover.
        rtt_us: Option<u64>,
    },
    /// None does.
    Down {
        /// Since when, in microseconds since the Unix epoch.
        since_us: u64,
    },
}

/// What lies over the conversation.
#[derive(Debug)]
pub enum Overlay {
    /// Keys and commands, from this row on.
    Help(usize),
    /// Search in the account list.
    Find(Find),
    /// Choice of a profile.
    Profiles {
        /// All.
        list: Vec<Profiled>,
        /// The one under the bar.
        chosen: usize,
    },
}

/// A search in the account list.
#[derive(Debug, Default)]
pub struct Find {
    /// The pattern.
    pub pattern: Editor,
    /// What was found so far.
    pub names: Vec<String>,
    /// The one under the bar.
    pub chosen: usize,
    /// For more of them; empty if these are all.
    pub next: String,
    /// Under way.
    pub asked: Option<Asked>,
    /// Why there is nothing.
    pub error: Option<String>,
}

/// A remark at the bottom.
#[derive(Clone, Debug)]
pub struct Notice {
    /// What it says.
    pub text: String,
    /// It is about a failure.
    pub bad: bool,
    until_us: u64,
}

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Colours may be used.
    pub colour: bool,
    /// The terminal shows more than ASCII.
    pub unicode: bool,
}

/// Which screen.
#[derive(Debug)]
pub enum Screen {
    /// Logging in, or creating an account.
    SignIn(Form),
    /// Conversations.
    Talks,
}

/// All of it.
#[derive(Debug)]
pub struct App {
    /// Columns and rows.
    pub size: (u16, u16),
    /// For times.
    pub zone: Zone,
    /// For colours.
    pub look: Look,
    /// Which login.
    pub profile: String,
    /// The account's name; empty before it is known.
    pub me: String,
    /// Which screen.
    pub screen: Screen,
    /// Over it.
    pub overlay: Option<Overlay>,
    /// By peer.
    pub talks: BTreeMap<String, Talk>,
    /// Peers, those with news first.
    pub order: Vec<String>,
    /// The peer whose conversation is open.
    pub open: Option<String>,
    /// What is written while none is.
    pub lobby: Editor,
    /// How the connection is.
    pub link: Link,
    /// At the bottom.
    pub notice: Option<Notice>,
    /// Ring when a message comes.
    pub bell: bool,
    /// The wheel scrolls, and a click opens.
    pub mouse: bool,
    /// The remembered history is here.
    pub loaded: bool,
    /// What is waiting on the servers is here.
    pub caught_up: bool,
    /// The login is being ended, as one wished.
    pub(super) leaving: bool,
    /// Now, in microseconds since the Unix epoch.
    pub now_us: u64,
    /// As the servers say: names come again.
    pub(super) owner: Option<Owner>,
    /// The history is this account's.
    pub(super) identified: bool,
    /// The history is kept.
    pub writable: bool,
    /// The last place of the inbox.
    pub(super) seen: u64,
    pub(super) next_key: u64,
    /// By key: to whom.
    pub(super) unsent: BTreeMap<u64, String>,
    pub(super) spoken: VecDeque<String>,
    /// Which of them is shown, from the newest, and what was there instead.
    pub(super) recalled: Option<(usize, String)>,
    pub(super) names: BTreeSet<String>,
    /// Peers for whom a draft is remembered.
    pub(super) drafted: BTreeSet<String>,
    pub(super) completion: Option<super::complete::Completion>,
    pub(super) effects: Vec<Effect>,
}

impl App {
    /// Before anything is known.
    pub fn new(profile: &str, size: (u16, u16), zone: Zone, look: Look) -> Self {
        Self {
            size,
            zone,
            look,
            profile: profile.into(),
            me: String::new(),
            screen: Screen::SignIn(Form::sign_in("")),
            overlay: None,
            talks: BTreeMap::new(),
            order: Vec::new(),
            open: None,
            lobby: Editor::default(),
            link: Link::Connecting,
            notice: None,
            bell: false,
            mouse: false,
            loaded: false,
            caught_up: false,
            leaving: false,
            now_us: 0,
            owner: None,
            identified: false,
            writable: true,
            seen: 0,
            next_key: 1,
            unsent: BTreeMap::new(),
            spoken: VecDeque::new(),
            recalled: None,
            names: BTreeSet::new(),
            drafted: BTreeSet::new(),
            completion: None,
            effects: Vec::new(),
        }
    }

    /// Takes an event, and says what is to be done about it, in this order.
    pub fn update(&mut self, event: Event, now_us: u64) -> Vec<Effect> {
        self.now_us = now_us;
        if self
            .notice
            .as_ref()
            .is_some_and(|notice| notice.until_us <= now_us)
        {
            self.notice = None;
        }
        match event {
            Event::Key(key) => self.on_key(key),
            Event::Paste(text) => self.on_paste(&text),
            Event::Mouse(mouse) => self.on_mouse(mouse),
            Event::Resize(columns, rows) => self.size = (columns, rows),
            Event::Tick => {}
            Event::Quit => self.quit(),
            other => self.on_news(other),
        }
        std::mem::take(&mut self.effects)
    }

    /// Says something at the bottom, for a while.
    pub fn say(&mut self, text: impl Into<String>) {
        self.notice(text.into(), false);
    }

    /// The same about a failure.
    pub fn complain(&mut self, text: impl Into<String>) {
        self.notice(text.into(), true);
    }

    fn notice(&mut self, text: String, bad: bool) {
        let until_us = self.now_us + NOTICE_US;
        self.notice = Some(Notice {
            text,
            bad,
            until_us,
        });
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// The open conversation.
    pub fn talk(&self) -> Option<&Talk> {
        self.talks.get(self.open.as_ref()?)
    }

    pub(super) fn talk_mut(&mut self) -> Option<&mut Talk> {
        self.talks.get_mut(self.open.as_ref()?)
    }

    /// Where text goes.
    pub fn editor(&self) -> &Editor {
        self.talk().map_or(&self.lobby, |talk| &talk.draft)
    }

    pub(super) fn editor_mut(&mut self) -> &mut Editor {
        match self.open.as_ref().and_then(|peer| self.talks.get_mut(peer)) {
            Some(talk) => &mut talk.draft,
            None => &mut self.lobby,
        }
    }

    /// The conversation with this peer; a new one if there is none.
    pub(super) fn talk_with(&mut self, peer: &str) -> &mut Talk {
        if !self.talks.contains_key(peer) {
            self.order.push(peer.to_owned());
            self.know(peer);
        }
        self.talks
            .entry(peer.to_owned())
            .or_insert_with(|| Talk::with(peer))
    }

    /// A name for completion.
    pub(super) fn know(&mut self, name: &str) {
        if self.names.len() < NAMES_MAX {
            self.names.insert(name.to_owned());
        }
    }

    /// Something happened there: to the top of the list.
    pub(super) fn bump(&mut self, peer: &str) {
        if let Some(at) = self.order.iter().position(|other| other == peer) {
            self.order[..=at].rotate_right(1);
        }
    }

    /// Opens a conversation.
    pub(super) fn open_talk(&mut self, peer: &str) {
        let is_new = !self.talks.contains_key(peer);
        self.talk_with(peer);
        if is_new {
            self.bump(peer);
            self.effect(Effect::Keep(Record::Open { peer: peer.into() }));
        }
        self.open = Some(peer.to_owned());
        self.recalled = None;
        self.completion = None;
        self.mark_read();
    }

    /// Opens the next conversation of the list, or the one before.
    pub(super) fn step(&mut self, forward: bool) {
        let count = self.order.len();
        if count == 0 {
            return;
        }
        let at = self
            .order
            .iter()
            .position(|peer| Some(peer) == self.open.as_ref());
        let next = match (at, forward) {
            (None, _) => 0,
            (Some(at), true) => (at + 1) % count,
            (Some(at), false) => (at + count - 1) % count,
        };
        let peer = self.order[next].clone();
        self.open_talk(&peer);
    }

    /// What stands at the end of the open conversation was seen.
    pub(super) fn mark_read(&mut self) {
        let Some(talk) = self.talk_mut() else { return };
        if talk.follows() && talk.mark_read() {
            let record = Record::Read {
                peer: talk.peer.clone(),
                id: talk.read,
            };
            self.effect(Effect::Keep(record));
        }
    }

    /// Unread messages of all conversations.
    pub fn unread(&self) -> usize {
        self.talks.values().map(|talk| talk.unread).sum()
    }

    /// Moves the open conversation.
    pub(super) fn scroll(&mut self, act: impl FnOnce(&mut Talk, Pane<'_>)) {
        let (width, height) = super::view::message_pane(self);
        // By hand, because the conversation and the zone are borrowed at once.
        let Some(talk) = self.open.as_ref().and_then(|peer| self.talks.get_mut(peer)) else {
            return;
        };
        act(
            talk,
            Pane {
                width,
                height,
                zone: &self.zone,
            },
        );
        self.mark_read();
    }

    /// Messages without an outcome.
    pub fn sending(&self) -> usize {
        let failed: usize = self.talks.values().map(|talk| talk.failed).sum();
        self.unsent.len().saturating_sub(failed)
    }

    /// Ends, and remembers what was being written.
    pub(super) fn quit(&mut self) {
        self.keep_drafts();
        self.effect(Effect::Quit);
    }

    pub(super) fn keep_drafts(&mut self) {
        let drafts = self.talks.values();
        // One that was remembered and is sent by now must not come back.
        let drafts = drafts.filter(|t| !t.draft.is_empty() || self.drafted.contains(&t.peer));
        let drafts: Vec<Record> = drafts
            .map(|talk| Record::Draft {
                peer: talk.peer.clone(),
                text: talk.draft.text().into(),
            })
            .collect();
        for draft in drafts {
            self.effect(Effect::Keep(draft));
        }
    }

    /// Back to the form; of the account nothing stays on the screen.
    pub(super) fn leave(&mut self, form: Form) {
        let fresh = Self::new(&self.profile, self.size, self.zone.clone(), self.look);
        let old = std::mem::replace(self, fresh);
        self.now_us = old.now_us;
        self.bell = old.bell;
        self.mouse = old.mouse;
        self.notice = old.notice;
        self.effects = old.effects;
        self.screen = Screen::SignIn(form);
        self.effect(Effect::Close);
    }

    /// Keeps memory bounded.
    pub(super) fn trim(&mut self) {
        let count: usize = self.talks.values().map(|talk| talk.messages().len()).sum();
        let bytes: usize = self.talks.values().map(Talk::bytes).sum();
        if count <= MESSAGES_MAX && bytes <= BYTES_MAX {
            return;
        }
        let longest = self
            .talks
            .values_mut()
            .max_by_key(|talk| talk.messages().len());
        if let Some(talk) = longest {
            let quarter = talk.messages().len() / 4;
            talk.forget(quarter.max(1));
        }
    }
}
