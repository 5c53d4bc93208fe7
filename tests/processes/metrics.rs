//! `--metrics-addr`: what Prometheus reads of a real replica.

use crate::cluster::{TestCluster, eventually};
use std::collections::BTreeSet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const DOCUMENT: &str = include_str!("../../docs/operations.md");

fn address(cluster: &TestCluster, id: u16) -> String {
    address_since(cluster, id, 0).expect("it says where")
}

/// As the first line of a replica's process says it, if that is in its log since `from`; the port was
/// chosen by the system.
pub fn address_since(cluster: &TestCluster, id: u16, from: usize) -> Option<String> {
    let log = cluster.log_since(id, from);
    let (_, after) = log.split_once("metrics on ")?;
    Some(after.split_once(char::is_whitespace)?.0.to_owned())
}

async fn request(address: &str, line: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("{line}\r\nHost: {address}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The page of a replica, after checks of the HTTP around it.
pub async fn scrape(address: &str) -> String {
    let answer = request(address, "GET /metrics HTTP/1.1").await;
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"));
    assert!(head.contains(&format!("Content-Length: {}\r\n", page.len())));
    page.to_owned()
}

/// Of the line that begins with this name and these labels: a whole number. `None` while the
/// replica's thread is too busy to say it.
pub fn known(page: &str, name: &str) -> Option<u64> {
    let mut lines = page.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

fn value(page: &str, name: &str) -> u64 {
    known(page, name).unwrap_or_else(|| panic!("no {name} in\n{page}"))
}

/// What the page has, and what the document says of it: name and type.
fn names(page: &str) -> BTreeSet<(String, String)> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            (name.to_owned(), kind.to_owned())
        })
        .collect()
}

fn documented() -> BTreeSet<(String, String)> {
    let rows = DOCUMENT.lines().filter(|row| row.starts_with("| `chat_"));
    let mut all = BTreeSet::new();
    for row in rows {
        let mut cells = row.split(" | ");
        let (names, kind) = (cells.next().unwrap(), cells.next().unwrap());
        for name in names.split('`').skip(1).step_by(2) {
            let name = name.split('{').next().unwrap();
            all.insert((name.to_owned(), kind.to_owned()));
        }
    }
    all
}

/// Each name is announced once, and each line of values belongs to the name above it.
fn is_well_formed(page: &str) {
    let mut announced = BTreeSet::new();
    let mut last = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            last = rest.split(' ').next().unwrap();
            assert!(announced.insert(last), "{last} twice");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(last), "{line} under {last}");
            value.parse::<f64>().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_are_those_of_the_document_and_count_what_clients_do() {
    let cluster = TestCluster::start_with(3, &["--metrics-addr", "127.0.0.1:0"]).await;
    let (alice, _bob) = (cluster.account("alice").await, cluster.account("bob").await);
    for _ in 0..5 {
        alice.send("bob", "counted").await.unwrap();
    }
    let addresses: Vec<String> = (1..=3).map(|id| address(&cluster, id)).collect();
    // Elections may come between: all three must agree, with everything applied.
    let pages = eventually("pages that agree", || async {
        let mut pages = Vec::new();
        for address in &addresses {
            pages.push(scrape(address).await);
        }
        let all = |name| pages.iter().map(move |page| value(page, name));
        let applied = all("chat_messages_total").all(|count| count == 5);
        let primary = all("chat_primary").next();
        let agreed = all("chat_primary").all(|id| id != 0 && Some(id) == primary);
        let one = all("chat_role{role=\"primary\"}").sum::<u64>() == 1;
        if applied && agreed && one {
            Ok(pages)
        } else {
            Err(pages.concat())
        }
    })
    .await;
    for page in &pages {
        is_well_formed(page);
        assert_eq!(names(page), documented());
        assert_eq!(value(page, "chat_up"), 1);
        assert!(value(page, "chat_fsync_seconds_count") > 0);
        assert!(value(page, "chat_batch_entries_count") > 0);
        assert!(value(page, "chat_entries_applied_total") >= 7);
        assert!(value(page, "chat_store_bytes") > 0);
    }
    // A client's write is counted by the replica that the client spoke to.
    let writes = pages
        .iter()
        .map(|page| value(page, "chat_writes_total{outcome=\"ok\"}"));
    assert!(writes.sum::<u64>() >= 7, "two accounts, five messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_scrape_is_answered_or_closed_and_the_next_one_is_served() {
    let cluster = TestCluster::start_with(1, &["--metrics-addr", "127.0.0.1:0"]).await;
    let address = address(&cluster, 1);
    for (line, status) in [
        ("GET / HTTP/1.1", "404 "),
        ("POST /metrics HTTP/1.1", "405 "),
        ("\u{1}\u{2}", "400 "),
    ] {
        let answer = request(&address, line).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    // More silent callers than there are places: they are closed, and their places are free again.
    let mut silent = Vec::new();
    for _ in 0..chat::limits::METRICS_CONNECTIONS_MAX {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    scrape(&address).await;
    for socket in &mut silent {
        assert_eq!(socket.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
