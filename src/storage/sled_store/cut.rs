//! The cut in place: entries that nobody needs any more leave the log of a store in use.
//!
//! sled gives their room to what is written next. It is done without a transaction, whose marker would be
//! fdatasynced by itself: the base is raised first, and what lies below it goes then.

use super::space::Growth;
use super::{COMMITS, Engine, LOG, META, Operation, RUNS, sentinels, unreadable};
use crate::limits;
use crate::storage::guard::caught;
use crate::storage::recovery::Source;
use crate::storage::{StorageError, records};
use crate::types::{Base, Index};
use sled::IVec;

impl Engine {
    /// The end of a block, up to `most`, not far above the base.
    pub(super) fn cut_point(
        &self,
        base: Index,
        most: Index,
    ) -> Result<Option<Index>, StorageError> {
        let above = self.blocks(sentinels::above(records::index_key(base.next())));
        let mut point = None;
        for block in above.skip(1).take(limits::CUT_BLOCKS_MAX) {
            let (key, _) = block.map_err(unreadable("cannot read the log in"))?;
            let end = records::parse_index("log", &key)?.previous();
            if end > most {
                break;
            }
            point = Some(end);
        }
        Ok(point)
    }

    /// Says how the live bytes have changed.
    pub(super) fn cut(&self, base: &Base) -> Result<Growth, StorageError> {
        let at = base.stamp.index;
        let stands = Source::applied(self)?.map_or(Index(0), |slice| slice.applied);
        records::check_cut(at, Source::base(self)?.stamp.index, stands)?;
        if !self.begins_at(at.next())? {
            let inside = format!("refused to cut the log at {at}, inside a block");
            return Err(StorageError::Unusable(inside));
        }
        self.write_in_order(&self.cut_operations(base)?)
    }

    /// Is this the first entry of a block?
    fn begins_at(&self, index: Index) -> Result<bool, StorageError> {
        let block = self.trees[LOG].contains_key(records::index_key(index));
        block.map_err(unreadable("cannot read the log in"))
    }

    /// ORDER: first the base, and then what lies below it goes. sled's log keeps that order, so that after a
    /// crash the base is there wherever anything is missing; what is left then goes at the next open.
    fn cut_operations(&self, base: &Base) -> Result<Vec<Operation>, StorageError> {
        let value = IVec::from(records::base_value(base));
        let mut operations = vec![(META, records::BASE_KEY.into(), Some(value))];
        operations.extend(self.below(base.stamp.index)?);
        Ok(operations)
    }

    /// Completes a cut that a crash has interrupted.
    pub(in crate::storage) fn finish_cut(&self) -> Result<(), StorageError> {
        let finish = || {
            let base = Source::base(self)?.stamp.index;
            let stands = Source::applied(self)?.map_or(Index(0), |slice| slice.applied);
            // A cut needs a block that begins there: anything else is damage, and kept as it is.
            if Index(0) < base && base <= stands && self.begins_at(base.next())? {
                self.write_in_order(&self.below(base)?)?;
            }
            Ok(())
        };
        match self.named(caught(finish)) {
            // What cannot be read is recovery's business.
            Err(StorageError::Damaged(_)) => Ok(()),
            done => done,
        }
    }

