//! Version 4: leaves of the log are made ahead (`docs/storage.md`, Leaves made ahead). The trees are those of version 3.

use sled::transaction::TransactionError;
use sled::{Db, Tree};

/// Says so, of a store without rows.
pub(super) fn leaves(_db: &Db, meta: &Tree) -> sled::Result<()> {
    let done: Result<(), TransactionError<()>> =
        meta.transaction(|meta| Ok(super::set_format(meta, 4)?));
    match done {
        Ok(()) | Err(TransactionError::Abort(())) => Ok(()),
        Err(TransactionError::Storage(error)) => Err(error),
    }
}
