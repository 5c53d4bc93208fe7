//! What a [`Replica`] proposes for itself: uses of tokens, and on the primary what expires.

use super::Replica;
use crate::replica::writes::Origin;
use crate::state_machine::{Command, Operation};
use crate::storage::{StateReader, StorageError};
use crate::types::WallTime;

/// The primary looks for idle tokens and old messages this often, in microseconds.
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
        if self.primary.is_some()
            && let Some(tokens) = self.tokens.flush(now)
        {
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

    /// Idle tokens, or else old messages. By the log's own clock, by which apply judges too: by a
    /// wall clock that is ahead, the same would be proposed in vain again and again.
    fn what_expires(&mut self) -> Result<Option<Operation>, StorageError> {
        let elapsed = self.now.mono.since(self.applied_at);
        let log_time = WallTime(self.applied_time.0.saturating_add(elapsed));
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
        if self.config.retention_us == 0 {
            return Ok(None);
        }
        let before = WallTime(log_time.0.saturating_sub(self.config.retention_us));
        let users = self.machine.old_inboxes(&self.reader, before);
        let users = self.sound(users)?.unwrap_or_default();
        let found = !users.is_empty();
        Ok(found.then_some(Operation::ExpireMessages { users, before }))
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
