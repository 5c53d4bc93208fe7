//! The background scrub: is what was written long ago still what can be read?
//!
//! First the log, in parts that a batch can wait behind: every entry up to what the trees stand at
//! against the hash chain, and every commit record against its entry. Then the state: what the trees
//! stand at is held still, as for a snapshot, and all of it is summed up and then read row by
//! row beside the storage thread, with long rests. What is found to be wrong in the log is damage like any
//! other: the run ends, and the next one repairs the replica. What is wrong in the state alone makes
//! the state doubtful, and the log stays: it is rebuilt.
//!
//! What sled has in its cache is not read from the disk again; it will be when that page has left.

use super::pin::Old;
use super::{KEYS_END, Workshop, following, scan};
use crate::consensus::Mutant;
use crate::limits::{SCRUB_PART_BYTES, SNAPSHOT_ROWS_MAX};
use crate::replica::{ExtraDone, ScrubPart, Scrubbed};
use crate::storage::{LogVerifier, Slice, StateReader, StorageError, Store, Tree, Write};
use crate::types::entry::Entry;
use crate::types::{Hash, Index};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How far a scrub is.
pub(super) struct Scrub {
    /// Everything up to here is committed: it stays.
    until: Index,
    next: Index,
    log: LogVerifier,
    state: Option<StateScan>,
    /// The state changed too much while it was read.
    given_up: bool,
    /// See [`super::Portions::held_bytes`].
    held_bytes: usize,
}

/// A state that is read beside the storage thread. Dropped, it is given up.
struct StateScan {
    applied: Index,
    digest: Hash,
    old: Arc<Mutex<Old>>,
    given_up: Arc<AtomicBool>,
    outcome: Receiver<Result<Hash, StorageError>>,
}

impl Drop for StateScan {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

impl Workshop {
    /// A part of a scrub. `checkpoint` is what the trees stand at.
    pub(super) fn scrub<S: Store>(
        &mut self,
        store: &S,
        part: ScrubPart,
        checkpoint: &Slice,
    ) -> Result<ExtraDone, StorageError> {
        let held_bytes = self.portions.held_bytes;
        match part {
            ScrubPart::Begin => {
                self.scrub = Some(Scrub::new(store, checkpoint.applied, held_bytes)?);
            }
            ScrubPart::BeginState => self.scrub = Some(Scrub::new(store, Index(0), held_bytes)?),
            ScrubPart::GoOn => {}
        }
        let Some(scrub) = self.scrub.as_mut().filter(|_| !Mutant::ScrubNothing.on()) else {
            return Ok(ExtraDone::ScrubGivenUp);
        };
        if scrub.next <= scrub.until {
            scrub.read_log(store)?;
            return Ok(ExtraDone::GoesOn);
        }
        if scrub.state.is_none() && !scrub.given_up {
            scrub.state = StateScan::begin(store, checkpoint)
                .inspect_err(|error| tracing::warn!("the state is not scrubbed: {error}"))
                .ok();
            scrub.given_up = scrub.state.is_none();
            return Ok(ExtraDone::GoesOn);
        }
        let outcome = scrub.state.as_ref().map(|state| state.outcome.try_recv());
        if let Some(Err(TryRecvError::Empty)) = outcome {
            return Ok(ExtraDone::GoesOn);
        }
        let done = match (&scrub.state, outcome) {
            (Some(state), Some(outcome)) => state.judge(outcome, scrub.log.compared())?,
            _ => ExtraDone::ScrubGivenUp,
        };
        self.scrub = None;
        Ok(done)
    }
}

impl Scrub {
    /// Of the log up to this entry, and of the state.
    fn new<S: Store>(store: &S, until: Index, held_bytes: usize) -> Result<Self, StorageError> {
        let base = store.base()?;
        // About the base and before it: nothing to compare with.
        store.commit_records(Index(0), base.stamp.index)?;
        Ok(Self {
            until,
            next: base.stamp.index.next(),
            log: LogVerifier::new(&base),
            state: None,
            given_up: false,
            held_bytes,
        })
    }

