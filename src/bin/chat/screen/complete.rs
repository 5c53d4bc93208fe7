//! The Tab key: what is known at once, and what the servers know a moment later.
//!
//! The servers are always asked, because the names that are known here are only those that were
//! met. Their answer adds to the choice. It never changes a line in which something stands already:
//! nothing moves under the fingers.
//!
//! INVARIANT: a completion ends with the first key that is not Tab, so what it replaces (from
//! `start` to the cursor) is what it has written itself.

use super::app::{App, Asked, Effect, Purpose};
use super::text;
use super::words::COMMANDS;
use chat::client::Page;

/// Names to choose from; of more, a longer beginning is needed.
const CHOICE_MAX: usize = 100;

/// The Tab key, pressed again and again.
#[derive(Debug)]
pub struct Completion {
    /// Where the word begins, in bytes.
    start: usize,
    /// The `@` before the name, if there is one.
    sign: &'static str,
    /// What was typed of it, in lower case.
    prefix: String,
    /// All that fit, ascending, without the sign.
    fit: Vec<String>,
    /// The one that is shown.
    at: usize,
    answer: Answer,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// The servers were asked.
    Awaited,
    /// All that they know is here, or as much as is wanted.
    Here,
    /// They did not say; why.
    Failed(String),
}

/// What is said about a completion.
#[derive(Debug, PartialEq, Eq)]
pub enum Hint {
    /// A remark, and whether it is about a failure.
    Remark(String, bool),
    /// A choice: what stands before the one that is shown, that one, and what stands behind it.
    Choice(String, String, String),
}

impl Completion {
    fn new(start: usize, sign: &'static str, prefix: &str, fit: Vec<String>) -> Self {
        Self {
            start,
            sign,
            prefix: prefix.into(),
            fit,
            at: 0,
            answer: Answer::Here,
        }
    }

    /// Names of accounts that begin like this.
    fn pattern(&self) -> String {
        format!("^{}", self.prefix.replace('.', "\\."))
    }

    fn add(&mut self, names: Vec<String>) {
        let shown = self.fit.get(self.at).cloned();
        self.fit.extend(names);
        self.fit.sort_unstable();
        self.fit.dedup();
        let at = self
            .fit
            .iter()
            .position(|name| Some(name) == shown.as_ref());
        self.at = at.unwrap_or(0);
    }

    /// What to say in a line of this width; the names stay where they are while one goes through
    /// them, and a longer choice has pages.
    pub fn hint(&self, width: usize) -> Option<Hint> {
        match (&self.answer, self.fit.len()) {
            (Answer::Awaited, 0) => return Some(Hint::Remark("asking for names".into(), false)),
            (Answer::Here, 0) => {
                return Some(Hint::Remark("no name begins like this".into(), false));
            }
            (Answer::Failed(why), 0 | 1) => {
                return Some(Hint::Remark(
                    format!("other names are not known: {why}"),
                    true,
                ));
            }
            (_, 1) => return None,
            _ => {}
        }
        let count = format!("{} of {}:", self.at + 1, self.fit.len());
        let (mut first, mut used) = (0, text::width(&count));
        let room = |name: &str| text::width(name) + 2;
        for (index, name) in self.fit[..=self.at].iter().enumerate() {
            if used + room(name) > width && index > first {
                (first, used) = (index, text::width(&count));
            }
            used += room(name);
        }
        let joined = |names: &[String]| -> String {
            names
                .iter()
                .fold(String::new(), |all, name| all + "  " + name)
        };
        let before = format!("{count}{}  ", joined(&self.fit[first..self.at]));
        Some(Hint::Choice(
            before,
            self.fit[self.at].clone(),
            joined(&self.fit[self.at + 1..]),
        ))
    }
}

impl App {
    /// The Tab key, forward or (with Shift) back.
    pub(super) fn complete(&mut self, forward: bool) {
        self.notice = None;
        if let Some(completion) = &mut self.completion {
            let count = completion.fit.len();
            if count > 0 {
                let step = if forward { 1 } else { count - 1 };
                completion.at = (completion.at + step) % count;
                self.show_completion();
            }
            return;
        }
        let editor = self.editor();
        let range = editor.word();
        let word = &editor.text()[range.clone()];
        if range.start == 0 && word.starts_with('/') {
            let commands = COMMANDS.iter().map(|command| command.0.to_owned());
            let fit: Vec<String> = commands.filter(|name| name.starts_with(word)).collect();
            if !fit.is_empty() {
                self.completion = Some(Completion::new(0, "", word, fit));
                self.show_completion();
            }
            return;
        }
        let (sign, prefix) = match word.strip_prefix('@') {
            Some(prefix) => ("@", prefix.to_lowercase()),
            None => ("", word.to_lowercase()),
        };
        let letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_wanted = !prefix.is_empty() || editor.text().starts_with("/msg");
        if !is_wanted || !prefix.chars().all(letter) {
            return;
        }
        let known = self.names.range(prefix.clone()..);
        let known = known.take_while(|name| name.starts_with(&prefix));
        let fit: Vec<String> = known.take(CHOICE_MAX).cloned().collect();
        let mut completion = Completion::new(range.start, sign, &prefix, fit);
        completion.answer = Answer::Awaited;
        let asked = Asked {
            pattern: completion.pattern(),
            page_token: String::new(),
            purpose: Purpose::Completion,
        };
        self.completion = Some(completion);
        self.show_completion();
        self.effect(Effect::Names(asked));
    }

    /// Writes the name that is chosen in the place of what was typed of it.
    fn show_completion(&mut self) {
        let Some(completion) = &self.completion else {
            return;
        };
        let Some(name) = completion.fit.get(completion.at) else {
            return;
        };
        let space = if completion.fit.len() == 1 { " " } else { "" };
        let (start, text) = (
            completion.start,
            format!("{}{name}{space}", completion.sign),
        );
        let cursor = self.editor().cursor();
        self.editor_mut().replace(start..cursor, &text);
    }

    /// Names that begin like what was completed came, or not.
    pub(super) fn on_completions(&mut self, asked: &Asked, result: Result<Page, String>) {
        let Some(completion) = &mut self.completion else {
            return;
        };
        if asked.pattern != completion.pattern() || completion.answer != Answer::Awaited {
            return;
        }
        let was_empty = completion.fit.is_empty();
        match result {
            Err(why) => completion.answer = Answer::Failed(why),
            Ok(page) => {
                completion.add(page.usernames);
                // A page may be short, even empty, and not be the last.
                if page.next_page_token.is_empty() || completion.fit.len() >= CHOICE_MAX {
                    completion.answer = Answer::Here;
                } else {
                    let asked = Asked {
                        page_token: page.next_page_token,
                        ..asked.clone()
                    };
                    self.effect(Effect::Names(asked));
                }
            }
        }
        if was_empty {
            self.show_completion();
        }
    }
}
