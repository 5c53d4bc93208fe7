//! Whose directory this is: the identity in the promises, and the new one of a replica that has none.

use super::files::failed;
use super::guard::guarded;
use super::hard_state::{Found, HardStateFile};
use super::sled_store::Engine;
use super::{OpenOptions, Recovered, StorageError};
use crate::consensus::{FormationStatus, HardState};
use crate::types::entry::Entry;
use crate::types::{Index, ReplicaId, Stamp};
use std::path::Path;

/// Writes the promises of a replica that has none; `lost` says why, if it had some. The inner `Err`
/// says what is damaged.
pub(super) fn begin_life(
    path: &Path,
    engine: &Engine,
    recovered: &Recovered,
    options: &OpenOptions,
    mut lost: Option<String>,
) -> Result<Result<Found, String>, StorageError> {
    let last = recovered.last;
    if lost.is_none() && last != Stamp::ZERO {
        lost = Some(format!(
            "hard_state: the file is missing although the log ends at {last}"
        ));
    }
    let state = match new_life(engine, recovered, options, lost.as_deref()) {
        Ok(state) => state,
        Err(sentence) => return Ok(Err(sentence)),
    };
    check_identity(path, &state, options)?;
    let file = path.join("hard_state");
    keep_evidence(&file)?;
    HardStateFile::create(&file, &state)?;
    if let Some(sentence) = lost {
        tracing::warn!(
            "the promises of this replica are lost ({sentence}): it goes on as {} with the log \
             that it has, and does not count until the others have readmitted it",
            state.incarnation
        );
    }
    Ok(match HardStateFile::load(&file)? {
        Some(Ok(found)) => Ok(found),
        _ => Err("hard_state: it does not read as it was just written".into()),
    })
}

/// The promises of a replica that has made none, or has lost them: a new incarnation. `Err` says
/// why the store cannot be gone on with.
fn new_life(
    engine: &Engine,
    recovered: &Recovered,
    options: &OpenOptions,
    lost: Option<&str>,
) -> Result<HardState, String> {
    let mut findings: Vec<String> = lost.map(str::to_owned).into_iter().collect();
    findings.extend(
        recovered
            .damage
            .iter()
            .map(|(_, sentence)| sentence.clone()),
    );
    let last = recovered.last;
    let reader = engine.clone();
    let of_base = &recovered.base.founders;
    let founders = match guarded(options.patience, move || reader.entries(Index(1), 1)) {
        _ if !of_base.is_empty() => Some(of_base.clone()),
        Ok(entries) => entries
            .first()
            .and_then(Entry::as_formation)
            .map(|formation| formation.members),
        Err(error) => {
            findings.push(error.to_string());
            None
        }
    };
    if founders.is_none() && last != Stamp::ZERO {
        findings.push("log: entry 1 does not name a cluster".into());
    }
    // A cluster of one has nobody who could readmit it, and its mark is the only proof that the
    // log is whole.
    let alone = lost.is_some() && options.ids.len() == 1;
    if recovered.damage.is_empty() && (founders.is_some() || last == Stamp::ZERO) && !alone {
        let incarnation = options.incarnation;
        return Ok(HardState::new_life(options.id, incarnation, founders, last));
    }
    Err(findings.join("; "))
}

/// A file of promises that cannot be read is kept beside its place, the newest one of them.
fn keep_evidence(hard_state: &Path) -> Result<(), StorageError> {
    let kept = hard_state.with_extension("unreadable");
    match std::fs::rename(hard_state, &kept) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("cannot rename to", &kept)(error))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_identity(
    path: &Path,
    state: &HardState,
    options: &OpenOptions,
) -> Result<(), StorageError> {
    if state.id != options.id {
        return Err(StorageError::Unusable(format!(
            "the data directory {} belongs to replica {}, and this is replica {}: check --id and \
             --data-dir",
            path.display(),
            state.id,
            options.id
        )));
    }
    let FormationStatus::Formed(members) = &state.formation else {
        return Ok(());
    };
    let mut ids = options.ids.clone();
    ids.sort_unstable();
    if members.keys().eq(&ids) {
        return Ok(());
    }
    let list = |ids: &mut dyn Iterator<Item = &ReplicaId>| {
        let ids: Vec<_> = ids.map(ToString::to_string).collect();
        ids.join(", ")
    };
    Err(StorageError::Unusable(format!(
        "the data directory {} belongs to a cluster of the replicas {}, and this one was started \
         for the replicas {}: check --peers and --data-dir",
        path.display(),
        list(&mut members.keys()),
        list(&mut ids.iter())
    )))
}
