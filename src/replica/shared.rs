//! What requests share outside the replica's thread, and the order of its locks.
//!
//! Two kinds of lock, as the mission has them: the *metadata lock* (account names, the token hub,
//! who is primary) and the *inbox locks* (who waits for which inbox; several of them, by user, so
//! that requests do not serialise). Metadata first, then inbox, released in reverse. The order is
//! not a rule to remember: locks are taken through a [`LockScope`], an inbox guard borrows what
//! it was taken through, and the wrong order does not compile:
//!
//! ```compile_fail,E0499
//! # use chat::{replica::{Names, shared::Shared}, types::UserId};
//! let shared = Shared::new(Names::default());
//! let mut scope = shared.scope();
//! let inbox = scope.inbox(UserId(1));
//! let metadata = scope.metadata(); // the inbox lock is still held
//! drop(inbox);
//! ```
//!
//! The right one does:
//!
//! ```
//! # use chat::{replica::{Names, shared::Shared}, types::UserId};
//! let shared = Shared::new(Names::default());
//! let mut scope = shared.scope();
//! let mut metadata = scope.metadata();
//! let inbox = metadata.inbox(UserId(1));
//! ```
//!
//! Guards cannot be held across an `await` of a task that moves between threads, and a second
//! scope on a thread that holds one is a panic: it would be a way around the order.

use super::{Names, Wake};
use crate::state_machine::Notice;
use crate::types::{InboxSeq, Index, ReplicaId, TokenHash, UserId};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Notify;

/// Inbox locks: a power of two, more than there are cores to contend.
const INBOX_LOCKS: usize = 32;
/// Tokens noted between two ticks.
const TOKEN_USES_MAX: usize = 65_536;

thread_local! {
    static IN_SCOPE: Cell<bool> = const { Cell::new(false) };
}

/// Names one watch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct WatchId(u64);

/// What is shared.
pub struct Shared {
    /// Tokens used since the replica's thread last asked. Taken alone, under no other lock: every
    /// request notes its token here, and none of them wakes that thread for it.
    used: Mutex<BTreeSet<TokenHash>>,
    metadata: RwLock<Metadata>,
    inboxes: Vec<Mutex<Inboxes>>,
}

/// Behind the metadata lock.
pub struct Metadata {
    pub(super) names: Names,
    /// `names` in one piece, for whoever asks; made when asked for.
    pub(super) listing: Option<Arc<Vec<String>>>,
    /// The token hub: which streams each token has open.
    tokens: BTreeMap<TokenHash, BTreeSet<(UserId, WatchId)>>,
    pub(super) primary: Option<ReplicaId>,
    watches: u64,
    lost: bool,
    shut_down: bool,
}

/// Behind an inbox lock: the watches of some users.
#[derive(Default)]
pub struct Inboxes {
    watches: BTreeMap<UserId, BTreeMap<WatchId, Pending>>,
}

/// What a watch has not been told yet. Coalesced: bounded by the number of a user's peers.
struct Pending {
    wake: Arc<Notify>,
    revoked: bool,
    shut_down: bool,
    lost: bool,
    inbox: Option<InboxSeq>,
    delivered: BTreeMap<String, Index>,
}

impl Metadata {
    /// A primary is known, and streams need not end.
    pub(super) fn serves(&self) -> bool {
        self.primary.is_some() && !self.lost && !self.shut_down
    }
}

impl Shared {
    /// With the names that the replica starts with.
    pub fn new(names: Names) -> Self {
        Self {
            used: Mutex::default(),
            metadata: RwLock::new(Metadata {
                names,
                listing: None,
                tokens: BTreeMap::new(),
                primary: None,
                watches: 0,
                lost: false,
                shut_down: false,
            }),
            inboxes: (0..INBOX_LOCKS).map(|_| Mutex::default()).collect(),
        }
    }

    /// A token was used. In a full set the use is forgotten; the next one counts as well.
    pub(super) fn token_used(&self, token: TokenHash) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() < TOKEN_USES_MAX {
            used.insert(token);
        }
    }

    /// The tokens that were used since the last call.
    pub(super) fn take_used(&self) -> Vec<TokenHash> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *used).into_iter().collect()
    }

    /// Begins a block in which locks are taken: one at a time on each thread.
    pub fn scope(&self) -> LockScope<'_> {
        IN_SCOPE.with(|held| assert!(!held.replace(true), "a lock scope inside a lock scope"));
        LockScope {
            shared: self,
            not_send: PhantomData,
        }
    }

    fn inbox_lock(&self, user: UserId) -> MutexGuard<'_, Inboxes> {
        self.inboxes[user.0 as usize % INBOX_LOCKS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to take locks, within one block.
pub struct LockScope<'s> {
    shared: &'s Shared,
    not_send: PhantomData<*const ()>,
}

impl Drop for LockScope<'_> {
    fn drop(&mut self) {
        IN_SCOPE.with(|held| held.set(false));
    }
}

