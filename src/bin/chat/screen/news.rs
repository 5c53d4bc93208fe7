//! What comes from files and from the network.

use super::app::{App, Effect, Event, Link, Screen, Unsent};
use super::form::Form;
use super::history::{Owner, Record};
use super::talk::{Message, State};
use chat::client::{Account, Receipt, SessionData};

impl App {
    /// Anything but a key, a size or the end.
    pub(super) fn on_news(&mut self, event: Event) {
        match event {
            Event::Resumed(session) => self.enter(session, false),
            Event::SignedIn(session) => self.enter(session, true),
            Event::SignInFailed(refused) => {
                if let Screen::SignIn(form) = &mut self.screen {
                    form.refused(refused);
                }
            }
            Event::Profiles(list) => {
                self.show_profiles(list);
            }
            Event::History(records) => {
                for record in records {
                    self.recall(record);
                }
                self.trim();
            }
            Event::HistoryLoaded { writable } => self.on_loaded(writable),
            Event::HistoryReady { emptied } => self.on_ready(emptied),
            Event::Trouble(what) => self.complain(what),
            Event::Account(account) => self.on_account(&account),
            // Others hear that the token is gone before the answer to the logout is here.
            Event::LoginEnded(_) if self.leaving => self.on_logged_out(),
            Event::LoginEnded(why) => self.on_login_ended(why),
            Event::LoggedOut(Ok(())) => self.on_logged_out(),
            Event::LoggedOut(Err(why)) => {
                self.leaving = false;
                self.complain(format!("not logged out: {why}"));
            }
            Event::Link(link) => self.on_link(link),
            Event::Inbox(messages) => self.on_inbox(&messages),
            Event::Delivered(peer, id) => {
                if let Some(talk) = self.talks.get_mut(&peer)
                    && talk.delivered < id
                {
                    talk.delivered = id;
                    self.effect(Effect::Keep(Record::Delivered { peer, id }));
                }
            }
            Event::Removed(seq) => {
                self.seen = self.seen.max(seq);
                self.effect(Effect::Keep(Record::Cursor { seq }));
                self.say("the servers keep older messages no longer");
            }
            Event::EndOfBacklog => self.on_caught_up(),
            // What is said about the connection says more.
            Event::Reconnected if self.notice.is_some() => {}
            Event::Reconnected => self.say("the inbox goes on at another replica"),
            Event::InboxTrimmed => {
                self.say("the servers keep no messages from so long ago; going on with newer ones");
                self.effect(Effect::Listen(None));
            }
            Event::Sent(key, outcome) => self.on_sent(key, outcome),
            Event::Names(asked, result) => self.on_names(&asked, result),
            Event::Key(_)
            | Event::Paste(_)
            | Event::Mouse(_)
            | Event::Resize(..)
            | Event::Tick
            | Event::Quit => {}
        }
    }

    fn enter(&mut self, session: SessionData, new: bool) {
        self.me.clone_from(&session.username);
        self.screen = Screen::Talks;
        self.overlay = None;
        self.notice = None;
        self.link = Link::Connecting;
        self.effect(Effect::Open { session, new });
    }

    fn recall(&mut self, record: Record) {
        match record {
            // Compared by those who read the file.
            Record::Owner(_) => {}
            Record::In {
                peer,
                id,
                seq,
                time_us,
                body,
            } => {
                self.seen = self.seen.max(seq);
                self.put(
                    &peer,
                    Message {
                        key: 0,
                        id: Some(id),
                        own: peer == self.me,
                        time_us,
                        body,
                        state: State::Accepted,
                    },
                );
            }
            // Written twice if its request id came later.
            Record::Out { key, .. } if self.unsent.contains_key(&key) => {}
            Record::Out {
                key,
                peer,
                time_us,
                body,
                ..
            } => {
                self.next_key = self.next_key.max(key + 1);
                self.remember_spoken(&body);
                self.unsent.insert(key, peer.clone());
                // A draft that was sent is none any more, even if the client died soon after.
                let draft = &mut self.talk_with(&peer).draft;
                if draft.text() == body {
                    draft.take();
                }
                let state = State::Sending;
                self.put(
                    &peer,
                    Message {
                        key,
                        id: None,
                        own: true,
                        time_us,
                        body,
                        state,
                    },
                );
            }
            Record::Accepted { key, id, time_us } => {
                if let Some(peer) = self.unsent.remove(&key) {
                    self.talk_with(&peer).accept(key, id, time_us);
                }
            }
            Record::Failed { key, why } => self.set_state(key, State::Failed(why)),
            Record::Again { key } => self.set_state(key, State::Sending),
            Record::Discarded { key } => {
                if let Some(peer) = self.unsent.remove(&key) {
                    self.talk_with(&peer).remove(key);
                }
            }
            Record::Delivered { peer, id } => {
                let talk = self.talk_of(&peer);
                talk.delivered = talk.delivered.max(id);
            }
            Record::Read { peer, id } => self.talk_of(&peer).set_read(id),
            Record::Draft { peer, text } => {
                self.talk_of(&peer).draft.set(&text);
                self.drafted.insert(peer);
            }
            Record::Closed { peer } => self.unlist(&peer),
            Record::Open { peer } => {
                self.talk_with(&peer);
                self.bump(&peer);
            }
            Record::Cursor { seq } => self.seen = self.seen.max(seq),
        }
    }

