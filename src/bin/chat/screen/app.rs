//! The model: what is on the screen, and what an event changes.
//!
//! [`App::update`] takes one event and returns what is to be done about it. It does no I/O, waits
//! for nothing and reads no clock: the time comes with the event. So a test can play any
//! conversation, and the interface never waits for the network.

use super::editor::Editor;
pub use super::events::{
    Asked, Credentials, Effect, Event, Link, Profiled, Purpose, Refused, Unsent,
};
use super::form::Form;
use super::history::{Owner, Record};
use super::talk::{Pane, Talk};
use crate::zone::Zone;
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
        /// A name that is typed instead: perhaps of a new one.
        name: Editor,
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
    /// Where the servers are, and what is spoken with them: for people.
    pub servers: String,
    /// How the connection is.
    pub link: Link,
    /// It was up once.
    pub was_up: bool,
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
    /// How often messages have had to wait for a replica.
    pub(super) round: u64,
    /// By key: to whom.
    pub(super) unsent: BTreeMap<u64, String>,
    pub(super) spoken: VecDeque<String>,
    /// Which of them is shown, from the newest, and what was there instead.
    pub(super) recalled: Option<(usize, String)>,
    pub(super) names: BTreeSet<String>,
    /// Peers for whom a draft is remembered.
    pub(super) drafted: BTreeSet<String>,
    pub(super) completion: Option<super::complete::Completion>,
    pub(super) opening: Option<super::words::Opening>,
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
            servers: String::new(),
            link: Link::Connecting,
            was_up: false,
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
            round: 0,
            unsent: BTreeMap::new(),
            spoken: VecDeque::new(),
            recalled: None,
            names: BTreeSet::new(),
            drafted: BTreeSet::new(),
            completion: None,
            opening: None,
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

    /// The conversation with this peer; a new one if there is none. It is in the list from now on.
    pub(super) fn talk_with(&mut self, peer: &str) -> &mut Talk {
        if !self.talk_of(peer).is_listed {
            self.order.push(peer.to_owned());
            self.know(peer);
        }
        let talk = self.talk_of(peer);
        talk.is_listed = true;
        talk
    }

    /// The same, and in the list or not as it was.
    pub(super) fn talk_of(&mut self, peer: &str) -> &mut Talk {
        self.talks
            .entry(peer.to_owned())
            .or_insert_with(|| Talk::with(peer))
    }

    /// Takes it out of the list, until something is said in it again.
    pub(super) fn unlist(&mut self, peer: &str) {
        self.order.retain(|other| other != peer);
        let Some(talk) = self.talks.get_mut(peer) else {
            return;
        };
        talk.is_listed = false;
        talk.draft.take();
        if talk.messages().is_empty() {
            self.talks.remove(peer);
        }
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
        let is_new = !self.talk_of(peer).is_listed;
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

    /// What is said where the screen was, if anything is left to do.
    pub fn farewell(&self) -> Option<String> {
        match self.sending() {
            0 => None,
            1 => Some("1 message is still on its way; it is sent when chat runs again".into()),
            left => Some(format!(
                "{left} messages are still on their way; they are sent when chat runs again"
            )),
        }
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
        self.servers = old.servers;
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