impl LockScope<'_> {
    /// The metadata lock, to change.
    pub fn metadata(&mut self) -> MetadataGuard<'_> {
        let guard = self.shared.metadata.write();
        MetadataGuard {
            shared: self.shared,
            guard: guard.unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// The metadata lock, to look.
    pub fn read_metadata(&mut self) -> RwLockReadGuard<'_, Metadata> {
        let guard = self.shared.metadata.read();
        guard.unwrap_or_else(PoisonError::into_inner)
    }

    /// A user's inbox lock alone.
    pub fn inbox(&mut self, user: UserId) -> InboxGuard<'_> {
        InboxGuard(self.shared.inbox_lock(user))
    }
}

/// Holds the metadata lock; the way to an inbox lock within it.
pub struct MetadataGuard<'s> {
    shared: &'s Shared,
    guard: RwLockWriteGuard<'s, Metadata>,
}

impl MetadataGuard<'_> {
    /// A user's inbox lock, AFTER the metadata lock and released before it.
    pub fn inbox(&mut self, user: UserId) -> InboxGuard<'_> {
        InboxGuard(self.shared.inbox_lock(user))
    }
}

impl Deref for MetadataGuard<'_> {
    type Target = Metadata;
    fn deref(&self) -> &Metadata {
        &self.guard
    }
}
impl DerefMut for MetadataGuard<'_> {
    fn deref_mut(&mut self) -> &mut Metadata {
        &mut self.guard
    }
}

/// Holds an inbox lock.
pub struct InboxGuard<'s>(MutexGuard<'s, Inboxes>);

impl Inboxes {
    fn each(&mut self, user: UserId, mut change: impl FnMut(&mut Pending)) {
        for pending in self.watches.get_mut(&user).into_iter().flatten() {
            change(pending.1);
            pending.1.wake.notify_one();
        }
    }
}

impl Pending {
    /// The most important thing first.
    fn take(&mut self) -> Option<Wake> {
        if self.revoked {
            return Some(Wake::Revoked);
        }
        if self.shut_down {
            return Some(Wake::ShutDown);
        }
        if std::mem::take(&mut self.lost) {
            return Some(Wake::Lost);
        }
        if let Some(seq) = self.inbox.take() {
            return Some(Wake::Inbox(seq));
        }
        let (peer, up_to) = self.delivered.pop_first()?;
        Some(Wake::Delivered { peer, up_to })
    }
}

/// What the replica's thread and the handle do with it.
impl Shared {
    /// Tells those who wait what was applied. BEFORE the outcomes of the same entries are told,
    /// so that whoever created an account finds it in the next listing.
    pub(super) fn notice(&self, notice: Notice) {
        let mut scope = self.scope();
        match notice {
            Notice::Inbox { user, seq } => scope.inbox(user).0.each(user, |pending| {
                pending.inbox = pending.inbox.max(Some(seq));
            }),
            Notice::Delivered { user, peer, up_to } => {
                scope.inbox(user).0.each(user, |pending| {
                    let known = pending.delivered.entry(peer.clone()).or_default();
                    *known = up_to.max(*known);
                });
            }
            Notice::Revoked(token) => {
                let mut metadata = scope.metadata();
                for (user, id) in metadata.tokens.remove(&token).unwrap_or_default() {
                    let mut inbox = metadata.inbox(user);
                    let watches = inbox.0.watches.get_mut(&user);
                    if let Some(pending) = watches.and_then(|all| all.get_mut(&id)) {
                        pending.revoked = true;
                        pending.wake.notify_one();
                    }
                }
            }
            Notice::AccountCreated { name, .. } => {
                let mut metadata = scope.metadata();
                metadata.names.insert(&name);
                metadata.listing = None;
            }
            Notice::AccountDeleted { name, user } => {
                let mut metadata = scope.metadata();
                metadata.names.remove(&name);
                metadata.listing = None;
                metadata
                    .inbox(user)
                    .0
                    .each(user, |pending| pending.revoked = true);
            }
        }
    }

    /// Who is primary, and whether streams are to end because nobody is for too long.
    pub(super) fn set_primary(&self, primary: Option<ReplicaId>, lost: bool) {
        let mut scope = self.scope();
        {
            let metadata = scope.read_metadata();
            if (metadata.primary, metadata.lost) == (primary, lost) {
                return;
            }
        }
        let mut metadata = scope.metadata();
        metadata.primary = primary;
        metadata.lost = lost;
        wake_all(&mut metadata, |pending| pending.lost = lost);
    }

    /// The whole state is another one: its names, and every stream begins again from what is there.
    pub(super) fn replace_names(&self, names: Names) {
        let mut scope = self.scope();
        let mut metadata = scope.metadata();
        metadata.names = names;
        metadata.listing = None;
        wake_all(&mut metadata, |pending| pending.lost = true);
    }

    /// Every stream ends.
    pub(super) fn set_shut_down(&self) {
        let mut scope = self.scope();
        let mut metadata = scope.metadata();
        metadata.shut_down = true;
        wake_all(&mut metadata, |pending| pending.shut_down = true);
    }

