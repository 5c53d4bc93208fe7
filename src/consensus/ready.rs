//! What the core wants done: [`Ready`], and the state that must outlive a crash: [`HardState`].

use super::message::{FormationStatus, Message, Place, Row, SnapshotHead};
use crate::types::entry::Entry;
use crate::types::refusals::RefusalKind;
use crate::types::{
    Base, ClusterId, Hash, Incarnation, Index, Level, Members, ReplicaId, RunNonce, Stamp, Term,
    WallTime,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A replica's promises. Kept in a small file outside the store.
///
/// Invariants: `term` never falls; `granted_to` is cleared when `term` rises and never changes
/// otherwise; `mark` falls only before a legal truncation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// Whether the log may be less than what this replica has acknowledged. Not in files of
    /// earlier builds.
    #[serde(default)]
    pub repair: Repair,
    /// What this replica had acknowledged in terms below this one and does not hold any more was
    /// given up, legally: after a fenced poll, or for the log of a primary of this term.
    #[serde(default)]
    pub given_up: Term,
    /// The state was found wrong, and is not rebuilt yet. Not in files of earlier builds.
    #[serde(default)]
    pub quarantined: bool,
    /// Of which incarnation each of the `others_marks` is. A replica that is readmitted begins anew,
    /// and what its old life had acknowledged is not asked of it. Not in files of earlier builds.
    #[serde(default)]
    pub others_lives: Members,
    /// The index whose members the lives are.
    #[serde(default)]
    pub others_as_of: Index,
}

/// How far the repair of a damaged replica is. It keeps its promises (term, grant), and takes no
/// part until a primary's log is here again: the mark is only a lower bound of what it had
/// acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Repair {
    /// Nothing to repair.
    #[default]
    No,
    /// The store is damaged: the next open puts it aside and begins with an empty one.
    Discard,
    /// The store is filled from a primary.
    UnderWay,
    /// The same; the readable log up to this index was kept, and what this replica held above it is
    /// suspected: where no primary can exist, a fenced poll may prove that it was never committed.
    Suspect(Index),
    /// The same as `UnderWay`; and the damaged log had a readable end there: nothing above this
    /// index was ever held, which is what this replica answers to a poll.
    Ended(Index),
}

impl Repair {
    /// May the log hold less than the mark names?
    pub fn is_begun(self) -> bool {
        matches!(self, Self::UnderWay | Self::Suspect(_) | Self::Ended(_))
    }

    /// What is known after damage that looks like `found` by itself, in a replica whose promises
    /// say this already. It has acknowledged nothing since a repair began, so that what the first
    /// damage left unknown stays unknown.
    #[must_use]
    pub fn after(self, found: Self) -> Self {
        match (self, found) {
            (Self::No, found) => found,
            (Self::Suspect(before), Self::Suspect(now)) => Self::Suspect(before.min(now)),
            (Self::Ended(before), _) => Self::Ended(before),
            _ => Self::UnderWay,
        }
    }
}

impl HardState {
    /// The same, with the repair so far. A state that was put aside is nobody's doubt any more.
    #[must_use]
    pub fn with_repair(self, repair: Repair) -> Self {
        let kept = matches!(repair, Repair::No | Repair::Suspect(_));
        Self {
            repair,
            quarantined: self.quarantined && kept,
            ..self
        }
    }

    /// The promises of a replica that has none: a new one, or one that lost them and has kept a log
    /// that ends at `last` and begins with an entry 1 that names `founders`. Such a log is a source
    /// of bytes, never a promise: the new incarnation must be readmitted to that cluster.
    pub fn new_life(
        id: ReplicaId,
        incarnation: Incarnation,
        founders: Option<Members>,
        last: Stamp,
    ) -> Self {
        Self {
            id,
            incarnation,
            cluster: founders.as_ref().map(ClusterId::of_members),
            formation: founders.map_or(FormationStatus::Unformed, FormationStatus::Formed),
            term: last.term,
            // What the lost promises granted in this term is not known: the one grant is used.
            granted_to: (last > Stamp::FORMATION).then_some(id),
            term_accepted: last.term,
            mark: Stamp::ZERO,
            others_marks: BTreeMap::new(),
            repair: Repair::No,
            given_up: Term(0),
            quarantined: false,
            others_lives: BTreeMap::new(),
            others_as_of: Index(0),
        }
    }
}

