//! Who takes the replica's turns: its thread, or, while little is going on, whoever brings it something.
//!
//! What a message with one in flight costs is mostly the waking of threads, one after the other. So a thread
//! that brings little to a replica at rest takes the turn itself (*caller runs*): a worker of the executor
//! with what a connection has brought, the storage thread with a finished job. What comes of it goes out on
//! the same thread. Under load the replica's own thread takes all turns: they are long then, and one of them
//! for what comes together costs less. It also takes those with reads, as long as these wait, and soon after: a
//! read of what is not in memory waits for the disk, and an executor that waits serves nobody. (Applying a write of
//! an account that was not in use lately may look up a row, too. That is one, and seldom.)
//!
//! A turn is taken in the [`Seat`], by one thread at a time, and what waits is taken from the queue in the
//! seat: so everything is handled in the order in which it came, whoever does it. Whoever finds the seat
//! taken wakes the replica's thread, which waits for the seat; nobody else ever does.

use super::queue::{Item, Queue};
use crate::storage::StorageError;
use crate::types::Monotonic;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// No more writes than this, waiting or applied in a turn, are little.
pub(super) const FEW: usize = 8;
/// After so many turns in a row that had little to do, somebody else may take one.
const QUIET_TURNS: u32 = 4;
/// A turn that a guest has made due moves by each message. The thread looks again after so many
/// microseconds, instead of being woken each time to wait for less.
const LOOK_AGAIN_US: u64 = crate::limits::NOTICE_WAIT_US;

/// What takes turns.
pub(super) trait Turns: Send {
    /// Handles these, in as many turns as it takes; with nothing in one, for what is due.
    fn take_turns(&mut self, items: VecDeque<Item>) -> Result<TurnEnd, StorageError>;
    /// The next tick is due.
    fn tick_at(&self) -> Monotonic;
    /// Something else is due then, perhaps at once.
    fn wake_at(&self) -> Option<Monotonic>;
    /// The clock of both.
    fn now(&self) -> Monotonic;
}

/// What came of turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct TurnEnd {
    /// Entries applied.
    pub applied: usize,
    /// A turn to come looks things up for those who wait for reads.
    pub reads_wait: bool,
    /// The replica has shut down.
    pub shut_down: bool,
}

/// How the turns ended: shut down, by a failure, or by a panic.
type End = std::thread::Result<Result<(), StorageError>>;

/// Where turns are taken.
#[derive(Default)]
pub(super) struct Seat(Mutex<State>);

#[derive(Default)]
struct State {
    driver: Option<Box<dyn Turns>>,
    /// No turn is taken any more.
    over: bool,
    /// Because of a guest's turn: the thread does not know it yet.
    end: Option<End>,
    /// Turns in a row that had little to do.
    quiet: u32,
    /// The thread looks again then, at the latest.
    looks_at: Monotonic,
    /// Guests have made a turn due since the thread last looked.
    moved: bool,
}

impl State {
    /// True: the replica has shut down.
    fn take_turns(&mut self, items: VecDeque<Item>, weight: usize) -> Result<bool, StorageError> {
        let Some(driver) = self.driver.as_mut() else {
            return Ok(true);
        };
        let turned = driver.take_turns(items)?;
        if weight.max(turned.applied) > FEW || turned.reads_wait {
            self.quiet = 0;
        } else if weight > 0 {
            self.quiet = self.quiet.saturating_add(1);
        }
        Ok(turned.shut_down)
    }

    /// When the next turn is due.
    fn due(&self) -> Monotonic {
        let driver = self.driver.as_ref();
        let due = driver.map(|driver| {
            let tick_at = driver.tick_at();
            driver.wake_at().map_or(tick_at, |at| at.min(tick_at))
        });
        due.unwrap_or_default()
    }
}

