//! Version 2: small records may share a row (`docs/storage.md`, Bundles). A row of version 1 is one
//! of version 2, unless its key has three bytes 0xff on end: those are put under the key that they have now. Nothing else is
//! written anew here: rows become bundles when a new neighbour comes, and all of them when the store is rewritten. The
//! number keeps builds away that do not know bundles.

use sled::transaction::{TransactionError, Transactional};
use sled::{Db, IVec, Tree};

const ONES: [u8; 3] = [0xff; 3];

/// Reads all rows of the three trees; writes few, or none.
pub(super) fn bundles(db: &Db, meta: &Tree) -> sled::Result<()> {
    let [users, tokens, sessions] = ["users", "tokens", "sessions"].map(|name| db.open_tree(name));
    let trees = [&users?, &tokens?, &sessions?, meta];
    let mut moved: Vec<(usize, IVec, IVec)> = Vec::new();
    for (at, tree) in trees[..3].iter().enumerate() {
        for row in *tree {
            let (key, value) = row?;
            let replies = at == 2 && key[..] >= b"r"[..];
            if !replies && key.windows(3).any(|three| three == ONES) {
                moved.push((at, key, value));
            }
        }
    }
    let done: Result<(), TransactionError<()>> = trees[..].transaction(|trees| {
        for (at, key, value) in &moved {
            trees[*at].remove(key)?;
            trees[*at].insert(row_key(key), alone(key, value))?;
        }
        Ok(super::set_format(&trees[3], 2)?)
    });
    match done {
        Ok(()) | Err(TransactionError::Abort(())) => Ok(()),
        Err(TransactionError::Storage(error)) => Err(error),
    }
}

/// A zero after each three bytes 0xff on end.
fn row_key(key: &[u8]) -> Vec<u8> {
    let mut row = Vec::new();
    let mut begins = 0;
    for byte in key {
        row.push(*byte);
        if row[begins..].ends_with(&ONES) {
            row.push(0);
            begins = row.len();
        }
    }
    row
}

/// A bundle of one record.
fn alone(key: &[u8], value: &[u8]) -> Vec<u8> {
    let value_bytes = (value.len() as u16).to_be_bytes();
    let head = [0xbd, 0, 1, key.len() as u8, value_bytes[0], value_bytes[1]];
    [&head[..], key, value].concat()
}
