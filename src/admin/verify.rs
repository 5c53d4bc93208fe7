//! One replica, checked against its own log: hash chain, commit records, state.
//!
//! The log is replayed from entry 1 into a fresh state machine over trees in memory. Its digest is
//! compared with every digest that is known: in commit records, beside the checkpoint, of the
//! running state, and of a scan of every record in the state trees at the very index that they
//! hold. That last one is what compares users, tokens, inboxes and sessions with the log. Memory
//! grows with the state, not with the log.
//!
//! A log that was cut cannot be replayed from entry 1. What is left of it is checked from the hash
//! that was kept at the cut, and the scan is compared with the digests that are known.

#[cfg(test)]
mod tests;
mod trees;

use crate::limits;
use crate::state_machine::StateMachine;
use crate::storage::{CommitRecord, StateReader, StorageError, Tree};
use crate::types::entry::Entry;
use crate::types::{Base, Hash, Index, ReplicaId, Stamp};
use std::collections::BTreeMap;
use trees::MemoryTrees;

/// A replica's log, wherever it is.
pub trait LogSource: Send + Sync {
    /// Where the log begins.
    fn base(&self) -> Result<Base, StorageError>;
    /// Entries from `from` on, about `bytes_max` bytes of them, at least one if there is any.
    fn entries(&self, from: Index, bytes_max: usize) -> Result<Vec<Entry>, StorageError>;
    /// Commit records with indexes in `from..=to`, ascending. May end early, but not before the
    /// records of one page of entries.
    fn commit_records(&self, from: Index, to: Index) -> Result<Vec<CommitRecord>, StorageError>;
    /// The state trees, if they stand still: to name a record that is wrong.
    fn trees(&self) -> Option<&dyn StateReader>;
}

/// How far to go, and what to compare with.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Which replica, for the report.
    pub id: ReplicaId,
    /// Hash and digest are reported at this index; at most `commit`.
    pub at: Index,
    /// Everything up to here is committed, and is replayed.
    pub commit: Index,
    /// Check the chain up to here. On a running replica the same as `commit`: what lies above may
    /// be truncated while it is read.
    pub end: Index,
    /// State digests that are known otherwise, with where from.
    pub digests: Vec<(Index, Hash, &'static str)>,
    /// What a scan of the state trees gave.
    pub scan: Scan,
}

/// What a scan of the state trees gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan {
    /// No scan: why not.
    Skipped(&'static str),
    /// Nothing was written to the trees yet, and they are empty.
    Empty,
    /// The trees hold the state after this entry, and this is the digest of their records.
    Done(Index, Hash),
    /// They contradict themselves or cannot be read.
    Failed(Index, String),
}

/// Something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The tree: log, commits, users, tokens, inboxes, sessions; `state` when it is not known
    /// which of the last four.
    pub tree: String,
    /// The index, in the log.
    pub index: Index,
    /// A sentence that names both.
    pub sentence: String,
}

/// What a check of one replica came to.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// Which replica.
    pub id: ReplicaId,
    /// Where `hash` and `digest` were taken.
    pub index: Index,
    /// Of the entry there.
    pub hash: Hash,
    /// Of the state after it, by replay.
    pub digest: Hash,
    /// Entries whose chain was checked.
    pub entries: u64,
    /// Commit records that were compared with the log.
    pub commit_records: u64,
    /// Digests that were compared with the replay's.
    pub digests: u64,
    /// Where the state trees were compared with the log; 0: nowhere.
    pub state_index: Index,
    /// There is nothing in the state trees yet that could be compared.
    pub no_trees: bool,
    /// What was not checked, and why.
    pub notes: Vec<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Checks one replica. Every failure is a finding: there is no error.
pub fn verify(source: &dyn LogSource, mut scope: Scope) -> Report {
    let mut check = Check {
        source,
        report: Report {
            id: scope.id,
            ..Report::default()
        },
        machine: StateMachine::open(None).ok(),
        trees: MemoryTrees::default(),
        last: (Stamp::ZERO, Hash::default()),
        known: BTreeMap::new(),
        scanned: None,
        scope: Scope {
            digests: Vec::new(),
            ..scope.clone()
        },
    };
    for (index, digest, origin) in scope.digests.drain(..) {
        check.know(index, digest, origin);
    }
    match scope.scan {
        Scan::Skipped(why) => check.report.notes.push(why.to_owned()),
        Scan::Empty => {
            check.report.no_trees = true;
            let note = "there are no state trees yet".to_owned();
            check.report.notes.push(note);
        }
        Scan::Done(index, digest) => check.scanned = Some((index, digest)),
        Scan::Failed(index, what) => check.find("state", index, &what),
    }
    check.run();
    if check.machine.is_none() && check.report.findings.is_empty() {
        check.compare_known();
    }
    check.finish()
}

