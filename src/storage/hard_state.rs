//! The promises, in a small file of their own: two *generations* of two *copies* each.
//!
//! ```text
//! offset  block             block: offset size field (big-endian)
//!      0  generation 0, copy 0          0    8 "chat-hs\n"
//!   4096  generation 0, copy 1          8    2 format (1)
//!   8192  generation 1, copy 0         10    2 kind: 1 promise, 2 droppable
//!  12288  generation 1, copy 1         12    4 payload length
//!                                      16    8 sequence, rises by one a write
//!                                      24   32 blake3 of sequence and payload
//!                                      56    8 first bytes of the blake3 of the header before it
//!                                     512    … payload: MessagePack of `HardState`
//! ```
//!
//! The header has a sector of its own with a checksum of its own, so that a torn block still says
//! which write tore it.
//!
//! # Which writes may be forgotten
//!
//! A write without fsync goes only to the generation that is not the last fsynced one, and again
//! to that one until an fsync has succeeded: no lazy write can destroy a durable grant. Such a
//! write is *droppable*, and so is an fsynced one that changed only marks, which are lower bounds.
//!
//! A write that changes a promise writes copy 0, syncs, writes copy 1, syncs. So if copy 1 carries
//! the header of a promise newer than the other generation, copy 0 was durable once; if neither is
//! valid now, the disk lost a promise that may have been told: damage, never a reason to fall back.
//! In every other case a generation without a valid copy was torn by a crash before anything that
//! depends on it was sent, and the other generation holds.

use super::StorageError;
use super::fdatasync::timed;
use super::files::{failed, replace_file};
use crate::consensus::{HardState, Mutant};
use crate::types::{Index, Stamp};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Bytes of one block.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Blocks in the file.
pub(super) const BLOCKS: usize = 4;
/// The unit that a disk writes whole.
pub(super) const SECTOR_BYTES: usize = 512;

const MAGIC: &[u8; 8] = b"chat-hs\n";
const FORMAT: u16 = 1;
const HEADER_BYTES: usize = 64;
const PROMISE: u16 = 1;
const DROPPABLE: u16 = 2;

/// What the blocks are written to: a file, or the simulator's disk.
pub(super) trait Blocks {
    /// Writes the beginning of a block; not durable before `sync`.
    fn write_block(&mut self, number: usize, bytes: &[u8]) -> Result<(), StorageError>;
    /// Writes the same beginning of a block and of the next one.
    fn write_pair(&mut self, number: usize, bytes: &[u8]) -> Result<(), StorageError> {
        self.write_block(number, bytes)?;
        self.write_block(number + 1, bytes)
    }
    /// Makes every written block durable.
    fn sync(&mut self) -> Result<(), StorageError>;
}

/// Writes the blocks so that [`read`] finds the newest promise after any crash.
///
/// Invariant: `durable` names a generation whose newest content is fsynced in both copies; only
/// writes that are fsynced themselves change it.
#[derive(Debug)]
pub(super) struct Writer {
    sequence: u64,
    durable: usize,
    /// What the durable generation promises.
    promised: HardState,
}

impl Writer {
    /// The blocks of a new file, all of them valid. The caller makes them durable at once or not
    /// at all.
    pub(super) fn create(state: &HardState) -> Result<(Self, [Vec<u8>; BLOCKS]), StorageError> {
        let (old, new) = (encode(1, PROMISE, state)?, encode(2, PROMISE, state)?);
        let writer = Self {
            sequence: 2,
            durable: 1,
            promised: state.clone(),
        };
        Ok((writer, [old.clone(), old, new.clone(), new]))
    }

    /// Goes on after [`read`]. What was read may be only in the page cache, or in one copy: it is
    /// made durable, then written afresh as a promise, BEFORE anybody acts upon it.
    pub(super) fn resume(found: &Found, blocks: &mut impl Blocks) -> Result<Self, StorageError> {
        blocks.sync()?;
        let mut writer = Self {
            sequence: found.sequence,
            durable: found.generation,
            promised: found.state.clone(),
        };
        writer.write_promise(&found.state, blocks)?;
        Ok(writer)
    }