    fn read_log<S: Store>(&mut self, store: &S) -> Result<(), StorageError> {
        let base = store.base()?;
        if base.stamp.index >= self.next {
            // The log was cut beyond what was read of it: the rest continues the hash that was kept there.
            self.next = base.stamp.index.next();
            self.log.begin_at(&base);
            return Ok(());
        }
        let mut page = store.entries(self.next, SCRUB_PART_BYTES)?;
        page.retain(|entry| entry.index() <= self.until);
        let Some(last) = page.last().map(Entry::index) else {
            return Err(StorageError::Damaged(format!(
                "log: entry {} is missing, and the trees stand at {}",
                self.next, self.until
            )));
        };
        let records = store.commit_records(self.next, last)?;
        self.log.entries(page);
        self.log.commit_records(&records);
        if let Some(finding) = self.log.findings().first() {
            return Err(finding.clone().into());
        }
        self.next = last.next();
        Ok(())
    }

    /// BEFORE a write to the live store: what is being read stays readable. Given up if that takes
    /// too much memory.
    pub(super) fn before_write(
        &mut self,
        reader: &impl StateReader,
        write: &Write,
    ) -> Result<(), StorageError> {
        let (Some(state), Some(slice)) = (&self.state, &write.slice) else {
            return Ok(());
        };
        let kept = locked(&state.old).keep(reader, &slice.changes, self.held_bytes)?;
        if !kept {
            // What comes of it after this would be wrong.
            (self.state, self.given_up) = (None, true);
        }
        Ok(())
    }
}

impl StateScan {
    /// What is wrong with the state says nothing about the log: the state is doubted, and computed
    /// anew from that. A failure of the disk is one.
    fn judge(
        &self,
        outcome: Result<Result<Hash, StorageError>, TryRecvError>,
        (entries, commit_records): (u64, u64),
    ) -> Result<ExtraDone, StorageError> {
        let Self {
            applied, digest, ..
        } = self;
        let wrong = match outcome {
            Ok(Ok(found)) if found == *digest => {
                return Ok(ExtraDone::Scrubbed(Scrubbed {
                    applied: *applied,
                    entries,
                    commit_records,
                }));
            }
            Ok(Ok(found)) => format!(
                "the state at index {applied} has digest {}, but its records add up to {}",
                digest.short(),
                found.short()
            ),
            Ok(Err(StorageError::Damaged(sentence))) => sentence,
            Ok(Err(error)) => return Err(error),
            Err(_) => "reading the state ended without a word".into(),
        };
        Ok(ExtraDone::StateWrong(wrong))
    }

    fn begin<S: Store>(store: &S, checkpoint: &Slice) -> Result<Self, StorageError> {
        let old = Arc::new(Mutex::new(Old::default()));
        let given_up = Arc::new(AtomicBool::new(false));
        let (tell, outcome) = std::sync::mpsc::channel();
        let rows = HeldRows {
            reader: store.reader(),
            old: Arc::clone(&old),
            given_up: Arc::clone(&given_up),
        };
        let slice = Slice {
            changes: Vec::new(),
            ..checkpoint.clone()
        };
        store.beside(Box::new(move |rest| {
            // Whoever asked may have given it up meanwhile.
            let held = Held { rows: &rows, rest };
            drop(tell.send(scan(&slice, &held).and_then(|digest| {
                read_all(&held)?;
                Ok(digest)
            })));
        }))?;
        Ok(Self {
            applied: checkpoint.applied,
            digest: checkpoint.digest,
            old,
            given_up,
            outcome,
        })
    }
}

/// Also rows that nothing leads to, and that wait for their removal: no sum has them.
fn read_all(reader: &dyn StateReader) -> Result<(), StorageError> {
    for tree in Tree::ALL {
        let mut from = Vec::new();
        loop {
            let page = reader.range(tree, &from, &KEYS_END, SNAPSHOT_ROWS_MAX)?;
            match page.last() {
                Some((last, _)) if page.len() == SNAPSHOT_ROWS_MAX => from = following(last),
                _ => break,
            }
        }
    }
    Ok(())
}

fn locked(old: &Mutex<Old>) -> MutexGuard<'_, Old> {
    old.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The trees as they were when the state was held.
///
/// ORDER: a row is read BEFORE the old ones are looked at. The storage thread keeps what it is going
/// to change before it changes it, so a row that was read too late is found there.
struct HeldRows<R> {
    reader: R,
    old: Arc<Mutex<Old>>,
    given_up: Arc<AtomicBool>,
}

struct Held<'a, R> {
    rows: &'a HeldRows<R>,
    rest: &'a dyn Fn(),
}

type Rows = Vec<(Bytes, Bytes)>;

