//! Keys and values outside the log: commit records, the record of the applied slice, term runs.
//!
//! Numbers in keys are big-endian, so that byte order is their order. Each value begins with a
//! format byte, so that a later format can be told from this one; an unknown one is an error,
//! never a guess.

use super::verify::{Finding, breaks_chain};
use super::{CommitRecord, Slice, StorageError, Write};
use crate::limits;
use crate::types::{Base, Hash, Index, Members, Stamp, Term};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Key of the applied slice's record in the `meta` tree.
pub(super) const APPLIED_KEY: &[u8] = b"applied";
/// Key of the base's record in the `meta` tree. Not there: the log begins with entry 1.
pub(super) const BASE_KEY: &[u8] = b"base";
const FORMAT: u8 = 1;

/// The key of an index.
pub(super) fn index_key(index: Index) -> [u8; 8] {
    index.0.to_be_bytes()
}

/// The index of a key.
pub(super) fn parse_index(tree: &'static str, key: &[u8]) -> Result<Index, Finding> {
    let bytes = key.try_into().map_err(|_| {
        Finding::new(
            tree,
            Index(0),
            format!("a key has {} bytes, not 8", key.len()),
        )
    })?;
    Ok(Index(u64::from_be_bytes(bytes)))
}

/// The value of a term run.
pub(super) fn run_value(term: Term) -> [u8; 9] {
    let mut value = [FORMAT; 9];
    value[1..].copy_from_slice(&term.0.to_be_bytes());
    value
}

/// The term of a run.
pub(super) fn parse_run(first: Index, value: &[u8]) -> Result<Term, Finding> {
    match value {
        [FORMAT, term @ ..] if term.len() == 8 => Ok(Term(u64::from_be_bytes(
            term.try_into().expect("the guard checks the length"),
        ))),
        _ => Err(Finding::new("runs", first, "the record does not parse")),
    }
}

/// The value of a commit record.
pub(super) fn commit_value(record: &CommitRecord) -> Vec<u8> {
    let mut value = vec![FORMAT];
    value.extend(rmp_serde::to_vec(record).expect("numbers and hashes always encode"));
    value
}

/// A commit record, whose index must be its key.
pub(super) fn parse_commit(key: Index, value: &[u8]) -> Result<CommitRecord, Finding> {
    let wrong = |sentence| Finding::new("commits", key, sentence);
    let Some((&FORMAT, rest)) = value.split_first() else {
        return Err(wrong("the record has an unknown format"));
    };
    let record: CommitRecord =
        rmp_serde::from_slice(rest).map_err(|_| wrong("the record does not parse"))?;
    if record.stamp.index != key {
        return Err(wrong("the record is about another index"));
    }
    Ok(record)
}

/// The value of the base.
pub(super) fn base_value(base: &Base) -> Vec<u8> {
    let mut value = vec![FORMAT];
    value.extend(rmp_serde::to_vec(base).expect("numbers, hashes and a map always encode"));
    value
}

/// Where the log begins.
pub(super) fn parse_base(value: &[u8]) -> Result<Base, Finding> {
    let wrong = |sentence| Finding::new("meta", Index(0), sentence);
    let Some((&FORMAT, rest)) = value.split_first() else {
        return Err(wrong("the record of the log's base has an unknown format"));
    };
    rmp_serde::from_slice(rest).map_err(|_| wrong("the record of the log's base does not parse"))
}

#[derive(Serialize, Deserialize)]
struct Applied {
    index: Index,
    hash: Hash,
    digest: Hash,
    members: Members,
}

/// The record of a slice: everything but its changes.
///
/// ```text
/// 0 1 format (1)
/// 1 4 length of the head, big-endian
/// 5 … head: MessagePack of applied, hash, digest, members
/// … … the state machine's own bytes
/// ```
pub(super) fn applied_value(slice: &Slice) -> Vec<u8> {
    let head = rmp_serde::to_vec(&Applied {
        index: slice.applied,
        hash: slice.hash,
        digest: slice.digest,
        members: slice.members.clone(),
    })
    .expect("numbers, hashes and a map of them always encode");
    let mut value = vec![FORMAT];
    value.extend((head.len() as u32).to_be_bytes());
    value.extend(head);
    value.extend_from_slice(&slice.machine);
    value
}

