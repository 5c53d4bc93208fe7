//! What the core knows of its log: term runs for all of it, the entries of its newest part.
//!
//! Never touches a disk. Entries below the memory part are asked for with a
//! [`super::Fetch`].

use crate::limits::LOG_CACHE_BYTES;
use crate::types::entry::Entry;
use crate::types::{Base, Hash, Index, Stamp, Term};
use std::collections::VecDeque;

/// The log as the core sees it, durable or not.
///
/// Invariants: `runs` ascends in index and term; `cache` is consecutive and ends with the last
/// entry; `before_cache` is the hash of the entry before the cache's first;
/// `base <= durable <= last`; what is not durable is in the cache; nothing is known of entries below
/// the base.
#[derive(Clone)]
pub(super) struct Log {
    base: Base,
    runs: Vec<(Index, Term)>,
    last: Stamp,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    before_cache: Hash,
    durable: Index,
    /// Of the entries that are not durable.
    undurable_bytes: usize,
}

impl Log {
    pub(super) fn new(
        base: Base,
        runs: Vec<(Index, Term)>,
        last: Stamp,
        tail: Vec<Entry>,
        before_cache: Hash,
    ) -> Self {
        if let Some(entry) = tail.last() {
            assert_eq!(entry.stamp(), last, "the tail ends with the last entry");
        }
        Self {
            base,
            runs,
            last,
            cache_bytes: tail.iter().map(|e| e.bytes().len()).sum(),
            cache: tail.into(),
            before_cache,
            durable: last.index,
            undurable_bytes: 0,
        }
    }

    /// A log in which nothing follows this base.
    pub(super) fn begin_at(base: Base) -> Self {
        let (stamp, hash) = (base.stamp, base.hash);
        Self::new(base, Vec::new(), stamp, Vec::new(), hash)
    }

    /// The entry before the first one.
    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    /// Everything up to this entry was cut from the store.
    pub(super) fn cut(&mut self, base: Base) {
        assert!(base.stamp.index >= self.base.stamp.index && base.stamp.index <= self.durable);
        let at = base.stamp.index;
        let below = self.runs.partition_point(|(first, _)| *first <= at);
        let term = below.checked_sub(1).map(|run| self.runs[run].1);
        let goes_on = self
            .runs
            .get(below)
            .is_none_or(|(first, _)| *first != at.next())
            && at < self.last.index;
        self.runs.drain(..below);
        if let (true, Some(term)) = (goes_on, term) {
            self.runs.insert(0, (at.next(), term));
        }
        while self.cache_first() <= at {
            let Some(gone) = self.cache.pop_front() else {
                break;
            };
            self.cache_bytes -= gone.bytes().len();
            self.before_cache = gone.hash();
        }
        self.base = base;
    }

    /// Stamp of the last entry, durable or not.
    pub(super) fn last(&self) -> Stamp {
        self.last
    }

    /// Stamp of the last durable entry.
    pub(super) fn durable(&self) -> Stamp {
        self.stamp_at(self.durable)
            .expect("the durable part lies inside the log")
    }

    /// Everything up to here has been fsynced. What was truncated meanwhile does not count.
    pub(super) fn set_durable(&mut self, index: Index) {
        assert!(index >= self.durable && index <= self.last.index);
        let skip = (self.durable.0 + 1).saturating_sub(self.cache_first().0) as usize;
        let count = (index.0 - self.durable.0) as usize;
        let written = self.cache.iter().skip(skip).take(count);
        self.undurable_bytes -= written.map(|entry| entry.bytes().len()).sum::<usize>();
        self.durable = index;
    }

    /// Bytes of the entries that wait for an fsync.
    pub(super) fn undurable_bytes(&self) -> usize {
        self.undurable_bytes
    }

