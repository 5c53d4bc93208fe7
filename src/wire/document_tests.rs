//! Holds `docs/wire_protocol.md` against the code: tables, limits, and the conversations that end
//! their connection. The others are replayed against real replicas by `tests/processes`.
//!
//! `UPDATE=1` writes the replies into the document; a person reads the difference.

use super::Options;
use super::codec::{v1, v2};
use super::tests::Server;
use crate::limits;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/wire_protocol.md");
const PATIENCE: Duration = Duration::from_secs(20);

fn document() -> String {
    std::fs::read_to_string(DOCUMENT).unwrap()
}

/// The operations in the table below a heading: fields of request and reply by opcode.
fn table(document: &str, heading: &str) -> BTreeMap<u64, (String, String)> {
    let section = document.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, opcode, _name, request, reply, _] = cells[..] else {
            return None;
        };
        Some((opcode.parse().ok()?, (request.into(), reply.into())))
    });
    rows.collect()
}

fn from_code(
    described: Vec<(u64, Vec<String>, Vec<String>)>,
    spelled: impl Fn(String) -> String,
) -> BTreeMap<u64, (String, String)> {
    let fields = |fields: Vec<String>| spelled(fields.join(", "));
    let rows = described.into_iter();
    rows.map(|(opcode, request, reply)| (opcode, (fields(request), fields(reply))))
        .collect()
}

#[test]
fn the_tables_of_operations_are_those_of_the_codec() {
    let document = document();
    // The mission's spelling.
    let first = from_code(v1::described(), |text| {
        text.replace("full_name", "fullname")
    });
    assert_eq!(table(&document, "Version 1"), first);
    let mut second = table(&document, "Version 2");
    let created = second[&0].1.clone();
    let login = second.get_mut(&1).unwrap();
    assert_eq!(login.1, "as 0");
    login.1 = created;
    assert_eq!(second, from_code(v2::described(), |text| text));
}

/// `81920` as `81,920`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[test]
fn the_limits_are_those_of_the_code() {
    let document = document();
    let text = document.split_whitespace().collect::<Vec<_>>().join(" ");
    let kib = |bytes: usize| {
        assert_eq!(bytes % 1024, 0);
        format!("{} KiB", bytes / 1024)
    };
    let seconds = limits::WIRE_FRAME_SECONDS;
    assert_eq!(limits::WIRE_IN_FLIGHT_BYTES_MAX, 1024 * 1024);
    let batch = kib(limits::WIRE_BATCH_BYTES_MAX);
    let (page, pages) = (limits::PAGE_DEFAULT, grouped(limits::PAGE_MAX as usize));
    let frame = grouped(limits::WIRE_FRAME_BYTES_MAX);
    for sentence in [
        format!("UTF-8 text of at most {frame} bytes"),
        format!("Up to {} of a connection", limits::WIRE_IN_FLIGHT_MAX),
        "(and up to 1 MiB of frames)".to_owned(),
        format!("A frame must be complete {seconds} seconds after its first byte"),
        format!("takes none of its replies for {seconds} seconds"),
        format!("{} of replies", kib(limits::WIRE_REPLIES_BYTES_MAX)),
        format!(
            "A replica takes {} connections",
            grouped(limits::WIRE_CONNECTIONS_MAX)
        ),
        format!("`number_of_accounts` is {page} if empty or 0, and at most {pages}"),
        format!("`page_size` {page} (at most {pages})"),
        format!("separated by U+001E, at most about {batch}"),
        format!(
            "(at most {}; empty: it does not wait)",
            grouped(limits::WIRE_WAIT_MS_MAX as usize)
        ),
        format!(
            "`events_max` ({} if empty, and at most), or at about {batch}",
            limits::DELIVER_BATCH_MAX
        ),
        format!("the first {} names", limits::DELIVERED_PEERS_MAX),
        format!(
            "||{}||{}||",
            limits::WIRE_FRAME_BYTES_MAX,
            limits::WIRE_IN_FLIGHT_MAX
        ),
    ] {
        assert!(
            text.contains(&sentence),
            "the document does not say {sentence:?}"
        );
    }
}

