//! One entry's effect while it is being computed.
//!
//! All writes of the machine go through here: into the overlay, and into the sums of the digest.

use super::Notice;
use super::cache::{Record, Value};
use super::digest::Lanes;
use super::machine::Totals;
use super::overlay::{Growing, Overlay, View};
use super::packed::{self, Packed};
use super::records::{Cleanup, FRONTS, Head, Key, decode, keys};
use crate::storage::{StateReader, StorageError, Tree};
use crate::types::{Index, Level, UserId, WallTime};
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// From this level on the record that is being filled stands in the row that changes with it: an
/// inbox's open block in its head, a client's replies in the client. See [`super::records::Apart`].
const ROWS_ARE_JOINED: Level = Level(3);

/// An entry in progress. Call [`Transaction::finish`] at its end: heads are kept here and written
/// once, however often one entry changes them.
pub(super) struct Transaction<'a> {
    reader: &'a dyn StateReader,
    overlay: &'a mut Overlay,
    totals: &'a mut Totals,
    /// Each user once. Nearly every entry concerns one or two; those that concern many work on one
    /// after the other, so that the last one is looked at first.
    heads: Vec<Loaded>,
    cleanups: u8,
    pub notices: Vec<Notice>,
    /// The entry's index: ids of what it creates.
    pub index: Index,
    /// The entry's time.
    pub time: WallTime,
}

/// What became of an item for a packed record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Packing {
    /// It is in it.
    Done,
    /// There is no room in it.
    Full,
    /// There is no such record.
    Missing,
}

struct Loaded {
    user: UserId,
    /// The user's sum before this entry.
    before: Lanes,
    /// `None`: removed by this entry.
    head: Option<Arc<Head>>,
}

impl<'a> Transaction<'a> {
    pub fn new(
        reader: &'a dyn StateReader,
        overlay: &'a mut Overlay,
        totals: &'a mut Totals,
        index: Index,
        time: WallTime,
    ) -> Self {
        Self {
            reader,
            overlay,
            totals,
            heads: Vec::with_capacity(1),
            cleanups: 0,
            notices: Vec::new(),
            index,
            time,
        }
    }

