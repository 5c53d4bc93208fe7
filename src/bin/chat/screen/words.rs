//! Commands that begin with a slash, and the search.

use super::app::{App, Asked, Effect, Link, Overlay, Purpose};
use super::history::Record;
use chat::client::Page;

/// Every command: what is typed, and what it does.
pub const COMMANDS: &[(&str, &str, &str)] = &[
    (
        "/msg",
        "NAME [TEXT]",
        "opens a conversation, and sends the text",
    ),
    (
        "/close",
        "",
        "takes it out of the list, until its next message",
    ),
    (
        "/find",
        "[PATTERN]",
        "searches the account list by a regular expression",
    ),
    ("/retry", "", "sends again what failed here (Ctrl-R)"),
    (
        "/discard",
        "",
        "gives up the last one not sent here (Ctrl-X)",
    ),
    (
        "/profile",
        "[NAME]",
        "goes on with another profile (Ctrl-O)",
    ),
    ("/logout", "", "ends this login"),
    ("/bell", "", "rings when a message comes, or stops ringing"),
    (
        "/mouse",
        "",
        "the wheel scrolls and a click opens, or no longer",
    ),
    ("/help", "", "this page (F1)"),
    ("/quit", "", "ends (Ctrl-Q)"),
];

/// What the keys do.
pub const KEYS: &[(&str, &str)] = &[
    ("Enter", "send"),
    ("Alt-Enter, Ctrl-J", "a new line; a paste keeps its lines"),
    (
        "Tab, Shift-Tab",
        "complete a name or a command; again: the next",
    ),
    ("Up, Down", "what was said before"),
    (
        "Ctrl-P, Ctrl-N",
        "previous, next conversation (or Alt-Up, -Down)",
    ),
    ("Ctrl-G", "the next one with unread messages"),
    ("PageUp, PageDown", "scroll; Shift-Up, Shift-Down: by a row"),
    (
        "Ctrl-Home, Ctrl-End",
        "to the beginning, to the end (also Esc)",
    ),
    ("Ctrl-F", "find people"),
    ("Ctrl-R, Ctrl-X", "try again, discard what failed or waits"),
    ("Ctrl-C", "empty the line; on an empty line: end"),
    ("Ctrl-A E U K W", "edit as in a shell"),
    ("Ctrl-L, Ctrl-Z", "draw the screen anew, stop until `fg`"),
];

/// Somebody is looked for, to open a conversation.
#[derive(Debug)]
pub struct Opening {
    peer: String,
    /// What will be said then; may be empty.
    text: String,
    /// What was typed: given back if there is nobody.
    line: String,
}

impl Opening {
    /// This name and no other.
    fn pattern(&self) -> String {
        format!("^{}$", self.peer.replace('.', "\\."))
    }
}

/// What came of a line.
pub enum Outcome {
    /// It is a message.
    Text(String),
    /// It was a command, and is done.
    Done,
    /// It is a command that makes no sense.
    Wrong(String),
}

