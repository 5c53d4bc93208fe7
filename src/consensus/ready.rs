//! What the core wants done: [`Ready`], and the state that must outlive a crash: [`HardState`].

use super::message::{FormationStatus, Message};
use crate::types::entry::Entry;
use crate::types::{
    ClusterId, Hash, Incarnation, Index, Members, ReplicaId, RunNonce, Stamp, Term, WallTime,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A replica's promises. Kept in a small file outside the store.
///
/// Invariants: `term` never falls; `granted_to` is cleared when `term` rises and never changes
/// otherwise; `mark` falls only before a legal truncation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// Who this is.
    pub id: ReplicaId,
    /// Which life of its promises.
    pub incarnation: Incarnation,
    /// How far formation is. `Formed` names the founding members.
    pub formation: FormationStatus,
    /// The cluster, once formed (or once admitted by a primary after a wipe).
    pub cluster: Option<ClusterId>,
    /// Current term.
    pub term: Term,
    /// The one grant in `term`.
    pub granted_to: Option<ReplicaId>,
    /// Highest term in which this replica ever accepted an append.
    pub term_accepted: Term,
    /// A lower bound of what this replica has acknowledged.
    pub mark: Stamp,
    /// What the others had acknowledged, as the primary last said.
    pub others_marks: BTreeMap<ReplicaId, Stamp>,
}

/// Names a [`Job`]. Rises by one for each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct JobId(pub u64);

/// Work for the storage thread. ORDER, each step complete before the next begins:
///
/// 1. `hard_state_before`, fsynced (a mark lowered BEFORE its entries go; a term raised BEFORE an
///    adopted copy shows it);
/// 2. `truncate_after` and `append`, as one atomic write, fsynced;
/// 3. `hard_state_after`, fsynced if `sync_hard_state` (the log is durable BEFORE the term that it
///    proves), else written lazily;
/// 4. only then [`super::Node::on_persisted`].
///
/// At most one job is out at a time; the next one gathers meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Job {
    /// Which one.
    pub id: JobId,
    /// Step 1.
    pub hard_state_before: Option<HardState>,
    /// Step 2: drop every entry above this index.
    pub truncate_after: Option<Index>,
    /// Step 2: consecutive entries; the first follows what is left.
    pub append: Vec<Entry>,
    /// Step 3.
    pub hard_state_after: Option<HardState>,
    /// Step 3.
    pub sync_hard_state: bool,
}

impl Job {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.hard_state_before.is_none()
            && self.truncate_after.is_none()
            && self.append.is_empty()
            && self.hard_state_after.is_none()
    }
}

/// Names a read that waits for its index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ReadId(pub u64);

/// What to do next, taken with [`super::Node::take_ready`]. The parts are independent, and none
/// needs to wait for another: a message that depends on something durable is not here before it
/// is durable.
#[derive(Debug, Default)]
pub struct Ready {
    /// For the storage thread. Answer with `on_persisted` when every step is done. Never more
    /// than one outstanding.
    pub job: Option<Job>,
    /// Send now, in this order for each receiver. May be lost, delayed, doubled or reordered.
    pub messages: Vec<Message>,
    /// Apply in this order. Each index comes once in a process run.
    pub committed: Vec<Entry>,
    /// These reads may be served once `index` is applied.
    pub reads: Vec<(ReadId, Index)>,
    /// These reads have no answer in time: `UNAVAILABLE`.
    pub reads_failed: Vec<ReadId>,
    /// Entries below the memory cache that a peer needs; answer each with `on_fetched`.
    pub fetches: Vec<Fetch>,
    /// What happened, for the log, `status` and those who wait for proposals.
    pub events: Vec<Event>,
}

