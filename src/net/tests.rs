//! Links between real listeners on loopback.

use super::*;
use crate::consensus::{Body, Message};
use crate::grpc::peer;
use crate::state_machine::Command;
use crate::types::refusals::RefusalKind;
use crate::types::{ClusterId, Incarnation, RunNonce, Term};
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Far longer than anything here takes: a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq)]
enum Heard {
    Message(PeerMessage),
    Up(ReplicaId),
    Down(ReplicaId, bool),
}

struct TestInbox(mpsc::UnboundedSender<Heard>);

impl Inbox for TestInbox {
    fn deliver(&self, messages: Vec<PeerMessage>) {
        for message in messages {
            let _ = self.0.send(Heard::Message(message));
        }
    }
    fn link_up(&self, peer: ReplicaId) {
        let _ = self.0.send(Heard::Up(peer));
    }
    fn link_down(&self, peer: ReplicaId, refused: bool) {
        let _ = self.0.send(Heard::Down(peer, refused));
    }
}

/// One replica's network, without a replica.
struct Node {
    links: Links,
    heard: mpsc::UnboundedReceiver<Heard>,
    server: JoinHandle<()>,
}

impl Node {
    fn start(id: u16, addresses: &BTreeMap<ReplicaId, Address>, listener: TcpListener) -> Self {
        let links = Links::new(ReplicaId(id), addresses, format!("client-{id}:1"));
        let (sender, heard) = mpsc::unbounded_channel();
        links.start(Arc::new(TestInbox(sender)));
        let serving = links.clone();
        let server = tokio::spawn(async move {
            peer::serve(listener, serving, None).await.unwrap();
        });
        Self {
            links,
            heard,
            server,
        }
    }

    async fn hear(&mut self) -> Heard {
        let heard = timeout(PATIENCE, self.heard.recv()).await;
        heard.expect("something happens").expect("the links live")
    }

    /// Waits for a link, whatever came before it.
    async fn linked(&mut self, peer: u16) {
        while self.hear().await != Heard::Up(ReplicaId(peer)) {}
    }
}

async fn listeners(count: u16) -> (BTreeMap<ReplicaId, Address>, Vec<TcpListener>) {
    let mut addresses = BTreeMap::new();
    let mut listeners = Vec::new();
    for id in 1..=count {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        addresses.insert(ReplicaId(id), Address::parse(&address).unwrap());
        listeners.push(listener);
    }
    (addresses, listeners)
}

async fn pair() -> (Node, Node) {
    let (addresses, mut listeners) = listeners(2).await;
    let second = listeners.pop().unwrap();
    let first = listeners.pop().unwrap();
    let mut one = Node::start(1, &addresses, first);
    let mut two = Node::start(2, &addresses, second);
    one.linked(2).await;
    two.linked(1).await;
    (one, two)
}

fn round(from: u16, to: u16, nonce: u64) -> PeerMessage {
    PeerMessage::Consensus(Message {
        from: ReplicaId(from),
        to: ReplicaId(to),
        cluster: Some(ClusterId([1; 32])),
        from_incarnation: Incarnation([from as u8; 16]),
        to_incarnation: Some(Incarnation([to as u8; 16])),
        run: RunNonce(7),
        term: Term(3),
        body: Body::Round { nonce },
    })
}

fn forward(from: u16, to: u16) -> PeerMessage {
    let nothing: (Option<()>, Option<()>, &str) = (None, None, "DeleteAccount");
    let bytes = rmp_serde::to_vec(&nothing).unwrap();
    let command: Command = rmp_serde::from_slice(&bytes).unwrap();
    PeerMessage::Forward {
        from: ReplicaId(from),
        to: ReplicaId(to),
        run: RunNonce(7),
        nonce: 1,
        command,
    }
}

