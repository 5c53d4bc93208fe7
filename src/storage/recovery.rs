//! What a store holds when it is opened, and what is wrong with it.
//!
//! sled may open a cut file as an empty database without an error, so `open` is believed in
//! nothing: the hash chain of the tail, the commit record, the applied slice and the mark in the
//! hard state (which is not in sled) must agree. It reads the newest blocks only, never the whole
//! log: what lies below is checked by `chat-admin verify`.
//!
//! It never repairs. A finding means that the replica takes no part.

use super::shape;
use super::verify::{Finding, breaks_chain, contradicts};
use super::{CommitRecord, Recovered, Slice, StorageError};
use crate::consensus::{FormationStatus, HardState, Repair};
use crate::types::entry::Entry;
use crate::types::{Base, Index, Stamp, Term};

/// A read that can find damage, which recovery collects, or fail, which ends it.
#[derive(Debug)]
pub(super) enum Fault {
    /// The bytes are wrong.
    Found(Finding),
    /// The disk failed.
    Failed(StorageError),
}

impl From<Finding> for Fault {
    fn from(finding: Finding) -> Self {
        Self::Found(finding)
    }
}

impl From<Fault> for StorageError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Found(finding) => finding.into(),
            Fault::Failed(error) => error,
        }
    }
}

/// What recovery reads: the sled store, or the one in memory.
pub(super) trait Source {
    /// The entries at and before `at` in the last block that begins there or before; `None` if
    /// there is none. They may end before `at`.
    fn block_at(&self, at: Index) -> Result<Option<Vec<Entry>>, Fault>;
    /// Entries from `from` on, to the end of the block that holds it; `None` if it is not there.
    fn block_from(&self, from: Index) -> Result<Option<Vec<Entry>>, Fault>;
    /// Where the log begins.
    fn base(&self) -> Result<Base, Fault>;
    /// The term runs, ascending.
    fn runs(&self) -> Result<Vec<(Index, Term)>, Fault>;
    /// The newest commit record.
    fn last_commit(&self) -> Result<Option<CommitRecord>, Fault>;
    /// The slice that the trees stand at, without changes.
    fn applied(&self) -> Result<Option<Slice>, Fault>;
}

/// Reads what a replica starts with: everything above the applied index, and before it about
/// `cache_bytes` of entries.
pub(super) fn recover(
    source: &impl Source,
    hard_state: Option<HardState>,
    cache_bytes: usize,
) -> Result<Recovered, StorageError> {
    let mut damage = Vec::new();
    let base = collect(source.base(), &mut damage)?.unwrap_or_default();
    let applied = collect(source.applied(), &mut damage)?.flatten();
    let commit = collect(source.last_commit(), &mut damage)?.flatten();
    let term_runs = collect(source.runs(), &mut damage)?.unwrap_or_default();
    let above = applied.as_ref().map_or(Index(0), |slice| slice.applied);
    let tail = read_tail(source, &base, above, cache_bytes, &mut damage)?;
    check_runs(&base, &term_runs, &tail, &mut damage);
    let recovered = Recovered {
        hard_state,
        term_runs,
        last: tail.last().map_or(base.stamp, Entry::stamp),
        tail_previous_hash: tail.first().map_or(base.hash, Entry::previous_hash),
        base,
        tail,
        commit,
        applied,
        rewritten_bytes: 0,
        damage: Vec::new(),
        shape: Repair::No,
        last_repair: None,
    };
    check_commit(source, &recovered, &mut damage)?;
    check_applied(source, &recovered, &mut damage)?;
    check_promises(&recovered, &mut damage);
    let shape = if damage.is_empty() {
        Repair::No
    } else {
        shape::shape_of(source, &recovered)?
    };
    Ok(Recovered {
        shape,
        damage: damage
            .into_iter()
            .map(|finding| (finding.index, finding.to_string()))
            .collect(),
        ..recovered
    })
}

/// Keeps a finding and goes on; `None` stands for what was not readable.
fn collect<T>(
    result: Result<T, Fault>,
    damage: &mut Vec<Finding>,
) -> Result<Option<T>, StorageError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Fault::Found(finding)) => {
            damage.push(finding);
            Ok(None)
        }
        Err(Fault::Failed(error)) => Err(error),
    }
}

