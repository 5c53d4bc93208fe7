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

/// Uses that the log does not know yet, and when it was last told.
pub(super) struct TokenUse {
    extend_every_us: u64,
    used: BTreeSet<TokenHash>,
    told: BTreeMap<TokenHash, Monotonic>,
    flushed: Monotonic,
}

impl TokenUse {
    /// `idle_us`: after how long without use a token expires.
    pub(super) fn new(idle_us: u64, now: Monotonic) -> Self {
        Self {
            // A token that lives shorter than usual must be extended more often than usual.
            extend_every_us: (TOKEN_EXTEND_SECONDS * 1_000_000).min(idle_us / 4),
            used: BTreeSet::new(),
            told: BTreeMap::new(),
            flushed: now,
        }
    }

    /// These tokens were used.
    pub(super) fn used(&mut self, tokens: Vec<TokenHash>, now: Monotonic) {
        for token in tokens {
            let fresh = self
                .told
                .get(&token)
                .is_some_and(|told| now.since(*told) < self.extend_every_us);
            if !fresh && self.used.len() < WAITING_MAX {
                self.used.insert(token);
            }
        }
    }

    /// The tokens to extend now, if it is time.
    pub(super) fn flush(&mut self, now: Monotonic) -> Option<Vec<TokenHash>> {
        let due = now.since(self.flushed) >= FLUSH_US.min(self.extend_every_us);
        if !due && self.used.len() < EXTEND_MAX || self.used.is_empty() {
            return None;
        }
        self.flushed = now;
        let every = self.extend_every_us;
        self.told.retain(|_, told| now.since(*told) < every);
        let mut tokens = Vec::new();
        while tokens.len() < EXTEND_MAX
            && let Some(token) = self.used.pop_first()
        {
            self.told.insert(token, now);
            tokens.push(token);
        }
        Some(tokens)
    }

    /// Telling failed: the next use tells again.
    pub(super) fn failed(&mut self, tokens: &[TokenHash]) {
        for token in tokens {
            self.told.remove(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TokenHash = TokenHash([1; 32]);
    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_token_is_extended_at_most_once_in_five_minutes_unless_that_failed() {
        let at = |seconds: u64| Monotonic(seconds * SECOND);
        let mut uses = TokenUse::new(3_600 * SECOND, at(0));
        uses.used(vec![A, A], at(1));
        assert_eq!(uses.flush(at(1)), Some(vec![A]));
        uses.used(vec![A], at(2));
        assert_eq!(uses.flush(at(290)), None);
        uses.used(vec![A], at(301));
        assert_eq!(uses.flush(at(302)), Some(vec![A]));
        uses.failed(&[A]);
        uses.used(vec![A], at(303));
        assert_eq!(uses.flush(at(304)), Some(vec![A]));
    }

    #[test]
    fn a_short_lived_token_is_extended_within_its_life() {
        let mut uses = TokenUse::new(4 * SECOND, Monotonic(0));
        uses.used(vec![A], Monotonic(SECOND));
        assert!(uses.flush(Monotonic(SECOND)).is_some());
        uses.used(vec![A], Monotonic(2 * SECOND));
        assert!(uses.flush(Monotonic(2 * SECOND)).is_some());
    }
}