/// What a line of the document stands for, and what the client does then.
struct Said {
    bytes: Vec<u8>,
    /// It ends its input.
    ends: bool,
    /// It says nothing more.
    falls_silent: bool,
}

/// `‹e4›` is a byte, `‹9 × x›` nine times x, `‹end›` the end, `‹silence›` silence.
fn said(line: &str) -> Said {
    let mut said = Said {
        bytes: Vec::new(),
        ends: false,
        falls_silent: false,
    };
    let mut rest = line;
    while let Some((text, after)) = rest.split_once('‹') {
        said.bytes.extend_from_slice(text.as_bytes());
        let (meant, after) = after.split_once('›').unwrap();
        rest = after;
        match (meant, meant.split_once(" × ")) {
            ("end", _) => said.ends = true,
            ("silence", _) => said.falls_silent = true,
            (_, Some((count, what))) => {
                let count = count.replace(',', "").parse().unwrap();
                said.bytes.extend(what.repeat(count).bytes());
            }
            (byte, None) => said.bytes.push(u8::from_str_radix(byte, 16).unwrap()),
        }
    }
    said.bytes.extend_from_slice(rest.as_bytes());
    if !said.ends && !said.falls_silent {
        said.bytes.push(b'\n');
    }
    said
}

async fn replies(socket: &mut BufReader<TcpStream>) -> String {
    let mut reply = String::new();
    let read = tokio::time::timeout(PATIENCE, socket.read_line(&mut reply));
    read.await.expect("a reply in time").unwrap();
    reply.trim_end().to_owned()
}

/// A conversation on a connection of its own; returns it with the replies that came.
async fn converse(server: &Server, lines: &[&str]) -> String {
    let mut socket = BufReader::new(server.socket().await);
    let mut told = String::new();
    let mut awaits_first = !lines[0].starts_with("> ");
    for line in lines {
        if let Some(line) = line.strip_prefix("> ") {
            let said = said(line);
            socket.get_mut().write_all(&said.bytes).await.unwrap();
            if said.ends {
                socket.get_mut().shutdown().await.unwrap();
            }
            writeln!(told, "> {line}\n< {}", replies(&mut socket).await).unwrap();
        } else if *line == "‹closed›" {
            let mut rest = String::new();
            let end = tokio::time::timeout(PATIENCE, socket.read_to_string(&mut rest));
            end.await.expect("an end in time").unwrap();
            assert_eq!(rest, "", "after {told}");
            told.push_str("‹closed›\n");
        } else if std::mem::take(&mut awaits_first) {
            writeln!(told, "< {}", replies(&mut socket).await).unwrap();
        }
    }
    told
}

#[tokio::test]
async fn the_conversations_that_stand_alone_are_true() {
    let address = |_| Some("127.0.0.1:7500".to_owned());
    let options = Options {
        addresses: Arc::new(address),
        frame_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let server = Server::start_as(options.clone()).await;
    let full = Server::start_as(Options {
        connections_max: 0,
        ..options
    })
    .await;
    let document = document();
    let (mut told, mut seen) = (String::new(), 0);
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        writeln!(told, "{line}").unwrap();
        let server = match line {
            "```wire-alone" => &server,
            "```wire-full" => &full,
            _ => continue,
        };
        let conversation: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        told.push_str(&converse(server, &conversation).await);
        told.push_str("```\n");
        seen += 1;
    }
    assert!(seen >= 4, "only {seen} conversations");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(DOCUMENT, &told).unwrap();
        return;
    }
    for (number, (is, should)) in document.lines().zip(told.lines()).enumerate() {
        assert_eq!(is, should, "docs/wire_protocol.md:{}", number + 1);
    }
    assert_eq!(document.lines().count(), told.lines().count());
}