/// The newest entries, consecutive and ending with the log's last one.
fn read_tail(
    source: &impl Source,
    base: &Base,
    above: Index,
    cache_bytes: usize,
    damage: &mut Vec<Finding>,
) -> Result<Vec<Entry>, StorageError> {
    let mut blocks: Vec<Vec<Entry>> = Vec::new();
    let mut bytes = 0;
    let mut at = Index(u64::MAX);
    loop {
        let Some(block) = collect(source.block_at(at), damage)? else {
            break;
        };
        let Some(block) = block.filter(|block| !block.is_empty()) else {
            if let Some(next) = blocks.last() {
                let first = next[0].index();
                let missing = base.stamp.index.next();
                damage.push(Finding::new(
                    "log",
                    missing,
                    format!(
                        "the entries from {missing} to {at} are missing: the log begins with \
                         {first}"
                    ),
                ));
            }
            break;
        };
        let (first, last) = (block[0].index(), block[block.len() - 1].clone());
        if let Some(next) = blocks.last()
            && let Some(finding) = breaks_chain(last.stamp(), last.hash(), &next[0])
        {
            damage.push(finding);
            if last.index() != at {
                break;
            }
        }
        damage.extend(
            block
                .windows(2)
                .filter_map(|pair| breaks_chain(pair[0].stamp(), pair[0].hash(), &pair[1])),
        );
        bytes += block.iter().map(|entry| entry.bytes().len()).sum::<usize>();
        at = first.previous();
        let begins_log = first <= base.stamp.index.next();
        if begins_log && let Some(finding) = breaks_chain(base.stamp, base.hash, &block[0]) {
            damage.push(finding);
        }
        blocks.push(block);
        if begins_log || first <= above.next() && bytes >= cache_bytes {
            break;
        }
    }
    Ok(blocks.into_iter().rev().flatten().collect())
}

/// The runs are ascending, and the tail's entries have the terms that they say.
fn check_runs(base: &Base, runs: &[(Index, Term)], tail: &[Entry], damage: &mut Vec<Finding>) {
    let mut wrong = |index, sentence: &str| damage.push(Finding::new("runs", index, sentence));
    for pair in runs.windows(2) {
        if pair[0].0 >= pair[1].0 || pair[0].1 >= pair[1].1 {
            return wrong(pair[1].0, "the term runs do not ascend");
        }
    }
    let first_entry = base.stamp.index.next();
    let last = tail.last().map_or(base.stamp.index, Entry::index);
    match (runs.first(), runs.last()) {
        (Some((first, _)), _) if *first != first_entry => {
            return wrong(*first, "no term run begins with the log's first entry");
        }
        (_, Some((first, _))) if *first > last => {
            return wrong(*first, "a term run begins above the end of the log");
        }
        _ => {}
    }
    for entry in tail {
        let after = runs.partition_point(|(first, _)| *first <= entry.index());
        let term = after.checked_sub(1).map(|at| runs[at].1);
        if term != Some(entry.stamp().term) {
            return wrong(
                entry.index(),
                "the entry has another term than the run that it lies in",
            );
        }
    }
}

/// The entry at an index, from the tail or from its block.
fn entry_at(
    source: &impl Source,
    tail: &[Entry],
    index: Index,
    damage: &mut Vec<Finding>,
) -> Result<Option<Entry>, StorageError> {
    if let Some(first) = tail.first()
        && index >= first.index()
    {
        return Ok(tail.get((index.0 - first.index().0) as usize).cloned());
    }
    let block = collect(source.block_at(index), damage)?.flatten();
    Ok(block.and_then(|block| block.into_iter().find(|entry| entry.index() == index)))
}