    /// Term of the entry at `index`; term 0 at index 0; `None` beyond the end and below the base.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == Index(0) {
            return Some(Term(0));
        }
        if index == self.base.stamp.index {
            return Some(self.base.stamp.term);
        }
        if index > self.last.index || index < self.base.stamp.index {
            return None;
        }
        let after = self.runs.partition_point(|(first, _)| *first <= index);
        after.checked_sub(1).map(|run| self.runs[run].1)
    }

    pub(super) fn stamp_at(&self, index: Index) -> Option<Stamp> {
        self.term_at(index).map(|term| Stamp::new(term, index))
    }

    /// First index of the run of equal terms that holds `index`.
    pub(super) fn run_start(&self, index: Index) -> Index {
        let after = self.runs.partition_point(|(first, _)| *first <= index);
        after
            .checked_sub(1)
            .map_or(Index(0), |run| self.runs[run].0)
    }

    fn cache_first(&self) -> Index {
        Index(self.last.index.0 + 1 - self.cache.len() as u64)
    }

    /// Hash of the entry at `index`, if that lies in (or just before) the part in memory.
    pub(super) fn hash_at(&self, index: Index) -> Option<Hash> {
        if index.next() == self.cache_first() {
            return Some(self.before_cache);
        }
        self.entry_at(index).map(Entry::hash)
    }

    pub(super) fn head_hash(&self) -> Hash {
        self.cache.back().map_or(self.before_cache, Entry::hash)
    }

    pub(super) fn entry_at(&self, index: Index) -> Option<&Entry> {
        let at = index.0.checked_sub(self.cache_first().0)?;
        self.cache.get(usize::try_from(at).ok()?)
    }

    /// Consecutive entries from `from` to at most `to`, about `bytes_max` bytes but at least one;
    /// `None` if `from` is below the part in memory.
    pub(super) fn entries(&self, from: Index, to: Index, bytes_max: usize) -> Option<Vec<Entry>> {
        if from < self.cache_first() {
            return None;
        }
        let skip = (from.0 - self.cache_first().0) as usize;
        let mut bytes = 0;
        let mut taken = Vec::new();
        for entry in self.cache.iter().skip(skip) {
            bytes += entry.bytes().len();
            if entry.index() > to || (bytes > bytes_max && !taken.is_empty()) {
                break;
            }
            taken.push(entry.clone());
        }
        Some(taken)
    }

    /// Adds the entry that follows the last one.
    pub(super) fn append(&mut self, entry: Entry) {
        let stamp = entry.stamp();
        assert_eq!(stamp.index, self.last.index.next(), "entries are gapless");
        assert!(stamp.term >= self.last.term, "terms never fall in a log");
        assert_eq!(entry.previous_hash(), self.head_hash(), "the chain holds");
        let new_run = self.runs.last().is_none_or(|(_, term)| *term < stamp.term);
        if new_run {
            self.runs.push((stamp.index, stamp.term));
        }
        self.last = stamp;
        self.cache_bytes += entry.bytes().len();
        self.undurable_bytes += entry.bytes().len();
        self.cache.push_back(entry);
    }

    /// Drops everything above `after`. Whether that is legal is the caller's duty to prove.
    pub(super) fn truncate(&mut self, after: Index) {
        while self.last.index > after {
            let gone = self
                .cache
                .pop_back()
                .expect("the part in memory reaches below every legal truncation");
            self.cache_bytes -= gone.bytes().len();
            if gone.index() > self.durable {
                self.undurable_bytes -= gone.bytes().len();
            }
            while self
                .runs
                .last()
                .is_some_and(|(first, _)| *first >= self.last.index)
            {
                self.runs.pop();
            }
            let index = self.last.index.previous();
            let below = self.base.stamp.term;
            let term = self.runs.last().map_or(below, |(_, term)| *term);
            self.last = Stamp::new(term, index);
        }
        self.durable = self.durable.min(after);
    }

    /// Forgets the oldest entries in memory while they are too many, never `keep` or above, and none
    /// that is not durable: nobody could fetch it.
    pub(super) fn trim(&mut self, keep: Index) {
        let keep = keep.min(self.durable);
        while self.cache_bytes > LOG_CACHE_BYTES && self.cache_first() < keep {
            let Some(gone) = self.cache.pop_front() else {
                return;
            };
            self.cache_bytes -= gone.bytes().len();
            self.before_cache = gone.hash();
        }
    }
}

