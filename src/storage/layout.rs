//! The stores within a data directory: which one is live, what they are called, and the file in each
//! that says how sled is to open it.

use super::files::{self, failed, private_directory, replace_file};
use super::{StorageError, migrations, sled_store};
use crate::limits;
use std::path::{Path, PathBuf};

/// Format version and segment size: sled's own `conf` may be lost in a power cut, and a store
/// opened with another segment size comes up empty without an error.
const STORE_FORMAT: &str = "store_format";

/// An empty store in a directory that does not exist, or only as a leftover.
pub(super) fn create_store_at(store: &Path, cache_bytes: u64) -> Result<(), StorageError> {
    remove_store(store)?;
    private_directory(store)?;
    sled_store::create(store, cache_bytes)?;
    write_format(store, 0)
}

/// The directory that `CURRENT` names.
pub(super) fn current_store(path: &Path) -> Result<PathBuf, StorageError> {
    let store = path.join(named_store(path)?.map_err(StorageError::Damaged)?);
    if store.is_dir() {
        return Ok(store);
    }
    Err(StorageError::Damaged(format!(
        "CURRENT: it names {}, which is missing",
        store.file_name().unwrap_or_default().to_string_lossy()
    )))
}

/// What `CURRENT` says; the inner `Err` is what is wrong with it.
pub(super) fn named_store(path: &Path) -> Result<Result<String, String>, StorageError> {
    let Some(text) = files::read_text(&path.join("CURRENT"))? else {
        return Ok(Err(
            "CURRENT: the file is missing, so nothing says which store is the live one".into(),
        ));
    };
    let name = text.trim_end();
    let digits = name.strip_prefix("store-").unwrap_or_default();
    let good = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    Ok(if good {
        Ok(name.to_owned())
    } else {
        Err(format!("CURRENT: it should name a store and says {name:?}"))
    })
}

/// The number in the name of a store, or of one that was put aside.
pub(super) fn number_of(store: &Path) -> u64 {
    let name = store.file_name().unwrap_or_default().to_string_lossy();
    let digits = name.rsplit('-').next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

/// Every store that is there and may have been live, by number.
pub(super) fn stores(path: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed("cannot list", path))? {
        let entry = entry.map_err(failed("cannot list", path))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let digits = name.strip_prefix("store-").unwrap_or_default();
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            found.push(entry.path());
        }
    }
    found.sort_by_key(|store| number_of(store));
    Ok(found)
}

/// The directory after a store's.
pub(super) fn store_after(store: &Path) -> Result<PathBuf, StorageError> {
    let name = store.file_name().and_then(|name| name.to_str());
    let number = name
        .and_then(|name| name.strip_prefix("store-"))
        .and_then(|digits| digits.parse::<u64>().ok());
    let Some(number) = number else {
        return Err(StorageError::Unusable(format!(
            "{} has no number to count on from",
            store.display()
        )));
    };
    Ok(store.with_file_name(format!("store-{:04}", number + 1)))
}

/// Removes a store that CURRENT does not name, if it is there.
pub(super) fn remove_store(store: &Path) -> Result<(), StorageError> {
    match std::fs::remove_dir_all(store) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("cannot remove", store)(error))
        }
        _ => Ok(()),
    }
}

/// Stores that CURRENT does not name: one that was being built when the process ended, or an old
/// one. They go now that the live one has opened.
pub(super) fn remove_others(path: &Path, live: &Path) -> Result<(), StorageError> {
    for entry in std::fs::read_dir(path).map_err(failed("cannot list", path))? {
        let entry = entry.map_err(failed("cannot list", path))?;
        let name = entry.file_name();
        let store = name.to_string_lossy().starts_with("store-");
        if store && entry.path() != live {
            remove_store(&entry.path())?;
        }
    }
    Ok(())
}

/// CURRENT names this store, durably, from now on.
pub(super) fn name_current(path: &Path, store: &Path) -> Result<(), StorageError> {
    let name = store.file_name().unwrap_or_default().to_string_lossy();
    replace_file(&path.join("CURRENT"), format!("{name}\n").as_bytes())
}

/// Writes the file that names format and segment size, and the store's size if it was rewritten.
pub(super) fn write_format(store: &Path, rewritten_bytes: u64) -> Result<(), StorageError> {
    let mut text = format_text();
    if rewritten_bytes > 0 {
        text = format!("{text}rewritten_bytes {rewritten_bytes}\n");
    }
    replace_file(&store.join(STORE_FORMAT), text.as_bytes())
}

/// What [`write_format`] has written down.
pub(super) fn rewritten_bytes(store: &Path) -> Result<u64, StorageError> {
    let text = files::read_text(&store.join(STORE_FORMAT))?.unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("rewritten_bytes "));
    Ok(line
        .and_then(|bytes| bytes.trim().parse().ok())
        .unwrap_or(0))
}

fn format_text() -> String {
    let segment = limits::SEGMENT_BYTES;
    format!("format {}\nsegment_bytes {segment}\n", migrations::FORMAT)
}

/// The format version of a store, whose segment size must be this build's.
pub(super) fn read_format(store: &Path) -> Result<u32, StorageError> {
    let path = store.join(STORE_FORMAT);
    let text = files::read_text(&path)?.unwrap_or_default();
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|number| number.trim().parse::<u64>().ok())
    };
    let Some(format) = number("format ").and_then(|f| u32::try_from(f).ok()) else {
        return Err(StorageError::Damaged(format!(
            "{STORE_FORMAT}: it is missing or does not name a format"
        )));
    };
    if format > migrations::FORMAT {
        return Err(newer_format(store, format));
    }
    match number("segment_bytes ") {
        Some(bytes) if bytes == limits::SEGMENT_BYTES as u64 => Ok(format),
        other => Err(StorageError::Damaged(format!(
            "{STORE_FORMAT}: segments should have {} bytes and it says {other:?}",
            limits::SEGMENT_BYTES
        ))),
    }
}

/// A store that this build must not touch.
pub(super) fn newer_format(path: &Path, format: u32) -> StorageError {
    StorageError::Unusable(format!(
        "{} has format {format}, and this build knows formats up to {}: a newer version wrote it, \
         run that one",
        path.display(),
        migrations::FORMAT
    ))
}

/// sled puts a leaf that is too large into a file that it never fsyncs. `limits` rules that out,
/// so such a file means that part of the store may be missing after the next power cut.
pub(super) fn refuse_blobs(store: &Path) -> Result<(), StorageError> {
    let blobs = store.join("blobs");
    let first = match std::fs::read_dir(&blobs) {
        Ok(mut entries) => entries.next(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("cannot list", &blobs)(error)),
    };
    match first {
        None => Ok(()),
        Some(Ok(entry)) => Err(StorageError::Damaged(format!(
            "blobs: {} was never fsynced and should not exist",
            entry.file_name().to_string_lossy()
        ))),
        Some(Err(error)) => Err(failed("cannot list", &blobs)(error)),
    }
}

/// sled writes its index beside its place, syncs it, and renames it. One that a crash (also a kill)
/// left half written is taken for the newest one by the next open, which then calls the store
/// damaged: sled passes over another suffix than the one that it uses. The index before it is there
/// still, so that this one is not needed.
pub(super) fn remove_unfinished_index(store: &Path) -> Result<(), StorageError> {
    for entry in std::fs::read_dir(store).map_err(failed("cannot list", store))? {
        let path = entry.map_err(failed("cannot list", store))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(&path).map_err(failed("cannot remove", &path))?;
        }
    }
    Ok(())
}