    /// All names in one piece; made anew only when they have changed.
    pub(super) fn listing(&self) -> Arc<Vec<String>> {
        let names = {
            let mut scope = self.scope();
            let metadata = scope.read_metadata();
            if let Some(listing) = &metadata.listing {
                return Arc::clone(listing);
            }
            metadata.names.clone()
        };
        // Outside the lock: with a million names this takes a while.
        let listing = Arc::new(names.iter().map(str::to_owned).collect());
        let mut scope = self.scope();
        let mut metadata = scope.metadata();
        if metadata.names.is_same(&names) {
            metadata.listing = Some(Arc::clone(&listing));
        }
        listing
    }

    /// A new watch: what happens from now on reaches it.
    pub(super) fn register(&self, user: UserId, token: TokenHash) -> (WatchId, Arc<Notify>) {
        let wake = Arc::new(Notify::new());
        let mut scope = self.scope();
        let mut metadata = scope.metadata();
        metadata.watches += 1;
        let id = WatchId(metadata.watches);
        metadata.tokens.entry(token).or_default().insert((user, id));
        let pending = Pending {
            wake: Arc::clone(&wake),
            revoked: false,
            shut_down: metadata.shut_down,
            lost: metadata.lost,
            inbox: None,
            delivered: BTreeMap::new(),
        };
        let mut inbox = metadata.inbox(user);
        inbox.0.watches.entry(user).or_default().insert(id, pending);
        (id, wake)
    }

    /// A watch ends.
    pub(super) fn unregister(&self, user: UserId, token: TokenHash, id: WatchId) {
        let mut scope = self.scope();
        let mut metadata = scope.metadata();
        if let Some(watches) = metadata.tokens.get_mut(&token) {
            watches.remove(&(user, id));
            if watches.is_empty() {
                metadata.tokens.remove(&token);
            }
        }
        let mut inbox = metadata.inbox(user);
        if let Some(watches) = inbox.0.watches.get_mut(&user) {
            watches.remove(&id);
            if watches.is_empty() {
                inbox.0.watches.remove(&user);
            }
        }
    }

    /// What a watch has not been told yet.
    pub(super) fn take_wake(&self, user: UserId, id: WatchId) -> Option<Wake> {
        let mut scope = self.scope();
        let mut inbox = scope.inbox(user);
        inbox.0.watches.get_mut(&user)?.get_mut(&id)?.take()
    }
}

fn wake_all(metadata: &mut MetadataGuard<'_>, mut change: impl FnMut(&mut Pending)) {
    for lock in 0..INBOX_LOCKS {
        // Any user of this lock will do to take it.
        let mut inbox = metadata.inbox(UserId(lock as u64));
        let users: Vec<UserId> = inbox.0.watches.keys().copied().collect();
        for user in users {
            inbox.0.each(user, &mut change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: UserId = UserId(7);
    const TOKEN: TokenHash = TokenHash([1; 32]);

    #[test]
    fn the_listing_is_made_once_until_names_change() {
        let shared = Shared::new(Names::new(vec!["bob".into()]));
        let first = shared.listing();
        assert!(Arc::ptr_eq(&first, &shared.listing()));
        shared.notice(Notice::AccountCreated {
            name: "alice".into(),
            user: USER,
        });
        assert_eq!(*shared.listing(), ["alice", "bob"]);
        shared.notice(Notice::AccountDeleted {
            name: "bob".into(),
            user: UserId(3),
        });
        assert_eq!(*shared.listing(), ["alice"]);
        assert_eq!(*first, ["bob"], "a snapshot");
    }

    #[test]
    fn a_watch_that_ended_leaves_nothing_behind() {
        let shared = Shared::new(Names::default());
        let (id, _) = shared.register(USER, TOKEN);
        shared.unregister(USER, TOKEN, id);
        let mut scope = shared.scope();
        assert!(scope.read_metadata().tokens.is_empty());
        assert!(scope.inbox(USER).0.watches.is_empty());
    }

    #[test]
    fn it_serves_with_a_primary_as_long_as_its_copy_may_be_shown() {
        let shared = Shared::new(Names::default());
        let serves = || shared.scope().read_metadata().serves();
        assert!(!serves(), "no primary yet");
        shared.set_primary(Some(ReplicaId(2)), false);
        assert!(serves());
        // As the driver says of a replica that is damaged, repairs itself or is not admitted.
        shared.set_primary(Some(ReplicaId(2)), true);
        assert!(!serves());
        shared.set_primary(Some(ReplicaId(2)), false);
        assert!(serves());
        shared.set_shut_down();
        assert!(!serves());
    }

    #[test]
    #[should_panic(expected = "a lock scope inside a lock scope")]
    fn a_second_scope_on_a_thread_is_a_panic() {
        let shared = Shared::new(Names::default());
        let _first = shared.scope();
        let _second = shared.scope();
    }

    #[test]
    fn a_scope_that_ended_makes_room_for_the_next() {
        let shared = Shared::new(Names::default());
        drop(shared.scope());
        drop(shared.scope());
    }
}
