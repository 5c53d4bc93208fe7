//! The records of the state in the rows of sled: which row holds one, and how rows change (see [`bundle`]).
//!
//! ORDER: one thread writes, and a write is one transaction, which no single call of sled's sees half done. Between two
//! calls of a reader there may be one. So a record is found by one call; and since a record only ever moves
//! to a row that is new and lies between its own and the next, a reader that goes up from row to row meets it again or not
//! at all, and one that goes down asks for each row anew, because sled keeps the leaf that it stands in.

use super::bundle::{self, Change, Malformed, RowChange};
use super::{Engine, Operation, STATE, unreadable};
use crate::storage::guard::caught;
use crate::storage::{self, StorageError, Tree};
use bytes::Bytes;
use sled::IVec;
use std::borrow::Cow;
use std::ops::Bound;

const UNREADABLE: &str = "cannot read the state in";

type Row = (IVec, IVec);

/// Whether a record shares a row with others if it is small. Not the blocks of an inbox; and of the sessions those that
/// come before the replies, which are groups already: so the row that holds a key which may be in a bundle is never
/// one of the others.
fn is_bundled(tree: Tree, key: &[u8]) -> bool {
    match tree {
        Tree::Users | Tree::Tokens => true,
        Tree::Inboxes => false,
        Tree::Sessions => key < &b"r"[..],
    }
}

fn row_key(tree: Tree, key: &[u8]) -> Cow<'_, [u8]> {
    if is_bundled(tree, key) {
        bundle::row_key(key)
    } else {
        Cow::Borrowed(key)
    }
}

fn malformed(tree: Tree) -> impl Fn(Malformed) -> StorageError {
    move |what| {
        let name = tree.name();
        StorageError::Damaged(format!("cannot read the state: a bundle of {name}: {what}"))
    }
}

/// The records in a row. All of the inboxes are rows of their own.
fn records(tree: Tree, (row, value): &Row) -> Result<Vec<bundle::Record<'_>>, StorageError> {
    if tree == Tree::Inboxes {
        return Ok(vec![(row, value)]);
    }
    bundle::records(row, value).map_err(malformed(tree))
}

/// The row that holds this key, if any does: by one call.
fn holding(rows: &sled::Tree, key: &[u8]) -> Result<Option<Row>, StorageError> {
    let row = rows.range(..=bundle::row_key(key)).next_back();
    row.transpose().map_err(unreadable(UNREADABLE))
}

/// The row that begins with this key.
fn own(rows: &sled::Tree, key: &[u8]) -> Result<Option<Row>, StorageError> {
    let key = bundle::row_key(key);
    let value = rows.get(&key).map_err(unreadable(UNREADABLE))?;
    Ok(value.map(|value| (IVec::from(&*key), value)))
}

/// The key of the row after this place.
fn next(rows: &sled::Tree, place: &[u8]) -> Result<Option<IVec>, StorageError> {
    let row = rows
        .range::<&[u8], _>((Bound::Excluded(place), Bound::Unbounded))
        .next();
    let row = row.transpose().map_err(unreadable(UNREADABLE))?;
    Ok(row.map(|(key, _)| key))
}

/// One record.
pub(super) fn get(
    tree: Tree,
    rows: &sled::Tree,
    key: &[u8],
) -> Result<Option<Bytes>, StorageError> {
    if !is_bundled(tree, key) {
        let value = rows.get(key).map_err(unreadable(UNREADABLE))?;
        return Ok(value.map(|value| Bytes::copy_from_slice(&value)));
    }
    let Some(row) = holding(rows, key)? else {
        return Ok(None);
    };
    let records = records(tree, &row)?;
    let at = records.binary_search_by(|(other, _)| (*other).cmp(key));
    Ok(at.ok().map(|at| Bytes::copy_from_slice(records[at].1)))
}

/// The place from which on rows have what is not below `from`.
fn first_row<'a>(
    tree: Tree,
    rows: &sled::Tree,
    from: &'a [u8],
) -> Result<Cow<'a, [u8]>, StorageError> {
    if is_bundled(tree, from)
        && let Some((row, _)) = holding(rows, from)?
    {
        return Ok(row.to_vec().into());
    }
    Ok(row_key(tree, from))
}

