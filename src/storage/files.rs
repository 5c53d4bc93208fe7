//! The few file operations that storage needs, with errors that name the file.
//!
//! A file is durable only when its directory entry is: whoever creates or renames one calls
//! [`sync_directory`] on its parent AFTER the file itself is synced.

use super::StorageError;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Names the operation and the file in an error.
pub(super) fn failed<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> StorageError + 'a {
    move |source| StorageError::Io {
        what,
        path: path.display().to_string(),
        source,
    }
}

/// Bytes that this process may still write to the file system of this path.
pub fn free_bytes(path: &Path) -> std::io::Result<u64> {
    fs2::available_space(path)
}

/// Creates a directory that only its owner can enter; one that exists is closed to others.
pub(super) fn private_directory(path: &Path) -> Result<(), StorageError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("cannot create directory", path))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
        .map_err(failed("cannot close to other users", path))
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StorageError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("cannot fsync directory", path))
}

/// Makes a file durable, whoever wrote it.
pub(super) fn sync_file(path: &Path) -> Result<(), StorageError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(failed("cannot fsync", path))
}

/// Writes a whole small file so that after a crash it is there completely or as it was before:
/// write beside it, fsync, rename, fsync of the directory.
pub(super) fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let beside = path.with_extension("new");
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .map_err(failed("cannot write", &beside))?;
    std::fs::rename(&beside, path).map_err(failed("cannot rename to", path))?;
    match path.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// The file's text, `None` if there is no such file.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, StorageError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("cannot read", path)(error)),
    }
}
