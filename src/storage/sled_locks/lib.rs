//! The part of `parking_lot` 0.11 that sled 0.34.7 uses, over the locks of the standard library. Only sled
//! depends on that version; everything else has the real crate, 0.12.
//!
//! sled writes each buffer of its log on a pool of seven threads, and wakes all of them for it, one after the
//! other: at 40,000 messages a second that was two of five context switches of the machine. sled has no
//! setting for it. Here a [`Condvar`] wakes one of the threads that wait [until a moment](Condvar::wait_until):
//! in sled these are the pool's, any of which takes whatever is in the queue, and looks there before it waits.
//! Who waits [without](Condvar::wait) such a moment is woken with all others, as before. What that brought is
//! in `docs/performance.md`.
//!
//! A lock that was held during a panic is not poisoned, as in `parking_lot`.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{self, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// Mutual exclusion.
#[derive(Debug, Default)]
pub struct Mutex<T>(sync::Mutex<T>);

/// The lock is held while this lives.
///
/// Invariant: there is a guard, but for within [`Condvar::wait`] and its like.
#[derive(Debug)]
pub struct MutexGuard<'a, T>(Option<sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    /// A lock over a value.
    pub const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard(Some(guard))
    }

    /// The lock, unless somebody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(MutexGuard(Some(guard))),
            Err(TryLockError::Poisoned(guard)) => Some(MutexGuard(Some(guard.into_inner()))),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("held")
    }
}

/// Threads wait here for something to be done.
#[derive(Debug, Default)]
pub struct Condvar {
    /// Who must all hear of it.
    all: Waiting,
    /// Who wait for work that one of them does.
    workers: Waiting,
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
        let held = guard.0.take().expect("held");
        self.threads.fetch_add(1, Ordering::SeqCst);
        let held = self.condvar.wait(held);
        self.threads.fetch_sub(1, Ordering::SeqCst);
        guard.0 = Some(held.unwrap_or_else(PoisonError::into_inner));
    }

    fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> WaitTimeoutResult {
        let held = guard.0.take().expect("held");
        self.threads.fetch_add(1, Ordering::SeqCst);
        let waited = self.condvar.wait_timeout(held, timeout);
        self.threads.fetch_sub(1, Ordering::SeqCst);
        let (held, result) = waited.unwrap_or_else(PoisonError::into_inner);
        guard.0 = Some(held);
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

    /// Waits for work until a moment. [`Self::notify_all`] wakes one of those who wait so.
    pub fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        moment: Instant,
    ) -> WaitTimeoutResult {
        let timeout = moment.saturating_duration_since(Instant::now());
        self.workers.wait_for(guard, timeout)
    }

    /// Wakes all that wait, but of the workers one.
    pub fn notify_all(&self) {
        if let Some(all) = self.all.somebody() {
            all.notify_all();
        }
        if let Some(workers) = self.workers.somebody() {
            workers.notify_one();
        }
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
