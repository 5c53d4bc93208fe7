//! The beginning of a repair: a damaged store is put aside, and an empty one takes its place; or, if
//! only the log's end is damaged, the readable part is kept.
//!
//! Only where the promises are whole and other replicas can fill the store again. What could be read
//! of a damaged store proves nothing about the rest: the replica takes no part, and what it held
//! above the readable part is *suspected* (`Repair::Suspect`) until a primary or a fenced poll says
//! what it was worth. The damaged store is kept beside the others as `damaged-store-000N` for
//! inspection, one of them: the next one takes its place. Not so while a repair goes on: nothing was
//! acknowledged since it began, so that the store that was put aside then is worth more.
//!
//! # Duties of order
//!
//! `Discard` is in the hard state, durably, BEFORE the store goes: from then on nobody holds the
//! log against the mark. The empty store is complete and durable, and the damaged one renamed, BEFORE
//! `CURRENT` names the empty one (a store that it does not name goes at the next open), and
//! `UnderWay` is written AFTER: a crash anywhere leaves a repair that begins again. `Suspect` is
//! durable BEFORE the log is cut.

use super::directory::{OpenedStore, Place};
use super::files::{failed, private_directory, sync_directory};
use super::guard::guarded;
use super::hard_state::{Found, HardStateFile, Unreadable, Writer};
use super::inspect::copy;
use super::layout::{self, create_store_at, current_store, name_current, remove_store};
use super::sled_store::{DbFile, Engine};
use super::{Recovered, StorageError, history};
use crate::consensus::{FormationStatus, HardState, Mutant, Repair};
use crate::types::{Index, Stamp};
use std::path::{Path, PathBuf};

/// What kept stores are called.
const KEPT: &str = "damaged-";

/// Is what an open has found to be put aside, and filled from a primary? Only a replica that keeps
/// its promises and belongs to a cluster of several can be repaired.
pub fn must_discard(recovered: &Recovered) -> bool {
    let damaged = !recovered.damage.is_empty() && !Mutant::TruncateDamaged.on();
    recovered.hard_state.as_ref().is_some_and(|state| {
        let wanted = state.repair == Repair::Discard;
        can_repair(state) && (damaged || wanted)
    })
}

/// What a repair of this begins with: what the damage shows, and what an earlier one left unknown.
pub fn repair_begins_as(recovered: &Recovered) -> Repair {
    let before = recovered.hard_state.as_ref();
    before.map_or(Repair::UnderWay, |state| {
        state.repair.after(recovered.shape)
    })
}

/// There are others to repair it from.
pub(super) fn can_repair(state: &HardState) -> bool {
    matches!(&state.formation, FormationStatus::Formed(members) if members.len() > 1)
}

/// An empty store was put in place already, and only the last step is missing.
fn is_begun(recovered: &Recovered) -> bool {
    recovered.last == Stamp::ZERO && recovered.applied.is_none()
}

/// What is wrong, and who has found it.
struct Reason {
    what: String,
    /// The run before.
    while_running: bool,
}

/// Opens the live store, or the empty one that takes the place of a damaged one. Returns the
/// promises as they are then.
pub(super) fn open_or_repair(
    place: &Place<'_>,
    found: Option<Found>,
) -> Result<(OpenedStore, Option<Found>), StorageError> {
    let noted = history::noted(place.path)?;
    let while_running = noted.is_some();
    let opened = match noted {
        Some(what) => Err(StorageError::Damaged(what)),
        None => place.open_store(found.as_ref()),
    };
    let Some(promises) = found.as_ref().filter(|f| can_repair(&f.state)) else {
        return Ok((opened, found));
    };
    let Some((what, begun, mut begins_as)) = needs_repair(&opened, promises) else {
        return Ok((opened, found));
    };
    place.close(opened);
    let why = Reason {
        what,
        while_running,
    };
    let mut again = promises.state.repair.is_begun();
    if let Repair::Suspect(kept) = begins_as {
        if let Ok(promises) = cut(place, promises, kept, (&why, again)) {
            let opened = place.open_store(Some(&promises));
            if needs_repair(&opened, &promises).is_none() {
                return Ok((opened, Some(promises)));
            }
            place.close(opened);
        }
        // Nothing of it can be used; a copy of it as it was is kept perhaps.
        begins_as = Repair::UnderWay;
        again = true;
    }
    let promises = begin(place, promises, (begun, begins_as), (&why, again))?;
    let opened = place.open_store(Some(&promises));
    Ok((opened, Some(promises)))
}

/// Why the store must be put aside, if it must, whether that has been done already, and what the
/// repair begins with.
fn needs_repair(opened: &OpenedStore, promises: &Found) -> Option<(String, bool, Repair)> {
    match opened {
        Err(StorageError::Damaged(sentence)) => {
            let begins_as = promises.state.repair.after(Repair::UnderWay);
            Some((sentence.clone(), false, begins_as))
        }
        Ok((_, _, recovered)) if must_discard(recovered) => {
            let first = recovered.damage.first();
            let known = "it contradicted what was committed";
            let why = first.map_or_else(|| known.to_owned(), |(_, sentence)| sentence.clone());
            let begun = first.is_none() && is_begun(recovered);
            Some((why, begun, repair_begins_as(recovered)))
        }
        _ => None,
    }
}

