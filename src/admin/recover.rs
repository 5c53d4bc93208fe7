//! What the operator of a cluster that cannot repair itself is shown, and does: which store has the
//! newest data, and exactly what is lost if the cluster goes on with it.
//!
//! Everything is read on private copies. Only [`Recovery::carry_out`] changes anything, and only
//! after the caller has named the store: see `storage::salvage`.

use super::format::entry_text;
use super::verify::Scan;
use crate::limits::{APPEND_BYTES_MAX, RECOVER_LINES_MAX};
use crate::state_machine::StateMachine;
use crate::storage::{Remains, Remnant, StorageError, rebuild};
use crate::types::entry::Entry;
use crate::types::{Hash, Index, ReplicaId, Stamp};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// All that is left of a cluster.
pub struct Recovery {
    remains: BTreeMap<ReplicaId, Remains>,
}

/// A store that the cluster could go on with: whose, and which of its stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// The replica.
    pub replica: ReplicaId,
    /// The place among its stores.
    pub store: usize,
}

/// Entries that are somewhere and not in the chosen store.
#[derive(Default)]
struct Loss {
    /// By stamp: the entry, where it is, and whether it was committed.
    readable: BTreeMap<Stamp, (Entry, Vec<String>, &'static str)>,
    /// The highest stamp that somebody is known to have held, and who says so.
    held: Option<(Stamp, String)>,
}

impl Recovery {
    /// Looks at the data directories of all replicas, all of them stopped. A directory whose
    /// promises cannot be read needs its replica's id beside it.
    pub fn open(directories: &[(Option<ReplicaId>, PathBuf)]) -> Result<Self, StorageError> {
        let mut remains = BTreeMap::new();
        for (named, directory) in directories {
            let one = Remains::open(directory)?;
            let promised = one.promises().map(|state| state.id);
            let id = match (*named, promised) {
                (Some(named), Some(promised)) if named != promised => {
                    return Err(unusable(format!(
                        "{} belongs to replica {promised}, not to replica {named}",
                        directory.display()
                    )));
                }
                (Some(id), _) | (None, Some(id)) => id,
                (None, None) => {
                    return Err(unusable(format!(
                        "{} does not say which replica it belongs to: write --data-dir ID=DIR",
                        directory.display()
                    )));
                }
            };
            if remains.insert(id, one).is_some() {
                return Err(unusable(format!(
                    "there are two directories of replica {id}"
                )));
            }
        }
        Ok(Self { remains })
    }

    fn stores(&self) -> impl Iterator<Item = (Choice, &Remnant)> {
        self.remains.iter().flat_map(|(id, replica)| {
            let stores = replica.stores.iter().enumerate();
            stores.map(|(store, remnant)| {
                (
                    Choice {
                        replica: *id,
                        store,
                    },
                    remnant,
                )
            })
        })
    }

    fn remnant(&self, choice: Choice) -> &Remnant {
        &self.remains[&choice.replica].stores[choice.store]
    }

    /// `1/store-0001`.
    pub fn name(&self, choice: Choice) -> String {
        format!("{}/{}", choice.replica, self.remnant(choice).name)
    }

    /// The store of this name.
    pub fn find(&self, name: &str) -> Result<Choice, StorageError> {
        let found = self.stores().find(|(choice, _)| self.name(*choice) == name);
        let Some((choice, remnant)) = found else {
            let names: Vec<String> = self.stores().map(|(choice, _)| self.name(choice)).collect();
            let names = names.join(", ");
            return Err(unusable(format!("no store {name}; there are: {names}")));
        };
        match &remnant.readable {
            Ok(_) => Ok(choice),
            Err(why) => Err(unusable(format!("{name} cannot be gone on with: {why}"))),
        }
    }

    /// The store that can be gone on with and has the newest last entry.
    pub fn newest(&self) -> Option<Choice> {
        let usable = self
            .stores()
            .filter(|(_, remnant)| remnant.readable.is_ok());
        let mut best: Option<(Stamp, Choice)> = None;
        for (choice, remnant) in usable {
            // Of equal ones the first: a live store rather than one put aside.
            if best.is_none_or(|(last, _)| remnant.last() > last) {
                best = Some((remnant.last(), choice));
            }
        }
        best.map(|(_, choice)| choice)
    }

