//! Whether a log is what it claims to be: the hash chain, and commit records against log hashes.
//!
//! Pure: pages of entries and commit records go in, findings come out, so that the same check runs
//! on a stopped store, on a running one page by page, and in tests. It compares every entry and
//! says how many, because a check that compared nothing also finds nothing.

use super::{CommitRecord, StorageError};
use crate::types::entry::Entry;
use crate::types::{Base, Hash, Index, Stamp};
use std::fmt;

/// Something in a store is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The tree (or file) that is wrong.
    pub tree: &'static str,
    /// Where in it; 0 if it is not about one index.
    pub index: Index,
    /// What is wrong, for people.
    pub sentence: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at index {}: {}",
            self.tree, self.index, self.sentence
        )
    }
}

impl Finding {
    /// A finding in a tree at an index.
    pub fn new(tree: &'static str, index: Index, sentence: impl Into<String>) -> Self {
        Self {
            tree,
            index,
            sentence: sentence.into(),
        }
    }
}

impl From<Finding> for StorageError {
    fn from(finding: Finding) -> Self {
        Self::Damaged(finding.to_string())
    }
}

/// Why `next` cannot stand after an entry with this stamp and hash, if it cannot.
pub(super) fn breaks_chain(previous: Stamp, hash: Hash, next: &Entry) -> Option<Finding> {
    let at = |sentence: String| Some(Finding::new("log", next.index(), sentence));
    if next.index() != previous.index.next() {
        return at(format!(
            "stands where entry {} should",
            previous.index.next()
        ));
    }
    if next.stamp().term < previous.term {
        return at(format!(
            "has term {} after an entry of term {}",
            next.stamp().term,
            previous.term
        ));
    }
    if next.previous_hash() != hash {
        return at(format!(
            "continues hash {}, but entry {} has {}",
            next.previous_hash().short(),
            previous.index,
            hash.short()
        ));
    }
    None
}

/// Why a commit record contradicts the entry at its index, if it does.
pub(super) fn contradicts(record: &CommitRecord, entry: &Entry) -> Option<Finding> {
    let at = |sentence: String| Some(Finding::new("commits", record.stamp.index, sentence));
    if record.stamp != entry.stamp() {
        return at(format!(
            "says that {} was committed, but the log holds {}",
            record.stamp,
            entry.stamp()
        ));
    }
    if record.hash != entry.hash() {
        return at(format!(
            "says that the entry's hash was {}, but the log's is {}",
            record.hash.short(),
            entry.hash().short()
        ));
    }
    None
}

/// Checks a log page by page. Give it entries in order, and after each page the commit records
/// with indexes up to the page's last entry.
#[derive(Debug, Default)]
pub struct LogVerifier {
    last: (Stamp, Hash),
    /// The newest page, for the commit records that are about it.
    page: Vec<Entry>,
    findings: Vec<Finding>,
    entries: u64,
    commit_records: u64,
}

impl LogVerifier {
    /// A log that begins after this entry, whose hash its first one continues.
    pub fn new(base: &Base) -> Self {
        Self {
            last: (base.stamp, base.hash),
            ..Self::default()
        }
    }

    /// The log was cut meanwhile, and goes on after this entry.
    pub fn begin_at(&mut self, base: &Base) {
        self.last = (base.stamp, base.hash);
    }

    /// The next page of entries.
    pub fn entries(&mut self, page: Vec<Entry>) {
        for entry in &page {
            let (stamp, hash) = self.last;
            self.findings.extend(breaks_chain(stamp, hash, entry));
            self.last = (entry.stamp(), entry.hash());
            self.entries += 1;
        }
        self.page = page;
    }

    /// Commit records about the newest page.
    pub fn commit_records(&mut self, records: &[CommitRecord]) {
        for record in records {
            let index = record.stamp.index;
            let found = self.page.iter().find(|entry| entry.index() == index);
            self.findings.extend(match found {
                Some(entry) => contradicts(record, entry),
                None => Some(Finding::new(
                    "commits",
                    index,
                    "is about no entry of the log",
                )),
            });
            self.commit_records += 1;
        }
    }

    /// A page could not be read.
    pub fn unreadable(&mut self, tree: &'static str, index: Index, sentence: String) {
        self.findings.push(Finding::new(tree, index, sentence));
    }

    /// Entries and commit records compared so far.
    pub fn compared(&self) -> (u64, u64) {
        (self.entries, self.commit_records)
    }

    /// The last entry seen.
    pub fn last(&self) -> Stamp {
        self.last.0
    }

    /// What is wrong, in the order in which it was found.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

/// Runs [`LogVerifier`] over a whole log that begins after `base`. `entries(from)` gives a page that starts at `from`, empty
/// after the last entry; `commit_records(from, to)` those of a range. Stops at the first page that
/// cannot be read: what follows it cannot be judged.
pub fn verify_log(
    base: &Base,
    mut entries: impl FnMut(Index) -> Result<Vec<Entry>, StorageError>,
    mut commit_records: impl FnMut(Index, Index) -> Result<Vec<CommitRecord>, StorageError>,
) -> LogVerifier {
    let mut verifier = LogVerifier::new(base);
    let mut from = base.stamp.index.next();
    loop {
        let page = match entries(from) {
            Ok(page) => page,
            Err(error) => {
                verifier.unreadable("log", from, error.to_string());
                return verifier;
            }
        };
        let to = page.last().map_or(Index(u64::MAX), Entry::index);
        let done = page.is_empty();
        verifier.entries(page);
        match commit_records(from, to) {
            Ok(records) => verifier.commit_records(&records),
            Err(error) => verifier.unreadable("commits", from, error.to_string()),
        }
        if done {
            return verifier;
        }
        from = to.next();
    }
}
