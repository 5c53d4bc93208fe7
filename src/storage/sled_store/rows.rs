//! The records of the state in the rows of sled: which row holds one, and how rows change (see [`bundle`]).
//!
//! ORDER: one thread writes, and a write is one transaction, which no single call of sled's sees half done. Between two
//! calls of a reader there may be one. So a record is found by one call; and since a record only ever moves
//! to a row that is new and lies between its own and the next, a reader that goes up from row to row meets it again or not
//! at all, and one that goes down asks for each row anew, because sled keeps the leaf that it stands in.

use super::bundle::{self, Change, Malformed, Record, RowChange};
use super::{Engine, Operation, STATE, sentinels, unreadable};
use crate::storage::guard::caught;
use crate::storage::{self, StorageError, Tree};
use bytes::Bytes;
use sled::IVec;
use std::borrow::Cow;
use std::ops::Bound;

type Row = (IVec, IVec);

/// The rows of a tree of the state.
#[derive(Clone, Copy)]
pub(super) struct Rows<'t> {
    tree: Tree,
    sled: &'t sled::Tree,
    /// In a store of version 1 each record has a row of its own.
    bundles: bool,
}

fn read<T>(result: sled::Result<T>) -> Result<T, StorageError> {
    result.map_err(unreadable("cannot read the state in"))
}

impl<'t> Rows<'t> {
    pub(super) fn new(tree: Tree, sled: &'t sled::Tree, bundles: bool) -> Self {
        Self {
            tree,
            sled,
            bundles,
        }
    }

    /// Whether a record shares a row with others if it is small. Not the blocks of an inbox; and of the sessions
    /// those that come before the replies, which are groups already: so the row that holds a key which may
    /// be in a bundle is never one of the others.
    fn is_bundled(self, key: &[u8]) -> bool {
        self.bundles
            && match self.tree {
                Tree::Users | Tree::Tokens => true,
                Tree::Inboxes => false,
                Tree::Sessions => key < &b"r"[..],
            }
    }