#[tokio::test]
async fn messages_arrive_in_order_in_both_directions() {
    let (mut one, mut two) = pair().await;
    for nonce in 0..1000 {
        one.links.send(round(1, 2, nonce));
    }
    two.links.send(round(2, 1, 7));
    for nonce in 0..1000 {
        assert_eq!(two.hear().await, Heard::Message(round(1, 2, nonce)));
    }
    assert_eq!(one.hear().await, Heard::Message(round(2, 1, 7)));
    assert_eq!(
        two.links.client_addr(ReplicaId(1)).as_deref(),
        Some("client-1:1")
    );
}

#[tokio::test]
async fn a_closed_listener_is_a_refusal_at_once() {
    let (addresses, mut listeners) = listeners(2).await;
    let mut one = Node::start(1, &addresses, listeners.remove(0));
    // Stands for a process: its runtime owns every socket, and all close when it goes.
    let other = std::thread::spawn({
        let listener = listeners.remove(0).into_std().unwrap();
        let addresses = addresses.clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        move || {
            let thread = std::thread::spawn(move || {
                runtime.block_on(async {
                    let listener = TcpListener::from_std(listener).unwrap();
                    let _two = Node::start(2, &addresses, listener);
                    let _ = stopped.await;
                });
            });
            (stop, thread)
        }
    });
    let (stop, thread) = other.join().unwrap();
    one.linked(2).await;
    stop.send(()).unwrap();
    thread.join().unwrap();
    let closed = Instant::now();
    // A connection that was still in the listener's queue may be reset before it is refused.
    while one.hear().await != Heard::Down(ReplicaId(2), true) {}
    assert!(
        closed.elapsed() < Duration::from_millis(500),
        "{:?}",
        closed.elapsed()
    );
}

#[tokio::test]
async fn a_peer_that_comes_back_is_linked_again() {
    let (addresses, mut listeners) = listeners(2).await;
    drop(listeners.pop());
    let mut one = Node::start(1, &addresses, listeners.pop().unwrap());
    assert_eq!(one.hear().await, Heard::Down(ReplicaId(2), true));
    let address = addresses[&ReplicaId(2)].as_str();
    let listener = TcpListener::bind(address).await.unwrap();
    let mut two = Node::start(2, &addresses, listener);
    one.linked(2).await;
    two.linked(1).await;
    one.links.send(round(1, 2, 1));
    assert_eq!(two.hear().await, Heard::Message(round(1, 2, 1)));
}

#[tokio::test]
async fn a_wrong_address_never_counts_as_a_link() {
    let (mut addresses, mut listeners) = listeners(3).await;
    let _three = Node::start(3, &addresses, listeners.pop().unwrap());
    // Replica 1 was given replica 3's address for replica 2.
    let wrong = addresses[&ReplicaId(3)].clone();
    addresses.insert(ReplicaId(2), wrong);
    let mut one = Node::start(1, &addresses, listeners.remove(0));
    let mut said = Vec::new();
    while !said.contains(&Heard::Up(ReplicaId(3))) {
        said.push(one.hear().await);
    }
    assert!(!said.contains(&Heard::Up(ReplicaId(2))), "{said:?}");
}

#[tokio::test]
async fn a_forward_for_another_cluster_stops_at_the_door() {
    let (one, mut two) = pair().await;
    // Neither has said who it is: the forward belongs to no cluster.
    one.links.send(forward(1, 2));
    one.links.send(round(1, 2, 1));
    assert_eq!(two.hear().await, Heard::Message(round(1, 2, 1)));
    let key = (ReplicaId(1), RefusalKind::ForeignWrite);
    let count = |two: &Node| two.links.refusals().rows()[&key].count;
    assert_eq!(count(&two), 1);
    // Now both have, and agree.
    two.links.send(round(2, 1, 1));
    one.links.send(forward(1, 2));
    assert_eq!(two.hear().await, Heard::Message(forward(1, 2)));
    // And now the first says that it is of another cluster.
    let elsewhere = |nonce| {
        let mut message = round(1, 2, nonce);
        if let PeerMessage::Consensus(message) = &mut message {
            message.cluster = Some(ClusterId([9; 32]));
        }
        message
    };
    one.links.send(elsewhere(2));
    one.links.send(forward(1, 2));
    one.links.send(elsewhere(3));
    assert_eq!(two.hear().await, Heard::Message(elsewhere(2)));
    assert_eq!(two.hear().await, Heard::Message(elsewhere(3)));
    assert_eq!(count(&two), 2);
    // Or another life of replica 1 than the one that replica 2 speaks with.
    let other = |nonce| {
        let mut other = round(1, 2, nonce);
        if let PeerMessage::Consensus(message) = &mut other {
            message.from_incarnation = Incarnation([9; 16]);
        }
        other
    };
    one.links.send(other(4));
    one.links.send(forward(1, 2));
    one.links.send(other(5));
    assert_eq!(two.hear().await, Heard::Message(other(4)));
    assert_eq!(two.hear().await, Heard::Message(other(5)));
    assert_eq!(count(&two), 3);
    // A replica that comes back does that, too.
    assert!(two.links.complaints().is_empty(), "nobody must look at it");
}

