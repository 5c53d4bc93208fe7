//! Recomputes the digest from the records, every level of it.
//!
//! What disagrees below the total is an error that names the tree and the record; the total itself
//! is returned for the caller to compare. Rows that nothing leads to (of a deleted account, of a
//! dropped client) are garbage that waits for its removal, not part of the state.

use super::block::Block;
use super::digest::Lanes;
use super::overlay::{View, after};
use super::packed::Packed;
use super::records::{
    Account, AccountRecord, Client, Creation, FRONTS, Head, Key, Token, damaged, decode,
    delivered_lanes, keys, name_lanes,
};
use super::{idempotency, tokens};
use crate::limits::{CLIENTS_MAX, FRONTS_MAX};
use crate::storage::{StorageError, Tree};
use crate::types::{ClientId, InboxSeq, Index, UserId};
use bytes::Bytes;
use std::sync::Arc;

const PAGE: usize = 256;

/// The sum over all logical records.
pub(super) fn total(view: View<'_>) -> Result<Lanes, StorageError> {
    let mut total = Lanes::ZERO;
    let (mut accounts, mut token_count) = (0, 0);
    pages(view, Tree::Users, keys::of_prefix(b'a'), |key, bytes| {
        let user = UserId(number(Tree::Users, key, 1)?);
        match decode(Tree::Users, key, bytes)? {
            AccountRecord::Deleted(tombstone) => total.add(&tombstone.lanes(user)),
            AccountRecord::Live(account) => {
                accounts += 1;
                token_count += account.tokens.len();
                total.add(&user_sum(view, user, &account)?);
            }
        }
        Ok(())
    })?;
    let fronts = clients_sum(view, FRONTS)?;
    total.add(&fronts.apart);
    if let Some(head) = view.read::<Head>(Tree::Users, &keys::head(FRONTS))? {
        let mut sum = head.inbox_lanes(FRONTS);
        sum.add(&fronts.with_owner);
        compare(Tree::Users, &keys::head(FRONTS), &head.sum, &sum)?;
        total.add(&sum);
    }
    pages(view, Tree::Users, keys::of_prefix(b'g'), |key, bytes| {
        let creation: Creation = decode(Tree::Users, key, bytes)?;
        let request = Creation::request_of(key);
        let request = request.ok_or_else(|| damaged(Tree::Users, key, "has a wrong key"))?;
        total.add(&creation.lanes(&request));
        Ok(())
    })?;
    // Names and tokens that belong to nobody are in no user's sum.
    let mut names = 0;
    pages(view, Tree::Users, keys::of_prefix(b'n'), |_, _| {
        names += 1;
        Ok(())
    })?;
    let mut found = 0;
    let all = (Key::new(), Key::from_slice(&[0xff; 33]));
    pages(view, Tree::Tokens, all, |_, _| {
        found += 1;
        Ok(())
    })?;
    expect_count("users", "names", names, accounts)?;
    expect_count("tokens", "tokens", found, token_count)?;
    Ok(total)
}

fn expect_count(tree: &str, what: &str, found: usize, want: usize) -> Result<(), StorageError> {
    if found == want {
        return Ok(());
    }
    Err(StorageError::Damaged(format!(
        "{tree}: {found} {what}, but the accounts have {want}"
    )))
}

fn user_sum(view: View<'_>, user: UserId, account: &Account) -> Result<Lanes, StorageError> {
    let mut sum = account.lanes(user);
    let name_key = keys::name(&account.name);
    if view.read::<UserId>(Tree::Users, &name_key)? != Some(user) {
        let what = format!("does not lead to user {user}, whose name it is");
        return Err(damaged(Tree::Users, &name_key, &what));
    }
    sum.add(&name_lanes(&account.name, user));

    let head_key = keys::head(user);
    let Some(head) = view.read::<Head>(Tree::Users, &head_key)? else {
        return Err(damaged(Tree::Users, &head_key, "is missing"));
    };
    sum.add(&head.inbox_lanes(user));
    for device in &head.devices {
        sum.add(&device.lanes(user));
    }
    for hash in &account.tokens {
        let token: Token = tokens::existing(view, hash)?;
        if token.user != user {
            let what = format!("does not belong to user {user}, who lists it");
            return Err(damaged(Tree::Tokens, &keys::token(hash), &what));
        }
        sum.add(&token.lanes(hash));
    }
    sum.add(&inbox_sum(view, user, &head)?);
    let clients = clients_sum(view, user)?;
    sum.add(&clients.with_owner);
    let delivered = keys::of_user(b"d", user);
    pages(view, Tree::Sessions, delivered, |key, bytes| {
        let sender = UserId(number(Tree::Sessions, key, 9)?);
        let message: Index = decode(Tree::Sessions, key, bytes)?;
        sum.add(&delivered_lanes(user, sender, message));
        Ok(())
    })?;
    compare(Tree::Users, &head_key, &head.sum, &sum)?;
    sum.add(&clients.apart);
    Ok(sum)
}

