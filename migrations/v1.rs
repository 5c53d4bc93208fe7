//! Version 1: creation. The trees of `docs/storage.md`, empty.

use sled::transaction::TransactionError;
use sled::{Db, Tree};

/// Creates the trees (sled does that one by one; an empty tree more or less means nothing), then
/// says so.
pub(super) fn create(db: &Db, meta: &Tree) -> sled::Result<()> {
    for tree in [
        "log", "runs", "commits", "users", "tokens", "inboxes", "sessions",
    ] {
        db.open_tree(tree)?;
    }
    let done: Result<(), TransactionError<()>> =
        meta.transaction(|meta| Ok(super::set_format(meta, 1)?));
    match done {
        Ok(()) | Err(TransactionError::Abort(())) => Ok(()),
        Err(TransactionError::Storage(error)) => Err(error),
    }
}