    /// Writes a state; with `sync` it is durable afterwards.
    pub(super) fn write(
        &mut self,
        state: &HardState,
        sync: bool,
        blocks: &mut impl Blocks,
    ) -> Result<(), StorageError> {
        if sync && !same_promises(state, &self.promised) {
            return self.write_promise(state, blocks);
        }
        let generation = if Mutant::LazyOverwrites.on() && !sync {
            self.durable
        } else {
            1 - self.durable
        };
        self.sequence += 1;
        let block = encode(self.sequence, DROPPABLE, state)?;
        blocks.write_pair(generation * 2, &block)?;
        if sync {
            blocks.sync()?;
            self.durable = generation;
            self.promised = state.clone();
        }
        Ok(())
    }

    fn write_promise(
        &mut self,
        state: &HardState,
        blocks: &mut impl Blocks,
    ) -> Result<(), StorageError> {
        let generation = 1 - self.durable;
        self.sequence += 1;
        let block = encode(self.sequence, PROMISE, state)?;
        for copy in [generation * 2, generation * 2 + 1] {
            blocks.write_block(copy, &block)?;
            blocks.sync()?;
        }
        self.durable = generation;
        self.promised = state.clone();
        Ok(())
    }
}

/// A mark may be lost and is then only less informative; everything else is a promise, and so is
/// a mark that was lowered, because the entries above it go next.
fn same_promises(state: &HardState, promised: &HardState) -> bool {
    let without_marks = |state: &HardState| HardState {
        mark: Stamp::ZERO,
        others_marks: BTreeMap::new(),
        others_lives: BTreeMap::new(),
        others_as_of: Index(0),
        ..state.clone()
    };
    state.mark >= promised.mark && without_marks(state) == without_marks(promised)
}

fn encode(sequence: u64, kind: u16, state: &HardState) -> Result<Vec<u8>, StorageError> {
    let payload = rmp_serde::to_vec(state).expect("numbers, bytes and maps of them always encode");
    if payload.len() > BLOCK_BYTES - SECTOR_BYTES {
        return Err(StorageError::Unusable(format!(
            "the hard state takes {} bytes: more replicas than one block can name",
            payload.len()
        )));
    }
    let mut block = vec![0; SECTOR_BYTES + payload.len()];
    block[..8].copy_from_slice(MAGIC);
    block[8..10].copy_from_slice(&FORMAT.to_be_bytes());
    block[10..12].copy_from_slice(&kind.to_be_bytes());
    block[12..16].copy_from_slice(&(payload.len() as u32).to_be_bytes());
    block[16..24].copy_from_slice(&sequence.to_be_bytes());
    block[24..56].copy_from_slice(&payload_sum(sequence, &payload));
    let sum = blake3::hash(&block[..56]);
    block[56..HEADER_BYTES].copy_from_slice(&sum.as_bytes()[..8]);
    block[SECTOR_BYTES..].copy_from_slice(&payload);
    Ok(block)
}

fn payload_sum(sequence: u64, payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("chat-server 2026 hard state v1");
    hasher.update(&sequence.to_be_bytes());
    hasher.update(payload);
    *hasher.finalize().as_bytes()
}

/// What a block's header says, whether or not the payload is whole.
struct Header {
    format: u16,
    kind: u16,
    sequence: u64,
    state: Option<HardState>,
}

