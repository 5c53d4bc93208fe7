//! The one bounded queue into the replica, and what sees to it that somebody takes a turn with it.
//!
//! Clients and peers have a share each, so that neither can crowd out the other: a full client
//! share is `Overloaded`, a full peer share loses messages (which consensus allows). What must not
//! be lost (link events, finished disk jobs, administration) always finds room; there are few of
//! those, and link events of one peer are thinned out if the thread does not keep up.

use super::outcomes::{Slot, Waiter};
use super::turns::{FEW, Seat, Turns};
use super::{DiskDone, Input, PeerMessage, ReadError, Status, Ticket};
use crate::consensus::Body;
use crate::limits::REPLICA_QUEUE_MAX;
use crate::state_machine::{Answer, Command, Query};
use crate::storage::{Slice, StorageError};
use crate::types::ReplicaId;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Link events of one peer that wait at once; the oldest go, the newest state stays.
const LINK_EVENTS_MAX: usize = 4;

/// What the replica's thread is asked.
pub(super) enum Item {
    /// For the replica as it stands.
    Input(Input),
    /// A client's write.
    Write(Command, Waiter),
    /// Several at once, of one caller.
    Writes(Vec<(Command, Slot)>),
    /// A client's read.
    Read(
        Query,
        super::Consistency,
        oneshot::Sender<Result<Answer, ReadError>>,
    ),
    /// A look inside.
    Status(oneshot::Sender<Status>),
    /// Give the primary role to another.
    HandOver,
    /// Write everything applied to the trees, then hold slices back and say where the trees are.
    Freeze(oneshot::Sender<Frozen>),
    /// Slices may be written again.
    Thaw,
}

/// The trees stand still at `slice` (`None`: nothing was written yet).
pub(super) struct Frozen {
    pub status: Status,
    pub slice: Option<Slice>,
}

/// Refused: the queue is full, or the thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Closed,
}

/// Many senders, one receiver at a time, which takes everything at once.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    wake: Condvar,
    /// Where turns are taken with what waits here.
    seat: Seat,
}

#[derive(Default)]
struct Inner {
    items: VecDeque<Item>,
    clients: usize,
    peers: usize,
    /// What is to be done for all of it, in writes.
    weight: usize,
    closed: bool,
    /// The thread sleeps, and nobody has woken it.
    asleep: bool,
    /// The thread must not sleep on: its next turn is due sooner than it knows.
    hurried: bool,
}

/// What is to be done for it, in writes. A read may have to wait for the disk: that is never little.
fn weight(item: &Item) -> usize {
    const MUCH: usize = FEW + 1;
    match item {
        Item::Writes(writes) => writes.len(),
        Item::Read(..) | Item::Freeze(_) => MUCH,
        Item::Input(Input::Peer(PeerMessage::ForwardRead { .. })) => MUCH,
        Item::Input(Input::Peer(PeerMessage::Consensus(message))) => match &message.body {
            Body::Append(append) => append.entries.len().max(1),
            Body::CopyPiece { .. } | Body::SnapshotChunk(_) => MUCH,
            _ => 1,
        },
        _ => 1,
    }
}

impl Inner {
    /// Everything, and its weight.
    fn take(&mut self) -> (VecDeque<Item>, usize) {
        (self.clients, self.peers) = (0, 0);
        let weight = std::mem::take(&mut self.weight);
        (std::mem::take(&mut self.items), weight)
    }

    fn push(&mut self, item: Item) {
        self.weight += weight(&item);
        self.items.push_back(item);
    }

