//! What the tests of this module are made of: chained entries and a hard state.

use crate::consensus::{FormationStatus, HardState};
use crate::types::entry::{Entry, Kind};
use crate::types::{Hash, Incarnation, Index, ReplicaId, Stamp, Term, WallTime};

/// `count` chained entries of term 1 with payloads of this size. Entry `first` continues nothing.
pub(crate) fn chain(first: u64, count: u64, payload: usize) -> Vec<Entry> {
    after(
        Stamp::new(Term(1), Index(first - 1)),
        Hash::default(),
        1,
        count,
        payload,
    )
}

/// `count` entries of a term that continue an entry.
pub(crate) fn after(last: Stamp, hash: Hash, term: u64, count: u64, payload: usize) -> Vec<Entry> {
    let mut hash = hash;
    (1..=count)
        .map(|n| {
            let stamp = Stamp::new(Term(term), Index(last.index.0 + n));
            let payload = vec![(stamp.index.0 % 251) as u8; payload];
            let entry = Entry::seal(stamp, WallTime(n), hash, Kind::Command, &payload);
            hash = entry.hash();
            entry
        })
        .collect()
}

/// The promises of a replica that has made none.
pub(crate) fn hard_state(id: u16) -> HardState {
    HardState {
        id: ReplicaId(id),
        incarnation: Incarnation([id as u8; 16]),
        formation: FormationStatus::Unformed,
        cluster: None,
        term: Term(0),
        granted_to: None,
        term_accepted: Term(0),
        mark: Stamp::ZERO,
        others_marks: std::collections::BTreeMap::new(),
        repair: crate::consensus::Repair::No,
        given_up: crate::types::Term(0),
        quarantined: false,
        others_lives: std::collections::BTreeMap::new(),
        others_as_of: Index(0),
    }
}
