//! What is left in the data directories of a cluster that cannot repair itself, and the operator's
//! way back from there.
//!
//! A look ([`Remains::open`]) takes each directory's lock, copies every store in it, also those that
//! repairs have put aside, and opens the copies: nothing in the directory changes (but for the lock
//! file, if there was none). Only [`rebuild`] changes anything: it gives every replica a copy of the
//! one store that the operator has chosen, and new promises that fit it. What was there before is
//! kept in each directory under `before-recover-N`.
//!
//! # Duties of order
//!
//! Every new store is complete and durable BEFORE the first directory changes. In each directory
//! `CURRENT` comes last, so that one that is half done does not start; the directory that the chosen
//! store came from is the last one, so that the choice can be made again after a crash.

use super::directory::DirectoryLock;
use super::files::{failed, private_directory, replace_file, sync_directory, sync_file};
use super::guard::{PATIENCE, guarded};
use super::hard_state::{HardStateFile, Unreadable};
use super::inspect::{Scratch, copy};
use super::layout::{current_store, newer_format, read_format, remove_store};
use super::recovery::recover;
use super::shape::readable_end;
use super::sled_store::Engine;
use super::{Recovered, SledReader, StorageError};
use crate::consensus::{FormationStatus, HardState, Repair};
use crate::limits;
use crate::types::entry::Entry;
use crate::types::{ClusterId, Index, Members, ReplicaId, Stamp, Term};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// sled's cache while looking, in bytes: everything is read once.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// What a rebuilt store is called.
const STORE: &str = "store-0001";
/// Where it is built.
const BUILDING: &str = "recover-new";

/// What is left of one replica.
pub struct Remains {
    /// Its data directory.
    pub directory: PathBuf,
    /// Its promises; `Ok(None)` if there are none, the sentence if they are damaged.
    pub hard_state: Result<Option<HardState>, String>,
    /// The live store first, then what repairs have put aside.
    pub stores: Vec<Remnant>,
    _lock: DirectoryLock,
}

/// What is left of one store.
pub struct Remnant {
    /// The name of its directory.
    pub name: String,
    /// What an open of it finds wrong.
    pub damage: Vec<String>,
    /// What its readable part holds, by itself; or why it cannot be gone on with.
    pub readable: Result<Box<Recovered>, String>,
    engine: Option<Engine>,
    copy: Scratch,
}

impl Remains {
    /// Looks at a stopped replica's directory; one that is empty or missing holds nothing. Blocks.
    pub fn open(directory: &Path) -> Result<Self, StorageError> {
        private_directory(directory)?;
        let lock = DirectoryLock::take(directory)?;
        let path = directory.join("hard_state");
        let hard_state = match HardStateFile::load(&path)? {
            None => Ok(None),
            Some(Ok(found)) => Ok(Some(found.state)),
            Some(Err(Unreadable::Damaged(sentence))) => Err(sentence),
            Some(Err(Unreadable::Newer(format))) => {
                return Err(newer_format(&path, u32::from(format)));
            }
        };
        let mut paths: Vec<PathBuf> = current_store(directory).into_iter().collect();
        let mut aside = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed("cannot list", directory))? {
            let entry = entry.map_err(failed("cannot list", directory))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("damaged-store-") && entry.path().is_dir() {
                aside.push(entry.path());
            }
        }
        aside.sort_unstable();
        paths.extend(aside);
        let promises = hard_state.clone().ok().flatten();
        let stores = paths
            .iter()
            .map(|store| Remnant::open(store, promises.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            directory: directory.into(),
            hard_state,
            stores,
            _lock: lock,
        })
    }

    /// The promises, if they can be read.
    pub fn promises(&self) -> Option<&HardState> {
        self.hard_state.as_ref().ok().and_then(Option::as_ref)
    }
}

