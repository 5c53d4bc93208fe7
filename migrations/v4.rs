//! Version 4: what one slice after the other changes is written together (`docs/storage.md`, Hot records), and leaves of the
//! log are made ahead (Leaves made ahead). The trees are those of version 3.

use super::v3::SENTINEL;
use sled::transaction::TransactionError;
use sled::{Db, Tree};

/// A row of hot records in `meta` has this key, and a number behind it that begins with 1.
pub const HOT_KEY: &[u8] = b"hot";
/// Most such rows.
pub const HOT_ROWS: u8 = 64;
/// sled parts a leaf of 17 rows: nine stay.
const ROWS_OF_A_LEAF: u8 = 9;

/// Parts the leaves of `meta` while they are empty, so that each row of hot records has one to itself: it is
/// written with every slice, and would be written again with each leaf that it shares. One row after the other, because
/// those of a transaction come in any order. Then says so.
pub(super) fn hot(_db: &Db, meta: &Tree) -> sled::Result<()> {
    for row in 0..=HOT_ROWS {
        for number in 0..ROWS_OF_A_LEAF {
            meta.insert([HOT_KEY, &[row, SENTINEL, number]].concat(), &[])?;
        }
    }
    let done: Result<(), TransactionError<()>> =
        meta.transaction(|meta| Ok(super::set_format(meta, 4)?));
    match done {
        Ok(()) | Err(TransactionError::Abort(())) => Ok(()),
        Err(TransactionError::Storage(error)) => Err(error),
    }
}
