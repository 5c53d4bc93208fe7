//! The links between replicas: one stream from each replica to every other.
//!
//! A replica opens one client stream to every other internal address and sends there; what the
//! others say arrives on its own listener ([`crate::grpc::peer`]). A peer counts as linked while
//! the outgoing stream is open. Messages may be lost: a full queue drops the oldest, and a new
//! connection starts empty. Nothing here knows what the messages mean, and nothing here blocks
//! the replica's thread.
//!
//! The fast path of the election begins here: a killed process closes its sockets, the stream to
//! it ends at once, the one immediate attempt to reconnect is refused, and the replica hears
//! `link_down(refused)` within a few milliseconds.

mod link;
mod queue;
mod refusing;
#[cfg(test)]
mod tests;

use crate::config::Address;
use crate::grpc::peer_convert::Identity;
use crate::limits;
use crate::proto::peer::peer_service_client::PeerServiceClient;
use crate::proto::peer::{RelayRequest, relay_request, relay_response};
use crate::replica::PeerMessage;
use crate::replica::transport::{PeerInbox, Transport};
use crate::types::ReplicaId;
use queue::Queue;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tonic::transport::Channel;

/// Where what arrives goes: the replica's queue, or a test's.
pub trait Inbox: Send + Sync + 'static {
    /// Messages from a peer that came together.
    fn deliver(&self, messages: Vec<PeerMessage>);
    /// The outgoing stream to `peer` is open.
    fn link_up(&self, peer: ReplicaId);
    /// It closed; `refused`: and nobody listens there any more. A link that is down may be
    /// reported again when a later attempt is refused.
    fn link_down(&self, peer: ReplicaId, refused: bool);
}

impl Inbox for PeerInbox {
    fn deliver(&self, messages: Vec<PeerMessage>) {
        PeerInbox::deliver(self, messages);
    }
    fn link_up(&self, peer: ReplicaId) {
        PeerInbox::link_up(self, peer);
    }
    fn link_down(&self, peer: ReplicaId, refused: bool) {
        PeerInbox::link_down(self, peer, refused);
    }
}

/// The links of one replica to all others. Cheap to clone.
#[derive(Clone)]
pub struct Links {
    shared: Arc<Shared>,
}

struct Shared {
    me: ReplicaId,
    /// Told to the others, for redirection.
    client_addr: String,
    /// The same for clients of the wire protocol; empty without that front.
    wire_addr: String,
    peers: BTreeMap<ReplicaId, Arc<Peer>>,
    inbox: OnceLock<Arc<dyn Inbox>>,
    door: refusing::Door,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// What is known about one other replica.
pub(crate) struct Peer {
    id: ReplicaId,
    address: Address,
    queue: Queue,
    /// From the newest consensus message sent: goes on messages that carry none.
    identity: Mutex<Option<Identity>>,
    /// While the link is up: for relayed admin requests.
    channel: Mutex<Option<Channel>>,
    client_addr: Mutex<Option<String>>,
    wire_addr: Mutex<Option<String>>,
    /// It has just connected to us: it is up, so do not wait with connecting to it.
    knock: Notify,
}

impl Links {
    /// Links of replica `me`, not started. `addresses` are the internal ones of all replicas, its
    /// own included (it is ignored); `client_addr` is what the others tell clients.
    pub fn new(
        me: ReplicaId,
        addresses: &BTreeMap<ReplicaId, Address>,
        client_addr: String,
    ) -> Self {
        Self::with_wire(me, addresses, client_addr, String::new())
    }

    /// The same with what the others tell clients of the wire protocol; empty: nothing.
    pub fn with_wire(
        me: ReplicaId,
        addresses: &BTreeMap<ReplicaId, Address>,
        client_addr: String,
        wire_addr: String,
    ) -> Self {
        let peers = addresses
            .iter()
            .filter(|(id, _)| **id != me)
            .map(|(id, address)| (*id, Arc::new(Peer::new(*id, address.clone()))))
            .collect();
        Self {
            shared: Arc::new(Shared {
                me,
                client_addr,
                wire_addr,
                peers,
                inbox: OnceLock::new(),
                door: refusing::Door::default(),
                tasks: Mutex::new(Vec::new()),
            }),
        }
    }

