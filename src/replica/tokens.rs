//! Uses of tokens, gathered: an entry for each use would be an entry for each request.

use crate::limits::{EXTEND_TOKENS_MAX, TOKEN_EXTEND_SECONDS};
use crate::types::{Monotonic, TokenHash};
use std::collections::{BTreeMap, BTreeSet};

/// Tokens in one `ExtendTokens`.
pub(super) const EXTEND_MAX: usize = EXTEND_TOKENS_MAX;
/// Tokens whose use waits to be told; beyond, uses are forgotten (the next use counts again).
const WAITING_MAX: usize = 65_536;
/// Uses are told at most this often, in microseconds.
const FLUSH_US: u64 = 1_000_000;

/// Tokens looked up at one flush: those that are fresh by the log leave room for others.
const LOOKED_UP_MAX: usize = 4 * EXTEND_MAX;

/// Uses that the log does not know yet, and until when it needs to know no other one.
pub(super) struct TokenUse {
    extend_every_us: u64,
    used: BTreeSet<TokenHash>,
    fresh_until: BTreeMap<TokenHash, Monotonic>,
    flushed: Monotonic,
}

impl TokenUse {
    /// `idle_us`: after how long without use a token expires.
    pub(super) fn new(idle_us: u64, now: Monotonic) -> Self {
        Self {
            // A token that lives shorter than usual must be extended more often than usual.
            extend_every_us: (TOKEN_EXTEND_SECONDS * 1_000_000).min(idle_us / 4),
            used: BTreeSet::new(),
            fresh_until: BTreeMap::new(),
            flushed: now,
        }
    }

    /// These tokens were used.
    pub(super) fn used(&mut self, tokens: Vec<TokenHash>, now: Monotonic) {
        for token in tokens {
            let fresh = self
                .fresh_until
                .get(&token)
                .is_some_and(|until| now < *until);
            if !fresh && self.used.len() < WAITING_MAX {
                self.used.insert(token);
            }
        }
    }

    /// The tokens to extend now, if it is time. `unused_us`: how long ago each was last used, as the
    /// log knows it; `None`: there is no such token any more.
    pub(super) fn flush<E>(
        &mut self,
        now: Monotonic,
        unused_us: impl Fn(&TokenHash) -> Result<Option<u64>, E>,
    ) -> Result<Option<Vec<TokenHash>>, E> {
        let due = now.since(self.flushed) >= FLUSH_US.min(self.extend_every_us);
        if !due && self.used.len() < EXTEND_MAX || self.used.is_empty() {
            return Ok(None);
        }
        self.flushed = now;
        self.fresh_until.retain(|_, until| now < *until);
        let mut tokens = Vec::new();
        for _ in 0..LOOKED_UP_MAX {
            if tokens.len() == EXTEND_MAX {
                break;
            }
            let Some(token) = self.used.pop_first() else {
                break;
            };
            let Some(unused_us) = unused_us(&token)? else {
                continue;
            };
            let mut fresh_us = self.extend_every_us.saturating_sub(unused_us);
            if fresh_us == 0 {
                fresh_us = self.extend_every_us;
                tokens.push(token);
            }
            self.fresh_until.insert(token, now.plus(fresh_us));
        }
        Ok((!tokens.is_empty()).then_some(tokens))
    }

    /// Telling failed: the next use tells again.
    pub(super) fn failed(&mut self, tokens: &[TokenHash]) {
        for token in tokens {
            self.fresh_until.remove(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TokenHash = TokenHash([1; 32]);
    const SECOND: u64 = 1_000_000;

    /// What a flush tells if the log knows of no use for so long.
    fn flush(uses: &mut TokenUse, now: Monotonic, unused_us: u64) -> Option<Vec<TokenHash>> {
        let flushed: Result<_, ()> = uses.flush(now, |_| Ok(Some(unused_us)));
        flushed.unwrap()
    }

    #[test]
    fn a_token_is_extended_at_most_once_in_five_minutes_unless_that_failed() {
        let at = |seconds: u64| Monotonic(seconds * SECOND);
        let long = 1_000 * SECOND;
        let mut uses = TokenUse::new(3_600 * SECOND, at(0));
        uses.used(vec![A, A], at(1));
        assert_eq!(flush(&mut uses, at(1), long), Some(vec![A]));
        uses.used(vec![A], at(2));
        assert_eq!(flush(&mut uses, at(290), long), None);
        uses.used(vec![A], at(301));
        assert_eq!(flush(&mut uses, at(302), long), Some(vec![A]));
        uses.failed(&[A]);
        uses.used(vec![A], at(303));
        assert_eq!(flush(&mut uses, at(304), long), Some(vec![A]));
    }

    #[test]
    fn a_use_that_another_replica_or_run_has_told_is_not_told_again() {
        let at = |seconds: u64| Monotonic(seconds * SECOND);
        let mut uses = TokenUse::new(3_600 * SECOND, at(0));
        uses.used(vec![A], at(1));
        assert_eq!(flush(&mut uses, at(1), 200 * SECOND), None);
        // Known to be fresh for what is left of the five minutes, without another look.
        uses.used(vec![A], at(100));
        assert_eq!(flush(&mut uses, at(100), 1_000 * SECOND), None);
        uses.used(vec![A], at(101));
        assert_eq!(flush(&mut uses, at(101), 300 * SECOND), Some(vec![A]));
        // One that is gone is nobody's.
        let mut uses = TokenUse::new(3_600 * SECOND, at(0));
        uses.used(vec![A], at(1));
        let flushed: Result<_, ()> = uses.flush(at(1), |_| Ok(None));
        assert_eq!(flushed, Ok(None));
    }

    #[test]
    fn a_short_lived_token_is_extended_within_its_life() {
        let mut uses = TokenUse::new(4 * SECOND, Monotonic(0));
        uses.used(vec![A], Monotonic(SECOND));
        assert!(flush(&mut uses, Monotonic(SECOND), SECOND).is_some());
        uses.used(vec![A], Monotonic(2 * SECOND));
        assert!(flush(&mut uses, Monotonic(2 * SECOND), SECOND).is_some());
    }
}