fn check_commit(
    source: &impl Source,
    recovered: &Recovered,
    damage: &mut Vec<Finding>,
) -> Result<(), StorageError> {
    let Some(record) = &recovered.commit else {
        return Ok(());
    };
    let index = record.stamp.index;
    let base = &recovered.base;
    if index <= base.stamp.index && *base != Base::default() {
        if (record.stamp, record.hash) != (base.stamp, base.hash) {
            let what = format!(
                "the newest one is about {}, but the log begins after {}, which is committed",
                record.stamp, base.stamp
            );
            damage.push(Finding::new("commits", index, what));
        }
        return Ok(());
    }
    let entry = entry_at(source, &recovered.tail, index, damage)?;
    damage.extend(match entry {
        Some(entry) => contradicts(record, &entry),
        None => Some(Finding::new(
            "commits",
            index,
            format!(
                "the entry is committed and not in the log, which ends at {}",
                recovered.last
            ),
        )),
    });
    Ok(())
}

fn check_applied(
    source: &impl Source,
    recovered: &Recovered,
    damage: &mut Vec<Finding>,
) -> Result<(), StorageError> {
    let base = &recovered.base;
    let Some(slice) = &recovered.applied else {
        if *base != Base::default() {
            let what = "the log was cut, and there is no state to begin with";
            damage.push(Finding::new("meta", base.stamp.index, what));
        }
        return Ok(());
    };
    let index = slice.applied;
    let mut wrong = |sentence: String| damage.push(Finding::new("meta", index, sentence));
    let commit = recovered.commit.map(|record| record.stamp.index);
    if commit.is_none_or(|commit| index > commit) {
        wrong("the state trees stand above the last commit record".into());
    }
    let hash = if index == base.stamp.index {
        Some(base.hash)
    } else {
        entry_at(source, &recovered.tail, index, damage)?.map(|entry| entry.hash())
    };
    match hash {
        None => damage.push(Finding::new(
            "meta",
            index,
            format!(
                "the state trees stand at an entry that the log, which ends at {}, does not hold",
                recovered.last
            ),
        )),
        Some(hash) if hash != slice.hash => damage.push(Finding::new(
            "meta",
            index,
            format!(
                "the state trees stand at an entry with hash {}, but the log's is {}",
                slice.hash.short(),
                hash.short()
            ),
        )),
        Some(_) => {}
    }
    Ok(())
}

/// The log holds at least what the hard state says was acknowledged.
fn check_promises(recovered: &Recovered, damage: &mut Vec<Finding>) {
    let last = recovered.last;
    let mut wrong = |index, sentence: String| damage.push(Finding::new("log", index, sentence));
    // Without promises there is nothing to hold the log against: see `directory`.
    let Some(state) = &recovered.hard_state else {
        return;
    };
    // A repair begins with an empty store, and ends when the log is whole.
    if state.repair.is_begun() {
        return;
    }
    if last < state.mark {
        wrong(
            last.index.next(),
            format!(
                "it ends at {last}, but {} was acknowledged according to hard_state",
                state.mark
            ),
        );
    } else if last == Stamp::ZERO && matches!(state.formation, FormationStatus::Formed(_)) {
        wrong(
            Index(1),
            "it is empty, but hard_state belongs to a formed cluster".into(),
        );
    }
}

