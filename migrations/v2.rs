//! Version 2: small records of the state share rows (`docs/storage.md`, Bundles). The trees are those of version 1.

use sled::transaction::TransactionError;
use sled::{Db, Tree};

/// Says so, of a store without rows.
pub(super) fn bundles(_db: &Db, meta: &Tree) -> sled::Result<()> {
    let done: Result<(), TransactionError<()>> =
        meta.transaction(|meta| Ok(super::set_format(meta, 2)?));
    match done {
        Ok(()) | Err(TransactionError::Abort(())) => Ok(()),
        Err(TransactionError::Storage(error)) => Err(error),
    }
}
