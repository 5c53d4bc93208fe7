//! Empty rows behind the last one of those that only ever come at an end: of the log, of a long inbox, of a busy client's
//! replies.
//!
//! sled parts a leaf of 17 rows: the lower nine stay, the upper eight go to a new leaf, and both are written. Where each
//! row comes behind all others the new leaf begins half full, so that a row is written by itself, with the upper half of
//! one parting and with the lower half of the next. With seven empty rows behind the last one it is they that go,
//! with one other row. The figures are in `docs/storage.md`, Sentinels.
//!
//! A new store's log has them (`migrations/`). In the trees of the state a slice puts them where it adds to a *stretch* that
//! has become long (the rows whose keys differ in their last number only), and removes them where hardly another row is
//! left.

use super::unreadable;
use crate::limits;
use crate::storage::migrations::{SENTINEL, SENTINELS};
use crate::storage::{StorageError, Tree, records};
use crate::types::Index;
use sled::IVec;
use std::collections::{BTreeMap, HashSet};
use std::ops::{Range, RangeToInclusive};
use std::sync::{Arc, Mutex, PoisonError};

const _: () = assert!(
    limits::ROW_NUMBER_MAX.to_be_bytes()[0] < SENTINEL,
    "no other row comes after a sentinel"
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

/// Keys of the sentinels behind a stretch.
fn keys(stretch: &[u8]) -> impl Iterator<Item = IVec> {
    (0..SENTINELS).map(move |number| IVec::from([stretch, &[SENTINEL, number]].concat()))
}

/// Stretches that have sentinels, as far as this process knows. The store is asked about any other.
#[derive(Clone, Default)]
pub(super) struct Known(Arc<Mutex<Stretches>>);

#[derive(Default)]
struct Stretches {
    have: HashSet<IVec>,
    /// Stretches of each tree that were looked at. Where there are more than a slice looks at, the next ones are others.
    looked_at: [usize; Tree::ALL.len()],
}

/// Rows of a stretch that a slice puts, new ones or not, and removes. It has each key once.
#[derive(Clone, Copy, Default)]
struct Changed {
    put: usize,
    removed: usize,
}

impl Known {
    /// The sentinels that a slice puts or removes with these rows, `true`: it puts them.
    pub(super) fn changed<'k>(
        &self,
        (tree, sled): (Tree, &sled::Tree),
        rows: impl Iterator<Item = (&'k [u8], bool)>,
    ) -> Result<Vec<(IVec, Option<IVec>)>, StorageError> {
        let mut stretches: BTreeMap<&[u8], Changed> = BTreeMap::new();
        for (row, is_put) in rows {
            if let Some((stretch, _)) = parts(tree, row) {
                let changed = stretches.entry(stretch).or_default();
                changed.put += usize::from(is_put);
                changed.removed += usize::from(!is_put);
            }
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = known.missing((tree, sled), &stretches)?;
        for (stretch, of_stretch) in stretches {
            // Where it puts a row the next slice that only removes some will see to it.
            if of_stretch.put == 0 && are_left_over(sled, stretch, of_stretch.removed)? {
                known.have.remove(stretch);
                changed.extend(keys(stretch).map(|key| (key, None)));
            }
        }
        Ok(changed)
    }
}

impl Stretches {
    /// Those of stretches that have become long: few at once are looked at, because a slice holds up the log.
    fn missing(
        &mut self,
        (tree, sled): (Tree, &sled::Tree),
        stretches: &BTreeMap<&[u8], Changed>,
    ) -> Result<Vec<(IVec, Option<IVec>)>, StorageError> {
        let grows = |(stretch, changed): &(&&[u8], &Changed)| {
            changed.put > 0 && !self.have.contains(**stretch)
        };
        let mut grown: Vec<_> = stretches.iter().filter(grows).collect();
        let looked_at = &mut self.looked_at[tree as usize];
        let first = *looked_at % grown.len().max(1);
        grown.rotate_left(first);
        grown.truncate(limits::STRETCHES_A_SLICE);
        *looked_at = looked_at.wrapping_add(grown.len());
        let mut missing = Vec::new();
        for (stretch, changed) in grown {
            // First what stands where the slice writes anyway: a stretch begins in some old leaf.
            let has = has_sentinels(sled, stretch)?;
            if !has && !is_long(sled, stretch, *changed)? {
                continue;
            }
            if self.have.len() >= limits::STRETCHES_KNOWN_MAX {
                self.have.clear();
            }
            self.have.insert(IVec::from(*stretch));
            if !has {
                missing.extend(keys(stretch).map(|key| (key, Some(IVec::default()))));
            }
        }
        Ok(missing)
    }
}

fn has_sentinels(sled: &sled::Tree, stretch: &[u8]) -> Result<bool, StorageError> {
    let first = keys(stretch).next().expect("there are some");
    sled.contains_key(first).map_err(unread)
}

/// Will a stretch be long? About: of what is put some may be there already.
fn is_long(sled: &sled::Tree, stretch: &[u8], changed: Changed) -> Result<bool, StorageError> {
    let there = rows_up_to(sled, stretch, limits::LONG_STRETCH_ROWS)?;
    Ok((there + changed.put).saturating_sub(changed.removed) >= limits::LONG_STRETCH_ROWS)
}

/// Has a stretch sentinels, and hardly any other row when so many are removed?
fn are_left_over(sled: &sled::Tree, stretch: &[u8], removed: usize) -> Result<bool, StorageError> {
    let short = removed + limits::SHORT_STRETCH_ROWS;
    Ok(rows_up_to(sled, stretch, short)? < short && has_sentinels(sled, stretch)?)
}

/// How many rows a stretch has without its sentinels, counted up to `most`.
fn rows_up_to(sled: &sled::Tree, stretch: &[u8], most: usize) -> Result<usize, StorageError> {
    let end = [stretch, &[SENTINEL]].concat();
    let mut rows = 0;
    for row in sled.range(stretch..&end[..]).keys().take(most) {
        row.map_err(unread)?;
        rows += 1;
    }
    Ok(rows)
}

fn unread(error: sled::Error) -> StorageError {
    unreadable("cannot read the state in")(error)
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

    fn remove(change: &Change) -> Change {
        Change {
            value: None,
            ..change.clone()
        }
    }

    /// Blocks of many inboxes, and as many clients' groups of replies, as many of each as that they are long.
    fn stretches(count: u8) -> Vec<Change> {
        let rising = |tree, stretch: &[u8]| -> Vec<Change> {
            let key = |n: u64| [stretch, &(n * 18).to_be_bytes()].concat();
            let rows = 1..=limits::LONG_STRETCH_ROWS as u64;
            rows.map(|n| put(tree, &key(n))).collect()
        };
        let inboxes = (1..=count).flat_map(|user| rising(Tree::Inboxes, &[user; 8]));
        let replies = |user| rising(Tree::Sessions, &[&b"r"[..], &[user; 16]].concat());
        inboxes.chain((1..=count).flat_map(replies)).collect()
    }

    fn write(engine: &Engine, slice: &[Change]) {
        let mut operations = Vec::new();
        engine.put_records(slice, &mut operations).unwrap();
        engine.commit(&operations, None).unwrap();
    }

    /// How many sentinels inboxes and sessions have.
    fn of_state(engine: &Engine) -> [usize; 2] {
        [Tree::Inboxes, Tree::Sessions].map(|tree| {
            let rows = engine.trees[STATE + tree as usize].iter();
            rows.filter(|row| is_key(tree, &row.as_ref().unwrap().0))
                .count()
        })
    }

    fn new_engine(directory: &tempfile::TempDir) -> Engine {
        layout::create_store_at(directory.path(), 1 << 20).unwrap();
        Engine::open(directory.path(), 1 << 20).unwrap()
    }

    #[test]
    fn long_stretches_of_the_state_have_sentinels_that_no_reader_sees() {
        let directory = tempfile::tempdir().unwrap();
        let engine = new_engine(&directory);
        let changes = stretches(2);
        let is_last = |(n, _): &(usize, &Change)| (n + 1) % limits::LONG_STRETCH_ROWS == 0;
        let (last, others): (Vec<_>, Vec<_>) = changes.iter().enumerate().partition(is_last);
        let slice = |part: Vec<(usize, &Change)>| -> Vec<Change> {
            part.into_iter().map(|(_, change)| change.clone()).collect()
        };
        write(&engine, &slice(others));
        assert_eq!(of_state(&engine), [0, 0], "they are short yet");
        write(&engine, &slice(last));
        assert_eq!(of_state(&engine), [14, 14]);
        write(&engine, &changes);
        assert_eq!(of_state(&engine), [14, 14], "once");

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
        let no_record = [&[1; 8][..], &[SENTINEL, 3]].concat();
        assert_eq!(reader.get(Tree::Inboxes, &no_record).unwrap(), None);
        let refused = engine.put_records(&[put(Tree::Inboxes, &no_record)], &mut Vec::new());
        assert!(matches!(refused, Err(StorageError::Unusable(_))));
    }

    #[test]
    fn sentinels_go_when_hardly_another_row_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let engine = new_engine(&directory);
        let changes = stretches(1);
        write(&engine, &changes);
        let gone: Vec<Change> = changes.iter().map(remove).collect();
        let (blocks, groups) = gone.split_at(limits::LONG_STRETCH_ROWS);
        write(
            &engine,
            &blocks[..limits::LONG_STRETCH_ROWS - limits::SHORT_STRETCH_ROWS],
        );
        assert_eq!(of_state(&engine), [7, 7], "so many are left");
        write(
            &engine,
            &blocks[limits::LONG_STRETCH_ROWS - limits::SHORT_STRETCH_ROWS..][..1],
        );
        assert_eq!(of_state(&engine), [0, 7]);
        write(&engine, groups);
        assert_eq!(of_state(&engine), [0, 0]);
        write(&engine, &changes);
        assert_eq!(of_state(&engine), [7, 7], "once more");
    }

    #[test]
    fn a_slice_looks_at_few_stretches_and_the_next_one_at_others() {
        let directory = tempfile::tempdir().unwrap();
        let engine = new_engine(&directory);
        let most = limits::STRETCHES_A_SLICE;
        let of_short_ones = |n: usize| put(Tree::Inboxes, &[[n as u8; 8], [1; 8]].concat());
        let mut changes: Vec<Change> = (20..20 + most * 2).map(of_short_ones).collect();
        let behind = |n: u8| put(Tree::Inboxes, &[[200; 8], [n; 8]].concat());
        changes.extend((0..limits::LONG_STRETCH_ROWS as u8).map(behind));
        write(&engine, &changes);
        assert_eq!(of_state(&engine), [0, 0], "so many are before it");
        write(&engine, &changes);
        write(&engine, &changes);
        assert_eq!(of_state(&engine), [7, 0]);

        write(&engine, &stretches(most as u8 + 2));
        let expected = [most + 1, most].map(|stretches| stretches * 7);
        assert_eq!(of_state(&engine), expected);
    }

    #[test]
    fn a_store_that_is_opened_again_knows_its_sentinels_by_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let engine = new_engine(&directory);
        let changes = stretches(1);
        write(&engine, &changes);
        engine.flush().unwrap();
        drop(engine);
        let engine = Engine::open(directory.path(), 1 << 20).unwrap();
        let mut operations = Vec::new();
        engine.put_records(&changes, &mut operations).unwrap();
        assert_eq!(operations.len(), changes.len(), "they are there");
        engine.flush().unwrap();
        drop(engine);
        let engine = Engine::open(directory.path(), 1 << 20).unwrap();
        let gone: Vec<Change> = changes.iter().map(remove).collect();
        write(&engine, &gone);
        assert_eq!(of_state(&engine), [0, 0]);
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
        write(&engine, &stretches(2));
        assert_eq!(of_state(&engine), [0, 0]);
    }
}
