//! One outgoing link: connect, send until it ends, connect again.

use super::queue::Outgoing;
use super::{Inbox, Peer, lock};
use crate::limits;
use crate::proto::peer::peer_service_client::PeerServiceClient;
use crate::types::ReplicaId;
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

/// How long a closed link may wait for the one immediate attempt before it is reported as down.
/// A refusal by a living host comes within a round trip.
const REFUSAL_WAIT: Duration = Duration::from_millis(20);
/// A link that held for so long was a good one: the next attempt is made at once.
const GOOD_AFTER: Duration = Duration::from_secs(1);

/// The task of one link.
pub(super) struct Link {
    pub(super) me: ReplicaId,
    pub(super) client_addr: String,
    pub(super) wire_addr: String,
    pub(super) peer: Arc<Peer>,
    pub(super) inbox: Arc<dyn Inbox>,
}

/// What the replica was last told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    Up,
    Down,
    Refused,
}

impl Link {
    /// Runs until aborted.
    pub(super) async fn run(self) {
        let mut state = State::Unknown;
        let mut backoff = Duration::ZERO;
        let mut said = String::new();
        loop {
            let began = Instant::now();
            let error = match self.dial(&mut state).await {
                Ok(socket) => self.session(socket, &mut state).await,
                Err(error) => {
                    let refused = error.kind() == io::ErrorKind::ConnectionRefused;
                    let now = if refused { State::Refused } else { State::Down };
                    self.report(&mut state, now);
                    format!("cannot connect to {}: {error}", self.peer.address)
                }
            };
            if said != error {
                tracing::info!(peer = %self.peer.id, "no link to replica {}: {error}", self.peer.id);
                said = error;
            }
            if state == State::Up {
                if began.elapsed() >= GOOD_AFTER {
                    backoff = Duration::ZERO;
                }
                if backoff.is_zero() {
                    // An attempt at once tells whether the process is gone.
                    backoff = next_backoff(backoff);
                    continue;
                }
                self.report(&mut state, State::Down);
            }
            // The first pauses are short: a dying process may accept one more connection before
            // its listener goes, and only the attempt after that one is refused.
            backoff = next_backoff(backoff);
            // The peer's own connection to us says that it is up: then do not wait.
            let _ = timeout(with_jitter(backoff), self.peer.knock.notified()).await;
        }
    }

    /// One attempt. A link that was up is reported as down only when the attempt has told whether
    /// it is refused, or takes too long to tell.
    async fn dial(&self, state: &mut State) -> io::Result<TcpStream> {
        let address = self.peer.address.as_str();
        let attempt = async {
            match timeout(
                Duration::from_millis(limits::PEER_CONNECT_MS),
                TcpStream::connect(address),
            )
            .await
            {
                Ok(result) => result,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        };
        tokio::pin!(attempt);
        let result = tokio::select! {
            result = &mut attempt => result,
            () = sleep(REFUSAL_WAIT) => {
                if *state == State::Up {
                    self.report(state, State::Down);
                }
                attempt.await
            }
        };
        let socket = result?;
        socket.set_nodelay(true)?;
        if *state == State::Up {
            self.report(state, State::Down);
        }
        Ok(socket)
    }

    /// Speaks over a new connection until it ends; returns why.
    async fn session(&self, socket: TcpStream, state: &mut State) -> String {
        let connected = timeout(
            Duration::from_millis(limits::PEER_CONNECT_MS),
            channel_over(socket),
        );
        let channel = match connected.await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return "the handshake takes too long".to_owned(),
        };
        let ended = self.exchange(channel, state).await;
        lock(&self.peer.channel).take();
        self.peer.queue.close();
        match ended {
            Ok(()) => "it closed the connection".to_owned(),
            Err(status) => status.message().to_owned(),
        }
    }

    async fn exchange(&self, channel: Channel, state: &mut State) -> Result<(), tonic::Status> {
        let mut client = PeerServiceClient::new(channel.clone())
            .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
        let outgoing = Outgoing {
            peer: Arc::clone(&self.peer),
            epoch: self.peer.queue.open(),
        };
        let mut request = Request::new(outgoing);
        let metadata = request.metadata_mut();
        metadata.insert("chat-from", u64::from(self.me.0).into());
        metadata.insert("chat-to", u64::from(self.peer.id.0).into());
        if let Ok(client_addr) = MetadataValue::try_from(&self.client_addr) {
            metadata.insert("chat-client-addr", client_addr);
        }
        if let (false, Ok(wire_addr)) = (
            self.wire_addr.is_empty(),
            MetadataValue::try_from(&self.wire_addr),
        ) {
            metadata.insert("chat-wire-addr", wire_addr);
        }
        let answer = timeout(
            Duration::from_millis(limits::PEER_CONNECT_MS),
            client.exchange(request),
        );
        let mut incoming = answer
            .await
            .map_err(|_| tonic::Status::deadline_exceeded("no answer to a new stream"))??
            .into_inner();
        *lock(&self.peer.channel) = Some(channel);
        tracing::info!(peer = %self.peer.id, "linked to replica {}", self.peer.id);
        self.report(state, State::Up);
        while incoming.message().await?.is_some() {}
        Ok(())
    }

    /// Tells the replica what is new.
    fn report(&self, state: &mut State, now: State) {
        if *state == now {
            return;
        }
        *state = now;
        match now {
            State::Up => self.inbox.link_up(self.peer.id),
            State::Down => self.inbox.link_down(self.peer.id, false),
            State::Refused => self.inbox.link_down(self.peer.id, true),
            State::Unknown => {}
        }
    }
}

/// HTTP/2 over a socket that is connected already, so that the reason of a failed connection is
/// the operating system's own.
async fn channel_over(socket: TcpStream) -> Result<Channel, tonic::transport::Error> {
    let (interval, answer) = limits::PEER_KEEPALIVE_MS;
    let mut socket = Some(TokioIo::new(socket));
    Endpoint::from_static("http://replica")
        .initial_stream_window_size(limits::PEER_WINDOW_BYTES)
        .initial_connection_window_size(limits::PEER_WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_millis(interval))
        .keep_alive_timeout(Duration::from_millis(answer))
        .keep_alive_while_idle(true)
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket
                .take()
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            std::future::ready(socket)
        }))
        .await
}

fn next_backoff(last: Duration) -> Duration {
    let (first, most) = limits::PEER_BACKOFF_MS;
    (last * 2).clamp(Duration::from_millis(first), Duration::from_millis(most))
}

fn with_jitter(backoff: Duration) -> Duration {
    backoff + backoff.mul_f64(rand::random::<f64>() / 2.0)
}
