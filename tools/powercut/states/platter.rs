//! A disk that a trace is played on: what is durable at a point, what is not, and what a crash there
//! may leave.

use super::trace::{DirectoryId, FileId, Names, Node, Operation, Trace};
use anyhow::Context as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// The unit that a disk writes whole.
pub const SECTOR_BYTES: usize = 512;
/// The unit in which zeros are left out of an image.
const PAGE_BYTES: usize = 4096;

/// What became of the operations that were not durable. Those that are not named here are kept.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fate {
    /// Numbers of operations that are lost.
    pub lost: BTreeSet<usize>,
    /// Writes of which only some sectors are kept: which, by a seed.
    pub torn: BTreeMap<usize, Tear>,
}

/// Which sectors of a write are kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Tear {
    /// Names one of the patterns.
    pub seed: u64,
    /// The file has grown as if the whole write were kept.
    pub grown: bool,
}

impl Tear {
    /// Is this sector kept, the `at`th of `count` in the write?
    fn keeps(self, at: usize, count: usize) -> bool {
        let place = (self.seed >> 2) as usize % count.max(1);
        match self.seed & 3 {
            0 => at < place,
            1 => at > place,
            2 => at != place,
            _ => mix(self.seed ^ at as u64) & 1 == 0,
        }
    }
}

/// A number that looks random for each number (splitmix64).
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A disk after the first operations of a trace.
///
/// Invariant: `files` and `names` are what is durable, `unsynced` the numbers of the operations since
/// then, in order, by file and by directory.
pub struct Platter<'a> {
    trace: &'a Trace,
    played: usize,
    files: Vec<Vec<u8>>,
    names: Vec<Names>,
    file_unsynced: BTreeMap<FileId, Vec<usize>>,
    names_unsynced: BTreeMap<DirectoryId, Vec<usize>>,
}

impl<'a> Platter<'a> {
    /// An empty one.
    pub fn new(trace: &'a Trace) -> Self {
        Self {
            trace,
            played: 0,
            files: vec![Vec::new(); trace.files],
            names: vec![Names::new(); trace.directories],
            file_unsynced: BTreeMap::new(),
            names_unsynced: BTreeMap::new(),
        }
    }

    /// Plays the operations before this one.
    pub fn play_to(&mut self, point: usize) {
        while self.played < point {
            self.play(self.played);
            self.played += 1;
        }
    }

    fn play(&mut self, number: usize) {
        match &self.trace.operations[number] {
            Operation::Enter(directory, ..)
            | Operation::Leave(directory, ..)
            | Operation::Rename(directory, ..) => {
                self.names_unsynced
                    .entry(*directory)
                    .or_default()
                    .push(number);
            }
            Operation::Write(file, ..) | Operation::Resize(file, ..) => {
                self.file_unsynced.entry(*file).or_default().push(number);
            }
            Operation::SyncFile(file) => {
                for number in self.file_unsynced.remove(file).unwrap_or_default() {
                    change(&mut self.files[*file], &self.trace.operations[number]);
                }
            }
            Operation::SyncDirectory(directory) => {
                for number in self.names_unsynced.remove(directory).unwrap_or_default() {
                    rename(&mut self.names[*directory], &self.trace.operations[number]);
                }
            }
            Operation::Begun(_) | Operation::Done(_) => {}
        }
        if number < self.trace.given {
            self.settle();
        }
    }

    /// Everything becomes durable.
    pub fn settle(&mut self) {
        for (file, numbers) in std::mem::take(&mut self.file_unsynced) {
            for number in numbers {
                change(&mut self.files[file], &self.trace.operations[number]);
            }
        }
        for (directory, numbers) in std::mem::take(&mut self.names_unsynced) {
            for number in numbers {
                rename(&mut self.names[directory], &self.trace.operations[number]);
            }
        }
    }

    /// The operations that are not durable: on names of each directory in order, and on files.
    pub fn unsynced(&self) -> (Vec<&[usize]>, Vec<usize>) {
        let names = self
            .names_unsynced
            .values()
            .map(|numbers| &numbers[..])
            .collect();
        let mut contents: Vec<usize> = self.file_unsynced.values().flatten().copied().collect();
        contents.sort_unstable();
        (names, contents)
    }