/// The slice that the trees stand at, without its changes.
pub(super) fn parse_applied(value: &[u8]) -> Result<Slice, Finding> {
    let wrong = |sentence| Finding::new("meta", Index(0), sentence);
    let (head, machine) = match value {
        [FORMAT, a, b, c, d, rest @ ..] => rest
            .split_at_checked(u32::from_be_bytes([*a, *b, *c, *d]) as usize)
            .ok_or_else(|| wrong("the applied slice's record is cut short"))?,
        _ => return Err(wrong("the applied slice's record has an unknown format")),
    };
    let head: Applied = rmp_serde::from_slice(head)
        .map_err(|_| wrong("the applied slice's record does not parse"))?;
    Ok(Slice {
        applied: head.index,
        hash: head.hash,
        digest: head.digest,
        members: head.members,
        machine: Bytes::copy_from_slice(machine),
        changes: Vec::new(),
    })
}

/// Refuses a write that would leave a store which the next open calls damaged, BEFORE any of it is
/// written: entries that do not continue the log, or a record over the limit (which sled would put
/// into a file of its own that is never fsynced). `end_at` gives the stamp and hash of the last
/// entry, or of the last one at or below an index.
pub(super) fn check_append(
    write: &Write,
    end_at: impl FnOnce(Option<Index>) -> (Stamp, Hash),
) -> Result<(), StorageError> {
    if let Some(first) = write.append.first() {
        let (mut stamp, mut hash) = end_at(write.truncate_after);
        for entry in &write.append {
            if let Some(finding) = breaks_chain(stamp, hash, entry) {
                return Err(StorageError::Unusable(format!(
                    "refused to append from entry {} on: {finding}",
                    first.index()
                )));
            }
            (stamp, hash) = (entry.stamp(), entry.hash());
        }
    }
    for change in write.slice.iter().flat_map(|slice| &slice.changes) {
        let bytes = change.key.len() + change.value.as_ref().map_or(0, Bytes::len);
        if bytes > limits::STATE_RECORD_BYTES_MAX {
            return Err(StorageError::Unusable(format!(
                "refused to write a record of {bytes} bytes to the {} tree",
                change.tree.name()
            )));
        }
    }
    Ok(())
}

/// Refuses a cut that would leave trees below the log's base, BEFORE any of it is done.
pub(super) fn check_cut(at: Index, base: Index, stands: Index) -> Result<(), StorageError> {
    if stands < at || at <= base {
        return Err(StorageError::Unusable(format!(
            "refused to cut the log at {at}: it begins after {base}, and the trees stand at {stands}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Incarnation, ReplicaId, Stamp, WallTime};

    #[test]
    fn records_read_back_and_another_format_does_not() {
        let record = CommitRecord {
            stamp: Stamp::new(Term(300), Index(70_000)),
            hash: Hash([200; 32]),
            digest: Hash([1; 32]),
            time: WallTime(u64::MAX),
        };
        let mut value = commit_value(&record);
        assert_eq!(parse_commit(Index(70_000), &value).unwrap(), record);
        assert!(parse_commit(Index(70_001), &value).is_err());
        value[0] = 2;
        assert!(parse_commit(Index(70_000), &value).is_err());

        let slice = Slice {
            applied: Index(9),
            hash: Hash([3; 32]),
            digest: Hash([4; 32]),
            members: Members::from([(ReplicaId(1), Incarnation([5; 16]))]),
            machine: Bytes::from_static(b"totals"),
            changes: Vec::new(),
        };
        let value = applied_value(&slice);
        assert_eq!(parse_applied(&value).unwrap(), slice);
        assert!(parse_applied(&value[..20]).is_err());
        assert_eq!(parse_run(Index(1), &run_value(Term(77))).unwrap(), Term(77));
        assert!(parse_run(Index(1), b"\x02short").is_err());
    }
}
