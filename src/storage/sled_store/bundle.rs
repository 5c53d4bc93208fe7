//! Small records that are neighbours share a row of sled: a *bundle*. Pure.
//!
//! A leaf of sled has 8 to 16 rows, whatever their size. With a million accounts of four small records each that
//! made 338,000 leaves: sled's table of them was most of a replica's memory, and its cleaning of
//! segments, which moves leaf by leaf, did not keep up. So rows of the trees that have small records are leaves of a B-tree of our own
//! (Bayer and McCreight, 1972), as far as that has leaves.
//!
//! A row is either one record, under its key and with its value as they are, or a bundle, whose key is not above
//! that of its first record. All records from a row's key on, up to the next row's, are in that
//! row. So the row of a key is the last one that is not above it. A record that is not small has a row of its own, and
//! keeps it when it shrinks: what changes often is rewritten alone.

use crate::limits::{BUNDLE_BYTES_MAX, BUNDLED_RECORD_BYTES_MAX};
use sled::IVec;

/// A bundle's first byte; no value of a record begins with it.
pub(super) const MARK: u8 = 0xbd;
/// Mark and number of records (u16).
const HEAD_BYTES: usize = 3;
/// Before each record: length of its key (u8) and of its value (u16).
const LENGTHS_BYTES: usize = 3;

/// A key and its value.
pub(in crate::storage) type Record<'a> = (&'a [u8], &'a [u8]);
/// A key and its new value, if it is to have one.
pub(in crate::storage) type Change<'a> = (&'a [u8], Option<&'a [u8]>);
/// A row of sled to put, or to remove.
pub(in crate::storage) type RowChange = (IVec, Option<IVec>);

/// It begins like a bundle and is none: what is wrong.
pub(in crate::storage) type Malformed = &'static str;

/// The records in a row, ascending.
pub(in crate::storage) fn records<'a>(
    row: &'a [u8],
    value: &'a [u8],
) -> Result<Vec<Record<'a>>, Malformed> {
    if value.first() != Some(&MARK) {
        return Ok(vec![(row, value)]);
    }
    let (count, mut rest) = value[1..].split_first_chunk().ok_or("it has no head")?;
    let count = usize::from(u16::from_be_bytes(*count));
    let mut records: Vec<Record> = Vec::with_capacity(count.min(value.len() / LENGTHS_BYTES));
    while let Some(([key_bytes, value_bytes @ ..], bytes)) =
        rest.split_first_chunk::<LENGTHS_BYTES>()
    {
        let cut = "a record is cut off";
        let (key, bytes) = bytes.split_at_checked((*key_bytes).into()).ok_or(cut)?;
        let value_bytes = u16::from_be_bytes(*value_bytes).into();
        let (value, bytes) = bytes.split_at_checked(value_bytes).ok_or(cut)?;
        if value.first() == Some(&MARK) {
            return Err("a bundle in a bundle");
        }
        if records
            .last()
            .map_or(key < row, |(before, _)| key <= *before)
        {
            return Err("its keys do not rise");
        }
        records.push((key, value));
        rest = bytes;
    }
    if !rest.is_empty() || records.len() != count || count == 0 {
        return Err("it has another number of records");
    }
    Ok(records)
}

/// How a row changes with its records. `row` is none where the changes are of keys before the first one. Keys rise, and belong to this row.
pub(in crate::storage) fn changed(
    row: Option<Record>,
    changes: &[Change],
) -> Result<Vec<RowChange>, Malformed> {
    let before = row.map_or(Ok(Vec::new()), |(key, value)| records(key, value))?;
    let last = before.last().map(|(key, _)| *key);
    let appended = changes.first().map(|(key, _)| *key) > last;
    let after = merged(&before, changes);
    let mut rows = Vec::new();
    for together in partitioned(&after, appended) {
        let first = together[0];
        let begins = row.filter(|_| rows.is_empty() && is_small(first));
        rows.push(row_of(begins.map_or(first.0, |(key, _)| key), together));
    }
    let Some((key, value)) = row else {
        return Ok(rows);
    };
    if rows.first().is_none_or(|(first, _)| first != key) {
        rows.push((key.into(), None));
    }
    rows.retain(|(of, new)| of != key || new.as_deref() != Some(value));
    Ok(rows)
}