    fn refuses(&self, count: usize) -> Option<Refused> {
        if self.closed {
            Some(Refused::Closed)
        } else if self.clients + count > REPLICA_QUEUE_MAX {
            Some(Refused::Full)
        } else {
            None
        }
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::new(Inner::default()),
            wake: Condvar::new(),
            seat: Seat::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds this lock, so a poisoned queue is still a whole one.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client's request.
    pub(super) fn push_client(self: &Arc<Self>, item: Item) -> Result<Knock, Refused> {
        let mut inner = self.lock();
        if let Some(refused) = inner.refuses(1) {
            return Err(refused);
        }
        inner.clients += 1;
        let was_empty = inner.items.is_empty();
        inner.push(item);
        Ok(Knock::new(self, was_empty))
    }

    /// Several writes of one client: all of them get in, or none.
    pub(super) fn push_writes(
        self: &Arc<Self>,
        writes: Vec<(Command, Slot)>,
    ) -> Result<Knock, (Refused, Vec<Slot>)> {
        let count = writes.len();
        let mut inner = self.lock();
        let refused = inner.refuses(count);
        if let Some(refused) = refused {
            drop(inner);
            return Err((refused, writes.into_iter().map(|(_, slot)| slot).collect()));
        }
        inner.clients += count;
        let was_empty = inner.items.is_empty();
        inner.push(Item::Writes(writes));
        Ok(Knock::new(self, was_empty))
    }

    /// Wakes the thread, unless it is awake. It sleeps on what is there only while somebody is to attend to it.
    fn wake_thread(&self, mut inner: MutexGuard<'_, Inner>) {
        let asleep = std::mem::take(&mut inner.asleep);
        drop(inner);
        if asleep {
            self.wake.notify_one();
        }
    }

    /// Messages of a peer; those are dropped of which too many wait. The caller may take a turn with them.
    pub(super) fn push_peer(&self, messages: Vec<PeerMessage>) {
        let mut inner = self.lock();
        if inner.closed || messages.is_empty() {
            return;
        }
        let room = REPLICA_QUEUE_MAX.saturating_sub(inner.peers);
        for message in messages.into_iter().take(room) {
            inner.peers += 1;
            inner.push(Item::Input(Input::Peer(message)));
        }
        drop(inner);
        self.attend();
    }

    /// A link event: in order with the messages around it, and never lost.
    pub(super) fn push_link(&self, peer: ReplicaId, input: Input) {
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        let waiting = |item: &Item| match item {
            Item::Input(Input::LinkUp(p)) => *p == peer,
            Item::Input(Input::LinkDown { peer: p, .. }) => *p == peer,
            _ => false,
        };
        if inner.items.iter().filter(|item| waiting(item)).count() >= LINK_EVENTS_MAX
            && let Some(oldest) = inner.items.iter().position(waiting)
        {
            inner.weight -= inner.items.remove(oldest).as_ref().map_or(0, weight);
        }
        inner.push(Item::Input(input));
        self.wake_thread(inner);
    }

    /// A finished disk job. The caller may take a turn with it.
    pub(super) fn push_done(&self, done: DiskDone) -> Result<(), Refused> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(Refused::Closed);
        }
        inner.push(Item::Input(Input::DiskDone(done)));
        drop(inner);
        self.attend();
        Ok(())
    }

    /// Something that there is little of and that must not be lost.
    pub(super) fn push_always(&self, item: Item) -> Result<(), Refused> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(Refused::Closed);
        }
        inner.push(item);
        self.wake_thread(inner);
        Ok(())
    }

    /// Pushes and has nobody attend to it.
    #[cfg(test)]
    pub(super) fn put(&self, item: Item) {
        self.lock().push(item);
    }

    #[cfg(test)]
    pub(super) fn is_waiting(&self) -> bool {
        !self.lock().items.is_empty()
    }

    #[cfg(test)]
    pub(super) fn is_asleep(&self) -> bool {
        self.lock().asleep
    }

    /// Sees to it that what waits is handled: by the caller, if that is little (see [`super::turns`]), or
    /// else by the replica's thread.
    pub(super) fn attend(&self) {
        let mut inner = self.lock();
        if inner.items.is_empty() {
            return;
        }
        let few = inner.weight <= FEW;
        let Some(guest) = few.then(|| self.seat.guest()).flatten() else {
            return self.wake_thread(inner);
        };
        let (items, weight) = inner.take();
        drop(inner);
        if guest.take_turns(items, weight) {
            let mut inner = self.lock();
            inner.hurried = true;
            self.wake_thread(inner);
        }
    }

    /// The replica's thread sleeps here, until it is woken for something, or until the time is over.
    pub(super) fn wait(&self, timeout: Duration) {
        let sleeps = |inner: &mut Inner| {
            inner.asleep = inner.items.is_empty() && !inner.closed && !inner.hurried;
            inner.asleep
        };
        let waited = self.wake.wait_timeout_while(self.lock(), timeout, sleeps);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (inner.asleep, inner.hurried) = (false, false);
    }

    /// Takes everything that waits, and says what it weighs; `None` once it is closed. In the seat only.
    pub(super) fn take(&self) -> Option<(VecDeque<Item>, usize)> {
        let mut inner = self.lock();
        (!inner.closed).then(|| inner.take())
    }

    /// The turns of the replica's thread, until the replica has shut down or failed, or the queue is closed.
    pub(super) fn run(&self, driver: Box<dyn Turns>) -> Result<(), StorageError> {
        self.seat.run(self, driver)
    }

    /// Drops the driver: no turn is taken any more.
    pub(super) fn clear(&self) {
        self.seat.clear();
    }

    /// The thread has ended, or is about to.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// From now on everything is refused; what waits is dropped, which tells those who wait.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        let items = std::mem::take(&mut inner.items);
        drop(inner);
        self.wake.notify_one();
        drop(items);
    }
}

