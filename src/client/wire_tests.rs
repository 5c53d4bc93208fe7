//! The wire client against servers that send the lines that they are told.

use super::*;
use crate::wire::codec::{FrameError, Reply, canary, v2};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

const LONG: Duration = Duration::from_secs(10);

/// What is done about one frame of a connection.
#[derive(Clone)]
enum Step {
    /// Sends these bytes.
    Say(Vec<u8>),
    /// Never answers.
    Hang,
    /// Closes the connection.
    Close,
}

/// A server that plays its steps, one a frame, over all its connections; then it serves.
struct Script {
    steps: Mutex<Vec<Step>>,
    /// The frames that came, without their canary.
    heard: Mutex<Vec<String>>,
    /// Said at the beginning of each connection.
    greeting: Vec<u8>,
}

impl Script {
    async fn start(steps: Vec<Step>) -> (Arc<Self>, String) {
        Self::start_with(Vec::new(), steps).await
    }

    async fn start_with(greeting: Vec<u8>, mut steps: Vec<Step>) -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        steps.reverse();
        let script = Arc::new(Self {
            steps: Mutex::new(steps),
            heard: Mutex::default(),
            greeting,
        });
        let playing = script.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(playing.clone().play(socket));
            }
        });
        (script, address)
    }

    async fn play(self: Arc<Self>, socket: TcpStream) {
        let mut socket = BufReader::new(socket);
        let _ = socket.get_mut().write_all(&self.greeting).await;
        let mut line = String::new();
        while socket
            .read_line(&mut line)
            .await
            .is_ok_and(|bytes| bytes > 0)
        {
            let frame = line.trim_end();
            // An HTTP/2 client has none.
            let (text, _canary) = frame.rsplit_once("||").unwrap_or((frame, ""));
            self.heard.lock().unwrap().push(text.to_owned());
            let step = self.steps.lock().unwrap().pop();
            match step.unwrap_or_else(|| Step::Say(sent(7))) {
                Step::Say(bytes) => {
                    let _ = socket.get_mut().write_all(&bytes).await;
                }
                Step::Hang => {}
                Step::Close => return,
            }
            line.clear();
        }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

/// The reply to a message that was sent.
fn sent(message_id: u64) -> Vec<u8> {
    let answer = v2::Answer {
        replica: 3,
        primary: String::new(),
        outcome: Ok(v2::Reply::SendMessage(v2::Sent {
            message_id,
            inbox_seq: 1,
            time_us: 5,
        })),
    };
    let mut frame = Vec::new();
    Reply::V2(2, answer).encode(&mut frame);
    frame
}

fn unread(error: FrameError) -> Vec<u8> {
    let mut frame = Vec::new();
    Reply::Unread(error).encode(&mut frame);
    frame
}

fn client(addresses: &[&str]) -> Client {
    client_with(addresses, LONG)
}

fn client_with(addresses: &[&str], deadline: Duration) -> Client {
    let options = Options {
        attempt_timeout: Duration::from_millis(800).min(deadline / 3),
        deadline,
        protocol: Protocol::Wire,
        ..Options::default()
    };
    let cluster = Cluster::connect_with(addresses, options).unwrap();
    let data = SessionData {
        username: "alice".into(),
        user_id: 2,
        device: "default".into(),
        token: "secret".into(),
        client_id: [7; 16],
        next_sequence: 5,
    };
    Client::resume(&cluster, data).unwrap()
}

const FIFTH: &str = "2||2||secret||bob||x||||07070707070707070707070707070707||5";

/// Nobody can tell what a damaged reply said: the same id again, so that it is applied once.
#[tokio::test]
async fn a_damaged_reply_is_asked_for_again_under_the_same_id() {
    let mut damaged = sent(6);
    damaged[9] ^= 1;
    let mut cut = sent(6);
    cut.truncate(12);
    cut.push(b'\n');
    let other_kind = {
        let text = b"8||2||||3||||hello||".to_vec();
        [&text[..], &canary(&text), b"\n"].concat()
    };
    for wrong in [damaged, cut, other_kind] {
        let (script, address) = Script::start(vec![Step::Say(wrong)]).await;
        let receipt = client(&[&address]).send("bob", "x").await.unwrap();
        assert_eq!((receipt.message_id, receipt.attempts), (7, 2));
        assert_eq!(script.heard(), [FIFTH, FIFTH]);
    }
}

#[tokio::test]
async fn after_a_damaged_reply_giving_up_says_that_the_outcome_is_unknown() {
    let mut damaged = sent(6);
    damaged[9] ^= 1;
    let steps = vec![Step::Say(damaged); 10_000];
    let (_script, address) = Script::start(steps).await;
    let client = client_with(&[&address], Duration::from_millis(300));
    let error = client.send("bob", "x").await.unwrap_err();
    assert_eq!(error.reason, "OUTCOME_UNKNOWN", "{error}");
    assert!(error.message.contains("a damaged reply"), "{error}");
}

#[tokio::test]
async fn a_full_replica_is_passed_over_and_nothing_was_asked_of_it() {
    let full = unread(FrameError::TooManyConnections);
    let (first, a) = Script::start_with(full.clone(), vec![Step::Close]).await;
    let (second, b) = Script::start(Vec::new()).await;
    let receipt = client(&[&a, &b]).send("bob", "x").await.unwrap();
    assert_eq!(receipt.message_id, 7);
    assert!(first.heard().len() <= 1);
    assert_eq!(second.heard(), [FIFTH]);
    // Nobody else is there: it was certainly not sent.
    let (_script, address) = Script::start_with(full, vec![Step::Close; 10_000]).await;
    let client = client_with(&[&address], Duration::from_millis(300));
    let error = client.send("bob", "x").await.unwrap_err();
    assert!(
        matches!(error.reason.as_str(), "NOT_APPLIED" | "OUTCOME_UNKNOWN"),
        "{error}"
    );
}

#[tokio::test]
async fn a_silent_replica_and_a_broken_connection_are_passed_over_under_the_same_id() {
    let (silent, a) = Script::start(vec![Step::Hang]).await;
    let (broken, b) = Script::start(vec![Step::Close]).await;
    let (good, c) = Script::start(Vec::new()).await;
    let client = client(&[&a, &b, &c]);
    let receipt = client.send("bob", "x").await.unwrap();
    assert_eq!((receipt.message_id, receipt.attempts), (7, 3));
    for script in [&silent, &broken, &good] {
        assert_eq!(script.heard(), [FIFTH]);
    }
    assert_eq!(client.cluster().stats().failovers, 2);
}

/// The connection itself gives up as well: whoever waits in it is told.
#[tokio::test]
async fn a_connection_on_which_nothing_is_heard_is_given_up() {
    let (script, address) = Script::start(vec![Step::Hang, Step::Hang]).await;
    let channel = wire::Channel::impatient(&address, Duration::from_millis(50));
    let ping = || v2::Request::Ping(v2::Ping::default());
    let (one, two) = tokio::join!(
        channel.ask(wire::Lane::Fast, ping()),
        channel.ask(wire::Lane::Fast, ping())
    );
    for answer in [one, two] {
        assert_eq!(
            answer.unwrap_err().code(),
            Code::Unknown,
            "it may have been done"
        );
    }
    // The next one has a connection of its own.
    channel.ask(wire::Lane::Fast, ping()).await.unwrap();
    assert_eq!(script.heard(), ["8||2||", "8||2||", "8||2||"]);
}

#[tokio::test]
async fn requests_that_share_a_connection_get_their_own_replies() {
    let (script, address) = Script::start((1..=50).map(|n| Step::Say(sent(n))).collect()).await;
    let client = client(&[&address]);
    let sends: Vec<_> = (0..50)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.send("bob", "x").await.unwrap().message_id })
        })
        .collect();
    let mut ids = Vec::new();
    for send in sends {
        ids.push(send.await.unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=50).collect::<Vec<u64>>());
    assert_eq!(script.heard().len(), 50);
}

