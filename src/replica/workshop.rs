//! What the storage thread works at beside the log: a state that is held still for snapshots, and
//! the next store while it is built.
//!
//! Everything is done in parts that a batch can wait behind.
//!
//! **A pin** holds the state of one slice still while the trees move on: before a slice is written,
//! the old value of each record that it changes is kept, once. Rows of the pinned state are then
//! the old values laid over the trees. Any part can be read again at any time, so that a lost part
//! costs nothing; the memory is bounded, and a pin that outgrows it is given up. Before that, what
//! every reader has gone by is let go; a peer that begins then waits for those who read.
//!
//! **A rewriting** copies the live records, the log above its new base and the commit records into
//! the next store, while every slice and truncation is written to both, as far as the copy has come. Once
//! all is copied the next store equals this one, whatever was written meanwhile. It is opened and scanned before it takes
//! this one's place; what was written meanwhile waits in memory and follows in parts. The last entries are
//! copied in the very job that exchanges the two: no entry that was acknowledged can be missing in it.
//!
//! **A scrub** reads all that was written long ago again: see [`scrub`].
//!
//! **A rebuilding** is a rewriting whose rows are not copied, because they are wrong, but computed
//! anew: see [`rebuild`].

mod copy;
mod pin;
mod rebuild;
mod scrub;

use super::{Cut, Extra, ExtraDone, Rebuilt, RewriteStep};
use crate::consensus::{
    Mutant, Place, Row, SnapshotChunk, SnapshotHead, SnapshotRead, SnapshotStep, StepDone,
};
use crate::limits::{SNAPSHOT_PIN_BYTES_MAX, SNAPSHOT_ROWS_MAX};
use crate::state_machine::StateMachine;
use crate::storage::{Change, CommitRecord, Slice, StateReader, StorageError, Store, Tree, Write};
use crate::types::entry::Entry;
use crate::types::{Base, Hash, Index, Level};
use bytes::Bytes;
use copy::Rewrite;
use pin::{Admission, Pin};
use rebuild::Rebuild;
use scrub::Scrub;
use std::collections::VecDeque;

/// Above every key of a state tree.
const KEYS_END: [u8; 64] = [0xFF; 64];

/// What the storage thread holds and builds. One for each process run.
#[derive(Default)]
pub struct Workshop {
    pin: Option<Pin>,
    rewrite: Option<Rewrite>,
    rebuild: Option<Rebuild>,
    scrub: Option<Scrub>,
    /// The snapshot that the next store is built from.
    receiving: Option<Box<SnapshotHead>>,
    portions: Portions,
}

/// How much of a state is read at once, and what is kept while it is read.
#[derive(Clone, Copy, Debug)]
pub struct Portions {
    /// Rows in one part of a snapshot or of a rewriting.
    pub rows_max: usize,
    /// Bytes of old records, at most, that hold a state still.
    pub held_bytes: usize,
}

impl Default for Portions {
    fn default() -> Self {
        Self {
            rows_max: SNAPSHOT_ROWS_MAX,
            held_bytes: SNAPSHOT_PIN_BYTES_MAX,
        }
    }
}

fn place(tree: Tree, key: &Bytes) -> Place {
    Place {
        tree: tree as u8,
        key: key.clone(),
    }
}

impl Workshop {
    /// With other portions than a server has: for tests.
    pub fn with_portions(portions: Portions) -> Self {
        Self {
            portions,
            ..Self::default()
        }
    }

    /// BEFORE a write to the live store: what it changes is kept if a state is pinned.
    pub(super) fn before_write<S: Store>(
        &mut self,
        store: &S,
        write: &Write,
    ) -> Result<(), StorageError> {
        if let Some(scrub) = &mut self.scrub {
            scrub.before_write(&store.reader(), write)?;
        }
        let (Some(pin), Some(slice)) = (&mut self.pin, &write.slice) else {
            return Ok(());
        };
        if !pin.keep(&store.reader(), &slice.changes, self.portions.held_bytes)? {
            self.pin = None;
        }
        Ok(())
    }

    /// Is everything that is written wanted by [`Self::after_write`] too?
    pub(super) fn mirrors(&self) -> bool {
        self.rewrite.is_some()
    }

