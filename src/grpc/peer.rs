//! The inter-server API: receives what the other replicas send.
//!
//! Bad input is counted, logged once an hour, and ends that stream; it never reaches the replica.

use super::admin::Admin;
use super::connections::Bounded;
use super::peer_convert::{Expected, Received, from_envelope};
use crate::limits;
use crate::net::{Inbox, Links, Peer};
use crate::proto::peer as proto;
use crate::proto::peer::peer_service_server::{PeerService, PeerServiceServer};
use crate::proto::peer::{relay_request, relay_response};
use crate::replica::PeerMessage;
use crate::types::ReplicaId;
use crate::types::refusals::RefusalKind;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::{Request, Response, Status, Streaming};

/// Everything that the internal listener serves.
pub fn router(links: Links, admin: Option<Arc<Admin>>) -> Router {
    let (interval, answer) = limits::PEER_KEEPALIVE_MS;
    let service = PeerServiceServer::new(PeerApi { links, admin })
        .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
    tonic::transport::Server::builder()
        .max_concurrent_streams(limits::PEER_STREAMS_MAX)
        .http2_max_header_list_size(limits::PEER_HEADER_BYTES_MAX)
        .initial_stream_window_size(limits::PEER_WINDOW_BYTES)
        .initial_connection_window_size(limits::PEER_WINDOW_BYTES)
        .http2_keepalive_interval(Some(Duration::from_millis(interval)))
        .http2_keepalive_timeout(Some(Duration::from_millis(answer)))
        .add_service(service)
}

/// Of TCP: a peer that is gone without a word is noticed also before it has spoken HTTP/2.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Serves the others on the internal listener until dropped.
pub async fn serve(
    listener: tokio::net::TcpListener,
    links: Links,
    admin: Option<Arc<Admin>>,
) -> Result<(), tonic::transport::Error> {
    let incoming = TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .with_keepalive(Some(KEEPALIVE));
    let bound = ("replicas", limits::PEER_CONNECTIONS_MAX);
    let incoming = Bounded::new(incoming, bound, Arc::default());
    router(links, admin).serve_with_incoming(incoming).await
}

struct PeerApi {
    links: Links,
    /// `None` only in tests of the links alone.
    admin: Option<Arc<Admin>>,
}

#[tonic::async_trait]
impl PeerService for PeerApi {
    type ExchangeStream = ReceiverStream<Result<proto::ExchangeResponse, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<proto::ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let peer = self.caller(request.metadata())?;
        let inbox = self
            .links
            .inbox()
            .ok_or_else(|| Status::unavailable("the replica is starting"))?;
        let address = |name| {
            let value = request.metadata().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        peer.on_stream(address("chat-client-addr"), address("chat-wire-addr"));
        // Never used but for the reason of an end; its existence keeps the response open.
        let (ended, response) = mpsc::channel(1);
        let incoming = Incoming {
            links: self.links.clone(),
            peer: Arc::clone(peer),
            inbox: Arc::clone(inbox),
        };
        let stream = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) = incoming.receive(stream).await {
                // The sender may be gone already: then nobody needs the reason.
                let _ = ended.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(response)))
    }

    async fn relay(
        &self,
        request: Request<proto::RelayRequest>,
    ) -> Result<Response<proto::RelayResponse>, Status> {
        let request = request.into_inner();
        if request.to != u32::from(self.links.me().0) {
            let refused = wrong_replica(self.links.me(), &request.to.to_string());
            self.links
                .refuse(None, RefusalKind::Misdirected, refused.message());
            return Err(refused);
        }
        let admin = self
            .admin
            .as_ref()
            .ok_or_else(|| Status::unavailable("no admin interface"))?;
        let Some(request) = request.request else {
            let why = "a relayed request is missing";
            self.links.refuse(None, RefusalKind::Malformed, why);
            return Err(Status::invalid_argument(why));
        };
        let response = match request {
            relay_request::Request::Status(_) => {
                relay_response::Response::Status(admin.local_status().await)
            }
            relay_request::Request::Verify(verify) => {
                relay_response::Response::Verify(admin.local_verify(verify.at).await?)
            }
        };
        Ok(Response::new(proto::RelayResponse {
            response: Some(response),
        }))
    }
}