/// Sees to it that what was pushed is attended to, if that is this caller's duty. Dropped, it wakes the thread.
#[must_use]
pub(super) struct Knock(Option<Arc<Queue>>);

impl Knock {
    fn new(queue: &Arc<Queue>, was_empty: bool) -> Self {
        Self(was_empty.then(|| Arc::clone(queue)))
    }

    /// Has it attended to when the tasks of this runtime that are ready have had their turn: what they
    /// bring in the same burst goes into the same batch, and costs no wake-up of its own.
    pub(super) fn after_the_burst(mut self) {
        if self.0.is_none() {
            return;
        }
        // Without a runtime it is dropped, and knocks, at once.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::task::yield_now().await;
                if let Some(queue) = self.0.take() {
                    queue.attend();
                }
            });
        }
    }
}

impl Drop for Knock {
    fn drop(&mut self) {
        if let Some(queue) = &self.0 {
            let inner = queue.lock();
            if !inner.items.is_empty() {
                queue.wake_thread(inner);
            }
        }
    }
}

/// Hands out tickets.
#[derive(Default)]
pub(super) struct Tickets(u64);

impl Tickets {
    pub(super) fn next(&mut self) -> Ticket {
        self.0 += 1;
        Ticket(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: ReplicaId = ReplicaId(2);

    fn taken(queue: &Queue) -> VecDeque<Item> {
        queue.take().unwrap().0
    }

    fn message() -> PeerMessage {
        PeerMessage::ForwardReply {
            from: P,
            to: ReplicaId(1),
            run: crate::types::RunNonce(0),
            nonce: 0,
            outcome: Err(super::super::WriteError::NotApplied),
        }
    }

    fn links(queue: &Queue) -> Vec<bool> {
        taken(queue)
            .iter()
            .filter_map(|item| match item {
                Item::Input(Input::LinkUp(_)) => Some(true),
                Item::Input(Input::LinkDown { .. }) => Some(false),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_full_client_share_refuses_but_link_events_and_peers_still_get_in() {
        let queue = Arc::new(Queue::new());
        for _ in 0..REPLICA_QUEUE_MAX {
            drop(queue.push_client(Item::HandOver).unwrap());
        }
        assert_eq!(queue.push_client(Item::HandOver).err(), Some(Refused::Full));
        queue.push_peer(vec![message(); REPLICA_QUEUE_MAX + 1]);
        queue.push_link(P, Input::LinkUp(P));
        queue.push_peer(vec![message()]);
        assert_eq!(taken(&queue).len(), 2 * REPLICA_QUEUE_MAX + 1);
        assert!(queue.push_client(Item::HandOver).is_ok());
    }

    #[test]
    fn a_flapping_link_is_thinned_out_and_its_last_state_stays() {
        let queue = Arc::new(Queue::new());
        let down = || Input::LinkDown {
            peer: P,
            refused: false,
        };
        for _ in 0..100 {
            queue.push_link(P, Input::LinkUp(P));
            queue.push_link(P, down());
        }
        let seen = links(&queue);
        assert_eq!(seen, [true, false, true, false]);
    }

    #[test]
    fn whoever_makes_the_queue_not_empty_wakes_the_thread_also_when_its_task_goes() {
        let queue = Arc::new(Queue::new());
        let first = queue.push_client(Item::HandOver).unwrap();
        let second = queue.push_client(Item::HandOver).unwrap();
        assert!(first.0.is_some() && second.0.is_none());
        drop((first, second));
        let thread = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                let mut taken = 0;
                while taken < 5 {
                    queue.wait(Duration::MAX);
                    taken += queue.take().unwrap().0.len();
                }
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let first = queue.push_client(Item::HandOver).unwrap();
            first.after_the_burst();
            drop(queue.push_client(Item::HandOver).unwrap());
            while !queue.lock().items.is_empty() {
                tokio::task::yield_now().await;
            }
        });
        let entered = runtime.enter();
        let last = queue.push_client(Item::HandOver).unwrap();
        last.after_the_burst();
        drop(entered);
        drop(runtime); // and with it the task that was to knock
        thread.join().unwrap();
    }

    #[test]
    fn a_closed_queue_refuses_and_drops_what_waited() {
        let queue = Arc::new(Queue::new());
        let (sender, mut receiver) = oneshot::channel();
        drop(queue.push_client(Item::Status(sender)).unwrap());
        queue.close();
        assert!(receiver.try_recv().is_err());
        let refused = queue.push_client(Item::HandOver).err();
        assert_eq!(refused, Some(Refused::Closed));
        queue.wait(Duration::MAX);
        assert!(queue.take().is_none());
    }
}