impl Seat {
    /// The seat, if nobody has it and the last turns had little to do.
    pub(super) fn guest(&self) -> Option<Guest<'_>> {
        let state = self.0.try_lock().ok()?;
        let free = state.driver.is_some() && !state.over && state.quiet >= QUIET_TURNS;
        free.then_some(Guest(state))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // After a panic of the replica's thread nobody takes a turn, but its driver must go.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turns of the replica's own thread, until there are no more.
    pub(super) fn run(&self, queue: &Queue, driver: Box<dyn Turns>) -> Result<(), StorageError> {
        self.lock().driver = Some(driver);
        loop {
            let mut state = self.lock();
            let end = match state.end.take() {
                Some(end) => Some(end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
                None => thread_turn(&mut state, queue),
            };
            if let Some(end) = end {
                state.over = true;
                return end;
            }
            let rest = rest(&mut state);
            drop(state);
            queue.wait(rest);
        }
    }

    /// Drops the driver.
    pub(super) fn clear(&self) {
        let driver = self.lock().driver.take();
        drop(driver);
    }
}

/// `None`: it goes on.
fn thread_turn(state: &mut State, queue: &Queue) -> Option<Result<(), StorageError>> {
    let Some((items, weight)) = queue.take() else {
        return Some(Ok(()));
    };
    match state.take_turns(items, weight) {
        Ok(false) => None,
        Ok(true) => Some(Ok(())),
        Err(error) => Some(Err(error)),
    }
}

/// For how long the thread may sleep.
fn rest(state: &mut State) -> Duration {
    let now = state.driver.as_ref().map(|driver| driver.now());
    let now = now.unwrap_or_default();
    let mut at = state.due();
    if std::mem::take(&mut state.moved) {
        at = at.min(now.plus(LOOK_AGAIN_US));
    }
    state.looks_at = at;
    Duration::from_micros(at.since(now))
}

/// Whoever has the seat and is not the replica's thread.
pub(super) struct Guest<'a>(MutexGuard<'a, State>);

