//! One replica: consensus, state machine and store put together.
//!
//! [`Replica`] is synchronous and knows no thread, socket or clock: the simulator runs the very
//! same one. [`runtime`] gives it a thread, a queue, a storage thread and links to the others.
//!
//! ```text
//!  service ── Handle ──┐                    ┌── notices ── Shared ── Watch ── streams
//!  network ─ PeerInbox ┼─ Queue ─ Driver ───┼── messages ─ Transport ─ network
//!  storage thread ─────┘      (turns)       └── DiskJob ── storage thread
//! ```
//!
//! Architecture invariants: one thread at a time touches [`Replica`], in a turn (the replica's own thread, or
//! whoever has brought something while little is going on: `turns`), and no turn waits for a write or a peer;
//! only the storage thread writes; whoever waits for an outcome gets exactly
//! one, and `NotApplied` is said only of what certainly was not and never will be.

pub mod clock;
mod counting;
mod disk;
mod driver;
mod engine;
mod events;
mod execute;
mod forwards;
mod handle;
mod names;
mod outcomes;
mod pace;
mod payload;
mod queue;
mod reads;
mod relays;
mod repairs;
mod room;
pub mod runtime;
pub mod shared;
mod stopping;
mod storage_thread;
#[cfg(test)]
mod testing;
mod tokens;
pub mod transport;
mod turns;
mod upkeep;
mod workshop;
mod writes;

pub use engine::Replica;
pub use events::{clock_ahead, sentence};
pub use execute::execute;
pub use handle::{Handle, Verified, Wake, Watch};
pub use names::Names;
pub use outcomes::{Outcome, Outcomes};
pub use room::Space;
pub use workshop::{Portions, Workshop};

use crate::consensus::{
    Event, Message, SnapshotChunk, SnapshotHead, SnapshotRead, SnapshotStep, Status as NodeStatus,
    StepDone,
};
use crate::state_machine::{Answer, Command, Notice, Query, Reply};
use crate::storage::{CommitRecord, RepairEnd, RepairNote, Slice};
use crate::types::entry::Entry;
use crate::types::refusals::Refusals;
use crate::types::{Base, Hash, Index, ReplicaId, RunNonce, TokenHash, WallTime};

/// What the replica is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// For the core.
    pub node: crate::consensus::Config,
    /// A write or forward that has no outcome after this many microseconds is `OutcomeUnknown`.
    pub write_timeout_us: u64,
    /// A read without an answer for this many microseconds is `Unavailable`.
    pub read_timeout_us: u64,
    /// Tokens expire after this many microseconds without use.
    pub token_idle_us: u64,
    /// Messages go so long after they were sent, in microseconds; 0: never for their age.
    pub retention_us: u64,
    /// Lag of the checkpoint in entries at which a slice is forced out even if not full.
    pub checkpoint_entries_max: u64,
    /// When the store is rewritten, and what of the log is kept.
    pub rewriting: Rewriting,
    /// Between two scrubs, in microseconds; 0: none.
    pub scrub_interval_us: u64,
    /// Bytes to leave free on the disk beside the room for one rewriting: with less, it is low.
    pub free_bytes_min: u64,
    /// State digests are kept at multiples of this index: the same on every replica, and always
    /// [`crate::limits::DIGEST_EVERY`] but in simulations, whose logs are short.
    pub digest_every: u64,
}

/// When the store is rewritten, and what of the log is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewriting {
    /// Not before the store has this many bytes times [`crate::limits::REWRITE_GROWTH`]; half of that where
    /// space is short or nothing is written.
    pub bytes_min: u64,
    /// And, however little it has grown, when the last time is so many microseconds ago and there is
    /// something to be cut; 0: never for its age.
    pub age_us: u64,
    /// Keep at least this many of the newest entries.
    pub keep_entries: u64,
    /// And as many as this for a connected peer that lacks them.
    pub keep_behind: u64,
    /// And those that are younger than this many microseconds, by the log's own clock.
    pub keep_age_us: u64,
    /// Keep the whole log, for audit.
    pub keep_log: bool,
}