fn merged<'a>(before: &[Record<'a>], changes: &[Change<'a>]) -> Vec<Record<'a>> {
    let mut after = Vec::with_capacity(before.len() + changes.len());
    let mut rest = before;
    for (key, value) in changes {
        let kept = rest.partition_point(|(other, _)| other < key);
        after.extend_from_slice(&rest[..kept]);
        rest = &rest[kept..];
        rest = rest.split_first().map_or(
            rest,
            |(first, others)| {
                if first.0 == *key { others } else { rest }
            },
        );
        after.extend(value.map(|value| (*key, value)));
    }
    after.extend_from_slice(rest);
    after
}

fn bytes(record: Record) -> usize {
    LENGTHS_BYTES + record.0.len() + record.1.len()
}

fn is_small(record: Record) -> bool {
    record.0.len() <= usize::from(u8::MAX) && bytes(record) <= BUNDLED_RECORD_BYTES_MAX
}

/// Which records are a row together. What was appended fills one row after the other; else what is too much for
/// one is parted evenly, so that there is room for more.
fn partitioned<'a, 'r>(
    records: &'r [Record<'a>],
    appended: bool,
) -> impl Iterator<Item = &'r [Record<'a>]> {
    let runs = records.chunk_by(|a, b| is_small(*a) && is_small(*b));
    runs.flat_map(move |run| {
        let all: usize = run.iter().copied().map(bytes).sum();
        let room = BUNDLE_BYTES_MAX - HEAD_BYTES;
        let most = if appended {
            room
        } else {
            all.div_ceil(all.div_ceil(room).max(1))
        };
        parts(run, most)
    })
}

/// Consecutive parts of at most so many bytes, at least one record each.
fn parts<'a, 'r>(mut run: &'r [Record<'a>], most: usize) -> impl Iterator<Item = &'r [Record<'a>]> {
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = run.iter().take_while(|record| {
            sum += bytes(**record);
            sum <= most
        });
        let end = fits.count().max(1);
        let (part, rest) = run.split_at_checked(end)?;
        run = rest;
        Some(part)
    })
}