    /// Operations that drop what lies below the base. A run of equal terms that goes on above begins after it.
    fn below(&self, base: Index) -> Result<Vec<Operation>, StorageError> {
        let read = |error| unreadable("cannot read the log in")(error);
        let (end, next) = (records::index_key(base), records::index_key(base.next()));
        let mut operations = Vec::new();
        let runs: Result<Vec<_>, _> = self.trees[RUNS].range(..=end).collect();
        let runs = runs.map_err(read)?;
        let goes_on = self.blocks(sentinels::above(next)).next().is_some();
        if let Some((_, term)) = runs.last().filter(|_| goes_on)
            && !self.trees[RUNS].contains_key(next).map_err(read)?
        {
            operations.push((RUNS, IVec::from(&next), Some(term.clone())));
        }
        operations.extend(runs.into_iter().map(|(key, _)| (RUNS, key, None)));
        for key in self.trees[LOG].range(..=end).keys() {
            operations.push((LOG, key.map_err(read)?, None));
        }
        for key in self.trees[COMMITS].range(..end).keys() {
            operations.push((COMMITS, key.map_err(read)?, None));
        }
        Ok(operations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::recovery::recover;
    use crate::storage::sled_store::DbFile;
    use crate::storage::sled_store::leaves::Leaf;
    use crate::storage::sled_store::live::Live;
    use crate::storage::sled_store::space::Tidying;
    use crate::storage::testing::after;
    use crate::storage::{CommitRecord, Slice, Write, layout};
    use crate::types::entry::Entry;
    use crate::types::{Hash, Members, Stamp, WallTime};
    use bytes::Bytes;
    use std::path::Path;

    const CACHE_BYTES: u64 = 1 << 20;

    const BATCHES: u64 = 14;

    /// A log of 28 entries in 14 blocks and 5 terms, the trees at entry 25.
    fn filled(path: &Path, payload: usize) -> Vec<Entry> {
        layout::create_store_at(path, CACHE_BYTES).unwrap();
        let engine = Engine::open(path, CACHE_BYTES).unwrap();
        let mut live = Live {
            engine,
            db_file: DbFile::open(path).unwrap(),
            path: path.into(),
            last: Stamp::ZERO,
            last_hash: Hash::default(),
            base: Index(0),
            bytes: None,
            tidying: Tidying::default(),
            leaf: Leaf::default(),
        };
        let mut log: Vec<Entry> = Vec::new();
        for batch in 0..BATCHES {
            let (last, hash) = log
                .last()
                .map_or((Stamp::ZERO, Hash::default()), |e| (e.stamp(), e.hash()));
            let append = after(last, hash, 1 + batch / 3, 2, payload);
            log.extend(append.clone());
            let record = |entry: &Entry| CommitRecord {
                stamp: entry.stamp(),
                hash: entry.hash(),
                digest: Hash::default(),
                time: WallTime(1),
            };
            let applied = (batch == BATCHES - 1).then(|| Slice {
                applied: Index(25),
                hash: log[24].hash(),
                digest: Hash::default(),
                members: Members::new(),
                machine: Bytes::new(),
                changes: Vec::new(),
            });
            live.write_once(Write {
                commit: log.last().map(record),
                append,
                slice: applied,
                ..Write::default()
            })
            .unwrap();
        }
        live.flush().unwrap();
        log
    }

    fn base_at(entry: &Entry) -> Base {
        Base {
            stamp: entry.stamp(),
            hash: entry.hash(),
            time: entry.time(),
            ..Base::default()
        }
    }

    /// A crash leaves a prefix of what a cut does.
    #[test]
    fn a_cut_that_a_crash_has_interrupted_is_completed_by_the_next_open() {
        // Large blocks are in leaves made ahead, whose dividers go with them.
        let cuts = [(2, 10), (6, 10), (24, 10), (6, 9_000), (24, 9_000)];
        for (at, payload) in cuts {
            let mut done = 0;
            loop {
                let directory = tempfile::tempdir().unwrap();
                let log = filled(directory.path(), payload);
                let base = base_at(&log[at - 1]);
                let engine = Engine::open(directory.path(), CACHE_BYTES).unwrap();
                let operations = engine.cut_operations(&base).unwrap();
                engine.write_in_order(&operations[..done]).unwrap();
                engine.flush().unwrap();
                drop(engine);
                let engine = Engine::open(directory.path(), CACHE_BYTES).unwrap();
                engine.finish_cut().unwrap();
                let begins = if done == 0 { 0 } else { at };
                let recovered = recover(&engine, None, usize::MAX).unwrap();
                assert_eq!(recovered.damage, [], "{done} of the cut at {at}");
                assert_eq!(recovered.base.stamp.index, Index(begins as u64));
                assert_eq!(recovered.tail, log[begins..]);
                let first = engine.trees[COMMITS].first().unwrap().unwrap().0;
                assert_eq!(first[..], records::index_key(Index(begins.max(2) as u64)));
                let begins = records::index_key(Index(begins as u64));
                assert_eq!(engine.trees[LOG].range(..=begins).count(), 0);
                if done == operations.len() {
                    let dividers = engine.trees[LOG].len() - (log.len() - at).div_ceil(2) - 7;
                    assert_eq!(
                        dividers,
                        if payload < 9_000 {
                            0
                        } else {
                            9 * (3 - at / 12)
                        }
                    );
                    break;
                }
                done += 1;
            }
            assert!(done > 3, "{done}");
        }
    }
}
