//! One conversation: its messages, and which of them are on the screen.
//!
//! # Invariants
//!
//! - Messages are sorted by their message id, which is the order of the servers' log. Those that
//!   have none yet (on their way, or failed) come last, in the order in which they were written.
//! - The place on the screen is counted in messages from one that stands at the bottom, never in
//!   rows from the beginning. So only what is visible is ever laid out, whatever the length of the
//!   conversation, and a resize costs nothing.

use super::editor::Editor;
use super::layout;
use crate::zone::Zone;

/// A message as the screen needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Of this client: names a message before the servers do. 0 if it was received.
    pub key: u64,
    /// The servers' id.
    pub id: Option<u64>,
    /// Written by this account.
    pub own: bool,
    /// Microseconds since the Unix epoch: the servers' time, or when it was written.
    pub time_us: u64,
    /// What it says.
    pub body: String,
    /// How far it has come.
    pub state: State,
}

/// How far a message has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// On its way.
    Sending,
    /// No replica took it yet: it is tried again by itself. Why; empty if only one before it is
    /// to blame.
    Waiting(String),
    /// On disk on a majority of the replicas.
    Accepted,
    /// Refused; why.
    Failed(String),
}

/// The row at the bottom of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Of the message that stands there.
    pub index: usize,
    /// Rows of it that are below the edge.
    pub hidden: usize,
}

/// A conversation with one account.
#[derive(Debug, Default)]
pub struct Talk {
    /// With whom.
    pub peer: String,
    messages: Vec<Message>,
    /// The peer has everything up to this message id.
    pub delivered: u64,
    /// What was seen by the person who sits here, up to this message id.
    pub read: u64,
    /// Messages of the peer after that.
    pub unread: usize,
    /// It is in the list of conversations.
    pub is_listed: bool,
    /// What is being written.
    pub draft: Editor,
    /// None: at the end, and following it.
    anchor: Option<Anchor>,
    /// Bytes of all bodies.
    bytes: usize,
    /// Messages that failed.
    pub failed: usize,
}

impl Talk {
    /// An empty one.
    pub fn with(peer: &str) -> Self {
        Self {
            peer: peer.into(),
            ..Self::default()
        }
    }

    /// All messages, oldest first.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Bytes of all bodies.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the peer has it.
    pub fn is_delivered(&self, message: &Message) -> bool {
        message.own && message.id.is_some_and(|id| id <= self.delivered)
    }

    /// Whether the peer may have more of what was sent than is known.
    pub fn is_receipt_open(&self) -> bool {
        let mut own = self.messages.iter().rev().filter(|m| m.own);
        own.find_map(|m| m.id).is_some_and(|id| id > self.delivered)
    }

    /// Puts a message where it belongs; false if it is there already.
    pub fn insert(&mut self, message: Message) -> bool {
        let at = match message.id {
            None => self.messages.len(),
            // Almost always the last place: look there first.
            Some(id) => {
                let older = |other: &Message| other.id.is_some_and(|other| other < id);
                let mut at = self.messages.len();
                let mut steps = 0;
                while at > 0 && !older(&self.messages[at - 1]) && steps < 32 {
                    at -= 1;
                    steps += 1;
                }
                if at > 0 && !older(&self.messages[at - 1]) {
                    at = self.messages.partition_point(older);
                }
                at
            }
        };
        if message.id.is_some() && self.messages.get(at).is_some_and(|m| m.id == message.id) {
            return false;
        }
        if !message.own && message.id.is_some_and(|id| id > self.read) {
            self.unread += 1;
        }
        self.bytes += message.body.len();
        self.failed += usize::from(matches!(message.state, State::Failed(_)));
        self.messages.insert(at, message);
        if let Some(anchor) = &mut self.anchor
            && at <= anchor.index
        {
            anchor.index += 1;
        }
        true
    }

    /// Takes a message of this client out.
    pub fn remove(&mut self, key: u64) -> Option<Message> {
        let at = self.position(key)?;
        let message = self.messages.remove(at);
        self.bytes -= message.body.len();
        self.failed -= usize::from(matches!(message.state, State::Failed(_)));
        if let Some(anchor) = &mut self.anchor
            && at < anchor.index
        {
            anchor.index -= 1;
        }
        self.settle_anchor();
        Some(message)
    }

    /// A message of this client has an id now.
    pub fn accept(&mut self, key: u64, id: u64, time_us: u64) {
        if let Some(mut message) = self.remove(key) {
            // To oneself: it may have been received before the answer came.
            if let Ok(at) = self
                .messages
                .binary_search_by_key(&id, |m| m.id.unwrap_or(u64::MAX))
            {
                let copy = self.messages.remove(at);
                self.bytes -= copy.body.len();
            }
            message.id = Some(id);
            message.time_us = time_us;
            message.state = State::Accepted;
            self.insert(message);
            self.recount();
        }
    }