/// Entries to read from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// For whom. Given back with the entries.
    pub peer: ReplicaId,
    /// First index wanted.
    pub from: Index,
    /// About how many bytes.
    pub bytes_max: usize,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The cluster was formed (on this replica).
    Formed(ClusterId),
    /// Formation or the boot waits for these replicas.
    WaitingFor(Vec<ReplicaId>),
    /// This replica misses the primary and asks the others.
    Asking,
    /// This replica has raised its term by a ballot of its own.
    ElectionStarted(Term),
    /// This replica holds a majority of grants; it serves after `Serving`.
    BecamePrimary(Term),
    /// An entry of the primary's own term is committed: it serves.
    Serving(Term),
    /// No longer primary. The outcome of proposals that are not committed yet is unknown.
    SteppedDown {
        /// The term that ended for this replica.
        term: Term,
        /// Why, for people.
        reason: &'static str,
    },
    /// This replica follows another primary, or none.
    Primary {
        /// In this term.
        term: Term,
        /// Whom.
        primary: Option<ReplicaId>,
    },
    /// The log above this index is gone here, legally. That proves nothing about proposals there:
    /// until something else is committed in their place, another replica may still commit them.
    Truncated {
        /// Last index kept.
        after: Index,
    },
    /// Boot: a newer copy was installed.
    Adopted {
        /// From whom.
        from: ReplicaId,
        /// Its last stamp.
        last: Stamp,
    },
    /// Boot: a copy was refused; replication does the rest.
    AdoptionRefused {
        /// From whom.
        from: ReplicaId,
        /// Which condition failed, for people.
        reason: &'static str,
    },
    /// A readmission is committed.
    Readmitted(ReplicaId, Incarnation),
    /// This replica's own log contradicts what was committed: it takes no part from now on.
    Damaged {
        /// The index that is wrong.
        index: Index,
        /// What is wrong, for people.
        reason: String,
    },
    /// A peer belongs to another cluster, has other ids, or speaks no common protocol.
    Refused {
        /// Which peer.
        peer: ReplicaId,
        /// Why, for people.
        reason: String,
    },
    /// A peer's clock is more than a minute from this one's.
    ClockSkew {
        /// Which peer.
        peer: ReplicaId,
        /// Microseconds, positive if the peer is ahead.
        ahead_us: i64,
    },
}

/// What a replica is just now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Waiting for the others, before the first primary of this run.
    Booting,
    /// Follows a primary, or misses one.
    Secondary,
    /// Takes part in an election.
    Candidate,
    /// Holds a majority of grants in its term.
    Primary,
    /// Handed its role over a moment ago.
    Retiring,
    /// Its incarnation is not (yet) in force: catches up and counts for nothing.
    NotAdmitted,
    /// Its log or chain is damaged: takes no part.
    Damaged,
}

/// What the core is started with: configuration, and what the store holds.
#[derive(Clone, Debug)]
pub struct Start {
    /// Timings and ids.
    pub config: super::Config,
    /// From the file.
    pub hard_state: HardState,
    /// Membership at `applied` (empty before entry 1).
    pub members: Members,
    /// (first index, term) of each run of equal terms in the log, ascending.
    pub term_runs: Vec<(Index, Term)>,
    /// Last entry of the log.
    pub last: Stamp,
    /// The newest entries, consecutive to `last`. Holds at least everything above `applied`.
    pub tail: Vec<Entry>,
    /// Hash of the entry before `tail`'s first (zeros if that is entry 1).
    pub tail_previous_hash: Hash,
    /// max(last commit record, applied).
    pub commit: Index,
    /// What the state trees hold.
    pub applied: Index,
    /// What recovery found wrong, if anything: the replica takes no part.
    pub damage: Option<(Index, String)>,
    /// This process run.
    pub run: RunNonce,
    /// For election values, nonces and pauses.
    pub seed: u64,
    /// Now.
    pub now: Now,
}

/// Both clocks at one moment: the monotonic one for waiting, the wall clock for entry times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For deadlines.
    pub mono: crate::types::Monotonic,
    /// For entry times and ballots; may jump.
    pub wall: WallTime,
}

/// Refused: this replica is not a serving primary. Nothing was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPrimary {
    /// Whom to ask instead, if known.
    pub primary: Option<ReplicaId>,
}

/// For `status`, tests and checkers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This replica.
    pub id: ReplicaId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Cluster, once formed.
    pub cluster: Option<ClusterId>,
    /// What it is.
    pub role: Role,
    /// Current term.
    pub term: Term,
    /// Whom it follows (itself if primary).
    pub primary: Option<ReplicaId>,
    /// The primary has committed in its own term (false elsewhere).
    pub serving: bool,
    /// Last entry, durable or not.
    pub last: Stamp,
    /// Last durable entry.
    pub durable: Stamp,
    /// Hash of the last entry.
    pub head_hash: Hash,
    /// Commit index.
    pub commit: Index,
    /// Incarnations in force.
    pub members: Members,
    /// From a primary: durable match of each peer.
    pub matches: BTreeMap<ReplicaId, Index>,
    /// Peers whose connection is open.
    pub connected: Vec<ReplicaId>,
    /// What is damaged, if anything.
    pub damage: Option<(Index, String)>,
}