    /// Every replica goes on with this store. What was there before stays in each directory; returns
    /// where.
    pub fn carry_out(self, choice: Choice) -> Result<Vec<PathBuf>, StorageError> {
        if let Scan::Failed(_, what) = scan(self.remnant(choice)) {
            return Err(StorageError::Damaged(what));
        }
        rebuild(self.remains, (choice.replica, choice.store))
    }

    /// What is there.
    pub fn stores_text(&self) -> String {
        let mut text = String::new();
        for (id, replica) in &self.remains {
            let _ = writeln!(text, "replica {id}  {}", replica.directory.display());
            let _ = match &replica.hard_state {
                Ok(Some(state)) => writeln!(
                    text,
                    "  promises: term {}, had acknowledged at least {}{}",
                    state.term,
                    state.mark,
                    others(&state.others_marks)
                ),
                Ok(None) => writeln!(text, "  promises: none, the directory is new or was wiped"),
                Err(sentence) => writeln!(text, "  promises: lost ({sentence})"),
            };
            for remnant in &replica.stores {
                store_text(&mut text, remnant);
            }
            if replica.stores.is_empty() {
                text.push_str("  no store\n");
            }
        }
        text
    }

    /// What is lost if the cluster goes on with this store.
    pub fn loss_text(&self, choice: Choice) -> Result<String, StorageError> {
        let loss = self.loss(choice)?;
        let chosen = self.remnant(choice);
        let mut text = format!(
            "If the cluster goes on with {}, its log ends at {} and",
            self.name(choice),
            chosen.last()
        );
        let unreadable = loss.unreadable_above(chosen.last());
        if loss.readable.is_empty() && unreadable.is_none() {
            text.push_str(" nothing is lost that any of these directories shows.\n");
            return Ok(text);
        }
        text.push_str(" this is lost:\n");
        for (entry, places, word) in loss.readable.values().take(RECOVER_LINES_MAX) {
            let line = entry_text(entry, false);
            let _ = writeln!(text, "  {line}  {word}; readable in {}", places.join(", "));
        }
        if loss.readable.len() > RECOVER_LINES_MAX {
            let more = loss.readable.len() - RECOVER_LINES_MAX;
            let _ = writeln!(text, "  and {more} more that are readable elsewhere");
        }
        if let Some((from, to, who)) = unreadable {
            let _ = writeln!(
                text,
                "  entries {from} to {to}, readable nowhere: {who}. They may have been acknowledged"
            );
        }
        Ok(text)
    }

    fn loss(&self, choice: Choice) -> Result<Loss, StorageError> {
        let kept = hashes(self.remnant(choice))?;
        let begins = self.remnant(choice).readable.as_ref();
        let base = begins.map_or(Index(0), |readable| readable.base.stamp.index);
        let mut loss = Loss::default();
        for (other, remnant) in self.stores().filter(|(other, _)| *other != choice) {
            let name = self.name(other);
            each_entry(remnant, |entry| {
                // What the chosen store has cut is in its state.
                if entry.index() > base && kept.get(&entry.index()) != Some(&entry.hash()) {
                    let word = self.standing(remnant, &entry);
                    let known = loss.readable.entry(entry.stamp());
                    let known = known.or_insert_with(|| (entry, Vec::new(), word));
                    known.1.push(name.clone());
                    if word == COMMITTED {
                        known.2 = word;
                    }
                }
            })?;
        }
        for (id, replica) in &self.remains {
            let Some(state) = replica.promises() else {
                continue;
            };
            loss.note(state.mark, || {
                format!("replica {id} had acknowledged {}", state.mark)
            });
            for (of, mark) in &state.others_marks {
                loss.note(*mark, || {
                    format!("replica {id} knows that replica {of} had acknowledged {mark}")
                });
            }
        }
        for (at, remnant) in self.stores() {
            let commit = Stamp::new(remnant.last().term, remnant.commit());
            loss.note(commit, || {
                format!("{} says it was committed", self.name(at))
            });
        }
        Ok(loss)
    }

