//! What the service layer holds of a running replica (skeleton).

use super::{Consistency, ReadError, Status, WriteError, Written};
use crate::state_machine::{Answer, Command, Query};
use crate::types::{InboxSeq, Index, ReplicaId, TokenHash, UserId};
use std::sync::Arc;

/// Speaks to the replica's thread. Cheap to clone.
#[derive(Clone)]
pub struct Handle {}

/// What a stream waits on: one for each open stream.
pub struct Watch {}

/// Why a stream wakes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The inbox has messages up to here. Several are coalesced.
    Inbox(InboxSeq),
    /// A peer acknowledged messages that this user sent. Coalesced by peer.
    Delivered {
        /// Name.
        peer: String,
        /// Newest acknowledged message id.
        up_to: Index,
    },
    /// The stream's token is no longer valid: end it with `TOKEN_INVALID`.
    Revoked,
    /// The primary has been missing for `election_iters` refreshes, or this replica may not serve
    /// reads: end the stream with `UNAVAILABLE`.
    Lost,
    /// The replica shuts down: end the stream with `UNAVAILABLE`.
    ShutDown,
}

#[allow(unused_variables, clippy::unused_self)]
impl Handle {
    /// Writes through the primary, wherever it is; returns when applied on this replica (or with
    /// the primary's reply after a bounded wait).
    pub async fn write(&self, command: Command) -> Result<Written, WriteError> {
        todo!()
    }
    /// Reads.
    pub async fn read(&self, query: Query, consistency: Consistency) -> Result<Answer, ReadError> {
        todo!()
    }
    /// Watches a user's inbox for one stream of this token. Register BEFORE the first read, so
    /// that nothing falls between.
    pub fn watch(&self, user: UserId, token: TokenHash) -> Watch {
        todo!()
    }
    /// All account names, ascending, as applied here: a snapshot that costs nothing to take.
    pub fn names(&self) -> Arc<Vec<String>> {
        todo!()
    }
    /// The token was used: its expiry is put off (coalesced, at most every five minutes).
    pub fn token_used(&self, token: TokenHash) {
        todo!()
    }
    /// This replica.
    pub fn id(&self) -> ReplicaId {
        todo!()
    }
    /// The primary as known here, for the reply's metadata.
    pub fn primary(&self) -> Option<ReplicaId> {
        todo!()
    }
    /// A look inside.
    pub async fn status(&self) -> Option<Status> {
        todo!()
    }
}

#[allow(unused_variables, clippy::unused_self)]
impl Watch {
    /// Waits for the next reason to wake up.
    pub async fn next(&mut self) -> Wake {
        todo!()
    }
}