    /// AFTER a write to the live store: the next one gets what its copy would miss. Entries are not
    /// among it, nor records that the copy has not come to: they are copied in order.
    pub(super) fn after_write<S: Store>(&mut self, store: &mut S, mut write: Write) {
        let Some(rewrite) = &mut self.rewrite else {
            return;
        };
        write.append.clear();
        write.truncate_after = write.truncate_after.filter(|after| *after < rewrite.log);
        if let Some(after) = write.truncate_after {
            rewrite.log = after;
            rewrite.commits = rewrite.commits.min(after);
        }
        let copied = rewrite.commits;
        write.commit = write.commit.filter(|record| record.stamp.index <= copied);
        if let Some(slice) = &mut write.slice {
            let mut changes = std::mem::take(&mut slice.changes);
            rewrite.applied = slice.clone();
            changes.retain(|change| rewrite.has_copied(change));
            slice.changes = changes;
        }
        if write == Write::default() {
            return;
        }
        if let Some(write) = rewrite.in_order(write)
            && let Err(error) = store.next_write(write)
        {
            tracing::warn!("the rewriting of the store is given up: {error}");
            self.rewrite = None;
        }
    }

    /// The next store became the live one: nothing that was held or built is of use.
    pub(super) fn installed(&mut self) {
        *self = Self::with_portions(self.portions);
    }

    /// One piece of work.
    pub(super) fn work<S: Store>(
        &mut self,
        store: &mut S,
        extra: Extra,
    ) -> Result<ExtraDone, StorageError> {
        match extra {
            Extra::Read(read, checkpoint) => self.read(store, read, &checkpoint),
            Extra::Step(step) => Ok(self.step(store, step)),
            Extra::Rewrite(step) => self.rewrite(store, step),
            Extra::Cut(cut) => self.cut(store, cut),
            Extra::Scrub(part, checkpoint) => self.scrub(store, part, &checkpoint),
            Extra::Unpin => {
                self.pin = None;
                Ok(ExtraDone::Nothing)
            }
        }
    }

    /// A part of what may go of the log. A copy that is made of it has its base, and must find all above.
    fn cut<S: Store>(&self, store: &mut S, cut: Cut) -> Result<ExtraDone, StorageError> {
        if self.rewrite.is_some() || self.rebuild.is_some() {
            return Ok(ExtraDone::Nothing);
        }
        let at_most = |most| -> Result<Option<Base>, StorageError> {
            let point = store.cut_point(most)?;
            Ok(point.map(|at| base_at(store, at)).transpose()?.flatten())
        };
        let mut base = at_most(cut.base)?;
        if base.as_ref().is_some_and(|base| base.time > cut.keep_since) {
            base = at_most(not_younger(store, cut)?)?;
        }
        let Some(base) = base else {
            return Ok(ExtraDone::Nothing);
        };
        store.cut(&base)?;
        Ok(ExtraDone::Cut(base))
    }

    /// A part of the state for a peer: rows of the state that it names, or else the head of the
    /// one that there is. `checkpoint` is what the trees stand at.
    fn read<S: Store>(
        &mut self,
        store: &S,
        read: SnapshotRead,
        checkpoint: &Slice,
    ) -> Result<ExtraDone, StorageError> {
        let SnapshotRead {
            peer,
            wanted,
            at_least,
        } = read;
        let held = self.pin.as_mut().filter(|pin| pin.index() >= at_least);
        match held.map(|pin| pin.admit(peer, wanted.as_ref())) {
            Some(Admission::Waits) => return Ok(ExtraDone::Nothing),
            Some(Admission::Served) => {}
            Some(Admission::Late) | None => {
                self.pin = base_at(store, checkpoint.applied)?
                    .filter(|base| base.stamp.index == checkpoint.applied)
                    .map(|base| Pin::new(base, checkpoint));
            }
        }
        let Some(pin) = &mut self.pin else {
            return Ok(ExtraDone::Nothing);
        };
        if let Some((name, after)) = wanted.filter(|(name, _)| *name == pin.name) {
            let rows_max = self.portions.rows_max;
            let (rows, done) = pin.rows(&store.reader(), after.as_ref(), rows_max)?;
            if done {
                pin.has_all(peer);
            }
            let chunk = SnapshotChunk {
                name,
                after,
                rows,
                done,
            };
            return Ok(ExtraDone::Rows(peer, chunk));
        }
        Ok(ExtraDone::Head(peer, Box::new(pin.head.clone())))
    }

    /// A step of building the next store from a snapshot. A failure there (a full disk) costs that
    /// store, not this one.
    fn step<S: Store>(&mut self, store: &mut S, step: SnapshotStep) -> ExtraDone {
        self.build(store, step).unwrap_or_else(|error| {
            tracing::warn!("the snapshot cannot be stored: {error}");
            self.receiving = None;
            ExtraDone::Step(StepDone::Checked(false))
        })
    }