    /// Every file that has a name, with its path and durable content.
    pub fn durable_files(&self) -> Vec<(String, FileId, &[u8])> {
        let mut found = Vec::new();
        let mut open = vec![(0, String::new())];
        while let Some((directory, path)) = open.pop() {
            for (name, node) in &self.names[directory] {
                let path = format!("{path}/{name}");
                match node {
                    Node::File(file) => found.push((path, *file, &self.files[*file][..])),
                    Node::Directory(inner) => open.push((*inner, path)),
                }
            }
        }
        found.sort();
        found
    }

    /// Builds what a crash leaves, in a directory that exists.
    pub fn build(&self, fate: &Fate, root: &Path) -> anyhow::Result<()> {
        let mut open = vec![(0, root.to_owned())];
        while let Some((directory, path)) = open.pop() {
            let mut names = self.names[directory].clone();
            for number in self.names_unsynced.get(&directory).into_iter().flatten() {
                if !fate.lost.contains(number) {
                    rename(&mut names, &self.trace.operations[*number]);
                }
            }
            for (name, node) in names {
                let path = path.join(name);
                match node {
                    Node::Directory(inner) => {
                        std::fs::create_dir(&path).context("cannot build a directory")?;
                        open.push((inner, path));
                    }
                    Node::File(file) => {
                        write_out(&self.content(file, fate), &path)
                            .context("cannot build a file")?;
                    }
                }
            }
        }
        Ok(())
    }

    fn content(&self, file: FileId, fate: &Fate) -> std::borrow::Cow<'_, [u8]> {
        let durable = &self.files[file];
        let Some(unsynced) = self.file_unsynced.get(&file) else {
            return durable.into();
        };
        let mut content = durable.clone();
        // A file's lengths become durable in order: once one is lost, what lies beyond it is too.
        let mut end = u64::MAX;
        for (place, number) in unsynced.iter().enumerate() {
            let operation = &self.trace.operations[*number];
            match operation {
                Operation::Resize(_, length) if fate.lost.contains(number) => {
                    end = end.min(*length);
                }
                Operation::Write(_, at, bytes)
                    if !fate.lost.contains(number) && at + bytes.len() as u64 <= end =>
                {
                    let earlier = &unsynced[..place];
                    self.keep(&mut content, earlier, *number, fate.torn.get(number));
                }
                Operation::Resize(..) if end == u64::MAX => change(&mut content, operation),
                _ => {}
            }
        }
        content.into()
    }

    /// Keeps a write, or some sectors of it. A sector reaches the disk as it is in memory: with
    /// everything that was written to it before, whether or not that was kept elsewhere.
    fn keep(&self, content: &mut Vec<u8>, earlier: &[usize], number: usize, tear: Option<&Tear>) {
        let Operation::Write(_, at, bytes) = &self.trace.operations[number] else {
            return;
        };
        let (start, end) = (*at as usize, *at as usize + bytes.len());
        let first = start / SECTOR_BYTES;
        let count = end.div_ceil(SECTOR_BYTES) - first;
        let mut kept = 0;
        while kept < count {
            let keeps = |at: usize| tear.is_none_or(|tear| tear.keeps(at, count));
            let run = (kept..count).take_while(|at| keeps(*at)).count();
            if run == 0 {
                kept += 1;
                continue;
            }
            let range = ((first + kept) * SECTOR_BYTES)..((first + kept + run) * SECTOR_BYTES);
            for before in earlier {
                clipped(content, &self.trace.operations[*before], &range);
            }
            clipped(content, &self.trace.operations[number], &range);
            kept += run;
        }
        if tear.is_some_and(|tear| tear.grown) && content.len() < end {
            content.resize(end, 0);
        }
    }
}

/// The part of a write that lies in a range.
fn clipped(content: &mut Vec<u8>, write: &Operation, range: &std::ops::Range<usize>) {
    let Operation::Write(_, at, bytes) = write else {
        return;
    };
    let at = *at as usize;
    let (from, to) = (at.max(range.start), (at + bytes.len()).min(range.end));
    if from < to {
        if content.len() < to {
            content.resize(to, 0);
        }
        content[from..to].copy_from_slice(&bytes[from - at..to - at]);
    }
}

fn change(content: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Write(..) => clipped(content, operation, &(0..usize::MAX)),
        Operation::Resize(_, length) => content.resize(*length as usize, 0),
        _ => {}
    }
}

