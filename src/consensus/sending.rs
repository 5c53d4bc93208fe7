//! What leaves, and when: in the present term, to who is linked and known, once what it promises is
//! durable.

use super::message::{Body, Message};
use super::node::Node;
use crate::types::{ReplicaId, Term};

impl Node {
    /// Sends in the present term; waits for the term to be durable if it is not.
    pub(super) fn send(&mut self, to: ReplicaId, body: Body) {
        self.send_in_term(to, self.hard.term, body);
    }

    pub(super) fn send_in_term(&mut self, to: ReplicaId, term: Term, body: Body) {
        let Some(peer) = self.peers.get(&to) else {
            return;
        };
        let hello = matches!(body, Body::Hello(_));
        if !peer.link || (peer.run.is_none() && !hello) {
            return;
        }
        let message = Message {
            from: self.config.id,
            to,
            cluster: self.hard.cluster,
            from_incarnation: self.hard.incarnation,
            to_incarnation: peer.incarnation,
            run: self.run,
            term,
            body,
        };
        // A hello says nothing that hangs on the term; holding it back would only delay a boot. But
        // nothing is said in the name of an incarnation that is not durable.
        if self.jobs.life_is_durable() && (hello || self.jobs.term_is_durable(term)) {
            self.ready.messages.push(message);
        } else {
            self.jobs.hold(message);
        }
    }

    pub(super) fn broadcast(&mut self, body: &Body) {
        let peers: Vec<ReplicaId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.send(peer, body.clone());
        }
    }
}
