//! Records of the state trees: their keys, their values, their part in the digest.
//!
//! Keys are big-endian, so that byte order is the natural order. Values begin with a version byte;
//! structs only ever grow at the end, with defaults. See `docs/state_machine.md`.

use super::blob;
use super::block::Block;
use super::digest::{Canonical, Lanes, RecordKind};
use super::packed::Filling;
use crate::storage::{StorageError, Tree};
use crate::types::{ClientId, Hash, InboxSeq, Index, RequestId, TokenHash, UserId, WallTime};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::fmt::Write as _;

const VERSION: u8 = 1;

/// Owns the idempotency entries of the replicas' front doors. No account has this id: an id is
/// the index of an entry, and those begin at 1.
pub(super) const FRONTS: UserId = UserId(0);

/// A record as it is stored. It is gathered in `spare`, whatever that held: a vector that grows to a
/// row's size is moved with each step, and has room that nobody needs.
pub(super) fn encode<T: Serialize>(record: &T, spare: &mut Vec<u8>) -> Bytes {
    spare.clear();
    spare.push(VERSION);
    rmp_serde::encode::write(spare, record)
        .expect("plain structs always encode, and a vector never refuses bytes");
    Bytes::copy_from_slice(spare)
}

pub(super) fn decode<T: DeserializeOwned>(
    tree: Tree,
    key: &[u8],
    bytes: &[u8],
) -> Result<T, StorageError> {
    match bytes.split_first() {
        Some((&VERSION, body)) => rmp_serde::from_slice(body)
            .map_err(|error| damaged(tree, key, &format!("does not parse: {error}"))),
        Some((version, _)) => Err(newer(tree, key, *version)),
        None => Err(damaged(tree, key, "is empty")),
    }
}

/// A finding about one record: a sentence that names the tree and the key.
pub(super) fn damaged(tree: Tree, key: &[u8], what: &str) -> StorageError {
    StorageError::Damaged(sentence(tree, key, what))
}

/// A record that this build cannot read is no damage: nobody is to put such a store aside.
pub(super) fn newer(tree: Tree, key: &[u8], version: u8) -> StorageError {
    let what = format!("has unknown version {version}: written by a newer version? Run that one");
    StorageError::Unusable(sentence(tree, key, &what))
}

fn sentence(tree: Tree, key: &[u8], what: &str) -> String {
    let mut sentence = format!("{}: record ", tree.name());
    for byte in key {
        // Writing to a string cannot fail.
        let _ = write!(sentence, "{byte:02x}");
    }
    sentence.push(' ');
    sentence.push_str(what);
    sentence
}

/// Bytes of a key that is held in place. None of today's is longer.
const KEY_BYTES: usize = 40;

/// A key of a state tree, in place: what compares keys follows no pointer. Longer ones than any of
/// today's are held on the heap. (`Key::from_slice` copies one at once, `clone` byte by byte.)
pub(super) type Key = SmallVec<[u8; KEY_BYTES]>;

/// Keys. A prefix letter keeps kinds of record in one tree apart.
pub(super) mod keys {
    use super::{ClientId, InboxSeq, Index, KEY_BYTES, Key, RequestId, TokenHash, UserId};

    /// A key that is being put together from parts whose lengths are known: in place, a move each.
    struct Parts {
        bytes: [u8; KEY_BYTES],
        end: usize,
    }

    fn begin() -> Parts {
        let bytes = [0; KEY_BYTES];
        Parts { bytes, end: 0 }
    }

    impl Parts {
        #[inline]
        fn bytes<const N: usize>(mut self, part: &[u8; N]) -> Self {
            self.bytes[self.end..self.end + N].copy_from_slice(part);
            self.end += N;
            self
        }
        #[inline]
        fn number(self, number: u64) -> Self {
            self.bytes(&number.to_be_bytes())
        }
        #[inline]
        fn key(self) -> Key {
            Key::from_buf_and_len(self.bytes, self.end)
        }
    }