    /// What the marks say of an entry that this store holds.
    fn standing(&self, holder: &Remnant, entry: &Entry) -> &'static str {
        if entry.index() <= holder.commit() {
            return COMMITTED;
        }
        let promised = self.remains.values().filter_map(Remains::promises);
        let holders = promised.filter(|state| state.mark >= entry.stamp()).count();
        if holders > self.remains.len() / 2 {
            "on a majority by their marks, may have been acknowledged"
        } else {
            "not known to be committed"
        }
    }
}

const COMMITTED: &str = "COMMITTED, clients may have been told that it is done";

impl Loss {
    fn note(&mut self, stamp: Stamp, who: impl FnOnce() -> String) {
        if self.held.as_ref().is_none_or(|(held, _)| stamp > *held) {
            self.held = Some((stamp, who()));
        }
    }

    /// First and last index that somebody held, and nobody can read; and who says so.
    fn unreadable_above(&self, last: Stamp) -> Option<(Index, Index, &str)> {
        let (held, who) = self.held.as_ref()?;
        let readable = self.readable.keys().map(|stamp| stamp.index).max();
        let from = readable.unwrap_or_default().max(last.index).next();
        (*held > last && held.index >= from).then_some((from, held.index, who.as_str()))
    }
}

fn others(marks: &BTreeMap<ReplicaId, Stamp>) -> String {
    let known = marks
        .iter()
        .map(|(id, mark)| format!("replica {id} {mark}"));
    let known: Vec<String> = known.collect();
    if known.is_empty() {
        return String::new();
    }
    format!(", and knows of the others: {}", known.join(", "))
}

fn store_text(text: &mut String, remnant: &Remnant) {
    let _ = match &remnant.readable {
        Err(why) => writeln!(text, "  {}: cannot be gone on with: {why}", remnant.name),
        Ok(readable) => {
            let hash = readable.tail.last().map_or(readable.base.hash, Entry::hash);
            let state = match scan(remnant) {
                Scan::Done(index, digest) => format!("state at {index} {}", digest.short()),
                Scan::Skipped(why) => why.to_owned(),
                Scan::Empty => "no state trees yet".to_owned(),
                Scan::Failed(index, what) => format!("state at {index} IS WRONG: {what}"),
            };
            writeln!(
                text,
                "  {}: log from {} to {} {}, committed to {}, {state}",
                remnant.name,
                readable.base.stamp.index.next(),
                readable.last,
                hash.short(),
                remnant.commit()
            )
        }
    };
    for what in &remnant.damage {
        let _ = writeln!(text, "    damaged: {what}");
    }
}

/// Scans the state trees, and compares with the digest beside them.
fn scan(remnant: &Remnant) -> Scan {
    let readable = remnant.readable.as_ref().ok();
    let slice = readable.and_then(|readable| readable.applied.as_ref());
    let (Some(slice), Some(reader)) = (slice, remnant.reader()) else {
        return Scan::Empty;
    };
    let machine = StateMachine::open(Some(slice));
    match machine.and_then(|machine| machine.scan_digest(&reader)) {
        Ok(digest) if digest == slice.digest => Scan::Done(slice.applied, digest),
        Ok(_) => Scan::Failed(slice.applied, "the records have another digest".into()),
        Err(error) => Scan::Failed(slice.applied, error.to_string()),
    }
}

fn each_entry(remnant: &Remnant, mut take: impl FnMut(Entry)) -> Result<(), StorageError> {
    let mut from = Index(1);
    loop {
        let page = remnant.entries(from, APPEND_BYTES_MAX)?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        from = last.index().next();
        page.into_iter().for_each(&mut take);
    }
}

fn hashes(remnant: &Remnant) -> Result<BTreeMap<Index, Hash>, StorageError> {
    let mut hashes = BTreeMap::new();
    each_entry(remnant, |entry| {
        hashes.insert(entry.index(), entry.hash());
    })?;
    Ok(hashes)
}

fn unusable(sentence: String) -> StorageError {
    StorageError::Unusable(sentence)
}

/// `ID=DIR` or `DIR`.
pub fn parse_directory(text: &str) -> (Option<ReplicaId>, PathBuf) {
    let named = text
        .split_once('=')
        .and_then(|(id, path)| Some((id.parse().ok().map(ReplicaId)?, path)));
    match named {
        Some((id, path)) => (Some(id), Path::new(path).into()),
        None => (None, Path::new(text).into()),
    }
}
