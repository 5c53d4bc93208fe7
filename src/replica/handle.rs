//! What the service layer holds of a running replica.

use super::outcomes::{Outcomes, Slot, Teller, Waiter};
use super::queue::{Frozen, Item, Queue, Refused};
use super::shared::{Shared, WatchId};
use super::storage_thread::Desk;
use super::{Consistency, Names, ReadError, Status, WriteError, Written};
use crate::state_machine::{Answer, Command, Query};
use crate::storage::{CommitRecord, Slice, StorageError};
use crate::types::entry::Entry;
use crate::types::{Base, Hash, InboxSeq, Index, ReplicaId, TokenHash, UserId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify, oneshot};

/// How long a scan waits for the trees to be brought up to date.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

/// Recomputes the digest of the trees as they stand at a slice.
pub(super) type Scan = Arc<dyn Fn(&Slice) -> Result<Hash, StorageError> + Send + Sync>;

/// Speaks to the replica's thread. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) id: ReplicaId,
    pub(super) queue: Arc<Queue>,
    pub(super) shared: Arc<Shared>,
    pub(super) desk: Desk,
    pub(super) scan: Scan,
    /// One scan at a time: the next one would let the trees move under it.
    pub(super) scanning: Arc<Mutex<()>>,
}

/// What a stream waits on: one for each open stream.
pub struct Watch {
    shared: Arc<Shared>,
    user: UserId,
    token: TokenHash,
    id: WatchId,
    wake: Arc<Notify>,
}

/// Why a stream wakes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The inbox has messages up to here. Several are coalesced.
    Inbox(InboxSeq),
    /// A peer acknowledged messages that this user sent. Coalesced by peer.
    Delivered {
        /// Name.
        peer: String,
        /// Newest acknowledged message id.
        up_to: Index,
    },
    /// The stream's token is no longer valid: end it with `TOKEN_INVALID`.
    Revoked,
    /// The primary has been missing for `election_iters` refreshes, or this replica may not serve
    /// reads: end the stream with `UNAVAILABLE`.
    Lost,
    /// The replica shuts down: end the stream with `UNAVAILABLE`.
    ShutDown,
}

/// What a scan of the state trees found.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The replica at the moment at which the trees stood still.
    pub status: Status,
    /// What was scanned: the state after this entry.
    pub index: Index,
    /// The digest that was summed up entry by entry.
    pub summed: Hash,
    /// The digest recomputed from every stored record.
    pub scanned: Hash,
}

impl Handle {
    /// Writes through the primary, wherever it is; returns when applied on this replica (or with
    /// the primary's reply after a bounded wait).
    pub async fn write(&self, command: Command) -> Result<Written, WriteError> {
        let (sender, outcome) = oneshot::channel();
        let waiter = Waiter::Call(sender);
        match self.queue.push_client(Item::Write(command, waiter)) {
            Err(Refused::Full) => return Err(WriteError::Overloaded),
            Err(Refused::Closed) => return Err(WriteError::ShuttingDown),
            Ok(knock) => knock.after_the_burst(),
        }
        outcome.await.unwrap_or(Err(WriteError::OutcomeUnknown))
    }

    /// Writes many, each under the caller's own number; what they came to arrives in `outcomes`,
    /// each once, also when the replica ends.
    pub fn write_many(&self, commands: Vec<(u64, Command)>, outcomes: &Arc<Outcomes>) {
        let writes = commands
            .into_iter()
            .map(|(number, command)| (command, Slot::new(outcomes, number)))
            .collect();
        let (refused, slots) = match self.queue.push_writes(writes) {
            Ok(knock) => return knock.after_the_burst(),
            Err(refused) => refused,
        };
        let error = match refused {
            Refused::Full => WriteError::Overloaded,
            Refused::Closed => WriteError::ShuttingDown,
        };
        let mut teller = Teller::default();
        for slot in slots {
            teller.tell(Waiter::Slot(slot), Err(error));
        }
        teller.finish();
    }

    /// Reads.
    pub async fn read(&self, query: Query, consistency: Consistency) -> Result<Answer, ReadError> {
        let (sender, answer) = oneshot::channel();
        match self
            .queue
            .push_client(Item::Read(query, consistency, sender))
        {
            Err(Refused::Full) => return Err(ReadError::Overloaded),
            Err(Refused::Closed) => return Err(ReadError::Unavailable),
            Ok(knock) => knock.after_the_burst(),
        }
        answer.await.unwrap_or(Err(ReadError::Unavailable))
    }

