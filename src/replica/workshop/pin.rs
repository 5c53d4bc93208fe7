//! A state that is held still while the trees move on.

use super::{KEYS_END, following, place};
use crate::consensus::{Place, Row, SnapshotHead};
use crate::limits::SNAPSHOT_BYTES_MAX;
use crate::storage::{Change, Slice, StateReader, StorageError, Tree};
use crate::types::{Base, Hash, Index, ReplicaId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// A reader that has not asked while another waited so often for it to end is gone.
const READER_PATIENCE: u32 = 16;

/// What the records that changed since a state was held were then.
#[derive(Default)]
pub(super) struct Old {
    /// `None`: not there.
    rows: BTreeMap<Place, Option<Bytes>>,
    bytes: usize,
    /// Nobody reads up to here any more: nothing is kept of that.
    passed: Option<Place>,
}

/// A state that is held still for peers.
pub(super) struct Pin {
    pub(super) head: SnapshotHead,
    pub(super) name: Hash,
    old: Old,
    readers: BTreeMap<ReplicaId, Reader>,
}

/// Whether a peer can be given what it asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    Served,
    /// This state is not whole any more from there on, and others still read it.
    Waits,
    /// It is not whole any more, and nobody reads it.
    Late,
}

/// A peer that reads a state that is held still.
struct Reader {
    /// It has everything up to here.
    has: Option<Place>,
    /// How often another that cannot be served has waited for this one since it last asked.
    waited_for: u32,
}

impl Pin {
    /// Of what the trees stand at, whose last entry is this base.
    pub(super) fn new(base: Base, checkpoint: &Slice) -> Self {
        let head = SnapshotHead {
            base,
            digest: checkpoint.digest,
            members: checkpoint.members.clone(),
            machine: checkpoint.machine.clone(),
        };
        Self {
            name: head.name(),
            head,
            old: Old::default(),
            readers: BTreeMap::new(),
        }
    }

    /// The state is that after this entry.
    pub(super) fn index(&self) -> Index {
        self.head.base.stamp.index
    }

    /// See [`Old::keep`]. Much of it is not needed where every reader has gone by.
    pub(super) fn keep(
        &mut self,
        reader: &impl StateReader,
        changes: &[Change],
        bytes_max: usize,
    ) -> Result<bool, StorageError> {
        let fits = self.old.keep(reader, changes, bytes_max)?;
        if self.old.bytes > bytes_max / 4
            && let Some(Some(slowest)) = self.readers.values().map(|reader| &reader.has).min()
        {
            self.old.pass(slowest);
            return Ok(self.old.bytes <= bytes_max);
        }
        Ok(fits)
    }

    /// A peer asks for rows of a state after a place, or what state there is.
    pub(super) fn admit(
        &mut self,
        peer: ReplicaId,
        wanted: Option<&(Hash, Option<Place>)>,
    ) -> Admission {
        if let Some(reader) = self.readers.get_mut(&peer)
            && wanted.is_none()
        {
            // It is slow, and is offered the state again: it goes on where it is.
            reader.waited_for = 0;
            return Admission::Served;
        }
        let this = wanted.filter(|(name, _)| *name == self.name);
        let has = this.and_then(|(_, after)| after.as_ref());
        if has >= self.old.passed.as_ref() {
            let reader = Reader {
                has: has.cloned(),
                waited_for: 0,
            };
            self.readers.insert(peer, reader);
            return Admission::Served;
        }
        self.readers.remove(&peer);
        for reader in self.readers.values_mut() {
            reader.waited_for += 1;
        }
        let waited_for = |reader: &Reader| reader.waited_for < READER_PATIENCE;
        self.readers.retain(|_, reader| waited_for(reader));
        if self.readers.is_empty() {
            Admission::Late
        } else {
            Admission::Waits
        }
    }

    /// A peer was given everything, and is offered it again until it stands there. If the last part is
    /// lost and much changes meanwhile, it begins anew.
    pub(super) fn has_all(&mut self, peer: ReplicaId) {
        if let Some(reader) = self.readers.get_mut(&peer) {
            reader.has = Some(Place {
                tree: u8::MAX,
                key: Bytes::new(),
            });
        }
    }

