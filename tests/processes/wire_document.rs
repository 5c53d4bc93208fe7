//! Every conversation of `docs/wire_protocol.md`, replayed byte for byte. `UPDATE=1` writes the
//! replies into the document; a person reads the difference.

use crate::cluster::{PATIENCE, TestCluster};
use chat::wire::codec::{FrameError, Private, Reply, canary, v1, v2};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/wire_protocol.md");

/// What differs from run to run, and what the document says instead.
#[derive(Default)]
struct Names {
    /// By kind and real word.
    documented: BTreeMap<(&'static str, String), String>,
}

impl Names {
    /// The document's word for this one: of each kind the first, the second and so on.
    fn word(&mut self, kind: &'static str, real: &str) -> String {
        let known = self.documented.keys().filter(|(of, _)| *of == kind);
        let number = known.count();
        let place = self.documented.entry((kind, real.to_owned()));
        let word = place.or_insert_with(|| match kind {
            "token" => format!("ct_{}", number.to_string().repeat(64)),
            "user" => format!("{}", 11 + number),
            "session" => format!("{}", 21 + number),
            "message" => format!("{}", 101 + number),
            _ => format!("1790000000{number:06}"),
        });
        word.clone()
    }

    fn number(&mut self, kind: &'static str, real: &mut u64) {
        *real = self.word(kind, &real.to_string()).parse().unwrap();
    }

    fn token(&mut self, token: &mut Private) {
        token.0 = self.word("token", &token.0);
    }

    /// The run's word for a field of a request: only tokens come back.
    fn real(&self, field: &str) -> String {
        let mut all = self.documented.iter();
        let found = all.find(|((kind, _), word)| *kind == "token" && *word == field);
        found.map_or_else(|| field.to_owned(), |((_, real), _)| real.clone())
    }

    /// A reply as the document has it.
    fn document(&mut self, reply: &mut Reply) {
        match reply {
            Reply::V1(v1::Reply::CreateAccount(done) | v1::Reply::Login(done))
                if !done.auth_token.0.is_empty() =>
            {
                self.token(&mut done.auth_token);
            }
            Reply::V2(_, answer) => {
                answer.primary = "127.0.0.1:7500".into();
                if let Ok(reply) = &mut answer.outcome {
                    self.result(reply);
                }
            }
            _ => {}
        }
    }

    fn result(&mut self, reply: &mut v2::Reply) {
        match reply {
            v2::Reply::CreateAccount(done) | v2::Reply::Login(done) => {
                self.token(&mut done.token);
                self.number("user", &mut done.user_id);
                self.number("time", &mut done.created_us);
            }
            v2::Reply::SendMessage(sent) => {
                self.number("message", &mut sent.message_id);
                self.number("time", &mut sent.time_us);
            }
            v2::Reply::Refresh(batch) => {
                for event in &mut batch.events {
                    let ids = [
                        ("message", &mut event.message_id),
                        ("user", &mut event.sender_id),
                        ("time", &mut event.time_us),
                    ];
                    for (kind, id) in ids {
                        if let Some(id) = id {
                            self.number(kind, id);
                        }
                    }
                }
            }
            v2::Reply::ListDelivered(list) => {
                for receipt in &mut list.receipts {
                    self.number("message", &mut receipt.message_id);
                }
            }
            v2::Reply::WhoAmI(me) => {
                self.number("user", &mut me.user_id);
                self.number("time", &mut me.created_us);
            }
            v2::Reply::ListSessions(list) => {
                for session in &mut list.sessions {
                    self.number("session", &mut session.session_id);
                    self.number("time", &mut session.created_us);
                    // It moves with use, sooner or later.
                    session.last_used_us = session.created_us;
                }
            }
            _ => {}
        }
    }
}

fn with_canary(text: &str) -> String {
    let canary = canary(text.as_bytes());
    text.to_owned() + std::str::from_utf8(&canary).unwrap()
}

/// A request of the document with this run's tokens. A canary that was right is right again.
fn real_request(frame: &str, names: &Names) -> String {
    let Some((text, given)) = frame.rsplit_once("||") else {
        return frame.to_owned();
    };
    let was_right = given.as_bytes() == canary(format!("{text}||").as_bytes());
    let fields: Vec<String> = text.split("||").map(|field| names.real(field)).collect();
    let text = format!("{}||", fields.join("||"));
    if was_right {
        with_canary(&text)
    } else {
        text + given
    }
}

/// A reply of this run as the document has it.
fn documented_reply(line: &str, names: &mut Names) -> String {
    let mut reply = Reply::decode(line.as_bytes()).unwrap();
    let encoded = |reply: &Reply| {
        let mut frame = Vec::new();
        reply.encode(&mut frame);
        assert_eq!(frame.pop(), Some(b'\n'));
        String::from_utf8(frame).unwrap()
    };
    assert_eq!(encoded(&reply), line, "the codec writes another frame");
    names.document(&mut reply);
    encoded(&reply)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_is_true() {
    let cluster = TestCluster::start(1).await;
    let socket = TcpStream::connect(cluster.wire_addr(1)).await.unwrap();
    let mut socket = BufReader::new(socket);
    let mut names = Names::default();
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let (mut told, mut inside, mut conversations) = (String::new(), false, 0);
    for line in document.lines() {
        if inside && line.starts_with('<') {
            continue;
        }
        let sent = line.strip_prefix("> ").filter(|_| inside);
        if line.starts_with("```") {
            inside = line == "```wire";
            conversations += usize::from(inside);
        }
        let Some(sent) = sent else {
            told.push_str(line);
            told.push('\n');
            continue;
        };
        // A request of the document with its canary still to be computed.
        let sent = match sent.strip_suffix("||?") {
            Some(text) => with_canary(&format!("{text}||")),
            None => sent.to_owned(),
        };
        let frame = real_request(&sent, &names) + "\n";
        socket.get_mut().write_all(frame.as_bytes()).await.unwrap();
        let mut reply = String::new();
        let read = socket.read_line(&mut reply);
        tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        let reply = reply.strip_suffix('\n').expect("a reply ends its line");
        let documented = documented_reply(reply, &mut names);
        writeln!(told, "> {sent}\n< {documented}").unwrap();
    }
    assert!(conversations >= 7, "only {conversations} conversations");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(DOCUMENT, &told).unwrap();
        return;
    }
    for (number, (is, should)) in document.lines().zip(told.lines()).enumerate() {
        assert_eq!(is, should, "docs/wire_protocol.md:{}", number + 1);
    }
    assert_eq!(document.lines().count(), told.lines().count());
}

#[test]
fn the_table_of_words_is_that_of_the_codec() {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let rows: Vec<&str> = document
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let words = FrameError::ALL.iter();
    let table: Vec<String> = words
        .map(|error| format!("| `{}` | {} |", error.word(), error.sentence()))
        .collect();
    assert_eq!(rows, table);
}