#[tokio::test]
async fn a_message_with_a_wrong_sender_ends_the_stream_and_is_counted() {
    let (one, mut two) = pair().await;
    // Replica 1 speaks for replica 3.
    let mut lie = round(1, 2, 1);
    if let PeerMessage::Consensus(message) = &mut lie {
        message.from = ReplicaId(3);
    }
    one.links.send(lie);
    one.links.send(round(1, 2, 2));
    let mut one = one;
    loop {
        match one.hear().await {
            Heard::Down(ReplicaId(2), _) => break,
            Heard::Message(_) | Heard::Up(_) | Heard::Down(..) => {}
        }
    }
    assert!(two.links.complaints()[0].contains("from replica 3 to replica 2"));
    // News for a while, not for ever: `status` says that all is well again.
    let shown = limits::COMPLAINT_SHOWN_SECONDS * 1_000_000;
    let later = two.links.door_clock().plus(shown);
    assert!(two.links.complaints_at(later).is_empty());
    // The count stays.
    let key = (ReplicaId(1), RefusalKind::Misdirected);
    assert_eq!(two.links.refusals().rows()[&key].count, 1);
    // The stream was cut before the second message, and a new one carries on.
    one.linked(2).await;
    one.links.send(round(1, 2, 3));
    assert_eq!(two.hear().await, Heard::Message(round(1, 2, 3)));
}

#[tokio::test]
async fn bytes_that_are_no_http_harm_nobody() {
    use tokio::io::AsyncWriteExt;
    let (addresses, mut listeners) = listeners(2).await;
    let mut one = Node::start(1, &addresses, listeners.remove(0));
    let mut socket = TcpStream::connect(addresses[&ReplicaId(1)].as_str())
        .await
        .unwrap();
    socket.write_all(&[0xff; 4096]).await.unwrap();
    let mut two = Node::start(2, &addresses, listeners.remove(0));
    one.linked(2).await;
    two.linked(1).await;
    assert!(!one.server.is_finished());
}

#[tokio::test]
async fn a_stranger_s_connections_are_bounded_and_replicas_find_room_when_they_end() {
    use tokio::io::AsyncReadExt as _;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = |listener: &TcpListener| {
        let address = listener.local_addr().unwrap().to_string();
        Address::parse(&address).unwrap()
    };
    let addresses = BTreeMap::from([(ReplicaId(1), at(&listener)), (ReplicaId(2), at(&other))]);
    let address = listener.local_addr().unwrap();
    let _first = Node::start(1, &addresses, listener);
    let mut strangers = Vec::new();
    for _ in 0..limits::PEER_CONNECTIONS_MAX {
        strangers.push(TcpStream::connect(address).await.unwrap());
    }
    let mut last = TcpStream::connect(address).await.unwrap();
    let closed = timeout(PATIENCE, last.read_u8()).await;
    closed.expect("one too many is closed").unwrap_err();
    drop(strangers);
    let mut second = Node::start(2, &addresses, other);
    second.linked(1).await;
}
