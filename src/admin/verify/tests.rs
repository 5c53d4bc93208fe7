//! Each finding of `verify`, provoked.

use super::*;
use crate::state_machine::Operation;
use crate::types::entry::Kind;
use crate::types::{ClientId, Incarnation, Members, Term, TokenHash, WallTime};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A replica in memory.
#[derive(Default)]
struct Source {
    base: Base,
    entries: Vec<Entry>,
    records: Vec<CommitRecord>,
    trees: MemoryTrees,
}

impl LogSource for Source {
    fn base(&self) -> Result<Base, StorageError> {
        Ok(self.base.clone())
    }
    fn entries(&self, from: Index, _: usize) -> Result<Vec<Entry>, StorageError> {
        // Small pages, so that there are several.
        let entries = self.entries.iter().filter(|entry| entry.index() >= from);
        Ok(entries.take(3).cloned().collect())
    }
    fn commit_records(&self, from: Index, to: Index) -> Result<Vec<CommitRecord>, StorageError> {
        let records = self.records.iter();
        let records = records.filter(|r| (from..=to).contains(&r.stamp.index));
        Ok(records.copied().collect())
    }
    fn trees(&self) -> Option<&dyn StateReader> {
        Some(&self.trees)
    }
}

fn create_account(name: &str, number: u8) -> Vec<u8> {
    let operation = Operation::CreateAccount {
        name: name.into(),
        full_name: name.to_uppercase(),
        password_hash: "$argon2id$".into(),
        token: crate::state_machine::NewToken {
            hash: TokenHash([number; 32]),
            device: "default".into(),
            client: ClientId([number; 16]),
        },
    };
    rmp_serde::to_vec(&(None::<()>, None::<()>, operation)).unwrap()
}

/// A cluster of one with accounts, a commit record for every second entry, and its trees.
fn good() -> (Source, Scope) {
    let members = Members::from([(ReplicaId(1), Incarnation([1; 16]))]);
    let mut entries = vec![Entry::formation(&members)];
    for index in 2..=11 {
        let (kind, payload) = if index == 2 {
            (Kind::TermStart, Vec::new())
        } else {
            let name = format!("user{index}");
            (Kind::Command, create_account(&name, index as u8))
        };
        let stamp = Stamp::new(Term(1), Index(index));
        let previous = entries.last().unwrap().hash();
        entries.push(Entry::seal(
            stamp,
            WallTime(index),
            previous,
            kind,
            &payload,
        ));
    }
    let mut source = Source::default();
    let mut machine = StateMachine::open(None).unwrap();
    let mut digests = Vec::new();
    for entry in &entries {
        machine.apply(&source.trees, entry).unwrap();
        digests.push(machine.digest());
        if entry.index().0 % 2 == 0 {
            source.records.push(CommitRecord {
                stamp: entry.stamp(),
                hash: entry.hash(),
                digest: machine.digest(),
                time: entry.time(),
            });
        }
    }
    while let Some(slice) = machine.next_slice(Index(11), true) {
        source.trees.put(slice);
        machine.slice_written();
    }
    source.entries = entries;
    let scope = Scope {
        id: ReplicaId(1),
        at: Index(10),
        commit: Index(11),
        end: Index(11),
        digests: vec![(Index(11), digests[10], "of the running state")],
        scan: Scan::Done(Index(11), digests[10]),
    };
    (source, scope)
}

fn sentences(source: &Source, scope: Scope) -> Vec<String> {
    let report = verify(source, scope);
    let findings = report.findings.into_iter();
    findings.map(|finding| finding.sentence).collect()
}

#[test]
fn a_good_replica_has_no_finding_and_says_how_much_was_compared() {
    let (source, scope) = good();
    let report = verify(&source, scope);
    assert_eq!(report.findings, Vec::new());
    assert_eq!(report.notes, Vec::<String>::new());
    assert_eq!((report.entries, report.commit_records), (11, 5));
    // Five commit records, the running state, the scan.
    assert_eq!(report.digests, 7);
    assert_eq!((report.index, report.state_index), (Index(10), Index(11)));
    assert_eq!(report.hash, source.entries[9].hash());
    assert_eq!(report.digest, source.records[4].digest);
}

#[test]
fn a_changed_entry_breaks_the_chain_at_the_next_one() {
    let (mut source, scope) = good();
    let old = &source.entries[4];
    source.entries[4] = Entry::seal(
        old.stamp(),
        old.time(),
        old.previous_hash(),
        old.kind(),
        &create_account("mallory", 5),
    );
    let found = sentences(&source, scope);
    let chain = "log at index 6: the hash chain is broken";
    assert!(found.iter().any(|s| s.starts_with(chain)), "{found:?}");
}

#[test]
fn a_missing_entry_and_a_short_log_are_found() {
    let (mut source, scope) = good();
    source.entries.remove(4);
    let found = sentences(&source, scope.clone());
    assert!(
        found.contains(&"log at index 5: entry 6 stands in its place".to_owned()),
        "{found:?}"
    );
    let (mut source, _) = good();
    source.entries.truncate(6);
    source.records.truncate(3);
    let found = sentences(&source, scope);
    assert_eq!(
        found,
        ["log at index 6: the log ends here, before index 10"]
    );
}