/// An HTTP/2 server begins with its settings.
const SETTINGS: &[u8] = b"\0\0\x18\x04\0\0\0\0\0\0\x03\0\0\x04\0";

#[tokio::test]
async fn a_server_of_the_other_protocol_is_named_at_once() {
    let (_script, grpc) = Script::start_with(SETTINGS.to_vec(), vec![Step::Close; 100]).await;
    let error = client(&[&grpc]).send("bob", "x").await.unwrap_err();
    assert_eq!(error.reason, "WRONG_PROTOCOL", "{error}");
    assert!(error.message.contains(&grpc) && error.message.contains("speaks gRPC"));
    // One wrong address among right ones is none too many.
    let (good, right) = Script::start(Vec::new()).await;
    client(&[&grpc, &right]).send("bob", "x").await.unwrap();
    assert_eq!(good.heard(), [FIFTH]);

    // And the other way round.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let wire = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(answer_as_wire_servers_do(socket));
        }
    });
    let cluster = Cluster::connect_with([&wire], Options::default()).unwrap();
    let login = Client::login(&cluster, "alice", "pw", "").await;
    let error = login.err().unwrap();
    assert_eq!(error.reason, "WRONG_PROTOCOL", "{error}");
    assert!(
        error.message.contains("speaks the wire protocol"),
        "{error}"
    );
}

async fn answer_as_wire_servers_do(socket: TcpStream) {
    let mut socket = BufReader::new(socket);
    let mut line = Vec::new();
    while socket
        .read_until(b'\n', &mut line)
        .await
        .is_ok_and(|bytes| bytes > 0)
    {
        let reply = match &line[..] {
            b"9||2||-\n" => b"9||2||||1||||1,2||x||1||1||00000000\n".to_vec(),
            _ => unread(FrameError::FrameInvalid),
        };
        let _ = socket.get_mut().write_all(&reply).await;
        line.clear();
    }
}