    /// Watches a user's inbox for one stream of this token. Register BEFORE the first read, so
    /// that nothing falls between.
    pub fn watch(&self, user: UserId, token: TokenHash) -> Watch {
        let (id, wake) = self.shared.register(user, token);
        Watch {
            shared: Arc::clone(&self.shared),
            user,
            token,
            id,
            wake,
        }
    }

    /// All account names, ascending, as applied here: a snapshot that costs nothing to take unless
    /// names have changed since the last one. [`Self::name_index`] costs nothing then either.
    pub fn names(&self) -> Arc<Vec<String>> {
        self.shared.listing()
    }

    /// All account names, ascending, as applied here; never copied.
    pub fn name_index(&self) -> Names {
        let mut scope = self.shared.scope();
        scope.read_metadata().names.clone()
    }

    /// The token was used: its expiry is put off (coalesced, at most every five minutes).
    pub fn token_used(&self, token: TokenHash) {
        self.shared.token_used(token);
    }

    /// This replica.
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// The primary as known here, for the reply's metadata.
    pub fn primary(&self) -> Option<ReplicaId> {
        let mut scope = self.shared.scope();
        scope.read_metadata().primary
    }

    /// Would this replica serve a client now? Not without a primary, and not one that is damaged,
    /// repairs itself or is not admitted, whoever is primary: every read of it is unavailable.
    pub fn serves(&self) -> bool {
        let mut scope = self.shared.scope();
        scope.read_metadata().serves()
    }

    /// A look inside; `None` once the replica has stopped.
    pub async fn status(&self) -> Option<Status> {
        let (sender, status) = oneshot::channel();
        self.queue.push_always(Item::Status(sender)).ok()?;
        status.await.ok()
    }

    /// Gives the primary role to another replica, if this one has it.
    pub fn hand_over(&self) {
        // Refused only by a replica that has stopped, which has handed over.
        let _ = self.queue.push_always(Item::HandOver);
    }

    /// Entries of the log on the disk from `from` on: about `bytes_max` bytes of them, at least
    /// one if there is any. `None` once the replica has stopped.
    pub async fn entries(
        &self,
        from: Index,
        bytes_max: usize,
    ) -> Option<Result<Vec<Entry>, StorageError>> {
        self.desk.entries(from, bytes_max).await
    }

    /// Commit records on the disk with indexes in `from..=to`. `None` once the replica has
    /// stopped.
    pub async fn commit_records(
        &self,
        from: Index,
        to: Index,
    ) -> Option<Result<Vec<CommitRecord>, StorageError>> {
        self.desk.commit_records(from, to).await
    }

    /// Where the log on the disk begins. `None` once the replica has stopped.
    pub async fn base(&self) -> Option<Result<Base, StorageError>> {
        self.desk.base().await
    }

    /// Bytes on the disk. `None` once the replica has stopped.
    pub async fn store_size(&self) -> Option<u64> {
        self.desk.size().await
    }

    /// Brings the state trees up to date, holds them still, scans every record and compares its
    /// digest with the one that was summed up. The replica goes on meanwhile. `None` if it stopped,
    /// or its trees could not be brought up to date in time.
    pub async fn verify_state(&self) -> Option<Result<Verified, StorageError>> {
        let _one = self.scanning.lock().await;
        let (sender, frozen) = oneshot::channel();
        self.queue.push_always(Item::Freeze(sender)).ok()?;
        let _thaw = ThawOnDrop(&self.queue);
        let frozen = tokio::time::timeout(FREEZE_TIMEOUT, frozen).await;
        let Frozen { status, slice } = frozen.ok()?.ok()?;
        let Some(slice) = slice else {
            let nothing = Verified {
                status,
                index: Index(0),
                summed: Hash::default(),
                scanned: Hash::default(),
            };
            return Some(Ok(nothing));
        };
        let scan = Arc::clone(&self.scan);
        let (index, summed) = (slice.applied, slice.digest);
        let scanned = tokio::task::spawn_blocking(move || scan(&slice)).await;
        let verified = scanned.ok()?.map(|scanned| Verified {
            status,
            index,
            summed,
            scanned,
        });
        Some(verified)
    }
}

