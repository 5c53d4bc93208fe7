//! The consensus core: ballots, replication, commits, reads and boot, as a state machine.
//!
//! PURE: no I/O, no clock, no randomness but its seed, no tokio, no sled. Everything that happens
//! is a method call on [`Node`]; everything to be done is taken out as a [`Ready`]. The simulator
//! and the server run the very same code.
//!
//! # The protocol in one page
//!
//! Replicas agree on a *log*: a sequence of entries, each with an index and the term of the
//! primary that wrote it. (term, index) is the entry's *stamp*; copies of the log are compared by
//! their last stamp, and "newer" means nothing else. Underneath it is Raft (Ongaro and Ousterhout,
//! "In search of an understandable consensus algorithm", 2014) with a ballot-collection window in
//! place of randomised timeouts, and Zab's comparison of ballots with a random value in place of a
//! fixed id.
//!
//! **A primary is missed.** Every `refresh_interval` each replica sends its status to the others,
//! with a counter that its own thread advances while its disk answers. A secondary that has not
//! seen the primary's counter rise for `election_iters` refreshes, or whose connection to it was
//! closed and refused, asks the others whether they miss it too (`Ask`, `Agree`; nothing is
//! persisted). They agree only if they do, and if the asker's copy is at least as new as theirs.
//! With a majority it raises its term: one bad link deposes nobody. See `election`.
//!
//! **An election.** The term is made durable, then every replica sends everyone its ballot: last
//! durable stamp, a random value drawn afresh, a timestamp. When the ballots of all reachable
//! replicas are in, or the window of 8 x `election_check_interval` ends, each replica grants the
//! best ballot (newest copy, highest random value, lowest timestamp, lowest id) if that is not
//! older than its own log: durably, and once a term. In the normal case all logs are equal and all
//! ballots arrive, so all grant alike: one round, no split vote, no bias. A majority of grants
//! makes a primary.
//!
//! **Replication.** The primary appends an entry of its own term first, and serves when that is
//! committed. Batches name the stamp and the hash of the entry before them; a secondary accepts
//! only where these match, fsyncs, then acknowledges, and only if the term is still that of the
//! append. An entry *of the primary's own term* is committed when a majority has fsynced it, the
//! primary among them or not; what lies before it is committed with it. Secondaries hear of it with the
//! next entries, or by a notice. See `primary`, `progress`, `replication`, `notices`.
//!
//! **Reads.** The primary takes its commit index, then confirms with a majority, under a nonce
//! that is never reused, that it is still primary; a reader waits until it has applied that index.
//! See `reads`.
//!
//! **Identity.** A replica is (cluster, id, incarnation). All configured replicas together form a
//! cluster, once; one that lost its promises has a new incarnation and is readmitted by an entry
//! of the log. See `formation` and `membership`. One whose disk went back to an old copy learns it from
//! the others: see `memory`.
//!
//! **Boot.** Replicas exchange their stamps; one that finds no primary adopts the newest copy
//! among those that answer, in the background, under conditions that are checked on the bytes
//! installed; then the election is held. See `adoption`.
//!
//! **Snapshots and repair.** A log may have been cut: a replica that needs what is gone is given the
//! primary's state, in parts, and exchanges its store for it at once. One whose log was damaged keeps
//! its promises, begins with an empty store, and counts again when its log has reached what the
//! primary named. Where damage leaves too few for a primary, a question to all others, fenced by a
//! term, may prove that what one cannot read was never committed. See `snapshot`, `repair`, `poll`.
//!
//! **A wrong state.** Digests of the state are compared at agreed indexes; a replica contradicted by a
//! majority is quarantined: its log counts as before, and its state is shown to nobody until it is
//! rebuilt. See `digests`, `quarantine`.
//!
//! # Duties of order
//!
//! A message that depends on a term or a grant leaves only AFTER that is fsynced; an
//! acknowledgement only AFTER the entries are; a mark is lowered BEFORE entries are truncated; a
//! log is durable BEFORE the term that it proves. `jobs` keeps all of it: the shell executes one
//! [`Job`] at a time and says when it is done.
//!
//! # Caveats
//!
//! A log below the part in memory is not read here: the core asks for it ([`Fetch`]).

mod adoption;
mod clocks;
mod config;
mod digests;
mod election;
mod formation;
mod jobs;
mod level;
mod log;
mod membership;
mod memory;
mod message;
mod mutants;
mod node;
mod notices;
mod poll;
mod primary;
mod progress;
mod quarantine;
mod reads;
mod ready;
mod refusing;
mod repair;
mod replication;
mod rng;
mod room;
mod sending;
mod snapshot;
mod status;
#[cfg(feature = "model")]
mod view;

pub use config::Config;
pub use message::{
    Append, AppendReply, Ballot, Body, FormationStatus, Hello, Message, Place, PollAnswer, Refresh,
    Row, SnapshotChunk, SnapshotHead,
};
pub use mutants::Mutant;
pub use node::Node;
pub use ready::{
    Event, Fetch, HardState, Job, JobId, NotPrimary, Now, ReadId, Ready, Repair, Role,
    SnapshotRead, SnapshotStep, Start, Status, StepDone,
};
pub use status::Glance;

#[cfg(feature = "model")]
pub use view::Driver;

#[cfg(test)]
mod tests;
