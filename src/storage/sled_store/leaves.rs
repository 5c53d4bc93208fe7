//! Leaves that are made before they are filled, where rows only ever come at an end.
//!
//! sled appends what changes in a leaf to its file, and writes the whole leaf anew when it parts it: where leaves part as
//! they fill up a row is written at least twice. So a leaf is parted while there is nothing in it yet but *dividers*,
//! empty rows whose keys say how far it goes: behind any row that is to come to it, before the next one. The figures are
//! in `docs/storage.md`, Leaves made ahead.
//!
//! Nothing depends on them but how much sled writes: after a crash, or in a log whose end was dropped, there may be some,
//! or none.

use super::{Engine, LOG, Operation};
use crate::limits;
use crate::storage::migrations::SENTINEL;
use crate::storage::{block, records};
use crate::types::entry::Entry;
use sled::IVec;
use std::ops::RangeBounds;

/// sled parts a leaf of 17 rows, of which the lower nine stay. The last leaf has seven sentinels and the last divider of
/// the leaf before: with as many dividers more it is parted, and the last one of these goes on to the next leaf.
const DIVIDERS: u8 = 9;
/// Blocks of the log for which a leaf is made. Seven would come to it without parting it; but sled writes a leaf anew
/// with the eleventh change of it, their removal included.
const BLOCKS_A_LEAF: u64 = 5;

/// The leaf at the end of such rows, as far as this process knows.
#[derive(Clone, Copy, Default, Debug)]
pub(in crate::storage) struct Leaf {
    /// The number in the key of its first row.
    first: u64,
    /// It was made for rows below this number.
    end: u64,
    rows: u64,
}

impl Leaf {
    /// A row with this number is put. If it needs another leaf, which is to have so many rows, says for rows below
    /// which number that is to be made: as far apart as they were in the leaf before, at most `apart`.
    pub(super) fn put(&mut self, number: u64, rows: u64, apart: u64) -> Option<u64> {
        let is_other = !(self.first..self.end).contains(&number);
        let mut made = None;
        if is_other {
            let went = number.saturating_sub(self.first);
            let each = went.checked_div(self.rows);
            made = each
                .filter(|each| (1..=apart).contains(each))
                .map(|each| number.saturating_add(each * rows));
            *self = Self {
                first: number,
                end: made.unwrap_or(number),
                rows: 0,
            };
        }
        self.rows += 1;
        made
    }
}

/// Keys of the dividers of a leaf for the rows below this number. They begin with `stretch` as all rows there do.
pub(super) fn dividers(stretch: &[u8], end: u64) -> impl Iterator<Item = IVec> {
    let last = [stretch, &(end - 1).to_be_bytes()].concat();
    (0..DIVIDERS).map(move |number| IVec::from([&last[..], &[SENTINEL, number]].concat()))
}

/// What stands behind the name of a stretch in the key of a divider.
pub(super) fn is_divider(rest: &[u8]) -> bool {
    matches!(rest.split_at_checked(8), Some((_, [SENTINEL, _])))
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
                let end = leaf.put(first.0, BLOCKS_A_LEAF, limits::BATCH_ENTRIES_MAX as u64);
                let dividers = end.into_iter().flat_map(|end| dividers(&[], end));
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
    use crate::types::Index;

    #[test]
    fn a_leaf_is_made_for_rows_as_far_apart_as_those_before() {
        let mut leaf = Leaf::default();
        assert_eq!(leaf.put(100, 5, 50), None, "the first one");
        assert_eq!(leaf.put(110, 5, 50), Some(160));
        assert_eq!(leaf.put(120, 5, 50), None);
        assert_eq!(leaf.put(150, 5, 50), None);
        assert_eq!(leaf.put(170, 5, 50), Some(270), "20 apart");
        assert_eq!(leaf.put(400, 5, 50), None, "too far apart");
        assert_eq!(leaf.put(401, 5, 50), Some(406));
        assert_eq!(leaf.put(90, 5, 50), None, "before all others");
        assert_eq!(leaf.put(91, 5, 50), Some(96));
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

    /// Puts batches of three entries of 5,000 bytes, or four.
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
        let log = chain(1, 700, 5_000);
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
        let log = chain(1, 4_000, 5_000);
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
