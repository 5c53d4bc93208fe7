//! What must always hold, and what must sometimes happen.

use crate::options::REPLICAS;
use crate::store::{EntryId, Store, Summary};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A check that failed. Each is a property of the model checker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Broken {
    OnePrimary = 1,
    PrimaryAgain,
    TwoGrants,
    TermFell,
    SentBeforeDurable,
    AcknowledgedBeforeDurable,
    LogMatching,
    PrimaryLacksCommitted,
    CommittedChanged,
    CommittedOnMinority,
    SoundLogDamaged,
    SoundMemoryLost,
    PeerRefused,
    Assertion,
}

impl Broken {
    /// All of them, in order.
    pub const ALL: [Self; 14] = [
        Self::OnePrimary,
        Self::PrimaryAgain,
        Self::TwoGrants,
        Self::TermFell,
        Self::SentBeforeDurable,
        Self::AcknowledgedBeforeDurable,
        Self::LogMatching,
        Self::PrimaryLacksCommitted,
        Self::CommittedChanged,
        Self::CommittedOnMinority,
        Self::SoundLogDamaged,
        Self::SoundMemoryLost,
        Self::PeerRefused,
        Self::Assertion,
    ];

    /// What holds if it is not broken.
    pub fn property(self) -> &'static str {
        match self {
            Self::OnePrimary => "one primary a term",
            Self::PrimaryAgain => "nobody becomes primary twice in a term",
            Self::TwoGrants => "one grant per replica and term",
            Self::TermFell => "a persisted term never falls",
            Self::SentBeforeDurable => "nothing is sent before what it promises is durable",
            Self::AcknowledgedBeforeDurable => "what a replica acknowledges is durable there",
            Self::LogMatching => "same stamp, same hash and same prefix",
            Self::PrimaryLacksCommitted => "a primary holds all that was committed before",
            Self::CommittedChanged => "a committed entry never changes",
            Self::CommittedOnMinority => "what is committed is and stays durable on a majority",
            Self::SoundLogDamaged => "no sound log is taken for damaged",
            Self::SoundMemoryLost => "no sound disk is taken for an old copy",
            Self::PeerRefused => "nothing is refused that a healthy cluster never sends",
            Self::Assertion => "no assertion of the code fails",
        }
    }
}

/// An entry that was committed, and the term of whoever first knew.
pub type Committed = (EntryId, u8);

/// Committed logs, each once.
#[derive(Default)]
pub struct CommittedLogs {
    pub logs: Vec<Arc<[Committed]>>,
    ids: BTreeMap<Arc<[Committed]>, u32>,
}

impl CommittedLogs {
    /// The number of such a log.
    pub fn intern(&mut self, log: Vec<Committed>) -> u32 {
        let next = self.logs.len() as u32;
        let log: Arc<[Committed]> = log.into();
        let id = *self.ids.entry(Arc::clone(&log)).or_insert(next);
        if id == next {
            self.logs.push(log);
        }
        id
    }
}

/// All replicas of a state.
pub type Summaries = [Arc<Summary>; REPLICAS];

/// The checks that need more than one replica, after a step from `before` to `now`. `committed` is
/// what any replica ever knew to be committed, and grows.
pub fn check(
    store: &Store,
    committed: &mut Cow<'_, [Committed]>,
    before: &Summaries,
    now: &Summaries,
) -> Option<Broken> {
    if let Some(broken) = now.iter().find_map(|replica| replica.broken) {
        return Some(broken);
    }
    for (place, replica) in now.iter().enumerate() {
        let mut others = now.iter().skip(place + 1);
        if others.any(|other| other.led & replica.led != 0) {
            return Some(Broken::OnePrimary);
        }
        let new = replica.led & !before[place].led;
        if new != 0 && !holds_committed(committed, replica, new) {
            return Some(Broken::PrimaryLacksCommitted);
        }
    }
    if !logs_match(store, now) {
        return Some(Broken::LogMatching);
    }
    if !now.iter().all(|replica| note_commit(committed, replica)) {
        return Some(Broken::CommittedChanged);
    }
    let on_majority = |(index, (entry, _)): (usize, &Committed)| {
        let holders = now.iter().filter(|r| r.disk.get(index) == Some(entry));
        holders.count() > REPLICAS / 2
    };
    let durable = committed.iter().enumerate().all(on_majority);
    (!durable).then_some(Broken::CommittedOnMinority)
}

/// Does a replica that has just become primary hold what was committed in earlier terms?
fn holds_committed(committed: &[Committed], replica: &Summary, new: u32) -> bool {
    let term = new.trailing_zeros();
    committed.iter().enumerate().all(|(index, (entry, by))| {
        u32::from(*by) >= term || replica.memory.get(index) == Some(entry)
    })
}

/// Takes note of what this replica knows to be committed; false if it is not what others knew.
fn note_commit(committed: &mut Cow<'_, [Committed]>, replica: &Summary) -> bool {
    let known = &replica.memory[..replica.commit as usize];
    let mut both = known.iter().zip(committed.iter());
    if both.any(|(here, (entry, _))| here != entry) {
        return false;
    }
    if known.len() > committed.len() {
        let new = known.iter().skip(committed.len());
        let new: Vec<Committed> = new.map(|entry| (*entry, replica.term as u8)).collect();
        committed.to_mut().extend(new);
    }
    true
}

/// Two logs with the same stamp at an index have the same entry there, and the same below.
fn logs_match(store: &Store, replicas: &Summaries) -> bool {
    let mut logs = replicas.iter().flat_map(|r| [&*r.disk, &*r.memory]);
    while let Some(log) = logs.next() {
        if !logs.clone().all(|other| pair_matches(store, log, other)) {
            return false;
        }
    }
    true
}

fn pair_matches(store: &Store, a: &[EntryId], b: &[EntryId]) -> bool {
    let mut same_above = false;
    for (x, y) in a.iter().zip(b).rev() {
        let stamp = |id: EntryId| store.entries[usize::from(id)].stamp;
        if x != y && (same_above || stamp(*x) == stamp(*y)) {
            return false;
        }
        same_above |= x == y;
    }
    true
}