    /// A message of this client goes on its way, or failed.
    pub fn set_state(&mut self, key: u64, state: State) {
        let Some(at) = self.position(key) else { return };
        let failed = |state: &State| usize::from(matches!(state, State::Failed(_)));
        self.failed = self.failed + failed(&state) - failed(&self.messages[at].state);
        self.messages[at].state = state;
    }

    /// Keys of what failed, oldest first.
    pub fn failed_keys(&self) -> Vec<u64> {
        self.unsent_keys(|state| matches!(state, State::Failed(_)))
    }

    /// Keys of what is on its way, oldest first.
    pub fn sending_keys(&self) -> Vec<u64> {
        self.unsent_keys(|state| *state == State::Sending)
    }

    /// Keys of what waits for a replica, oldest first.
    pub fn waiting_keys(&self) -> Vec<u64> {
        self.unsent_keys(|state| matches!(state, State::Waiting(_)))
    }

    fn unsent_keys(&self, wanted: impl Fn(&State) -> bool) -> Vec<u64> {
        let unsent = self.messages.iter().rev().take_while(|m| m.id.is_none());
        let mut keys: Vec<u64> = unsent.filter(|m| wanted(&m.state)).map(|m| m.key).collect();
        keys.reverse();
        keys
    }

    /// The newest message id.
    pub fn newest(&self) -> u64 {
        self.messages.iter().rev().find_map(|m| m.id).unwrap_or(0)
    }

    /// All of it was seen; true if that is news.
    pub fn mark_read(&mut self) -> bool {
        let news = self.unread > 0;
        self.read = self.read.max(self.newest());
        self.unread = 0;
        news
    }

    /// Seen up to this message, as was remembered.
    pub fn set_read(&mut self, id: u64) {
        self.read = self.read.max(id);
        self.recount();
    }

    fn recount(&mut self) {
        let from = self
            .messages
            .partition_point(|m| m.id.is_some_and(|id| id <= self.read));
        self.unread = self.messages[from..].iter().filter(|m| !m.own).count();
    }

    /// Forgets the oldest of them; those on their way stay.
    pub fn forget(&mut self, count: usize) {
        let sent = self.messages.partition_point(|m| m.id.is_some());
        let count = count.min(sent);
        let bytes: usize = self.messages.drain(..count).map(|m| m.body.len()).sum();
        self.bytes -= bytes;
        if let Some(anchor) = &mut self.anchor {
            anchor.index = anchor.index.saturating_sub(count);
        }
        self.recount();
    }

    fn position(&self, key: u64) -> Option<usize> {
        self.messages.iter().rposition(|m| m.own && m.key == key)
    }

    // ---- The screen.

    /// The row at the bottom; none if there are no messages.
    pub fn bottom(&self) -> Option<Anchor> {
        let last = self.messages.len().checked_sub(1)?;
        Some(self.anchor.unwrap_or(Anchor {
            index: last,
            hidden: 0,
        }))
    }

    /// At the end, and following it.
    pub fn follows(&self) -> bool {
        self.anchor.is_none()
    }

    /// To the end.
    pub fn follow(&mut self) {
        self.anchor = None;
    }

    /// Towards the beginning by so many rows.
    pub fn scroll_up(&mut self, count: usize, pane: Pane<'_>) {
        let Some(mut anchor) = self.bottom() else {
            return;
        };
        anchor.hidden += count;
        loop {
            let rows = self.rows(anchor.index, pane);
            if anchor.hidden < rows {
                break;
            }
            if anchor.index == 0 {
                anchor.hidden = rows - 1;
                break;
            }
            anchor.hidden -= rows;
            anchor.index -= 1;
        }
        self.anchor = Some(anchor);
        self.fill(pane);
    }

    /// Towards the end by so many rows.
    pub fn scroll_down(&mut self, count: usize, pane: Pane<'_>) {
        let Some(mut anchor) = self.anchor else {
            return;
        };
        let mut left = count;
        while left > anchor.hidden {
            left -= anchor.hidden;
            if anchor.index + 1 >= self.messages.len() {
                self.anchor = None;
                return;
            }
            anchor.index += 1;
            anchor.hidden = self.rows(anchor.index, pane);
        }
        anchor.hidden -= left;
        self.anchor = Some(anchor);
        self.settle_anchor();
    }

    /// To the beginning.
    pub fn scroll_top(&mut self, pane: Pane<'_>) {
        let mut seen = 0;
        for index in 0..self.messages.len() {
            seen += self.rows(index, pane);
            if seen >= pane.height {
                let hidden = seen - pane.height;
                self.anchor = Some(Anchor { index, hidden });
                self.settle_anchor();
                return;
            }
        }
        self.anchor = None;
    }

