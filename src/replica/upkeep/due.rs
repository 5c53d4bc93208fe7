//! At which size a store is worth a rewriting.
//!
//! Where the live bytes are not known (a store of a version that did not count them), what it was after the last
//! rewriting stands for them.

use super::Upkeep;
use crate::limits::{REWRITE_GROWTH, REWRITE_LIVE_TIMES};

/// A copy takes at most so many times the live bytes, and this.
const COPY_TIMES: u64 = 3;
/// See [`COPY_TIMES`]: eight segments.
const COPY_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// Who waits for the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum When {
    /// Clients.
    Busy,
    /// Nobody.
    Idle,
    /// Space is short.
    Low,
}

fn halves(bytes: u64, times: u64) -> u64 {
    (bytes / 2).saturating_mul(times)
}

impl Upkeep {
    /// A store with more bytes than this is rewritten.
    pub(super) fn due(&self, when: When) -> u64 {
        let least = self.policy.bytes_min;
        let Some(live) = self.live else {
            let most = least.max(self.rewritten);
            return match when {
                When::Busy => halves(most, 2 * REWRITE_GROWTH + self.later),
                When::Idle | When::Low => halves(most, 3),
            };
        };
        match when {
            When::Busy => {
                let dead = live.saturating_mul(REWRITE_LIVE_TIMES);
                let most = dead.max(least.saturating_mul(REWRITE_GROWTH));
                let grown = self.copied(live, 2);
                let staggered = halves(live.max(least), self.later);
                most.max(grown).saturating_add(staggered)
            }
            When::Idle => live
                .saturating_mul(2)
                .max(halves(least, 3))
                .max(self.copied(live, 4)),
            When::Low => halves(live.max(least), 3).max(self.copied(live, 4)),
        }
    }

    /// What the last copy has come to, and one part in so many more: less is not copied again, unless half of
    /// what was live is gone since.
    fn copied(&self, live: u64, one_in: u64) -> u64 {
        let before = self.rewritten_live.unwrap_or(self.rewritten / COPY_TIMES);
        if live < before / 2 && self.rewritten > COPY_BYTES_MIN {
            return 0;
        }
        self.rewritten.saturating_add(self.rewritten / one_in)
    }

    /// Space is short, or the store grows faster than it is copied: by half again since that was due.
    pub(super) fn hurries(&self, low: bool) -> bool {
        low || self.size > halves(self.due(When::Busy), 3)
    }

    /// The store is a copy of this size now.
    pub(super) fn has_copied(&mut self, bytes: u64) {
        (self.rewritten, self.rewritten_live) = (bytes, self.live);
    }

    /// How much of the store is live.
    pub(in crate::replica) fn knows_live(&mut self, bytes: Option<u64>) {
        self.live = bytes;
    }

    /// What a rewriting takes at most.
    pub(in crate::replica) fn copy_bytes(&self) -> u64 {
        let live = self.live.map(|live| live.saturating_mul(COPY_TIMES));
        live.map_or(self.size, |most| {
            self.size.min(most.saturating_add(COPY_BYTES_MIN))
        })
    }
}
