//! What a data directory remembers of damage beside the promises, in two small files.
//!
//! `damage_found` holds what a process run has met in its store while it ran: the next open acts upon
//! it as upon what it finds itself. It is needed because an open does not read everything, and would
//! find nothing wrong. `repairs.json` holds the last repairs, for people and for the limit on how
//! often a replica begins again by itself.
//!
//! # Duties of order
//!
//! `damage_found` goes only AFTER the promises say `Discard`, durably.

use super::StorageError;
use super::files::{self, failed, replace_file, sync_directory};
use crate::types::{Index, ReplicaId, WallTime};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::SystemTime;

const FOUND: &str = "damage_found";
const REPAIRS: &str = "repairs.json";
/// So many repairs are remembered.
const REPAIRS_KEPT: usize = 16;

/// One repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairNote {
    /// When the damage was found.
    pub began: WallTime,
    /// What was wrong.
    pub why: String,
    /// It was met by a running replica, not by an open.
    #[serde(default)]
    pub while_running: bool,
    /// The directory beside the store that keeps it as it was; none before it is there.
    pub kept_in: Option<String>,
    /// The log was readable up to here, and that much of it stayed; none: nothing.
    pub kept_up_to: Option<Index>,
    /// A repair before this one had not ended: what that one put aside stays, because nothing was
    /// acknowledged since.
    #[serde(default)]
    pub again: bool,
    /// How it ended; none: it goes on.
    pub ended: Option<RepairEnd>,
}

/// How a repair ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairEnd {
    /// When.
    pub at: WallTime,
    /// The log reached this index, and the replica took part again.
    pub reached: Index,
    /// Whom it was fetched from; none: a fenced poll proved that nothing was missing.
    pub from: Option<ReplicaId>,
    /// The state after this entry was fetched; none: entries alone.
    pub state_after: Option<Index>,
}

/// Writes down, durably, what a running replica has met in its store: its next open puts the store
/// aside. May be called while the store is open, from any thread, whatever the store does.
pub fn note_damage(directory: &Path, what: &str) -> Result<(), StorageError> {
    replace_file(&directory.join(FOUND), format!("{what}\n").as_bytes())
}

/// What the run before has met.
pub(super) fn noted(directory: &Path) -> Result<Option<String>, StorageError> {
    let text = files::read_text(&directory.join(FOUND))?;
    Ok(text.map(|text| text.trim_end().to_owned()))
}

/// The promises say it now.
pub(super) fn forget_noted(directory: &Path) -> Result<(), StorageError> {
    let path = directory.join(FOUND);
    match std::fs::remove_file(&path) {
        Ok(()) => sync_directory(directory),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("cannot remove", &path)(error)),
    }
}

/// The last repairs, oldest first. What cannot be read is forgotten: nothing depends on it.
pub fn repairs(directory: &Path) -> Result<Vec<RepairNote>, StorageError> {
    let text = files::read_text(&directory.join(REPAIRS))?.unwrap_or_default();
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

/// A repair begins, or begins again after a crash: then the note is there already.
pub(super) fn begins(
    directory: &Path,
    (why, while_running, again): (&str, bool, bool),
) -> Result<RepairNote, StorageError> {
    let mut notes = repairs(directory)?;
    let same = |note: &&RepairNote| note.ended.is_none() && note.kept_in.is_none();
    if let Some(note) = notes.last().filter(same) {
        return Ok(note.clone());
    }
    let note = RepairNote {
        began: now(),
        why: why.to_owned(),
        while_running,
        kept_in: None,
        kept_up_to: None,
        again,
        ended: None,
    };
    notes.push(note.clone());
    write(directory, notes)?;
    Ok(note)
}

/// The damaged store is kept there, and this much of its log stayed.
pub(super) fn is_kept(
    directory: &Path,
    kept_in: Option<String>,
    kept_up_to: Option<Index>,
) -> Result<(), StorageError> {
    change_last(directory, |note| {
        (note.kept_in, note.kept_up_to) = (kept_in, kept_up_to);
    })
}

/// The last repair is over.
pub(super) fn has_ended(directory: &Path, end: &RepairEnd) -> Result<(), StorageError> {
    change_last(directory, |note| {
        note.ended.get_or_insert_with(|| end.clone());
    })
}

fn change_last(directory: &Path, change: impl FnOnce(&mut RepairNote)) -> Result<(), StorageError> {
    let mut notes = repairs(directory)?;
    let Some(last) = notes.last_mut() else {
        return Ok(());
    };
    change(last);
    write(directory, notes)
}

fn write(directory: &Path, mut notes: Vec<RepairNote>) -> Result<(), StorageError> {
    notes.drain(..notes.len().saturating_sub(REPAIRS_KEPT));
    let text = serde_json::to_string_pretty(&notes).expect("texts and numbers always encode");
    replace_file(&directory.join(REPAIRS), text.as_bytes())
}

fn now() -> WallTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    WallTime(since.map_or(0, |since| since.as_micros() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_are_remembered_and_a_crash_in_between_doubles_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(repairs(path).unwrap(), []);
        let first = begins(path, ("a page is lost", false, false)).unwrap();
        let again = begins(path, ("it is said again", true, true)).unwrap();
        assert_eq!(first, again);
        is_kept(path, Some("damaged-store-0001".into()), None).unwrap();
        let end = RepairEnd {
            at: WallTime(9),
            reached: Index(70),
            from: Some(ReplicaId(2)),
            state_after: None,
        };
        has_ended(path, &end).unwrap();
        let later = RepairEnd {
            reached: Index(99),
            ..end.clone()
        };
        has_ended(path, &later).unwrap();
        assert_eq!(repairs(path).unwrap()[0].ended, Some(end));
        for number in 0..40 {
            begins(path, (&number.to_string(), false, false)).unwrap();
            is_kept(path, Some("damaged-store-0002".into()), Some(Index(3))).unwrap();
        }
        let kept = repairs(path).unwrap();
        assert_eq!(kept.len(), REPAIRS_KEPT);
        assert_eq!(kept.last().unwrap().why, "39");
        std::fs::write(path.join(REPAIRS), "[{").unwrap();
        assert_eq!(repairs(path).unwrap(), []);
    }

    #[test]
    fn damage_is_noted_until_it_is_acted_upon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(noted(path).unwrap(), None);
        note_damage(path, "log at index 3: another hash").unwrap();
        let found = noted(path).unwrap();
        assert_eq!(found.as_deref(), Some("log at index 3: another hash"));
        for _ in 0..2 {
            forget_noted(path).unwrap();
            assert_eq!(noted(path).unwrap(), None);
        }
    }
}
