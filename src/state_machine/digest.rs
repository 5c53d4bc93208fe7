//! The state digest: sums of hashes over logical records.
//!
//! Each logical record (an account, a token, a message, a cursor, …) is written in a canonical
//! form and hashed to 16 lanes of 64 bits; the digest of a set of records is the sum of their
//! lanes, so that adding and removing one costs one hash whatever else there is. Sums are kept at
//! several levels (block of messages, client, account, total): removing a whole account subtracts
//! one stored sum.
//!
//! It tells honest replicas that differ by a fault from those that do not. It is no defence
//! against somebody who chooses records in order to make two sums equal.

use super::blob;
use crate::types::{Hash, Level, Members};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cell::Cell;

const LANES: usize = 16;
const LANE_BYTES: usize = LANES * 8;
/// Separates these hashes from all others. 32 bytes, as a keyed blake3 wants.
const RECORD_KEY: &[u8; 32] = b"chat-server 2026 state record v1";
const DIGEST_CONTEXT: &str = "chat-server 2026 state digest v1";

/// A sum of record hashes. Addition wraps in each lane, so that subtraction undoes it exactly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lanes([u64; LANES]);

impl Lanes {
    pub const ZERO: Self = Self([0; LANES]);

    pub fn add(&mut self, other: &Self) {
        for (lane, more) in self.0.iter_mut().zip(other.0) {
            *lane = lane.wrapping_add(more);
        }
    }

    pub fn subtract(&mut self, other: &Self) {
        for (lane, less) in self.0.iter_mut().zip(other.0) {
            *lane = lane.wrapping_sub(less);
        }
    }

    /// Adds them to a sum that stands in a record.
    pub fn add_to(&self, sum: &mut [u8; LANE_BYTES]) {
        for (chunk, more) in sum.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *chunk = u64::from_be_bytes(*chunk).wrapping_add(more).to_be_bytes();
        }
    }

    pub fn to_bytes(self) -> [u8; LANE_BYTES] {
        let mut bytes = [0; LANE_BYTES];
        for (chunk, lane) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&lane.to_be_bytes());
        }
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LANE_BYTES] = bytes.try_into().ok()?;
        let mut lanes = [0; LANES];
        for (lane, chunk) in lanes.iter_mut().zip(bytes.chunks_exact(8)) {
            *lane = u64::from_be_bytes(chunk.try_into().expect("chunks of eight"));
        }
        Some(Self(lanes))
    }
}

/// Bytes of [`Lanes`] in a record.
pub(super) const LANES_BYTES: usize = LANE_BYTES;

impl Serialize for Lanes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.to_bytes())
    }
}

impl<'de> Deserialize<'de> for Lanes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes: Vec<u8> = blob::deserialize(deserializer)?;
        Self::from_bytes(&bytes).ok_or_else(|| serde::de::Error::custom("a sum has 128 bytes"))
    }
}

/// What kind of logical record is hashed. The numbers are part of the digest: never reused.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum RecordKind {
    Account = 1,
    Tombstone = 2,
    Name = 3,
    Token = 4,
    Inbox = 5,
    Cursor = 6,
    Message = 7,
    Client = 8,
    Remembered = 9,
    Delivered = 10,
    /// Not a record: the body of an operation, for idempotency.
    Operation = 11,
    Creation = 12,
}

/// Writes one logical record in canonical form: a kind, then its fields in a fixed order; numbers
/// are 8 bytes big-endian, byte strings carry their length. Storage encodings do not enter it.
///
/// The bytes are gathered and hashed at once: a hasher is 2 KB, and slow to feed by the field. Where
/// they are gathered is kept for the next record.
pub(super) struct Canonical(Vec<u8>);

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Canonical {
    pub fn new(kind: RecordKind) -> Self {
        let mut bytes = SPARE.take();
        bytes.clear();
        bytes.push(kind as u8);
        Self(bytes)
    }

    pub fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub fn bytes(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let length = bytes.len() as u64;
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn lanes(self) -> Lanes {
        let mut hasher = blake3::Hasher::new_keyed(RECORD_KEY);
        hasher.update(&self.0);
        let mut bytes = [0; LANE_BYTES];
        hasher.finalize_xof().fill(&mut bytes);
        SPARE.set(self.0);
        Lanes::from_bytes(&bytes).expect("the array has the lanes' length")
    }

    pub fn hash(self) -> Hash {
        let hash = blake3::keyed_hash(RECORD_KEY, &self.0);
        SPARE.set(self.0);
        Hash(*hash.as_bytes())
    }
}

/// The digest of the whole state: the total of all records, the membership and the level.
pub(super) fn state_digest(total: &Lanes, members: &Members, level: Level) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(DIGEST_CONTEXT);
    hasher.update(&total.to_bytes());
    hasher.update(&level.0.to_be_bytes());
    for (id, incarnation) in members {
        hasher.update(&id.0.to_be_bytes());
        hasher.update(&incarnation.0);
    }
    Hash(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{Canonical, Lanes, RecordKind};

    #[test]
    fn a_sum_forgets_order_and_what_was_subtracted() {
        let one = Canonical::new(RecordKind::Token).number(1).lanes();
        let two = Canonical::new(RecordKind::Token).number(2).lanes();
        let (mut forth, mut back) = (one, two);
        forth.add(&two);
        back.add(&one);
        assert_eq!(forth, back);
        assert_ne!(forth, one);
        forth.subtract(&one);
        assert_eq!(forth, two);
        forth.subtract(&two);
        assert_eq!(forth, Lanes::ZERO);
        assert_eq!(Lanes::from_bytes(&one.to_bytes()), Some(one));
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let record = || Canonical::new(RecordKind::Name);
        assert_ne!(
            record().bytes("ab").bytes("c").lanes(),
            record().bytes("a").bytes("bc").lanes()
        );
    }
}