    /// Rows after a place, in order, and whether these were the last ones.
    pub(super) fn rows(
        &self,
        reader: &impl StateReader,
        after: Option<&Place>,
        rows_max: usize,
    ) -> Result<(Vec<Row>, bool), StorageError> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        for tree in Tree::ALL {
            if after.is_some_and(|after| after.tree > tree as u8) {
                continue;
            }
            let mut from = match after {
                Some(after) if after.tree == tree as u8 => following(&after.key),
                _ => Vec::new(),
            };
            loop {
                let page = reader.range(tree, &from, &KEYS_END, rows_max)?;
                let full = page.len() == rows_max;
                let to = match page.last() {
                    Some((last, _)) if full => following(last),
                    _ => KEYS_END.to_vec(),
                };
                for (key, value) in self.old.laid_over(tree, &from, &to, page) {
                    bytes += key.len() + value.len();
                    let place = place(tree, &key);
                    rows.push(Row { place, value });
                    if rows.len() >= rows_max || bytes >= SNAPSHOT_BYTES_MAX {
                        return Ok((rows, false));
                    }
                }
                if !full {
                    break;
                }
                from = to;
            }
        }
        Ok((rows, true))
    }
}

/// Bytes that an old record takes, about.
fn weight(place: &Place, old: Option<&Bytes>) -> usize {
    64 + place.key.len() + old.map_or(0, Bytes::len)
}

impl Old {
    /// BEFORE these changes: keeps what they replace, once. False: that would be too much.
    pub(super) fn keep(
        &mut self,
        reader: &impl StateReader,
        changes: &[Change],
        bytes_max: usize,
    ) -> Result<bool, StorageError> {
        for change in changes {
            let place = place(change.tree, &change.key);
            if Some(&place) <= self.passed.as_ref() || self.rows.contains_key(&place) {
                continue;
            }
            let old = reader.get(change.tree, &change.key)?;
            self.bytes += weight(&place, old.as_ref());
            self.rows.insert(place, old);
        }
        Ok(self.bytes <= bytes_max)
    }

    /// Nobody reads up to this place any more.
    fn pass(&mut self, upto: &Place) {
        if Some(upto) <= self.passed.as_ref() {
            return;
        }
        while let Some(first) = self.rows.first_entry()
            && first.key() <= upto
        {
            self.bytes -= weight(first.key(), first.get().as_ref());
            first.remove();
        }
        self.passed = Some(upto.clone());
    }

    /// What was at this place then; `now` is what is there.
    pub(super) fn before(&self, tree: Tree, key: &[u8], now: Option<Bytes>) -> Option<Bytes> {
        let key = Bytes::copy_from_slice(key);
        let old = self.rows.get(&place(tree, &key));
        old.cloned().unwrap_or(now)
    }