/// Names a [`Job`]. Rises by one for each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct JobId(pub u64);

/// Work for the storage thread. ORDER, each step complete before the next begins, and all before the next job:
///
/// 1. `hard_state_before`, fsynced (a mark lowered BEFORE its entries go; a term raised BEFORE an
///    adopted copy shows it);
/// 2. `install`: the next store, built and verified before, takes the place of this one; or else
///    `truncate_after` and `append`, as one atomic write, fsynced;
/// 3. `hard_state_after`, fsynced, if `sync_hard_state` (the log is durable BEFORE the term that it
///    proves);
/// 4. only then [`super::Node::on_persisted`];
/// 5. `hard_state_after` without a sync, if nothing depends on it: a mark that has risen, say. What comes of
///    step 4 may happen meanwhile.
///
/// At most one job is out at a time; the next one gathers meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Job {
    /// Which one.
    pub id: JobId,
    /// Step 1.
    pub hard_state_before: Option<HardState>,
    /// Step 2: the next store holds this snapshot and becomes the live one, atomically.
    pub install: Option<Box<SnapshotHead>>,
    /// Step 2: drop every entry above this index.
    pub truncate_after: Option<Index>,
    /// Step 2: consecutive entries; the first follows what is left.
    pub append: Vec<Entry>,
    /// Step 3 or 5.
    pub hard_state_after: Option<HardState>,
    /// Step 3.
    pub sync_hard_state: bool,
}

impl Job {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.hard_state_before.is_none()
            && self.install.is_none()
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
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// For the storage thread. Answer with `on_persisted` when the steps up to that are done. Never more
    /// than one outstanding.
    pub job: Option<Box<Job>>,
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
    /// Parts of the current state that a peer needs; answer each with `on_snapshot_read`.
    pub snapshot_reads: Vec<SnapshotRead>,
    /// What to do with the next store; answer with `on_snapshot_step`. Never more than one
    /// outstanding.
    pub snapshot_step: Option<SnapshotStep>,
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

/// A part of the current state to read from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRead {
    /// For whom. Given back with the answer.
    pub peer: ReplicaId,
    /// Rows after a place of the state of this name; `None`: what state there is to offer.
    pub wanted: Option<(Hash, Option<Place>)>,
    /// The state to offer is that after this entry or a later one.
    pub at_least: Index,
}

/// A step of building the next store from a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotStep {
    /// Begin, with nothing but this.
    Begin {
        /// What the rows are of.
        head: Box<SnapshotHead>,
        /// The log is kept, and begins here: see `Keep`.
        keep: Option<Base>,
    },
    /// Add rows.
    Rows(Vec<Row>),
    /// Make it durable, open it again, and compare the digest of all rows with the head's.
    Check,
    /// All rows of a state for a quarantined replica are there: what is missing comes from its own
    /// log, and that is no business of the core's any more.
    Keep,
}

