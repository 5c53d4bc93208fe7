//! The live bytes of a store, and the cleaning of its segments.
//!
//! sled takes a segment into use again when all of its pages have been written elsewhere. It moves the pages of a
//! segment that is at least half dead by itself, but only one whenever it writes some other page anew, and in the order
//! of the file. A segment has a few pages or thousands, and where those of a million small accounts come first
//! a store under load grows by several times what is written to it. So live bytes are counted, by
//! what sled returns of each row that is replaced, and while the file has many more and grows, pages are written anew for
//! the cleaning alone.

use super::{COMMITS, Engine, LOG, META, STATE, unreadable, unwritten};
use crate::limits;
use crate::storage::StorageError;
use crate::storage::guard::caught;
use crate::types::Index;
use sled::IVec;
use std::time::{Duration, Instant};

/// Live bytes as the trees stand at a slice: index of the slice, of the log's last entry, bytes of the state, of
/// the log, each u64.
pub(super) const LIVE_KEY: &[u8] = b"live";
/// A row that is written for the cleaning's sake.
const TIDY_KEY: &[u8] = b"tidy";
/// sled writes a page anew when it has changed so often, and moves another one then.
const CHANGES_A_PAGE: u64 = 10;

/// By how many bytes of keys and values a write has changed what is live.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Growth {
    pub(super) state: i64,
    pub(super) log: i64,
}

impl Growth {
    pub(super) fn replaced(
        &mut self,
        tree: usize,
        key: &IVec,
        old: Option<&IVec>,
        new: Option<&IVec>,
    ) {
        let bytes =
            |value: Option<&IVec>| value.map_or(0, |value| (key.len() + value.len()) as i64);
        let by = bytes(new) - bytes(old);
        match tree {
            STATE.. => self.state += by,
            LOG | COMMITS => self.log += by,
            _ => {}
        }
    }
}

/// Bytes of keys and values, while the trees stand at a slice.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(in crate::storage) struct Live {
    pub(in crate::storage) applied: Index,
    /// The log's last entry.
    pub(in crate::storage) last: Index,
    pub(in crate::storage) state: u64,
    pub(in crate::storage) log: u64,
}

impl Live {
    pub(super) fn sum(self) -> u64 {
        self.state.saturating_add(self.log)
    }

    pub(super) fn grown(self, by: Growth) -> Self {
        Self {
            state: self.state.saturating_add_signed(by.state),
            log: self.log.saturating_add_signed(by.log),
            ..self
        }
    }

    pub(super) fn value(self) -> Vec<u8> {
        let parts = [self.applied.0, self.last.0, self.state, self.log];
        parts.map(u64::to_be_bytes).concat()
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let (parts, rest) = value.as_chunks::<8>();
        let [applied, last, state, log] = *parts else {
            return None;
        };
        rest.is_empty().then_some(Self {
            applied: Index(u64::from_be_bytes(applied)),
            last: Index(u64::from_be_bytes(last)),
            state: u64::from_be_bytes(state),
            log: u64::from_be_bytes(log),
        })
    }
}

/// How many times as much of the file is dead as where sled keeps up by itself; 0: it does.
fn untidiness(size: u64, live: u64) -> u64 {
    let dead = size.saturating_sub(live.saturating_add(limits::UNTIDY_BYTES_MIN));
    dead.saturating_sub(1) / (live / 5 * 2).max(1)
}

/// When a store is cleaned.
#[derive(Clone, Copy, Default, Debug)]
pub(in crate::storage) struct Tidying {
    size: u64,
    slices_left: u64,
}

impl Tidying {
    /// For how long the store is cleaned beside this slice. Not at all while the file does not grow: it has free
    /// segments then, or will have them.
    pub(super) fn time(&mut self, size: u64, live: u64) -> Duration {
        self.slices_left = if size > self.size {
            limits::TIDY_SLICES
        } else {
            self.slices_left.saturating_sub(1)
        };
        self.size = size;
        let times = untidiness(size, live).min(limits::TIDY_TIMES_MAX);
        let cleans = if self.slices_left > 0 { times } else { 0 };
        Duration::from_millis(limits::TIDY_MS * cleans)
    }
}

