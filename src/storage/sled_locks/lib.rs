//! The part of `parking_lot` 0.11 that sled 0.34.7 uses, over the locks of the standard library. Only sled
//! depends on that version; everything else has the real crate, 0.12.
//!
//! sled writes each buffer of its log on a pool of seven threads, and wakes all of them for it, one after the
//! other: at 40,000 messages a second that was two of five context switches of the machine. sled has no
//! setting for it. Here a [`Condvar`] wakes one of the threads that wait [until a moment](Condvar::wait_until):
//! in sled these are the pool's, any of which takes whatever is in the queue, and looks there before it waits.
//! Who waits [without](Condvar::wait) such a moment is woken with all others, as before.
//!
//! And a thread that flushes sleeps until one of the pool has written the last buffer, which costs two wake-ups
//! and the time between them. [`by_itself`] lets it do that work itself.
//!
//! What both brought is in `docs/performance.md`.
//!
//! A lock that was held during a panic is not poisoned, as in `parking_lot`.

use std::any::{Any, TypeId};
use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{self, Arc, OnceLock, PoisonError, TryLockError};
use std::thread::LocalKey;
use std::time::{Duration, Instant};

thread_local! {
    /// Work for the pool is done here.
    static BY_ITSELF: Cell<bool> = const { Cell::new(false) };
    /// It is being done.
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
}

/// What a pool has in its queue.
type Work = Box<dyn FnOnce() + Send>;

/// Does this, and on this thread whatever it, or another meanwhile, gives to a pool: a queue of closures whose
/// workers wait [until a moment](Condvar::wait_until). For who would wait for that work anyway.
pub fn by_itself<R>(work: impl FnOnce() -> R) -> R {
    let _before = Before::set(&BY_ITSELF, true);
    work()
}

/// This thread does work of a pool. A panic in it is one of a thread of the pool: whoever waits for that work
/// waits for ever.
pub fn is_at_work() -> bool {
    AT_WORK.get()
}