fn row_of(key: &[u8], together: &[Record]) -> RowChange {
    if let [(only, value)] = together
        && *only == key
    {
        return (key.into(), Some((*value).into()));
    }
    let mut row = Vec::with_capacity(BUNDLE_BYTES_MAX);
    row.push(MARK);
    row.extend_from_slice(&(together.len() as u16).to_be_bytes());
    for (key, value) in together {
        row.push(key.len() as u8);
        row.extend_from_slice(&(value.len() as u16).to_be_bytes());
        row.extend_from_slice(key);
        row.extend_from_slice(value);
    }
    (key.into(), Some(row.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

    /// What the store does with one transaction's changes.
    fn apply(rows: &mut Rows, changes: &[(Vec<u8>, Option<Vec<u8>>)]) {
        let mut sorted: Vec<Change> = changes
            .iter()
            .map(|(key, value)| (&key[..], value.as_deref()))
            .collect();
        sorted.sort();
        let row_of = |key: &[u8]| {
            let row = rows.range(..=key.to_vec()).next_back();
            row.map(|(key, value)| (&key[..], &value[..]))
        };
        let same = |a: &Change, b: &Change| row_of(a.0) == row_of(b.0);
        let groups = sorted.chunk_by(same);
        let changed: Vec<RowChange> = groups
            .flat_map(|group| changed(row_of(group[0].0), group).unwrap())
            .collect();
        for (key, value) in changed {
            match value {
                Some(value) => rows.insert(key.to_vec(), value.to_vec()),
                None => rows.remove(&key[..]),
            };
        }
    }

    fn all(rows: &Rows) -> Vec<Record<'_>> {
        let rows = rows.iter();
        rows.flat_map(|(key, value)| records(key, value).unwrap())
            .collect()
    }

    /// No row is too large, and no record stands where it would not be looked for.
    fn check(rows: &Rows, model: &Rows) {
        let expected = model.iter().map(|(key, value)| (&key[..], &value[..]));
        assert_eq!(all(rows), expected.collect::<Vec<_>>());
        let mut keys = rows.keys().skip(1);
        for (row, value) in rows {
            let records = records(row, value).unwrap();
            let next = keys.next();
            assert!(next.is_none_or(|next| records.iter().all(|(key, _)| *key < &next[..])));
            if value[0] == MARK {
                assert!(value.len() <= BUNDLE_BYTES_MAX, "{} bytes", value.len());
                assert!(records.iter().all(|record| is_small(*record)));
            }
        }
    }

    fn random(state: &mut u64, below: u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (*state >> 33) % below
    }

    #[test]
    fn rows_hold_what_was_put_into_them_whatever_its_size() {
        for seed in 0..40 {
            let (mut rows, mut model) = (Rows::new(), Rows::new());
            let mut state = seed;
            let keys = [10, 200, 3_000][seed as usize % 3];
            for _ in 0..150 {
                let changes: Vec<(Vec<u8>, Option<Vec<u8>>)> = (0..random(&mut state, 30))
                    .map(|_| {
                        let key = random(&mut state, keys).to_be_bytes();
                        let most = [40, 200, 2_000][random(&mut state, 3) as usize];
                        let bytes = random(&mut state, most) as usize;
                        let value = (random(&mut state, 3) > 0).then(|| vec![1; bytes + 1]);
                        (key[2..].to_vec(), value)
                    })
                    .collect::<BTreeMap<_, _>>()
                    .into_iter()
                    .collect();
                apply(&mut rows, &changes);
                for (key, value) in changes {
                    match value {
                        Some(value) => model.insert(key, value),
                        None => model.remove(&key),
                    };
                }
                check(&rows, &model);
            }
        }
    }

    fn put(n: u64, bytes: usize) -> (Vec<u8>, Option<Vec<u8>>) {
        (n.to_be_bytes().to_vec(), Some(vec![1; bytes]))
    }

    #[test]
    fn rows_are_full_where_records_come_in_order_and_half_full_where_they_do_not() {
        for (times, least) in [(1, 90), (7_919, 45)] {
            let mut rows = Rows::new();
            for n in 0..2_000 {
                apply(&mut rows, &[put(n * times % 2_003, 100)]);
            }
            let bytes: usize = rows.values().map(Vec::len).sum();
            let full = 100 * bytes / (rows.len() * BUNDLE_BYTES_MAX);
            assert!(full >= least, "rows are full by {full} %");
        }
    }

    #[test]
    fn a_record_that_grew_is_alone_and_its_neighbours_are_not_written_again() {
        let mut rows = Rows::new();
        apply(&mut rows, &[put(1, 50), put(2, 50), put(3, 50), put(4, 50)]);
        assert_eq!(rows.len(), 1);
        apply(&mut rows, &[put(2, 4_000)]);
        assert_eq!(rows.len(), 3);
        let key = 2_u64.to_be_bytes();
        let large = vec![1; 4_000];
        for bytes in [4_001, 60, 3_999] {
            let (_, value) = put(2, bytes);
            let row = rows[&key[..]].clone();
            let changed = changed(Some((&key, &row)), &[(&key, value.as_deref())]).unwrap();
            assert!(
                changed == [(IVec::from(&key), value.map(IVec::from))],
                "{bytes}"
            );
        }
        let next = [0, 0, 0, 0, 0, 0, 0, 2, 1];
        let after = changed(Some((&key, &large)), &[(&next, Some(&[1]))]);
        assert_eq!(
            after.unwrap(),
            [(IVec::from(&next), Some(IVec::from(&[1])))]
        );
    }

    #[test]
    fn what_begins_like_a_bundle_and_is_none_is_an_error() {
        let (key, row) = row_of(b"a", &[(b"a", b"one"), (b"b", b"two")]);
        let row = row.unwrap();
        assert_eq!(records(&key, &row).unwrap().len(), 2);
        for end in 1..row.len() {
            assert!(records(&key, &row[..end]).is_err(), "cut at {end}");
        }
        let wrong = |at: usize, byte: u8| {
            let mut row = row.to_vec();
            row[at] = byte;
            records(&key, &row).unwrap_err()
        };
        assert_eq!(wrong(2, 3), "it has another number of records");
        assert_eq!(wrong(3, 200), "a record is cut off");
        assert_eq!(wrong(7, MARK), "a bundle in a bundle");
        assert_eq!(wrong(6, b'c'), "its keys do not rise");
        assert!(records(b"aa", &row).is_err(), "below its row");
        assert!(records(&key, &[MARK, 0, 0]).is_err());
    }
}