struct Check<'a> {
    source: &'a dyn LogSource,
    scope: Scope,
    report: Report,
    /// The replay; `None` once it cannot go on.
    machine: Option<StateMachine>,
    trees: MemoryTrees,
    last: (Stamp, Hash),
    /// Digests to compare when the replay reaches their index.
    known: BTreeMap<Index, Vec<(Hash, &'static str)>>,
    /// The scan, until the replay has reached it.
    scanned: Option<(Index, Hash)>,
}

impl Check<'_> {
    fn run(&mut self) {
        match self.source.base() {
            Ok(base) if base.stamp.index == Index(0) => {}
            Ok(base) => self.begin_at(&base),
            Err(error) => return self.find("meta", Index(0), &error.to_string()),
        }
        self.check_log();
    }

    /// The log was cut: its first entry continues the hash that was kept, and nothing is replayed.
    fn begin_at(&mut self, base: &Base) {
        self.machine = None;
        self.last = (base.stamp, base.hash);
        self.report.notes.push(format!(
            "the log begins after {} (hash {}): what came before was cut, and the state is \
             compared with the digests that are known instead of a replay",
            base.stamp,
            base.hash.short()
        ));
        if self.scope.at <= base.stamp.index {
            (self.report.index, self.report.hash) = (self.scope.at, Hash::default());
            if self.scope.at == base.stamp.index {
                self.report.hash = base.hash;
            }
        }
        // About the base itself; the page of entries begins above it.
        if let Ok(records) = self
            .source
            .commit_records(base.stamp.index, base.stamp.index)
        {
            for record in records {
                self.report.commit_records += 1;
                if (record.stamp, record.hash) != (base.stamp, base.hash) {
                    let what = format!(
                        "is about {}, the log was cut at {}",
                        record.stamp, base.stamp
                    );
                    self.find("commits", record.stamp.index, &what);
                }
                self.know(record.stamp.index, record.digest, IN_COMMIT);
            }
        }
    }

    /// Without a replay: digests of one index must agree, and the scan's with them.
    fn compare_known(&mut self) {
        if let Some((index, scanned)) = self.scanned.take() {
            if self.known.contains_key(&index) {
                self.report.state_index = index;
                self.know(index, scanned, "of a scan of the state trees");
            } else {
                self.scanned = Some((index, scanned));
            }
        }
        for (index, digests) in std::mem::take(&mut self.known) {
            let (first, origin) = digests[0];
            self.report.digests += digests.len() as u64;
            if index == self.scope.at {
                self.report.digest = first;
            }
            if let Some((other, beside)) = digests.iter().find(|(digest, _)| *digest != first) {
                let what = format!(
                    "the state digest {origin} is {}, and {beside} it is {}",
                    first.short(),
                    other.short()
                );
                self.find("state", index, &what);
            }
        }
    }

    fn check_log(&mut self) {
        while self.last.0.index < self.scope.end {
            let from = self.last.0.index.next();
            let page = match self.source.entries(from, limits::ADMIN_PAGE_BYTES) {
                Ok(page) => page,
                Err(error) => return self.find("log", from, &error.to_string()),
            };
            let (Some(first), Some(last)) = (page.first(), page.last()) else {
                return;
            };
            if first.index() > from && self.was_cut() {
                continue;
            }
            let to = last.index();
            match self.source.commit_records(from, to.min(self.scope.commit)) {
                Ok(records) => self.commit_records(&page, &records),
                Err(error) => self.find("commits", from, &error.to_string()),
            }
            for entry in page {
                if entry.index() > self.scope.end {
                    return;
                }
                if !self.entry(&entry) {
                    return;
                }
            }
        }
    }

    /// Was the log of the running replica cut beyond what was read of it? Then the rest continues the
    /// hash that was kept there, as if it had begun so.
    fn was_cut(&mut self) -> bool {
        let last = self.last.0.index;
        let base = match self.source.base() {
            Ok(base) if base.stamp.index > last => base,
            _ => return false,
        };
        let seen = (self.report.index, self.report.hash);
        self.begin_at(&base);
        if self.scope.at <= last {
            (self.report.index, self.report.hash) = seen;
        }
        true
    }

    /// The next entry of the log; false when nothing after it can be judged.
    fn entry(&mut self, entry: &Entry) -> bool {
        let index = entry.index();
        if let Some(sentence) = chain_break(self.last, entry) {
            self.find("log", self.last.0.index.next(), &sentence);
            return false;
        }
        self.last = (entry.stamp(), entry.hash());
        self.report.entries += 1;
        if index <= self.scope.commit {
            self.replay(entry);
        }
        if index == self.scope.at {
            self.report.index = index;
            self.report.hash = entry.hash();
            if let Some(machine) = &self.machine {
                self.report.digest = machine.digest();
            }
        }
        true
    }

    fn replay(&mut self, entry: &Entry) {
        let Some(machine) = &mut self.machine else {
            return;
        };
        let index = entry.index();
        let at_scan = self.scanned.filter(|(scanned, _)| *scanned == index);
        if let Err(error) = machine.apply(&self.trees, entry) {
            self.machine = None;
            return self.find("log", index, &format!("cannot be replayed: {error}"));
        }
        while let Some(slice) = machine.next_slice(index, at_scan.is_some()) {
            self.trees.put(slice);
            machine.slice_written();
        }
        let digest = machine.digest();
        for (known, origin) in self.known.remove(&index).unwrap_or_default() {
            self.report.digests += 1;
            if known != digest {
                let tree = if origin == IN_COMMIT {
                    "commits"
                } else {
                    "state"
                };
                let what = format!(
                    "the state digest {origin} is {}, a replay of the log gives {}",
                    known.short(),
                    digest.short()
                );
                self.find(tree, index, &what);
            }
        }
        if let Some((_, scanned)) = at_scan {
            self.scanned = None;
            self.report.digests += 1;
            self.report.state_index = index;
            if scanned != digest {
                self.name_difference(index);
            }
        }
    }

    /// The scan has found that the trees differ from the log: in which record?
    fn name_difference(&mut self, index: Index) {
        let mut found = Vec::new();
        if let Some(trees) = self.source.trees() {
            for tree in Tree::ALL {
                match self.trees.first_difference(tree, trees) {
                    Ok(None) => {}
                    Ok(Some(key)) => {
                        found.push((tree, format!("record {key} is not what the log says")));
                    }
                    Err(error) => found.push((tree, format!("cannot be read: {error}"))),
                }
            }
        }
        for (tree, what) in &found {
            self.find(tree.name(), index, what);
        }
        if found.is_empty() {
            let what = "the records of users, tokens, inboxes and sessions are not what a replay \
                        of the log gives";
            self.find("state", index, what);
        }
    }

    fn commit_records(&mut self, page: &[Entry], records: &[CommitRecord]) {
        let by_index: BTreeMap<_, _> = page.iter().map(|entry| (entry.index(), entry)).collect();
        for record in records {
            let index = record.stamp.index;
            self.report.commit_records += 1;
            let Some(entry) = by_index.get(&index) else {
                self.find("commits", index, "is about no entry of the log");
                continue;
            };
            if record.stamp != entry.stamp() {
                let sentence = format!(
                    "says that {} was committed, the log holds {}",
                    record.stamp,
                    entry.stamp()
                );
                self.find("commits", index, &sentence);
            } else if record.hash != entry.hash() {
                let sentence = format!(
                    "says that the entry's hash was {}, the log's is {}",
                    record.hash.short(),
                    entry.hash().short()
                );
                self.find("commits", index, &sentence);
            }
            self.know(index, record.digest, IN_COMMIT);
        }
    }

    fn know(&mut self, index: Index, digest: Hash, origin: &'static str) {
        self.known.entry(index).or_default().push((digest, origin));
    }

    /// One sentence with the tree and the index in it.
    fn find(&mut self, tree: &str, index: Index, what: &str) {
        if self.report.findings.len() < limits::FINDINGS_MAX {
            self.report.findings.push(Finding {
                tree: tree.to_owned(),
                index,
                sentence: format!("{tree} at index {index}: {what}"),
            });
        }
    }

    fn finish(mut self) -> Report {
        let reached = self.last.0.index;
        let broken = !self.report.findings.is_empty();
        if reached < self.scope.at && !broken {
            let what = format!("the log ends here, before index {}", self.scope.at);
            self.find("log", reached, &what);
        }
        if let Some((index, _)) = self.scanned {
            let note = format!("the state trees stand at index {index}, which was not replayed");
            self.report.notes.push(note);
        }
        self.report
    }
}

const IN_COMMIT: &str = "in the commit record";

/// Why `entry` cannot stand after an entry with this stamp and hash, if it cannot.
fn chain_break((stamp, hash): (Stamp, Hash), entry: &Entry) -> Option<String> {
    let expected = stamp.index.next();
    if entry.index() != expected {
        return Some(format!("entry {} stands in its place", entry.index()));
    }
    if entry.stamp().term < stamp.term {
        return Some(format!(
            "has term {} after an entry of term {}",
            entry.stamp().term,
            stamp.term
        ));
    }
    if entry.previous_hash() != hash {
        return Some(format!(
            "the hash chain is broken: it continues {}, entry {} has {}",
            entry.previous_hash().short(),
            stamp.index,
            hash.short()
        ));
    }
    None
}