/// Lets the trees move again, also when the one who asked went away.
struct ThawOnDrop<'a>(&'a Queue);

impl Drop for ThawOnDrop<'_> {
    fn drop(&mut self) {
        let _ = self.0.push_always(Item::Thaw);
    }
}

impl Watch {
    /// Waits for the next reason to wake up.
    pub async fn next(&mut self) -> Wake {
        loop {
            if let Some(wake) = self.shared.take_wake(self.user, self.id) {
                return wake;
            }
            // What comes between the look and here has left a permit behind.
            self.wake.notified().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.unregister(self.user, self.token, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_machine::Notice;

    const USER: UserId = UserId(7);
    const TOKEN: TokenHash = TokenHash([1; 32]);

    fn shared() -> Arc<Shared> {
        Arc::new(Shared::new(Names::default()))
    }

    fn watch(shared: &Arc<Shared>, token: TokenHash) -> Watch {
        let (id, wake) = shared.register(USER, token);
        Watch {
            shared: Arc::clone(shared),
            user: USER,
            token,
            id,
            wake,
        }
    }

    fn inbox(seq: u64) -> Notice {
        Notice::Inbox {
            user: USER,
            seq: InboxSeq(seq),
        }
    }

    fn delivered(peer: &str, up_to: u64) -> Notice {
        Notice::Delivered {
            user: USER,
            peer: peer.into(),
            up_to: Index(up_to),
        }
    }

    /// True if nothing is ready.
    async fn quiet(watch: &mut Watch) -> bool {
        tokio::select! {
            biased;
            _ = watch.next() => false,
            () = tokio::task::yield_now() => true,
        }
    }

    #[tokio::test]
    async fn notices_of_a_kind_are_coalesced_and_reach_every_stream() {
        let shared = shared();
        let (mut one, mut two) = (watch(&shared, TOKEN), watch(&shared, TOKEN));
        for notice in [
            inbox(1),
            delivered("bob", 5),
            inbox(3),
            inbox(2),
            delivered("bob", 9),
            delivered("ann", 4),
        ] {
            shared.notice(notice);
        }
        for watch in [&mut one, &mut two] {
            assert_eq!(watch.next().await, Wake::Inbox(InboxSeq(3)));
            let next = watch.next().await;
            assert!(matches!(next, Wake::Delivered { peer, .. } if peer == "ann"));
            let next = watch.next().await;
            assert!(matches!(
                next,
                Wake::Delivered {
                    up_to: Index(9),
                    ..
                }
            ));
            assert!(quiet(watch).await);
        }
    }

    #[tokio::test]
    async fn a_watch_that_sleeps_is_woken() {
        let shared = shared();
        let mut watch = watch(&shared, TOKEN);
        let waiting = tokio::spawn(async move { watch.next().await });
        tokio::task::yield_now().await;
        shared.notice(inbox(1));
        assert_eq!(waiting.await.unwrap(), Wake::Inbox(InboxSeq(1)));
    }

    #[tokio::test]
    async fn a_revoked_token_ends_its_own_streams_only_and_a_deletion_all() {
        let shared = shared();
        let mut one = watch(&shared, TOKEN);
        let mut two = watch(&shared, TokenHash([2; 32]));
        shared.notice(inbox(1));
        shared.notice(Notice::Revoked(TOKEN));
        assert_eq!(one.next().await, Wake::Revoked);
        assert_eq!(two.next().await, Wake::Inbox(InboxSeq(1)));
        shared.notice(Notice::AccountDeleted {
            name: "x".into(),
            user: USER,
        });
        assert_eq!(two.next().await, Wake::Revoked);
    }

    #[tokio::test]
    async fn a_lost_primary_is_told_once_and_to_those_who_come_later_too() {
        let shared = shared();
        let mut early = watch(&shared, TOKEN);
        shared.set_primary(None, true);
        let mut late = watch(&shared, TOKEN);
        for watch in [&mut early, &mut late] {
            assert_eq!(watch.next().await, Wake::Lost);
            assert!(quiet(watch).await);
        }
        shared.set_primary(Some(ReplicaId(2)), false);
        let mut after = watch(&shared, TOKEN);
        assert!(quiet(&mut after).await);
        shared.set_shut_down();
        assert_eq!(after.next().await, Wake::ShutDown);
    }
}