    fn user<const N: usize>(prefix: &[u8; N], user: UserId) -> Key {
        begin().bytes(prefix).number(user.0).key()
    }

    /// `users`: (a, user) → account or tombstone.
    pub fn account(id: UserId) -> Key {
        user(b"a", id)
    }
    /// `users`: (h, user) → head.
    pub fn head(id: UserId) -> Key {
        user(b"h", id)
    }
    /// `users`: (n, name) → user.
    pub fn name(name: &str) -> Key {
        let mut key = Key::from_slice(b"n");
        key.extend_from_slice(name.as_bytes());
        key
    }
    /// `users`: (g, client, sequence) → the creation that this request was, of a deleted account.
    pub fn creation(request: &RequestId) -> Key {
        let key = begin().bytes(b"g").bytes(&request.client.0);
        key.number(request.sequence).key()
    }
    /// `tokens`: token hash → token.
    pub fn token(hash: &TokenHash) -> Key {
        Key::from_slice(&hash.0)
    }
    /// `inboxes`: (user, first sequence) → block of messages.
    pub fn block(user: UserId, first: InboxSeq) -> Key {
        begin().number(user.0).number(first.0).key()
    }
    /// `sessions`: (c, user, client) → client.
    pub fn client(user: UserId, client: &ClientId) -> Key {
        begin().bytes(b"c").number(user.0).bytes(&client.0).key()
    }
    /// `sessions`: (r, user, registration, group of sequences) → remembered replies.
    pub fn group(user: UserId, registered: Index, group: u64) -> Key {
        let key = begin().bytes(b"r").number(user.0);
        key.number(registered.0).number(group).key()
    }
    /// `sessions`: (d, recipient, sender) → newest acknowledged message of this sender.
    pub fn delivered(recipient: UserId, sender: UserId) -> Key {
        let key = begin().bytes(b"d").number(recipient.0);
        key.number(sender.0).key()
    }
    /// `sessions`: (x, entry, ordinal) → rows that nobody can see any more.
    pub fn cleanup(entry: Index, ordinal: u8) -> Key {
        begin().bytes(b"x").number(entry.0).bytes(&[ordinal]).key()
    }

    /// All keys that begin with `prefix` and then belong to `id`.
    pub fn of_user<const N: usize>(prefix: &[u8; N], id: UserId) -> (Key, Key) {
        (user(prefix, id), user(prefix, UserId(id.0 + 1)))
    }
    /// All keys that begin with this letter.
    pub fn of_prefix(prefix: u8) -> (Key, Key) {
        (Key::from_slice(&[prefix]), Key::from_slice(&[prefix + 1]))
    }

    /// The big-endian number that starts at `at`, if the key is that long.
    pub fn number_at(key: &[u8], at: usize) -> Option<u64> {
        let bytes = key.get(at..at + 8)?;
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    }
}

/// `users`, (a, …). An id is never reused: what is deleted leaves a tombstone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum AccountRecord {
    Live(Account),
    Deleted(Tombstone),
}

/// What seldom changes about an account.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    pub name: String,
    pub full_name: String,
    pub password_hash: String,
    pub password_version: u32,
    pub created: WallTime,
    /// The request that created it, so that its repetition is recognised: see [`Creation`].
    pub created_by: Option<RequestId>,
    /// Its live tokens, oldest first. Not part of the digest: the tokens themselves are.
    #[serde(with = "blob::token_hashes")]
    pub tokens: Vec<TokenHash>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Account {
    pub fn lanes(&self, user: UserId) -> Lanes {
        let (client, sequence) = match &self.created_by {
            Some(request) => (&request.client.0[..], request.sequence),
            None => (&[][..], 0),
        };
        Canonical::new(RecordKind::Account)
            .number(user.0)
            .bytes(&self.name)
            .bytes(&self.full_name)
            .bytes(&self.password_hash)
            .number(u64::from(self.password_version))
            .number(self.created.0)
            .bytes(client)
            .number(sequence)
            .lanes()
    }
}

