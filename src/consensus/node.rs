//! The node (skeleton: signatures are fixed, bodies come).

use super::{Event, HardState, JobId, Message, Now, ReadId, Ready, Role, Start};
use crate::types::entry::{Entry, Kind};
use crate::types::{ClusterId, Hash, Incarnation, Index, Members, ReplicaId, Stamp, Term};
use std::collections::BTreeMap;

/// Ids and timings.
#[derive(Clone, Debug)]
pub struct Config {
    /// This replica.
    pub id: ReplicaId,
    /// Every configured replica, this one included, sorted.
    pub ids: Vec<ReplicaId>,
    /// Microseconds between refreshes.
    pub refresh_interval_us: u64,
    /// A primary unseen for this many refreshes is missed.
    pub election_iters: u32,
    /// The collection window is eight of these, in microseconds.
    pub election_check_interval_us: u64,
    /// How long a booting replica waits for the others, in microseconds.
    pub initialize_wait_us: u64,
    /// Version and build, told to peers.
    pub build: String,
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

/// The core of one replica. Every method that takes `now` may fill the next [`Ready`]; take it
/// after each call (or after several).
pub struct Node {}

#[allow(unused_variables, clippy::unused_self, missing_docs)]
impl Node {
    /// Starts from what recovery found.
    pub fn new(start: Start) -> Self {
        todo!()
    }
    /// Time passes. Call at least every quarter of `election_check_interval`... or 5 ms.
    pub fn tick(&mut self, now: Now) {
        todo!()
    }
    /// The replica's thread and disk are alive: call once per turn of the loop with the age in
    /// microseconds of the job that is out (0 if none).
    pub fn set_disk_age(&mut self, age_us: u64) {
        todo!()
    }
    /// State for refreshes: applied index, digests at the last multiples of 1,024, disk low.
    pub fn set_applied(&mut self, applied: Index, digests: Vec<(Index, Hash)>, disk_low: bool) {
        todo!()
    }
    /// A message arrived.
    pub fn step(&mut self, now: Now, message: Message) {
        todo!()
    }
    /// A connection to `peer` is open.
    pub fn on_link_up(&mut self, now: Now, peer: ReplicaId) {
        todo!()
    }
    /// The connection to `peer` closed; `refused`: and nobody listens there any more.
    pub fn on_link_down(&mut self, now: Now, peer: ReplicaId, refused: bool) {
        todo!()
    }
    /// Proposes commands as one batch; returns the index of the first.
    pub fn propose(&mut self, now: Now, payloads: &[(Kind, Vec<u8>)]) -> Result<Index, NotPrimary> {
        todo!()
    }
    /// Wants a linearizable read; answered in `Ready::reads` or `reads_failed`.
    pub fn read_index(&mut self, now: Now, read: ReadId) {
        todo!()
    }
    /// Every step of this job is done and durable.
    pub fn on_persisted(&mut self, now: Now, job: JobId) {
        todo!()
    }
    /// Entries for a [`super::Fetch`]; empty if the log no longer has them.
    pub fn on_fetched(&mut self, now: Now, peer: ReplicaId, entries: Vec<Entry>) {
        todo!()
    }
    /// Hand the primary role over (SIGTERM). `Event::SteppedDown` follows on a primary.
    pub fn hand_over(&mut self, now: Now) {
        todo!()
    }
    /// What to do next. Empty most of the time.
    pub fn take_ready(&mut self) -> Ready {
        todo!()
    }
    /// A look inside.
    pub fn status(&self) -> Status {
        todo!()
    }
    /// The promises as they will be once every job is done.
    pub fn hard_state(&self) -> &HardState {
        todo!()
    }
}
#[allow(dead_code)]
type Keep = Event;