impl Default for Rewriting {
    fn default() -> Self {
        Self {
            bytes_min: 128 * 1024 * 1024,
            age_us: 0,
            keep_entries: 1_000_000,
            keep_behind: 10_000_000,
            keep_age_us: 0,
            keep_log: false,
        }
    }
}

/// Names a request to the replica; given back with its outcome.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// Sees everything acknowledged before it began.
    #[default]
    Linearizable,
    /// What this replica has applied, however old. Only where asked for by name.
    Stale,
}

/// Everything that can happen to a replica.
#[derive(Debug)]
pub enum Input {
    /// Time passed. At least every 5 ms.
    Tick,
    /// From another replica.
    Peer(PeerMessage),
    /// A connection to this peer opened.
    LinkUp(ReplicaId),
    /// It closed; `refused`: and a new one is refused.
    LinkDown {
        /// Which.
        peer: ReplicaId,
        /// Nobody listens there.
        refused: bool,
    },
    /// A disk job is done.
    DiskDone(DiskDone),
    /// A client's write.
    Write(Ticket, Command),
    /// A client's read.
    Read(Ticket, Query, Consistency),
    /// So many bytes are free on the file system of the data directory.
    DiskSpace(u64),
    /// These tokens were used on this replica.
    TokensUsed(Vec<TokenHash>),
    /// SIGTERM: refuse new writes, hand the role over, write the last slice.
    ShutDown,
}

/// From one replica to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// The core's.
    Consensus(Message),
    /// A write that a secondary received. `nonce` is its own.
    Forward {
        /// The sender.
        from: ReplicaId,
        /// The receiver.
        to: ReplicaId,
        /// The sender's run: an answer goes to no other.
        run: RunNonce,
        /// Names the forward.
        nonce: u64,
        /// The command.
        command: Command,
    },
    /// Its outcome.
    ForwardReply {
        /// The sender.
        from: ReplicaId,
        /// The receiver.
        to: ReplicaId,
        /// The run of the one who forwarded.
        run: RunNonce,
        /// Which forward.
        nonce: u64,
        /// What it came to.
        outcome: Result<Written, WriteError>,
    },
    /// A read that a replica received and must not answer from its own state.
    ForwardRead {
        /// The sender.
        from: ReplicaId,
        /// The receiver.
        to: ReplicaId,
        /// The sender's run: an answer goes to no other.
        run: RunNonce,
        /// Names the forward.
        nonce: u64,
        /// The query.
        query: Query,
    },
    /// Its answer.
    ForwardReadReply {
        /// The sender.
        from: ReplicaId,
        /// The receiver.
        to: ReplicaId,
        /// The run of the one who forwarded.
        run: RunNonce,
        /// Which forward.
        nonce: u64,
        /// The answer.
        answer: Result<Answer, ReadError>,
    },
}

impl PeerMessage {
    /// For whom.
    pub fn to(&self) -> ReplicaId {
        match self {
            Self::Consensus(m) => m.to,
            Self::Forward { to, .. }
            | Self::ForwardReply { to, .. }
            | Self::ForwardRead { to, .. }
            | Self::ForwardReadReply { to, .. } => *to,
        }
    }
    /// From whom.
    pub fn from(&self) -> ReplicaId {
        match self {
            Self::Consensus(m) => m.from,
            Self::Forward { from, .. }
            | Self::ForwardReply { from, .. }
            | Self::ForwardRead { from, .. }
            | Self::ForwardReadReply { from, .. } => *from,
        }
    }
}

/// A write's outcome.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Written {
    /// What the state machine said.
    pub reply: Reply,
    /// The entry.
    pub index: Index,
}