impl Remnant {
    fn open(store: &Path, promises: Option<&HardState>) -> Result<Self, StorageError> {
        let name = store.file_name().unwrap_or_default();
        let mut remnant = Self {
            name: name.to_string_lossy().into_owned(),
            damage: Vec::new(),
            readable: Err(String::new()),
            engine: None,
            copy: Scratch::new()?,
        };
        copy(store, &remnant.copy.0)?;
        match remnant.read(store, promises) {
            Ok(()) => Ok(remnant),
            Err(StorageError::Damaged(sentence)) => {
                remnant.readable = Err(sentence);
                remnant.engine = None;
                Ok(remnant)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the copy and cuts it after what is readable of its log.
    fn read(&mut self, store: &Path, promises: Option<&HardState>) -> Result<(), StorageError> {
        read_format(store)?;
        let (path, state) = (self.copy.0.clone(), promises.cloned());
        let (engine, found, left) = guarded(PATIENCE, move || {
            let mut engine = Engine::open(&path, CACHE_BYTES)?;
            engine.migrate()?;
            engine.finish_cut()?;
            let found = recover(&engine, state, limits::LOG_CACHE_BYTES)?;
            if !found.damage.is_empty() {
                engine.cut_after(readable_end(&engine, &found)?)?;
            }
            engine.flush()?;
            let left = recover(&engine, None, limits::LOG_CACHE_BYTES)?;
            Ok((engine, found, left))
        })?;
        self.damage = found.damage.into_iter().map(|(_, what)| what).collect();
        if let Some((_, sentence)) = left.damage.first() {
            return Err(StorageError::Damaged(sentence.clone()));
        }
        if left.last == Stamp::ZERO {
            return Err(StorageError::Damaged("it is empty".into()));
        }
        self.engine = Some(engine);
        self.readable = Ok(Box::new(left));
        Ok(())
    }

    /// The last readable entry.
    pub fn last(&self) -> Stamp {
        let readable = self.readable.as_ref();
        readable.map_or(Stamp::ZERO, |readable| readable.last)
    }

    /// What it says is committed.
    pub fn commit(&self) -> Index {
        let Ok(readable) = &self.readable else {
            return Index(0);
        };
        let recorded = readable
            .commit
            .map_or(Index(0), |record| record.stamp.index);
        let applied = readable.applied.as_ref();
        recorded.max(applied.map_or(Index(0), |slice| slice.applied))
    }

    /// Entries from `from` on, about `bytes_max` bytes of them; none if nothing is readable.
    pub fn entries(&self, from: Index, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let Some(engine) = self.engine.clone() else {
            return Ok(Vec::new());
        };
        guarded(PATIENCE, move || engine.entries(from, bytes_max))
    }

    /// Reads the state trees, if there are any.
    pub fn reader(&self) -> Option<SledReader> {
        self.engine.as_ref().map(Engine::reader)
    }

    /// Who founded the cluster, and who belongs to it after the last entry.
    pub fn membership(&self) -> Result<(Members, Members), StorageError> {
        let nothing = || StorageError::Unusable(format!("{} cannot be gone on with", self.name));
        let readable = self.readable.as_ref().map_err(|_| nothing())?;
        let mut founders = readable.base.founders.clone();
        let applied = readable.applied.as_ref();
        let mut members = applied.map_or_else(Members::new, |slice| slice.members.clone());
        let mut from = readable.base.stamp.index.next();
        let trees = applied.map_or(Index(0), |slice| slice.applied);
        loop {
            let page = self.entries(from, limits::APPEND_BYTES_MAX)?;
            let Some(last) = page.last() else {
                break;
            };
            from = last.index().next();
            for entry in &page {
                if let Some(formation) = entry.as_formation() {
                    founders.clone_from(&formation.members);
                    if trees == Index(0) {
                        members = formation.members;
                    }
                }
                if entry.index() > trees
                    && let Some(replace) = entry.replace_incarnation()
                    && members.get(&replace.id) == Some(&replace.old)
                {
                    members.insert(replace.id, replace.new);
                }
            }
        }
        if founders.is_empty() || members.is_empty() {
            return Err(nothing());
        }
        Ok((founders, members))
    }
}

/// Gives every replica the chosen store and promises that fit it. `survivor` is a replica and the
/// place of one of its stores. Every member's directory must be there: one that kept its old log
/// would contradict the others. Returns where each directory's former content is.
pub fn rebuild(
    mut remains: BTreeMap<ReplicaId, Remains>,
    (survivor, store): (ReplicaId, usize),
) -> Result<Vec<PathBuf>, StorageError> {
    let unusable = |what: &str| StorageError::Unusable(what.to_owned());
    let term = remains.values().map(highest_term).max().unwrap_or_default();
    let chosen = remains
        .get_mut(&survivor)
        .and_then(|replica| replica.stores.get_mut(store))
        .ok_or_else(|| unusable("the survivor has no such store"))?;
    let (founders, members) = chosen.membership()?;
    let last = chosen.last();
    let source = chosen.copy.0.clone();
    // Closed before it is copied.
    chosen.engine = None;
    if !members.keys().eq(remains.keys()) {
        return Err(unusable(
            "the directories are not those of all members: name one for each replica",
        ));
    }
    for (id, replica) in &remains {
        let promises = HardState {
            id: *id,
            incarnation: members[id],
            formation: FormationStatus::Formed(founders.clone()),
            cluster: Some(ClusterId::of_members(&founders)),
            // Above every grant and every ballot that any of them has given.
            term: Term(term.0 + 1),
            granted_to: None,
            term_accepted: last.term,
            mark: last,
            others_marks: BTreeMap::new(),
            repair: Repair::No,
            given_up: Term(0),
            quarantined: false,
            others_lives: BTreeMap::new(),
            others_as_of: Index(0),
        };
        build(&replica.directory.join(BUILDING), &source, &promises)?;
    }
    let mut order: Vec<&Remains> = remains.values().collect();
    order.sort_by_key(|replica| replica.directory == remains[&survivor].directory);
    order
        .into_iter()
        .map(|replica| exchange(&replica.directory))
        .collect()
}

fn highest_term(replica: &Remains) -> Term {
    let stores = replica.stores.iter().map(|store| store.last().term);
    let promised = replica.promises().map_or(Term(0), |state| state.term);
    stores.max().unwrap_or_default().max(promised)
}

/// Everything that a directory will hold, durably, in one that nothing looks at.
fn build(at: &Path, source: &Path, promises: &HardState) -> Result<(), StorageError> {
    let store = at.join(STORE);
    remove_store(at)?;
    private_directory(at)?;
    private_directory(&store)?;
    copy(source, &store)?;
    sync_tree(&store)?;
    HardStateFile::create(&at.join("hard_state"), promises)?;
    sync_directory(at)
}

fn sync_tree(directory: &Path) -> Result<(), StorageError> {
    for entry in std::fs::read_dir(directory).map_err(failed("cannot list", directory))? {
        let path = entry.map_err(failed("cannot list", directory))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            sync_file(&path)?;
        }
    }
    sync_directory(directory)
}

/// Puts what is there aside, and what was built in its place. `CURRENT` goes first and comes last.
fn exchange(directory: &Path) -> Result<PathBuf, StorageError> {
    let aside = (1..u32::MAX)
        .map(|number| directory.join(format!("before-recover-{number}")))
        .find(|path| !path.exists())
        .unwrap_or_else(|| directory.join("before-recover"));
    private_directory(&aside)?;
    let rename =
        |from: &Path, to: &Path| std::fs::rename(from, to).map_err(failed("cannot rename to", to));
    let current = directory.join("CURRENT");
    if current.exists() {
        rename(&current, &aside.join("CURRENT"))?;
        sync_directory(directory)?;
    }
    for entry in std::fs::read_dir(directory).map_err(failed("cannot list", directory))? {
        let entry = entry.map_err(failed("cannot list", directory))?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let ours = [
            "store-",
            "damaged-",
            "damage_found",
            "hard_state",
            "repairs.json",
        ];
        if ours.iter().any(|prefix| text.starts_with(prefix)) {
            rename(&entry.path(), &aside.join(&name))?;
        }
    }
    sync_directory(&aside)?;
    let building = directory.join(BUILDING);
    rename(&building.join("hard_state"), &directory.join("hard_state"))?;
    rename(&building.join(STORE), &directory.join(STORE))?;
    remove_store(&building)?;
    sync_directory(directory)?;
    replace_file(&current, format!("{STORE}\n").as_bytes())?;
    Ok(aside)
}
