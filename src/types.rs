//! The numbers and names that every layer speaks: one newtype for each kind.
//!
//! Two bare `u64` side by side are how an index is passed where a term belongs; nothing here
//! converts silently. This module and [`crate::limits`] are the only ones that the pure modules
//! (`consensus`, `state_machine`) may import. It does no I/O and knows no clock.

pub mod entry;
pub mod refusals;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// A replica's configured id, from 1. Addresses are configuration; this is part of identity.
    ReplicaId(u16)
);
number!(
    /// An election term. 0 is before the first election: only the formation entry has it.
    Term(u64)
);
number!(
    /// The position of an entry in the log, from 1. 0 is "nothing".
    Index(u64)
);
number!(
    /// A user: the index of the entry that created the account. Never reused.
    UserId(u64)
);
number!(
    /// The position of a message in its recipient's inbox: gapless from 1 for each user.
    InboxSeq(u64)
);
number!(
    /// Microseconds since the Unix epoch, UTC. Orders nothing in consensus.
    WallTime(u64)
);
number!(
    /// Microseconds of a monotonic clock that starts anywhere. Comparable within one process run.
    Monotonic(u64)
);
number!(
    /// Drawn afresh for each run of a process, so that promises of an earlier run are not taken
    /// for this one's.
    RunNonce(u64)
);
number!(
    /// What apply computes, which kinds and payload versions exist, and the digest: one number.
    Level(u32)
);

impl Index {
    /// The index after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
    /// The index before this one; 0 stays 0.
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl Monotonic {
    /// This instant plus `us` microseconds.
    pub const fn plus(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }
    /// Microseconds since `earlier`; 0 if that lies ahead.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The timestamp of a copy: (term, index), compared in that order. "Newer" always means this,
/// never the index alone and never a clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// Term of the entry. First, so that the derived order is the right one.
    pub term: Term,
    /// Index of the entry.
    pub index: Index,
}

impl Stamp {
    /// The stamp of an empty log.
    pub const ZERO: Self = Self {
        term: Term(0),
        index: Index(0),
    };
    /// The stamp of the formation entry, which every replica writes by itself.
    pub const FORMATION: Self = Self {
        term: Term(0),
        index: Index(1),
    };
    /// A stamp from its two numbers.
    pub const fn new(term: Term, index: Index) -> Self {
        Self { term, index }
    }
}

/// Where a log begins: the entry before its first one, kept when everything up to it was cut. A
/// log that was never cut begins after [`Base::default`], which is no entry.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Base {
    /// Of the last entry that was cut.
    pub stamp: Stamp,
    /// Its hash, which the first entry that is left continues.
    pub hash: Hash,
    /// Its time: no later entry is earlier.
    pub time: WallTime,
    /// The members that entry 1 names: the cluster's id is computed from them.
    pub founders: Members,
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({},{})", self.term, self.index)
    }
}
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({},{})", self.term, self.index)
    }
}

macro_rules! byte_string {
    ($(#[$doc:meta])* $name:ident, $len:literal $(, $derived:ident)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default $(, $derived)*)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Parses exactly this many bytes; `None` for any other length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
            /// The whole value in lower-case hex.
            pub fn to_hex(&self) -> String {
                self.0.iter().map(|b| format!("{b:02x}")).collect()
            }
            /// The first 12 hex digits, for people.
            pub fn short(&self) -> String {
                let mut hex = self.to_hex();
                hex.truncate(12);
                hex
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.short())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }
    };
}

macro_rules! byte_string_serde {
    ($name:ident, $len:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_bytes(FixedBytes).map(Self)
            }
        }
    };
}

/// Reads a byte string of one length, or a sequence of as many numbers.
struct FixedBytes<const N: usize>;

impl<'de, const N: usize> Visitor<'de> for FixedBytes<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }
    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<[u8; N], E> {
        bytes
            .try_into()
            .map_err(|_| E::invalid_length(bytes.len(), &self))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<[u8; N], A::Error> {
        let mut bytes = [0; N];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let next = sequence.next_element()?;
            *byte = next.ok_or_else(|| de::Error::invalid_length(at, &self))?;
        }
        Ok(bytes)
    }
}

byte_string!(
    /// A blake3 hash.
    Hash, 32
);
byte_string!(
    /// blake3 over the formation's sorted (id, incarnation) pairs.
    ClusterId, 32, Serialize, Deserialize
);
byte_string!(
    /// 128 random bits that name one life of a replica's promises. A replica that lost its hard
    /// state makes a new one and must be readmitted.
    Incarnation, 16, Serialize, Deserialize
);
byte_string!(
    /// blake3 of a token. The token itself is never stored, logged or forwarded.
    TokenHash, 32
);
byte_string!(
    /// 16 bytes that a client chose for itself; half of a request id.
    ClientId, 16
);

// The two above are in the formation entry, whose bytes every replica writes by itself: number by
// number for ever. The others are written as byte strings, which is shorter and far quicker, and
// read in both forms.
byte_string_serde!(Hash, 32);
byte_string_serde!(TokenHash, 32);
byte_string_serde!(ClientId, 16);

impl ClusterId {
    /// The id of a cluster formed by these members: blake3(tag, sorted (id, incarnation)).
    pub fn of_members(members: &Members) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("chat-server 2026 cluster id v1");
        for (id, incarnation) in members {
            hasher.update(&id.0.to_be_bytes());
            hasher.update(&incarnation.0);
        }
        Self(*hasher.finalize().as_bytes())
    }
}

/// Names a request for ever: the same id is applied at most once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RequestId {
    /// Who asks. Registered by a login or an account creation.
    pub client: ClientId,
    /// Rises by one for each request of this client; starts at 1.
    pub sequence: u64,
}

/// Which incarnation of each replica is in force.
pub type Members = std::collections::BTreeMap<ReplicaId, Incarnation>;

/// The highest level that this build knows. What each has brought:
///
/// 2. The request that created an account is remembered beyond the account's deletion.
/// 3. What is being filled (a block of messages, a group of replies) stands in the row that changes with
///    it, and a client is in no sum but the total: two or three rows fewer for each message.
pub const LEVEL: Level = Level(3);
/// The level in force from entry 1 on, in every cluster for ever: builds that know different levels
/// must write the same entry 1. Higher ones come by an entry of the log.
pub const FORMATION_LEVEL: Level = Level(1);
