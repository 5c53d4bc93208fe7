//! Small records that are neighbours share a row of sled: a *bundle*. Pure.
//!
//! A leaf of sled has 8 to 16 rows, whatever their size. With a million accounts of four small records each
//! that made 338,000 leaves: sled's table of them was much of a replica's memory, and its cleaning of
//! segments, which moves leaf by leaf, did not keep up. So a row is what a leaf is in a B-tree (Bayer
//! and McCreight, 1972), and sled is the tree above.
//!
//! A row is either one record, or a bundle of records, whose key is not above that of its first one (both as [`row_key`]
//! writes them). All records from
//! a row's key on, up to the next row's, are in that row. So the row that holds a key is the last one that is
//! not above it. A record that is not small has a row of its own, and keeps it when it shrinks, until a new
//! neighbour comes: what changes often is rewritten alone.

use crate::limits::{BUNDLE_BYTES_MAX, BUNDLED_RECORD_BYTES_MAX, STATE_RECORD_BYTES_MAX};
use sled::IVec;
use std::borrow::Cow;

/// A bundle's first byte; no value of a record begins with it.
const MARK: u8 = 0xbd;
/// Mark and number of records (u16).
const HEAD_BYTES: usize = 3;
/// Before each record: length of its key (u8) and of its value (u16).
const LENGTHS_BYTES: usize = 3;
const _: () = assert!(STATE_RECORD_BYTES_MAX <= u16::MAX as usize);

/// A key and its value.
pub(in crate::storage) type Record<'a> = (&'a [u8], &'a [u8]);
/// A key and its new value, if it is to have one.
pub(in crate::storage) type Change<'a> = (&'a [u8], Option<&'a [u8]>);
/// A row of sled to put, or to remove.
pub(in crate::storage) type RowChange = (IVec, Option<IVec>);

/// It begins like a bundle and is none: what is wrong.
pub(in crate::storage) type Malformed = &'static str;

/// Whether a record can be told from a bundle, and stand in one.
pub(in crate::storage) fn is_fit(key: &[u8], value: &[u8]) -> bool {
    u8::try_from(key.len()).is_ok() && value.first() != Some(&MARK)
}