fn parse(block: &[u8]) -> Option<Header> {
    let header = block.first_chunk::<HEADER_BYTES>()?;
    if header[..8] != MAGIC[..] || header[56..] != blake3::hash(&header[..56]).as_bytes()[..8] {
        return None;
    }
    let sequence = u64::from_be_bytes(header[16..24].try_into().expect("eight bytes"));
    let length = u32::from_be_bytes([header[12], header[13], header[14], header[15]]) as usize;
    let state = block
        .get(SECTOR_BYTES..SECTOR_BYTES.saturating_add(length))
        .filter(|payload| payload_sum(sequence, payload)[..] == header[24..56])
        .and_then(|payload| rmp_serde::from_slice(payload).ok());
    Some(Header {
        format: u16::from_be_bytes([header[8], header[9]]),
        kind: u16::from_be_bytes([header[10], header[11]]),
        sequence,
        state,
    })
}

/// The newest state that was found, and where.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The promises.
    pub(super) state: HardState,
    sequence: u64,
    generation: usize,
}

/// Why there is no state to go on with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// A newer build wrote it.
    Newer(u16),
    /// A promise is lost: the sentence says how.
    Damaged(String),
}

/// The newest valid generation, unless a newer promise is known to be lost.
pub(super) fn read(blocks: &[&[u8]; BLOCKS]) -> Result<Found, Unreadable> {
    let headers = blocks.map(parse);
    if let Some(format) = headers
        .iter()
        .flatten()
        .map(|h| h.format)
        .find(|&f| f > FORMAT)
    {
        return Err(Unreadable::Newer(format));
    }
    let newest = |generation: usize| {
        headers[generation * 2..generation * 2 + 2]
            .iter()
            .flatten()
            .filter_map(|h| h.state.clone().map(|state| (h.sequence, state)))
            .max_by_key(|(sequence, _)| *sequence)
            .map(|(sequence, state)| Found {
                state,
                sequence,
                generation,
            })
    };
    let (found, lost) = match (newest(0), newest(1)) {
        (Some(a), Some(b)) if a.sequence > b.sequence => return Ok(a),
        (Some(_), Some(b)) => return Ok(b),
        (Some(found), None) => (found, 1),
        (None, Some(found)) => (found, 0),
        (None, None) => {
            return Err(Unreadable::Damaged(
                "hard_state: neither generation has a valid copy".into(),
            ));
        }
    };
    match &headers[lost * 2 + 1] {
        Some(header) if header.kind == DROPPABLE || header.sequence < found.sequence => Ok(found),
        Some(header) => Err(Unreadable::Damaged(format!(
            "hard_state: write {} was a promise and has no valid copy; the newest valid one is {}",
            header.sequence, found.sequence
        ))),
        None => Err(Unreadable::Damaged(format!(
            "hard_state: generation {lost} is unreadable, and might be newer than write {}",
            found.sequence
        ))),
    }
}

/// The file that holds the blocks.
pub(super) struct HardStateFile {
    file: File,
    path: PathBuf,
}

impl HardStateFile {
    /// Creates the file completely or not at all: write, fsync, rename, fsync of the directory.
    pub(super) fn create(path: &Path, state: &HardState) -> Result<(), StorageError> {
        let (_, blocks) = Writer::create(state)?;
        let mut bytes = vec![0; BLOCKS * BLOCK_BYTES];
        for (place, block) in bytes.chunks_exact_mut(BLOCK_BYTES).zip(&blocks) {
            place[..block.len()].copy_from_slice(block);
        }
        replace_file(path, &bytes)
    }

    /// What the file promises, `None` if there is none. Writes nothing.
    pub(super) fn load(path: &Path) -> Result<Option<Result<Found, Unreadable>>, StorageError> {
        let mut bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("cannot read", path)(error)),
        };
        // A cut file has fewer valid blocks, and that is judged like any other loss.
        bytes.resize(BLOCKS * BLOCK_BYTES, 0);
        let block = |number: usize| &bytes[number * BLOCK_BYTES..(number + 1) * BLOCK_BYTES];
        Ok(Some(read(&[block(0), block(1), block(2), block(3)])))
    }

    /// Opens the file for writing.
    pub(super) fn open(path: &Path) -> Result<Self, StorageError> {
        let file = File::options()
            .write(true)
            .open(path)
            .map_err(failed("cannot open", path))?;
        Ok(Self {
            file,
            path: path.into(),
        })
    }
}

