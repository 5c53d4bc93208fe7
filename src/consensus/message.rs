//! What replicas say to each other, as values. The bytes on the wire are `grpc`'s business.

use crate::types::entry::Entry;
use crate::types::{
    Base, ClusterId, Hash, Incarnation, Index, Level, Members, ReplicaId, RunNonce, Stamp, Term,
    WallTime,
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// One message between replicas.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// The sender.
    pub from: ReplicaId,
    /// The receiver.
    pub to: ReplicaId,
    /// The sender's cluster; `None` before formation. Mismatch: refused.
    pub cluster: Option<ClusterId>,
    /// The sender's incarnation.
    pub from_incarnation: Incarnation,
    /// The receiver's incarnation as the sender knows it; `None` before its `Hello`.
    pub to_incarnation: Option<Incarnation>,
    /// The sender's process run.
    pub run: RunNonce,
    /// The sender's term.
    pub term: Term,
    /// The rest.
    pub body: Body,
}

/// The kinds of message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// First on every connection, and again whenever what it says has changed.
    Hello(Hello),
    /// Every `refresh_interval`, to everyone: the sender's status.
    Refresh(Refresh),
    /// "I miss the primary; do you?" Persists nothing.
    Ask {
        /// Names the question; the answer repeats it.
        nonce: u64,
        /// The asker's last durable stamp.
        last: Stamp,
    },
    /// "I miss it too, and your copy is at least as new as mine."
    Agree {
        /// The nonce of the question.
        nonce: u64,
    },
    /// A candidacy in the message's term.
    Ballot(Ballot),
    /// "I have no ballot in this term": lets the others end their window early.
    Abstain,
    /// The sender's one grant in the message's term.
    Grant {
        /// The nonce of the ballot that it is for.
        nonce: u64,
        /// The granter's wall clock, for the term's base time.
        clock: WallTime,
    },
    /// Entries from the primary of the message's term; without entries a probe or commit advance.
    Append(Append),
    /// What a secondary holds durably of the primary's log, or where it differs.
    AppendReply(AppendReply),
    /// A read round: "am I still your primary?"
    Round {
        /// Never reused by this primary.
        nonce: u64,
    },
    /// "Yes, in this term."
    RoundReply {
        /// The nonce of the round.
        nonce: u64,
    },
    /// A secondary wants to serve a linearizable read.
    ReadIndex {
        /// The secondary's own nonce.
        nonce: u64,
    },
    /// Serve it once this index is applied.
    ReadIndexReply {
        /// The nonce of the question.
        nonce: u64,
        /// The index to wait for.
        index: Index,
    },
    /// The primary hands over: start an election without asking.
    CampaignNow,
    /// Boot: asks for durable entries after a stamp that the asker has committed.
    CopyRequest {
        /// Names the transfer.
        nonce: u64,
        /// The last entry that the receiver of the copy keeps (its commit point).
        after: Stamp,
        /// That entry's hash.
        after_hash: Hash,
    },
    /// A piece of the copy: consecutive entries.
    CopyPiece {
        /// The nonce of the request.
        nonce: u64,
        /// Consecutive durable entries; the first follows what came before.
        entries: Vec<Entry>,
        /// Nothing follows.
        done: bool,
    },
    /// From the primary, to a replica that needs what its log no longer has: the package of
    /// its current state, by name.
    SnapshotOffer(Box<SnapshotHead>),
    /// The receiver wants the rows after this place of the state of this name.
    SnapshotRequest {
        /// Of the offer.
        name: Hash,
        /// What it has already; `None`: nothing.
        after: Option<Place>,
    },
    /// Rows of the state of this name.
    SnapshotChunk(Box<SnapshotChunk>),
    /// A serving primary to a repairing replica that has said hello: take part again once your
    /// durable log has reached this index in this term.
    RepairTo {
        /// The primary's last index, after it forgot what the replica had acknowledged before.
        index: Index,
    },
    /// A quarantined replica to the primary: it wants to rebuild its state from the primary's.
    StateWanted {
        /// After this entry or a later one: its log has nothing below.
        at_least: Index,
    },
    /// To the primary that has sent its state: a scan of the rows gives another digest than it says.
    StateDoubted {
        /// The state after this entry.
        index: Index,
    },
    /// A damaged replica that no primary can repair: "did you ever have an entry above this index?"
    /// The message's term is higher than that of any entry in question, and the receiver makes it
    /// durable BEFORE it answers: what it never had it will not take any more.
    Poll {
        /// Names the question; the answer repeats it.
        nonce: u64,
        /// The last entry that the asker can read.
        above: Index,
    },
    /// The answer to a `Poll`.
    PollReply {
        /// The nonce of the question.
        nonce: u64,
        /// What the sender knows.
        answer: PollAnswer,
    },
}