/// The key of a row that begins with this record: the same, but with a zero after each three bytes 0xff on end, which keeps
/// the order. Where four of them follow each other, sled may step from a leaf to the one before
/// for ever, and clients choose their ids.
pub(in crate::storage) fn row_key(key: &[u8]) -> Cow<'_, [u8]> {
    if !key.windows(3).any(|three| three == [0xff; 3]) {
        return Cow::Borrowed(key);
    }
    let mut escaped = Vec::with_capacity(key.len() + key.len() / 3);
    let mut on_end = 0;
    for byte in key {
        escaped.push(*byte);
        on_end = if *byte == 0xff { on_end + 1 } else { 0 };
        if on_end == 3 {
            escaped.push(0);
            on_end = 0;
        }
    }
    Cow::Owned(escaped)
}

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
        let before = records.last();
        if before.map_or(*row_key(key) < *row, |(before, _)| key <= *before) {
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

/// How a row changes with its records. `row` is none where the changes are of keys before the first one. Keys rise,
/// and belong to this row.
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
        let key = begins.map_or_else(|| row_key(first.0), |(key, _)| key.into());
        rows.push((IVec::from(&*key), Some(encoded(&key, together))));
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

/// The records with these changes in their places.
fn merged<'a>(before: &[Record<'a>], changes: &[Change<'a>]) -> Vec<Record<'a>> {
    let mut after = Vec::with_capacity(before.len() + changes.len());
    let mut rest = before;
    for (key, value) in changes {
        let (kept, others) = rest.split_at(rest.partition_point(|(other, _)| other < key));
        after.extend_from_slice(kept);
        let replaced = others.first().is_some_and(|(other, _)| other == key);
        rest = &others[usize::from(replaced)..];
        after.extend(value.map(|value| (*key, value)));
    }
    after.extend_from_slice(rest);
    after
}

fn bytes(record: Record) -> usize {
    LENGTHS_BYTES + record.0.len() + record.1.len()
}

fn is_small(record: Record) -> bool {
    bytes(record) <= BUNDLED_RECORD_BYTES_MAX
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

/// The value of a row: one record under its own key as it is, else a bundle.
fn encoded(row: &[u8], together: &[Record]) -> IVec {
    if let [(only, value)] = together
        && *only == row
    {
        return (*value).into();
    }
    let mut bundle = Vec::with_capacity(BUNDLE_BYTES_MAX);
    bundle.push(MARK);
    bundle.extend_from_slice(&(together.len() as u16).to_be_bytes());
    for (key, value) in together {
        bundle.push(key.len() as u8);
        bundle.extend_from_slice(&(value.len() as u16).to_be_bytes());
        bundle.extend_from_slice(key);
        bundle.extend_from_slice(value);
    }
    bundle.into()
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
        let holding = |key: &[u8]| {
            let row = rows.range(..=row_key(key).to_vec()).next_back();
            row.map(|(key, value)| (&key[..], &value[..]))
        };
        let same = |a: &Change, b: &Change| holding(a.0) == holding(b.0);
        let groups = sorted.chunk_by(same);
        let changed: Vec<RowChange> = groups
            .flat_map(|group| changed(holding(group[0].0), group).unwrap())
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
            assert!(
                next.is_none_or(|next| records.iter().all(|(key, _)| *row_key(key) < next[..]))
            );
            assert!(!row.windows(4).any(|four| four == [0xff; 4]));
            if records.len() > 1 {
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
                        let key = random(&mut state, keys);
                        // Half of them with bytes that a row's key must not have.
                        let high = u64::MAX << if key.is_multiple_of(2) { 63 } else { 16 };
                        let key = (high ^ key).to_be_bytes();
                        let most = [40, 400, 3_000][random(&mut state, 3) as usize];
                        let bytes = random(&mut state, most) as usize;
                        let value = (random(&mut state, 3) > 0).then(|| vec![1; bytes + 1]);
                        (key[1..].to_vec(), value)
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
        for (times, least) in [(1, 90), (0x9e37_79b9_7f4a_7c15, 40)] {
            let mut rows = Rows::new();
            for n in 0..5_000_u64 {
                apply(&mut rows, &[put(n.wrapping_mul(times), 100)]);
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
        let key = b"a";
        let row = encoded(key, &[(b"a", b"one"), (b"b", b"two")]);
        assert_eq!(records(key, &row).unwrap().len(), 2);
        for end in 1..row.len() {
            assert!(records(key, &row[..end]).is_err(), "cut at {end}");
        }
        let wrong = |at: usize, byte: u8| {
            let mut row = row.to_vec();
            row[at] = byte;
            records(key, &row).unwrap_err()
        };
        assert_eq!(wrong(2, 3), "it has another number of records");
        assert_eq!(wrong(3, 200), "a record is cut off");
        assert_eq!(wrong(7, MARK), "a bundle in a bundle");
        assert_eq!(wrong(6, b'c'), "its keys do not rise");
        assert!(records(b"aa", &row).is_err(), "below its row");
        assert!(records(key, &[MARK, 0, 0]).is_err());
    }

    #[test]
    fn a_rows_key_keeps_the_order_and_has_no_four_bytes_of_ones() {
        let mut keys: Vec<Vec<u8>> = vec![Vec::new()];
        for _ in 0..7 {
            let longer = keys
                .iter()
                .flat_map(|key| [0, 1, 0xfe, 0xff].map(|byte| [&key[..], &[byte]].concat()));
            keys = longer.chain([Vec::new()]).collect();
        }
        keys.sort();
        keys.dedup();
        let rows: Vec<Cow<[u8]>> = keys.iter().map(|key| row_key(key)).collect();
        assert!(rows.is_sorted_by(|a, b| a < b));
        assert!(
            rows.iter()
                .all(|row| !row.windows(4).any(|four| four == [0xff; 4]))
        );
    }
}