impl Guest<'_> {
    /// Handles these. True: the replica's thread has to be woken, to end, or because it sleeps too long.
    #[must_use]
    pub(super) fn take_turns(mut self, items: VecDeque<Item>, weight: usize) -> bool {
        let state = &mut *self.0;
        let turns = AssertUnwindSafe(|| state.take_turns(items, weight));
        // A panic is the replica's, not the executor's: its thread ends by it.
        let end = match std::panic::catch_unwind(turns) {
            Ok(Ok(false)) => None,
            Ok(Ok(true)) => Some(Ok(Ok(()))),
            Ok(Err(error)) => Some(Ok(Err(error))),
            Err(panic) => Some(Err(panic)),
        };
        if end.is_some() {
            (state.over, state.end) = (true, end);
            return true;
        }
        let due = state.due();
        state.moved |= state.driver.as_ref().is_some_and(|d| d.wake_at().is_some());
        due < state.looks_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::{Append, Body, Message};
    use crate::replica::outcomes::Slot;
    use crate::replica::testing::{entry, stamp};
    use crate::replica::{Consistency, DiskDone, Input, Outcomes, PeerMessage};
    use crate::state_machine::{Command, Operation, Query};
    use crate::types::{Hash, InboxSeq, Incarnation, Index, ReplicaId, RunNonce, Term};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::{JoinHandle, ThreadId};
    use tokio::sync::oneshot;

    const FOREVER: Monotonic = Monotonic(3_600_000_000);

    /// What a turn of [`Fake`] was, and who took it.
    struct Seen {
        spaces: Vec<u64>,
        by: ThreadId,
    }

    /// Tells what its turns were; the item [`FAILS`] fails, [`PANICS`] panics, [`ENDS`] shuts down.
    struct Fake {
        tell: Sender<Seen>,
        /// It says that it applied so many in a turn.
        applies: Arc<AtomicU64>,
        /// Turns until a read that came is answered.
        reads: u64,
        wake_at: Option<Monotonic>,
    }

    const FAILS: u64 = u64::MAX;
    const PANICS: u64 = u64::MAX - 1;
    const ENDS: u64 = u64::MAX - 2;
    /// Has the next turn due at once.
    const DUE: u64 = u64::MAX - 3;
    /// Stand for items that are no numbers.
    const MESSAGE: u64 = u64::MAX - 4;
    const DONE: u64 = u64::MAX - 5;
    const READ: u64 = u64::MAX - 6;
    const OTHER: u64 = u64::MAX - 7;
    /// A test that waits so long has failed.
    const PATIENCE: Duration = Duration::from_secs(60);

    impl Turns for Fake {
        fn take_turns(&mut self, items: VecDeque<Item>) -> Result<TurnEnd, StorageError> {
            let space = |item| match item {
                Item::Input(Input::DiskSpace(space)) => space,
                Item::Input(Input::Peer(_)) => MESSAGE,
                Item::Input(Input::DiskDone(_)) => DONE,
                Item::Read(..) => READ,
                _ => OTHER,
            };
            let spaces: Vec<_> = items.into_iter().map(space).collect();
            self.wake_at = spaces.contains(&DUE).then_some(Monotonic(1));
            let (fails, panics) = (spaces.contains(&FAILS), spaces.contains(&PANICS));
            let shut_down = spaces.contains(&ENDS);
            let reads = spaces.contains(&READ);
            let by = std::thread::current().id();
            // A test that has seen enough has gone.
            let _ = self.tell.send(Seen { spaces, by });
            assert!(!panics, "it was to panic");
            if fails {
                return Err(StorageError::Unusable("it was to fail".into()));
            }
            let applied = self.applies.load(Ordering::Relaxed) as usize;
            self.reads = if reads {
                3
            } else {
                self.reads.saturating_sub(1)
            };
            Ok(TurnEnd {
                applied,
                reads_wait: self.reads > 0,
                shut_down,
            })
        }
        fn tick_at(&self) -> Monotonic {
            FOREVER
        }
        fn wake_at(&self) -> Option<Monotonic> {
            self.wake_at
        }
        fn now(&self) -> Monotonic {
            Monotonic(0)
        }
    }

    fn append(entries: usize) -> PeerMessage {
        let append = Append {
            previous: stamp(1, 0),
            previous_hash: Hash::default(),
            entries: (1..=entries as u64).map(|index| entry(1, index)).collect(),
            commit: Index(0),
            notice: false,
        };
        PeerMessage::Consensus(Message {
            from: ReplicaId(2),
            to: ReplicaId(1),
            cluster: None,
            from_incarnation: Incarnation::default(),
            to_incarnation: None,
            run: RunNonce(1),
            term: Term(1),
            body: Body::Append(append),
        })
    }

    fn done(number: u64) -> DiskDone {
        DiskDone {
            number,
            fetched: Vec::new(),
            extra: None,
            size_bytes: None,
            live_bytes: None,
        }
    }

    fn query() -> Query {
        Query::Credentials { name: "ann".into() }
    }

    fn read() -> Item {
        Item::Read(query(), Consistency::Stale, oneshot::channel().0)
    }

    fn command() -> Command {
        Command {
            auth: None,
            request: None,
            operation: Operation::Acknowledge { up_to: InboxSeq(1) },
            front: false,
        }
    }

    /// A replica's thread that takes turns of a [`Fake`].
    struct Running {
        queue: Arc<Queue>,
        applies: Arc<AtomicU64>,
        seen: Receiver<Seen>,
        thread: Option<JoinHandle<Result<(), StorageError>>>,
    }

    impl Running {
        fn start() -> Self {
            let (tell, seen) = channel();
            let applies = Arc::new(AtomicU64::new(0));
            let fake = Box::new(Fake {
                tell,
                applies: Arc::clone(&applies),
                reads: 0,
                wake_at: None,
            });
            let queue = Arc::new(Queue::new());
            let thread = std::thread::spawn({
                let queue = Arc::clone(&queue);
                move || queue.run(fake)
            });
            let running = Self {
                queue,
                applies,
                seen,
                thread: Some(thread),
            };
            assert!(running.next().0.is_empty(), "the first turn");
            running
        }

        /// What was handled next, and whether this thread has done it.
        fn next(&self) -> (Vec<u64>, bool) {
            let seen = self.seen.recv_timeout(PATIENCE).unwrap();
            (seen.spaces, seen.by == std::thread::current().id())
        }

        /// The same without turns that had nothing to do.
        fn next_not_empty(&self) -> (Vec<u64>, bool) {
            loop {
                let next = self.next();
                if !next.0.is_empty() {
                    return next;
                }
            }
        }

        /// Pushes without waking anybody.
        fn put(&self, space: u64) {
            self.queue.put(Item::Input(Input::DiskSpace(space)));
        }

        fn bring(&self, space: u64) -> (Vec<u64>, bool) {
            self.put(space);
            self.queue.attend();
            self.next_not_empty()
        }

        /// Guests are let in, and the thread sleeps.
        fn calm(&self) {
            // The thread may have the seat still, and then it takes this turn too.
            while !self.bring(0).1 {}
            while !self.queue.is_asleep() {
                std::thread::yield_now();
            }
            while self.seen.try_recv().is_ok() {}
        }

        fn end(&mut self) -> std::thread::Result<Result<(), StorageError>> {
            self.thread.take().unwrap().join()
        }

        fn close(mut self) {
            self.queue.close();
            self.end().unwrap().unwrap();
        }
    }

    #[test]
    fn little_is_handled_by_whoever_brings_it_and_much_by_the_thread() {
        let running = Running::start();
        running.calm();
        assert_eq!(running.bring(1), (vec![1], true));
        for space in 0..=FEW as u64 {
            running.put(space);
        }
        running.queue.attend();
        let (much, mine) = running.next_not_empty();
        assert_eq!((much.len(), mine), (FEW + 1, false));
        assert!(!running.bring(2).1, "there was much a moment ago");
        running.calm();
        running.applies.store(FEW as u64 + 1, Ordering::Relaxed);
        assert!(running.bring(3).1);
        assert!(!running.bring(4).1, "much was applied a moment ago");
        running.close();
    }

    #[test]
    fn who_brings_messages_a_finished_job_or_a_request_takes_the_turn() {
        let running = Running::start();
        running.calm();
        running.queue.push_peer(vec![append(FEW)]);
        assert_eq!(running.next_not_empty(), (vec![MESSAGE], true));
        running.queue.push_done(done(1)).unwrap();
        assert_eq!(running.next_not_empty(), (vec![DONE], true));
        let executor = tokio::runtime::Builder::new_current_thread().build();
        let executor = executor.unwrap();
        executor.block_on(async {
            let write = Item::Input(Input::DiskSpace(7));
            let knock = running.queue.push_client(write).unwrap();
            knock.after_the_burst();
            while running.queue.is_waiting() {
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(running.next_not_empty(), (vec![7], true));
        assert!(running.queue.is_asleep(), "nobody needs the thread");
        running.close();
    }

    #[test]
    fn what_is_much_or_may_wait_for_the_disk_is_the_threads() {
        let running = Running::start();
        let forwarded = PeerMessage::ForwardRead {
            from: ReplicaId(2),
            to: ReplicaId(1),
            run: RunNonce(1),
            nonce: 1,
            query: query(),
        };
        let writes =
            (0..=FEW as u64).map(|number| (command(), Slot::new(&Outcomes::new(), number)));
        let messages = [append(FEW + 1), forwarded].map(|m| Item::Input(Input::Peer(m)));
        let much = messages.into_iter().chain([
            read(),
            Item::Writes(writes.collect()),
            Item::Freeze(oneshot::channel().0),
        ]);
        for item in much {
            running.calm();
            running.queue.put(item);
            running.queue.attend();
            assert!(!running.next_not_empty().1);
        }
        running.calm();
        running.queue.put(read());
        running.queue.attend();
        assert_eq!(running.next_not_empty(), (vec![READ], false));
        // The read waits for three turns, and then a few more have to be quiet.
        for space in 0..u64::from(QUIET_TURNS) + 2 {
            assert_eq!(running.bring(space + 1), (vec![space + 1], false));
        }
        running.close();
    }

    #[test]
    fn the_thread_looks_again_soon_once_while_guests_move_what_is_due() {
        let (tell, _seen) = channel();
        let due = Monotonic(10 * LOOK_AGAIN_US);
        let mut state = State {
            driver: Some(Box::new(Fake {
                tell,
                applies: Arc::default(),
                reads: 0,
                wake_at: Some(due),
            })),
            moved: true,
            ..State::default()
        };
        assert_eq!(rest(&mut state), Duration::from_micros(LOOK_AGAIN_US));
        assert_eq!(state.looks_at, Monotonic(LOOK_AGAIN_US));
        assert_eq!(rest(&mut state), Duration::from_micros(due.0));
        assert_eq!(state.looks_at, due);
    }

    #[test]
    fn what_ends_in_another_thread_ends_the_replicas() {
        for (last, fails) in [(ENDS, false), (FAILS, true)] {
            let mut running = Running::start();
            running.calm();
            assert!(running.bring(last).1);
            running.put(1);
            running.queue.attend();
            assert_eq!(running.end().unwrap().is_err(), fails);
            assert!(running.seen.try_recv().is_err(), "no turn after the end");
            running.queue.clear();
            assert!(running.seen.recv().is_err(), "the driver is gone");
        }
        let mut running = Running::start();
        running.calm();
        assert!(running.bring(PANICS).1);
        assert!(running.end().is_err());
        running.queue.clear();
        assert!(running.seen.recv().is_err(), "the driver is gone");
    }

    #[test]
    fn a_turn_that_is_due_sooner_wakes_the_thread() {
        let running = Running::start();
        running.calm();
        assert!(running.bring(DUE).1);
        assert_eq!(running.next(), (vec![], false));
        running.close();
    }

    #[test]
    fn whoever_takes_the_turns_everything_is_handled_once_and_in_order() {
        const EACH: u64 = 2_000;
        let running = Running::start();
        running.calm();
        std::thread::scope(|scope| {
            for pusher in 1..=3 {
                let running = &running.queue;
                scope.spawn(move || {
                    for n in 0..EACH {
                        running.put(Item::Input(Input::DiskSpace(pusher << 32 | n)));
                        running.attend();
                        if n % 7 == 0 {
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        let mut next = [0; 4];
        while next.iter().sum::<u64>() < 3 * EACH {
            let seen = running.seen.recv_timeout(PATIENCE).unwrap();
            for space in seen.spaces.into_iter().filter(|space| *space > 0) {
                let (pusher, n) = (space >> 32, space & 0xffff_ffff);
                assert_eq!(n, next[pusher as usize], "of {pusher}");
                next[pusher as usize] += 1;
            }
        }
        running.close();
    }
}
