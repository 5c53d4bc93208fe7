//! What fuzzers call of this module; see [`crate::fuzzing`]. Each takes any bytes and panics only on
//! a defect.
//!
//! Random changes seldom pass a checksum. Where there is one, the bytes are tried as they are, and
//! once more with the checksum made good: what a hostile or a lucky disk could hold.

use super::block::{HEADER_BYTES, pack, unpack};
use super::hard_state::{BLOCK_BYTES, BLOCKS, Writer, read};
use super::records;
use super::sled_store::bundle;
use super::{CommitRecord, Slice};
use crate::consensus::{FormationStatus, HardState, Repair};
use crate::types::entry::{Entry, Kind};
use crate::types::{Base, Hash, Incarnation, Index, Members, ReplicaId, Stamp, Term, WallTime};
use bytes::Bytes;
use std::collections::BTreeMap;

/// One entry: what parses is sealed to the same bytes.
pub fn entry(data: &[u8]) {
    let Ok((entry, taken)) = Entry::parse(&Bytes::copy_from_slice(data)) else {
        return;
    };
    assert_eq!(entry.bytes()[..], data[..taken]);
    let again = Entry::seal(
        entry.stamp(),
        entry.time(),
        entry.previous_hash(),
        entry.kind(),
        entry.payload(),
    );
    assert_eq!(again, entry);
}

/// A block of the log: eight bytes of key, then the value.
pub fn block(data: &[u8]) {
    let Some((key, value)) = data.split_first_chunk::<8>() else {
        return;
    };
    let key = Index(u64::from_be_bytes(*key));
    let value = Bytes::copy_from_slice(value);
    round_trip(key, &value);
    if value.len() >= HEADER_BYTES {
        round_trip(key, &with_good_header(&value));
    }
}

fn round_trip(key: Index, value: &Bytes) {
    let Ok(entries) = unpack(key, value) else {
        return;
    };
    let again = pack(&entries).into_iter().flat_map(|(key, value)| {
        unpack(key, &value.into()).expect("what was packed can be unpacked")
    });
    assert_eq!(again.collect::<Vec<Entry>>(), entries);
}

/// The same entries under a header that says what is there.
fn with_good_header(value: &Bytes) -> Bytes {
    let mut rest = value.slice(HEADER_BYTES..);
    let mut entries = Vec::new();
    while let Ok((entry, taken)) = Entry::parse(&rest) {
        rest = rest.slice(taken..);
        entries.push(entry);
    }
    let length: usize = entries.iter().map(|entry| entry.bytes().len()).sum();
    let mut good = value[..HEADER_BYTES + length].to_vec();
    good[4..8].copy_from_slice(&(entries.len() as u32).to_be_bytes());
    good[8..12].copy_from_slice(&(length as u32).to_be_bytes());
    if let Some(last) = entries.last() {
        good[12..44].copy_from_slice(&last.hash().0);
    }
    good.into()
}

/// The small records beside the log, and rows of the state: one byte says which.
pub fn records(data: &[u8]) {
    let Some((which, value)) = data.split_first() else {
        return;
    };
    match which % 5 {
        0 => {
            let Some((key, value)) = value.split_first_chunk::<8>() else {
                return;
            };
            let key = Index(u64::from_be_bytes(*key));
            if let Ok(record) = records::parse_commit(key, value) {
                let again = records::commit_value(&record);
                assert_eq!(records::parse_commit(key, &again).ok(), Some(record));
            }
        }
        1 => {
            if let Ok(term) = records::parse_run(Index(1), value) {
                assert_eq!(records::run_value(term)[..], *value);
            }
            let _ = records::parse_index("log", value);
        }
        2 => {
            if let Ok(base) = records::parse_base(value) {
                let again = records::base_value(&base);
                assert_eq!(records::parse_base(&again).ok(), Some(base));
            }
        }
        3 => {
            if let Ok(slice) = records::parse_applied(value) {
                let again = records::applied_value(&slice);
                assert_eq!(records::parse_applied(&again).ok(), Some(slice));
            }
        }
        _ => row(value),
    }
}

/// A row of the state, one record or a bundle: length of its key, key, value. A record more leaves the others as they were.
fn row(data: &[u8]) {
    let parts = data.split_first();
    let parts = parts.and_then(|(length, rest)| rest.split_at_checked((*length).into()));
    let Some((key, value)) = parts else {
        return;
    };
    let Ok(mut expected) = bundle::records(key, value) else {
        return;
    };
    if expected[0].0 == key && *bundle::row_key(key) != *key {
        // No row has such a key.
        return;
    }
    let (last, _) = expected.last().expect("a row has a record");
    let more = [last, &[0][..]].concat();
    if !bundle::is_fit(&more, b"more") {
        return;
    }
    let change = (&more[..], Some(&b"more"[..]));
    let changed = bundle::changed(Some((key, value)), &[change]).expect("it was parsed");
    expected.push((&more, b"more"));
    let mut rows = BTreeMap::from([(key.to_vec(), value.to_vec())]);
    for (key, value) in changed {
        match value {
            Some(value) => rows.insert(key.to_vec(), value.to_vec()),
            None => rows.remove(&key[..]),
        };
    }
    let of_row = rows.iter().map(|(key, value)| bundle::records(key, value));
    let found: Result<Vec<_>, _> = of_row.collect();
    assert_eq!(found.map(|rows| rows.concat()), Ok(expected));
}