    fn put(&mut self, peer: &str, message: Message) -> bool {
        let news = self.talk_with(peer).insert(message);
        if news {
            self.bump(peer);
        }
        news
    }

    fn set_state(&mut self, key: u64, state: State) {
        if let Some(peer) = self.unsent.get(&key)
            && let Some(talk) = self.talks.get_mut(peer)
        {
            talk.set_state(key, state);
        }
    }

    fn on_loaded(&mut self, writable: bool) {
        self.loaded = true;
        self.writable = writable;
        if !writable {
            self.say("another chat has this profile open: this one keeps no history");
        }
        if self.open.is_none()
            && let Some(peer) = self.order.first().cloned()
        {
            self.open_talk(&peer);
        }
        self.mark_read();
        self.identify();
    }

    fn on_account(&mut self, account: &Account) {
        self.me.clone_from(&account.username);
        self.owner = Some(Owner {
            user_id: account.user_id,
            created_us: account.created_us,
        });
        self.identify();
    }

    /// The history and the account must both be known before the inbox is read: where it is read
    /// from depends on them.
    fn identify(&mut self) {
        if let (true, false, Some(owner)) = (self.loaded, self.identified, self.owner.clone()) {
            self.identified = true;
            self.effect(Effect::Identify(owner));
        }
    }

    fn on_ready(&mut self, emptied: bool) {
        if emptied {
            self.talks.clear();
            self.order.clear();
            self.unsent.clear();
            self.open = None;
            self.seen = 0;
            self.say(
                "the remembered history was of another account of this name, and is set aside",
            );
        }
        self.effect(Effect::Listen(Some(self.seen)));
        let sending: Vec<u64> = self
            .talks
            .values()
            .flat_map(super::talk::Talk::sending_keys)
            .collect();
        for key in sending {
            self.send_again(key);
        }
    }

    /// Sends a message under the request id that it had, if it had one.
    pub(super) fn send_again(&mut self, key: u64) {
        let Some(peer) = self.unsent.get(&key).cloned() else {
            return;
        };
        self.set_state(key, State::Sending);
        let Some(talk) = self.talks.get(&peer) else {
            return;
        };
        let Some(message) = talk.messages().iter().rev().find(|m| m.own && m.key == key) else {
            return;
        };
        let effect = Effect::Send {
            key,
            peer,
            body: message.body.clone(),
            time_us: message.time_us,
            again: true,
            round: self.round,
        };
        self.effect(effect);
    }

    /// Whether messages wait for a replica.
    pub(super) fn waits(&self) -> bool {
        let mut talks = self.talks.values();
        talks.any(|talk| !talk.waiting_keys().is_empty())
    }

    /// Sends everything that waits, in the order in which it was written.
    pub(super) fn send_waiting(&mut self) {
        let talks = self.talks.values();
        let mut keys: Vec<u64> = talks.flat_map(super::talk::Talk::waiting_keys).collect();
        keys.sort_unstable();
        for key in keys {
            self.send_again(key);
        }
    }

    /// No replica took this one in time, and what was sent after it was not tried.
    fn on_later(&mut self, key: u64, why: &str) {
        if !self.unsent.contains_key(&key) {
            return;
        }
        // What is sent from now on was sent in the knowledge of it.
        self.round += 1;
        for talk in self.talks.values_mut() {
            for behind in talk.sending_keys() {
                talk.set_state(behind, State::Waiting(String::new()));
            }
        }
        self.set_state(key, State::Waiting(why.into()));
        self.complain(format!("not sent yet: {why}; it goes out by itself"));
    }