fn rename(names: &mut Names, operation: &Operation) {
    match operation {
        Operation::Enter(_, name, node) => {
            names.insert(name.clone(), *node);
        }
        Operation::Leave(_, name) => {
            names.remove(name);
        }
        Operation::Rename(_, from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
        _ => {}
    }
}

/// Writes a file, without its pages of zeros.
pub fn write_out(content: &[u8], path: &Path) -> std::io::Result<()> {
    let file = File::create(path)?;
    file.set_len(content.len() as u64)?;
    let mut from = 0;
    let zeros = |page: &[u8]| page.iter().all(|byte| *byte == 0);
    for (number, page) in content.chunks(PAGE_BYTES).enumerate() {
        if zeros(page) {
            let at = number * PAGE_BYTES;
            file.write_all_at(&content[from..at], from as u64)?;
            from = at + page.len();
        }
    }
    file.write_all_at(&content[from..], from as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = 0;

    fn written(trace: &Trace, point: usize, fate: &Fate) -> Vec<u8> {
        let mut platter = Platter::new(trace);
        platter.play_to(point);
        platter.content(FILE, fate).into_owned()
    }

    fn trace(operations: Vec<Operation>) -> Trace {
        Trace {
            operations,
            files: 1,
            directories: 1,
            ..Trace::default()
        }
    }

    #[test]
    fn what_was_synced_stays_and_of_the_rest_any_part() {
        let trace = trace(vec![
            Operation::Write(FILE, 0, vec![1; 1024]),
            Operation::SyncFile(FILE),
            Operation::Write(FILE, 512, vec![2; 1024]),
            Operation::Write(FILE, 2048, vec![3; 512]),
        ]);
        let lost = |numbers: &[usize]| Fate {
            lost: numbers.iter().copied().collect(),
            ..Fate::default()
        };
        let all = written(&trace, 4, &Fate::default());
        assert_eq!((all[0], all[512], all[1536], all[2048]), (1, 2, 0, 3));
        assert_eq!(written(&trace, 4, &lost(&[2, 3])), [1; 1024]);
        let second = written(&trace, 4, &lost(&[2]));
        assert_eq!((second[512], second[1500], second[2048]), (1, 0, 3));
        let mut torn = lost(&[3]);
        // Pattern 0: the sectors before place 1 of 2.
        torn.torn.insert(
            2,
            Tear {
                seed: 4,
                grown: true,
            },
        );
        let torn = written(&trace, 4, &torn);
        assert_eq!(
            (torn[512], torn[1023], torn[1024], torn.len()),
            (2, 2, 0, 1536)
        );
    }

    #[test]
    fn a_sector_comes_with_all_that_was_written_to_it_before() {
        let trace = trace(vec![
            Operation::Write(FILE, 0, vec![1; 700]),
            Operation::Write(FILE, 700, vec![2; 100]),
        ]);
        let fate = Fate {
            lost: [0].into(),
            ..Fate::default()
        };
        let content = written(&trace, 2, &fate);
        assert_eq!(
            (content[0], content[511], content[512], content[700]),
            (0, 0, 1, 2)
        );
    }

    #[test]
    fn what_lies_beyond_a_length_that_is_lost_is_lost() {
        let trace = trace(vec![
            Operation::Write(FILE, 0, vec![1; 1024]),
            Operation::SyncFile(FILE),
            Operation::Resize(FILE, 512),
            Operation::Write(FILE, 512, vec![2; 512]),
        ]);
        let fate = Fate {
            lost: [2].into(),
            ..Fate::default()
        };
        assert_eq!(written(&trace, 4, &fate), [1; 1024]);
        assert_eq!(written(&trace, 4, &Fate::default())[512..], [2; 512]);
    }

    #[test]
    fn names_are_durable_by_their_directory_alone() {
        let trace = trace(vec![
            Operation::Enter(0, "a.new".into(), Node::File(FILE)),
            Operation::SyncFile(FILE),
            Operation::Rename(0, "a.new".into(), "a".into()),
            Operation::SyncDirectory(0),
        ]);
        let mut platter = Platter::new(&trace);
        platter.play_to(3);
        assert_eq!(platter.unsynced(), (vec![&[0, 2][..]], vec![]));
        assert!(platter.durable_files().is_empty());
        platter.play_to(4);
        assert_eq!(platter.durable_files()[0].0, "/a");
    }
}
