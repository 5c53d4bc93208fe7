//! The copy of a store that a rewriting makes: live records, the log above its new base, commit records.

use super::{KEYS_END, base_at, following, not_younger, place};
use crate::consensus::{Mutant, Place};
use crate::limits::SNAPSHOT_BYTES_MAX;
use crate::replica::Cut;
use crate::storage::{Change, CommitRecord, Slice, StateReader, StorageError, Store, Tree, Write};
use crate::types::entry::Entry;
use crate::types::{Base, Hash, Index};
use bytes::Bytes;
use std::collections::VecDeque;

/// Writes in one part of what the next store has missed.
const MISSED_MAX: usize = 8;

/// How far the next store is.
pub(super) struct Rewrite {
    pub(super) base: Base,
    /// What the trees of both stores stand at.
    pub(super) applied: Slice,
    /// Rows up to here are copied; `None`: none yet.
    pub(super) rows: Option<Place>,
    pub(super) rows_done: bool,
    /// Where the log begins is settled.
    pub(super) log_begun: bool,
    /// The last entry copied.
    pub(super) log: Index,
    /// Commit records up to here are copied.
    pub(super) commits: Index,
    /// The digest of the next store when it was closed to be checked: what it misses since then waits.
    pub(super) closed: Option<Hash>,
    pub(super) missed: VecDeque<Write>,
    /// The check is over: what waits follows.
    pub(super) catches_up: bool,
    /// Of a rebuilding: the newest commit record.
    pub(super) computed: Option<CommitRecord>,
}

impl Rewrite {
    /// What the next store gets now that this write has come: while it is closed nothing; and then, until
    /// it has caught up, the oldest that waits, so that never more wait.
    pub(super) fn in_order(&mut self, write: Write) -> Option<Write> {
        if self.closed.is_none() {
            return Some(write);
        }
        if !Mutant::ForgetMissed.on() {
            self.missed.push_back(write);
        }
        let oldest = self.catches_up.then(|| self.missed.pop_front());
        oldest.flatten()
    }

    /// A part of what came since the next store was closed; whether there is more.
    pub(super) fn catch_up<S: Store>(&mut self, store: &mut S) -> Result<bool, StorageError> {
        self.catches_up = true;
        for _ in 0..MISSED_MAX {
            let Some(write) = self.missed.pop_front() else {
                self.closed = None;
                return Ok(false);
            };
            store.next_write(write)?;
        }
        Ok(true)
    }

    /// Has the copy come by this record's place?
    pub(super) fn has_copied(&self, change: &Change) -> bool {
        let upto = self.rows.as_ref();
        let upto = upto.map(|place| (place.tree, place.key.as_ref()));
        self.rows_done || Some((change.tree as u8, change.key.as_ref())) <= upto
    }

    /// Records as they are now: what changes later, up to there, is written to both stores.
    pub(super) fn copy_rows<S: Store>(
        &mut self,
        store: &mut S,
        rows_max: usize,
    ) -> Result<(), StorageError> {
        let reader = store.reader();
        let at = self.rows.as_ref().map_or(0, |place| place.tree as usize);
        let Some(tree) = Tree::ALL.get(at).copied() else {
            self.rows_done = true;
            return Ok(());
        };
        let from = match &self.rows {
            Some(place) if !place.key.is_empty() => following(&place.key),
            _ => Vec::new(),
        };
        let mut bytes = 0;
        let mut page = reader.range(tree, &from, &KEYS_END, rows_max)?;
        let fits = page.iter().take_while(|(key, value)| {
            let first = bytes == 0;
            bytes += key.len() + value.len();
            first || bytes <= SNAPSHOT_BYTES_MAX
        });
        let taken = fits.count();
        let last = taken == page.len() && page.len() < rows_max;
        page.truncate(taken);
        self.rows = Some(match page.last() {
            Some((key, _)) if !last => place(tree, key),
            _ => Place {
                tree: at as u8 + 1,
                key: Bytes::new(),
            },
        });
        let changes = page.into_iter().map(|(key, value)| Change {
            tree,
            key,
            value: Some(value),
        });
        store.next_write(Write {
            slice: Some(Slice {
                changes: changes.collect(),
                ..self.applied.clone()
            }),
            ..Write::default()
        })
    }

