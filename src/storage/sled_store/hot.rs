//! Hot records: what one slice after the other changes is written together, in few rows beside the state's.
//!
//! A slice changes two kinds of records: those that it writes for good (a full block of an inbox, a full group of
//! replies), and those of whoever is busy, an inbox's bounds or a client's, which every slice changes again. With 100
//! senders and 100 recipients the latter are two of five, and each would cost what a row of sled's costs, for a value that
//! the next slice replaces. So what a slice changes that the slice before it has changed too goes into the *hot rows*,
//! one record after the other, and the row in its tree stays as it was. A slice that does not change a hot record writes it
//! to its tree. Therefore the hot rows hold nothing but what the last slice has changed, which bounds them by what
//! it would have written anyway. They are written in its transaction.
//!
//! This is a differential file (Severance and Lohman, 1976) of what changes often, small enough to be written whole. It is
//! held in memory too: a reader looks there first.
//!
//! ORDER: readers take what is here BEFORE they look into the trees, and a record leaves it AFTER the transaction that
//! writes it to its tree. So one that moves meanwhile is met, as it is in both places; no removal is hot. Of one record
//! a reader never sees an older value than before; of two it may see what a slice has made of the one and not yet of the other.

use super::{Engine, META, Operation, bundle, unreadable};
use crate::limits::{BLOCK_BYTES_MAX, HOT_RECORD_BYTES_MAX};
use crate::storage::guard::caught;
use crate::storage::migrations::{HOT_KEY, HOT_ROWS};
use crate::storage::recovery::{Fault, Source as _};
use crate::storage::{Change, Slice, StorageError, Tree};
use crate::types::Index;
use bytes::Bytes;
use sled::IVec;
use std::collections::{BTreeMap, HashSet};
use std::ops::Bound::{Excluded, Included};
use std::sync::{Arc, PoisonError, RwLock};

/// The first byte of a row of hot records.
const FORMAT: u8 = 1;
/// Then come the number of rows (u8) and the index of the slice (u64).
const ROW_HEAD_BYTES: usize = 10;
/// Before each record: its tree (u8), length of its key (u16) and of its value (u16).
const HEAD_BYTES: usize = 5;
const _: () = assert!(
    ROW_HEAD_BYTES + HEAD_BYTES + HOT_RECORD_BYTES_MAX <= BLOCK_BYTES_MAX / 2,
    "a row that has no room for another record is half full"
);
/// All hot records, with their heads: every row but the last is more than half full, so that these find room in all rows.
const BYTES_MAX: usize = (HOT_ROWS as usize - 1) * (BLOCK_BYTES_MAX / 2 - ROW_HEAD_BYTES);

type Records = [BTreeMap<Bytes, Bytes>; Tree::ALL.len()];
type Keys = [HashSet<Bytes>; Tree::ALL.len()];
type Pairs = Vec<(Bytes, Bytes)>;

/// The hot records of a store, shared with its readers.
#[derive(Clone, Default)]
pub(super) struct Hot(Arc<RwLock<State>>);

#[derive(Default)]
struct State {
    records: Records,
    /// What the last slice has changed. Of an open it is what is hot.
    changed: Keys,
    /// The rows that there are.
    rows: usize,
    /// What is wrong with them.
    damage: Option<String>,
}

/// A slice, parted.
pub(super) struct Parted {
    /// What goes to the trees.
    cold: Vec<Change>,
    /// What is hot when it is written.
    next: State,
}

/// Which way a range goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

