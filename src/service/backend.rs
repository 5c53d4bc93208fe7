//! What the service needs of a replica. [`Handle`] is it; the tests have a model in memory.

use crate::replica::{Consistency, Handle, Outcomes, ReadError, Wake, Watch, WriteError, Written};
use crate::state_machine::{Answer, Command, Query};
use crate::types::{ReplicaId, TokenHash, UserId};
use std::future::Future;
use std::sync::Arc;

/// A running replica as the service sees it. The methods are those of [`Handle`].
pub trait Backend: Clone + Send + Sync + 'static {
    /// What a stream waits on.
    type Watch: Watcher;

    /// Writes through the primary.
    fn write(&self, command: Command) -> impl Future<Output = Result<Written, WriteError>> + Send;
    /// Writes many, each under the caller's own number; every outcome arrives in `outcomes` once.
    fn write_many(&self, commands: Vec<(u64, Command)>, outcomes: &Arc<Outcomes>);
    /// Reads.
    fn read(
        &self,
        query: Query,
        consistency: Consistency,
    ) -> impl Future<Output = Result<Answer, ReadError>> + Send;
    /// Watches a user's inbox.
    fn watch(&self, user: UserId, token: TokenHash) -> Self::Watch;
    /// All account names, ascending.
    fn names(&self) -> Arc<Vec<String>>;
    /// The token was used.
    fn token_used(&self, token: TokenHash);
    /// This replica.
    fn id(&self) -> ReplicaId;
    /// The primary as known here.
    fn primary(&self) -> Option<ReplicaId>;
    /// Would this replica serve a client now?
    fn serves(&self) -> bool;
}

/// Waits for reasons to wake a stream up.
pub trait Watcher: Send + 'static {
    /// The next one. CANCEL SAFE: a call that is dropped before it is ready loses nothing.
    fn next(&mut self) -> impl Future<Output = Wake> + Send;
}

impl Backend for Handle {
    type Watch = Watch;

    async fn write(&self, command: Command) -> Result<Written, WriteError> {
        Handle::write(self, command).await
    }
    fn write_many(&self, commands: Vec<(u64, Command)>, outcomes: &Arc<Outcomes>) {
        Handle::write_many(self, commands, outcomes);
    }
    async fn read(&self, query: Query, consistency: Consistency) -> Result<Answer, ReadError> {
        Handle::read(self, query, consistency).await
    }
    fn watch(&self, user: UserId, token: TokenHash) -> Watch {
        Handle::watch(self, user, token)
    }
    fn names(&self) -> Arc<Vec<String>> {
        Handle::names(self)
    }
    fn token_used(&self, token: TokenHash) {
        Handle::token_used(self, token);
    }
    fn id(&self) -> ReplicaId {
        Handle::id(self)
    }
    fn primary(&self) -> Option<ReplicaId> {
        Handle::primary(self)
    }
    fn serves(&self) -> bool {
        Handle::serves(self)
    }
}

impl Watcher for Watch {
    async fn next(&mut self) -> Wake {
        Watch::next(self).await
    }
}
