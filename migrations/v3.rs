//! Version 3: the log, and what grows like it, has sentinels (`docs/storage.md`, Sentinels). The trees are those of version 2.

use sled::transaction::{TransactionError, Transactional};
use sled::{Db, Tree};

/// Where the number of other rows begins that of a sentinel has this byte, and one more, which counts them: it stands
/// behind any number.
pub const SENTINEL: u8 = 0xfe;
/// Of the rows of a full leaf eight go to a new one. With eight sentinels these would be all of
/// them, and what comes next would still belong to the full leaf.
pub const SENTINELS: u8 = 7;

/// Puts them into the log of a store without rows, and says so.
pub(super) fn sentinels(db: &Db, meta: &Tree) -> sled::Result<()> {
    let log = db.open_tree("log")?;
    let done: Result<(), TransactionError<()>> = (&log, meta).transaction(|(log, meta)| {
        for number in 0..SENTINELS {
            log.insert(&[SENTINEL, number], &[])?;
        }
        Ok(super::set_format(meta, 3)?)
    });
    match done {
        Ok(()) | Err(TransactionError::Abort(())) => Ok(()),
        Err(TransactionError::Storage(error)) => Err(error),
    }
}
