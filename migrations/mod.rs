//! One step for each format version of a store, run when a store is created, which nothing names yet.
//!
//! A store of an older version stays what it is, so that the older build can
//! still be gone back to, and nothing of it is read or moved at an open. Its rewriting builds a new store.
//!
//! A step ends by writing the format number to the `meta` tree, in one sled transaction with what it changes (the fourth puts
//! empty rows before it), so that a crash leaves the store before the step or after it. A store of a newer version is refused
//! before anything is opened. Steps are never edited after a release: a fixture directory of every
//! version (`tests/fixtures/`) is opened by the tests of every build.

mod v1;
mod v2;
mod v3;
mod v4;

pub(super) use v3::{SENTINEL, SENTINELS};
pub(super) use v4::{HOT_KEY, HOT_ROWS};

use sled::{Db, Tree};

/// The format version of the stores that this build creates.
pub const FORMAT: u32 = STEPS.len() as u32;

/// From version `n` to version `n + 1`.
type Step = fn(&Db, &Tree) -> sled::Result<()>;
const STEPS: [Step; 4] = [v1::create, v2::bundles, v3::sentinels, v4::hot];

/// The version whose stores have rows without bundles.
pub(super) const WITHOUT_BUNDLES: u32 = 1;

/// The first version whose stores have sentinels.
pub(super) const WITH_SENTINELS: u32 = 3;

/// The first version whose logs have dividers.
pub(super) const WITH_LEAVES_AHEAD: u32 = 4;

/// The first version whose stores keep hot records together.
pub(super) const WITH_HOT_RECORDS: u32 = 4;

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

/// Brings a store that was just created to [`FORMAT`]. The caller flushes.
pub(super) fn run(db: &Db) -> sled::Result<()> {
    if format_of(db)? != 0 {
        return Ok(());
    }
    let meta = db.open_tree(META_TREE)?;
    for step in STEPS {
        step(db, &meta)?;
    }
    Ok(())
}

/// Records that the store is at `version` now: the last insert of each step's transaction.
fn set_format(
    meta: &sled::transaction::TransactionalTree,
    version: u32,
) -> Result<(), sled::transaction::UnabortableTransactionError> {
    meta.insert(FORMAT_KEY, &version.to_be_bytes()[..])?;
    Ok(())
}
