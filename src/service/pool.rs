//! Bounded work on blocking threads: password hashes and listings.
//!
//! A place is held until the work is done, also when the caller has gone: abandoned requests
//! cannot pile up more work than the limits allow.

use super::errors::{Reason, ServiceError};
use crate::limits;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Runs closures on blocking threads, so many at once, so many waiting.
#[derive(Clone)]
pub(super) struct Pool {
    /// Running and waiting together.
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl Pool {
    pub(super) fn new(at_once: usize, waiting: usize) -> Self {
        Self {
            admitted: Arc::new(Semaphore::new(at_once + waiting)),
            running: Arc::new(Semaphore::new(at_once)),
        }
    }

    #[cfg(test)]
    pub(super) fn close(&self) {
        self.running.close();
    }

    /// Runs `work`; `OVERLOADED` at once if too many wait, or if no place came free in time.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let admission = self
            .admitted
            .clone()
            .try_acquire_owned()
            .map_err(|_| Reason::Overloaded)?;
        let wait = Duration::from_millis(limits::POOL_WAIT_MS_MAX);
        let place = tokio::time::timeout(wait, self.running.clone().acquire_owned())
            .await
            .map_err(|_| Reason::Overloaded)?
            .map_err(|_| Reason::ShuttingDown)?;
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop((place, admission));
            result
        })
        .await
        .map_err(|_| ServiceError::internal("work on a blocking thread panicked"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test(flavor = "multi_thread")]
    async fn beyond_its_places_the_pool_refuses_and_then_recovers() {
        let pool = Pool::new(1, 1);
        let (release, gate) = mpsc::channel::<()>();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.run(move || {
                    started.send(()).unwrap();
                    gate.recv().unwrap();
                    1
                })
                .await
            }
        });
        has_started.await.unwrap();
        let second = pool.run(|| 2);
        tokio::pin!(second);
        // One poll takes the waiting place; it cannot finish while the first one runs.
        tokio::select! {
            biased;
            _ = &mut second => panic!("ran beside the first"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(pool.run(|| 3).await.unwrap_err().reason, Reason::Overloaded);
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), 1);
        assert_eq!(second.await.unwrap(), 2);
        assert_eq!(pool.run(|| 3).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_and_frees_its_place() {
        let pool = Pool::new(1, 0);
        let error = pool.run(|| panic!("on purpose")).await.unwrap_err();
        assert_eq!(error.reason, Reason::Internal);
        pool.run(|| ()).await.unwrap();
    }
}
