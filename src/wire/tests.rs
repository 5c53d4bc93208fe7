//! The front with real sockets, and a model of a replica behind it.

use super::{Options, serve};
use crate::limits;
use crate::replica::Wake;
use crate::service::fake::Fake;
use crate::service::{HashCost, Service, Settings};
use crate::state_machine::Operation;
use crate::types::Index;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Server {
    pub(super) fake: Fake,
    address: String,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    async fn start_with(options: Options) -> Self {
        Self::start_as(Options {
            addresses: Arc::new(|id| Some(format!("replica-{id}:7500"))),
            ..options
        })
        .await
    }

    /// With all of these options.
    pub(super) async fn start_as(options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, options)
    }

    fn start_on(listener: TcpListener, options: Options) -> Self {
        let fake = Fake::new();
        let settings = Settings {
            hash_cost: HashCost {
                memory_kib: 64,
                passes: 1,
            },
            ..Settings::default()
        };
        let service = Service::new(fake.clone(), settings).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(serve(listener, service, options, async {
            let _ = stopped.await;
        }));
        Self {
            fake,
            address,
            stop,
            ended,
        }
    }

    pub(super) async fn socket(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    pub(super) async fn connect(&self) -> Connection {
        Connection(BufReader::new(self.socket().await))
    }
}

pub(super) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next reply without its canary and line end; empty at the end of the connection.
    pub(super) async fn reply(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.0.read_line(&mut line));
        read.await.expect("a reply in time").unwrap_or_default();
        let end = line.rfind("||").unwrap_or(0);
        if end > 0 {
            let canary = super::codec::canary(&line.as_bytes()[..end + 2]);
            assert_eq!(line.as_bytes()[end + 2..].trim_ascii_end(), canary);
        }
        line.truncate(end);
        line
    }

    pub(super) async fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}||-\n")).await;
        self.reply().await
    }

    /// Fields of a reply.
    pub(super) async fn fields(&mut self, line: &str) -> Vec<String> {
        let reply = self.ask(line).await;
        reply.split("||").map(str::to_owned).collect()
    }

    /// Creates an account; returns its token.
    pub(super) async fn account(&mut self, name: &str) -> String {
        let fields = self.fields(&format!("0||2||{name}||a password")).await;
        assert_eq!(fields[2], "", "{fields:?}");
        fields[5].clone()
    }

    async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut rest)).await;
        // A reset is an end as well.
        end.is_ok()
    }
}

#[tokio::test]
async fn frames_survive_every_cut_of_the_stream() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    for byte in b"8||2||one||-\n" {
        client.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.reply().await, "8||2||||1||replica-2:7500||one");
    let many: Vec<String> = (0..2_000).map(|n| format!("8||2||{n}||-\r\n\n")).collect();
    client.send(many.concat()).await;
    for n in 0..2_000 {
        let expected = format!("8||2||||1||replica-2:7500||{n}");
        assert_eq!(client.reply().await, expected);
    }
}

