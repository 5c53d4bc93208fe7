//! Values as the machine works with them, and a cache of those that the store has too.
//!
//! A record that is changed by every message (a head, a client) would be decoded and encoded for
//! each; it is kept decoded instead, and encoded when a slice or a scan wants its bytes. What is
//! only read (tokens, accounts, names) is kept too, so that a message asks the store nothing.
//!
//! Nothing here is state: with an empty cache the machine computes the same, only slower.

use super::records::{Key, encode};
use crate::storage::Tree;
use bytes::Bytes;
use indexmap::IndexMap;
use serde::Serialize;
use std::any::Any;
use std::sync::Arc;

/// Bytes of one of the two generations, of the values as they are stored and of their places.
const GENERATION_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What a decoded record and its place are taken to weigh besides.
const RECORD_BYTES: usize = 512;

/// By key. Its hashes differ in each process (names are chosen by clients), its order does not: it
/// follows from what was inserted and removed alone.
pub(super) type KeyMap<V> = IndexMap<Key, V, foldhash::fast::RandomState>;

/// A decoded record.
pub(super) trait Record: Any + Send + Sync {
    /// See [`encode`].
    fn encode(&self, spare: &mut Vec<u8>) -> Bytes;
}

impl<T: Serialize + Any + Send + Sync> Record for T {
    fn encode(&self, spare: &mut Vec<u8>) -> Bytes {
        encode(self, spare)
    }
}

/// A record's value: as it is stored, or decoded.
#[derive(Clone)]
pub(super) enum Value {
    Bytes(Bytes),
    /// As it is stored too, and growing: see [`super::packed`].
    Packed(Arc<Vec<u8>>),
    Record(Arc<dyn Record>),
}

impl Value {
    /// As it is stored.
    pub fn bytes(&self) -> Bytes {
        self.bytes_by(&mut Vec::new())
    }

    /// The same for one who asks for many: a record is gathered in `spare`.
    pub fn bytes_by(&self, spare: &mut Vec<u8>) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Packed(bytes) => Bytes::copy_from_slice(bytes),
            Self::Record(record) => record.encode(spare),
        }
    }

    /// The decoded record, if it is one and of this type, or else the bytes. The count of those who
    /// share it is left alone: that is an atomic operation each time.
    pub fn into_record<T: Record>(self) -> Result<Arc<T>, Bytes> {
        match self {
            Self::Record(record) if (&*record as &dyn Any).is::<T>() => {
                let record: Arc<dyn Any + Send + Sync> = record;
                Ok(record.downcast().expect("its type is looked at above"))
            }
            other => Err(other.bytes()),
        }
    }
}

/// Values that are in the store as they are here.
///
/// Two generations: when the young one is full it becomes the old one, and the one that was old
/// goes. What is used moves to the young one, so that what goes has not been used for long.
#[derive(Default)]
pub(super) struct Cache {
    young: [KeyMap<Cached>; Tree::ALL.len()],
    old: [KeyMap<Cached>; Tree::ALL.len()],
    young_bytes: usize,
}

struct Cached {
    value: Value,
    /// As it is stored.
    bytes: usize,
}

impl Cache {
    pub fn get(&mut self, tree: Tree, key: &[u8]) -> Option<Value> {
        if let Some(cached) = self.young[tree as usize].get(key) {
            return Some(cached.value.clone());
        }
        let (key, cached) = self.old[tree as usize].swap_remove_entry(key)?;
        let value = cached.value.clone();
        self.put(tree, key, cached.value, cached.bytes);
        Some(value)
    }

    /// The store has this value, of so many bytes there.
    pub fn put(&mut self, tree: Tree, key: Key, value: Value, bytes: usize) {
        if self.young_bytes >= GENERATION_BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.old[tree as usize].swap_remove(&key);
        let before = self.young[tree as usize].insert(key, Cached { value, bytes });
        self.young_bytes += RECORD_BYTES + bytes;
        self.unweigh(before.as_ref());
    }

    /// It has left the young generation.
    fn unweigh(&mut self, gone: Option<&Cached>) {
        self.young_bytes -= gone.map_or(0, |gone| RECORD_BYTES + gone.bytes);
    }

    /// What the store has, to be changed: the cache forgets it.
    pub fn take(&mut self, tree: Tree, key: &[u8]) -> Option<Value> {
        let young = self.young[tree as usize].swap_remove(key);
        self.unweigh(young.as_ref());
        let cached = young.or_else(|| self.old[tree as usize].swap_remove(key))?;
        Some(cached.value)
    }

    /// The store has another value, or will have.
    pub fn forget(&mut self, tree: Tree, key: &[u8]) {
        self.take(tree, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(cache: &mut Cache, tree: Tree, key: &[u8], byte: u8) {
        let bytes = Bytes::from(vec![byte; 64 * 1024]);
        let length = bytes.len();
        cache.put(tree, Key::from_slice(key), Value::Bytes(bytes), length);
    }

    fn first(cache: &mut Cache, key: &'static [u8]) -> Option<u8> {
        cache.get(Tree::Users, key).map(|value| value.bytes()[0])
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let mut cache = Cache::default();
        put(&mut cache, Tree::Users, b"used", 1);
        put(&mut cache, Tree::Users, b"idle", 2);
        for number in 0..1_000u32 {
            put(&mut cache, Tree::Inboxes, &number.to_be_bytes(), 3);
            assert_eq!(first(&mut cache, b"used"), Some(1));
        }
        assert_eq!(first(&mut cache, b"idle"), None);
    }

    #[test]
    fn a_newer_value_hides_an_old_generations_and_what_is_forgotten_is_in_neither() {
        let mut cache = Cache::default();
        put(&mut cache, Tree::Users, b"k", 1);
        cache.old = std::mem::take(&mut cache.young);
        put(&mut cache, Tree::Users, b"k", 2);
        assert_eq!(first(&mut cache, b"k"), Some(2));
        cache.old = std::mem::take(&mut cache.young);
        cache.forget(Tree::Users, b"k");
        assert_eq!(first(&mut cache, b"k"), None);
    }

    #[test]
    fn what_is_taken_is_in_neither() {
        let mut cache = Cache::default();
        put(&mut cache, Tree::Users, b"k", 1);
        let taken = cache.take(Tree::Users, b"k");
        assert_eq!(taken.map(|value| value.bytes()[0]), Some(1));
        assert!(cache.take(Tree::Users, b"k").is_none());
        put(&mut cache, Tree::Users, b"k", 2);
        cache.old = std::mem::take(&mut cache.young);
        let taken = cache.take(Tree::Users, b"k");
        assert_eq!(taken.map(|value| value.bytes()[0]), Some(2));
        assert_eq!(first(&mut cache, b"k"), None);
    }

    #[test]
    fn a_record_of_another_type_is_none() {
        let value = Value::Record(Arc::new(7u64));
        assert_eq!(value.clone().into_record::<u64>().as_deref(), Ok(&7));
        assert_eq!(value.clone().into_record::<u32>(), Err(value.bytes()));
    }
}
