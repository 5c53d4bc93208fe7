//! What was refused of what other replicas sent: counted by peer and kind, told once an hour.
//!
//! Bounded by the number of replicas and of kinds, whatever is sent.

use super::{Monotonic, ReplicaId};
use crate::limits::REFUSAL_TOLD_SECONDS;
use std::collections::BTreeMap;

/// Why a message from another replica was refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RefusalKind {
    /// Its bytes do not parse: cut, too long, too many, out of range.
    Malformed,
    /// For another replica, or from another than the one at the other end of the connection.
    Misdirected,
    /// From a replica that is not configured here.
    Stranger,
    /// A client's write, or its outcome, that was passed on for another cluster or another life of
    /// this replica.
    ForeignWrite,
    /// It belongs to another cluster.
    OtherCluster,
    /// Its sender is configured with other replicas.
    OtherReplicas,
    /// Its sender speaks no common protocol.
    OtherProtocol,
    /// From or for another life of a replica than the one that is known.
    OtherIncarnation,
    /// From another process run than the one that said hello.
    OtherRun,
    /// Of a term that has ended.
    EarlierTerm,
    /// Of a later term, from a replica whose word does not raise it.
    LaterTerm,
    /// Of a term that no cluster reaches.
    AbsurdTerm,
    /// Its entries do not follow each other, or it acknowledges some that do not exist.
    BrokenChain,
    /// It was said before, or answers what was not asked.
    Replay,
}

impl RefusalKind {
    /// For `status` and the metrics: never changed.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Misdirected => "misdirected",
            Self::Stranger => "stranger",
            Self::ForeignWrite => "foreign_write",
            Self::OtherCluster => "other_cluster",
            Self::OtherReplicas => "other_replicas",
            Self::OtherProtocol => "other_protocol",
            Self::OtherIncarnation => "other_incarnation",
            Self::OtherRun => "other_run",
            Self::EarlierTerm => "earlier_term",
            Self::LaterTerm => "later_term",
            Self::AbsurdTerm => "absurd_term",
            Self::BrokenChain => "broken_chain",
            Self::Replay => "replay",
        }
    }

    /// Is it seen in a healthy cluster, too, when replicas restart or elect? Then nobody must look.
    pub const fn is_ordinary(self) -> bool {
        matches!(
            self,
            Self::ForeignWrite
                | Self::OtherIncarnation
                | Self::OtherRun
                | Self::EarlierTerm
                | Self::LaterTerm
                | Self::Replay
        )
    }
}

/// Who sent what was refused; `ReplicaId(0)` for senders that are not configured, and why.
pub type RefusalKey = (ReplicaId, RefusalKind);

/// What is known of one peer and kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// How many messages.
    pub count: u64,
    /// What was wrong with the last one, for people.
    pub reason: String,
    /// When that came.
    pub last: Monotonic,
    /// When it was last to be told.
    told: Monotonic,
}

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    rows: BTreeMap<RefusalKey, Refused>,
}

impl Refusals {
    /// Counts one. True if it is to be told: the first one, and then at most one an hour.
    pub fn count(&mut self, key: RefusalKey, reason: &str, now: Monotonic) -> bool {
        let Some(row) = self.rows.get_mut(&key) else {
            let row = Refused {
                count: 1,
                reason: reason.to_owned(),
                last: now,
                told: now,
            };
            self.rows.insert(key, row);
            return true;
        };
        row.count += 1;
        row.last = now;
        if row.reason != reason {
            reason.clone_into(&mut row.reason);
        }
        let due = now.since(row.told) >= REFUSAL_TOLD_SECONDS * 1_000_000;
        if due {
            row.told = now;
        }
        due
    }

    /// Everything that was refused, ascending.
    pub fn rows(&self) -> &BTreeMap<RefusalKey, Refused> {
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_then_one_an_hour_whatever_the_reason() {
        const HOUR: u64 = 3_600_000_000;
        let mut table = Refusals::default();
        let key = (ReplicaId(2), RefusalKind::Replay);
        assert!(table.count(key, "a", Monotonic(5)));
        assert!(!table.count(key, "b", Monotonic(6)), "reasons alternate");
        assert!(!table.count(key, "a", Monotonic(4 + HOUR)));
        assert!(table.count(key, "a", Monotonic(5 + HOUR)));
        assert!(!table.count(key, "a", Monotonic(6 + HOUR)));
        let other = (ReplicaId(3), RefusalKind::Replay);
        assert!(table.count(other, "a", Monotonic(7)), "another peer");
        assert_eq!(table.rows()[&key].count, 5);
        assert_eq!(table.rows().len(), 2);
    }
}
