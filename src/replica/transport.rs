//! Between the replica and the network.
//!
//! Messages may be lost on either way: a full queue drops them, and consensus lives with that.
//! Link events are never lost, because the fast path of the election hangs on them. Nothing here
//! ever blocks.

use super::queue::Queue;
use super::{Input, PeerMessage};
use crate::types::ReplicaId;
use std::sync::Arc;

/// Sends to the other replicas; never blocks; may lose.
pub trait Transport: Send + Sync + 'static {
    /// Puts one message on its way to [`PeerMessage::to`].
    fn send(&self, message: PeerMessage);
}

/// Through which the network tells the replica what happened. Cheap to clone.
#[derive(Clone)]
pub struct PeerInbox {
    queue: Arc<Queue>,
}

impl PeerInbox {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self { queue }
    }
    /// Messages from a peer came together; those are dropped of which too many wait. This thread may
    /// take the replica's turn with them.
    pub fn deliver(&self, messages: Vec<PeerMessage>) {
        self.queue.push_peer(messages);
    }
    /// A connection to `peer` is open. Never dropped.
    pub fn link_up(&self, peer: ReplicaId) {
        self.queue.push_link(peer, Input::LinkUp(peer));
    }
    /// It closed; `refused`: and nobody listens there any more. Never dropped.
    pub fn link_down(&self, peer: ReplicaId, refused: bool) {
        self.queue
            .push_link(peer, Input::LinkDown { peer, refused });
    }
}