    fn build<S: Store>(
        &mut self,
        store: &mut S,
        step: SnapshotStep,
    ) -> Result<ExtraDone, StorageError> {
        match step {
            SnapshotStep::Begin { head, keep } => {
                (self.rewrite, self.scrub) = (None, None);
                store.next_begin(keep.as_ref().unwrap_or(&head.base))?;
                self.rebuild = keep
                    .map(|base| Rebuild::from_state(&head, base))
                    .transpose()?;
                store.next_write(Write {
                    commit: Some(record_of(&head)),
                    slice: Some(slice_of(&head, Vec::new())),
                    ..Write::default()
                })?;
                self.receiving = Some(head);
            }
            SnapshotStep::Rows(rows) => {
                if let Some(head) = &self.receiving {
                    let changes = rows.into_iter().filter_map(change_of).collect();
                    store.next_write(Write {
                        slice: Some(slice_of(head, changes)),
                        ..Write::default()
                    })?;
                }
            }
            SnapshotStep::Keep => {
                let complete = self.receiving.take().is_some() && self.rebuild.is_some();
                let done = if complete {
                    StepDone::Stored
                } else {
                    StepDone::Checked(false)
                };
                return Ok(ExtraDone::Step(done));
            }
            SnapshotStep::Check => {
                let digest = self.receiving.as_ref().map(|head| head.digest);
                let Some(checked) = store.next_check(scan)? else {
                    return Ok(ExtraDone::GoesOn);
                };
                if let Err(sentence) = &checked {
                    tracing::warn!("the snapshot cannot be used: {sentence}");
                }
                let good = digest.is_some() && checked.ok() == digest;
                if !good {
                    store.next_drop()?;
                }
                return Ok(ExtraDone::Step(StepDone::Checked(good)));
            }
        }
        Ok(ExtraDone::Step(StepDone::Stored))
    }

    /// A step of the rewriting. It may fail as long as this store is the live one, but for damage
    /// that it has met there: the next one is not yet read.
    fn rewrite<S: Store>(
        &mut self,
        store: &mut S,
        step: RewriteStep,
    ) -> Result<ExtraDone, StorageError> {
        if matches!(step, RewriteStep::Install) {
            return self.exchange(store);
        }
        let done = self.rewrite_further(store, step);
        done.or_else(|error| self.give_up_rewrite(error))
    }

    fn give_up_rewrite(&mut self, error: StorageError) -> Result<ExtraDone, StorageError> {
        (self.rewrite, self.rebuild) = (None, None);
        if matches!(error, StorageError::Damaged(_)) {
            return Err(error);
        }
        tracing::warn!("the rewriting of the store is given up: {error}");
        Ok(ExtraDone::RewriteFailed)
    }

    fn exchange<S: Store>(&mut self, store: &mut S) -> Result<ExtraDone, StorageError> {
        let Some(rewrite) = &mut self.rewrite else {
            return Ok(ExtraDone::RewriteFailed);
        };
        let more = match rewrite.catch_up(store) {
            Ok(false) if !Mutant::SwapWithoutTail.on() => rewrite.copy_log(store),
            more => more,
        };
        match more {
            Ok(false) => {}
            Ok(true) => return Ok(ExtraDone::GoesOn),
            Err(error) => return self.give_up_rewrite(error),
        }
        let base = rewrite.base.clone();
        store.next_install()?;
        self.scrub = None;
        let rewrite = self.rewrite.take();
        let rebuilt = rewrite.and_then(|rewrite| {
            rewrite.computed.map(|record| Rebuilt {
                applied: rewrite.applied,
                record,
            })
        });
        Ok(match rebuilt {
            Some(rebuilt) => {
                // What was held still was of the trees that are gone; a copy holds the same rows.
                self.pin = None;
                ExtraDone::Rebuilt(Box::new(rebuilt))
            }
            None => ExtraDone::Rewritten(base),
        })
    }

    fn rewrite_further<S: Store>(
        &mut self,
        store: &mut S,
        step: RewriteStep,
    ) -> Result<ExtraDone, StorageError> {
        match step {
            RewriteStep::Begin {
                cut,
                applied,
                least,
            } => {
                let base = not_younger(store, cut)?;
                if base < least {
                    return Ok(ExtraDone::NothingToCut);
                }
                self.begin_rewrite(store, base, applied)
            }
            RewriteStep::Replay => self.begin_replay(store),
            RewriteStep::Rebuild {
                committed,
                digest_every,
            } => self.rebuild_further(store, committed, digest_every),
            RewriteStep::Copy { portions, cut } => {
                let Some(rewrite) = &mut self.rewrite else {
                    return Ok(ExtraDone::RewriteFailed);
                };
                for _ in 0..portions {
                    if !rewrite.rows_done {
                        rewrite.copy_rows(store, self.portions.rows_max)?;
                        continue;
                    }
                    rewrite.cut_anew(store, cut)?;
                    if !rewrite.copy_log(store)? {
                        return Ok(ExtraDone::Copied);
                    }
                }
                Ok(ExtraDone::GoesOn)
            }
            RewriteStep::Check => {
                let Some(rewrite) = &mut self.rewrite else {
                    return Ok(ExtraDone::RewriteFailed);
                };
                // Entries that came since, and what is known of them: the trees may stand there.
                let complete = rewrite.closed.is_some() || Mutant::CheckWithoutTail.on();
                if !complete && rewrite.copy_log(store)? {
                    return Ok(ExtraDone::GoesOn);
                }
                let digest = Some(*rewrite.closed.get_or_insert(rewrite.applied.digest));
                let Some(checked) = store.next_check(scan)? else {
                    return Ok(ExtraDone::GoesOn);
                };
                if checked.as_ref().ok() == digest.as_ref() {
                    return Ok(ExtraDone::Checked);
                }
                tracing::error!("the rewritten store is not used: {checked:?}, not {digest:?}");
                self.drop_rewrite(store)
            }
            RewriteStep::Install => self.exchange(store),
            RewriteStep::Drop => self.drop_rewrite(store),
        }
    }

