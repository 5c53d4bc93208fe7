//! Trees that are computed anew for a state that is doubted, in the next store, over the same log.
//!
//! The state to begin with is the empty one, where the log begins with entry 1, or that of a
//! primary, whose rows are in the next store already. The entries above it are copied from the live
//! store and applied on the way, as far as they are committed; commit records in that range are
//! written with the digests that come out now, for the old ones may carry the wrong state's, and one
//! about the last entry: the trees stand on it. Records below the primary's state are left out: nobody can say of which state
//! they speak. From there on it is a rewriting: what is missing of the log is copied, all rows are
//! scanned, and the last entries come in the job that exchanges the stores.

use super::{Rewrite, Workshop, slice_of};
use crate::consensus::SnapshotHead;
use crate::limits::SNAPSHOT_BYTES_MAX;
use crate::replica::ExtraDone;
use crate::state_machine::StateMachine;
use crate::storage::{CommitRecord, Slice, StorageError, Store, Write};
use crate::types::entry::Entry;
use crate::types::{Base, Index, Level};
use std::collections::{BTreeMap, VecDeque};

/// How far the state is.
pub(super) struct Rebuild {
    machine: StateMachine,
    /// Where the log begins, in both stores.
    base: Base,
    /// The state that it began with, and the commit record about it.
    from: Option<(Slice, CommitRecord)>,
    /// The last entry copied.
    log: Index,
    /// The last slice written, without its changes.
    written: Option<Slice>,
    /// The newest commit record written.
    record: Option<CommitRecord>,
}

impl Rebuild {
    fn new(from: Option<(Slice, CommitRecord)>, base: Base) -> Result<Self, StorageError> {
        let slice = from.as_ref().map(|(slice, _)| slice.clone());
        Ok(Self {
            machine: StateMachine::open_knowing(slice.as_ref(), Level(u32::MAX))?,
            log: base.stamp.index,
            base,
            record: from.as_ref().map(|(_, record)| *record),
            written: slice,
            from,
        })
    }

    /// From a primary's state, over a log that begins after `base`.
    pub(super) fn from_state(head: &SnapshotHead, base: Base) -> Result<Self, StorageError> {
        let from = (slice_of(head, Vec::new()), super::record_of(head));
        Self::new(Some(from), base)
    }

    /// Some more entries; true when everything up to `end` is there.
    fn further<S: Store>(&mut self, store: &mut S, end: Index) -> Result<bool, StorageError> {
        if self.log < end {
            let mut page = store.entries(self.log.next(), SNAPSHOT_BYTES_MAX)?;
            page.retain(|entry| entry.index() <= end);
            let Some(last) = page.last().map(Entry::index) else {
                return Err(lacks(self.log.next()));
            };
            let records = store.commit_records(self.log.next(), last)?;
            let old = records
                .into_iter()
                .map(|record| (record.stamp.index, record));
            let records = self.apply(store, &page, &old.collect())?;
            self.log = last;
            store.next_write(Write {
                append: page,
                ..Write::default()
            })?;
            for record in records {
                store.next_write(Write {
                    commit: Some(record),
                    ..Write::default()
                })?;
                self.record = Some(record);
            }
        }
        let done = self.log >= end;
        while let Some(slice) = self.machine.next_slice(self.log, done) {
            self.written = Some(Slice {
                changes: Vec::new(),
                ..slice.clone()
            });
            store.next_write(Write {
                slice: Some(slice),
                ..Write::default()
            })?;
            self.machine.slice_written();
        }
        Ok(done)
    }

    /// Applies a page of the log; what lies below the state that it began with must lead there.
    fn apply<S: Store>(
        &mut self,
        store: &S,
        page: &[Entry],
        old: &BTreeMap<Index, CommitRecord>,
    ) -> Result<Vec<CommitRecord>, StorageError> {
        let reader = store.next_reader()?;
        let mut records = Vec::new();
        for entry in page {
            let begun = self.from.as_ref().map(|(slice, _)| slice);
            if let Some(slice) = begun.filter(|slice| slice.applied >= entry.index()) {
                if slice.applied == entry.index() && slice.hash != entry.hash() {
                    return Err(lacks(entry.index()));
                }
                continue;
            }
            self.machine.apply(&*reader, entry)?;
            if old.contains_key(&entry.index()) || Some(entry) == page.last() {
                records.push(CommitRecord {
                    stamp: entry.stamp(),
                    hash: entry.hash(),
                    digest: self.machine.digest(),
                    time: entry.time(),
                });
            }
        }
        Ok(records)
    }
}

fn lacks(index: Index) -> StorageError {
    StorageError::Unusable(format!(
        "the state cannot be computed: the log does not hold entry {index}"
    ))
}

impl Workshop {
    /// From the empty state: the log begins with entry 1.
    pub(super) fn begin_replay<S: Store>(
        &mut self,
        store: &mut S,
    ) -> Result<ExtraDone, StorageError> {
        let base = store.base()?;
        if base.stamp.index > Index(0) {
            return Err(lacks(Index(1)));
        }
        (self.receiving, self.rewrite, self.scrub) = (None, None, None);
        store.next_begin(&base)?;
        self.rebuild = Some(Rebuild::new(None, base)?);
        Ok(ExtraDone::GoesOn)
    }

    /// A page; the last one makes a rewriting of it.
    pub(super) fn rebuild_further<S: Store>(
        &mut self,
        store: &mut S,
        committed: Index,
        digest_every: u64,
    ) -> Result<ExtraDone, StorageError> {
        let Some(rebuild) = &mut self.rebuild else {
            return Ok(ExtraDone::RewriteFailed);
        };
        rebuild.machine.keep_digests_every(digest_every);
        let begun = rebuild.from.as_ref().map(|(slice, _)| slice.applied);
        let end = begun.map_or(committed, |begun| begun.max(committed));
        if !rebuild.further(store, end)? {
            return Ok(ExtraDone::GoesOn);
        }
        let Some(rebuild) = self.rebuild.take() else {
            return Ok(ExtraDone::RewriteFailed);
        };
        let (Some(applied), Some(record)) = (rebuild.written, rebuild.record) else {
            return Err(lacks(end));
        };
        self.rewrite = Some(Rewrite {
            rows: None,
            rows_done: true,
            log_begun: true,
            log: rebuild.log,
            commits: rebuild.log,
            base: rebuild.base,
            applied,
            closed: None,
            missed: VecDeque::new(),
            catches_up: false,
            computed: Some(record),
        });
        Ok(ExtraDone::Computed(end))
    }
}