    fn row_key(self, key: &[u8]) -> Cow<'_, [u8]> {
        if self.is_bundled(key) {
            bundle::row_key(key)
        } else {
            Cow::Borrowed(key)
        }
    }

    fn malformed(self) -> impl Fn(Malformed) -> StorageError {
        move |what| {
            let name = self.tree.name();
            StorageError::Damaged(format!("cannot read the state: a bundle of {name}: {what}"))
        }
    }

    fn records(self, (row, value): &Row) -> Result<Vec<Record<'_>>, StorageError> {
        if sentinels::is_key(self.tree, row) {
            return Ok(Vec::new());
        }
        if self.is_bundled(row) {
            bundle::records(row, value).map_err(self.malformed())
        } else {
            Ok(vec![(row, value)])
        }
    }

    /// The row that holds this key, which may be in a bundle, if any does: by one call.
    fn holding(self, key: &[u8]) -> Result<Option<Row>, StorageError> {
        let row = self.sled.range(..=bundle::row_key(key)).next_back();
        read(row.transpose())
    }

    /// The row that begins with this key.
    fn own(self, key: &[u8]) -> Result<Option<Row>, StorageError> {
        let key = bundle::row_key(key);
        let value = read(self.sled.get(&key))?;
        Ok(value.map(|value| (IVec::from(&*key), value)))
    }

    /// The key of the row after this place.
    fn next(self, place: &[u8]) -> Result<Option<IVec>, StorageError> {
        let after = (Bound::Excluded(place), Bound::Unbounded);
        let row = self.sled.range::<&[u8], _>(after).next();
        Ok(read(row.transpose())?.map(|(key, _)| key))
    }

    /// One record.
    pub(super) fn get(self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        if sentinels::is_key(self.tree, key) {
            return Ok(None);
        }
        if !self.is_bundled(key) {
            let value = read(self.sled.get(key))?;
            return Ok(value.map(|value| Bytes::copy_from_slice(&value)));
        }
        let Some(row) = self.holding(key)? else {
            return Ok(None);
        };
        let records = self.records(&row)?;
        let at = records.binary_search_by(|(other, _)| (*other).cmp(key));
        Ok(at.ok().map(|at| Bytes::copy_from_slice(records[at].1)))
    }

    /// The place from which on rows have what is not below `from`.
    fn first_row(self, from: &[u8]) -> Result<Cow<'_, [u8]>, StorageError> {
        if self.is_bundled(from)
            && let Some((row, _)) = self.holding(from)?
        {
            return Ok(row.to_vec().into());
        }
        Ok(self.row_key(from).into_owned().into())
    }

    /// Records with `from <= key < to`, ascending, at most `limit`. Ends at the first error: after one sled may
    /// return it for ever.
    pub(super) fn range(
        self,
        bounds: (&[u8], &[u8]),
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        let mut found = Found::none(bounds, limit);
        let (from, to) = bounds;
        if !found.wants_more() {
            return Ok(found.records);
        }
        for row in self.sled.range(self.first_row(from)?..self.row_key(to)) {
            let row = read(row)?;
            let last = found.records.last().map(|(key, _)| key.clone());
            let is_new = |(key, _): &Record| last.as_ref().is_none_or(|last| *key > last);
            let mut new = self.records(&row)?.into_iter().filter(is_new);
            if !new.all(|record| found.take(record)) {
                break;
            }
        }
        Ok(found.records)
    }

    /// Like [`Self::range`], descending.
    pub(super) fn range_back(
        self,
        bounds: (&[u8], &[u8]),
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        let mut found = Found::none(bounds, limit);
        let (from, to) = bounds;
        if !found.wants_more() {
            return Ok(found.records);
        }
        let first = self.first_row(from)?;
        let mut end = IVec::from(&*self.row_key(to));
        while first[..] < end[..] {
            let row = self.sled.range(&first[..]..&end[..]).next_back();
            let Some(row) = read(row.transpose())? else {
                break;
            };
            let mut records = self.records(&row)?.into_iter().rev();
            if !records.all(|record| found.take(record)) {
                break;
            }
            end = row.0;
        }
        Ok(found.records)
    }

    /// How rows change with these records, whose keys rise and which may be in bundles. For the one thread
    /// that writes.
    fn changed(self, mut changes: &[Change]) -> Result<Vec<RowChange>, StorageError> {
        let fit = |(key, value): &Change| bundle::is_fit(key, value.unwrap_or_default());
        if !changes.iter().all(fit) {
            return Err(StorageError::Unusable(format!(
                "refused to write a record to the {} tree that cannot stand in a bundle",
                self.tree.name()
            )));
        }
        let mut changed = Vec::new();
        let mut known = None;
        while !changes.is_empty() {
            let row = known.take();
            let (row, here, of_next) = caught(|| self.group(row, changes))?;
            known = of_next;
            let row = row.as_ref().map(|(key, value)| (&key[..], &value[..]));
            let (of_row, others) = changes.split_at(here);
            changed.extend(bundle::changed(row, of_row).map_err(self.malformed())?);
            changes = others;
        }
        Ok(changed)
    }

    /// The row of the first change, how many of them it has, and the row of the one after these if that is known. What
    /// changes often begins a row of its own: that is looked for first, being cheaper.
    fn group(
        self,
        known: Option<Row>,
        changes: &[Change],
    ) -> Result<(Option<Row>, usize, Option<Row>), StorageError> {
        let (first, rest) = changes.split_first().expect("there is a change");
        let mut row = known;
        if row.is_none() {
            row = self.own(first.0)?;
        }
        if row.is_none() {
            row = self.holding(first.0)?;
        }
        let Some((second, _)) = rest.first() else {
            return Ok((row, 1, None));
        };
        if let Some(other) = self.own(second)? {
            return Ok((row, 1, Some(other)));
        }
        let begins = bundle::row_key(first.0);
        let end = self.next(row.as_ref().map_or(&begins, |(key, _)| &key[..]))?;
        let is_before = |key: &[u8]| end.as_ref().is_none_or(|end| *bundle::row_key(key) < **end);
        let more = rest.partition_point(|(key, _)| is_before(key));
        Ok((row, 1 + more, None))
    }
}

/// What a range has found so far.
struct Found<'a> {
    bounds: (&'a [u8], &'a [u8]),
    limit: usize,
    records: Vec<(Bytes, Bytes)>,
}

impl<'a> Found<'a> {
    fn none(bounds: (&'a [u8], &'a [u8]), limit: usize) -> Self {
        Self {
            bounds,
            limit,
            records: Vec::new(),
        }
    }

    fn wants_more(&self) -> bool {
        self.bounds.0 < self.bounds.1 && self.records.len() < self.limit
    }

    /// Takes a record if it is between the bounds. Says whether it wants more.
    fn take(&mut self, (key, value): Record) -> bool {
        let (from, to) = self.bounds;
        if from <= key && key < to {
            let record = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            self.records.push(record);
        }
        self.wants_more()
    }
}