#[cfg(feature = "model")]
impl Log {
    pub(super) fn view(&self, view: &mut super::view::View) {
        let Self {
            base,
            runs,
            last,
            cache,
            cache_bytes,
            before_cache,
            durable,
            undurable_bytes,
        } = self;
        view.put(&(base, runs, last, cache, cache_bytes, before_cache, durable));
        view.put(undurable_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::WallTime;
    use crate::types::entry::Kind;

    fn log_of(terms: &[u64]) -> Log {
        let mut log = Log::begin_at(Base::default());
        for term in terms {
            let stamp = Stamp::new(Term(*term), log.last().index.next());
            let previous = log.head_hash();
            log.append(Entry::seal(
                stamp,
                WallTime(1),
                previous,
                Kind::Command,
                b"x",
            ));
        }
        log
    }

    #[test]
    fn terms_are_found_by_run_and_truncation_forgets_them() {
        let mut log = log_of(&[0, 1, 1, 3, 3, 3]);
        assert_eq!(log.term_at(Index(3)), Some(Term(1)));
        assert_eq!(log.term_at(Index(4)), Some(Term(3)));
        assert_eq!(log.run_start(Index(6)), Index(4));
        assert_eq!(log.term_at(Index(7)), None);
        log.set_durable(Index(6));
        log.truncate(Index(3));
        assert_eq!(log.last(), Stamp::new(Term(1), Index(3)));
        assert_eq!(log.durable(), log.last());
        assert_eq!(log.term_at(Index(4)), None);
        log.truncate(Index(0));
        assert_eq!(log.last(), Stamp::ZERO);
    }

    #[test]
    fn a_cut_log_knows_its_base_and_nothing_below() {
        for at in 2..=6 {
            let mut log = log_of(&[0, 1, 1, 3, 3, 3]);
            log.set_durable(Index(6));
            let entry = log.entry_at(Index(at)).unwrap().clone();
            log.cut(Base {
                stamp: entry.stamp(),
                hash: entry.hash(),
                ..Base::default()
            });
            assert_eq!(log.stamp_at(Index(at)), Some(entry.stamp()));
            assert_eq!(log.hash_at(Index(at)), Some(entry.hash()));
            assert_eq!(log.term_at(Index(at - 1)), None);
            assert_eq!(log.last(), Stamp::new(Term(3), Index(6)));
            assert_eq!(log.durable(), log.last());
            log.truncate(Index(at));
            assert_eq!(log.last(), entry.stamp());
            let next = Stamp::new(Term(4), Index(at + 1));
            let next = Entry::seal(next, WallTime(1), entry.hash(), Kind::Command, b"y");
            log.append(next);
            assert_eq!(log.run_start(Index(at + 1)), Index(at + 1));
            assert_eq!(log.term_at(Index(at + 1)), Some(Term(4)));
        }
    }

    #[test]
    fn bytes_that_wait_for_an_fsync_are_counted_until_they_are_written_or_gone() {
        let mut log = log_of(&[0, 1, 1, 1]);
        let one = log.entry_at(Index(1)).unwrap().bytes().len();
        assert_eq!(log.undurable_bytes(), 4 * one);
        log.set_durable(Index(1));
        assert_eq!(log.undurable_bytes(), 3 * one);
        log.set_durable(Index(1));
        log.truncate(Index(2));
        assert_eq!(log.undurable_bytes(), one);
        log.set_durable(Index(2));
        assert_eq!(log.undurable_bytes(), 0);
        log.truncate(Index(1));
        assert_eq!(log.undurable_bytes(), 0);
    }

    #[test]
    fn entries_stop_at_the_byte_limit_but_never_at_none() {
        let log = log_of(&[0, 1, 1]);
        let some = log.entries(Index(2), Index(3), 1).unwrap();
        assert_eq!(some.len(), 1);
        assert_eq!(log.entries(Index(1), Index(3), 1 << 20).unwrap().len(), 3);
        assert!(log.entries(Index(4), Index(9), 10).unwrap().is_empty());
    }
}