impl Blocks for HardStateFile {
    fn write_block(&mut self, number: usize, bytes: &[u8]) -> Result<(), StorageError> {
        self.file
            .write_all_at(bytes, (number * BLOCK_BYTES) as u64)
            .map_err(failed("cannot write", &self.path))
    }
    /// One call of the kernel: this is done for every batch.
    fn write_pair(&mut self, number: usize, bytes: &[u8]) -> Result<(), StorageError> {
        let mut pair = Vec::with_capacity(BLOCK_BYTES + bytes.len());
        pair.extend_from_slice(bytes);
        pair.resize(BLOCK_BYTES, 0);
        pair.extend_from_slice(bytes);
        self.write_block(number, &pair)
    }
    fn sync(&mut self) -> Result<(), StorageError> {
        timed(|| self.file.sync_data()).map_err(failed("cannot fsync", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::hard_state;
    use crate::types::{Index, ReplicaId, Term};

    /// Blocks in memory that note every state of the disk that a crash could leave.
    #[derive(Clone, Default)]
    struct Disk {
        durable: [Vec<u8>; BLOCKS],
        unsynced: Vec<(usize, Vec<u8>)>,
        crashes: Vec<[Vec<u8>; BLOCKS]>,
    }

    impl Disk {
        /// Each unsynced block lost, kept, or torn either way, in all combinations.
        fn outcomes(&self) -> Vec<[Vec<u8>; BLOCKS]> {
            let mut images = vec![self.durable.clone()];
            for (number, new) in &self.unsynced {
                images = images
                    .into_iter()
                    .flat_map(|image| {
                        let old = image[*number].clone();
                        let torn = [&new[..SECTOR_BYTES], &old[SECTOR_BYTES..]].concat();
                        let other = [&old[..SECTOR_BYTES], &new[SECTOR_BYTES..]].concat();
                        [old, new.clone(), torn, other].map(|block| {
                            let mut image = image.clone();
                            image[*number] = block;
                            image
                        })
                    })
                    .collect();
            }
            images
        }
        fn slices(image: &[Vec<u8>; BLOCKS]) -> [&[u8]; BLOCKS] {
            [&image[0], &image[1], &image[2], &image[3]]
        }
    }

    impl Blocks for Disk {
        fn write_block(&mut self, number: usize, bytes: &[u8]) -> Result<(), StorageError> {
            self.unsynced.push((number, bytes.to_vec()));
            let outcomes = self.outcomes();
            self.crashes.extend(outcomes);
            Ok(())
        }
        fn sync(&mut self) -> Result<(), StorageError> {
            for (number, block) in self.unsynced.drain(..) {
                self.durable[number] = block;
            }
            Ok(())
        }
    }

    fn granted(term: u64, mark: u64) -> HardState {
        HardState {
            term: Term(term),
            granted_to: Some(ReplicaId(2)),
            mark: Stamp::new(Term(1), Index(mark)),
            ..hard_state(1)
        }
    }

    fn created(state: &HardState) -> (Writer, Disk) {
        let (writer, durable) = Writer::create(state).unwrap();
        (
            writer,
            Disk {
                durable,
                ..Disk::default()
            },
        )
    }

    #[test]
    fn after_a_crash_at_any_point_the_fsynced_grant_is_there() {
        let (mut writer, mut disk) = created(&granted(1, 0));
        let steps = [
            (granted(1, 3), false),
            (granted(1, 4), false),
            (granted(2, 4), true),
            (granted(2, 5), false),
            (granted(2, 6), true),
            (granted(2, 7), false),
            (granted(3, 7), true),
            (granted(3, 2), true),
        ];
        let mut fsynced = granted(1, 0);
        for (state, sync) in steps {
            writer.write(&state, sync, &mut disk).unwrap();
            for image in std::mem::take(&mut disk.crashes) {
                let found = read(&Disk::slices(&image)).unwrap().state;
                assert!(found.term >= fsynced.term, "{found:?} after {fsynced:?}");
                let lowered = state.mark < fsynced.mark;
                assert!(found.mark >= fsynced.mark || lowered, "{found:?}");
                assert!(found.term <= state.term);
            }
            if sync {
                fsynced = state;
                let found = read(&Disk::slices(&disk.durable)).unwrap().state;
                assert_eq!(found, fsynced);
            }
        }
    }

    #[test]
    fn a_crash_during_the_resumption_loses_nothing() {
        let (mut writer, mut disk) = created(&granted(1, 0));
        writer.write(&granted(2, 0), true, &mut disk).unwrap();
        writer.write(&granted(2, 9), false, &mut disk).unwrap();
        for image in disk.outcomes() {
            let found = read(&Disk::slices(&image)).unwrap();
            let mut again = Disk {
                durable: image,
                ..Disk::default()
            };
            Writer::resume(&found, &mut again).unwrap();
            for image in again.crashes {
                assert_eq!(read(&Disk::slices(&image)).unwrap().state, found.state);
            }
        }
    }

    #[test]
    fn a_lost_promise_is_damage_and_a_lost_mark_is_not() {
        let (mut writer, mut disk) = created(&granted(1, 0));
        writer.write(&granted(2, 0), true, &mut disk).unwrap();
        let rot = |image: &mut [Vec<u8>; BLOCKS], number: usize| image[number][SECTOR_BYTES] ^= 1;
        let mut one = disk.durable.clone();
        rot(&mut one, 1);
        assert_eq!(read(&Disk::slices(&one)).unwrap().state, granted(2, 0));
        rot(&mut one, 0);
        assert!(matches!(
            read(&Disk::slices(&one)),
            Err(Unreadable::Damaged(_))
        ));

        writer.write(&granted(2, 8), true, &mut disk).unwrap();
        let mut marks = disk.durable.clone();
        rot(&mut marks, 2);
        rot(&mut marks, 3);
        assert_eq!(read(&Disk::slices(&marks)).unwrap().state, granted(2, 0));
    }

    #[test]
    fn garbage_is_damage_and_a_newer_format_is_named() {
        let (_, disk) = created(&granted(1, 0));
        let mut garbage = disk.durable.clone();
        garbage[0] = vec![0xAA; BLOCK_BYTES];
        assert!(
            read(&Disk::slices(&garbage)).is_ok(),
            "the other copy holds"
        );
        garbage[1] = vec![0xAA; BLOCK_BYTES];
        assert!(read(&Disk::slices(&garbage)).is_err());

        let mut newer = disk.durable.clone();
        newer[3][9] = 2;
        let sum = blake3::hash(&newer[3][..56]);
        newer[3][56..64].copy_from_slice(&sum.as_bytes()[..8]);
        assert_eq!(
            read(&Disk::slices(&newer)).unwrap_err(),
            Unreadable::Newer(2)
        );
    }

    #[test]
    fn a_state_of_seven_replicas_fits_into_a_block() {
        let mut state = granted(u64::MAX, u64::MAX);
        let far = Stamp::new(Term(u64::MAX), Index(u64::MAX));
        let members: crate::types::Members = (1..=7)
            .map(|id| (ReplicaId(id), crate::types::Incarnation([255; 16])))
            .collect();
        state.others_lives.clone_from(&members);
        state.formation = crate::consensus::FormationStatus::Formed(members);
        state.others_marks = (1..=7).map(|id| (ReplicaId(id), far)).collect();
        assert!(encode(1, PROMISE, &state).unwrap().len() <= BLOCK_BYTES);
    }
}