impl Engine {
    /// Operations for these changes of records, in one transaction.
    pub(super) fn put_records(
        &self,
        changes: &[storage::Change],
        operations: &mut Vec<Operation>,
    ) -> Result<(), StorageError> {
        for tree in Tree::ALL {
            let number = STATE + tree as usize;
            let rows = Rows::new(tree, &self.trees[number], self.has_bundles());
            let of_tree = changes.iter().filter(|change| change.tree == tree);
            let (mut shared, alone): (Vec<_>, Vec<_>) =
                of_tree.partition(|change| rows.is_bundled(&change.key));
            self.put_sentinels(tree, &alone, operations)?;
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
            rows.changed(&changes)?.into_iter().for_each(put);
        }
        Ok(())
    }

    /// Operations for the sentinels that come and go with these records, which have rows of their own.
    fn put_sentinels(
        &self,
        tree: Tree,
        changes: &[&storage::Change],
        operations: &mut Vec<Operation>,
    ) -> Result<(), StorageError> {
        if changes
            .iter()
            .any(|change| sentinels::is_key(tree, &change.key))
        {
            return Err(StorageError::Unusable(format!(
                "refused to write a record to the {} tree under the key of a sentinel",
                tree.name()
            )));
        }
        if self.has_sentinels() {
            let number = STATE + tree as usize;
            let rows = changes.iter();
            let rows = rows.map(|change| (&change.key[..], change.value.is_some()));
            let changed = caught(|| self.sentinels.changed((tree, &self.trees[number]), rows))?;
            operations.extend(changed.into_iter().map(|(key, value)| (number, key, value)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{META, SledReader, layout};
    use super::*;
    use crate::storage::StateReader as _;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread::ScopedJoinHandle;

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
    fn a_store_of_the_first_format_has_a_row_for_each_record_as_before() {
        let directory = tempfile::tempdir().unwrap();
        let first = 1_u32.to_be_bytes();
        let new = engine(&directory);
        new.trees[META].insert("format", &first).unwrap();
        new.flush().unwrap();
        drop(new);
        let mut engine = Engine::open(directory.path(), 8 << 20).unwrap();
        engine.migrate().unwrap();
        let mut keys: Vec<Vec<u8>> = (0..4).flat_map(clients).collect();
        keys.push([b"r", &[0xff; 9][..]].concat());
        let reader = engine.reader();
        for tree in Tree::ALL {
            let changes: Vec<_> = keys.iter().map(|key| put(tree, key, 100)).collect();
            write(&engine, &changes);
            let rows = engine.trees[STATE + tree as usize].iter().keys();
            let rows: Vec<Vec<u8>> = rows.map(|key| key.unwrap().to_vec()).collect();
            assert_eq!(rows, keys);
            let found = reader.range(tree, b"", b"z", 999).unwrap();
            assert!(found.iter().map(|(key, _)| &key[..]).eq(&keys));
            for key in &keys {
                assert!(reader.get(tree, key).unwrap().is_some());
            }
        }
        assert_eq!(engine.trees[META].get("format").unwrap().unwrap(), first);
    }

    #[test]
    fn what_cannot_stand_in_a_bundle_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let engine = engine(&directory);
        let refused = |change: storage::Change| {
            let put = engine.put_records(&[change], &mut Vec::new());
            matches!(put, Err(StorageError::Unusable(_)))
        };
        assert!(!refused(put(Tree::Users, &[b'a'; 255], 1)));
        assert!(refused(put(Tree::Users, &[b'a'; 256], 1)));
        let mut marked = put(Tree::Users, b"a", 1);
        marked.value = Some(Bytes::from_static(&[0xbd]));
        assert!(refused(marked));
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
        let (newest, got) = (AtomicU64::new(0), AtomicU64::new(0));
        let groups = || {
            let newest = || newest.load(Ordering::Acquire);
            std::iter::repeat_with(newest).take_while(|newest| *newest < GROUPS)
        };
        let gets = |reader: SledReader| {
            let published = groups().filter(|group| *group > 0);
            for (group, n) in published.zip((0..STILL).cycle()) {
                let found = reader.get(tree, &key(group, n)).unwrap();
                assert!(found.is_some(), "{n} of {group}");
                got.fetch_add(1, Ordering::AcqRel);
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
                let is_over = || readers.iter().any(ScopedJoinHandle::is_finished);
                while got.load(Ordering::Acquire) < group && group < GROUPS && !is_over() {
                    std::thread::yield_now();
                }
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
