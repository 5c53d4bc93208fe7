//! The model, event by event, and what is drawn of it, frame by frame.
//!
//! `INSTA_UPDATE=always cargo test --bin chat` rewrites the frames; a person reads the diff.

use super::app::{
    App, Asked, Effect, Event, Link, Look, Overlay, Profiled, Purpose, Refused, Screen, Unsent,
};
use super::history::{Owner, Record};
use super::talk::State;
use super::view;
use crate::zone::Zone;
use chat::client::{Account, Message, Page, Receipt, SessionData};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseEvent, MouseEventKind};
use ratatui::style::{Color, Modifier};

mod frames;
mod model;
mod names;
mod sending;

/// Sun 22 Nov 2026 14:03:57 UTC.
const NOW: u64 = 1_795_356_237_000_000;
const MINUTE: u64 = 60_000_000;

/// A client without a terminal, and its clock.
struct Stage {
    app: App,
    now_us: u64,
    /// Whatever the model wanted, in order.
    effects: Vec<Effect>,
}

impl Stage {
    /// The first screen.
    fn new(columns: u16, rows: u16) -> Self {
        let look = Look {
            colour: true,
            unicode: true,
        };
        let zone = Zone::posix("UTC0");
        let mut app = App::new("default", (columns, rows), zone, look);
        app.servers = "127.0.0.1:7401 over gRPC".into();
        Self {
            app,
            now_us: NOW,
            effects: Vec::new(),
        }
    }

    /// alice is logged in, and connected; nothing was said yet.
    fn logged_in(columns: u16, rows: u16) -> Self {
        let mut stage = Self::new(columns, rows);
        stage.event(Event::Resumed(session()));
        stage.event(Event::HistoryLoaded { writable: true });
        stage.up("127.0.0.1:7401", 1_234);
        stage.event(Event::Account(account()));
        stage.event(Event::HistoryReady { emptied: false });
        stage.event(Event::EndOfBacklog);
        for name in ["bob", "carol", "dave"] {
            stage.app.know(name);
        }
        stage.effects.clear();
        stage
    }

    fn event(&mut self, event: Event) {
        self.effects.extend(self.app.update(event, self.now_us));
    }

    fn up(&mut self, replica: &str, rtt_us: u64) {
        let replica = replica.into();
        self.event(Event::Link(Link::Up {
            replica,
            rtt_us: Some(rtt_us),
        }));
    }

    fn key(&mut self, code: KeyCode) {
        self.event(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    }

    fn control(&mut self, letter: char) {
        let key = KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
        self.event(Event::Key(key));
    }

    fn write(&mut self, text: &str) {
        for letter in text.chars() {
            self.key(KeyCode::Char(letter));
        }
    }

    /// Writes it and presses Enter.
    fn say(&mut self, text: &str) {
        self.write(text);
        self.key(KeyCode::Enter);
    }

    /// A message from a peer; its id is ten times its place.
    fn hear(&mut self, peer: &str, seq: u64, body: &str) {
        self.event(Event::Inbox(vec![message(peer, seq, self.now_us, body)]));
    }

    /// The last message that was to be sent is accepted under this id.
    fn accept(&mut self, id: u64) {
        let key = self.last_key();
        self.event(Event::Sent(key, Ok(receipt(id, self.now_us, 1))));
    }

    fn fail(&mut self, why: &str) {
        let key = self.last_key();
        self.event(Event::Sent(key, Err(Unsent::Refused(why.into()))));
    }

    fn last_key(&self) -> u64 {
        let sends = self.effects.iter().rev();
        let mut keys = sends.filter_map(|effect| match effect {
            Effect::Send { key, .. } => Some(*key),
            _ => None,
        });
        keys.next().expect("nothing was sent")
    }

    fn pass(&mut self, us: u64) {
        self.now_us += us;
    }

    fn buffer(&self) -> Buffer {
        let (columns, rows) = self.app.size;
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal.draw(|frame| view::draw(&self.app, frame)).unwrap();
        terminal.backend().buffer().clone()
    }

    /// The screen as text, a line a row, between bars.
    fn frame(&self) -> String {
        let buffer = self.buffer();
        let mut frame = String::new();
        for y in 0..buffer.area.height {
            frame.push('|');
            let mut x = 0;
            while x < buffer.area.width {
                let symbol = buffer[(x, y)].symbol();
                frame.push_str(symbol);
                x += super::text::width(symbol).max(1) as u16;
            }
            frame.push_str("|\n");
        }
        frame
    }

    fn has(&self, wanted: impl Fn(&Effect) -> bool) -> bool {
        self.effects.iter().any(wanted)
    }
}

fn session() -> SessionData {
    SessionData {
        username: "alice".into(),
        user_id: 4,
        device: "default".into(),
        token: "secret".into(),
        client_id: [7; 16],
        next_sequence: 2,
    }
}

fn account() -> Account {
    Account {
        user_id: 4,
        username: "alice".into(),
        full_name: String::new(),
        created_us: 5,
    }
}

fn message(peer: &str, seq: u64, time_us: u64, body: &str) -> Message {
    Message {
        message_id: seq * 10,
        inbox_seq: seq,
        sender_id: 9,
        sender: peer.into(),
        time_us,
        body: body.as_bytes().to_vec().into(),
        content_type: "text/plain".into(),
    }
}

fn receipt(id: u64, time_us: u64, attempts: u32) -> Receipt {
    Receipt {
        message_id: id,
        inbox_seq: 1,
        time_us,
        attempts,
        replica: Some(2),
        attempt_began: std::time::Instant::now(),
    }
}