    fn begin_rewrite<S: Store>(
        &mut self,
        store: &mut S,
        base: Index,
        applied: Slice,
    ) -> Result<ExtraDone, StorageError> {
        let Some(base) = base_at(store, base)? else {
            return Ok(ExtraDone::RewriteFailed);
        };
        store.next_begin(&base)?;
        store.next_write(Write {
            slice: Some(applied.clone()),
            ..Write::default()
        })?;
        (self.receiving, self.rebuild, self.scrub) = (None, None, None);
        self.rewrite = Some(Rewrite {
            rows: None,
            rows_done: false,
            log_begun: false,
            log: base.stamp.index,
            // The record of the base itself is kept, if there is one.
            commits: base.stamp.index.previous(),
            base,
            applied,
            closed: None,
            missed: VecDeque::new(),
            catches_up: false,
            computed: None,
        });
        Ok(ExtraDone::GoesOn)
    }

    fn drop_rewrite<S: Store>(&mut self, store: &mut S) -> Result<ExtraDone, StorageError> {
        if self.rewrite.take().is_some() {
            store.next_drop()?;
        }
        Ok(ExtraDone::RewriteFailed)
    }
}

/// The smallest key above this one.
fn following(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// The base of a log that is cut after this entry; `None` if the entry is not there.
fn base_at<S: Store>(store: &S, index: Index) -> Result<Option<Base>, StorageError> {
    let base = store.base()?;
    if index <= base.stamp.index {
        return Ok(Some(base));
    }
    let founders = if base.founders.is_empty() {
        let first = store.entries(Index(1), 1)?;
        let formation = first.first().and_then(Entry::as_formation);
        formation.map(|formation| formation.members)
    } else {
        Some(base.founders)
    };
    let entries = store.entries(index, 1)?;
    let entry = entries.first().filter(|entry| entry.index() == index);
    Ok(founders.zip(entry).map(|(founders, entry)| Base {
        stamp: entry.stamp(),
        hash: entry.hash(),
        time: entry.time(),
        founders,
    }))
}

/// The highest index up to the cut's base whose entry is not younger than that allows: times never fall
/// along the log.
fn not_younger<S: Store>(store: &S, cut: Cut) -> Result<Index, StorageError> {
    let Cut { base, keep_since } = cut;
    let mut low = store.base()?.stamp.index;
    let mut high = base;
    while low < high {
        let middle = Index(low.0 + (high.0 - low.0).div_ceil(2));
        let entry = store.entries(middle, 1)?;
        if entry.first().is_some_and(|e| e.time() <= keep_since) {
            low = middle;
        } else {
            high = middle.previous();
        }
    }
    Ok(low)
}

fn change_of(row: Row) -> Option<Change> {
    let tree = Tree::ALL.get(usize::from(row.place.tree)).copied()?;
    Some(Change {
        tree,
        key: row.place.key,
        value: Some(row.value),
    })
}

/// The slice that a snapshot stands at.
pub(super) fn slice_of(head: &SnapshotHead, changes: Vec<Change>) -> Slice {
    Slice {
        applied: head.base.stamp.index,
        hash: head.base.hash,
        digest: head.digest,
        members: head.members.clone(),
        machine: head.machine.clone(),
        changes,
    }
}

/// The commit record of a snapshot's last entry.
pub(super) fn record_of(head: &SnapshotHead) -> CommitRecord {
    CommitRecord {
        stamp: head.base.stamp,
        hash: head.base.hash,
        digest: head.digest,
        time: head.base.time,
    }
}

/// Whether this build may serve such a state is judged before it is stored, and when it is opened
/// to serve; what is compared here are sums.
fn scan(slice: &Slice, reader: &dyn StateReader) -> Result<Hash, StorageError> {
    StateMachine::open_knowing(Some(slice), Level(u32::MAX))?.scan_digest(reader)
}