    /// No empty rows at the top while there are messages below.
    fn fill(&mut self, pane: Pane<'_>) {
        let Some(anchor) = self.anchor else { return };
        let mut seen = self.rows(anchor.index, pane).saturating_sub(anchor.hidden);
        for index in (0..anchor.index).rev() {
            if seen >= pane.height {
                return;
            }
            seen += self.rows(index, pane);
        }
        if seen < pane.height {
            self.scroll_top(pane);
        }
    }

    /// The end is where one follows it.
    fn settle_anchor(&mut self) {
        if let Some(anchor) = self.anchor
            && (anchor.index >= self.messages.len()
                || anchor.index + 1 == self.messages.len() && anchor.hidden == 0)
        {
            self.anchor = None;
        }
    }

    fn rows(&self, index: usize, pane: Pane<'_>) -> usize {
        layout::rows(self, index, pane.width, pane.zone).len()
    }
}

/// What messages are laid out in.
#[derive(Clone, Copy)]
pub struct Pane<'a> {
    /// In cells.
    pub width: usize,
    /// In rows.
    pub height: usize,
    /// For the days.
    pub zone: &'a Zone,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(id: u64) -> Message {
        Message {
            key: 0,
            id: Some(id),
            own: false,
            time_us: id * 1_000_000,
            body: format!("message {id}"),
            state: State::Accepted,
        }
    }

    fn written(key: u64) -> Message {
        Message {
            key,
            id: None,
            own: true,
            time_us: 0,
            body: format!("written {key}"),
            state: State::Sending,
        }
    }

    fn ids(talk: &Talk) -> Vec<Option<u64>> {
        talk.messages().iter().map(|m| m.id).collect()
    }

    #[test]
    fn messages_stand_in_the_order_of_the_log_and_unsent_ones_last() {
        let mut talk = Talk::with("bob");
        talk.insert(received(5));
        talk.insert(written(1));
        talk.insert(written(2));
        assert!(talk.insert(received(9)));
        assert!(!talk.insert(received(9)), "twice");
        assert!(talk.insert(received(3)));
        assert_eq!(ids(&talk), [Some(3), Some(5), Some(9), None, None]);
        talk.accept(1, 7, 0);
        assert_eq!(ids(&talk), [Some(3), Some(5), Some(7), Some(9), None]);
        assert_eq!(talk.sending_keys(), [2]);
        assert_eq!(talk.unread, 3);
    }

    #[test]
    fn a_message_to_oneself_stands_there_once() {
        let mut talk = Talk::with("me");
        talk.insert(written(1));
        talk.insert(received(4));
        talk.accept(1, 4, 0);
        assert_eq!(ids(&talk), [Some(4)]);
        assert!(!talk.insert(received(4)));
        assert_eq!(talk.unread, 0);
    }

    #[test]
    fn what_was_read_is_not_unread_again() {
        let mut talk = Talk::with("bob");
        for id in 1..=5 {
            talk.insert(received(id));
        }
        talk.set_read(3);
        assert_eq!(talk.unread, 2);
        assert!(talk.mark_read());
        assert!(!talk.mark_read());
        talk.insert(received(6));
        assert_eq!(talk.unread, 1);
    }

    #[test]
    fn what_failed_can_be_tried_again_in_its_order() {
        let mut talk = Talk::with("bob");
        talk.insert(received(1));
        for key in 1..=3 {
            talk.insert(written(key));
            talk.set_state(key, State::Failed("why".into()));
        }
        talk.set_state(2, State::Sending);
        assert_eq!((talk.failed_keys(), talk.failed), (vec![1, 3], 2));
        assert!(talk.remove(1).is_some());
        assert_eq!(talk.failed, 1);
    }

    #[test]
    fn scrolling_shows_every_row_once_and_stops_at_both_ends() {
        let zone = Zone::posix("UTC0");
        let pane = Pane {
            width: 20,
            height: 10,
            zone: &zone,
        };
        let mut talk = Talk::with("bob");
        for id in 1..=100 {
            talk.insert(received(id));
        }
        talk.scroll_up(3, pane);
        let anchor = talk.bottom().unwrap();
        talk.scroll_up(5, pane);
        talk.scroll_down(5, pane);
        assert_eq!(talk.bottom(), Some(anchor));
        // What comes meanwhile does not move what is being read.
        talk.insert(received(101));
        assert_eq!(talk.bottom(), Some(anchor));
        talk.scroll_up(100_000, pane);
        let top = talk.bottom().unwrap();
        talk.scroll_top(pane);
        assert_eq!(talk.bottom(), Some(top));
        talk.scroll_down(100_000, pane);
        assert!(talk.follows());
    }

    #[test]
    fn the_oldest_are_forgotten_and_those_on_their_way_stay() {
        let mut talk = Talk::with("bob");
        for id in 1..=10 {
            talk.insert(received(id));
        }
        talk.insert(written(1));
        talk.forget(100);
        assert_eq!(ids(&talk), [None]);
        assert_eq!(talk.bytes(), "written 1".len());
    }
}
