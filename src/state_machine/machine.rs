//! The machine (skeleton: signatures are fixed, bodies come).

use super::{Answer, Notice, Query, Reply};
use crate::storage::{Slice, StateReader, StorageError};
use crate::types::entry::Entry;
use crate::types::{Hash, Index, Members, TokenHash};

/// What one entry came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The reply to the one who asked; `None` for entries that are not commands.
    pub reply: Option<Reply>,
    /// For those who watch.
    pub notices: Vec<Notice>,
}

/// The state machine of one replica: totals, and what the store does not have yet.
pub struct StateMachine {}

#[allow(unused_variables, clippy::unused_self)]
impl StateMachine {
    /// An empty machine (`None`), or one that stands where the store's last slice does.
    /// Fails if the slice's `machine` bytes are of an unknown format.
    pub fn open(slice: Option<&Slice>) -> Result<Self, StorageError> {
        todo!()
    }
    /// Applies the next entry. Errors are the disk's or an undecodable command's (stop the
    /// replica); a refusal is a reply.
    pub fn apply(
        &mut self,
        reader: &dyn StateReader,
        entry: &Entry,
    ) -> Result<Applied, StorageError> {
        todo!()
    }
    /// Index of the last applied entry.
    pub fn applied(&self) -> Index {
        todo!()
    }
    /// State digest there.
    pub fn digest(&self) -> Hash {
        todo!()
    }
    /// Digests at the last few multiples of 1,024.
    pub fn digests(&self) -> Vec<(Index, Hash)> {
        todo!()
    }
    /// Membership as applied.
    pub fn members(&self) -> &Members {
        todo!()
    }
    /// Reads at the applied index: overlay first, then the store.
    pub fn query(&self, reader: &dyn StateReader, query: &Query) -> Result<Answer, StorageError> {
        todo!()
    }
    /// The oldest part of the overlay as a slice whose index is at most `commit_recorded` (commit
    /// records exist up to there), when it is full or `force`. The overlay keeps it until
    /// `slice_written`. At most one is out at a time.
    pub fn next_slice(&mut self, commit_recorded: Index, force: bool) -> Option<Slice> {
        todo!()
    }
    /// The slice handed out last is in the store (readers see it).
    pub fn slice_written(&mut self) {
        todo!()
    }
    /// Tokens that have been idle for `idle_us` at `now`, at most `limit`: for `ExpireTokens`.
    pub fn idle_tokens(
        &self,
        reader: &dyn StateReader,
        now: crate::types::WallTime,
        idle_us: u64,
        limit: usize,
    ) -> Result<Vec<TokenHash>, StorageError> {
        todo!()
    }
    /// All account names with ids, ascending: for the name index at boot. Reads in pages.
    pub fn names(
        &self,
        reader: &dyn StateReader,
    ) -> Result<Vec<(String, crate::types::UserId)>, StorageError> {
        todo!()
    }
    /// Scans every record and recomputes every level of the digest; returns the total. With it
    /// `verify` compares what is stored with what was summed up.
    pub fn scan_digest(&self, reader: &dyn StateReader) -> Result<Hash, StorageError> {
        todo!()
    }
}