    /// The profile forgets the login BEFORE it is closed: what comes later is about no login.
    fn on_logged_out(&mut self) {
        self.keep_drafts();
        self.effect(Effect::Forget);
        self.leave(Form::sign_in(""));
        self.say("logged out");
    }

    /// From here on receipts are told as they come; those that came before, while this client was
    /// closed or between two replicas, have to be asked for.
    fn on_caught_up(&mut self) {
        self.caught_up = true;
        let talks = self.talks.values().filter(|talk| talk.is_receipt_open());
        let peers: Vec<String> = talks.map(|talk| talk.peer.clone()).collect();
        if !peers.is_empty() {
            self.effect(Effect::ListDelivered(peers));
        }
    }

    fn on_login_ended(&mut self, why: String) {
        self.keep_drafts();
        let mut form = Form::sign_in(&self.me);
        form.error = Some(why);
        self.leave(form);
    }

    fn on_link(&mut self, link: Link) {
        if let (Link::Down { .. }, Link::Down { .. }) = (&self.link, &link) {
            // Still: what counts is since when.
            return;
        }
        self.was_up |= matches!(link, Link::Up { .. });
        match (&self.link, &link) {
            (Link::Up { .. }, Link::Down { .. }) => {
                self.complain("connection lost; what you write is kept and sent later");
            }
            (Link::Down { .. }, Link::Up { replica, .. }) => {
                self.say(format!("connected again, to {replica}"));
            }
            (Link::Up { replica: old, .. }, Link::Up { replica: new, .. }) if old != new => {
                self.say(format!("failed over from {old} to {new}"));
            }
            _ => {}
        }
        self.link = link;
        if matches!(self.link, Link::Up { .. }) {
            self.send_waiting();
        }
    }

    fn on_inbox(&mut self, messages: &[chat::client::Message]) {
        let mut rings = false;
        let mut last = 0;
        for message in messages {
            last = last.max(message.inbox_seq);
            self.seen = self.seen.max(message.inbox_seq);
            let record = Record::received(message);
            let Record::In { body, .. } = &record else {
                continue;
            };
            let peer = message.sender.clone();
            let own = peer == self.me;
            let is_new = self.put(
                &peer,
                Message {
                    key: 0,
                    id: Some(message.message_id),
                    own,
                    time_us: message.time_us,
                    body: body.clone(),
                    state: State::Accepted,
                },
            );
            if is_new {
                self.effect(Effect::Keep(record));
                rings |= !own;
            } else {
                // To oneself: it stands there, but the inbox was read up to here.
                let seq = message.inbox_seq;
                self.effect(Effect::Keep(Record::Cursor { seq }));
            }
        }
        if self.open.is_none()
            && let Some(peer) = self.order.first().cloned()
        {
            self.open_talk(&peer);
        }
        self.mark_read();
        if self.writable && last > 0 {
            self.effect(Effect::Ack(last));
        }
        if rings && self.bell && self.caught_up {
            self.effect(Effect::Bell);
        }
        self.trim();
    }

    fn on_sent(&mut self, key: u64, outcome: Result<Receipt, Unsent>) {
        match outcome {
            Ok(receipt) => {
                let Some(peer) = self.unsent.remove(&key) else {
                    return;
                };
                let (id, time_us) = (receipt.message_id, receipt.time_us);
                self.talk_with(&peer).accept(key, id, time_us);
                self.effect(Effect::Keep(Record::Accepted { key, id, time_us }));
                if receipt.attempts > 1 {
                    self.say(format!(
                        "sent at the {}, once",
                        match receipt.attempts {
                            2 => "second attempt".into(),
                            3 => "third attempt".into(),
                            n => format!("{n}th attempt"),
                        }
                    ));
                }
            }
            Err(Unsent::Later(why)) => self.on_later(key, &why),
            Err(Unsent::Refused(why)) => {
                let Some(peer) = self.unsent.get(&key) else {
                    return;
                };
                let text = format!("a message to {peer} was not sent; Ctrl-R tries again");
                self.complain(text);
                self.set_state(key, State::Failed(why.clone()));
                self.effect(Effect::Keep(Record::Failed { key, why }));
            }
        }
    }
}
