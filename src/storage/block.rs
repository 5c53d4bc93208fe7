//! The values of the `log` tree: consecutive entries packed into one record.
//!
//! An insert is what is scarce in sled (about 20 µs), so a batch is one record, not one an entry;
//! and a record may not be large either (`limits::BLOCK_BYTES_MAX`), so a large batch is several.
//! The bytes of an entry are stored as they were sealed and never re-encoded.
//!
//! ```text
//! offset size field (big-endian)
//!      0    2 format (1)
//!      2    2 flags (0)
//!      4    4 entries in the block, at least 1
//!      8    4 bytes of all entries
//!     12   32 hash of the block's last entry
//!     44    … the entries, one after the other
//! ```
//!
//! Within a block and from block to block each entry names the hash of the one before it; the hash
//! in the header is there for the last entry of the log, which nobody names yet.

use super::StorageError;
use super::recovery::Fault;
use super::verify::{Finding, breaks_chain};
use crate::limits::BLOCK_BYTES_MAX;
use crate::types::Index;
use crate::types::entry::{Entry, EntryError};
use bytes::Bytes;

/// Bytes before the first entry.
pub(super) const HEADER_BYTES: usize = 44;
const FORMAT: u16 = 1;
const _: () = assert!(
    HEADER_BYTES + crate::types::entry::HEADER_BYTES + crate::limits::ENTRY_PAYLOAD_BYTES_MAX
        <= BLOCK_BYTES_MAX,
    "the largest entry fits into a block"
);

/// Packs consecutive entries into as few blocks as the limit allows, keyed by their first index.
pub(super) fn pack(entries: &[Entry]) -> Vec<(Index, Vec<u8>)> {
    let mut blocks = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let mut bytes = HEADER_BYTES;
        let fits = |entry: &&Entry| {
            bytes += entry.bytes().len();
            bytes <= BLOCK_BYTES_MAX
        };
        let count = rest.iter().take_while(fits).count();
        let (block, after) = rest.split_at(count);
        blocks.push((block[0].index(), encode(block)));
        rest = after;
    }
    blocks
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let length: usize = entries.iter().map(|entry| entry.bytes().len()).sum();
    let head = entries[entries.len() - 1].hash();
    let mut block = Vec::with_capacity(HEADER_BYTES + length);
    block.extend_from_slice(&FORMAT.to_be_bytes());
    block.extend_from_slice(&0u16.to_be_bytes());
    block.extend_from_slice(&(entries.len() as u32).to_be_bytes());
    block.extend_from_slice(&(length as u32).to_be_bytes());
    block.extend_from_slice(&head.0);
    for entry in entries {
        block.extend_from_slice(entry.bytes());
    }
    block
}

/// The entries of the block stored under `key`: consecutive from `key`, at least one, chained, and
/// ending in the hash that the header names. The entries share the block's bytes. An entry of a newer
/// version is no damage: nobody is to put such a store aside.
pub(super) fn unpack(key: Index, block: &Bytes) -> Result<Vec<Entry>, Fault> {
    let wrong = |sentence: String| Finding::new("log", key, format!("the block {sentence}"));
    let Some((header, _)) = block.split_first_chunk::<HEADER_BYTES>() else {
        return Err(wrong(format!("has only {} bytes", block.len())).into());
    };
    let format = u16::from_be_bytes([header[0], header[1]]);
    let flags = u16::from_be_bytes([header[2], header[3]]);
    if format != FORMAT || flags != 0 {
        return Err(wrong(format!(
            "has format {format} and flags {flags}, which this build does not know"
        ))
        .into());
    }
    let count = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
    if count == 0 || block.len() != HEADER_BYTES + length {
        return Err(wrong(format!(
            "announces {count} entries in {length} bytes and has {}",
            block.len() - HEADER_BYTES
        ))
        .into());
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(count.min(1024) as usize);
    let mut at = HEADER_BYTES;
    for _ in 0..count {
        let (entry, taken) = Entry::parse(&block.slice(at..)).map_err(|error| match error {
            EntryError::Unknown { .. } => Fault::Failed(StorageError::Unusable(format!(
                "the log cannot be gone on with: {error} Run that one"
            ))),
            error => wrong(error.to_string()).into(),
        })?;
        at += taken;
        let broken = match entries.last() {
            Some(before) => breaks_chain(before.stamp(), before.hash(), &entry),
            None if entry.index() != key => Some(wrong(format!(
                "begins with entry {} instead",
                entry.index()
            ))),
            None => None,
        };
        if let Some(finding) = broken {
            return Err(finding.into());
        }
        entries.push(entry);
    }
    let last = entries.last().expect("count is at least 1");
    if at != block.len() || last.hash().0[..] != header[12..44] {
        return Err(wrong(format!(
            "does not end with the entry whose hash it names (entry {} has {})",
            last.index(),
            last.hash().short()
        ))
        .into());
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::chain;

    #[test]
    fn a_batch_is_split_at_the_limit_and_reads_back() {
        let entries = chain(1, 40, 5_000);
        let blocks = pack(&entries);
        assert!(blocks.len() > 5, "{} blocks", blocks.len());
        let mut back = Vec::new();
        for (key, block) in blocks {
            assert!(block.len() <= BLOCK_BYTES_MAX);
            back.extend(unpack(key, &block.into()).unwrap());
        }
        assert_eq!(back, entries);
    }

    #[test]
    fn any_flipped_byte_and_any_cut_is_a_finding() {
        let entries = chain(7, 3, 20);
        let (key, block) = pack(&entries).remove(0);
        for at in 0..block.len() {
            let mut wrong = block.clone();
            wrong[at] ^= 0x40;
            assert!(unpack(key, &wrong.into()).is_err(), "byte {at}");
        }
        for length in 0..block.len() {
            assert!(unpack(key, &block[..length].to_vec().into()).is_err());
        }
        assert!(unpack(key.next(), &block.into()).is_err());
    }

    #[test]
    fn an_entry_of_a_newer_version_is_no_damage() {
        let (key, mut block) = pack(&chain(7, 3, 20)).remove(0);
        block[HEADER_BYTES + 3] = 99;
        let error = StorageError::from(unpack(key, &block.into()).unwrap_err());
        assert!(matches!(error, StorageError::Unusable(_)), "{error}");
        assert!(error.to_string().contains("newer version"), "{error}");
    }
}