/// What a replica knows of the entries above an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PollAnswer {
    /// It never had one.
    Never,
    /// It has one, or had one.
    Held,
    /// Its own log is damaged there, or it has not kept its promises.
    Unknown,
}

/// What a snapshot contains, without its rows: enough to name and to verify it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotHead {
    /// The last entry whose effect is in the state.
    pub base: Base,
    /// Digest of the state there: a scan of all rows must give it.
    pub digest: Hash,
    /// Membership there.
    pub members: Members,
    /// The state machine's own bytes.
    pub machine: Bytes,
}

impl SnapshotHead {
    /// Names the content: the same state at the same index has the same name on every replica, so
    /// that a transfer can go on with another primary.
    pub fn name(&self) -> Hash {
        let mut hasher = blake3::Hasher::new_derive_key("chat-server 2026 snapshot name v1");
        hasher.update(&self.base.stamp.term.0.to_be_bytes());
        hasher.update(&self.base.stamp.index.0.to_be_bytes());
        hasher.update(&self.base.hash.0);
        hasher.update(&self.base.time.0.to_be_bytes());
        for members in [&self.base.founders, &self.members] {
            hasher.update(&(members.len() as u64).to_be_bytes());
            for (id, incarnation) in members {
                hasher.update(&id.0.to_be_bytes());
                hasher.update(&incarnation.0);
            }
        }
        hasher.update(&self.digest.0);
        hasher.update(&self.machine);
        Hash(*hasher.finalize().as_bytes())
    }
}

/// A place in a snapshot: rows are ordered by tree, then by key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Number of the tree.
    pub tree: u8,
    /// The row's key.
    pub key: Bytes,
}

/// A row of the state, opaque to consensus.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// Where.
    pub place: Place,
    /// What.
    pub value: Bytes,
}

/// Consecutive rows of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotChunk {
    /// Of which snapshot.
    pub name: Hash,
    /// They follow this place.
    pub after: Option<Place>,
    /// In order; may be empty.
    pub rows: Vec<Row>,
    /// Nothing follows.
    pub done: bool,
}

impl SnapshotChunk {
    /// Over everything in it: bytes that were damaged on the way are seen before they are stored.
    pub fn sum(&self) -> Hash {
        let mut hasher = blake3::Hasher::new_derive_key("chat-server 2026 snapshot chunk v1");
        let mut place = |place: &Place| {
            hasher.update(&[place.tree]);
            hasher.update(&(place.key.len() as u64).to_be_bytes());
            hasher.update(&place.key);
        };
        self.after.iter().for_each(&mut place);
        for row in &self.rows {
            place(&row.place);
        }
        for row in &self.rows {
            hasher.update(&(row.value.len() as u64).to_be_bytes());
            hasher.update(&row.value);
        }
        hasher.update(&self.name.0);
        hasher.update(&[u8::from(self.done), u8::from(self.after.is_some())]);
        hasher.update(&(self.rows.len() as u64).to_be_bytes());
        Hash(*hasher.finalize().as_bytes())
    }

    /// Rows in ascending order, all of them after `after`?
    pub fn is_ordered(&self) -> bool {
        let mut last = self.after.as_ref();
        self.rows.iter().all(|row| {
            let ascends = last.is_none_or(|last| *last < row.place);
            last = Some(&row.place);
            ascends
        })
    }
}

