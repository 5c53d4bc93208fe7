//! The beginning of a repair: a damaged store is put aside, and an empty one takes its place; or, if
//! only the log's end is damaged, the readable part is kept.
//!
//! Only where the promises are whole and other replicas can fill the store again. What could be read
//! of a damaged store proves nothing about the rest: the replica takes no part, and what it held
//! above the readable part is *suspected* (`Repair::Suspect`) until a primary or a fenced poll says
//! what it was worth. The damaged store is kept beside the others as `damaged-store-000N` for
//! inspection, one of them: the next one takes its place.
//!
//! # Duties of order
//!
//! `Discard` is in the hard state, durably, BEFORE the store goes: from then on nobody holds the
//! log against the mark. The empty store is complete and durable BEFORE `CURRENT` names it, and
//! `UnderWay` is written AFTER: a crash anywhere leaves a repair that begins again. `Suspect` is
//! durable BEFORE the log is cut.

use super::directory::{create_store_at, current_store, name_current, remove_store};
use super::files::{failed, private_directory, sync_directory};
use super::guard::guarded;
use super::hard_state::{Found, HardStateFile, Unreadable, Writer};
use super::inspect::copy;
use super::sled_store::{DbFile, Engine};
use super::{Recovered, StorageError};
use crate::consensus::{FormationStatus, HardState, Mutant, Repair};
use crate::types::{Index, Stamp};
use std::path::{Path, PathBuf};

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
pub(super) fn is_begun(recovered: &Recovered) -> bool {
    recovered.last == Stamp::ZERO && recovered.applied.is_none()
}

/// Puts the live store aside for an empty one, unless that has been done. Returns the promises as
/// they are now.
pub(super) fn begin(
    path: &Path,
    found: &Found,
    begun: bool,
    (begins_as, why): (Repair, &str),
    cache_bytes: u64,
) -> Result<Found, StorageError> {
    if !begun {
        promise(path, found, Repair::Discard)?;
        let aside = put_aside(path, cache_bytes)?;
        tracing::error!(
            "the store is damaged ({why}): it is kept in {}, and this replica fills an empty one \
             from the primary. Until that is done it takes no part",
            aside.display()
        );
    }
    promise(path, found, begins_as)?;
    reload(path)
}

/// Cuts a log after its readable part, which stays; the store as it was is kept aside. Returns the
/// promises as they are now.
pub(super) fn cut(
    path: &Path,
    found: &Found,
    (kept, why): (Index, &str),
    cache_bytes: u64,
) -> Result<Found, StorageError> {
    promise(path, found, Repair::Suspect(kept))?;
    let live = current_store(path)?;
    remove_damaged(path)?;
    let name = live.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.join(format!("damaged-{name}"));
    private_directory(&aside)?;
    copy(&live, &aside)?;
    sync_directory(path)?;
    let db_file = DbFile::open(&live)?;
    guarded(move || {
        let engine = Engine::open(&live, cache_bytes)?;
        engine.cut_after(kept)
    })?;
    db_file.sync()?;
    tracing::error!(
        "the log's end is damaged ({why}): the store is kept in {}. The log is readable up to \
         {kept}; until it is known what was above, this replica takes no part",
        aside.display()
    );
    reload(path)
}

fn promise(path: &Path, found: &Found, repair: Repair) -> Result<(), StorageError> {
    let mut blocks = HardStateFile::open(&path.join("hard_state"))?;
    // What was found may be older than what was promised since.
    let found = reload(path).unwrap_or_else(|_| found.clone());
    let mut writer = Writer::resume(&found, &mut blocks)?;
    let state = HardState {
        repair,
        ..found.state.clone()
    };
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

/// Makes an empty store the live one, and keeps the one before. Returns where.
fn put_aside(path: &Path, cache_bytes: u64) -> Result<PathBuf, StorageError> {
    let live = current_store(path).ok();
    remove_damaged(path)?;
    let mut last = 0;
    for entry in std::fs::read_dir(path).map_err(failed("cannot list", path))? {
        let entry = entry.map_err(failed("cannot list", path))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix("store-").and_then(|n| n.parse().ok());
        last = last.max(number.unwrap_or(0));
    }
    let next = path.join(format!("store-{:04}", last + 1));
    create_store_at(&next, cache_bytes)?;
    sync_directory(path)?;
    name_current(path, &next)?;
    let Some(live) = live else {
        return Ok(next);
    };
    let name = live.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.join(format!("damaged-{name}"));
    std::fs::rename(&live, &aside).map_err(failed("cannot rename to", &aside))?;
    sync_directory(path)?;
    Ok(aside)
}

/// The stores that earlier repairs put aside go.
fn remove_damaged(path: &Path) -> Result<(), StorageError> {
    for entry in std::fs::read_dir(path).map_err(failed("cannot list", path))? {
        let entry = entry.map_err(failed("cannot list", path))?;
        if entry.file_name().to_string_lossy().starts_with("damaged-") {
            remove_store(&entry.path())?;
        }
    }
    Ok(())
}
