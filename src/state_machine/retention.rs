//! Old messages go: by age, where the operator has set one. (By count, each append sees to it.)
//!
//! The primary looks for inboxes whose oldest block is old, a bounded number of users at a time,
//! round and round, and proposes an entry that names them. Apply drops whole blocks from the front,
//! acknowledged or not: a message goes when the newest one of its block is old, and what one entry
//! does not get to the next round finds again. Sequences stay gapless: an inbox that is emptied
//! goes on counting where it was.

use super::Reply;
use super::inboxes;
use super::overlay::View;
use super::records::{Head, keys};
use super::transaction::Transaction;
use crate::limits::{EXPIRE_BLOCKS_MAX, EXPIRE_INBOXES_MAX};
use crate::storage::{StorageError, Tree};
use crate::types::{InboxSeq, UserId, WallTime};

/// Drops the blocks of these inboxes whose newest message is older than `before`.
pub(super) fn expire(
    tx: &mut Transaction<'_>,
    users: &[UserId],
    before: WallTime,
) -> Result<Reply, StorageError> {
    let mut blocks = EXPIRE_BLOCKS_MAX;
    for &user in users.iter().take(EXPIRE_INBOXES_MAX) {
        // Deleted since the entry was proposed: nothing leads to its rows.
        if super::users::find_account(tx.view(), user)?.is_some() {
            expire_inbox(tx, user, before, &mut blocks)?;
        }
    }
    Ok(Reply::Done)
}

fn expire_inbox(
    tx: &mut Transaction<'_>,
    user: UserId,
    before: WallTime,
    blocks: &mut usize,
) -> Result<(), StorageError> {
    let mut first = tx.head(user)?.first;
    let last = tx.head(user)?.last;
    let begin = first;
    while first <= last && *blocks > 0 {
        let filling = tx.head(user)?.block(user)?;
        let block = inboxes::existing(tx.view(), user, filling, first)?;
        if block.newest()? >= before {
            break;
        }
        *blocks -= 1;
        tx.subtract(user, &block.sum())?;
        let head = tx.head(user)?;
        let in_head = head.open_block == first && head.filling.take().is_some();
        if !in_head {
            tx.remove(Tree::Inboxes, keys::block(user, first));
        }
        first = InboxSeq(block.last().0 + 1);
    }
    if first == begin {
        return Ok(());
    }
    let head = tx.head(user)?;
    head.set_inbox(user, first, head.last);
    if head.open_block < first {
        head.open_block = InboxSeq(0);
    }
    Ok(())
}

/// Looks at some inboxes after `position` and returns the users of those whose oldest block is
/// older than `before`, with the position to go on from (`None`: the end was reached).
pub(super) fn old_inboxes(
    view: View<'_>,
    position: Option<UserId>,
    before: WallTime,
) -> Result<(Vec<UserId>, Option<UserId>), StorageError> {
    const LOOKED_AT_MAX: usize = 256;
    let (start, end) = keys::of_prefix(b'h');
    let from = position.map_or(start, |user| super::overlay::after(&keys::head(user)));
    let rows = view.range(Tree::Users, &from, &end, LOOKED_AT_MAX)?;
    let more = rows.len() == LOOKED_AT_MAX;
    let (mut old, mut position) = (Vec::new(), None);
    for (key, bytes) in rows {
        let head: Head = super::records::decode(Tree::Users, &key, &bytes)?;
        let user = UserId(
            keys::number_at(&key, 1)
                .ok_or_else(|| super::records::damaged(Tree::Users, &key, "has a wrong key"))?,
        );
        position = Some(user);
        if head.first > head.last {
            continue;
        }
        let oldest = inboxes::existing(view, user, head.block(user)?, head.first)?;
        if oldest.newest()? < before {
            old.push(user);
            if old.len() >= EXPIRE_INBOXES_MAX {
                return Ok((old, position));
            }
        }
    }
    Ok((old, position.filter(|_| more)))
}
