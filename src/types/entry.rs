//! A log entry: a fixed big-endian header, an opaque payload, and a hash chain over both.
//!
//! The hash is taken over the stored bytes and never re-encoded: what was hashed is what is
//! stored and sent. The header's layout is fixed for ever (format 1); see `docs/storage.md`.
//!
//! ```text
//! offset size field
//!      0    2 format (1)
//!      2    2 kind
//!      4    2 payload version
//!      6    2 flags (0)
//!      8    8 term
//!     16    8 index
//!     24    8 time, microseconds since the Unix epoch
//!     32    4 payload length
//!     36   32 hash of the previous entry (zeros before the first)
//!     68    … payload
//! ```

use super::{
    FORMATION_LEVEL, Hash, Incarnation, Index, Level, Members, ReplicaId, Stamp, Term, WallTime,
};
use crate::limits;
use blake3::hazmat::{ContextKey, HasherExt as _, hash_derive_key_context};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 68;
/// The only entry format so far.
pub const FORMAT: u16 = 1;
/// The only payload version so far.
pub const PAYLOAD_VERSION: u16 = 1;
const HASH_CONTEXT: &str = "chat-server 2026 log entry hash v1";

/// What an entry is for. Unknown kinds stop a replica: they are never skipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Kind {
    /// Entry 1: cluster id and members. Written by every replica itself; payload [`Formation`].
    Formation = 1,
    /// The first entry of a primary's term; empty payload.
    TermStart = 2,
    /// Readmits a replica; payload [`ReplaceIncarnation`].
    ReplaceIncarnation = 3,
    /// Raises the level in force; payload is a [`Level`].
    RaiseLevel = 4,
    /// A command of the state machine; the payload is its own.
    Command = 16,
}

impl Kind {
    /// The kind with this number, if this build knows it.
    pub fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Formation,
            2 => Self::TermStart,
            3 => Self::ReplaceIncarnation,
            4 => Self::RaiseLevel,
            16 => Self::Command,
            _ => return None,
        })
    }
}

/// Payload of entry 1.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Formation {
    /// The founding members. The cluster id is computed from them.
    pub members: Members,
    /// The level in force from the first entry on.
    pub level: Level,
}

/// Payload of a readmission.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ReplaceIncarnation {
    /// The replica that is readmitted.
    pub id: ReplicaId,
    /// The incarnation that was in force.
    pub old: Incarnation,
    /// The incarnation that counts once this entry's commit is known.
    pub new: Incarnation,
}

/// What is wrong with the bytes of an entry.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EntryError {
    /// Fewer bytes than the header, or than it announces.
    #[error("entry is cut short: {have} of {need} bytes")]
    Short {
        /// Bytes present.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// A format or kind that this build does not know. A newer build wrote it.
    #[error("entry {index} has unknown {what} {number}: written by a newer version?")]
    Unknown {
        /// Index claimed by the header.
        index: Index,
        /// "format", "kind", "payload version" or "flags".
        what: &'static str,
        /// The number found.
        number: u16,
    },
    /// The payload is longer than any this server writes.
    #[error("entry {index} announces a payload of {bytes} bytes")]
    TooLong {
        /// Index claimed by the header.
        index: Index,
        /// Announced length.
        bytes: usize,
    },
    /// A term or an index that no log reaches.
    #[error("entry {index} has term {term}: no log comes so far")]
    Absurd {
        /// Claimed by the header.
        index: Index,
        /// The same.
        term: Term,
    },
    /// The payload of a consensus entry does not parse.
    #[error("entry {index} has a payload that does not parse")]
    Payload {
        /// Index claimed by the header.
        index: Index,
    },
}

/// One entry of the log, sealed: its bytes and its hash agree.
///
/// Invariants: `bytes` holds exactly header and payload; `hash` is over `bytes`.
/// Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    bytes: Bytes,
    hash: Hash,
}

/// Its own hash stands for all of it.
impl std::hash::Hash for Entry {
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        self.hash.hash(hasher);
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}{:?}#{:?}", self.kind(), self.stamp(), self.hash)
    }
}

impl Entry {
    /// Builds the entry that follows an entry with hash `previous`.
    pub fn seal(stamp: Stamp, time: WallTime, previous: Hash, kind: Kind, payload: &[u8]) -> Self {
        assert!(
            payload.len() <= limits::ENTRY_PAYLOAD_BYTES_MAX,
            "payload of {} bytes: the proposer checks the limit",
            payload.len()
        );
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend_from_slice(&FORMAT.to_be_bytes());
        bytes.extend_from_slice(&(kind as u16).to_be_bytes());
        bytes.extend_from_slice(&PAYLOAD_VERSION.to_be_bytes());
        bytes.extend_from_slice(&0u16.to_be_bytes());
        bytes.extend_from_slice(&stamp.term.0.to_be_bytes());
        bytes.extend_from_slice(&stamp.index.0.to_be_bytes());
        bytes.extend_from_slice(&time.0.to_be_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&previous.0);
        bytes.extend_from_slice(payload);
        let hash = hash_of(&bytes);
        Self {
            bytes: bytes.into(),
            hash,
        }
    }

    /// The formation entry: the same bytes on every replica, whatever its build knows.
    pub fn formation(members: &Members) -> Self {
        let payload = rmp_serde::to_vec(&Formation {
            members: members.clone(),
            level: FORMATION_LEVEL,
        })
        .expect("a map of numbers and byte strings always encodes");
        Self::seal(
            Stamp::FORMATION,
            WallTime(0),
            Hash::default(),
            Kind::Formation,
            &payload,
        )
    }