impl App {
    /// Does what a line says, if it is a command.
    pub(super) fn command(&mut self, line: &str) -> Outcome {
        if let Some(rest) = line.strip_prefix("//") {
            return Outcome::Text(format!("/{rest}"));
        }
        if !line.starts_with('/') {
            return Outcome::Text(line.to_owned());
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let name = COMMANDS
            .iter()
            .map(|command| command.0)
            .find(|known| *known == name);
        let Some(name) = name else {
            return Outcome::Wrong(
                "no such command: /help lists them, and // begins a message with a slash".into(),
            );
        };
        match name {
            "/msg" => return self.message_command(rest),
            "/close" => return self.close_talk(),
            _ => {}
        }
        // The line goes BEFORE the command is done: it may open another conversation.
        self.editor_mut().take();
        match name {
            "/find" => self.find(rest),
            "/retry" => self.retry(),
            "/discard" => self.discard(),
            "/profile" if rest.is_empty() => self.effect(Effect::Profiles),
            "/profile" => self.switch_profile(rest),
            "/logout" => {
                self.say("logging out");
                if !std::mem::replace(&mut self.leaving, true) {
                    self.effect(Effect::Logout);
                }
            }
            "/bell" => {
                self.bell = !self.bell;
                self.say(if self.bell {
                    "the bell rings"
                } else {
                    "the bell is off"
                });
            }
            "/mouse" => {
                self.mouse = !self.mouse;
                self.effect(Effect::Mouse(self.mouse));
                self.say(if self.mouse {
                    "the mouse is on (Shift selects text)"
                } else {
                    "the mouse is off"
                });
            }
            "/quit" => self.quit(),
            _ => self.overlay = Some(Overlay::Help(0)),
        }
        Outcome::Done
    }

    fn message_command(&mut self, rest: &str) -> Outcome {
        let (peer, text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let peer = peer.trim_start_matches('@').to_lowercase();
        let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        if peer.is_empty() || peer.len() > 32 || !peer.chars().all(letter) {
            return Outcome::Wrong(
                "/msg NAME [TEXT]: a name has letters, digits, '.', '_', '-'".into(),
            );
        }
        let opening = Opening {
            text: text.trim_start().to_owned(),
            line: self.editor_mut().take(),
            peer,
        };
        let is_known = self.names.contains(&opening.peer)
            || self.talks.contains_key(&opening.peer)
            || opening.peer == self.me;
        if is_known {
            self.open_as_asked(opening);
            return Outcome::Done;
        }
        if matches!(self.link, Link::Down { .. } | Link::Wrong(_)) {
            self.open_unasked(opening, "there is no connection");
            return Outcome::Done;
        }
        // A name that is mistyped must not leave an empty conversation behind.
        self.say(format!("looking for {}", opening.peer));
        self.effect(Effect::Names(Asked {
            pattern: opening.pattern(),
            page_token: String::new(),
            purpose: Purpose::Opening,
        }));
        self.opening = Some(opening);
        Outcome::Done
    }

    fn open_as_asked(&mut self, opening: Opening) {
        let from = self.open.clone();
        // Typed while nobody knew whether there is one: meant for the new conversation.
        let typed = self.editor_mut().take();
        self.open_talk(&opening.peer);
        self.editor_mut().insert(&typed);
        if !opening.text.is_empty() && !self.speak(&opening.text) {
            // Too long, say: it is given back.
            self.open = from;
            self.give_back(&opening.line);
        }
    }

    fn give_back(&mut self, line: &str) {
        if self.editor().is_empty() {
            self.editor_mut().set(line);
        }
    }

    /// Whether there is somebody of the name for a new conversation.
    fn on_opening(&mut self, asked: &Asked, result: Result<Page, String>) {
        let Some(opening) = self.opening.take() else {
            return;
        };
        // Another one is looked for by now.
        if opening.pattern() != asked.pattern {
            self.opening = Some(opening);
            return;
        }
        match result {
            Ok(page) if page.usernames.contains(&opening.peer) => {
                self.notice = None;
                self.open_as_asked(opening);
            }
            // A page may be short, even empty, and not be the last.
            Ok(page) if !page.next_page_token.is_empty() => {
                self.effect(Effect::Names(Asked {
                    page_token: page.next_page_token,
                    ..asked.clone()
                }));
                self.opening = Some(opening);
            }
            Ok(_) => {
                self.complain(format!("nobody is called {}", opening.peer));
                self.give_back(&opening.line);
            }
            Err(why) => self.open_unasked(opening, &why),
        }
    }

    /// Nobody can say whether there is one. A message finds out, sooner or later.
    fn open_unasked(&mut self, opening: Opening, why: &str) {
        if opening.text.is_empty() {
            self.complain(format!("cannot look for {}: {why}", opening.peer));
            self.give_back(&opening.line);
        } else {
            self.open_as_asked(opening);
        }
    }

    fn close_talk(&mut self) -> Outcome {
        let Some(peer) = self.open.clone() else {
            return Outcome::Wrong("no conversation is open".into());
        };
        if self.unsent.values().any(|to| *to == peer) {
            return Outcome::Wrong("something here is not sent yet (Ctrl-X discards it)".into());
        }
        self.editor_mut().take();
        let place = self.order.iter().position(|other| *other == peer);
        self.unlist(&peer);
        self.effect(Effect::Keep(Record::Closed { peer }));
        self.open = None;
        let last = self.order.len().saturating_sub(1);
        let next = self.order.get(place.unwrap_or(0).min(last)).cloned();
        if let Some(next) = next {
            self.open_talk(&next);
        }
        Outcome::Done
    }

    /// Asks for what the search's pattern finds.
    pub(super) fn search(&mut self) {
        let Some(Overlay::Find(find)) = &mut self.overlay else {
            return;
        };
        let asked = Asked {
            pattern: find.pattern.text().to_owned(),
            page_token: String::new(),
            purpose: Purpose::Search,
        };
        // One question at a time; its answer asks the next if the pattern has changed.
        let waits = find.asked.is_some();
        find.next.clear();
        if !waits {
            find.asked = Some(asked.clone());
            self.effect(Effect::Names(asked));
        }
    }

    /// Asks for the next page when the bar is near the end of this one.
    pub(super) fn search_on(&mut self) {
        let Some(Overlay::Find(find)) = &mut self.overlay else {
            return;
        };
        let near = find.chosen + 5 >= find.names.len();
        if near && find.asked.is_none() && !find.next.is_empty() {
            let asked = Asked {
                pattern: find.pattern.text().to_owned(),
                page_token: find.next.clone(),
                purpose: Purpose::Search,
            };
            find.asked = Some(asked.clone());
            self.effect(Effect::Names(asked));
        }
    }

    /// Names came, or not.
    pub(super) fn on_names(&mut self, asked: &Asked, result: Result<Page, String>) {
        if let Ok(page) = &result {
            for name in &page.usernames {
                self.know(name);
            }
        }
        match asked.purpose {
            Purpose::Completion => return self.on_completions(asked, result),
            Purpose::Opening => return self.on_opening(asked, result),
            Purpose::Search => {}
        }
        let Some(Overlay::Find(find)) = &mut self.overlay else {
            return;
        };
        if find.asked.as_ref() != Some(asked) {
            return;
        }
        find.asked = None;
        if asked.pattern != find.pattern.text() {
            return self.search();
        }
        match result {
            Ok(page) => {
                find.error = None;
                if asked.page_token.is_empty() {
                    find.names.clear();
                    find.chosen = 0;
                }
                find.names.extend(page.usernames);
                find.next = page.next_page_token;
                // A page may be short, even empty, and not be the last.
                if find.names.len() < 20 {
                    self.search_on();
                }
            }
            Err(why) => {
                find.names.clear();
                find.error = Some(why);
            }
        }
    }
}
