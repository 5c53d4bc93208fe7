//! Leaves of the log that are made before they are filled.
//!
//! sled appends what changes in a leaf to its file, and writes the whole leaf anew when it parts it: where leaves part as
//! they fill up a block of the log is written at least twice. So a leaf is parted while there is nothing in it yet but
//! *dividers*, empty rows whose keys say how far it goes. The figures are in `docs/storage.md`, Leaves made ahead.
//!
//! Nothing depends on them but how much sled writes: after a crash, or in a log whose end was dropped, there may be some,
//! or none.

use super::{Engine, LOG, Operation};
use crate::limits;
use crate::storage::migrations::SENTINEL;
use crate::storage::{block, records};
use crate::types::Index;
use crate::types::entry::Entry;
use sled::IVec;
use std::ops::{Range, RangeBounds};

/// sled parts a leaf of 17 rows, of which the lower nine stay. The last leaf has seven sentinels and the last divider of
/// the leaf before: with as many dividers more it is parted, and the last one of these goes on to the next leaf.
const DIVIDERS: u8 = 9;
/// Blocks for which a leaf is made. Seven come to it without parting it; and sled writes a leaf anew with the eleventh
/// change of it, their removal included.
const BLOCKS_A_LEAF: u64 = 5;

/// The leaf that is being filled, as far as this process knows.
#[derive(Clone, Copy, Default, Debug)]
pub(in crate::storage) struct Leaf {
    /// Of its first block.
    first: Index,
    /// It has room for blocks that begin before this entry.
    end: Index,
    blocks: u64,
}

impl Leaf {
    /// A block of these entries is put. If the leaf does not go so far, says how far the one does that is to be made.
    fn put(&mut self, entries: Range<Index>, bytes: usize) -> Option<Index> {
        let first = entries.start;
        let is_large = bytes >= limits::BLOCK_AHEAD_BYTES_MIN;
        let makes = is_large && !(self.first..self.end).contains(&first);
        if makes {
            // Blocks have about as many entries as those of the leaf before had.
            let went = first.0.saturating_sub(self.first.0);
            let each = went
                .checked_div(self.blocks)
                .filter(|each| (1..=limits::BATCH_ENTRIES_MAX as u64).contains(each));
            let end = Index(first.0 + each.unwrap_or(entries.end.0 - first.0) * BLOCKS_A_LEAF);
            *self = Self {
                first,
                end,
                blocks: 0,
            };
        }
        self.blocks += 1;
        makes.then_some(self.end)
    }
}

/// Keys of the dividers of a leaf for blocks that begin before this entry: behind any such block, before the next one.
fn dividers(end: Index) -> impl Iterator<Item = IVec> {
    let last = records::index_key(end.previous());
    (0..DIVIDERS).map(move |number| IVec::from([&last[..], &[SENTINEL, number]].concat()))
}

/// A row of the log is a block, or what should not be there.
fn is_no_divider(row: &sled::Result<(IVec, IVec)>) -> bool {
    let is_divider = |key: &IVec| matches!(key.split_at_checked(8), Some((_, [SENTINEL, _])));
    row.as_ref().map_or(true, |(key, _)| !is_divider(key))
}

impl Engine {
    /// The blocks of the log in a range of keys.
    pub(super) fn blocks(
        &self,
        range: impl RangeBounds<IVec>,
    ) -> impl DoubleEndedIterator<Item = sled::Result<(IVec, IVec)>> {
        self.trees[LOG].range(range).filter(is_no_divider)
    }

    /// Operations that put these entries in blocks, into leaves that are made ahead.
    pub(super) fn put_entries(
        &self,
        leaf: &mut Leaf,
        entries: &[Entry],
        operations: &mut Vec<Operation>,
    ) {
        let blocks = block::pack(entries);
        let firsts = blocks.iter().map(|(first, _)| *first);
        let last = entries.last().map(|entry| entry.index().next());
        let nexts: Vec<Index> = firsts.skip(1).chain(last).collect();
        for ((first, block), next) in blocks.into_iter().zip(nexts) {
            if self.has_leaves_ahead()
                && let Some(end) = leaf.put(first..next, block.len())
            {
                operations.extend(dividers(end).map(|key| (LOG, key, Some(IVec::default()))));
            }
            let key = IVec::from(&records::index_key(first));
            operations.push((LOG, key, Some(block.into())));
        }
    }
}