/// Puts the live store aside for an empty one, unless that has been done. Returns the promises as
/// they are now.
fn begin(
    place: &Place<'_>,
    found: &Found,
    (begun, begins_as): (bool, Repair),
    (why, again): (&Reason, bool),
) -> Result<Found, StorageError> {
    let path = place.path;
    let note = history::begins(path, (&why.what, why.while_running, again))?;
    if !begun {
        promise(path, found, Repair::Discard)?;
        history::forget_noted(path)?;
        put_aside(place, note.again)?;
    }
    let kept_in = kept_stores(path)?.pop();
    history::is_kept(path, kept_in.as_deref().map(name_of), None)?;
    tracing::error!(
        "the store is damaged ({}): what there was is kept in {}, and this replica fills an empty \
         one from the primary. Until that is done it takes no part",
        note.why,
        kept_in.map_or_else(|| "no place".to_owned(), |kept| kept.display().to_string())
    );
    promise(path, found, begins_as)?;
    reload(path)
}

/// Cuts a log after its readable part, which stays; the store as it was is kept aside. Returns the
/// promises as they are now.
fn cut(
    place: &Place<'_>,
    found: &Found,
    kept: Index,
    (why, again): (&Reason, bool),
) -> Result<Found, StorageError> {
    let path = place.path;
    let note = history::begins(path, (&why.what, why.while_running, again))?;
    promise(path, found, Repair::Suspect(kept))?;
    let live = current_store(path)?;
    let aside = match kept_stores(path)?.pop().filter(|_| note.again) {
        Some(aside) => aside,
        None => keep_copy(path, &live)?,
    };
    history::is_kept(path, Some(name_of(&aside)), Some(kept))?;
    let db_file = DbFile::open(&live)?;
    let cache_bytes = place.cache_bytes;
    guarded(place.patience, move || {
        let engine = Engine::open(&live, cache_bytes)?;
        engine.cut_after(kept)
    })?;
    db_file.sync()?;
    tracing::error!(
        "the log's end is damaged ({}): the store is kept in {}. The log is readable up to {kept}; \
         until it is known what was above, this replica takes no part",
        note.why,
        aside.display()
    );
    reload(path)
}

/// The store as it is, beside itself. A half of it is never taken for the whole.
fn keep_copy(path: &Path, live: &Path) -> Result<PathBuf, StorageError> {
    let name = name_of(live);
    let copying = path.join(format!("{name}.copy"));
    remove_store(&copying)?;
    private_directory(&copying)?;
    copy(live, &copying)?;
    remove_kept(path)?;
    let aside = path.join(format!("{KEPT}{name}"));
    std::fs::rename(&copying, &aside).map_err(failed("cannot rename to", &aside))?;
    sync_directory(path)?;
    Ok(aside)
}

fn promise(path: &Path, found: &Found, repair: Repair) -> Result<(), StorageError> {
    let mut blocks = HardStateFile::open(&path.join("hard_state"))?;
    // What was found may be older than what was promised since.
    let found = reload(path).unwrap_or_else(|_| found.clone());
    let mut writer = Writer::resume(&found, &mut blocks)?;
    let state = found.state.clone().with_repair(repair);
    writer.write(&state, true, &mut blocks)
}

fn reload(path: &Path) -> Result<Found, StorageError> {
    match HardStateFile::load(&path.join("hard_state"))? {
        Some(Ok(found)) => Ok(found),
        Some(Err(Unreadable::Damaged(sentence))) => Err(StorageError::Damaged(sentence)),
        _ => Err(StorageError::Damaged(
            "hard_state: it does not read as it was just written".into(),
        )),
    }
}

/// Makes an empty store the live one, and keeps the one before, unless that was filled in a repair
/// that had not ended and another one is kept. Its rename comes first: once `CURRENT` names the
/// empty one, what it does not name goes at the next open.
fn put_aside(place: &Place<'_>, again: bool) -> Result<(), StorageError> {
    let path = place.path;
    let live = store_to_keep(path)?;
    let kept = kept_stores(path)?;
    let numbers = kept
        .iter()
        .chain(&live)
        .map(|store| layout::number_of(store));
    let next = numbers.max().unwrap_or(0) + 1;
    let next = path.join(format!("store-{next:04}"));
    create_store_at(&next, place.cache_bytes)?;
    sync_directory(path)?;
    if let Some(live) = live
        && (kept.is_empty() || !again)
    {
        remove_kept(path)?;
        let aside = path.join(format!("{KEPT}{}", name_of(&live)));
        std::fs::rename(&live, &aside).map_err(failed("cannot rename to", &aside))?;
        sync_directory(path)?;
    }
    name_current(path, &next)
}

/// The live store. If `CURRENT` names one that is gone, it was put aside before a crash; if it names
/// nothing, the lowest one was live, or the one before the live one; and `CURRENT` says so from now
/// on, so that a crash does not make it another.
fn store_to_keep(path: &Path) -> Result<Option<PathBuf>, StorageError> {
    if let Ok(live) = current_store(path) {
        return Ok(Some(live));
    }
    if layout::named_store(path)?.is_ok() {
        return Ok(None);
    }
    let lowest = layout::stores(path)?.into_iter().next();
    if let Some(lowest) = &lowest {
        name_current(path, lowest)?;
    }
    Ok(lowest)
}

fn name_of(store: &Path) -> String {
    let name = store.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The stores that repairs have put aside, by number.
fn kept_stores(path: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed("cannot list", path))? {
        let entry = entry.map_err(failed("cannot list", path))?;
        if entry.file_name().to_string_lossy().starts_with(KEPT) {
            kept.push(entry.path());
        }
    }
    kept.sort_by_key(|store| layout::number_of(store));
    Ok(kept)
}

fn remove_kept(path: &Path) -> Result<(), StorageError> {
    kept_stores(path)?
        .iter()
        .try_for_each(|store| remove_store(store))
}