/// Sets it back, also in a panic.
struct Before(&'static LocalKey<Cell<bool>>, bool);

impl Before {
    fn set(of: &'static LocalKey<Cell<bool>>, now: bool) -> Self {
        Self(of, of.replace(now))
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// Mutual exclusion.
#[derive(Debug, Default)]
pub struct Mutex<T>(Arc<sync::Mutex<T>>);

/// The lock is held while this lives.
///
/// Invariant: there is a guard, but for within [`Condvar::wait`] and its like.
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    guard: Option<sync::MutexGuard<'a, T>>,
    of: &'a Arc<sync::Mutex<T>>,
}

impl<T> Mutex<T> {
    /// A lock over a value.
    pub fn new(value: T) -> Self {
        Self(Arc::new(sync::Mutex::new(value)))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.held(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The lock, unless somebody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(self.held(guard)),
            Err(TryLockError::Poisoned(guard)) => Some(self.held(guard.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn held<'a>(&'a self, guard: sync::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let (guard, of) = (Some(guard), &self.0);
        MutexGuard { guard, of }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("held")
    }
}

/// Threads wait here for something to be done.
#[derive(Default)]
pub struct Condvar {
    /// Who must all hear of it.
    all: Waiting,
    /// Who wait for work that one of them does.
    workers: Waiting,
    /// Does all work that these have in their queue.
    work: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for Condvar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}

/// Threads that wait, counted: to wake nobody costs a call of the kernel otherwise.
///
/// Invariant: the count rises before the lock is given up, and falls when it is held again. Who changes
/// what is waited for under the lock, and wakes then, sees all that have waited for it.
#[derive(Debug, Default)]
struct Waiting {
    condvar: sync::Condvar,
    threads: AtomicUsize,
}

impl Waiting {
    const fn new() -> Self {
        Self {
            condvar: sync::Condvar::new(),
            threads: AtomicUsize::new(0),
        }
    }

    fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.guard.take().expect("held");
        self.threads.fetch_add(1, Ordering::SeqCst);
        let held = self.condvar.wait(held);
        self.threads.fetch_sub(1, Ordering::SeqCst);
        guard.guard = Some(held.unwrap_or_else(PoisonError::into_inner));
    }

    fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> WaitTimeoutResult {
        let held = guard.guard.take().expect("held");
        self.threads.fetch_add(1, Ordering::SeqCst);
        let waited = self.condvar.wait_timeout(held, timeout);
        self.threads.fetch_sub(1, Ordering::SeqCst);
        let (held, result) = waited.unwrap_or_else(PoisonError::into_inner);
        guard.guard = Some(held);
        WaitTimeoutResult(result.timed_out())
    }

    fn somebody(&self) -> Option<&sync::Condvar> {
        (self.threads.load(Ordering::SeqCst) > 0).then_some(&self.condvar)
    }
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// The time was over.
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self {
            all: Waiting::new(),
            workers: Waiting::new(),
            work: OnceLock::new(),
        }
    }

    /// Waits until [`Self::notify_all`] is called; it may also end without that.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.all.wait(guard);
    }

    /// The same, for a time at most.
    pub fn wait_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        timeout: Duration,
    ) -> WaitTimeoutResult {
        self.all.wait_for(guard, timeout)
    }

    /// Waits for work until a moment. [`Self::notify_all`] wakes one of those who wait so, or does the work.
    pub fn wait_until<T: Send + 'static>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        moment: Instant,
    ) -> WaitTimeoutResult {
        if TypeId::of::<T>() == TypeId::of::<VecDeque<Work>>() {
            self.work.get_or_init(|| {
                let queue = Arc::clone(guard.of);
                Box::new(move || do_all(&queue))
            });
        }
        let timeout = moment.saturating_duration_since(Instant::now());
        self.workers.wait_for(guard, timeout)
    }

    /// Wakes all that wait, but of the workers one.
    pub fn notify_all(&self) {
        if let Some(all) = self.all.somebody() {
            all.notify_all();
        }
        match self.work.get().filter(|_| BY_ITSELF.get()) {
            Some(work) => work(),
            None => {
                if let Some(workers) = self.workers.somebody() {
                    workers.notify_one();
                }
            }
        }
    }
}

/// Does the work that is in this queue now. For what comes of it meanwhile a worker is woken as always:
/// whoever gives it may hold a lock that other work wants.
fn do_all<T: 'static>(queue: &sync::Mutex<T>) {
    let _before = Before::set(&BY_ITSELF, false);
    let mut left = None;
    loop {
        let mut held = queue.lock().unwrap_or_else(PoisonError::into_inner);
        let works = (&mut *held as &mut dyn Any).downcast_mut::<VecDeque<Work>>();
        let Some(works) = works else {
            return;
        };
        let now = left.unwrap_or(works.len());
        left = now.checked_sub(1);
        let work = left.and_then(|_| works.pop_front());
        drop(held);
        let Some(work) = work else {
            return;
        };
        let _idle = Before::set(&AT_WORK, true);
        work();
    }
}

/// Many readers or one writer.
#[derive(Debug, Default)]
pub struct RwLock<T>(sync::RwLock<T>);

/// Nobody writes while this lives.
pub type RwLockReadGuard<'a, T> = sync::RwLockReadGuard<'a, T>;
/// Nobody else reads or writes while this lives.
pub type RwLockWriteGuard<'a, T> = sync::RwLockWriteGuard<'a, T>;

impl<T> RwLock<T> {
    /// A lock over a value.
    pub const fn new(value: T) -> Self {
        Self(sync::RwLock::new(value))
    }

    /// Waits until nobody writes.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody reads or writes.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    /// As in sled: a queue, and a worker that waits for what is put there.
    #[derive(Default)]
    struct Pool {
        queue: Mutex<VecDeque<Work>>,
        wake: Condvar,
    }