#[tokio::test]
async fn what_is_not_understood_is_answered_and_the_connection_goes_on() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    for (line, reply) in [
        ("hello", "-||-||FRAME_INVALID||"),
        (
            "8||2||x||00000000",
            "8||2||CANARY_WRONG||1||replica-2:7500||",
        ),
        ("1||1||a||00000000", "1||1||CANARY_WRONG||||"),
        ("5||1||t||-", "5||1||||FIELD_COUNT"),
        ("9||1||-", "9||1||OPCODE_UNKNOWN"),
        ("99||2||-", "99||2||OPCODE_UNKNOWN||1||"),
        ("8||3||-", "8||3||VERSION_UNSUPPORTED||1,2"),
        ("8||65536||-", "8||65536||VERSION_UNSUPPORTED||1,2"),
        ("65536||1||-", "65536||1||OPCODE_UNKNOWN"),
        ("8||0||a||b||c||-", "8||0||VERSION_UNSUPPORTED||1,2"),
        ("2||1||||a||b||c||-", "2||1||TOKEN_MISSING"),
        ("2||1||x||a||b||c||-", "2||1||TOKEN_INVALID"),
        (
            "10||2||-",
            "10||2||TOKEN_MISSING||1||replica-2:7500||the request needs",
        ),
    ] {
        client.send(format!("{line}\n")).await;
        let found = client.reply().await;
        assert!(found.starts_with(reply), "{line}: {found}");
    }
    client.send(b"8||2||\xff\xfe||-\n").await;
    assert!(client.reply().await.starts_with("8||2||NOT_UTF8||"));
    // A frame beyond the limit is told as soon as that is certain, and dropped to its end.
    let long = vec![b'x'; limits::WIRE_FRAME_BYTES_MAX + 10];
    client.send(&long).await;
    assert!(client.reply().await.starts_with("-||-||FRAME_TOO_LONG||"));
    client.send(&long).await;
    client.send("\n8||2||still here||-\n").await;
    assert!(client.reply().await.ends_with("||still here"));
}

#[tokio::test]
async fn half_a_frame_and_silence_ends_with_a_word() {
    let server = Server::start_with(Options {
        frame_timeout: Duration::from_millis(50),
        ..Options::default()
    })
    .await;
    let mut client = server.connect().await;
    // Between frames a client may be silent for ever; here for a few of the deadlines.
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.send("8||2||a||-\n8||2||ha").await;
    assert!(client.reply().await.ends_with("||a"));
    assert!(client.reply().await.starts_with("-||-||FRAME_TIMEOUT||"));
    assert!(client.is_closed().await);
    let mut endless = server.connect().await;
    endless
        .send(vec![b'x'; limits::WIRE_FRAME_BYTES_MAX + 10])
        .await;
    assert!(endless.reply().await.starts_with("-||-||FRAME_TOO_LONG||"));
    assert!(endless.reply().await.starts_with("-||-||FRAME_TIMEOUT||"));
    assert!(endless.is_closed().await);
}

#[tokio::test]
async fn a_client_that_ends_its_input_still_gets_its_replies() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client
        .send("0||1||alice||pw||Alice||-\n8||2||b||-\n8||2||cut")
        .await;
    client.0.get_mut().shutdown().await.unwrap();
    assert!(client.reply().await.starts_with("0||1||||ct_"));
    assert!(client.reply().await.ends_with("||b"));
    assert!(client.reply().await.starts_with("-||-||FRAME_CUT||"));
    assert!(client.is_closed().await);
}

/// Small buffers in the kernel, so that what the server itself holds can be told from outside.
#[tokio::test]
async fn a_client_that_does_not_read_is_bounded_and_then_closed() {
    const SMALL: u32 = 32 * 1024;
    let small = || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(SMALL).unwrap();
        socket.set_send_buffer_size(SMALL).unwrap();
        socket
    };
    let (listener, client) = (small(), small());
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listener.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    let options = Options {
        write_timeout: Duration::from_millis(200),
        ..Options::default()
    };
    let server = Server::start_on(listener, options);
    let mut client = client.connect(address).await.unwrap();
    // Replies are as long as their requests.
    let ping = format!("8||2||{}||-\n", "x".repeat(4_000));
    let mut taken = 0;
    let flood = async {
        loop {
            match client.write(ping.as_bytes()).await {
                Ok(bytes) => taken += bytes,
                Err(_) => return,
            }
        }
    };
    tokio::time::timeout(PATIENCE, flood)
        .await
        .expect("the server closes the connection");
    drop(server);
    // The replies that are kept, one read and one frame; and four buffers of the kernel, which
    // doubles what it is asked for.
    let kept = limits::WIRE_REPLIES_BYTES_MAX + limits::WIRE_READ_BYTES + 2 * ping.len();
    let bound = kept + 4 * 2 * SMALL as usize;
    assert!(taken <= bound, "{taken} bytes were taken, {bound} expected");
    assert!(taken > limits::WIRE_REPLIES_BYTES_MAX, "{taken}: too early");
}