/// How such a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepDone {
    /// Begun, or added.
    Stored,
    /// Checked: is it what the head says?
    Checked(bool),
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
    /// A primary's state was installed in the place of this replica's.
    SnapshotInstalled {
        /// From whom.
        from: ReplicaId,
        /// The state is that after this entry, and the log begins there.
        base: Stamp,
    },
    /// A snapshot was refused or given up; another one may be offered.
    SnapshotRefused {
        /// From whom.
        from: ReplicaId,
        /// Why, for people.
        reason: &'static str,
    },
    /// A damaged replica is whole again and takes part.
    Repaired {
        /// Its log reaches the index that the primary named.
        index: Index,
    },
    /// This replica cannot be repaired: fewer than a majority hold what they acknowledged.
    CannotRepair {
        /// Those that do not, this one included.
        damaged: Vec<ReplicaId>,
        /// This one had acknowledged at least this.
        mark: Stamp,
        /// The first entry that this one held and cannot read, if its log is known below.
        suspect: Option<Index>,
        /// Who answered a fenced poll that it has (or had) an entry there.
        held_by: Vec<ReplicaId>,
    },
    /// A fenced poll has proved that nothing this replica held above an index was ever committed:
    /// it goes on from there.
    Proven {
        /// Last index kept.
        above: Index,
        /// Who never had anything above, and will not take anything of an earlier term.
        by: Vec<ReplicaId>,
    },
    /// Another replica remembers that this one had acknowledged more than its disk holds: it goes on
    /// under a new incarnation.
    LostMemory {
        /// Who remembers.
        from: ReplicaId,
        /// What this one had acknowledged.
        remembers: Stamp,
        /// What its log ends with.
        has: Stamp,
    },
    /// This replica's disk is nearly full.
    DiskLow {
        /// Free, in bytes.
        free: u64,
        /// What must be left: a rewriting of the store and a floor.
        needed: u64,
    },
    /// It has room again.
    DiskRoom,
    /// This primary takes no writes: without these replicas, whose disks are nearly full, no
    /// majority is left.
    WritesRefused {
        /// Which.
        low: Vec<ReplicaId>,
    },
    /// It takes them again.
    WritesAccepted,
    /// A readmission is committed.
    Readmitted(ReplicaId, Incarnation),
    /// From here on this level is in force.
    LevelRaised(Level),
    /// This replica's own log contradicts what was committed: it takes no part from now on.
    Damaged {
        /// The index that is wrong.
        index: Index,
        /// What is wrong, for people.
        reason: String,
    },
    /// This replica's state is wrong, its log is good: it serves nothing until the state is rebuilt.
    Quarantined {
        /// Where that was noticed.
        index: Index,
        /// How, for people.
        reason: String,
    },
    /// The state was rebuilt, and is shown again.
    Rebuilt {
        /// It is that after this entry.
        index: Index,
    },
    /// Others have another state than this replica, and no majority says who is right.
    DigestTie {
        /// The state after this entry.
        index: Index,
        /// Who has another one.
        others: Vec<ReplicaId>,
    },
    /// A replica that was given this one's state has found that it is not what its digest says.
    StateDoubted {
        /// Who.
        by: ReplicaId,
        /// The state after this entry.
        index: Index,
    },
    /// A message of a peer was refused. Told once an hour for each peer and kind; all of them are
    /// counted: see [`super::Node::refusals`].
    Refused {
        /// Which peer.
        peer: ReplicaId,
        /// What sort of mistake, or attack, it is.
        kind: RefusalKind,
        /// Why, for people.
        reason: String,
    },
    /// A replica's clock, perhaps this one's, is more than a minute from the median of all.
    ClockSkew {
        /// Whose.
        replica: ReplicaId,
        /// Microseconds, positive if it is ahead.
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
    /// Its state is wrong and its log is good: takes part, and serves nothing until the state is
    /// rebuilt.
    Quarantined,
    /// Its log or chain is damaged: takes no part.
    Damaged,
    /// It was damaged, and fills its store from the primary: takes no part before it has reached
    /// what the primary names.
    Repairing,
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
    /// The level in force at `applied` (0 before entry 1).
    pub level: Level,
    /// Where the log begins; commit and applied index are not below it.
    pub base: Base,
    /// (first index, term) of each run of equal terms in the log, ascending.
    pub term_runs: Vec<(Index, Term)>,
    /// Last entry of the log.
    pub last: Stamp,
    /// The newest entries, consecutive to `last`. Holds at least everything above `applied`.
    pub tail: Vec<Entry>,
    /// Hash of the entry before `tail`'s first (the base's if the tail begins there or is empty).
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
    /// The last entry that was cut from the log: it begins after this one.
    pub base: Index,
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
    /// The level in force.
    pub level: Level,
    /// From a primary: durable match of each peer.
    pub matches: BTreeMap<ReplicaId, Index>,
    /// Peers whose connection is open.
    pub connected: Vec<ReplicaId>,
    /// What is damaged, if anything.
    pub damage: Option<(Index, String)>,
    /// From whom a copy was adopted last in this run, and where that ended.
    pub adopted: Option<(ReplicaId, Stamp)>,
    /// Whose messages are refused, and why.
    pub refused: Vec<(ReplicaId, String)>,
    /// How far this replica's clock is ahead of the median of all, if that is more than a minute
    /// either way, in microseconds.
    pub clock_ahead_us: Option<i64>,
    /// Why the state is doubted, if it is.
    pub quarantine: Option<(Index, String)>,
    /// The highest index at which a majority, this replica included, has the same state.
    pub digest_agreed: Index,
    /// Where others have another state and no majority says who is right, and who they are.
    pub digest_tie: Option<(Index, Vec<ReplicaId>)>,
    /// The event that said so, if this replica cannot be repaired without its operator.
    pub halt: Option<Event>,
}
