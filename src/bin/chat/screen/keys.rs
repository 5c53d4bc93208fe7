//! What each key does.

use super::app::{App, Effect, Find, Overlay, Profiled, SENDING_MAX, Screen};
use super::editor::Editor;
use super::history::Record;
use super::talk::{Message, State};
use super::view;
use super::words::Outcome;
use crate::profile::Profile;
use chat::limits::BODY_BYTES_MAX;
use ratatui::crossterm::event::{
    KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};

/// Rows that the wheel moves.
const WHEEL_ROWS: usize = 3;
/// Most bytes in the input: a little more than may be sent, so that one can see what is too much.
const INPUT_BYTES_MAX: usize = 4 * BODY_BYTES_MAX;

impl App {
    pub(super) fn on_key(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('q') if control => return self.quit(),
            KeyCode::Char('l') if control => return self.effect(Effect::Redraw),
            KeyCode::Char('z') if control => return self.effect(Effect::Suspend),
            KeyCode::F(1) => {
                self.completion = None;
                self.overlay = match self.overlay {
                    Some(Overlay::Help(_)) => None,
                    _ => Some(Overlay::Help(0)),
                };
                return;
            }
            _ => {}
        }
        match (&self.overlay, &self.screen) {
            (Some(Overlay::Help(_)), _) => self.on_help_key(key),
            (Some(Overlay::Find(_)), _) => self.on_find_key(key, control),
            (Some(Overlay::Profiles { .. }), _) => self.on_profiles_key(key, control),
            (None, Screen::SignIn(_)) => self.on_form_key(key, control),
            (None, Screen::Talks) => self.on_talk_key(key, control),
        }
    }

    pub(super) fn on_paste(&mut self, text: &str) {
        match (&mut self.overlay, &mut self.screen) {
            (Some(Overlay::Find(find)), _) => {
                find.pattern.insert(&text.replace(['\n', '\r'], ""));
                self.search();
            }
            (Some(Overlay::Profiles { name, .. }), _) => {
                name.insert(&text.replace(['\n', '\r'], ""));
            }
            (Some(_), _) => {}
            (None, Screen::SignIn(form)) => form.insert(text),
            (None, Screen::Talks) => self.write(text),
        }
    }

    pub(super) fn on_mouse(&mut self, mouse: MouseEvent) {
        if self.overlay.is_some() || !matches!(self.screen, Screen::Talks) {
            return;
        }
        match mouse.kind {
            MouseEventKind::ScrollUp => self.scroll(|talk, pane| talk.scroll_up(WHEEL_ROWS, pane)),
            MouseEventKind::ScrollDown => {
                self.scroll(|talk, pane| talk.scroll_down(WHEEL_ROWS, pane));
            }
            MouseEventKind::Down(MouseButton::Left) => {
                if let Some(peer) = view::peer_at(self, mouse.column, mouse.row) {
                    self.open_talk(&peer);
                }
            }
            _ => {}
        }
    }

    fn on_help_key(&mut self, key: KeyEvent) {
        let Some(Overlay::Help(from)) = &mut self.overlay else {
            return;
        };
        match key.code {
            KeyCode::Down => *from += 1,
            KeyCode::Up => *from = from.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => *from += 10,
            KeyCode::PageUp => *from = from.saturating_sub(10),
            _ => self.overlay = None,
        }
    }

    fn on_profiles_key(&mut self, key: KeyEvent, control: bool) {
        let Some(Overlay::Profiles { list, chosen, name }) = &mut self.overlay else {
            return;
        };
        match key.code {
            KeyCode::Down => *chosen = (*chosen + 1).min(list.len().saturating_sub(1)),
            KeyCode::Up => *chosen = chosen.saturating_sub(1),
            KeyCode::Enter => {
                let typed = name.text().trim().to_owned();
                let chosen = list.get(*chosen).map(|profile| profile.name.clone());
                self.overlay = None;
                if let Some(name) = Some(typed).filter(|name| !name.is_empty()).or(chosen) {
                    self.switch_profile(&name);
                }
            }
            KeyCode::Esc => self.overlay = None,
            KeyCode::Char('c') if control => self.overlay = None,
            KeyCode::Char(letter) if is_text(key) => name.insert(&letter.to_string()),
            _ => edit(name, key),
        }
    }

    /// This one is always among them, even if nobody is logged in there yet.
    pub(super) fn show_profiles(&mut self, mut list: Vec<Profiled>) {
        if list.iter().all(|profile| profile.name != self.profile) {
            list.push(Profiled {
                name: self.profile.clone(),
                account: None,
            });
            list.sort_by(|one, other| one.name.cmp(&other.name));
        }
        let this = list.iter().position(|p| p.name == self.profile);
        self.overlay = Some(Overlay::Profiles {
            list,
            chosen: this.unwrap_or(0),
            name: Editor::default(),
        });
    }

    pub(super) fn switch_profile(&mut self, name: &str) {
        if !Profile::is_name(name) {
            return self.complain("a profile's name has letters, digits, '.', '_' and '-'");
        }
        if name == self.profile && matches!(self.screen, Screen::Talks) {
            return;
        }
        self.keep_drafts();
        self.profile = name.into();
        self.leave(super::form::Form::sign_in(""));
        self.effect(Effect::Profile(name.into()));
    }

    fn on_form_key(&mut self, key: KeyEvent, control: bool) {
        let Screen::SignIn(form) = &mut self.screen else {
            return;
        };
        match key.code {
            KeyCode::Char('c') if control => return self.quit(),
            KeyCode::Char('o') if control => return self.effect(Effect::Profiles),
            KeyCode::Esc => return self.quit(),
            // A request cannot be taken back.
            _ if form.busy => return,
            KeyCode::Char('t') if control => return form.toggle(),
            KeyCode::Tab | KeyCode::Down => return form.step(true),
            KeyCode::BackTab | KeyCode::Up => return form.step(false),
            KeyCode::Enter => {
                if form.editor(form.field).is_empty() && form.fields().last() != Some(&form.field) {
                    form.step(true);
                    return;
                }
                let sign_up = form.sign_up;
                form.asked_us = self.now_us;
                if let Some(credentials) = form.submit() {
                    self.effect(if sign_up {
                        Effect::SignUp(credentials)
                    } else {
                        Effect::SignIn(credentials)
                    });
                }
                return;
            }
            KeyCode::Char(letter) if is_text(key) => return form.insert(&letter.to_string()),
            _ => {}
        }
        edit(form.editor_mut(), key);
    }

    fn on_find_key(&mut self, key: KeyEvent, control: bool) {
        let Some(Overlay::Find(find)) = &mut self.overlay else {
            return;
        };
        match key.code {
            KeyCode::Esc => self.overlay = None,
            KeyCode::Char('c' | 'f') if control => self.overlay = None,
            KeyCode::Enter => {
                if let Some(peer) = find.names.get(find.chosen).cloned() {
                    self.overlay = None;
                    self.open_talk(&peer);
                }
            }
            KeyCode::Up => find.chosen = find.chosen.saturating_sub(1),
            KeyCode::Down => {
                find.chosen = (find.chosen + 1).min(find.names.len().saturating_sub(1));
                self.search_on();
            }
            KeyCode::Char(letter) if is_text(key) => {
                find.pattern.insert(&letter.to_string());
                self.search();
            }
            _ => {
                let before = find.pattern.text().to_owned();
                edit(&mut find.pattern, key);
                if find.pattern.text() != before {
                    self.search();
                }
            }
        }
    }

    fn on_talk_key(&mut self, key: KeyEvent, control: bool) {
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        let shift = key.modifiers.contains(KeyModifiers::SHIFT);
        if !matches!(key.code, KeyCode::Tab | KeyCode::BackTab) {
            self.completion = None;
        }
        match key.code {
            KeyCode::Enter if alt || shift => self.write("\n"),
            KeyCode::Char('j') if control => self.write("\n"),
            KeyCode::Enter => self.submit(),
            KeyCode::Tab => self.complete(true),
            KeyCode::BackTab => self.complete(false),
            KeyCode::Up if control || alt => self.step(false),
            KeyCode::Down if control || alt => self.step(true),
            KeyCode::Char('p') if control => self.step(false),
            KeyCode::Char('n') if control => self.step(true),
            KeyCode::Char('g') if control => self.next_unread(),
            KeyCode::Up if shift => self.scroll(|talk, pane| talk.scroll_up(1, pane)),
            KeyCode::Down if shift => self.scroll(|talk, pane| talk.scroll_down(1, pane)),
            KeyCode::Up => {
                if !self.editor_mut().up() {
                    self.recall_spoken(true);
                }
            }
            KeyCode::Down => {
                if !self.editor_mut().down() {
                    self.recall_spoken(false);
                }
            }
            KeyCode::PageUp => {
                self.scroll(|talk, pane| {
                    talk.scroll_up(pane.height.saturating_sub(2).max(1), pane);
                });
            }
            KeyCode::PageDown => {
                self.scroll(|talk, pane| {
                    talk.scroll_down(pane.height.saturating_sub(2).max(1), pane);
                });
            }
            KeyCode::Home if control => self.scroll(super::talk::Talk::scroll_top),
            KeyCode::End if control => self.scroll(|talk, _| talk.follow()),
            KeyCode::Esc => self.scroll(|talk, _| talk.follow()),
            KeyCode::Char('r') if control => self.retry(),
            KeyCode::Char('x') if control => self.discard(),
            KeyCode::Char('f') if control => self.find(""),
            KeyCode::Char('o') if control => self.effect(Effect::Profiles),
            KeyCode::Char('c' | 'd') if control && self.editor().is_empty() => self.quit(),
            KeyCode::Char('c') if control => {
                self.editor_mut().take();
            }
            KeyCode::Char(letter) if is_text(key) => self.write(letter.encode_utf8(&mut [0; 4])),
            _ => edit(self.editor_mut(), key),
        }
    }

    /// Writes at the cursor.
    pub(super) fn write(&mut self, text: &str) {
        self.completion = None;
        if self.editor().text().len() + text.len() > INPUT_BYTES_MAX {
            self.complain("this is far more than one message may hold: 16 KiB");
            return;
        }
        self.editor_mut().insert(text);
    }

    fn next_unread(&mut self) {
        let unread = |peer: &&String| self.talks.get(*peer).is_some_and(|talk| talk.unread > 0);
        match self.order.iter().find(unread).cloned() {
            Some(peer) => self.open_talk(&peer),
            None => self.say("nothing is unread"),
        }
    }

    /// Enter: a command or a message.
    fn submit(&mut self) {
        let text = self.editor().text().to_owned();
        if text.trim().is_empty() {
            return;
        }
        match self.command(&text) {
            // It would go to the one that is open now.
            Outcome::Text(_) if self.opening.is_some() => {
                self.complain("one moment, still looking");
            }
            // Said with a second slash.
            Outcome::Text(text) => {
                if self.speak(&text) {
                    self.editor_mut().take();
                }
            }
            Outcome::Done => {
                self.remember_spoken(&text);
            }
            Outcome::Wrong(why) => self.complain(why),
        }
    }

    /// Sends to the open conversation; false if it cannot even be tried.
    pub(super) fn speak(&mut self, text: &str) -> bool {
        let Some(peer) = self.open.clone() else {
            self.complain("no conversation is open: /msg NAME opens one, Ctrl-F finds names");
            return false;
        };
        if text.len() > BODY_BYTES_MAX {
            let kib = text.len().div_ceil(1024);
            self.complain(format!("a message has at most 16 KiB; this one has {kib}"));
            return false;
        }
        if self.sending() >= SENDING_MAX {
            self.complain("too many messages are on their way already");
            return false;
        }
        let (key, time_us) = (self.next_key, self.now_us);
        self.next_key += 1;
        // Behind those that wait: it must not overtake them.
        let waits = self.waits();
        self.unsent.insert(key, peer.clone());
        self.remember_spoken(text);
        let talk = self.talk_with(&peer);
        talk.follow();
        talk.insert(Message {
            key,
            id: None,
            own: true,
            time_us,
            body: text.into(),
            state: if waits {
                State::Waiting(String::new())
            } else {
                State::Sending
            },
        });
        self.bump(&peer);
        self.mark_read();
        let body = text.to_owned();
        self.effect(if waits {
            Effect::Keep(Record::Out {
                key,
                peer,
                time_us,
                body,
                request: None,
            })
        } else {
            Effect::Send {
                key,
                peer,
                body,
                time_us,
                again: false,
                round: self.round,
            }
        });
        true
    }

    /// Tries everything again that failed here, and what waits.
    pub(super) fn retry(&mut self) {
        let keys = self
            .talk()
            .map(super::talk::Talk::failed_keys)
            .unwrap_or_default();
        if keys.is_empty() && !self.waits() {
            self.say("nothing has failed here");
        }
        self.send_waiting();
        for key in keys {
            self.effect(Effect::Keep(Record::Again { key }));
            self.send_again(key);
        }
    }

    /// Gives up the last one that failed or waits here; its text can be called back with the arrow
    /// key. One that waits may have arrived: that is what its reason says.
    pub(super) fn discard(&mut self) {
        let last = self.talk().and_then(|talk| {
            let failed = talk.failed_keys().last().copied();
            failed.max(talk.waiting_keys().last().copied())
        });
        let Some(key) = last else {
            return self.say("nothing has failed here");
        };
        self.unsent.remove(&key);
        if let Some(talk) = self.talk_mut() {
            talk.remove(key);
        }
        self.effect(Effect::Keep(Record::Discarded { key }));
        self.say("discarded; arrow up brings the text back");
    }

    pub(super) fn remember_spoken(&mut self, text: &str) {
        self.recalled = None;
        if self.spoken.back().is_none_or(|last| last != text) {
            self.spoken.push_back(text.into());
        }
        if self.spoken.len() > super::app::SPOKEN_MAX {
            self.spoken.pop_front();
        }
    }

    fn recall_spoken(&mut self, older: bool) {
        let now = self.recalled.as_ref().map_or(0, |(back, _)| back + 1);
        let back = if older {
            now + 1
        } else {
            now.saturating_sub(1)
        };
        if back > self.spoken.len() || (now == 0 && !older) {
            return;
        }
        let written = match self.recalled.take() {
            Some((_, written)) => written,
            None => self.editor().text().to_owned(),
        };
        if back == 0 {
            self.editor_mut().set(&written);
            return;
        }
        let text = self.spoken[self.spoken.len() - back].clone();
        self.editor_mut().set(&text);
        self.recalled = Some((back - 1, written));
    }

    /// Opens the search.
    pub(super) fn find(&mut self, pattern: &str) {
        let mut find = Find::default();
        find.pattern.set(pattern);
        self.overlay = Some(Overlay::Find(find));
        self.search();
    }
}

