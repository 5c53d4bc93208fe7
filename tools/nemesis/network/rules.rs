//! What happens to the bytes of a direction.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A machine: a replica's id, or 0 for the clients.
pub type Node = u16;

/// What happens to what one machine sends to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Nothing arrives.
    pub cut: bool,
    /// Everything arrives later by this, and by up to half as much again.
    pub delay_ms: u64,
    /// So many of a thousand packets do not arrive. Not with proxies.
    pub lost_per_mille: u16,
}

/// The rules in force. Cheap to clone.
#[derive(Clone, Default)]
pub struct Rules {
    by_direction: Arc<Mutex<BTreeMap<(Node, Node), Rule>>>,
}

impl Rules {
    /// The rule of this direction.
    pub fn of(&self, from: Node, to: Node) -> Rule {
        let rules = self
            .by_direction
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        rules.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Makes one direction worse by this.
    pub fn add(&self, from: Node, to: Node, rule: Rule) {
        let mut rules = self
            .by_direction
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = rules.entry((from, to)).or_default();
        *now = Rule {
            cut: now.cut | rule.cut,
            delay_ms: now.delay_ms.max(rule.delay_ms),
            lost_per_mille: now.lost_per_mille.max(rule.lost_per_mille),
        };
    }

    /// Makes all of them perfect again.
    pub fn clear(&self) {
        let mut rules = self
            .by_direction
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        rules.clear();
    }
}