impl<R: StateReader> Held<'_, R> {
    fn may_go_on(&self) -> Result<(), StorageError> {
        if self.rows.given_up.load(Ordering::Relaxed) {
            return Err(StorageError::Unusable("the scrub is given up".into()));
        }
        (self.rest)();
        Ok(())
    }
}

impl<R: StateReader> StateReader for Held<'_, R> {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.may_go_on()?;
        let now = self.rows.reader.get(tree, key)?;
        Ok(locked(&self.rows.old).before(tree, key, now))
    }

    fn range(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Rows, StorageError> {
        let (mut rows, mut from) = (Rows::new(), from.to_vec());
        loop {
            self.may_go_on()?;
            let page = self.rows.reader.range(tree, &from, to, limit)?;
            let (page, following) = upwards(page, to, limit);
            let end = following.as_deref().unwrap_or(to);
            rows.extend(locked(&self.rows.old).laid_over(tree, &from, end, page));
            match following {
                Some(following) if rows.len() < limit => from = following,
                _ => break,
            }
        }
        rows.truncate(limit);
        Ok(rows)
    }

    fn range_back(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Rows, StorageError> {
        let mut rows = self.range(tree, from, to, usize::MAX)?;
        rows.reverse();
        rows.truncate(limit);
        Ok(rows)
    }
}

/// Of a page of at most `limit` rows: where the next one begins, if it may not be the last.
fn upwards(page: Rows, to: &[u8], limit: usize) -> (Rows, Option<Vec<u8>>) {
    let full = page.len() == limit;
    let next = page
        .last()
        .filter(|_| full)
        .map(|(last, _)| following(last));
    (page, next.filter(|next| next.as_slice() < to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::testing::slice;
    use crate::storage::{Change, MemDisk, MemStore};

    const TREE: Tree = Tree::Inboxes;

    fn change(key: u8, value: Option<u8>) -> Change {
        Change {
            tree: TREE,
            key: Bytes::copy_from_slice(&[key]),
            value: value.map(|value| Bytes::copy_from_slice(&[value])),
        }
    }

    fn write(store: &mut MemStore, index: u64, changes: Vec<Change>) {
        let slice = Slice {
            changes,
            ..slice(index)
        };
        let write = Write {
            slice: Some(slice),
            ..Write::default()
        };
        store.write(write).unwrap();
    }

    fn keys(rows: &Rows) -> Vec<(u8, u8)> {
        rows.iter().map(|(key, value)| (key[0], value[0])).collect()
    }

    #[test]
    fn what_is_held_stays_while_rows_are_changed_removed_and_added_under_it() {
        let (mut store, _) = MemStore::open(&MemDisk::new()).unwrap();
        write(
            &mut store,
            1,
            (0..10).map(|n| change(2 * n, Some(n))).collect(),
        );
        let old = Arc::new(Mutex::new(Old::default()));
        let given_up = Arc::new(AtomicBool::new(false));
        let rows = HeldRows {
            reader: store.reader(),
            old: Arc::clone(&old),
            given_up: Arc::clone(&given_up),
        };
        let held = Held {
            rows: &rows,
            rest: &|| (),
        };
        let all = |limit| {
            held.range(TREE, &[0], &[200], limit)
                .map(|rows| keys(&rows))
        };
        let before = all(100).unwrap();
        assert_eq!(before.len(), 10);
        // The first page is half removed, rows come between, one is another, and one comes back.
        let first = vec![
            change(0, None),
            change(2, None),
            change(4, None),
            change(3, Some(9)),
        ];
        let second = vec![change(2, Some(8)), change(18, Some(7)), change(19, Some(6))];
        for (index, changes) in [(2, first), (3, second)] {
            locked(&old)
                .keep(&store.reader(), &changes, usize::MAX)
                .unwrap();
            write(&mut store, index, changes);
        }
        for limit in [1, 2, 3, 10, 100] {
            assert_eq!(all(limit).unwrap(), before[..limit.min(10)], "{limit}");
        }
        assert_eq!(held.get(TREE, &[2]).unwrap().unwrap()[..], [1]);
        assert_eq!(held.get(TREE, &[3]).unwrap(), None);
        let back = held.range_back(TREE, &[0], &[200], 2).unwrap();
        assert_eq!(keys(&back), [(18, 9), (16, 8)]);
        given_up.store(true, Ordering::Relaxed);
        assert!(all(1).is_err());
    }
}