    /// Starts connecting; what arrives goes to `inbox`. Once only; within a tokio runtime.
    pub fn start(&self, inbox: Arc<dyn Inbox>) {
        assert!(
            self.shared.inbox.set(Arc::clone(&inbox)).is_ok(),
            "links are started once"
        );
        let mut tasks = lock(&self.shared.tasks);
        for peer in self.shared.peers.values() {
            let task = link::Link {
                me: self.shared.me,
                client_addr: self.shared.client_addr.clone(),
                wire_addr: self.shared.wire_addr.clone(),
                peer: Arc::clone(peer),
                inbox: Arc::clone(&inbox),
            };
            tasks.push(tokio::spawn(task.run()).abort_handle());
        }
    }

    /// Closes every outgoing link.
    pub fn stop(&self) {
        for task in lock(&self.shared.tasks).drain(..) {
            task.abort();
        }
    }

    /// This replica.
    pub fn me(&self) -> ReplicaId {
        self.shared.me
    }

    /// Every configured replica, this one included, ascending.
    pub fn ids(&self) -> Vec<ReplicaId> {
        let mut ids: Vec<_> = self.shared.peers.keys().copied().collect();
        ids.push(self.shared.me);
        ids.sort_unstable();
        ids
    }

    /// The client address of a replica, once it has told: `HOST:PORT`.
    pub fn client_addr(&self, id: ReplicaId) -> Option<String> {
        if id == self.shared.me {
            return Some(self.shared.client_addr.clone());
        }
        lock(&self.shared.peers.get(&id)?.client_addr).clone()
    }

    /// The wire address of a replica, once it has told: `HOST:PORT`.
    pub fn wire_addr(&self, id: ReplicaId) -> Option<String> {
        let known = if id == self.shared.me {
            Some(self.shared.wire_addr.clone())
        } else {
            lock(&self.shared.peers.get(&id)?.wire_addr).clone()
        };
        known.filter(|address| !address.is_empty())
    }

    /// Passes an admin request on to another replica and waits for its answer, within a bound.
    pub async fn relay(
        &self,
        to: ReplicaId,
        request: relay_request::Request,
        wait: Duration,
    ) -> Result<relay_response::Response, String> {
        let peer = self.shared.peers.get(&to).ok_or("not configured")?;
        let channel = lock(&peer.channel).clone().ok_or("no connection")?;
        let mut client = PeerServiceClient::new(channel)
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
        let request = RelayRequest {
            to: to.0.into(),
            request: Some(request),
        };
        match tokio::time::timeout(wait, client.relay(request)).await {
            Err(_) => Err(format!("no answer within {} ms", wait.as_millis())),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Ok(Ok(response)) => response
                .into_inner()
                .response
                .ok_or_else(|| "an empty answer".to_owned()),
        }
    }

    pub(crate) fn peer(&self, id: ReplicaId) -> Option<&Arc<Peer>> {
        self.shared.peers.get(&id)
    }

    pub(crate) fn inbox(&self) -> Option<&Arc<dyn Inbox>> {
        self.shared.inbox.get()
    }
}

impl Transport for Links {
    fn send(&self, message: PeerMessage) {
        let Some(peer) = self.shared.peers.get(&message.to()) else {
            return;
        };
        if let PeerMessage::Consensus(consensus) = &message {
            *lock(&peer.identity) = Some(Identity {
                cluster: consensus.cluster,
                from_incarnation: consensus.from_incarnation,
                to_incarnation: consensus.to_incarnation,
                run: consensus.run,
            });
        }
        peer.queue.push(message);
    }
}

impl Peer {
    fn new(id: ReplicaId, address: Address) -> Self {
        Self {
            id,
            address,
            queue: Queue::default(),
            identity: Mutex::new(None),
            channel: Mutex::new(None),
            client_addr: Mutex::new(None),
            wire_addr: Mutex::new(None),
            knock: Notify::new(),
        }
    }

    pub(crate) fn id(&self) -> ReplicaId {
        self.id
    }

    /// Who this replica is, as this peer was last told; `None` before the first message to it.
    pub(crate) fn identity(&self) -> Option<Identity> {
        *lock(&self.identity)
    }

    /// The peer has opened its stream to this replica.
    pub(crate) fn on_stream(&self, client_addr: Option<String>, wire_addr: Option<String>) {
        if client_addr.is_some() {
            *lock(&self.client_addr) = client_addr;
        }
        *lock(&self.wire_addr) = wire_addr;
        self.knock.notify_one();
    }
}

/// Nothing that is kept under these locks can be left half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