/// The file of the promises: as it is, and its payload under good checksums.
pub fn hard_state(data: &[u8]) {
    let mut image = data.to_vec();
    image.resize(BLOCKS * BLOCK_BYTES, 0);
    let block = |number: usize| &image[number * BLOCK_BYTES..(number + 1) * BLOCK_BYTES];
    let _ = read(&[block(0), block(1), block(2), block(3)]);

    if let Ok(state) = rmp_serde::from_slice::<HardState>(data)
        && let Ok((_, blocks)) = Writer::create(&state)
    {
        // A changed header, with a good checksum of its own.
        let mut odd = blocks.clone();
        for (at, byte) in data.iter().rev().take(48).enumerate() {
            odd[at % BLOCKS][8 + at] ^= byte & 1;
        }
        for block in &mut odd {
            let sum = blake3::hash(&block[..56]);
            block[56..64].copy_from_slice(&sum.as_bytes()[..8]);
        }
        let _ = read(&odd.each_ref().map(Vec::as_slice));
        let found = read(&blocks.each_ref().map(Vec::as_slice));
        assert_eq!(found.map(|found| found.state), Ok(state));
    }
}

/// Valid inputs of [`entry`].
pub fn entry_seeds() -> Vec<Vec<u8>> {
    let entries = chain(1, 4, 40);
    entries.iter().map(|entry| entry.bytes().to_vec()).collect()
}

/// Valid inputs of [`block`].
pub fn block_seeds() -> Vec<Vec<u8>> {
    let blocks = [chain(1, 3, 20), chain(900, 1, 0), chain(7, 40, 900)].map(|chain| pack(&chain));
    let blocks = blocks.into_iter().flatten();
    blocks
        .map(|(key, block)| [&key.0.to_be_bytes()[..], &block].concat())
        .collect()
}

/// Valid inputs of [`records`].
pub fn record_seeds() -> Vec<Vec<u8>> {
    let stamp = Stamp::new(Term(3), Index(70_000));
    let members = Members::from([1, 2, 3].map(|id| (ReplicaId(id), Incarnation([9; 16]))));
    let commit = records::commit_value(&CommitRecord {
        stamp,
        hash: Hash([1; 32]),
        digest: Hash([2; 32]),
        time: WallTime(1_767_225_600_000_000),
    });
    let base = records::base_value(&Base {
        stamp,
        hash: Hash([1; 32]),
        time: WallTime(5),
        founders: members.clone(),
    });
    let applied = records::applied_value(&Slice {
        applied: stamp.index,
        hash: Hash([1; 32]),
        digest: Hash([2; 32]),
        members,
        machine: Bytes::from_static(b"totals"),
        changes: Vec::new(),
    });
    vec![
        [&[0][..], &stamp.index.0.to_be_bytes(), &commit].concat(),
        [&[1][..], &records::run_value(Term(3))].concat(),
        [&[2][..], &base].concat(),
        [&[3][..], &applied].concat(),
        b"\x04\x01a\xbd\0\x02\x01\0\x03aone\x02\0\x03abtwo".to_vec(),
    ]
}

/// Valid inputs of [`hard_state`]: a file, and payloads.
pub fn hard_state_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for state in promises() {
        seeds.push(rmp_serde::to_vec(&state).expect("numbers and maps always encode"));
        let (_, blocks) = Writer::create(&state).expect("three replicas fit");
        let mut image = vec![0; BLOCKS * BLOCK_BYTES];
        for (place, block) in image.chunks_exact_mut(BLOCK_BYTES).zip(&blocks) {
            place[..block.len()].copy_from_slice(block);
        }
        seeds.push(image);
    }
    seeds
}

fn chain(first: u64, count: u64, payload: usize) -> Vec<Entry> {
    let mut hash = Hash::default();
    (first..first + count)
        .map(|index| {
            let stamp = Stamp::new(Term(1), Index(index));
            let payload = vec![(index % 251) as u8; payload];
            let entry = Entry::seal(stamp, WallTime(index), hash, Kind::Command, &payload);
            hash = entry.hash();
            entry
        })
        .collect()
}

/// Of a new replica, and of one that has lived.
fn promises() -> [HardState; 2] {
    let (id, incarnation) = (ReplicaId(1), Incarnation([7; 16]));
    let new = HardState::new_life(id, incarnation, None, Stamp::ZERO);
    let members = Members::from([(id, incarnation), (ReplicaId(2), Incarnation([8; 16]))]);
    let stamp = Stamp::new(Term(3), Index(70_000));
    let mut lived = HardState::new_life(id, incarnation, Some(members.clone()), stamp);
    lived.formation = FormationStatus::Formed(members);
    lived.granted_to = Some(ReplicaId(2));
    lived.mark = stamp;
    lived.others_marks.insert(ReplicaId(2), stamp);
    lived.repair = Repair::Suspect(Index(70_000));
    [new, lived]
}