    /// The page as it was when the state was held.
    pub(super) fn laid_over(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        page: Vec<(Bytes, Bytes)>,
    ) -> BTreeMap<Bytes, Bytes> {
        let mut rows: BTreeMap<Bytes, Bytes> = page.into_iter().collect();
        let at = |key: &[u8]| Place {
            tree: tree as u8,
            key: Bytes::copy_from_slice(key),
        };
        let changed = (Bound::Included(at(from)), Bound::Excluded(at(to)));
        for (place, old) in self.rows.range(changed) {
            match old {
                Some(value) => drop(rows.insert(place.key.clone(), value.clone())),
                None => drop(rows.remove(&place.key)),
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::{SnapshotChunk, SnapshotRead};
    use crate::replica::testing::slice;
    use crate::replica::{Extra, ExtraDone, Portions, Workshop};
    use crate::storage::{MemDisk, MemStore, Store, Write};

    const RECORDS: u64 = 200;

    fn change(key: u64, value: u64) -> Change {
        Change {
            tree: Tree::Inboxes,
            key: Bytes::copy_from_slice(&key.to_be_bytes()),
            value: Some(Bytes::copy_from_slice(&value.to_be_bytes())),
        }
    }

    /// A store, the workshop beside it, and what its trees stand at.
    struct Bench {
        store: MemStore,
        workshop: Workshop,
        checkpoint: Slice,
    }

    impl Bench {
        fn new(held_bytes: usize) -> Self {
            let (store, _) = MemStore::open(&MemDisk::new()).unwrap();
            let mut bench = Self {
                store,
                workshop: Workshop::with_portions(Portions {
                    rows_max: 2,
                    held_bytes,
                }),
                checkpoint: slice(0),
            };
            bench.change((0..RECORDS).map(|key| change(2 * key, key)).collect());
            bench
        }

        /// The trees move on by a slice, without entries: the log has none.
        fn change(&mut self, changes: Vec<Change>) {
            self.checkpoint.digest.0[0] += 1;
            let slice = Slice {
                changes,
                ..self.checkpoint.clone()
            };
            let write = Write {
                slice: Some(slice),
                ..Write::default()
            };
            self.workshop.before_write(&self.store, &write).unwrap();
            self.store.write(write).unwrap();
        }

        fn ask(&mut self, peer: u16, wanted: Option<(Hash, Option<Place>)>) -> ExtraDone {
            let read = SnapshotRead {
                peer: ReplicaId(peer),
                wanted,
                at_least: Index(0),
            };
            let read = Extra::Read(read, self.checkpoint.clone());
            self.workshop.work(&mut self.store, read).unwrap()
        }

        fn head(&mut self, peer: u16) -> Option<Hash> {
            match self.ask(peer, None) {
                ExtraDone::Head(_, head) => Some(head.name()),
                _ => None,
            }
        }

        fn rows(&mut self, peer: u16, name: Hash, after: Option<&Place>) -> Option<SnapshotChunk> {
            match self.ask(peer, Some((name, after.cloned()))) {
                ExtraDone::Rows(_, chunk) => Some(chunk),
                _ => None,
            }
        }
    }

    /// Every record is changed, and one is added behind each, several times while they are read. That
    /// is more than may be kept: the reader ends because what it has gone by is let go.
    #[test]
    fn a_state_that_changes_more_than_may_be_kept_is_read_to_its_end() {
        let mut bench = Bench::new(20_000);
        let name = bench.head(2).unwrap();
        let mut place: Option<Place> = None;
        let mut rows = Vec::new();
        for round in 0.. {
            let chunk = bench.rows(2, name, place.as_ref()).unwrap();
            place = chunk.rows.last().map(|row| row.place.clone());
            rows.extend(chunk.rows);
            // A slow one is offered it again, also when it has everything.
            assert_eq!(bench.head(2), Some(name));
            if chunk.done {
                break;
            }
            // Spread over all of them, as messages are over inboxes.
            let spread = (0..8).map(|n| (round * 8 + n) * 37 % (2 * RECORDS));
            bench.change(spread.map(|key| change(key, 1_000 + key)).collect());
        }
        let values: Vec<u64> = rows
            .iter()
            .map(|row| u64::from_be_bytes(row.value.as_ref().try_into().unwrap()))
            .collect();
        assert_eq!(values, (0..RECORDS).collect::<Vec<_>>());
        bench.change((0..RECORDS).map(|key| change(key, 7)).collect());
        assert_eq!(bench.head(2), Some(name), "while it checks what it has");
        assert!(bench.rows(2, name, None).is_none(), "it has lost it");
        assert_ne!(bench.head(2), Some(name));
    }

    #[test]
    fn one_that_stands_still_costs_no_more_than_may_be_kept() {
        let mut bench = Bench::new(20_000);
        let name = bench.head(2).unwrap();
        let place = bench.rows(2, name, None).unwrap().rows[0].place.clone();
        bench.change((0..2 * RECORDS).map(|key| change(key, 7)).collect());
        assert!(bench.rows(2, name, Some(&place)).is_none(), "given up");
    }

    #[test]
    fn a_peer_that_begins_late_waits_for_those_who_read() {
        let mut bench = Bench::new(20_000);
        let name = bench.head(2).unwrap();
        let mut place = None;
        for _ in 0..RECORDS / 4 {
            let chunk = bench.rows(2, name, place.as_ref()).unwrap();
            place = chunk.rows.last().map(|row| row.place.clone());
        }
        bench.change(
            (0..2 * RECORDS)
                .step_by(3)
                .map(|key| change(key, 7))
                .collect(),
        );
        // The first half is not whole any more.
        for _ in 1..READER_PATIENCE {
            assert!(bench.head(3).is_none());
        }
        assert!(bench.rows(2, name, place.as_ref()).is_some(), "goes on");
        for _ in 1..READER_PATIENCE {
            assert!(bench.head(3).is_none(), "it has asked again");
        }
        // It never asks again.
        let newer = bench.head(3).unwrap();
        let chunk = bench.rows(3, newer, None).unwrap();
        assert_eq!(chunk.rows[0].value.as_ref(), 7_u64.to_be_bytes());
    }
}
