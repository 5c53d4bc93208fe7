//! What is printed, for people or as one JSON object a line.
//!
//! What others wrote is never sent to the terminal as it is: a message could hold control
//! sequences that rewrite the screen or worse.

use crate::Failure;
use crate::args::Format;
use crate::zone::Zone;
use chat::client::{Account, Event, Message, Page, Receipt, SessionInfo};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::OnceLock;

/// Prints in one format.
#[derive(Clone, Copy)]
pub struct Printer(pub Format);

impl Printer {
    /// The account and device of a login.
    pub fn account(self, account: &Account, device: &str) -> Result<(), Failure> {
        self.line(
            || {
                let name = &account.username;
                let full = &account.full_name;
                let full = if full.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", printable(full))
                };
                format!("{name}{full}, device {}", printable(device))
            },
            || {
                json!({
                    "username": account.username,
                    "user_id": account.user_id,
                    "full_name": account.full_name,
                    "created_us": account.created_us,
                    "device": device,
                })
            },
        )
    }

    /// A message was sent. People see nothing: no news is good news.
    pub fn sent(self, receipt: &Receipt) -> Result<(), Failure> {
        if self.0 == Format::Text {
            return Ok(());
        }
        self.line(String::new, || {
            json!({
                "message_id": receipt.message_id,
                "inbox_seq": receipt.inbox_seq,
                "time_us": receipt.time_us,
                "attempts": receipt.attempts,
            })
        })
    }

    /// What a listener heard.
    pub fn event(self, event: &Event) -> Result<(), Failure> {
        match event {
            Event::Message(message) => {
                self.line(|| message_text(message), || message_json(message))
            }
            Event::Delivered {
                peer,
                up_to_message_id,
            } if self.0 == Format::Json => self.line(
                String::new,
                || json!({"type": "delivered", "peer": peer, "up_to_message_id": up_to_message_id}),
            ),
            Event::Removed { up_to } => self.line(
                || format!("-- the messages up to number {up_to} were deleted for their age --"),
                || json!({"type": "removed", "up_to": up_to}),
            ),
            _ => Ok(()),
        }
    }

    /// A page of names.
    pub fn page(self, page: &Page) -> Result<(), Failure> {
        for name in &page.usernames {
            self.line(|| printable(name), || json!({"username": name}))?;
        }
        Ok(())
    }

    /// The logins of the account.
    pub fn sessions(self, sessions: &[SessionInfo]) -> Result<(), Failure> {
        for session in sessions {
            self.line(
                || {
                    format!(
                        "{:>8}  {:<16}  since {}  used {}{}",
                        session.session_id,
                        printable(&session.device_id),
                        local(session.created_us),
                        local(session.last_used_us),
                        if session.current { "  (this one)" } else { "" }
                    )
                },
                || {
                    json!({
                        "session_id": session.session_id,
                        "device": session.device_id,
                        "created_us": session.created_us,
                        "last_used_us": session.last_used_us,
                        "current": session.current,
                    })
                },
            )?;
        }
        Ok(())
    }

    /// A remark that is no result: people only, and beside the results.
    pub fn remark(self, text: &str) {
        if self.0 == Format::Text {
            eprintln!("{text}");
        }
    }

    fn line(
        self,
        text: impl FnOnce() -> String,
        value: impl FnOnce() -> Value,
    ) -> Result<(), Failure> {
        let line = match self.0 {
            Format::Text => text(),
            Format::Json => value().to_string(),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .map_err(Failure::io("cannot write the output"))
    }
}

/// Prints a failure with its causes to standard error.
pub fn failure(failure: &Failure, reason: &str, json: bool) {
    let mut text = match failure {
        Failure::Client(error) if error.reason == "WRONG_PROTOCOL" => crate::with_hint(error),
        failure => failure.to_string(),
    };
    let mut source = std::error::Error::source(failure);
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    if json {
        eprintln!("{}", json!({"error": reason, "message": text}));
    } else {
        eprintln!("chat: {}", printable(&text));
    }
}

fn message_text(message: &Message) -> String {
    let body = match std::str::from_utf8(&message.body) {
        Ok(text) => printable(text),
        Err(_) => format!(
            "<{} bytes of {}>",
            message.body.len(),
            printable(&message.content_type)
        ),
    };
    format!("{}  {}: {body}", local(message.time_us), message.sender)
}

fn message_json(message: &Message) -> Value {
    let mut value = json!({
        "type": "message",
        "message_id": message.message_id,
        "inbox_seq": message.inbox_seq,
        "sender_id": message.sender_id,
        "sender": message.sender,
        "time_us": message.time_us,
        "content_type": message.content_type,
    });
    match std::str::from_utf8(&message.body) {
        Ok(text) => value["body"] = text.into(),
        Err(_) => value["body_hex"] = hex(&message.body).into(),
    }
    value
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Control characters become visible; further lines are set in.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => shown.push_str("\n    "),
            '\t' => shown.push('\t'),
            // The second range turns the direction of what follows.
            control if control.is_control() || matches!(control, '\u{202a}'..='\u{202e}') => {
                shown.extend(control.escape_unicode());
            }
            other => shown.push(other),
        }
    }
    shown
}

/// `2026-01-02 03:04:05`, as clocks here show it.
fn local(us: u64) -> String {
    static ZONE: OnceLock<Zone> = OnceLock::new();
    ZONE.get_or_init(Zone::local).date_and_time(us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_steer_the_terminal() {
        let shown = printable("a\u{1b}[2Jb\r\nc\u{202e}d");
        assert_eq!(shown, "a\\u{1b}[2Jb\\u{d}\n    c\\u{202e}d");
    }

    #[test]
    fn a_body_that_is_no_text_is_printed_in_hex() {
        let message = Message {
            body: vec![0xff, 0].into(),
            ..Message::default()
        };
        assert_eq!(message_json(&message)["body_hex"], "ff00");
        assert!(message_text(&message).contains("<2 bytes"));
    }
}
