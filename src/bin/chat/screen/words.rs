//! Commands that begin with a slash, completion of names, and the search.

use super::app::{App, Asked, Effect, Overlay};
use chat::client::Page;

/// Every command: what is typed, and what it does.
pub const COMMANDS: &[(&str, &str, &str)] = &[
    (
        "/msg",
        "NAME [TEXT]",
        "opens a conversation, and sends the text",
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
        "gives up the last one that failed here (Ctrl-X)",
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
    ("Tab", "complete a name or a command; again: the next one"),
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
    ("Ctrl-R, Ctrl-X", "try again, discard what failed"),
    ("Ctrl-C", "empty the line; on an empty line: end"),
    ("Ctrl-A E U K W", "edit as in a shell"),
    ("Ctrl-L, Ctrl-Z", "draw the screen anew, stop until `fg`"),
];

/// What came of a line.
pub enum Outcome {
    /// It is a message.
    Text(String),
    /// It was a command, and is done.
    Done,
    /// It is a command that makes no sense.
    Wrong(String),
}

/// The Tab key, pressed again and again.
#[derive(Debug)]
pub struct Completion {
    /// Where the word begins, in bytes.
    start: usize,
    /// All that fit.
    fit: Vec<String>,
    /// The one that is shown.
    at: usize,
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
        if name == "/msg" {
            return self.message_command(rest);
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
        let text = text.trim_start();
        let from = self.open.clone();
        let line = self.editor_mut().take();
        self.open_talk(&peer);
        if !text.is_empty() && !self.speak(text) {
            // Too long, say: it is given back.
            self.open = from;
            self.editor_mut().set(&line);
        }
        Outcome::Done
    }

    /// The Tab key.
    pub(super) fn complete(&mut self) {
        if let Some(mut completion) = self.completion.take() {
            completion.at = (completion.at + 1) % completion.fit.len();
            self.show_completion(completion);
            return;
        }
        let editor = self.editor();
        let range = editor.word();
        let word = &editor.text()[range.clone()];
        let fit: Vec<String> = if range.start == 0 && word.starts_with('/') {
            let commands = COMMANDS.iter().map(|command| command.0);
            commands
                .filter(|name| name.starts_with(word))
                .map(str::to_owned)
                .collect()
        } else {
            let (sign, prefix) = match word.strip_prefix('@') {
                Some(prefix) => ("@", prefix),
                None => ("", word),
            };
            let prefix = prefix.to_lowercase();
            if prefix.is_empty() && !editor.text().starts_with("/msg") {
                return;
            }
            let known = self.names.range(prefix.clone()..);
            let fit: Vec<String> = known
                .take_while(|name| name.starts_with(&prefix))
                .map(|name| format!("{sign}{name}"))
                .collect();
            if fit.is_empty() {
                return self.ask_for(&prefix);
            }
            fit
        };
        if !fit.is_empty() {
            self.show_completion(Completion {
                start: range.start,
                fit,
                at: 0,
            });
        }
    }

    fn ask_for(&mut self, prefix: &str) {
        let letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if prefix.chars().all(letter) {
            self.effect(Effect::Names(Asked {
                pattern: format!("^{}", prefix.replace('.', "\\.")),
                page_token: String::new(),
                completion: true,
            }));
        }
    }

    fn show_completion(&mut self, completion: Completion) {
        let Completion { start, fit, at } = &completion;
        let cursor = self.editor().cursor();
        let name = fit[*at].clone();
        if fit.len() == 1 {
            self.editor_mut()
                .replace(*start..cursor, &format!("{name} "));
            return;
        }
        let around: Vec<&str> = fit
            .iter()
            .cycle()
            .skip(*at)
            .take(fit.len().min(8))
            .map(String::as_str)
            .collect();
        let text = format!("{} of {}: {}", at + 1, fit.len(), around.join("  "));
        self.editor_mut().replace(*start..cursor, &name);
        self.say(text);
        self.completion = Some(completion);
    }

    /// Asks for what the search's pattern finds.
    pub(super) fn search(&mut self) {
        let Some(Overlay::Find(find)) = &mut self.overlay else {
            return;
        };
        let asked = Asked {
            pattern: find.pattern.text().to_owned(),
            page_token: String::new(),
            completion: false,
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
                completion: false,
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
        if asked.completion {
            let found = result.as_ref().is_ok_and(|page| !page.usernames.is_empty());
            let range = self.editor().word();
            let word = self.editor().text()[range]
                .trim_start_matches('@')
                .to_lowercase();
            let same = asked.pattern == format!("^{}", word.replace('.', "\\."));
            match (found, same) {
                (true, true) if self.overlay.is_none() => self.complete(),
                (false, true) => self.say("no name begins like this"),
                _ => {}
            }
            return;
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