#[test]
fn commit_records_are_compared_with_hash_stamp_and_digest() {
    let (mut source, scope) = good();
    source.records[0].hash = Hash([1; 32]);
    source.records[1].stamp.term = Term(9);
    source.records[2].digest = Hash([2; 32]);
    let found = sentences(&source, scope);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("commits at index 2: says that the entry's hash was 0101"));
    assert!(found[1].starts_with("commits at index 4: says that (9,4) was committed"));
    assert!(found[2].starts_with("commits at index 6: the state digest in the commit record"));
}

#[test]
fn a_record_that_the_log_does_not_explain_is_named() {
    let (mut source, mut scope) = good();
    let key = bytes::Bytes::from_static(b"\0\0\0\0\0\0\0\x07zz");
    source
        .trees
        .insert(Tree::Inboxes, key, bytes::Bytes::from_static(b"forged"));
    scope.scan = Scan::Done(Index(11), Hash([3; 32]));
    let found = sentences(&source, scope);
    assert_eq!(
        found,
        ["inboxes at index 11: record 00000000000000077a7a is not what the log says"]
    );
}

#[test]
fn a_wrong_running_digest_and_a_failed_scan_are_found() {
    let (source, mut scope) = good();
    scope.digests[0].1 = Hash([4; 32]);
    scope.scan = Scan::Failed(Index(11), "record 0a of users does not add up".to_owned());
    let found = sentences(&source, scope);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(
        found[0],
        "state at index 11: record 0a of users does not add up"
    );
    assert!(found[1].starts_with("state at index 11: the state digest of the running state"));
}

#[test]
fn what_could_not_be_compared_leaves_no_trace_of_a_comparison() {
    let (source, scope) = good();
    let skipped = Scope {
        scan: Scan::Skipped(
            "the state trees were not compared: they could not be brought up to date",
        ),
        ..scope.clone()
    };
    let report = verify(&source, skipped);
    assert_eq!((report.findings.len(), report.state_index), (0, Index(0)));
    assert!(!report.no_trees);
    let empty = Scope {
        scan: Scan::Empty,
        ..scope
    };
    let report = verify(&source, empty);
    assert_eq!((report.findings.len(), report.state_index), (0, Index(0)));
    assert!(report.no_trees && report.digests > 0);
}

#[test]
fn a_cut_log_is_checked_from_its_base_and_says_so() {
    let (mut source, mut scope) = good();
    let base = source.entries[3].clone();
    source.base = Base {
        stamp: base.stamp(),
        hash: base.hash(),
        ..Base::default()
    };
    source.entries.drain(..4);
    source
        .records
        .retain(|record| record.stamp.index >= base.index());
    let known = scope.scan.clone();
    if let Scan::Done(index, digest) = known {
        scope
            .digests
            .push((index, digest, "beside the state trees"));
    }
    let report = verify(&source, scope.clone());
    assert_eq!(report.findings, []);
    assert!(
        report.notes[0].contains("the log begins after"),
        "{report:?}"
    );
    assert_eq!(report.entries as usize, source.entries.len());
    assert!(report.state_index > Index(0), "{report:?}");

    let mut other = scope.clone();
    if let Scan::Done(_, digest) = &mut other.scan {
        *digest = Hash([1; 32]);
    }
    assert!(!verify(&source, other).findings.is_empty(), "another state");
    source.base.hash = Hash([1; 32]);
    assert!(!verify(&source, scope).findings.is_empty(), "another base");
}

/// A running replica that cuts its log after entry 7 once the first page was read.
struct Cutting {
    source: Source,
    pages: AtomicUsize,
}

impl LogSource for Cutting {
    fn base(&self) -> Result<Base, StorageError> {
        if self.pages.load(Ordering::Relaxed) == 0 {
            return self.source.base();
        }
        let last = &self.source.entries[6];
        Ok(Base {
            stamp: last.stamp(),
            hash: last.hash(),
            ..Base::default()
        })
    }
    fn entries(&self, from: Index, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let first = self.pages.fetch_add(1, Ordering::Relaxed) == 0;
        let begin = if first { Index(1) } else { Index(8) };
        self.source.entries(from.max(begin), bytes_max)
    }
    fn commit_records(&self, from: Index, to: Index) -> Result<Vec<CommitRecord>, StorageError> {
        self.source.commit_records(from, to)
    }
    fn trees(&self) -> Option<&dyn StateReader> {
        self.source.trees()
    }
}

#[test]
fn a_log_that_is_cut_while_it_is_read_is_no_finding() {
    let (source, scope) = good();
    let hash = source.entries[scope.at.0 as usize - 1].hash();
    let cutting = |source| Cutting {
        source,
        pages: AtomicUsize::new(0),
    };
    let report = verify(&cutting(source), scope.clone());
    assert_eq!(report.findings, []);
    assert!(report.notes[0].contains("the log begins after"));
    assert_eq!(report.hash, hash);
    assert_eq!(report.entries, 7, "three before the cut, four after it");

    // What is missing above the cut still is.
    let (mut source, _) = good();
    source.entries.remove(8);
    let found = verify(&cutting(source), scope).findings;
    assert!(!found.is_empty());
}
