//! What is refused at the door: counted by sender and kind, and told once an hour.

use super::{Links, lock};
use crate::limits;
use crate::types::refusals::{RefusalKind, Refusals};
use crate::types::{Monotonic, ReplicaId};
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Instant;

/// The sender of what comes from no replica that is configured here.
const STRANGER: ReplicaId = ReplicaId(0);

/// What this replica's listener has refused so far.
pub(super) struct Door {
    since: Instant,
    table: Mutex<Refusals>,
}

impl Default for Door {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            table: Mutex::default(),
        }
    }
}

impl Door {
    fn now(&self) -> Monotonic {
        Monotonic(self.since.elapsed().as_micros() as u64)
    }
}

impl Links {
    /// A message or a connection was refused; `from` is `None` if no configured replica sent it.
    pub(crate) fn refuse(&self, from: Option<ReplicaId>, kind: RefusalKind, reason: &str) {
        let door = &self.shared.door;
        let now = door.now();
        let key = (from.unwrap_or(STRANGER), kind);
        if !lock(&door.table).count(key, reason, now) {
            return;
        }
        let (word, who) = (kind.word(), sender(key.0));
        if kind.is_ordinary() {
            tracing::info!("refused a message of {who} ({word}): {reason}");
        } else {
            tracing::warn!("refused a message of {who} ({word}): {reason}");
        }
    }

    /// Everything that was refused at the door.
    pub fn refusals(&self) -> Refusals {
        lock(&self.shared.door.table).clone()
    }

    /// Sentences about senders of what this replica refused at the door, not long ago. What was
    /// refused while a replica came back, say, is no reason to look at it for ever.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints_at(self.shared.door.now())
    }

    pub(super) fn complaints_at(&self, now: Monotonic) -> Vec<String> {
        let shown = limits::COMPLAINT_SHOWN_SECONDS * 1_000_000;
        let table = self.refusals();
        let mut sentences: Vec<String> = Vec::new();
        let mut before = None;
        for ((peer, kind), row) in table.rows() {
            if now.since(row.last) >= shown || kind.is_ordinary() {
                continue;
            }
            let count = row.count;
            let what = format!("{count} ({}), the last because {}", kind.word(), row.reason);
            match sentences.last_mut() {
                // One sentence for each peer.
                Some(sentence) if before == Some(*peer) => {
                    let _ = write!(sentence, "; {what}");
                }
                _ => sentences.push(format!("refused messages of {}: {what}", sender(*peer))),
            }
            before = Some(*peer);
        }
        sentences
    }

    #[cfg(test)]
    pub(super) fn door_clock(&self) -> Monotonic {
        self.shared.door.now()
    }
}

fn sender(peer: ReplicaId) -> String {
    if peer == STRANGER {
        "a stranger".to_owned()
    } else {
        format!("replica {peer}")
    }
}