    /// Parses the first entry of `bytes` and computes its hash. Returns the entry and how many
    /// bytes it took. Whether the hash chain holds is for the caller to check.
    pub fn parse(bytes: &Bytes) -> Result<(Self, usize), EntryError> {
        let need = |need: usize| EntryError::Short {
            have: bytes.len(),
            need,
        };
        if bytes.len() < HEADER_BYTES {
            return Err(need(HEADER_BYTES));
        }
        let index = Index(u64_at(bytes, 16));
        let unknown = |what, number| EntryError::Unknown {
            index,
            what,
            number,
        };
        if u16_at(bytes, 0) != FORMAT {
            return Err(unknown("format", u16_at(bytes, 0)));
        }
        if Kind::from_number(u16_at(bytes, 2)).is_none() {
            return Err(unknown("kind", u16_at(bytes, 2)));
        }
        if u16_at(bytes, 4) != PAYLOAD_VERSION {
            return Err(unknown("payload version", u16_at(bytes, 4)));
        }
        if u16_at(bytes, 6) != 0 {
            return Err(unknown("flags", u16_at(bytes, 6)));
        }
        let term = Term(u64_at(bytes, 8));
        if index.0 > limits::NUMBER_MAX || term.0 > limits::NUMBER_MAX {
            return Err(EntryError::Absurd { index, term });
        }
        let payload = u32::from_be_bytes(array_at(bytes, 32)) as usize;
        if payload > limits::ENTRY_PAYLOAD_BYTES_MAX {
            return Err(EntryError::TooLong {
                index,
                bytes: payload,
            });
        }
        let total = HEADER_BYTES + payload;
        if bytes.len() < total {
            return Err(need(total));
        }
        let bytes = bytes.slice(..total);
        let hash = hash_of(&bytes);
        let entry = Self { bytes, hash };
        let parses = match entry.kind() {
            Kind::Formation => entry.as_formation().is_some(),
            Kind::ReplaceIncarnation => entry.replace_incarnation().is_some(),
            Kind::RaiseLevel => entry.raise_level().is_some(),
            Kind::TermStart | Kind::Command => true,
        };
        if !parses {
            return Err(EntryError::Payload { index });
        }
        Ok((entry, total))
    }

    /// Header and payload, as stored and sent.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
    /// The payload alone.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..]
    }
    /// The hash over the stored bytes.
    pub fn hash(&self) -> Hash {
        self.hash
    }
    /// The hash of the entry before this one.
    pub fn previous_hash(&self) -> Hash {
        Hash(array_at(&self.bytes, 36))
    }
    /// Term and index.
    pub fn stamp(&self) -> Stamp {
        Stamp::new(Term(u64_at(&self.bytes, 8)), self.index())
    }
    /// Position in the log.
    pub fn index(&self) -> Index {
        Index(u64_at(&self.bytes, 16))
    }
    /// Wall-clock time given by the primary.
    pub fn time(&self) -> WallTime {
        WallTime(u64_at(&self.bytes, 24))
    }
    /// What the entry is for.
    pub fn kind(&self) -> Kind {
        Kind::from_number(u16_at(&self.bytes, 2)).expect("checked by parse and seal")
    }
    /// The payload of a readmission; `None` for other kinds.
    pub fn replace_incarnation(&self) -> Option<ReplaceIncarnation> {
        (self.kind() == Kind::ReplaceIncarnation)
            .then(|| rmp_serde::from_slice(self.payload()).ok())
            .flatten()
    }
    /// The level that the entry raises to; `None` for other kinds.
    pub fn raise_level(&self) -> Option<Level> {
        (self.kind() == Kind::RaiseLevel)
            .then(|| rmp_serde::from_slice(self.payload()).ok())
            .flatten()
    }
    /// The payload of entry 1; `None` for other kinds.
    pub fn as_formation(&self) -> Option<Formation> {
        (self.kind() == Kind::Formation)
            .then(|| rmp_serde::from_slice(self.payload()).ok())
            .flatten()
    }
}

fn hash_of(bytes: &[u8]) -> Hash {
    static CONTEXT: LazyLock<ContextKey> = LazyLock::new(|| hash_derive_key_context(HASH_CONTEXT));
    let mut hasher = blake3::Hasher::new_from_context_key(&CONTEXT);
    hasher.update(bytes);
    Hash(*hasher.finalize().as_bytes())
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("the range has the array's length")
}
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array_at(bytes, at))
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_parses_back_and_a_flipped_bit_changes_the_hash() {
        let stamp = Stamp::new(Term(3), Index(9));
        let entry = Entry::seal(stamp, WallTime(5), Hash([7; 32]), Kind::Command, b"hello");
        let (parsed, taken) = Entry::parse(entry.bytes()).unwrap();
        assert_eq!((parsed.clone(), taken), (entry.clone(), HEADER_BYTES + 5));
        assert_eq!((parsed.stamp(), parsed.time()), (stamp, WallTime(5)));
        let mut flipped = entry.bytes().to_vec();
        flipped[70] ^= 1;
        let (other, _) = Entry::parse(&flipped.into()).unwrap();
        assert_ne!(other.hash(), entry.hash());
    }

    #[test]
    fn a_cut_entry_and_an_unknown_kind_are_errors() {
        let entry = Entry::seal(
            Stamp::FORMATION,
            WallTime(0),
            Hash::default(),
            Kind::TermStart,
            b"xyz",
        );
        for cut in 0..entry.bytes().len() {
            assert!(Entry::parse(&entry.bytes().slice(..cut)).is_err());
        }
        let mut unknown = entry.bytes().to_vec();
        unknown[3] = 99;
        assert!(matches!(
            Entry::parse(&unknown.into()),
            Err(EntryError::Unknown { what: "kind", .. })
        ));
    }
}