/// Records with `from <= key < to`, ascending, at most `limit`. Ends at the first error: after one sled may
/// return it for ever.
pub(super) fn range(
    tree: Tree,
    rows: &sled::Tree,
    (from, to): (&[u8], &[u8]),
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
    let mut found: Vec<(Bytes, Bytes)> = Vec::new();
    if from >= to || limit == 0 {
        return Ok(found);
    }
    for row in rows.range(first_row(tree, rows, from)?..row_key(tree, to)) {
        let row = row.map_err(unreadable(UNREADABLE))?;
        for (key, value) in records(tree, &row)? {
            let again = found.last().is_some_and(|(last, _)| key <= last);
            if again || key < from || to <= key {
                continue;
            }
            found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            if found.len() == limit {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// Like [`range`], descending.
pub(super) fn range_back(
    tree: Tree,
    rows: &sled::Tree,
    (from, to): (&[u8], &[u8]),
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
    let mut found: Vec<(Bytes, Bytes)> = Vec::new();
    if from >= to || limit == 0 {
        return Ok(found);
    }
    let first = first_row(tree, rows, from)?;
    let mut end = IVec::from(&*row_key(tree, to));
    while first[..] < end[..] {
        let row = rows.range(&first[..]..&end[..]).next_back();
        let Some(row) = row.transpose().map_err(unreadable(UNREADABLE))? else {
            break;
        };
        for (key, value) in records(tree, &row)?.into_iter().rev() {
            if key < from || to <= key {
                continue;
            }
            found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            if found.len() == limit {
                return Ok(found);
            }
        }
        end = row.0;
    }
    Ok(found)
}

impl Engine {
    /// Operations for these changes of records, in one transaction. For the one thread that writes.
    pub(super) fn put_records(
        &self,
        changes: &[storage::Change],
        operations: &mut Vec<Operation>,
    ) -> Result<(), StorageError> {
        for tree in Tree::ALL {
            let of_tree = changes.iter().filter(|change| change.tree == tree);
            let (mut shared, alone): (Vec<_>, Vec<_>) =
                of_tree.partition(|change| is_bundled(tree, &change.key));
            let number = STATE + tree as usize;
            operations.extend(alone.into_iter().map(|change| {
                let value = change.value.as_ref().map(|value| IVec::from(&value[..]));
                (number, IVec::from(&change.key[..]), value)
            }));
            shared.sort_by(|a, b| a.key.cmp(&b.key));
            let last_of_each = shared.chunk_by(|a, b| a.key == b.key);
            let last_of_each = last_of_each.filter_map(|same| same.last());
            let changes: Vec<Change> = last_of_each
                .map(|change| (&change.key[..], change.value.as_deref()))
                .collect();
            let put = |(row, value): RowChange| operations.push((number, row, value));
            self.bundled(tree, &changes)?.into_iter().for_each(put);
        }
        Ok(())
    }

    /// How the rows of a tree change with these records, whose keys rise.
    fn bundled(&self, tree: Tree, mut changes: &[Change]) -> Result<Vec<RowChange>, StorageError> {
        let fit = |(key, value): &Change| bundle::is_fit(key, value.unwrap_or_default());
        if !changes.iter().all(fit) {
            return Err(StorageError::Unusable(format!(
                "refused to write a record to the {} tree that cannot stand in a bundle",
                tree.name()
            )));
        }
        let rows = &self.trees[STATE + tree as usize];
        let mut changed = Vec::new();
        let mut known = None;
        while !changes.is_empty() {
            let row = known.take();
            let (row, here, of_next) = caught(|| group(rows, row, changes))?;
            known = of_next;
            let row = row.as_ref().map(|(key, value)| (&key[..], &value[..]));
            let (of_row, others) = changes.split_at(here);
            changed.extend(bundle::changed(row, of_row).map_err(malformed(tree))?);
            changes = others;
        }
        Ok(changed)
    }
}

/// The row of the first change, how many of them it has, and the row of the one after these if that is known. What changes
/// often begins a row of its own: that is looked for first, being cheaper.
fn group(
    rows: &sled::Tree,
    known: Option<Row>,
    changes: &[Change],
) -> Result<(Option<Row>, usize, Option<Row>), StorageError> {
    let (first, rest) = changes.split_first().expect("there is a change");
    let row = match known {
        Some(row) => Some(row),
        None => own(rows, first.0)?.map_or_else(|| holding(rows, first.0), |row| Ok(Some(row)))?,
    };
    let Some((second, _)) = rest.first() else {
        return Ok((row, 1, None));
    };
    if let Some(other) = own(rows, second)? {
        return Ok((row, 1, Some(other)));
    }
    let begins = bundle::row_key(first.0);
    let end = next(rows, row.as_ref().map_or(&begins, |(key, _)| &key[..]))?;
    let is_before = |key: &[u8]| end.as_ref().is_none_or(|end| *bundle::row_key(key) < **end);
    let more = rest.partition_point(|(key, _)| is_before(key));
    Ok((row, 1 + more, None))
}

#[cfg(test)]
mod tests {
    use super::super::{META, SledReader, layout};
    use super::*;
    use crate::storage::StateReader as _;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn engine(directory: &tempfile::TempDir) -> Engine {
        layout::create_store_at(directory.path(), 8 << 20).unwrap();
        Engine::open(directory.path(), 8 << 20).unwrap()
    }

    fn put(tree: Tree, key: &[u8], bytes: usize) -> storage::Change {
        storage::Change {
            tree,
            key: Bytes::copy_from_slice(key),
            value: Some(vec![1; bytes].into()),
        }
    }

    fn write(engine: &Engine, changes: &[storage::Change]) {
        let mut operations = Vec::new();
        engine.put_records(changes, &mut operations).unwrap();
        engine.commit(&operations, None).unwrap();
    }

    /// Of one user, with ids that a client may have chosen.
    fn clients(user: u64) -> impl Iterator<Item = Vec<u8>> {
        (0..16_u8).map(move |n| [b"c", &user.to_be_bytes()[..], &[0xff; 15], &[n]].concat())
    }

    #[test]
    fn ids_of_nothing_but_ones_do_not_stop_the_search_for_a_row() {
        let directory = tempfile::tempdir().unwrap();
        let engine = engine(&directory);
        let tree = Tree::Sessions;
        for user in 0..40 {
            let large: Vec<_> = clients(user).map(|key| put(tree, &key, 2_000)).collect();
            write(&engine, &large);
        }
        let reader = engine.reader();
        for user in 0..40 {
            for key in clients(user) {
                assert!(reader.get(tree, &key).unwrap().is_some());
            }
            let none = [b"c", &user.to_be_bytes()[..], &[0; 16]].concat();
            assert_eq!(reader.get(tree, &none).unwrap(), None);
            let end = [b"c", &(user + 1).to_be_bytes()[..]].concat();
            let keys = |rows: Vec<(Bytes, Bytes)>| -> Vec<Vec<u8>> {
                rows.into_iter().map(|(key, _)| key.to_vec()).collect()
            };
            let mut expected: Vec<Vec<u8>> = clients(user).collect();
            assert_eq!(keys(reader.range(tree, &none, &end, 99).unwrap()), expected);
            expected.reverse();
            assert_eq!(
                keys(reader.range_back(tree, &none, &end, 99).unwrap()),
                expected
            );
        }
    }

    #[test]
    fn rows_of_the_first_format_are_found_after_the_second_step() {
        let directory = tempfile::tempdir().unwrap();
        let engine = engine(&directory);
        let keys: Vec<Vec<u8>> = (0..4).flat_map(clients).collect();
        let replies = [b"r", &[0xff; 9][..]].concat();
        for key in keys.iter().chain([&replies]) {
            for tree in Tree::ALL {
                let rows = &engine.trees[STATE + tree as usize];
                rows.insert(key, vec![1; 1_500]).unwrap();
            }
        }
        let first = 1_u32.to_be_bytes();
        engine.trees[META].insert("format", &first).unwrap();
        engine.migrate().unwrap();
        let reader = engine.reader();
        let more = [b"c", &2_u64.to_be_bytes()[..], &[0xff; 14], &[7]].concat();
        for tree in Tree::ALL {
            write(&engine, &[put(tree, &more, 10)]);
            let mut expected = [&keys[..], &[replies.clone(), more.clone()]].concat();
            expected.sort();
            let found = reader.range(tree, b"", b"z", 999).unwrap();
            let found: Vec<&[u8]> = found.iter().map(|(key, _)| &key[..]).collect();
            assert_eq!(found, expected);
            for key in &expected {
                assert!(reader.get(tree, key).unwrap().is_some());
            }
        }
    }

    /// Records that do not change, and others between them that grow, so that rows part beside and before them.
    #[test]
    fn readers_miss_no_record_while_rows_part() {
        const GROUPS: u64 = 1_500;
        const STILL: u64 = 20;
        let directory = tempfile::tempdir().unwrap();
        let engine = engine(&directory);
        let tree = Tree::Users;
        let key = |group: u64, n: u64| (group * 100 + n * 2).to_be_bytes();
        let newest = AtomicU64::new(0);
        let groups = || {
            let newest = || newest.load(Ordering::Acquire);
            std::iter::repeat_with(newest).take_while(|newest| *newest < GROUPS)
        };
        let gets = |reader: SledReader| {
            for (group, n) in groups().filter(|group| *group > 0).zip((0..STILL).cycle()) {
                let found = reader.get(tree, &key(group, n)).unwrap();
                assert!(found.is_some(), "{n} of {group}");
            }
        };
        let ranges = |reader: SledReader| {
            for group in groups().filter(|group| *group > 0) {
                let (from, to) = (key(group, 0), key(group, STILL));
                let still = |rows: Vec<(Bytes, Bytes)>| {
                    let is_still = |key: &[u8]| key[7].is_multiple_of(2);
                    rows.iter().filter(|(key, _)| is_still(key)).count() as u64
                };
                let up = reader.range(tree, &from, &to, 999).unwrap();
                assert_eq!(still(up), STILL, "of {group}");
                let down = reader.range_back(tree, &from, &to, 999).unwrap();
                assert_eq!(still(down), STILL, "of {group}, from its end");
            }
        };
        std::thread::scope(|scope| {
            let (one, other) = (engine.reader(), engine.reader());
            let readers = [
                scope.spawn(move || gets(one)),
                scope.spawn(move || ranges(other)),
            ];
            for group in 1..=GROUPS {
                let still: Vec<_> = (0..STILL).map(|n| put(tree, &key(group, n), 150)).collect();
                write(&engine, &still);
                newest.store(group, Ordering::Release);
                for n in (0..STILL).map(|n| n * 7 % STILL) {
                    let mut between = key(group, n);
                    between[7] += 1;
                    write(&engine, &[put(tree, &between, 1_200)]);
                }
            }
            for reader in readers {
                reader.join().unwrap();
            }
        });
    }
}
