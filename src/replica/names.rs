//! All account names, sorted, as a value: a snapshot costs one reference count, and adding a name
//! while snapshots are held copies one chunk, not a million names.

use std::cmp::Ordering;
use std::sync::Arc;

/// Names in one chunk before it is split.
const CHUNK_MAX: usize = 512;

/// Consecutive names, one after the other in one text: a million are some 16 MB, and as strings were 40.
#[derive(Clone, Debug, Default)]
struct Chunk {
    text: String,
    /// Where each name ends in the text.
    ends: Vec<u32>,
}

impl Chunk {
    fn of(names: impl Iterator<Item = String>) -> Self {
        let mut chunk = Self::default();
        for name in names {
            chunk.text.push_str(&name);
            chunk.ends.push(chunk.text.len() as u32);
        }
        chunk.text.shrink_to_fit();
        chunk.ends.shrink_to_fit();
        chunk
    }

    fn start(&self, at: usize) -> usize {
        at.checked_sub(1)
            .map_or(0, |before| self.ends[before] as usize)
    }

    fn name(&self, at: usize) -> &str {
        &self.text[self.start(at)..self.ends[at] as usize]
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.ends.len()).map(|at| self.name(at))
    }

    /// Where the name is, or would be.
    fn place(&self, name: &str) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.name(middle).cmp(name) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    fn insert(&mut self, at: usize, name: &str) {
        let start = self.start(at);
        self.text.insert_str(start, name);
        self.ends.insert(at, start as u32);
        for end in &mut self.ends[at..] {
            *end += name.len() as u32;
        }
    }

    fn remove(&mut self, at: usize) {
        let (start, end) = (self.start(at), self.ends[at] as usize);
        self.text.replace_range(start..end, "");
        self.ends.remove(at);
        for after in &mut self.ends[at..] {
            *after -= (end - start) as u32;
        }
    }

    fn split_off(&mut self, at: usize) -> Self {
        let start = self.start(at);
        let text = self.text.split_off(start);
        let mut ends = self.ends.split_off(at);
        for end in &mut ends {
            *end -= start as u32;
        }
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
        Self { text, ends }
    }
}

/// Sorted, without doubles. Cloning takes a snapshot.
///
/// Invariants: no chunk is empty; all names are ascending across chunks; `count` is their number.
#[derive(Clone, Debug, Default)]
pub struct Names {
    chunks: Arc<Vec<Arc<Chunk>>>,
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
            let chunk = Chunk::of(names.by_ref().take(CHUNK_MAX / 2));
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
            chunks.push(Arc::new(Chunk::of(std::iter::once(name.to_owned()))));
            self.count += 1;
            return true;
        };
        let chunk = Arc::make_mut(chunk);
        let Err(place) = chunk.place(name) else {
            return false;
        };
        chunk.insert(place, name);
        if chunk.ends.len() > CHUNK_MAX {
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
        let Ok(place) = chunk.place(name) else {
            return false;
        };
        chunk.remove(place);
        if chunk.ends.is_empty() {
            chunks.remove(at);
        }
        self.count -= 1;
        true
    }

    /// The chunk that holds `name`, or would: the last one that begins at or before it.
    fn chunk_of(&self, name: &str) -> usize {
        self.chunks
            .partition_point(|chunk| chunk.name(0) <= name)
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
            let number = (state >> 33) % 3_000;
            let name = format!("u{number:04}{}", ["", "é", "日本"][number as usize % 3]);
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
