//! Leaves of the log that are made before they are filled.
//!
//! sled appends what changes in a leaf to its file, and writes the whole leaf anew when it parts it: where leaves part as
//! they fill up a row is written at least twice. So a leaf is parted while there is nothing in it yet but *dividers*,
//! empty rows whose keys say how far it goes: behind any block that is to come to it, before the next one. The figures are
//! in `docs/storage.md`, Leaves made ahead.
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
use std::ops::RangeBounds;

/// sled parts a leaf of 17 rows, of which the lower nine stay. The last leaf has seven sentinels and the last divider of
/// the leaf before: with as many dividers more it is parted, and the last one of these goes on to the next leaf.
const DIVIDERS: u8 = 9;
/// Blocks for which a leaf is made. Seven would come to it without parting it; but sled writes a leaf anew
/// with every tenth change of it, their removal included.
const BLOCKS: u64 = 5;

/// The leaf at the end of the log, as far as this process knows.
#[derive(Clone, Copy, Default, Debug)]
pub(in crate::storage) struct Leaf {
    /// The index of its first block.
    first: u64,
    /// That of its last one.
    last: u64,
    /// It was made for blocks below this index.
    end: u64,
    blocks: u64,
}

impl Leaf {
    /// A block that begins with this index is put. If it needs another leaf, says for blocks below which index that is to
    /// be made: as far apart as they were in the leaf before. It needs one too where they come closer together
    /// than was thought. A block that was there before is no new one.
    fn put(&mut self, first: Index) -> Option<Index> {
        let Index(first) = first;
        if self.blocks > 0 && first <= self.last {
            return None;
        }
        let mut made = None;
        if first >= self.end || self.blocks > BLOCKS {
            let each = (first - self.first).checked_div(self.blocks);
            let each = each.filter(|each| *each <= limits::BATCH_ENTRIES_MAX as u64);
            made = each.map(|each| first.saturating_add(each * BLOCKS));
            made = made.filter(|end| is_end(*end));
            self.end = made.unwrap_or(first);
            (self.first, self.blocks) = (first, 0);
        }
        (self.last, self.blocks) = (first, self.blocks + 1);
        made.map(Index)
    }
}

/// sled steps to the leaf before another one by way of the key before its first one, with four bytes 0xff behind it
/// (`docs/storage.md`, sled's traps): no divider has an index that this would be taken for.
fn is_end(index: u64) -> bool {
    index.trailing_zeros() < 32
}

/// Keys of the dividers of a leaf for the blocks below this index.
fn dividers(end: Index) -> impl Iterator<Item = IVec> {
    let last = records::index_key(end.previous());
    (0..DIVIDERS).map(move |number| IVec::from([&last[..], &[SENTINEL, number]].concat()))
}

fn is_divider(row: &[u8]) -> bool {
    matches!(row.split_at_checked(8), Some((_, [SENTINEL, _])))
}

impl Engine {
    /// The blocks of the log in a range of keys.
    pub(super) fn blocks(
        &self,
        range: impl RangeBounds<IVec>,
    ) -> impl DoubleEndedIterator<Item = sled::Result<(IVec, IVec)>> {
        let rows = self.trees[LOG].range(range);
        rows.filter(|row| !row.as_ref().is_ok_and(|(key, _)| is_divider(key)))
    }