/// What is left of a deleted account.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Tombstone {
    /// The entry that deleted it.
    pub deleted: Index,
}

impl Tombstone {
    pub fn lanes(&self, user: UserId) -> Lanes {
        Canonical::new(RecordKind::Tombstone)
            .number(user.0)
            .number(self.deleted.0)
            .lanes()
    }
}

/// `users`, (g, …). A request that created an account which was deleted since: an attempt of it that
/// arrives late must not create that account once more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Creation {
    pub user: UserId,
    pub name: String,
}

impl Creation {
    pub fn lanes(&self, request: &RequestId) -> Lanes {
        Canonical::new(RecordKind::Creation)
            .bytes(request.client.0)
            .number(request.sequence)
            .number(self.user.0)
            .bytes(&self.name)
            .lanes()
    }

    /// The request that a key names.
    pub fn request_of(key: &[u8]) -> Option<RequestId> {
        let client = key.get(1..17)?.try_into().ok()?;
        Some(RequestId {
            client: ClientId(client),
            sequence: keys::number_at(key, 17)?,
        })
    }
}

/// The name index's part in the digest.
pub(super) fn name_lanes(name: &str, user: UserId) -> Lanes {
    Canonical::new(RecordKind::Name)
        .bytes(name)
        .number(user.0)
        .lanes()
}

/// `users`, (h, …): what often changes about an account. Invariant: `sum` is the sum of all
/// logical records of this user, its account and name included, but for those of clients that are
/// [`Apart`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub sum: Lanes,
    /// First message kept; 1 in an empty or untrimmed inbox. Changed by `set_inbox` only.
    pub first: InboxSeq,
    /// Last message; 0 in an empty inbox. The same.
    pub last: InboxSeq,
    /// First sequence of the block that takes the next message; 0: none.
    pub open_block: InboxSeq,
    pub devices: Vec<Device>,
    /// That block, if it stands here and not in a row of its own.
    #[serde(default, skip_serializing_if = "Filling::is_empty")]
    pub filling: Filling,
    /// What the inbox adds to `sum`, if it was computed in this process.
    #[serde(skip)]
    inbox: Option<Lanes>,
}

/// A device's cursor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Device {
    pub name: String,
    /// Inclusive.
    pub acknowledged: InboxSeq,
}

impl Head {
    pub fn new(user: UserId) -> Self {
        let mut head = Self {
            sum: Lanes::ZERO,
            first: InboxSeq(1),
            last: InboxSeq(0),
            open_block: InboxSeq(0),
            devices: Vec::new(),
            filling: Filling::default(),
            inbox: None,
        };
        head.sum = head.inbox_lanes(user);
        head
    }

    /// Moves the ends of the inbox, and the sum with them.
    pub fn set_inbox(&mut self, user: UserId, first: InboxSeq, last: InboxSeq) {
        let before = self.inbox.take();
        let before = before.unwrap_or_else(|| self.inbox_lanes(user));
        (self.first, self.last) = (first, last);
        let now = self.inbox_lanes(user);
        self.sum.subtract(&before);
        self.sum.add(&now);
        self.inbox = Some(now);
    }

    pub fn inbox_lanes(&self, user: UserId) -> Lanes {
        Canonical::new(RecordKind::Inbox)
            .number(user.0)
            .number(self.first.0)
            .number(self.last.0)
            .lanes()
    }

    /// The block that stands here.
    pub fn block(&self, user: UserId) -> Result<Option<Block>, StorageError> {
        let open = |record| Block::open(&keys::block(user, self.open_block), record);
        self.filling.record().map(open).transpose()
    }

    pub fn device(&self, name: &str) -> Option<&Device> {
        self.devices.iter().find(|d| d.name == name)
    }
}