    /// Once, before the first entry: what came while records were copied need not all come along. ORDER:
    /// AFTER the records, for the trees of the next store stand where those of this one do, and its log
    /// must not begin above that.
    pub(super) fn cut_anew<S: Store>(
        &mut self,
        store: &mut S,
        cut: Option<Cut>,
    ) -> Result<(), StorageError> {
        let begun = std::mem::replace(&mut self.log_begun, true);
        let Some(mut cut) = cut.filter(|_| !begun) else {
            return Ok(());
        };
        if Mutant::CutAboveTrees.on() {
            cut.base = Index(self.applied.applied.0 + 1);
        }
        let base = not_younger(store, cut)?;
        if base <= self.base.stamp.index {
            return Ok(());
        }
        if let Some(base) = base_at(store, base)? {
            store.next_cut(&base)?;
            self.log = base.stamp.index;
            self.commits = base.stamp.index.previous();
            self.base = base;
        }
        Ok(())
    }

    /// Entries and commit records; false when nothing is left.
    pub(super) fn copy_log<S: Store>(&mut self, store: &mut S) -> Result<bool, StorageError> {
        let append = store.entries(self.log.next(), SNAPSHOT_BYTES_MAX)?;
        let full = append.iter().map(|e| e.bytes().len()).sum::<usize>() >= SNAPSHOT_BYTES_MAX / 2;
        if let Some(last) = append.last().map(Entry::index) {
            self.log = last;
            store.next_write(Write {
                append,
                ..Write::default()
            })?;
        }
        let to = self.log.min(Index(self.commits.0 + 4_096));
        for record in store.commit_records(self.commits.next(), to)? {
            store.next_write(Write {
                commit: Some(record),
                ..Write::default()
            })?;
        }
        self.commits = self.commits.max(to);
        Ok(full || to < self.log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::testing::slice;
    use crate::replica::{Extra, ExtraDone, Portions, RewriteStep, Workshop};
    use crate::storage::{MemDisk, MemStore};
    use crate::types::entry::Kind;
    use crate::types::{Incarnation, Members, ReplicaId, Stamp, Term, WallTime};

    /// A store with a log and a few records, and the workshop beside it.
    struct Bench {
        store: MemStore,
        workshop: Workshop,
        last: Entry,
    }

    impl Bench {
        /// Entries up to this one, at which the trees stand too.
        fn grow(&mut self, to: u64) {
            let mut append = Vec::new();
            while self.last.index() < Index(to) {
                let index = self.last.index().next();
                let stamp = Stamp::new(Term(1), index);
                let time = WallTime(index.0);
                self.last = Entry::seal(stamp, time, self.last.hash(), Kind::Command, b"x");
                append.push(self.last.clone());
            }
            let change = Change {
                tree: Tree::Users,
                key: Bytes::copy_from_slice(&to.to_be_bytes()),
                value: Some(Bytes::from_static(b"row")),
            };
            let write = Write {
                append,
                commit: Some(self.record()),
                slice: Some(Slice {
                    changes: vec![change],
                    ..self.applied()
                }),
                ..Write::default()
            };
            self.workshop.before_write(&self.store, &write).unwrap();
            self.store.write(write.clone()).unwrap();
            self.workshop.after_write(&mut self.store, write);
        }

        fn record(&self) -> CommitRecord {
            CommitRecord {
                stamp: self.last.stamp(),
                hash: self.last.hash(),
                digest: Hash::default(),
                time: self.last.time(),
            }
        }

        fn applied(&self) -> Slice {
            Slice {
                hash: self.last.hash(),
                ..slice(self.last.index().0)
            }
        }

        fn step(&mut self, step: RewriteStep) -> ExtraDone {
            let extra = Extra::Rewrite(step);
            self.workshop.work(&mut self.store, extra).unwrap()
        }

        fn copy(&mut self, base: u64, keep_since: u64) -> ExtraDone {
            let (base, keep_since) = (Index(base), WallTime(keep_since));
            self.step(RewriteStep::Copy {
                portions: 1,
                cut: Some(Cut { base, keep_since }),
            })
        }
    }

    fn members() -> Members {
        Members::from([(ReplicaId(1), Incarnation([1; 16]))])
    }

    /// A store with the entries 1 to 20.
    fn begun() -> Bench {
        let (store, _) = MemStore::open(&MemDisk::new()).unwrap();
        let mut bench = Bench {
            store,
            workshop: Workshop::with_portions(Portions {
                rows_max: 1,
                ..Portions::default()
            }),
            last: Entry::formation(&members()),
        };
        let append = vec![bench.last.clone()];
        let formation = Write {
            append,
            ..Write::default()
        };
        bench.store.write(formation).unwrap();
        bench.grow(20);
        bench
    }

    /// Rows are copied with entries 1 to 20 there, and 21 to 60 come meanwhile.
    fn rewritten(keep_since: u64) -> MemStore {
        let mut bench = begun();
        let cut = Cut {
            base: Index(10),
            keep_since: WallTime(100),
        };
        let applied = bench.applied();
        let least = Index(0);
        bench.step(RewriteStep::Begin {
            cut,
            applied,
            least,
        });
        assert!(matches!(bench.copy(10, 100), ExtraDone::GoesOn));
        bench.grow(60);
        while matches!(bench.copy(50, keep_since), ExtraDone::GoesOn) {}
        // Too late for another cut.
        bench.grow(70);
        bench.copy(65, 100);
        assert!(matches!(
            bench.step(RewriteStep::Install),
            ExtraDone::Rewritten(_)
        ));
        bench.store
    }

    #[test]
    fn what_comes_while_records_are_copied_is_cut_too_but_not_what_is_young() {
        for (keep_since, base) in [(100, 50), (30, 30), (5, 10)] {
            let store = rewritten(keep_since);
            assert_eq!(store.base().unwrap().stamp.index, Index(base));
            let entries = store.entries(Index(1), usize::MAX).unwrap();
            let indexes: Vec<u64> = entries.iter().map(|e| e.index().0).collect();
            assert_eq!(indexes, (base + 1..=70).collect::<Vec<_>>());
            let records = store.commit_records(Index(1), Index(100)).unwrap();
            let points: Vec<u64> = records.iter().map(|r| r.stamp.index.0).collect();
            let expected: Vec<u64> = [20, 60, 70].into_iter().filter(|p| *p >= base).collect();
            assert_eq!(points, expected);
            let users = store.reader();
            let rows = users.range(Tree::Users, &[], &KEYS_END, 10).unwrap();
            assert_eq!(rows.len(), 3, "every record is there");
        }
    }

    /// The copy has the base that the log had when it began, and must find every entry above that.
    #[test]
    fn a_log_that_is_copied_is_not_cut_where_it_is() {
        let mut bench = begun();
        let cut = |bench: &mut Bench, base, keep_since| {
            let (base, keep_since) = (Index(base), WallTime(keep_since));
            let extra = Extra::Cut(Cut { base, keep_since });
            let done = bench.workshop.work(&mut bench.store, extra).unwrap();
            (done, bench.store.base().unwrap().stamp.index)
        };
        assert!(matches!(
            cut(&mut bench, 4, 3),
            (ExtraDone::Cut(_), Index(3))
        ));
        let begin = RewriteStep::Begin {
            cut: Cut {
                base: Index(5),
                keep_since: WallTime(100),
            },
            applied: bench.applied(),
            least: Index(0),
        };
        bench.step(begin);
        assert!(matches!(
            cut(&mut bench, 8, 100),
            (ExtraDone::Nothing, Index(3))
        ));
        while matches!(bench.copy(5, 100), ExtraDone::GoesOn) {}
        assert!(matches!(
            bench.step(RewriteStep::Install),
            ExtraDone::Rewritten(_)
        ));
        assert!(matches!(
            cut(&mut bench, 8, 100),
            (ExtraDone::Cut(_), Index(8))
        ));
        let entries = bench.store.entries(Index(1), usize::MAX).unwrap();
        assert_eq!(entries.len(), 12);
    }
}
