//! The records of the state in the rows of sled: which share one, and how they are found (see [`bundle`]).
//!
//! ORDER: one thread writes, and a write is one transaction, so that a reader finds the row of a key in the state
//! before it or after it. A record only ever moves to a later row; a reader that goes from row to row meanwhile
//! may meet it twice, and passes over it.

use super::bundle::{self, Change, Malformed, RowChange};
use super::{Engine, Operation, STATE, unreadable};
use crate::storage::{StorageError, Tree};
use bytes::Bytes;
use sled::IVec;

const UNREADABLE: &str = "cannot read the state in";

/// Trees whose rows may be bundles.
fn has_bundles(tree: Tree) -> bool {
    tree != Tree::Inboxes
}

/// Whether a record shares a row with others if it is small. Of the sessions those that come before the replies, which are
/// groups already; so the row of a key that may be in a bundle is never one of the others.
fn is_bundled(tree: Tree, key: &[u8]) -> bool {
    has_bundles(tree) && (tree != Tree::Sessions || key < &b"r"[..])
}

fn malformed(tree: Tree) -> impl Fn(Malformed) -> StorageError {
    move |what| {
        let name = tree.name();
        StorageError::Damaged(format!("cannot read the state: a bundle of {name}: {what}"))
    }
}

/// The row that has this key, if any has.
fn row_of(rows: &sled::Tree, key: &[u8]) -> Result<Option<(IVec, IVec)>, StorageError> {
    if let Some(value) = rows.get(key).map_err(unreadable(UNREADABLE))? {
        return Ok(Some((key.into(), value)));
    }
    let before = rows.range(..key).next_back().transpose();
    before.map_err(unreadable(UNREADABLE))
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
    let Some((row, value)) = row_of(rows, key)? else {
        return Ok(None);
    };
    let records = bundle::records(&row, &value).map_err(malformed(tree))?;
    let at = records.binary_search_by(|(other, _)| (*other).cmp(key));
    Ok(at.ok().map(|at| Bytes::copy_from_slice(records[at].1)))
}

/// Records with `from <= key < to` in this direction, at most `limit`. Ends at the first error: after one sled may return it for ever.
pub(super) fn range(
    tree: Tree,
    rows: &sled::Tree,
    (from, to): (&[u8], &[u8]),
    limit: usize,
    back: bool,
) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
    let mut found: Vec<(Bytes, Bytes)> = Vec::new();
    if from >= to {
        return Ok(found);
    }
    let first = match has_bundles(tree) {
        true => row_of(rows, from)?,
        false => None,
    };
    let first = first.map_or_else(|| from.into(), |(row, _)| row);
    let mut range = rows.range::<&[u8], _>(&first[..]..to);
    while found.len() < limit {
        let row = if back {
            range.next_back()
        } else {
            range.next()
        };
        let Some(row) = row else {
            break;
        };
        let (row, value) = row.map_err(unreadable(UNREADABLE))?;
        let mut records = match has_bundles(tree) {
            true => bundle::records(&row, &value).map_err(malformed(tree))?,
            false => vec![(&row[..], &value[..])],
        };
        if back {
            records.reverse();
        }
        for (key, value) in records {
            let is_next = |last: &Bytes| if back { key < last } else { key > last };
            let next = found.last().is_none_or(|(last, _)| is_next(last));
            if found.len() < limit && next && from <= key && key < to {
                found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            }
        }
    }
    Ok(found)
}

impl Engine {
    /// Operations for these changes of records, in one transaction.
    pub(super) fn put_records(
        &self,
        changes: &[crate::storage::Change],
        operations: &mut Vec<Operation>,
    ) -> Result<(), StorageError> {
        let marked = |value: &Bytes| value.first() == Some(&bundle::MARK);
        if changes.iter().any(|c| c.value.as_ref().is_some_and(marked)) {
            let what = "refused to write a record that begins like a bundle";
            return Err(StorageError::Unusable(what.into()));
        }
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
        let rows = &self.trees[STATE + tree as usize];
        let mut changed = Vec::new();
        let mut next = match changes.first() {
            Some((key, _)) => row_of(rows, key)?,
            None => None,
        };
        while !changes.is_empty() {
            let row = next.take();
            let mut here = 1;
            for (key, _) in &changes[1..] {
                let other = row_of(rows, key)?;
                if other.as_ref().map(|(key, _)| key) != row.as_ref().map(|(key, _)| key) {
                    next = other;
                    break;
                }
                here += 1;
            }
            let row = row.as_ref().map(|(key, value)| (&key[..], &value[..]));
            let (of_row, others) = changes.split_at(here);
            changed.extend(bundle::changed(row, of_row).map_err(malformed(tree))?);
            changes = others;
        }
        Ok(changed)
    }
}