#[tokio::test]
async fn beyond_the_maximum_connections_are_told_so() {
    let server = Server::start_with(Options {
        connections_max: 2,
        ..Options::default()
    })
    .await;
    let mut one = server.connect().await;
    let mut two = server.connect().await;
    for client in [&mut one, &mut two] {
        assert!(client.ask("8||2||x").await.ends_with("||x"));
    }
    let mut three = server.connect().await;
    let refused = three.reply().await;
    assert!(
        refused.starts_with("-||-||TOO_MANY_CONNECTIONS||"),
        "{refused}"
    );
    assert!(three.is_closed().await);
    drop(one);
    // The place is free as soon as the server has seen the end.
    loop {
        let mut next = server.connect().await;
        next.send("8||2||in||-\n").await;
        if next.reply().await.ends_with("||in") {
            break;
        }
    }
}

#[tokio::test]
async fn connections_that_vanish_leave_nothing_behind() {
    let server = Server::start_with(Options {
        connections_max: 50,
        ..Options::default()
    })
    .await;
    for n in 0..500 {
        let mut client = loop {
            // At the maximum the next one must wait for the server to notice the ends.
            let mut client = server.connect().await;
            client.send("8||2||x||-\n").await;
            if client.reply().await.ends_with("||x") {
                break client;
            }
        };
        if n % 2 == 0 {
            client.send("1||1||half a fra").await;
        } else {
            // Requests under way whose replies nobody takes.
            client.send("1||1||nobody||pw||-\n".repeat(3)).await;
        }
    }
    // Once the server has seen all ends there is room for as many as ever.
    let all = async {
        loop {
            let mut clients = Vec::new();
            for _ in 0..50 {
                let mut client = server.connect().await;
                client.send("8||2||x||-\n").await;
                if !client.reply().await.ends_with("||x") {
                    break;
                }
                clients.push(client);
            }
            if clients.len() == 50 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("places are given back");
}

#[tokio::test]
async fn pipelined_requests_start_in_order_and_are_answered_in_order() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let token = client.account("alice").await;
    // A login takes much longer than what is behind it.
    let mut requests = "1||2||alice||a password||-\n".to_owned();
    for n in 0..300 {
        writeln!(requests, "2||2||{token}||alice||m{n}||-").unwrap();
    }
    client.send(requests).await;
    assert!(client.reply().await.starts_with("1||2||||1||"));
    for n in 1..=300 {
        let reply = client.reply().await;
        assert!(reply.starts_with("2||2||||1||"), "{reply}");
        let seq = reply.split("||").nth(6).unwrap();
        assert_eq!(seq, n.to_string());
    }
    let state = server.fake.state();
    let bodies = state
        .writes
        .iter()
        .filter_map(|write| match &write.operation {
            Operation::SendMessage { body, .. } => Some(String::from_utf8(body.clone()).unwrap()),
            _ => None,
        });
    let expected: Vec<_> = (0..300).map(|n| format!("m{n}")).collect();
    assert_eq!(bodies.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_refresh_waits_for_what_comes_and_misses_nothing_in_between() {
    let server = Server::start().await;
    let (mut client, mut sender) = (server.connect().await, server.connect().await);
    let token = client.account("alice").await;
    let refresh = |after: u64, wait: u32| format!("5||2||{token}||{after}||{wait}");
    // The backlog's end comes at once, then there is silence: a sign of life with the cursor.
    let first = client.ask(&refresh(0, 20_000)).await;
    assert_eq!(
        first,
        "5||2||||1||replica-2:7500||0||0||0||1||8||e||||||||||||||"
    );
    let quiet = client.ask(&refresh(0, 100)).await;
    assert_eq!(quiet, "5||2||||1||replica-2:7500||0||0||0||0||8");
    client.send(format!("{}||-\n", refresh(0, 20_000))).await;
    sender
        .ask(&format!("2||2||{token}||alice||a\\p\\x00\\xff"))
        .await;
    let woken = client.reply().await;
    assert!(woken.contains("||1||8||m||2||1||1||alice||"), "{woken}");
    assert!(woken.ends_with("||a\\p\\x00\\xff||text/plain"), "{woken}");
    // Between two refreshes the stream stays: a receipt that comes then is told by the next.
    let bob = Wake::Delivered {
        peer: "bob".into(),
        up_to: Index(7),
    };
    server.fake.wake(&bob);
    let told = client.ask(&refresh(1, 20_000)).await;
    assert!(
        told.ends_with("||1||0||0||1||8||d||7||||||bob||||||"),
        "{told}"
    );
    // A wait that starts elsewhere begins anew, and a look without a wait needs no stream.
    let again = client.ask(&refresh(0, 1_000)).await;
    assert!(again.contains("||m||2||1||"), "{again}");
    let look = client.ask(&format!("5||2||{token}")).await;
    assert!(look.contains("||1||0||0||1||8||m||2||1||"), "{look}");
    let acknowledged = client.ask(&format!("6||2||{token}||1")).await;
    assert_eq!(acknowledged, "6||2||||1||replica-2:7500||1");
    let beyond = client.ask(&refresh(9, 1_000)).await;
    assert!(beyond.starts_with("5||2||CURSOR_BEYOND_END||"), "{beyond}");
    client.send(format!("{}||-\n", refresh(1, 20_000))).await;
    sender.ask(&format!("7||2||{token}")).await;
    loop {
        let ended = client.reply().await;
        if ended.starts_with("5||2||TOKEN_INVALID||") {
            break;
        }
        client.send(format!("{}||-\n", refresh(1, 20_000))).await;
    }
}

#[tokio::test]
async fn batches_are_bounded_and_say_whether_more_is_waiting() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let token = client.account("alice").await;
    let body = "x".repeat(10_000);
    for _ in 0..20 {
        client.ask(&format!("2||2||{token}||alice||{body}")).await;
    }
    for wait in ["0", "5000"] {
        let (mut after, mut heard, mut refreshes) = (0, 0, 0);
        loop {
            let refresh = format!("5||2||{token}||{after}||{wait}");
            let fields = client.fields(&refresh).await;
            let bytes: usize = fields.iter().map(String::len).sum();
            assert!(bytes < 2 * limits::WIRE_BATCH_BYTES_MAX, "{bytes}");
            after = fields[5].parse().unwrap();
            heard += fields.iter().filter(|field| **field == body).count();
            refreshes += 1;
            if fields[7] == "0" {
                break;
            }
        }
        assert_eq!((after, heard), (20, 20));
        assert!((3..8).contains(&refreshes), "{refreshes}");
    }
    let two = client.fields(&format!("5||2||{token}||0||0||2")).await;
    assert_eq!((&*two[5], &*two[7], &*two[8]), ("2", "1", "2"));
    let v1 = client.fields(&format!("5||1||{token}||alice")).await;
    assert_eq!(v1[2].matches("[alice]: ").count(), 7);
}

#[tokio::test]
async fn a_stop_ends_waits_and_answers_what_is_under_way() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let token = client.account("alice").await;
    client.ask(&format!("5||2||{token}||0||1000")).await;
    client
        .send(format!("5||2||{token}||0||60000||-\n8||2||behind||-\n"))
        .await;
    // Answered before the wait ends: the server has both by then.
    let mut idle = server.connect().await;
    idle.ask("8||2||x").await;
    server.stop.send(()).unwrap();
    assert!(client.reply().await.starts_with("5||2||UNAVAILABLE||"));
    assert!(client.reply().await.ends_with("||behind"));
    assert!(client.is_closed().await && idle.is_closed().await);
    tokio::time::timeout(PATIENCE, server.ended)
        .await
        .unwrap()
        .unwrap();
}
