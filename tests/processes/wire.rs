//! The wire protocol as clients without our library use it: old ones, people with `nc`, load
//! generators, and very many at once.

use crate::cluster::{PATIENCE, TestCluster, read_inbox};
use chat::client::{Event, Listen, Protocol};
use std::fmt::Write as _;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A connection that knows lines and nothing else.
pub struct Lines(BufReader<TcpStream>);

impl Lines {
    pub async fn connect(address: &str) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.unwrap()))
    }

    pub async fn send(&mut self, text: &str) {
        let socket = self.0.get_mut();
        socket.write_all(text.as_bytes()).await.unwrap();
    }

    pub async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_line(&mut line));
        read.await.expect("a reply in time").unwrap();
        line.trim_end().to_owned()
    }

    pub async fn ask(&mut self, frame: &str) -> Vec<String> {
        self.send(&format!("{frame}||-\n")).await;
        let line = self.line().await;
        line.split("||").map(str::to_owned).collect()
    }
}

/// A client of version 1 as it was written once: it checks that each reply has exactly the fields
/// that it knows. NEVER CHANGE IT: it stands for clients that nobody can change any more.
struct VersionOne(Lines);

impl VersionOne {
    async fn call(&mut self, opcode: u8, fields: &[&str], replies: usize) -> Vec<String> {
        let frame = format!("{opcode}||1||{}", fields.join("||"));
        let reply = self.0.ask(&frame).await;
        assert_eq!(reply.len(), 2 + replies + 1, "{reply:?}");
        assert_eq!(reply[0], opcode.to_string());
        assert_eq!(reply[1], "1");
        assert_eq!(reply[2 + replies].len(), 8, "the canary: {reply:?}");
        reply[2..2 + replies].to_vec()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_version_1_that_nobody_changes_any_more_is_understood() {
    let cluster = TestCluster::start(1).await;
    let mut old = VersionOne(Lines::connect(cluster.wire_addr(1)).await);
    let created = old.call(0, &["alice", "pw", "Alice A."], 3).await;
    assert_eq!((&*created[0], &*created[2]), ("", "Alice A."));
    let token = created[1].as_str();
    let taken = old.call(0, &["alice", "other", ""], 3).await;
    assert_eq!(taken, ["NAME_TAKEN", "", ""]);
    let login = old.call(1, &["alice", "pw"], 3).await;
    assert_eq!((&*login[0], &*login[2]), ("", "Alice A."));
    assert_eq!(
        old.call(2, &[token, "alice", "alice", "hello"], 1).await,
        [""]
    );
    assert_eq!(
        old.call(3, &[token, "alice", "10", "^a"], 2).await,
        ["", "alice"]
    );
    let batch = old.call(5, &[token, "alice"], 2).await;
    assert_eq!(batch, ["[alice]: hello", ""]);
    assert_eq!(old.call(5, &[token, "alice"], 2).await, ["", ""]);
    assert_eq!(old.call(4, &[token, "alice"], 1).await, [""]);
    assert_eq!(
        old.call(5, &[token, "alice"], 2).await,
        ["", "TOKEN_INVALID"]
    );
}

/// A client of version 2 as it was first released: it sends the fields of that day and takes those
/// that it knows from the front of each reply and of each item, by the widths that the lists name.
/// NEVER CHANGE IT.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_first_version_2_is_understood() {
    let cluster = TestCluster::start(1).await;
    let mut old = Lines::connect(cluster.wire_addr(1)).await;
    let id = |sequence: u32| format!("000102030405060708090a0b0c0d0e0f||{sequence}");
    let created = old
        .ask(&format!("0||2||alice||pw||A||desk||{}", id(1)))
        .await;
    let [
        opcode,
        version,
        error,
        replica,
        primary,
        token,
        user,
        name,
        ..,
    ] = &created[..]
    else {
        panic!("{created:?}");
    };
    assert_eq!(
        [opcode, version, error, replica, name],
        ["0", "2", "", "1", "alice"]
    );
    assert_eq!(primary, cluster.wire_addr(1));
    assert!(user.parse::<u64>().is_ok());
    for _ in 0..2 {
        let sent = old
            .ask(&format!("2||2||{token}||alice||a \\p b||||{}", id(2)))
            .await;
        assert_eq!((&*sent[2], &*sent[6]), ("", "1"), "{sent:?}");
    }
    let batch = old.ask(&format!("5||2||{token}||0||5000||10")).await;
    let (count, width): (usize, usize) = (batch[8].parse().unwrap(), batch[9].parse().unwrap());
    assert!(count >= 1 && width >= 8, "{batch:?}");
    let message = &batch[10..10 + width];
    assert_eq!(
        (&*message[0], &*message[2], &*message[4]),
        ("m", "1", "alice")
    );
    assert_eq!((&*message[6], &*message[7]), ("a \\p b", "text/plain"));
    let acknowledged = old.ask(&format!("6||2||{token}||1||{}", id(3))).await;
    assert_eq!((&*acknowledged[2], &*acknowledged[5]), ("", "1"));
    let page = old.ask(&format!("3||2||{token}||^a||10||")).await;
    assert_eq!((&*page[5], &*page[6], &*page[8]), ("", "1", "alice"));
    let spoken = old.ask("9||2").await;
    assert!(spoken[5].split(',').any(|version| version == "2"));
    let refused = old
        .ask(&format!("2||2||{token}||nobody||x||||{}", id(4)))
        .await;
    assert_eq!(refused[2], "RECIPIENT_UNKNOWN");
    assert_eq!(
        (&*refused[6], &*refused[7]),
        ("", "5"),
        "retry and code: {refused:?}"
    );
    assert_eq!(old.ask(&format!("7||2||{token}||{}", id(5))).await[2], "");
    assert_eq!(
        old.ask(&format!("10||2||{token}")).await[2],
        "TOKEN_INVALID"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_sends_to_a_primary_keep_their_order() {
    pipelined_sends(1).await;
}

/// A send that has to be tried again (an overloaded machine elects in the middle) may be overtaken:
/// here every one must be there once, in whatever order.
#[tokio::test(flavor = "multi_thread")]
async fn pipelined_sends_through_every_replica_all_arrive_once() {
    pipelined_sends(3).await;
}

async fn pipelined_sends(replicas: u16) {
    let cluster = TestCluster::start_on(Protocol::Wire, replicas, &[]).await;
    let bob = cluster.account("bob").await;
    for replica in 1..=replicas {
        let mut client = Lines::connect(cluster.wire_addr(replica)).await;
        let login = client.ask(&format!("0||2||gateway{replica}||pw")).await;
        let token = login[5].clone();
        let mut frames = String::new();
        for number in 0..1_000 {
            writeln!(frames, "2||2||{token}||bob||{replica}-{number}||-").unwrap();
        }
        // Sent while replies are read: a client that only writes would be held back.
        let socket = client.0.into_inner();
        let (read, mut write) = socket.into_split();
        let writing = tokio::spawn(async move {
            write.write_all(frames.as_bytes()).await.unwrap();
            write
        });
        let mut lines = BufReader::new(read).lines();
        let mut previous = 0;
        for _ in 0..1_000 {
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
            let line = line.unwrap().unwrap().expect("a reply for each frame");
            let fields: Vec<&str> = line.split("||").collect();
            assert_eq!(fields[2], "", "{line}");
            let place: u64 = fields[6].parse().unwrap();
            let in_order = place > previous || replicas > 1;
            assert!(in_order, "{place} after {previous}");
            previous = place;
        }
        writing.await.unwrap();
    }
    let inbox = read_inbox(&bob).await;
    let mut bodies: Vec<String> = inbox
        .iter()
        .map(|message| String::from_utf8(message.body.to_vec()).unwrap())
        .collect();
    let mut expected: Vec<String> = (1..=replicas)
        .flat_map(|replica| (0..1_000).map(move |number| format!("{replica}-{number}")))
        .collect();
    if replicas > 1 {
        bodies.sort();
        expected.sort();
    }
    assert!(bodies == expected, "{} messages", bodies.len());
    cluster.finish(&bob).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_with_nc_and_a_client_talk_through_the_kill_of_the_primary() {
    let mut cluster = TestCluster::start_on(Protocol::Wire, 3, &[]).await;
    let bob = cluster.account("bob").await;
    let mut inbox = bob.listen(Listen::default());
    let primary = cluster.primary(&bob).await;
    // The person sits at a replica that stays.
    let mut person = Lines::connect(cluster.wire_addr(primary % 3 + 1)).await;
    let token = person.ask("0||1||alice||pw||Alice").await[3].clone();
    let mut heard_by_bob = Vec::new();
    let mut heard_by_alice = String::new();
    for round in 0..20 {
        if round == 5 {
            cluster.kill(&[primary]);
        }
        if round == 15 {
            cluster.spawn(primary);
        }
        // The person tries again as long as the server says that nothing was done.
        loop {
            let sent = person
                .ask(&format!("2||1||{token}||alice||bob||ping {round}"))
                .await;
            match sent[2].as_str() {
                "" => break,
                "NOT_APPLIED" | "UNAVAILABLE" => {}
                other => panic!("{other}"),
            }
        }
        loop {
            let event = tokio::time::timeout(PATIENCE, inbox.next()).await;
            if let Event::Message(message) = event.unwrap().unwrap().unwrap() {
                heard_by_bob.push(String::from_utf8(message.body.to_vec()).unwrap());
                break;
            }
        }
        bob.send("alice", format!("pong {round}")).await.unwrap();
        loop {
            let batch = person.ask(&format!("5||1||{token}||alice")).await;
            if batch[3].is_empty() && !batch[2].is_empty() {
                heard_by_alice.push_str(&batch[2]);
                break;
            }
        }
    }
    let pings: Vec<String> = (0..20).map(|round| format!("ping {round}")).collect();
    assert_eq!(heard_by_bob, pings);
    let pongs: Vec<String> = (0..20)
        .map(|round| format!("[bob]: pong {round}"))
        .collect();
    assert_eq!(heard_by_alice, pongs.concat());
    drop(inbox);
    cluster.finish(&bob).await;
}

/// Resident memory of a process in bytes.
#[cfg(target_os = "linux")]
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_cost_little() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    // Here, and inherited by the server.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    // Fewer would be another test. In a shell as root: `ulimit -Hn 20000`.
    assert!(
        allowed >= 10_500,
        "this test opens 10,000 sockets, and the hard limit of open files (ulimit -Hn) is {allowed}"
    );
    let count = 10_000;

    let cluster = TestCluster::start(1).await;
    let mut one = Lines::connect(cluster.wire_addr(1)).await;
    one.ask("8||2||x").await;
    let before = resident(cluster.pid(1));
    let mut idle = Vec::with_capacity(count);
    for number in 0..count {
        // Each has been used, so that what it gives back is measured as well.
        let mut client = Lines::connect(cluster.wire_addr(1)).await;
        assert_eq!(
            client.ask(&format!("8||2||{number}")).await[5],
            number.to_string()
        );
        idle.push(client);
    }
    let after = resident(cluster.pid(1));
    let each = after.saturating_sub(before) / count;
    // Both: what the start left behind may be given back meanwhile, and hide a part.
    println!(
        "{count} idle connections: {each} bytes each ({before} resident before, {after} after)"
    );
    assert!(each < 16 * 1024, "{each} bytes each");
    // All are still served, and so is a new one.
    for client in idle.iter_mut().step_by(1_000) {
        assert_eq!(client.ask("8||2||still there").await[5], "still there");
    }
    let alice = cluster.account("alice").await;
    drop(idle);
    cluster.finish(&alice).await;
}