impl Engine {
    /// The live bytes as they were kept with this slice, in a store without one none; `None`: a version has written it
    /// that does not count, or the row cannot be read.
    pub(in crate::storage) fn live(
        &self,
        applied: Option<Index>,
    ) -> Result<Option<Live>, StorageError> {
        let Some(applied) = applied else {
            return Ok(Some(Live::default()));
        };
        let read = || {
            let value = self.trees[META].get(LIVE_KEY);
            value.map_err(unreadable("cannot read the state in"))
        };
        match self.named(caught(read)) {
            Ok(value) => {
                let live = value.and_then(|value| Live::parse(&value));
                Ok(live.filter(|live| live.applied == applied))
            }
            Err(StorageError::Damaged(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps them between two slices: after a cut.
    pub(super) fn put_live(&self, live: Live) -> Result<(), StorageError> {
        let put = self.trees[META].insert(LIVE_KEY, live.value());
        put.map_err(unwritten("cannot write"))?;
        Ok(())
    }

    /// Lets sled move pages out of segments that are mostly dead, for about so long: a page has a few hundred
    /// bytes or as many thousand.
    pub(super) fn tidy(&self, time: Duration) -> Result<(), StorageError> {
        let started = Instant::now();
        while started.elapsed() < time {
            self.tidy_page()?;
        }
        Ok(())
    }

    /// One page, if there is one to be moved.
    fn tidy_page(&self) -> Result<(), StorageError> {
        for change in 0..CHANGES_A_PAGE {
            let written = self.trees[META].insert(TIDY_KEY, &change.to_be_bytes());
            written.map_err(unwritten("cannot write"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sled_store::{Operation, STATE};
    use crate::storage::{layout, records};

    const CACHE_BYTES: u64 = 8 << 20;

    fn rows_bytes(engine: &Engine, trees: &[usize]) -> u64 {
        let rows = trees.iter().flat_map(|tree| engine.trees[*tree].iter());
        let rows = rows.map(|row| row.unwrap());
        rows.map(|(key, value)| (key.len() + value.len()) as u64)
            .sum()
    }

    fn put(tree: usize, key: u64, value: Option<Vec<u8>>) -> Operation {
        (tree, IVec::from(&key.to_be_bytes()), value.map(IVec::from))
    }

    #[test]
    fn live_bytes_are_the_sum_of_all_rows_whatever_is_replaced_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        layout::create_store_at(directory.path(), CACHE_BYTES).unwrap();
        let mut engine = Engine::open(directory.path(), CACHE_BYTES).unwrap();
        engine.migrate().unwrap();
        let mut live = Live {
            log: rows_bytes(&engine, &[LOG]),
            ..Live::default()
        };
        for round in 0..200_u64 {
            let value = |n: u64| (!n.is_multiple_of(3)).then(|| vec![7; (n * 31 % 300) as usize]);
            let mut operations: Vec<Operation> = (0..5)
                .map(|n| put(STATE + n as usize % 4, (round * n) % 23, value(round + n)))
                .collect();
            operations.push((META, records::APPLIED_KEY.into(), Some(b"stands".into())));
            live.applied = Index(round);
            let grown = engine.commit(&operations, Some(live)).unwrap();
            live = live.grown(grown);
            assert_eq!(engine.live(Some(Index(round))).unwrap(), Some(live));
            let batch = [
                put(LOG, round, value(round)),
                put(COMMITS, round / 2, value(1)),
            ];
            live = live.grown(engine.write_in_order(&batch).unwrap());
            let trees = [STATE, STATE + 1, STATE + 2, STATE + 3];
            assert_eq!(rows_bytes(&engine, &trees), live.state);
            assert_eq!(rows_bytes(&engine, &[LOG, COMMITS]), live.log);
        }
        assert!(live.state > 0 && live.log > 0);
        let others = engine.live(Some(Index(7))).unwrap();
        assert_eq!(others, None, "who does not count has written a slice");
        assert_eq!(engine.live(None).unwrap(), Some(Live::default()));
        engine.put_live(live).unwrap();
        assert_eq!(engine.live(Some(live.applied)).unwrap(), Some(live));
    }

    /// By how many bytes a file grows in which small pages, mostly dead, come before what is written all the
    /// time.
    fn growth_of_the_file(pages: u64) -> u64 {
        let directory = tempfile::tempdir().unwrap();
        layout::create_store_at(directory.path(), CACHE_BYTES).unwrap();
        let engine = Engine::open(directory.path(), CACHE_BYTES).unwrap();
        let size = || {
            std::fs::metadata(directory.path().join("db"))
                .unwrap()
                .len()
        };
        let mut key = 1_u64;
        for _ in 0..30_000 {
            key = key.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            engine
                .write_in_order(&[put(STATE, key, Some(vec![1; 60]))])
                .unwrap();
        }
        engine.flush().unwrap();
        let before = size();
        for round in 0..6_000_u64 {
            let value = Some(vec![round as u8; 16_000]);
            engine
                .write_in_order(&[put(LOG, round % 7, value)])
                .unwrap();
            if round % 20 == 0 {
                for _ in 0..pages {
                    engine.tidy_page().unwrap();
                }
                engine.flush().unwrap();
            }
        }
        size().saturating_sub(before)
    }

    #[test]
    fn dead_space_is_used_again_where_small_pages_come_first() {
        let (without, with) = (growth_of_the_file(0), growth_of_the_file(64));
        assert!(with * 2 < without, "{with} bytes instead of {without}");
    }

    #[test]
    fn a_store_is_cleaned_while_much_of_it_is_dead_and_it_grows() {
        let mut tidying = Tidying::default();
        let mut ms = |size: u64, live: u64| tidying.time(size << 20, live << 20).as_millis() as u64;
        assert_eq!((ms(64, 0), ms(204, 100)), (0, 0));
        assert_eq!((ms(205, 100), ms(245, 100)), (2, 4));
        let cleaned = (0..100).filter(|_| ms(400, 100) > 0);
        assert_eq!(cleaned.count() as u64, limits::TIDY_SLICES);
        assert_eq!(ms(4_000, 100), 6);
    }
}
