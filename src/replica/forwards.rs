//! Which forwards a primary has already taken.
//!
//! The network may deliver a forward twice, much later too, and a command must not be applied
//! twice. Nonces of a run rise by one, so a bounded window of them is enough: what lies below it
//! counts as taken. Commands with a request id are safe even without this; it is for the others.

use crate::types::{ReplicaId, RunNonce};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Nonces remembered for each run: more than can wait at a peer at once.
const WINDOW: u64 = crate::limits::PENDING_WRITES_MAX as u64;
/// Runs remembered for each peer: the present one, and those whose messages may still travel.
const RUNS_MAX: usize = 4;

/// The forwards that have been taken, by sender and run.
#[derive(Default)]
pub(super) struct Taken {
    peers: BTreeMap<ReplicaId, VecDeque<(RunNonce, Window)>>,
}

#[derive(Default)]
struct Window {
    /// Every nonce below this counts as taken.
    floor: u64,
    nonces: BTreeSet<u64>,
}

impl Taken {
    /// True the first time that this forward is seen. False: it must be ignored, and not answered
    /// either, because what its first copy came to is not known here any more.
    pub(super) fn take(&mut self, from: ReplicaId, run: RunNonce, nonce: u64) -> bool {
        let runs = self.peers.entry(from).or_default();
        let at = if let Some(at) = runs.iter().position(|(known, _)| *known == run) {
            at
        } else {
            if runs.len() == RUNS_MAX {
                runs.pop_front();
            }
            runs.push_back((run, Window::default()));
            runs.len() - 1
        };
        let window = &mut runs[at].1;
        if nonce < window.floor || !window.nonces.insert(nonce) {
            return false;
        }
        let floor = nonce.saturating_add(1).saturating_sub(WINDOW);
        window.floor = window.floor.max(floor);
        while window.nonces.first().is_some_and(|n| *n < window.floor) {
            window.nonces.pop_first();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_taken_once_and_below_the_window_never() {
        let mut taken = Taken::default();
        let (peer, run) = (ReplicaId(2), RunNonce(9));
        assert!(taken.take(peer, run, 5));
        assert!(!taken.take(peer, run, 5));
        assert!(taken.take(peer, run, 4), "reordered, not doubled");
        assert!(taken.take(peer, RunNonce(10), 5), "another run");
        assert!(taken.take(peer, run, 5 + WINDOW));
        assert!(!taken.take(peer, run, 3), "below the window");
        assert!(taken.take(peer, run, 6));
        assert!(taken.take(peer, run, u64::MAX), "a number like another");
    }
}
