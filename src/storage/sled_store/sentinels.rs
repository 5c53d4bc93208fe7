//! Empty rows behind the last one of those that only ever come at an end: of the log, of a long inbox, of a busy client's
//! replies.
//!
//! sled parts a leaf of 17 rows: the lower nine stay, the upper eight go to a new leaf, and both are written. Where each
//! row comes behind all others the new leaf begins half full, so that a row is written by itself, with the upper half of
//! one parting and with the lower half of the next. With seven empty rows behind the last one it is they that go,
//! with one other row. The figures are in `docs/storage.md`, Sentinels.
//!
//! A new store's log has them (`migrations/`). In the trees of the state a slice puts them where it adds to a *stretch* that
//! has become long: the rows whose keys differ in their last number only.

use crate::limits;
use crate::storage::migrations::{SENTINEL, SENTINELS};
use crate::storage::{Tree, records};
use crate::types::Index;
use sled::IVec;
use std::collections::HashSet;
use std::ops::{Range, RangeToInclusive};
use std::sync::{Arc, Mutex, PoisonError};

const _: () = assert!(
    limits::NUMBER_MAX.to_be_bytes()[0] < SENTINEL,
    "no index comes after a sentinel"
);

/// The log's rows with this key and above.
pub(super) fn above(key: impl AsRef<[u8]>) -> Range<IVec> {
    IVec::from(key.as_ref())..IVec::from(&[SENTINEL])
}

/// The log's rows up to this index.
pub(super) fn up_to(index: Index) -> RangeToInclusive<IVec> {
    let last = Index(index.0.min(limits::NUMBER_MAX));
    ..=IVec::from(&records::index_key(last))
}

/// The part of a row's key that names its stretch, and what stands behind it.
fn parts(tree: Tree, row: &[u8]) -> Option<(&[u8], &[u8])> {
    match (tree, row.first()?) {
        (Tree::Inboxes, _) => row.split_at_checked(8),
        (Tree::Sessions, b'r') => row.split_at_checked(17),
        _ => None,
    }
}

/// Is this the key of a sentinel in a tree of the state? No record has such a one.
pub(super) fn is_key(tree: Tree, row: &[u8]) -> bool {
    matches!(parts(tree, row), Some((_, [SENTINEL, _])))
}

/// The long stretch that a row with this key is in, if it is in one.
fn long_stretch(tree: Tree, row: &[u8]) -> Option<&[u8]> {
    let (stretch, number) = parts(tree, row)?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    let is_long = match tree {
        Tree::Inboxes => number >= limits::LONG_INBOX,
        _ => number >= limits::LONG_REPLIES,
    };
    is_long.then_some(stretch)
}

/// Stretches that have sentinels, as far as this process knows: to put them once more does no harm.
#[derive(Clone, Default)]
pub(super) struct Known(Arc<Mutex<HashSet<IVec>>>);