impl Device {
    pub fn lanes(&self, user: UserId) -> Lanes {
        Canonical::new(RecordKind::Cursor)
            .number(user.0)
            .bytes(&self.name)
            .number(self.acknowledged.0)
            .lanes()
    }
}

/// `tokens`. Valid while it exists and its password version is the account's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Token {
    pub user: UserId,
    pub device: String,
    /// Public id: index of the entry that issued it.
    pub session: u64,
    pub client: ClientId,
    pub password_version: u32,
    pub created: WallTime,
    pub last_used: WallTime,
}

impl Token {
    pub fn lanes(&self, hash: &TokenHash) -> Lanes {
        Canonical::new(RecordKind::Token)
            .bytes(hash.0)
            .number(self.user.0)
            .bytes(&self.device)
            .number(self.session)
            .bytes(self.client.0)
            .number(u64::from(self.password_version))
            .number(self.created.0)
            .number(self.last_used.0)
            .lanes()
    }
}

/// `sessions`, (c, …): a client id whose requests are remembered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Client {
    /// The entry that registered it. Replies are kept under it, so that those of an earlier
    /// registration never come back.
    pub registered: Index,
    /// Sequences below were not registered with it: never run.
    pub base: u64,
    /// Highest sequence seen.
    pub newest: u64,
    /// Nothing lies below this group of sequences.
    pub lowest_group: u64,
    /// The entry that used it last.
    pub used: Index,
    /// Sum over its remembered replies.
    pub sum: Lanes,
    /// From level 3 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart: Option<Apart>,
    /// What it was itself hashed to when it was last written, if that was in this process. For
    /// `remember`, which changes it.
    #[serde(skip)]
    pub hashed: Option<Lanes>,
}

/// A client whose row has what each of its requests changes: neither its owner's head nor the group of
/// replies that is being filled is written beside it.
///
/// Invariant: its part of the digest is in the total, and not in the sum of its owner.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Apart {
    /// The group that is being filled here, ...
    pub group: u64,
    /// ... and its replies. Those of other groups are in rows of their own.
    pub filling: Filling,
}

impl Client {
    pub fn lanes(&self, user: UserId, client: &ClientId) -> Lanes {
        Canonical::new(RecordKind::Client)
            .number(user.0)
            .bytes(client.0)
            .number(self.registered.0)
            .number(self.base)
            .number(self.newest)
            .number(self.lowest_group)
            .number(self.used.0)
            .lanes()
    }
}

/// `sessions`, (r, …): what a request came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Remembered {
    /// Hash of the operation's body.
    pub operation: Hash,
    /// The token that it issued, if it issued one.
    pub token: Option<TokenHash>,
    /// The encoded [`super::Reply`].
    #[serde(with = "blob")]
    pub reply: Vec<u8>,
}

impl Remembered {
    pub fn lanes(&self, user: UserId, registered: Index, sequence: u64) -> Lanes {
        Canonical::new(RecordKind::Remembered)
            .number(user.0)
            .number(registered.0)
            .number(sequence)
            .bytes(self.operation.0)
            .bytes(self.token.as_ref().map_or(&[][..], |t| &t.0[..]))
            .bytes(&self.reply)
            .lanes()
    }
}

/// `sessions`, (d, …): the digest's view of a delivery mark.
pub(super) fn delivered_lanes(recipient: UserId, sender: UserId, message: Index) -> Lanes {
    Canonical::new(RecordKind::Delivered)
        .number(recipient.0)
        .number(sender.0)
        .number(message.0)
        .lanes()
}

/// `sessions`, (x, …): rows of a deleted account or a dropped client, which nobody can see any
/// more. Not part of the digest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Cleanup {
    /// Number of the tree in [`Tree::ALL`].
    pub tree: u8,
    #[serde(with = "blob")]
    pub from: Vec<u8>,
    #[serde(with = "blob")]
    pub to: Vec<u8>,
}