impl Hot {
    fn read<T>(&self, read: impl FnOnce(&Records) -> T) -> Result<T, StorageError> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match &state.damage {
            None => Ok(read(&state.records)),
            Some(damage) => Err(StorageError::Damaged(damage.clone())),
        }
    }

    /// What is wrong with the hot rows.
    pub(super) fn damage(&self) -> Option<String> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        state.damage.clone()
    }

    /// One record, if it is hot.
    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.read(|records| records[tree as usize].get(key).cloned())
    }

    /// The first hot records of a range, or the last ones, the last one first.
    pub(super) fn range(
        &self,
        tree: Tree,
        (from, to): (&[u8], &[u8]),
        limit: usize,
        direction: Direction,
    ) -> Result<Pairs, StorageError> {
        if from >= to {
            return Ok(Vec::new());
        }
        self.read(|records| {
            let range = records[tree as usize].range::<[u8], _>((Included(from), Excluded(to)));
            let owned = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
            match direction {
                Direction::Up => range.take(limit).map(owned).collect(),
                Direction::Down => range.rev().take(limit).map(owned).collect(),
            }
        })
    }

    /// Parts what a slice changes. For the one thread that writes.
    fn part(&self, changes: &[Change]) -> Parted {
        let now = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut next = State::default();
        let mut cold = Vec::new();
        let mut bytes = 0;
        for change in changes {
            let tree = change.tree as usize;
            let was_changed = now.changed[tree].contains(&change.key);
            next.changed[tree].insert(change.key.clone());
            let hot = &mut next.records[tree];
            match &change.value {
                Some(value) if was_changed && has_room(change, value, &mut bytes) => {
                    hot.insert(change.key.clone(), value.clone());
                }
                _ => {
                    hot.remove(&change.key);
                    cold.push(change.clone());
                }
            }
        }
        for tree in Tree::ALL {
            for (key, value) in &now.records[tree as usize] {
                if !next.changed[tree as usize].contains(key) {
                    cold.push(Change {
                        tree,
                        key: key.clone(),
                        value: Some(value.clone()),
                    });
                }
            }
        }
        Parted { cold, next }
    }

    /// The hot rows as the slice with this index leaves them: one at least, that none may be missed.
    fn put(&self, parted: &mut Parted, applied: Index, operations: &mut Vec<Operation>) {
        let rows = encoded(&parted.next.records, applied);
        let before = self.0.read().unwrap_or_else(PoisonError::into_inner).rows;
        parted.next.rows = rows.len();
        let gone = rows.len()..before;
        let rows = rows.into_iter().map(|row| Some(IVec::from(row)));
        let numbered = (1..).zip(rows.chain(gone.map(|_| None)));
        operations.extend(numbered.map(|(number, row)| (META, row_key(number), row)));
    }
}

/// May this one be hot beside so many bytes of others? What its tree might not take is not kept from it.
fn has_room(change: &Change, value: &Bytes, bytes: &mut usize) -> bool {
    let record = change.key.len() + value.len();
    let sum = *bytes + HEAD_BYTES + record;
    let has =
        record <= HOT_RECORD_BYTES_MAX && sum <= BYTES_MAX && bundle::is_fit(&change.key, value);
    if has {
        *bytes = sum;
    }
    has
}

fn row_key(number: u8) -> IVec {
    IVec::from([HOT_KEY, &[number]].concat())
}

/// The rows of these records.
fn encoded(records: &Records, applied: Index) -> Vec<Vec<u8>> {
    let begun = || {
        let mut row = Vec::with_capacity(BLOCK_BYTES_MAX);
        row.extend([FORMAT, 0]);
        row.extend(applied.0.to_be_bytes());
        row
    };
    let (mut rows, mut row) = (Vec::new(), begun());
    for tree in Tree::ALL {
        for (key, value) in &records[tree as usize] {
            if row.len() + HEAD_BYTES + key.len() + value.len() > BLOCK_BYTES_MAX {
                rows.push(std::mem::replace(&mut row, begun()));
            }
            row.push(tree as u8);
            row.extend_from_slice(&(key.len() as u16).to_be_bytes());
            row.extend_from_slice(&(value.len() as u16).to_be_bytes());
            row.extend_from_slice(key);
            row.extend_from_slice(value);
        }
    }
    rows.push(row);
    let count = rows.len() as u8;
    for row in &mut rows {
        row[1] = count;
    }
    rows
}

