//! What a [`Replica`] proposes for itself: uses of tokens, and on the primary what expires and is removed.

use super::Replica;
use crate::replica::writes::Origin;
use crate::state_machine::{Command, Operation};
use crate::storage::{StateReader, StorageError};
use crate::types::{TokenHash, WallTime};

/// The primary looks for idle tokens, old messages and invisible rows this often, in microseconds.
const EXPIRE_EVERY_US: u64 = 1_000_000;
/// Tokens in one `ExpireTokens`.
const EXPIRE_MAX: usize = 256;

impl<R: StateReader> Replica<R> {
    /// What the replica itself wants written: uses of tokens, and on the primary their expiry.
    pub(super) fn propose_own(&mut self) -> Result<(), StorageError> {
        let now = self.now.mono;
        if self.stopping.is_some() {
            return Ok(());
        }
        if let Some(tokens) = self.tokens_to_extend()? {
            let operation = Operation::ExtendTokens {
                tokens: tokens.clone(),
            };
            self.writes
                .accept(Origin::Extend(tokens), internal(operation), now);
        }
        if self.serving && now >= self.expire_at && !self.writes.is_expiring() {
            self.expire_at = now.plus(EXPIRE_EVERY_US);
            if let Some(operation) = self.what_expires()? {
                self.writes.accept(Origin::Expire, internal(operation), now);
            }
        }
        Ok(())
    }

    /// Tokens that were used here and that the log does not know as fresh, if it is time. Another
    /// replica, or an earlier run, may have told their use.
    fn tokens_to_extend(&mut self) -> Result<Option<Vec<TokenHash>>, StorageError> {
        if self.primary.is_none() {
            return Ok(None);
        }
        let (now, log_time) = (self.now.mono, self.log_time());
        let (machine, reader) = (&self.machine, &self.reader);
        let tokens = self.tokens.flush(now, |token| {
            let used = machine.token_last_used(reader, token)?;
            Ok(used.map(|used| log_time.0.saturating_sub(used.0)))
        });
        Ok(self.sound(tokens)?.flatten())
    }

    /// Now, by the log's own clock: by this apply judges what is old.
    pub(super) fn log_time(&self) -> WallTime {
        let elapsed = self.now.mono.since(self.applied_at);
        WallTime(self.applied_time.0.saturating_add(elapsed))
    }

    /// Idle tokens, or else old messages, or else rows that nobody can see. By the log's own clock: by
    /// a wall clock that is ahead, the same would be proposed in vain again and again.
    fn what_expires(&mut self) -> Result<Option<Operation>, StorageError> {
        let log_time = self.log_time();
        let idle_us = self.config.token_idle_us;
        let tokens = self
            .machine
            .idle_tokens(&self.reader, log_time, idle_us, EXPIRE_MAX);
        let Some(tokens) = self.sound(tokens)? else {
            return Ok(None);
        };
        if !tokens.is_empty() {
            return Ok(Some(Operation::ExpireTokens { tokens, idle_us }));
        }
        if self.config.retention_us > 0 {
            let before = WallTime(log_time.0.saturating_sub(self.config.retention_us));
            let users = self.machine.old_inboxes(&self.reader, before);
            let users = self.sound(users)?.unwrap_or_default();
            if !users.is_empty() {
                return Ok(Some(Operation::ExpireMessages { users, before }));
            }
        }
        let pending = self.machine.cleanups() > 0;
        Ok(pending.then(Operation::clean_up))
    }
}

fn internal(operation: Operation) -> Command {
    Command {
        auth: None,
        request: None,
        operation,
        front: false,
    }
}