    /// Operations that put these entries in blocks, large ones into leaves that are made ahead.
    pub(super) fn put_entries(
        &self,
        leaf: &mut Leaf,
        entries: &[Entry],
        operations: &mut Vec<Operation>,
    ) {
        for (first, block) in block::pack(entries) {
            if self.has_leaves_ahead() && block.len() >= limits::BLOCK_AHEAD_BYTES_MIN {
                let end = leaf.put(first);
                let dividers = end.into_iter().flat_map(dividers);
                operations.extend(dividers.map(|key| (LOG, key, Some(IVec::default()))));
            }
            let key = IVec::from(&records::index_key(first));
            operations.push((LOG, key, Some(block.into())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::layout;
    use crate::storage::recovery::Source as _;
    use crate::storage::sled_store::META;
    use crate::storage::testing::chain;

    /// For blocks below which index leaves are made, or 0.
    fn ends<const N: usize>(firsts: [u64; N]) -> [u64; N] {
        let mut leaf = Leaf::default();
        firsts.map(|first| leaf.put(Index(first)).map_or(0, |end| end.0))
    }

    #[test]
    fn a_leaf_is_made_for_blocks_as_far_apart_as_those_before() {
        assert_eq!(
            ends([100, 110, 120, 150, 170, 5_000, 5_001]),
            [0, 160, 0, 0, 270, 0, 5_006],
            "the first one; 10 apart; 20 apart; too far apart; one apart"
        );
        assert_eq!(
            ends([100, 110, 90, 110, 160]),
            [0, 160, 0, 0, 410],
            "two were there before"
        );
    }

    #[test]
    fn another_leaf_is_made_where_more_blocks_came_than_was_thought() {
        assert_eq!(
            ends([100, 140, 141, 142, 143, 144, 145, 146]),
            [0, 340, 0, 0, 0, 0, 0, 151]
        );
    }

    #[test]
    fn no_leaf_ends_where_its_divider_would_be_taken_for_the_place_before_another() {
        let boundary = 1 << 32;
        assert_eq!(
            ends([boundary - 60, boundary - 50, boundary - 40]),
            [0, 0, boundary + 10]
        );
    }

    fn engine(directory: &tempfile::TempDir, format: u32) -> Engine {
        layout::create_store_at(directory.path(), 1 << 20).unwrap();
        let engine = Engine::open(directory.path(), 1 << 20).unwrap();
        engine.trees[META]
            .insert("format", &format.to_be_bytes())
            .unwrap();
        engine.flush().unwrap();
        drop(engine);
        Engine::open(directory.path(), 1 << 20).unwrap()
    }

    /// Puts batches of three entries of 6,000 bytes, or four.
    fn put(engine: &Engine, leaf: &mut Leaf, log: &[Entry]) {
        for batch in log.chunks(7).flat_map(|seven| [&seven[..3], &seven[3..]]) {
            let mut operations = Vec::new();
            engine.put_entries(leaf, batch, &mut operations);
            engine.commit(&operations, None).unwrap();
        }
    }

    fn count_dividers(engine: &Engine) -> usize {
        let keys = engine.trees[LOG].iter().keys();
        keys.filter(|key| is_divider(key.as_ref().unwrap())).count()
    }

    #[test]
    fn a_log_in_leaves_made_ahead_reads_as_any_other() {
        let directory = tempfile::tempdir().unwrap();
        let engine = engine(&directory, 4);
        let log = chain(1, 700, 6_000);
        put(&engine, &mut Leaf::default(), &log);
        assert!(
            (250..450).contains(&count_dividers(&engine)),
            "{}",
            count_dividers(&engine)
        );
        assert_eq!(engine.entries(Index(1), usize::MAX).unwrap(), log);
        for at in 0..log.len() {
            let index = log[at].index();
            let some = engine.entries(index, 20_000).unwrap();
            assert_eq!(some, log[at..(at + some.len())]);
            assert!(some.len() == 3 || at + some.len() == log.len());
            let up_to = engine.block_at(index).unwrap().unwrap();
            assert_eq!(*up_to.last().unwrap(), log[at]);
            assert_eq!(engine.block_from(index).unwrap().unwrap()[0], log[at]);
        }
        assert_eq!(engine.block_from(Index(701)).unwrap(), None);
        let newest = engine.block_at(Index(u64::MAX)).unwrap().unwrap();
        assert_eq!(newest, log[696..]);
        let mut base = Index(0);
        while let Some(end) = engine.cut_point(base, Index(699)).unwrap() {
            assert!(
                [0, 3].contains(&(end.0 % 7)),
                "{end}: at the end of a block"
            );
            base = end;
        }
        assert_eq!(base, Index(696));

        engine.cut_after(Index(350)).unwrap();
        assert_eq!(engine.entries(Index(1), usize::MAX).unwrap(), log[..350]);
        assert!((125..250).contains(&count_dividers(&engine)));
        put(&engine, &mut Leaf::default(), &log[350..]);
        assert_eq!(engine.entries(Index(1), usize::MAX).unwrap(), log);
        engine.cut_after(Index(0)).unwrap();
        assert_eq!(
            (engine.block_at(Index(9)).unwrap(), count_dividers(&engine)),
            (None, 0)
        );
    }

    #[test]
    fn a_block_is_written_once() {
        let log = chain(1, 4_000, 6_000);
        let written = |format| {
            let directory = tempfile::tempdir().unwrap();
            let engine = engine(&directory, format);
            put(&engine, &mut Leaf::default(), &log);
            engine.flush().unwrap();
            std::fs::metadata(directory.path().join("db"))
                .unwrap()
                .len()
        };
        let (before, since) = (written(3), written(4));
        assert!(since * 4 < before * 3, "{since} bytes, and {before} before");
    }

    #[test]
    fn small_blocks_have_no_leaves_made_for_them() {
        let directory = tempfile::tempdir().unwrap();
        let engine = engine(&directory, 4);
        put(&engine, &mut Leaf::default(), &chain(1, 700, 100));
        assert_eq!(count_dividers(&engine), 0);
    }
}