    impl Pool {
        fn start() -> Arc<Self> {
            let pool = Arc::new(Self::default());
            let worker = Arc::clone(&pool);
            thread::spawn(move || {
                loop {
                    let mut queue = worker.queue.lock();
                    while queue.is_empty() {
                        let moment = Instant::now() + Duration::from_mins(1);
                        worker.wake.wait_until(&mut queue, moment);
                    }
                    let work = queue.pop_front();
                    drop(queue);
                    if let Some(work) = work {
                        work();
                    }
                }
            });
            while pool.wake.workers.threads.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            pool
        }

        /// Where the work was done.
        fn spawn(&self) -> mpsc::Receiver<thread::ThreadId> {
            let (tell, told) = mpsc::channel();
            let work: Work = Box::new(move || {
                // Not every test listens.
                let _ = tell.send(thread::current().id());
            });
            self.queue.lock().push_back(work);
            self.wake.notify_all();
            told
        }
    }

    #[test]
    fn a_worker_does_the_work_and_who_does_it_by_itself_has_done_it_at_once() {
        let pool = Pool::start();
        let here = thread::current().id();
        assert_ne!(pool.spawn().recv().unwrap(), here);
        let told = by_itself(|| pool.spawn());
        assert_eq!(told.try_recv(), Ok(here));
        assert_ne!(pool.spawn().recv().unwrap(), here, "no longer by itself");
    }

    #[test]
    fn what_comes_of_work_done_by_itself_is_done_by_somebody() {
        let pool = Pool::start();
        let (tell, told) = mpsc::channel();
        let inner = Arc::clone(&pool);
        let work: Work = Box::new(move || tell.send(inner.spawn()).unwrap());
        by_itself(|| {
            pool.queue.lock().push_back(work);
            pool.wake.notify_all();
        });
        let inner = told.try_recv().expect("done here");
        assert!(inner.recv().is_ok());
    }

    /// As sled does when it gives the end of a file back.
    #[test]
    fn work_may_hold_a_lock_that_other_work_wants_while_it_gives_more() {
        let pool = Pool::start();
        let lock = Arc::new(Mutex::new(()));
        let (giver, wanted) = (Arc::clone(&pool), Arc::clone(&lock));
        let gives: Work = Box::new(move || {
            let _held = lock.lock();
            drop(giver.spawn());
        });
        let wants: Work = Box::new(move || drop(wanted.lock()));
        by_itself(|| {
            let mut queue = pool.queue.lock();
            queue.push_back(gives);
            queue.push_back(wants);
            drop(queue);
            pool.wake.notify_all();
        });
        assert!(pool.spawn().recv().is_ok());
    }

    #[test]
    fn work_that_comes_meanwhile_is_left_to_the_workers() {
        let pool = Pool::default();
        let mut queue = pool.queue.lock();
        pool.wake.wait_until(&mut queue, Instant::now());
        drop(queue);
        let pool = Arc::new(pool);
        let giver = Arc::clone(&pool);
        let gives: Work = Box::new(move || drop(giver.spawn()));
        by_itself(|| {
            pool.queue.lock().push_back(gives);
            pool.wake.notify_all();
        });
        assert_eq!(pool.queue.lock().len(), 1, "it has no worker");
    }

    #[test]
    fn a_panic_in_the_work_leaves_nobody_by_itself() {
        let pool = Pool::start();
        let panics = || {
            by_itself(|| {
                assert!(!is_at_work());
                let work: Work = Box::new(|| {
                    assert!(is_at_work());
                    panic!("for the test")
                });
                pool.queue.lock().push_back(work);
                pool.wake.notify_all();
            });
        };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        assert!(!is_at_work());
        let here = thread::current().id();
        assert_ne!(pool.spawn().recv().unwrap(), here);
    }

    #[test]
    fn a_queue_of_something_else_is_the_workers_alone() {
        let (queue, wake) = (Mutex::new(VecDeque::<u8>::new()), Condvar::new());
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut held = queue.lock();
                while held.is_empty() {
                    wake.wait_until(&mut held, Instant::now() + Duration::from_mins(1));
                }
            });
            by_itself(|| {
                queue.lock().push_back(7);
                wake.notify_all();
            });
        });
    }
}