/// A letter, and not a key combination.
fn is_text(key: KeyEvent) -> bool {
    !key.modifiers
        .intersects(KeyModifiers::CONTROL | KeyModifiers::ALT)
}

/// Keys that edit, in every field.
fn edit(editor: &mut super::editor::Editor, key: KeyEvent) {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let alt = key.modifiers.contains(KeyModifiers::ALT);
    match key.code {
        KeyCode::Backspace if control || alt => editor.delete_word(),
        KeyCode::Backspace => editor.backspace(),
        KeyCode::Char('h') if control => editor.backspace(),
        KeyCode::Char('w') if control => editor.delete_word(),
        KeyCode::Delete => editor.delete(),
        KeyCode::Char('d') if control => editor.delete(),
        KeyCode::Left if control || alt => editor.word_left(),
        KeyCode::Right if control || alt => editor.word_right(),
        KeyCode::Char('b') if alt => editor.word_left(),
        KeyCode::Char('f') if alt => editor.word_right(),
        KeyCode::Left => editor.left(),
        KeyCode::Right => editor.right(),
        KeyCode::Home => editor.home(),
        KeyCode::End => editor.end(),
        KeyCode::Char('a') if control => editor.home(),
        KeyCode::Char('e') if control => editor.end(),
        KeyCode::Char('u') if control => editor.delete_to_start(),
        KeyCode::Char('k') if control => editor.delete_to_end(),
        _ => {}
    }
}