/// The messages of one inbox: without a gap from the head's first to its last.
fn inbox_sum(view: View<'_>, user: UserId, head: &Head) -> Result<Lanes, StorageError> {
    let mut sum = Lanes::ZERO;
    let mut next = head.first;
    let mut visit = |block: &Block, key: &[u8]| {
        if block.first != next {
            let what = format!("begins at {}, not at {next}", block.first);
            return Err(damaged(Tree::Inboxes, key, &what));
        }
        let mut messages = Lanes::ZERO;
        for (seq, message) in block.messages()? {
            messages.add(&message.lanes(user, seq));
        }
        compare(Tree::Inboxes, key, &block.sum(), &messages)?;
        sum.add(&messages);
        next = InboxSeq(block.last().0 + 1);
        Ok(())
    };
    let rows = keys::of_user(b"", user);
    pages(view, Tree::Inboxes, rows, |key, bytes| {
        visit(&Block::open(key, Arc::new(bytes.to_vec()))?, key)
    })?;
    if let Some(block) = head.block(user)? {
        visit(&block, &keys::block(user, block.first))?;
    }
    if next.0 != head.last.0 + 1 {
        return Err(StorageError::Damaged(format!(
            "inboxes: user {user}: message {next} is missing, the last one is {}",
            head.last
        )));
    }
    Ok(sum)
}

/// What the clients of an owner add to the total.
struct Clients {
    /// Of those that are in the sum of their owner, too.
    with_owner: Lanes,
    /// Of those that are not.
    apart: Lanes,
}

fn clients_sum(view: View<'_>, owner: UserId) -> Result<Clients, StorageError> {
    let mut sums = Clients {
        with_owner: Lanes::ZERO,
        apart: Lanes::ZERO,
    };
    for (id, client) in idempotency::clients(view, owner, CLIENTS_MAX + FRONTS_MAX)? {
        let sum = client_sum(view, owner, &id, &client)?;
        match client.apart {
            Some(_) => sums.apart.add(&sum),
            None => sums.with_owner.add(&sum),
        }
    }
    Ok(sums)
}

fn client_sum(
    view: View<'_>,
    owner: UserId,
    id: &ClientId,
    client: &Client,
) -> Result<Lanes, StorageError> {
    let mut sum = Lanes::ZERO;
    let mut visit = |group: &Packed| {
        let mut rows = Lanes::ZERO;
        for (sequence, row) in idempotency::rows(group)? {
            rows.add(&row.lanes(owner, client.registered, sequence));
        }
        compare(Tree::Sessions, group.key(), &group.sum(), &rows)?;
        sum.add(&rows);
        Ok(())
    };
    let range = (
        keys::group(owner, client.registered, 0),
        keys::group(owner, client.registered.next(), 0),
    );
    pages(view, Tree::Sessions, range, |key, bytes| {
        let bytes = Arc::new(bytes.to_vec());
        visit(&Packed::open(Tree::Sessions, key, bytes)?)
    })?;
    if let Some(filling) = idempotency::filling(owner, client)? {
        visit(&filling)?;
    }
    compare(Tree::Sessions, &keys::client(owner, id), &client.sum, &sum)?;
    sum.add(&client.lanes(owner, id));
    Ok(sum)
}

fn compare(tree: Tree, key: &[u8], stored: &Lanes, found: &Lanes) -> Result<(), StorageError> {
    if stored == found {
        return Ok(());
    }
    let what = "keeps a digest that is not that of the records below it";
    Err(damaged(tree, key, what))
}

fn number(tree: Tree, key: &[u8], at: usize) -> Result<u64, StorageError> {
    keys::number_at(key, at).ok_or_else(|| damaged(tree, key, "has a wrong key"))
}

/// Visits all records of a range, in pages.
fn pages(
    view: View<'_>,
    tree: Tree,
    (mut from, to): (Key, Key),
    mut visit: impl FnMut(&[u8], &Bytes) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    loop {
        let page = view.range(tree, &from, &to, PAGE)?;
        for (key, bytes) in &page {
            visit(key, bytes)?;
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => from = after(last),
            _ => return Ok(()),
        }
    }
}