/// Why a write has no reply.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error,
)]
pub enum WriteError {
    /// Certainly not applied: retry at will.
    #[error("not applied: no primary is serving")]
    NotApplied,
    /// Perhaps applied: retry with the same request id only.
    #[error("the outcome is unknown: retry with the same request id")]
    OutcomeUnknown,
    /// Too many requests wait on this replica; certainly not applied.
    #[error("overloaded")]
    Overloaded,
    /// This replica takes no part.
    #[error("this replica is shutting down")]
    ShuttingDown,
    /// The disks of a majority are nearly full; certainly not applied.
    #[error("not applied: the disks are nearly full")]
    DiskFull,
}

/// Why a read has no answer.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error,
)]
pub enum ReadError {
    /// No majority confirmed the read in time.
    #[error("unavailable: no majority answered in time")]
    Unavailable,
    /// Too many requests wait on this replica.
    #[error("overloaded")]
    Overloaded,
}

/// Work for the disk: at most one out at a time, except that fetches are answered in order too.
#[derive(Debug)]
pub struct DiskJob {
    /// Rises by one.
    pub number: u64,
    /// The core's part, if any; its order is on [`crate::consensus::Job`].
    pub core: Option<Box<crate::consensus::Job>>,
    /// Rides in the same atomic write as the core's entries.
    pub commit: Option<CommitRecord>,
    /// The commit record is to be durable when the job is done.
    pub sync_commit: bool,
    /// A checkpoint slice, in a write of its own AFTER the core's part.
    pub slice: Option<Slice>,
    /// Reads for peers that are behind.
    pub fetches: Vec<crate::consensus::Fetch>,
    /// Work beside the log, in a job without the core's part.
    pub extra: Option<Extra>,
}

/// Work for the disk beside the log; see [`Workshop`]. Never more than one a job.
#[derive(Debug)]
pub enum Extra {
    /// A part of the state for a peer. With it, what the trees stand at.
    Read(SnapshotRead, Slice),
    /// A step of building the next store from a snapshot.
    Step(SnapshotStep),
    /// A step of rewriting the store.
    Rewrite(RewriteStep),
    /// Cut the log where it is.
    Cut(Cut),
    /// A part of a scrub. With it, what the trees stand at.
    Scrub(ScrubPart, Slice),
    /// The state that is held still for snapshots is not needed any more.
    Unpin,
}

/// A part of a scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubPart {
    /// The first one of a new scrub.
    Begin,
    /// The same of one that leaves out the log: the one before came as far as the state.
    BeginState,
    /// The next one.
    GoOn,
}

/// How much of the log may be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The new base; no entry above it is cut.
    pub base: Index,
    /// Nor one that is younger than this.
    pub keep_since: WallTime,
}

/// A step of rewriting the store.
#[derive(Clone, Debug)]
pub enum RewriteStep {
    /// Begin a store whose log begins after this entry.
    Begin {
        /// How much of the log goes.
        cut: Cut,
        /// What the trees stand at, without changes.
        applied: Slice,
        /// No rewriting if the log's base would be lower than this.
        least: Index,
    },
    /// Copy some more.
    Copy {
        /// So many portions at once.
        portions: usize,
        /// How much of the log may go by now: what came while records were copied can be cut too. `None`:
        /// what was said at the beginning.
        cut: Option<Cut>,
    },
    /// Begin a store with the same log and no rows: the state is computed anew from the log.
    Replay,
    /// Compute some more.
    Rebuild {
        /// Everything up to here is committed and in the log: so far, for now.
        committed: Index,
        /// See [`Config::digest_every`].
        digest_every: u64,
    },
    /// Open it and scan it.
    Check,
    /// Copy what is left and exchange the stores.
    Install,
    /// Give it up.
    Drop,
}