impl Known {
    /// Keys of the sentinels that a slice puts which puts rows with these keys: for few stretches at once, because it
    /// holds up the log.
    pub(super) fn missing<'k>(
        &self,
        tree: Tree,
        rows: impl Iterator<Item = &'k [u8]>,
    ) -> Vec<IVec> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > limits::STRETCHES_KNOWN_MAX {
            known.clear();
        }
        let stretches = rows.filter_map(|row| long_stretch(tree, row));
        let new = stretches
            .filter(|stretch| !known.contains(*stretch) && known.insert(IVec::from(*stretch)));
        let key = |stretch: &[u8], number| IVec::from([stretch, &[SENTINEL, number]].concat());
        new.take(limits::STRETCHES_A_SLICE)
            .flat_map(|stretch| (0..SENTINELS).map(move |number| key(stretch, number)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::layout;
    use crate::storage::recovery::Source as _;
    use crate::storage::sled_store::{Engine, LOG, META, STATE, put_blocks};
    use crate::storage::testing::chain;
    use crate::storage::{Change, StateReader as _, StorageError};
    use bytes::Bytes;

    fn sentinels(engine: &Engine) -> usize {
        let rows = engine.trees[LOG].range([SENTINEL]..);
        rows.filter(|row| row.as_ref().unwrap().1.is_empty())
            .count()
    }

    #[test]
    fn the_log_ends_before_its_sentinels_and_keeps_them() {
        let directory = tempfile::tempdir().unwrap();
        layout::create_store_at(directory.path(), 1 << 20).unwrap();
        let engine = Engine::open(directory.path(), 1 << 20).unwrap();
        let newest = Index(u64::MAX);
        assert_eq!(sentinels(&engine), 7);
        assert_eq!(engine.block_at(newest).unwrap(), None);
        assert_eq!(engine.block_from(Index(1)).unwrap(), None);
        assert_eq!(engine.entries(Index(1), 1 << 20).unwrap(), []);
        assert_eq!(engine.cut_point(Index(0), Index(99)).unwrap(), None);

        let log = chain(1, 40, 10);
        for batch in log.chunks(2) {
            let mut operations = Vec::new();
            put_blocks(batch, &mut operations);
            engine.commit(&operations, None).unwrap();
        }
        assert_eq!(engine.entries(Index(1), 1 << 20).unwrap(), log);
        assert_eq!(engine.block_at(newest).unwrap().unwrap(), log[38..]);
        let end = engine.cut_point(Index(0), Index(99)).unwrap();
        assert_eq!(end, Some(Index(38)));

        engine.cut_after(Index(0)).unwrap();
        assert_eq!(engine.block_at(newest).unwrap(), None);
        assert_eq!(sentinels(&engine), 7);
    }

    fn put(tree: Tree, key: &[u8]) -> Change {
        Change {
            tree,
            key: Bytes::copy_from_slice(key),
            value: Some(vec![1; 100].into()),
        }
    }

    /// Blocks of three inboxes, and two clients' groups of replies, as many as that they become long.
    fn stretches() -> Vec<Change> {
        let rising = |tree, stretch: &[u8], step: u64| -> Vec<Change> {
            let key = |n: u64| [stretch, &(n * step).to_be_bytes()].concat();
            (1..60).map(|n| put(tree, &key(n))).collect()
        };
        let inbox = |user: u64| rising(Tree::Inboxes, &user.to_be_bytes(), 18);
        let replies = |user: u8| rising(Tree::Sessions, &[&b"r"[..], &[user; 16]].concat(), 1);
        let inboxes = (7..10).flat_map(inbox);
        inboxes.chain((1..3).flat_map(replies)).collect()
    }

    /// Writes them in slices; returns how many sentinels each tree has then.
    fn write(engine: &Engine, changes: &[Change]) -> [usize; Tree::ALL.len()] {
        for slice in changes.chunks(10) {
            let mut operations = Vec::new();
            engine.put_records(slice, &mut operations).unwrap();
            engine.commit(&operations, None).unwrap();
        }
        Tree::ALL.map(|tree| {
            let rows = engine.trees[STATE + tree as usize].iter();
            rows.filter(|row| is_key(tree, &row.as_ref().unwrap().0))
                .count()
        })
    }

    #[test]
    fn long_stretches_of_the_state_have_sentinels_that_no_reader_sees() {
        let directory = tempfile::tempdir().unwrap();
        layout::create_store_at(directory.path(), 1 << 20).unwrap();
        let engine = Engine::open(directory.path(), 1 << 20).unwrap();
        let changes = stretches();
        assert_eq!(write(&engine, &changes[..20]), [0; 4], "it is short yet");
        let mut expected = [0; Tree::ALL.len()];
        expected[Tree::Inboxes as usize] = 3 * 7;
        expected[Tree::Sessions as usize] = 2 * 7;
        assert_eq!(write(&engine, &changes), expected);
        assert_eq!(write(&engine, &changes), expected, "once");

        let reader = engine.reader();
        for tree in Tree::ALL {
            let of_tree = changes.iter().filter(|change| change.tree == tree);
            let mut keys: Vec<_> = of_tree.map(|change| change.key.clone()).collect();
            let there = |rows: Vec<(Bytes, Bytes)>| -> Vec<Bytes> {
                rows.into_iter().map(|(key, _)| key).collect()
            };
            let up = reader.range(tree, b"", b"z", 999).unwrap();
            assert_eq!(there(up), keys);
            keys.reverse();
            let down = reader.range_back(tree, b"", b"z", 999).unwrap();
            assert_eq!(there(down), keys);
        }
        let no_record = [&7_u64.to_be_bytes()[..], &[SENTINEL, 3]].concat();
        let refused = engine.put_records(&[put(Tree::Inboxes, &no_record)], &mut Vec::new());
        assert!(matches!(refused, Err(StorageError::Unusable(_))));
    }

    #[test]
    fn a_store_of_an_older_format_gets_none() {
        let directory = tempfile::tempdir().unwrap();
        layout::create_store_at(directory.path(), 1 << 20).unwrap();
        let new = Engine::open(directory.path(), 1 << 20).unwrap();
        let second = 2_u32.to_be_bytes();
        new.trees[META].insert("format", &second).unwrap();
        new.flush().unwrap();
        drop(new);
        let engine = Engine::open(directory.path(), 1 << 20).unwrap();
        assert_eq!(write(&engine, &stretches()), [0; 4]);
    }
}