impl PeerApi {
    /// Who opened the stream; refuses strangers and those who meant another replica.
    fn caller(&self, metadata: &MetadataMap) -> Result<&Arc<Peer>, Status> {
        let me = self.links.me();
        let (from, to) = (number(metadata, "chat-from"), number(metadata, "chat-to"));
        let peer = from
            .parse()
            .ok()
            .and_then(|id| self.links.peer(ReplicaId(id)));
        if to != me.0.to_string() {
            let refused = wrong_replica(me, &to);
            let from = peer.map(|peer| peer.id());
            self.links
                .refuse(from, RefusalKind::Misdirected, refused.message());
            return Err(refused);
        }
        peer.ok_or_else(|| {
            let why = format!("replica {me} does not know a replica {from}: check --peers");
            self.links.refuse(None, RefusalKind::Stranger, &why);
            Status::failed_precondition(why)
        })
    }
}

/// As the caller wrote it, cut where it is no number any more.
fn number(metadata: &MetadataMap, name: &str) -> String {
    let text = metadata.get(name).and_then(|value| value.to_str().ok());
    let mut text = text.unwrap_or("nobody").to_owned();
    text.truncate(20);
    text
}

fn wrong_replica(me: ReplicaId, wanted: &str) -> Status {
    Status::failed_precondition(format!(
        "replica {me} answers at this address, not replica {wanted}: check --peers"
    ))
}

/// One stream from one peer.
struct Incoming {
    links: Links,
    peer: Arc<Peer>,
    inbox: Arc<dyn Inbox>,
}

impl Incoming {
    async fn receive(&self, mut stream: Streaming<proto::ExchangeRequest>) -> Result<(), Status> {
        let expected = Expected {
            from: self.peer.id(),
            to: self.links.me(),
        };
        loop {
            let request = match stream.message().await {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(status) => {
                    // The end of a connection has a cause below; bytes that do not decode have none.
                    if status.source().is_none() {
                        self.refuse(RefusalKind::Malformed, status.message());
                    }
                    return Err(status);
                }
            };
            // What came before a bad one is good.
            let mut messages = Vec::with_capacity(request.envelopes.len());
            let judged = self.judge(request.envelopes, &mut messages, expected);
            self.inbox.deliver(messages);
            judged?;
        }
    }

    fn judge(
        &self,
        envelopes: Vec<proto::Envelope>,
        messages: &mut Vec<PeerMessage>,
        expected: Expected,
    ) -> Result<(), Status> {
        for envelope in envelopes {
            match from_envelope(envelope, expected) {
                Ok(received) => messages.extend(self.accept(received)),
                Err(error) => {
                    self.refuse(error.kind(), &error.to_string());
                    return Err(Status::invalid_argument(error.to_string()));
                }
            }
        }
        Ok(())
    }

    fn refuse(&self, kind: RefusalKind, reason: &str) {
        self.links.refuse(Some(self.peer.id()), kind, reason);
    }

    /// The message, if it may go in. Consensus judges identity itself; a forward carries none into the
    /// replica, so one from or for another cluster or incarnation stops here.
    fn accept(&self, received: Received) -> Option<PeerMessage> {
        if !matches!(received.message, PeerMessage::Consensus(_)) {
            let own = self.peer.identity().unwrap_or_default();
            let to_us = received
                .to_incarnation
                .is_none_or(|incarnation| incarnation == own.from_incarnation);
            // Of a life that is over, what was on its way is nobody's.
            let of_theirs = own
                .to_incarnation
                .is_none_or(|incarnation| incarnation == received.from_incarnation);
            let reason = if own.cluster.is_none() {
                "a write of a replica to which this run has not spoken yet"
            } else if received.cluster != own.cluster {
                "a write belongs to another cluster"
            } else if !to_us {
                "a write is for another incarnation of this replica"
            } else if !of_theirs {
                "a write is from another incarnation of its sender"
            } else {
                return Some(received.message);
            };
            self.refuse(RefusalKind::ForeignWrite, reason);
            return None;
        }
        Some(received.message)
    }
}