/// What recovery found, or an acknowledged end of the log that is not there.
pub fn damage_of(recovered: &Recovered, hard_state: &HardState) -> Option<(Index, String)> {
    let found = recovered.damage.first().cloned();
    let lost = recovered.last < hard_state.mark && hard_state.repair == Repair::No;
    found.or_else(|| {
        lost.then(|| {
            let what = format!(
                "the log ends at {}, but this replica has acknowledged {}",
                recovered.last, hard_state.mark
            );
            (recovered.last.index.next(), what)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::{after, chain, hard_state};
    use crate::types::{Hash, Members, WallTime};
    use bytes::Bytes;

    /// A store as recovery sees it, every part of which a test can bend.
    #[derive(Clone)]
    struct Fake {
        base: Base,
        blocks: Vec<Vec<Entry>>,
        runs: Vec<(Index, Term)>,
        commit: Option<CommitRecord>,
        applied: Option<Slice>,
    }

    impl Source for Fake {
        fn block_at(&self, at: Index) -> Result<Option<Vec<Entry>>, Fault> {
            let block = self.blocks.iter().rev().find(|b| b[0].index() <= at);
            Ok(block.map(|b| b.iter().filter(|e| e.index() <= at).cloned().collect()))
        }
        fn block_from(&self, from: Index) -> Result<Option<Vec<Entry>>, Fault> {
            let block = self.blocks.iter().rev().find(|b| b[0].index() <= from);
            let rest = block.map(|b| b.iter().filter(|e| e.index() >= from).cloned());
            Ok(rest
                .map(Iterator::collect)
                .filter(|b: &Vec<Entry>| !b.is_empty()))
        }
        fn base(&self) -> Result<Base, Fault> {
            Ok(self.base.clone())
        }
        fn runs(&self) -> Result<Vec<(Index, Term)>, Fault> {
            Ok(self.runs.clone())
        }
        fn last_commit(&self) -> Result<Option<CommitRecord>, Fault> {
            Ok(self.commit)
        }
        fn applied(&self) -> Result<Option<Slice>, Fault> {
            Ok(self.applied.clone())
        }
    }

    fn record(entry: &Entry) -> CommitRecord {
        CommitRecord {
            stamp: entry.stamp(),
            hash: entry.hash(),
            digest: Hash::default(),
            time: WallTime(0),
        }
    }

    /// Ten entries of term 1 and ten of term 4 in blocks of five, committed to 16, applied to 12.
    fn good() -> Fake {
        let mut entries = chain(1, 10, 30);
        let last = entries[9].clone();
        entries.extend(after(last.stamp(), last.hash(), 4, 10, 30));
        Fake {
            base: Base::default(),
            commit: Some(record(&entries[15])),
            applied: Some(Slice {
                applied: Index(12),
                hash: entries[11].hash(),
                digest: Hash::default(),
                members: Members::new(),
                machine: Bytes::new(),
                changes: Vec::new(),
            }),
            runs: vec![(Index(1), Term(1)), (Index(11), Term(4))],
            blocks: entries.chunks(5).map(<[Entry]>::to_vec).collect(),
        }
    }

    #[test]
    fn the_shape_of_damage_says_what_is_known_of_the_log() {
        let shape = |fake: &Fake, mark: Stamp| {
            let state = HardState {
                mark,
                ..hard_state(1)
            };
            recover(fake, Some(state), 1 << 20).unwrap().shape
        };
        let end = Stamp::new(Term(4), Index(20));
        assert_eq!(shape(&good(), end), Repair::No);
        let mut fake = good();
        fake.blocks.pop();
        fake.commit = None;
        fake.applied = None;
        assert_eq!(
            shape(&fake, end),
            Repair::Suspect(Index(15)),
            "the end is gone"
        );
        let mut fake = good();
        fake.blocks.pop();
        assert_eq!(
            shape(&fake, end),
            Repair::UnderWay,
            "and what was committed with it"
        );
        let mut fake = good();
        fake.blocks.remove(2);
        assert_eq!(shape(&fake, end), Repair::Ended(Index(20)), "a hole");
        let beyond = Stamp::new(Term(4), Index(21));
        assert_eq!(shape(&fake, beyond), Repair::UnderWay, "a hole, and no end");
    }

    fn damage(fake: &Fake) -> Vec<(Index, String)> {
        let state = HardState {
            mark: Stamp::new(Term(4), Index(18)),
            ..hard_state(1)
        };
        recover(fake, Some(state), usize::MAX).unwrap().damage
    }

    #[test]
    fn a_good_store_has_no_finding_and_a_small_cache_keeps_what_is_above_applied() {
        assert_eq!(damage(&good()), []);
        let recovered = recover(&good(), Some(hard_state(1)), 1).unwrap();
        assert_eq!(recovered.damage, []);
        assert_eq!(recovered.tail[0].index(), Index(11));
        assert_eq!(recovered.tail_previous_hash, good().blocks[1][4].hash());
        assert_eq!(recovered.last, Stamp::new(Term(4), Index(20)));
    }

    #[test]
    fn each_thing_that_can_be_wrong_is_found_at_its_index() {
        type Bend = fn(&mut Fake);
        let bends: [(&str, u64, Bend); 11] = [
            ("end lost", 17, |f| drop(f.blocks.pop())),
            ("all lost", 1, |f| {
                f.blocks.clear();
                f.runs.clear();
                (f.commit, f.applied) = (None, None);
            }),
            ("block lost", 16, |f| drop(f.blocks.remove(2))),
            ("beginning lost", 1, |f| drop(f.blocks.remove(0))),
            ("block of another history", 16, |f| {
                f.blocks[2] = after(
                    Stamp::new(Term(4), Index(10)),
                    f.blocks[1][4].hash(),
                    4,
                    5,
                    31,
                );
            }),
            ("run of another term", 11, |f| f.runs[1].1 = Term(3)),
            ("run above the end", 21, |f| {
                f.runs.push((Index(21), Term(9)));
            }),
            ("no runs", 1, |f| f.runs.clear()),
            ("commit of another hash", 16, |f| {
                f.commit.as_mut().unwrap().hash = Hash([1; 32]);
            }),
            ("applied to another hash", 12, |f| {
                f.applied.as_mut().unwrap().hash = Hash([1; 32]);
            }),
            ("applied above the commit", 17, |f| {
                f.applied.as_mut().unwrap().applied = Index(17);
                f.applied.as_mut().unwrap().hash = f.blocks[3][1].hash();
            }),
        ];
        for (name, index, bend) in bends {
            let mut fake = good();
            bend(&mut fake);
            let damage = damage(&fake);
            assert!(
                damage.iter().any(|(at, _)| *at == Index(index)) || name == "end lost",
                "{name}: {damage:?}"
            );
            assert!(!damage.is_empty(), "{name}");
        }
    }

    /// The same, cut after entry 10: the blocks and the run below are gone.
    fn cut() -> Fake {
        let mut fake = good();
        let last = fake.blocks[1][4].clone();
        fake.base = Base {
            stamp: last.stamp(),
            hash: last.hash(),
            ..Base::default()
        };
        fake.blocks.drain(..2);
        fake.runs.remove(0);
        fake
    }

    #[test]
    fn a_cut_log_is_good_and_what_does_not_fit_its_base_is_found() {
        assert_eq!(damage(&cut()), []);
        let recovered = recover(&cut(), Some(hard_state(1)), usize::MAX).unwrap();
        assert_eq!(recovered.tail[0].index(), Index(11));
        assert_eq!(recovered.tail_previous_hash, cut().base.hash);
        let mut bare = cut();
        bare.blocks.clear();
        bare.runs.clear();
        bare.commit = Some(CommitRecord {
            stamp: bare.base.stamp,
            hash: bare.base.hash,
            digest: Hash::default(),
            time: WallTime(0),
        });
        let applied = bare.applied.as_mut().unwrap();
        (applied.applied, applied.hash) = (Index(10), bare.base.hash);
        let recovered = recover(&bare, Some(hard_state(1)), 1).unwrap();
        assert_eq!(recovered.damage, []);
        assert_eq!(recovered.last, bare.base.stamp);
        assert_eq!(recovered.tail_previous_hash, bare.base.hash);

        type Bend = fn(&mut Fake);
        let bends: [(&str, Bend); 6] = [
            ("base of another hash", |f| f.base.hash = Hash([1; 32])),
            ("no base", |f| f.base = Base::default()),
            ("first block lost", |f| drop(f.blocks.remove(0))),
            ("no state", |f| f.applied = None),
            ("state below the base", |f| {
                f.applied.as_mut().unwrap().applied = Index(9);
            }),
            ("commit below the base", |f| {
                f.commit.as_mut().unwrap().stamp.index = Index(9);
            }),
        ];
        for (name, bend) in bends {
            let mut fake = cut();
            bend(&mut fake);
            assert!(!damage(&fake).is_empty(), "{name}");
        }
    }

    #[test]
    fn promises_and_log_belong_together() {
        let mut formed = hard_state(1);
        formed.formation = FormationStatus::Formed(Members::new());
        let mut empty = good();
        empty.blocks.clear();
        empty.runs.clear();
        (empty.commit, empty.applied) = (None, None);
        let found = recover(&empty, Some(formed), 1).unwrap().damage;
        assert!(found[0].1.contains("is empty"), "{found:?}");
        assert_eq!(recover(&good(), None, 1).unwrap().damage, []);
        assert_eq!(recover(&empty, None, 1).unwrap().damage, []);
    }
}
