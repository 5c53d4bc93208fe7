//! One step for each format version of a store, run at open, each one atomic.
//!
//! A step changes the trees and the format number in the `meta` tree in one sled transaction, so
//! that a crash leaves the store before the step or after it. A store of a newer version is refused
//! before anything is opened. Steps are never edited after a release: a fixture directory of every
//! version (`tests/fixtures/`) is opened by the tests of every build.

mod v1;
mod v2;

use sled::transaction::TransactionError;
use sled::{Db, Tree};

/// The format version that this build writes.
pub const FORMAT: u32 = STEPS.len() as u32;

/// From version `n` to version `n + 1`.
type Step = fn(&Db, &Tree) -> sled::Result<()>;
const STEPS: [Step; 2] = [v1::create, v2::bundles];

/// Tree and key of the format number.
const META_TREE: &str = "meta";
const FORMAT_KEY: &[u8] = b"format";

/// The store's format version; 0 for one that was just created.
pub(super) fn format_of(db: &Db) -> sled::Result<u32> {
    let value = db.open_tree(META_TREE)?.get(FORMAT_KEY)?;
    match value.as_deref().map(<[u8; 4]>::try_from) {
        None => Ok(0),
        Some(Ok(bytes)) => Ok(u32::from_be_bytes(bytes)),
        Some(Err(_)) => Err(sled::Error::Corruption { at: None, bt: () }),
    }
}

/// Brings the store to [`FORMAT`]. The caller flushes.
pub(super) fn run(db: &Db) -> sled::Result<()> {
    let from = format_of(db)?;
    let meta = db.open_tree(META_TREE)?;
    for step in STEPS.iter().skip(from as usize) {
        step(db, &meta)?;
    }
    Ok(())
}

/// A step that changes nothing but the number.
fn stands_at(meta: &Tree, version: u32) -> sled::Result<()> {
    let done: Result<(), TransactionError<()>> =
        meta.transaction(|meta| Ok(set_format(meta, version)?));
    match done {
        Ok(()) | Err(TransactionError::Abort(())) => Ok(()),
        Err(TransactionError::Storage(error)) => Err(error),
    }
}

/// Records that the store is at `version` now: the last insert of each step's transaction.
fn set_format(
    meta: &sled::transaction::TransactionalTree,
    version: u32,
) -> Result<(), sled::transaction::UnabortableTransactionError> {
    meta.insert(FORMAT_KEY, &version.to_be_bytes()[..])?;
    Ok(())
}