/// The records of a row of this slice, put to the others. Returns how many rows there are.
fn decode(row: &[u8], applied: Index, records: &mut Records) -> Result<u8, &'static str> {
    let Some((&[FORMAT, count, ref slice @ ..], mut rest)) =
        row.split_first_chunk::<ROW_HEAD_BYTES>()
    else {
        return Err("a row has an unknown format");
    };
    if *slice != applied.0.to_be_bytes() {
        return Err("a row is of another slice");
    }
    while !rest.is_empty() {
        let cut = "a record is cut off";
        let ([tree, a, b, c, d], bytes) = rest.split_first_chunk::<HEAD_BYTES>().ok_or(cut)?;
        let tree = records.get_mut(usize::from(*tree)).ok_or("no such tree")?;
        let (key, bytes) = bytes
            .split_at_checked(u16::from_be_bytes([*a, *b]).into())
            .ok_or(cut)?;
        let (value, bytes) = bytes
            .split_at_checked(u16::from_be_bytes([*c, *d]).into())
            .ok_or(cut)?;
        if tree.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err("its keys do not rise");
        }
        tree.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        rest = bytes;
    }
    Ok(count)
}

/// Stored records, and hot ones before those with the same key.
pub(super) fn merged(hot: Pairs, stored: Pairs, limit: usize, direction: Direction) -> Pairs {
    if hot.is_empty() {
        return stored;
    }
    let mut all: BTreeMap<Bytes, Bytes> = stored.into_iter().collect();
    all.extend(hot);
    match direction {
        Direction::Up => all.into_iter().take(limit).collect(),
        Direction::Down => all.into_iter().rev().take(limit).collect(),
    }
}

impl Engine {
    /// Operations for what a slice changes, which has each key once. In a store of an older format all of it goes to the
    /// trees.
    pub(super) fn put_slice(
        &self,
        slice: &Slice,
        operations: &mut Vec<Operation>,
    ) -> Result<Option<Parted>, StorageError> {
        if !self.has_hot_records() {
            self.put_records(&slice.changes, operations)?;
            return Ok(None);
        }
        if let Some(damage) = self.hot.damage() {
            return Err(StorageError::Damaged(damage));
        }
        let mut parted = self.hot.part(&slice.changes);
        self.put_records(&parted.cold, operations)?;
        self.hot.put(&mut parted, slice.applied, operations);
        Ok(Some(parted))
    }

    /// ORDER: AFTER the transaction with these operations.
    pub(super) fn written(&self, parted: Option<Parted>) {
        if let Some(parted) = parted {
            let mut state = self.hot.0.write().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::replace(&mut *state, parted.next);
            drop(state);
            drop(before);
        }
    }

    /// The hot records that the last slice has left. Rows that do not parse, or are not all there, are damage of the state,
    /// and the log can still be read.
    pub(super) fn load_hot(&self) -> Result<(), StorageError> {
        let mut state = State::default();
        match caught(|| self.read_hot(&mut state)) {
            Ok(()) => {}
            Err(StorageError::Damaged(what)) => {
                let damage = format!("cannot read the state: the hot records: {what}");
                state.damage = Some(damage);
            }
            Err(error) => return Err(error),
        }
        for tree in Tree::ALL {
            state.changed[tree as usize] = state.records[tree as usize].keys().cloned().collect();
        }
        *self.hot.0.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    fn read_hot(&self, state: &mut State) -> Result<(), StorageError> {
        let applied = match self.applied() {
            Ok(Some(slice)) => slice.applied,
            // What is wrong with that record is told by who opens the store.
            Ok(None) | Err(Fault::Found(_)) => return Ok(()),
            Err(Fault::Failed(error)) => return Err(error),
        };
        let mut counted = None;
        for number in 1..=HOT_ROWS {
            let row = self.trees[META].get(row_key(number));
            let row = row.map_err(unreadable("cannot read"))?;
            let decoded = row
                .ok_or("a row is missing")
                .and_then(|row| decode(&row, applied, &mut state.records))
                .and_then(|count| match counted {
                    Some(counted) if counted != count => Err("rows disagree on their number"),
                    _ => Ok(count),
                });
            let count = decoded.map_err(|what| StorageError::Damaged(what.to_owned()))?;
            counted = Some(count);
            state.rows += 1;
            if number == count {
                return Ok(());
            }
        }
        let what = "their number is none that there can be";
        Err(StorageError::Damaged(what.to_owned()))
    }
}

#[cfg(test)]
mod tests;
