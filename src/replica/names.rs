//! All account names, sorted, as a value: a snapshot costs one reference count, and adding a name
//! while snapshots are held copies one chunk, not a million names.

use std::sync::Arc;

/// Names in one chunk before it is split.
const CHUNK_MAX: usize = 512;

/// Sorted, without doubles. Cloning takes a snapshot.
///
/// Invariants: no chunk is empty; all names are ascending across chunks; `count` is their number.
#[derive(Clone, Debug, Default)]
pub struct Names {
    chunks: Arc<Vec<Arc<Vec<String>>>>,
    count: usize,
}

impl Names {
    /// From names in any order.
    pub fn new(mut names: Vec<String>) -> Self {
        names.sort_unstable();
        names.dedup();
        let count = names.len();
        let mut chunks = Vec::with_capacity(count / CHUNK_MAX + 1);
        let mut names = names.into_iter().peekable();
        while names.peek().is_some() {
            // Half full, so that the first additions split nothing.
            let chunk: Vec<String> = names.by_ref().take(CHUNK_MAX / 2).collect();
            chunks.push(Arc::new(chunk));
        }
        Self {
            chunks: Arc::new(chunks),
            count,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Ascending, from the first name that is at least `from`.
    pub fn range_from<'a>(&'a self, from: &'a str) -> impl Iterator<Item = &'a str> {
        let at = self.chunk_of(from);
        self.chunks[at.min(self.chunks.len())..]
            .iter()
            .flat_map(|chunk| chunk.iter())
            .map(String::as_str)
            .skip_while(move |name| *name < from)
    }

    /// The very same snapshot: nothing was added or removed between.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.range_from("")
    }

    /// Adds a name; false if it was there.
    pub(super) fn insert(&mut self, name: &str) -> bool {
        let at = self.chunk_of(name);
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(at) else {
            chunks.push(Arc::new(vec![name.to_owned()]));
            self.count += 1;
            return true;
        };
        let chunk = Arc::make_mut(chunk);
        let Err(place) = chunk.binary_search_by(|known| known.as_str().cmp(name)) else {
            return false;
        };
        chunk.insert(place, name.to_owned());
        if chunk.len() > CHUNK_MAX {
            let upper = chunk.split_off(CHUNK_MAX / 2);
            chunks.insert(at + 1, Arc::new(upper));
        }
        self.count += 1;
        true
    }

    /// Removes a name; false if it was not there.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let at = self.chunk_of(name);
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(at) else {
            return false;
        };
        let chunk = Arc::make_mut(chunk);
        let Ok(place) = chunk.binary_search_by(|known| known.as_str().cmp(name)) else {
            return false;
        };
        chunk.remove(place);
        if chunk.is_empty() {
            chunks.remove(at);
        }
        self.count -= 1;
        true
    }

    /// The chunk that holds `name`, or would: the last one that begins at or before it.
    fn chunk_of(&self, name: &str) -> usize {
        self.chunks
            .partition_point(|chunk| chunk.first().is_some_and(|first| first.as_str() <= name))
            .saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn it_behaves_as_a_sorted_set_across_chunks() {
        let mut model = BTreeSet::new();
        let mut names = Names::default();
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            let name = format!("u{:04}", (state >> 33) % 3_000);
            if (state >> 20).is_multiple_of(3) {
                assert_eq!(names.remove(&name), model.remove(&name));
            } else {
                assert_eq!(names.insert(&name), model.insert(name));
            }
        }
        assert!(names.chunks.len() > 2 && names.len() == model.len());
        assert!(names.iter().eq(model.iter().map(String::as_str)));
        for from in ["", "u0500", "u1234x", "u2999", "v"] {
            let expected = model.range(from.to_owned()..).map(String::as_str);
            assert!(names.range_from(from).eq(expected), "from {from}");
        }
        let built = Names::new(model.iter().rev().cloned().collect());
        assert!(built.iter().eq(names.iter()));
    }

    #[test]
    fn a_snapshot_does_not_change_and_an_addition_copies_one_chunk() {
        let mut names = Names::new((0..2_000).map(|n| format!("n{n:05}")).collect());
        let before = names.clone();
        assert!(names.insert("n00000x"));
        assert_eq!((before.len(), names.len()), (2_000, 2_001));
        let copied = before
            .chunks
            .iter()
            .zip(names.chunks.iter())
            .filter(|(old, new)| !Arc::ptr_eq(old, new))
            .count();
        assert_eq!(copied, 1);
    }
}