/// What came of an [`Extra`].
#[derive(Debug)]
pub enum ExtraDone {
    /// The same step again.
    GoesOn,
    /// The state that there is, for a peer.
    Head(ReplicaId, Box<SnapshotHead>),
    /// Rows for a peer.
    Rows(ReplicaId, SnapshotChunk),
    /// A step of a snapshot.
    Step(StepDone),
    /// Everything is copied: the next store equals this one.
    Copied,
    /// It was opened and holds what it should.
    Checked,
    /// The rewritten store is the live one, and its log begins here.
    Rewritten(Base),
    /// The log begins here.
    Cut(Base),
    /// Everything that was to be computed anew is: the state after this entry.
    Computed(Index),
    /// The store with trees of their own is the live one.
    Rebuilt(Box<Rebuilt>),
    /// The rewriting was given up.
    RewriteFailed,
    /// There is not enough to be cut: no rewriting.
    NothingToCut,
    /// A scrub is over, and everything is sound.
    Scrubbed(Scrubbed),
    /// The state changed too much while it was scrubbed.
    ScrubGivenUp,
    /// The scrub has found the log sound and the state wrong.
    StateWrong(String),
    /// Nothing to tell.
    Nothing,
}

/// What a scrub has compared, all of it sound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scrubbed {
    /// The state after this entry.
    pub applied: Index,
    /// Entries of the log.
    pub entries: u64,
    /// Commit records.
    pub commit_records: u64,
}

/// Trees that were computed anew, over the same log.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// What they stand at, without changes.
    pub applied: Slice,
    /// The newest commit record: about that entry.
    pub record: CommitRecord,
}

/// A finished [`DiskJob`].
#[derive(Debug)]
pub struct DiskDone {
    /// Which.
    pub number: u64,
    /// For each fetch: peer and entries.
    pub fetched: Vec<(ReplicaId, Vec<Entry>)>,
    /// What came of the extra work.
    pub extra: Option<ExtraDone>,
    /// Bytes of the store on the disk, if it was looked at.
    pub size_bytes: Option<u64>,
    /// Bytes of what is in it, if that is known.
    pub live_bytes: Option<u64>,
}

/// What a turn brought.
#[derive(Debug, Default)]
pub struct Output {
    /// For the storage thread.
    pub job: Option<Box<DiskJob>>,
    /// Send; may be lost.
    pub messages: Vec<PeerMessage>,
    /// Outcomes of writes.
    pub written: Vec<(Ticket, Result<Written, WriteError>)>,
    /// Outcomes of reads.
    pub answered: Vec<(Ticket, Result<Answer, ReadError>)>,
    /// For watchers, in order of the log.
    pub notices: Vec<Notice>,
    /// What happened, to be logged and shown.
    pub events: Vec<Event>,
    /// The state is that of another replica now: look at everything again.
    pub jumped: bool,
    /// A scrub is over, and everything is sound.
    pub scrubbed: Option<Scrubbed>,
    /// A scrub was given up.
    pub scrub_given_up: bool,
    /// A repair is over: to be remembered by the store.
    pub repaired: Option<RepairEnd>,
    /// Shut down completely: the role is handed over and everything is on the disk.
    pub shut_down: bool,
}

/// A replica's status for people and checkers.
#[derive(Clone, Debug)]
pub struct Status {
    /// The core's.
    pub node: NodeStatus,
    /// Applied index.
    pub applied: Index,
    /// State digest there.
    pub digest: Hash,
    /// Digests at the last multiples of 1,024.
    pub digests: Vec<(Index, Hash)>,
    /// What the state trees on the disk hold.
    pub checkpoint: Index,
    /// Ranges of rows that nobody can see and that wait for their removal.
    pub cleanups: u64,
    /// Room on the disk if it is low.
    pub low: Option<Space>,
    /// Room on the disk as it was last seen.
    pub space: Option<Space>,
    /// As primary it refuses writes for want of room.
    pub refuses_writes: bool,
    /// The last repair, ended or not.
    pub last_repair: Option<RepairNote>,
    /// What was refused of what the others sent, behind the door.
    pub refusals: Refusals,
}