/// Who the sender is and what it holds. Its wire form is fixed: see `docs/protocol.md`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hello {
    /// Ids that the sender is configured with, sorted, its own included.
    pub ids: Vec<ReplicaId>,
    /// How far the sender's formation is.
    pub formation: FormationStatus,
    /// The last durable stamp.
    pub last: Stamp,
    /// Hash of the entry there.
    pub head_hash: Hash,
    /// The sender's commit index.
    pub commit: Index,
    /// The primary that the sender follows, if any.
    pub primary: Option<ReplicaId>,
    /// Lowest and highest inter-server protocol version spoken.
    pub protocol: (u32, u32),
    /// Highest level known.
    pub level: Level,
    /// Version and build, for people.
    pub build: String,
    /// The log or chain is damaged: the sender takes no part.
    pub damaged: bool,
    /// The sender's own incarnation is in force in its own committed log.
    pub admitted: bool,
    /// The sender has lost what it had acknowledged and repairs itself: a serving primary answers
    /// with `RepairTo`.
    pub repairing: bool,
    /// The receiver's run nonce as the sender knows it: if it is not the receiver's, the receiver
    /// says hello again.
    pub knows_run: Option<RunNonce>,
    /// What the receiver, in its present incarnation, has acknowledged, as the sender remembers it.
    pub remembers: Stamp,
}

/// How far formation is. Order matters to nobody; the cases are exclusive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum FormationStatus {
    /// Nothing yet.
    Unformed,
    /// Durably ready to form this cluster; another may still be prepared.
    Prepared(ClusterId),
    /// Formed by these members: entry 1.
    Formed(Members),
}

/// A replica's status.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refresh {
    /// Advanced by the replica's turns, and only while its disk answers.
    pub progress: u64,
    /// The sender is primary of the message's term.
    pub is_primary: bool,
    /// The primary that the sender follows in the message's term.
    pub primary: Option<ReplicaId>,
    /// Last durable stamp.
    pub last: Stamp,
    /// Commit index.
    pub commit: Index,
    /// Applied index.
    pub applied: Index,
    /// The sender's stamp at the receiver's last index, or at the sender's commit index if that is
    /// lower: committed, so that a receiver with the same stamp there knows its own to be.
    pub settled: Stamp,
    /// State digests at the last multiples of 1,024.
    pub digests: Vec<(Index, Hash)>,
    /// From a primary: what each member has acknowledged.
    pub acknowledged: BTreeMap<ReplicaId, Stamp>,
    /// The members as the sender knows them to be committed: whose lives these are. Earlier builds
    /// name none.
    pub members: Members,
    /// The index that they are of.
    pub members_at: Index,
    /// The sender's wall clock.
    pub clock: WallTime,
    /// The sender's disk is nearly full.
    pub disk_low: bool,
    /// The receiver's run nonce as the sender knows it: if it is not the receiver's, the receiver
    /// says hello again.
    pub knows_run: Option<RunNonce>,
    /// What the receiver, in its present incarnation, has acknowledged, as the sender remembers it.
    pub remembers: Stamp,
    /// The sender's state is doubted: it names no digests, and is given no role that serves.
    pub quarantined: bool,
}

/// A ballot. Better ones compare greater: see [`Ballot::rank`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ballot {
    /// Names this ballot; a grant repeats it.
    pub nonce: u64,
    /// The candidate's last durable stamp.
    pub last: Stamp,
    /// Hash of the entry there.
    pub head_hash: Hash,
    /// Drawn afresh for each term.
    pub random: u64,
    /// The candidate's wall clock.
    pub timestamp: WallTime,
}

impl Ballot {
    /// Newest copy, then highest random value, then lowest timestamp, then lowest id.
    pub fn rank(
        &self,
        id: ReplicaId,
    ) -> (
        Stamp,
        u64,
        std::cmp::Reverse<WallTime>,
        std::cmp::Reverse<ReplicaId>,
    ) {
        (
            self.last,
            self.random,
            std::cmp::Reverse(self.timestamp),
            std::cmp::Reverse(id),
        )
    }
}

/// Entries from a primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Append {
    /// Stamp of the entry before the first one here.
    pub previous: Stamp,
    /// Its hash.
    pub previous_hash: Hash,
    /// Consecutive entries; may be empty.
    pub entries: Vec<Entry>,
    /// The primary's commit index.
    pub commit: Index,
    /// It only tells the commit index: without entries no answer is wanted.
    pub notice: bool,
}

/// A secondary's answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AppendReply {
    /// Everything up to here is as the primary has it, and durable.
    Match {
        /// The index.
        index: Index,
        /// False from a replica that is not admitted: catches up, but is no acknowledgement.
        counting: bool,
    },
    /// The entry before the batch is missing or another.
    Conflict {
        /// `Append::previous` of the refused batch.
        previous: Stamp,
        /// An index at or below which the two logs may agree; never below the commit index.
        hint: Index,
    },
}