    /// Reads what this entry and those before it have written. Heads are the exception.
    pub fn view(&self) -> View<'_> {
        View {
            reader: self.reader,
            overlay: self.overlay,
            cached: true,
        }
    }

    pub fn read<T>(&self, tree: Tree, key: &[u8]) -> Result<Option<T>, StorageError>
    where
        T: Record + DeserializeOwned + Clone,
    {
        self.view().read(tree, key)
    }

    pub fn put<T: Record>(&mut self, tree: Tree, key: Key, record: T) {
        self.put_back(tree, key, Arc::new(record));
    }

    /// A record to be changed in place. Nobody sees it until it is put back, and it MUST be.
    pub fn take<T>(&mut self, tree: Tree, key: &[u8]) -> Result<Option<Arc<T>>, StorageError>
    where
        T: Record + DeserializeOwned,
    {
        let Some(value) = self.overlay.take(self.reader, tree, key)? else {
            return Ok(None);
        };
        match value.into_record() {
            Ok(record) => Ok(Some(record)),
            Err(bytes) => Ok(Some(Arc::new(decode(tree, key, &bytes)?))),
        }
    }

    pub fn put_back<T: Record>(&mut self, tree: Tree, key: Key, record: Arc<T>) {
        self.overlay.put(tree, key, Some(Value::Record(record)));
    }

    /// A packed record that was filled elsewhere.
    pub fn put_packed(&mut self, tree: Tree, key: Key, record: Arc<Vec<u8>>) {
        self.overlay.put(tree, key, Some(Value::Packed(record)));
    }

    /// A new packed record with one item.
    pub fn pack(&mut self, tree: Tree, key: Key, item: &[u8], lanes: &Lanes) {
        let record = Value::Packed(Arc::new(packed::create(item, lanes)));
        self.overlay.put(tree, key, Some(record));
    }

    /// One more item in a packed record.
    pub fn pack_more(
        &mut self,
        tree: Tree,
        key: &Key,
        item: &[u8],
        lanes: &Lanes,
        bytes_max: usize,
    ) -> Result<Packing, StorageError> {
        let has_room = |record: &[u8]| packed::has_room(record, item, bytes_max);
        match self.overlay.packed_mut(tree, key, has_room) {
            Growing::Room(record) => {
                packed::append(record, item, lanes);
                return Ok(Packing::Done);
            }
            Growing::Full => return Ok(Packing::Full),
            Growing::NotHeld => {}
        }
        let Some(stored) = self.view().packed(tree, key)? else {
            return Ok(Packing::Missing);
        };
        let mut record = Packed::open(tree, key, stored)?.into_bytes();
        if !has_room(&record) {
            return Ok(Packing::Full);
        }
        packed::append(&mut record, item, lanes);
        let record = Value::Packed(Arc::new(record));
        self.overlay.put(tree, Key::from_slice(key), Some(record));
        Ok(Packing::Done)
    }

    pub fn remove(&mut self, tree: Tree, key: Key) {
        self.overlay.put(tree, key, None);
    }

    /// The head of a user. That of the front doors comes to be when it is first asked for; an
    /// account without one is damage.
    pub fn head(&mut self, user: UserId) -> Result<&mut Head, StorageError> {
        let head = self.loaded(user)?.head.as_mut();
        head.map(Arc::make_mut).ok_or_else(|| no_head(user))
    }

    /// What is here of a user's head. It is taken if this entry has not asked for it before.
    fn loaded(&mut self, user: UserId) -> Result<&mut Loaded, StorageError> {
        let at = self.heads.iter().rposition(|loaded| loaded.user == user);
        if let Some(at) = at {
            return Ok(&mut self.heads[at]);
        }
        match self.take::<Head>(Tree::Users, &keys::head(user))? {
            Some(head) => self.heads.push(Loaded {
                user,
                before: head.sum,
                head: Some(head),
            }),
            None if user == FRONTS => self.create_head(user),
            None => return Err(no_head(user)),
        }
        Ok(self.heads.last_mut().expect("it was put there above"))
    }

    /// The head of an account that this entry creates.
    pub fn create_head(&mut self, user: UserId) {
        self.heads.push(Loaded {
            user,
            before: Lanes::ZERO,
            head: Some(Arc::new(Head::new(user))),
        });
    }

    /// Removes an account's head: with it everything that the account had leaves the digest.
    pub fn remove_head(&mut self, user: UserId) -> Result<(), StorageError> {
        self.head(user)?;
        self.loaded(user)?.head = None;
        Ok(())
    }

    pub fn add(&mut self, user: UserId, lanes: &Lanes) -> Result<(), StorageError> {
        self.head(user)?.sum.add(lanes);
        Ok(())
    }

    pub fn subtract(&mut self, user: UserId, lanes: &Lanes) -> Result<(), StorageError> {
        self.head(user)?.sum.subtract(lanes);
        Ok(())
    }

    /// The level in force.
    pub fn level(&self) -> Level {
        self.totals.level
    }

    /// Is what is being filled kept in the row of what it belongs to?
    pub fn joins_rows(&self) -> bool {
        self.level() >= ROWS_ARE_JOINED
    }

    /// Adds logical records that are in no user's sum.
    pub fn add_to_total(&mut self, lanes: &Lanes) {
        self.totals.total.add(lanes);
    }

    pub fn subtract_from_total(&mut self, lanes: &Lanes) {
        self.totals.total.subtract(lanes);
    }

    /// Notes rows that nobody can see any more; later entries remove them, a few each.
    pub fn clean_up(&mut self, tree: Tree, (from, to): (Key, Key)) {
        let key = keys::cleanup(self.index, self.cleanups);
        let cleanup = Cleanup {
            tree: tree as u8,
            from: from.to_vec(),
            to: to.to_vec(),
        };
        self.put(Tree::Sessions, key, cleanup);
        self.cleanups += 1;
        self.totals.cleanups += 1;
    }

    /// Removes the next few of those rows, at most so many.
    pub fn clean_up_some(&mut self, mut rows_max: usize) -> Result<(), StorageError> {
        while self.totals.cleanups > 0 && rows_max > 0 {
            let removed = self.clean_up_range(rows_max)?;
            // An empty range costs something as well.
            rows_max -= removed.max(1);
        }
        Ok(())
    }

    /// Removes rows of the oldest pending range. Returns how many.
    fn clean_up_range(&mut self, rows_max: usize) -> Result<usize, StorageError> {
        let (from, to) = keys::of_prefix(b'x');
        let pending = self.view().range(Tree::Sessions, &from, &to, 1)?;
        let Some((key, bytes)) = pending.into_iter().next() else {
            let what = "sessions: a pending cleanup is missing".to_owned();
            return Err(StorageError::Damaged(what));
        };
        let mut cleanup: Cleanup = decode(Tree::Sessions, &key, &bytes)?;
        let tree = Tree::ALL[usize::from(cleanup.tree) % Tree::ALL.len()];
        let rows = self
            .view()
            .range(tree, &cleanup.from, &cleanup.to, rows_max)?;
        let removed = rows.len();
        for (row, _) in rows {
            cleanup.from = super::overlay::after(&row).to_vec();
            self.remove(tree, Key::from_slice(&row));
        }
        if removed < rows_max {
            self.remove(Tree::Sessions, Key::from_slice(&key));
            self.totals.cleanups -= 1;
        } else {
            self.put(Tree::Sessions, Key::from_slice(&key), cleanup);
        }
        Ok(removed)
    }

    /// Writes the heads and brings the total up to date.
    pub fn finish(mut self) -> Vec<Notice> {
        for loaded in std::mem::take(&mut self.heads) {
            let key = keys::head(loaded.user);
            self.totals.total.subtract(&loaded.before);
            match loaded.head {
                Some(head) => {
                    self.totals.total.add(&head.sum);
                    self.put_back(Tree::Users, key, head);
                }
                None => self.remove(Tree::Users, key),
            }
        }
        self.notices
    }
}

fn no_head(user: UserId) -> StorageError {
    StorageError::Damaged(format!("users: user {user} has no head"))
}
