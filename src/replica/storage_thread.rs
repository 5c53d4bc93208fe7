//! The storage thread: the only one that writes, and the desk at which others may ask it to read.
//!
//! All writes and fsyncs are done here, one job after the other, so that what is read here is what is on the
//! disk between two jobs. When little is going on it takes the replica's turn that a finished job brings.

use super::queue::Queue;
use super::{DiskJob, Workshop, execute};
use crate::limits::APPEND_BYTES_MAX;
use crate::storage::{CommitRecord, RepairEnd, StorageError, Store};
use crate::types::entry::Entry;
use crate::types::{Base, Index};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use tokio::sync::{Semaphore, oneshot};

/// Questions that wait at once. With it, and one job at a time, the channel is bounded.
const QUESTIONS_MAX: usize = 8;
/// Commit records read at once, by index: each read holds up the next batch.
const RECORDS_SPAN_MAX: u64 = 65_536;

/// What the thread is asked to do.
pub(super) enum Work {
    Job(Box<DiskJob>),
    Entries(
        Index,
        usize,
        oneshot::Sender<Result<Vec<Entry>, StorageError>>,
    ),
    Records(
        Index,
        Index,
        oneshot::Sender<Result<Vec<CommitRecord>, StorageError>>,
    ),
    Base(oneshot::Sender<Result<Base, StorageError>>),
    Size(oneshot::Sender<u64>),
    Repaired(RepairEnd),
    /// Nothing follows: make everything durable.
    Stop,
}

/// Does the work until it is told to stop or fails. A failure is told BEFORE the store is closed:
/// closing one whose disk has failed may take for ever.
pub(super) fn run<S: Store>(
    store: &mut S,
    work: &Receiver<Work>,
    queue: &Queue,
) -> Result<(), StorageError> {
    let mut workshop = Workshop::default();
    for work in work {
        // Whoever asked may have gone away; the answer is theirs to lose.
        match work {
            Work::Job(job) => {
                let mut refused = false;
                let tell = |done| refused = queue.push_done(done).is_err();
                execute(store, &mut workshop, *job, tell)?;
                if refused {
                    return Ok(());
                }
            }
            Work::Entries(from, bytes_max, answer) => {
                tell(store.entries(from, bytes_max.min(APPEND_BYTES_MAX)), answer)?;
            }
            Work::Records(from, to, answer) => {
                let to = to.min(Index(from.0.saturating_add(RECORDS_SPAN_MAX)));
                tell(store.commit_records(from, to), answer)?;
            }
            Work::Base(answer) => tell(store.base(), answer)?,
            Work::Repaired(end) => store.note_repaired(&end)?,
            Work::Size(answer) => {
                let _ = answer.send(store.size_bytes());
            }
            Work::Stop => return store.sync(),
        }
    }
    Ok(())
}

/// Damage that somebody has come upon who only looked is damage all the same.
fn tell<T>(
    read: Result<T, StorageError>,
    answer: oneshot::Sender<Result<T, StorageError>>,
) -> Result<(), StorageError> {
    let damage = match &read {
        Err(StorageError::Damaged(what)) => Err(StorageError::Damaged(what.clone())),
        _ => Ok(()),
    };
    let _ = answer.send(read);
    damage
}

/// Where reads are asked for. Cheap to clone.
#[derive(Clone)]
pub(super) struct Desk {
    work: Sender<Work>,
    places: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new(work: Sender<Work>) -> Self {
        Self {
            work,
            places: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        }
    }

    pub(super) async fn entries(
        &self,
        from: Index,
        bytes_max: usize,
    ) -> Option<Result<Vec<Entry>, StorageError>> {
        self.ask(|answer| Work::Entries(from, bytes_max, answer))
            .await
    }

    pub(super) async fn commit_records(
        &self,
        from: Index,
        to: Index,
    ) -> Option<Result<Vec<CommitRecord>, StorageError>> {
        self.ask(|answer| Work::Records(from, to, answer)).await
    }

    pub(super) async fn base(&self) -> Option<Result<Base, StorageError>> {
        self.ask(Work::Base).await
    }

    pub(super) async fn size(&self) -> Option<u64> {
        self.ask(Work::Size).await
    }

    /// `None`: the thread has ended.
    async fn ask<T>(&self, work: impl FnOnce(oneshot::Sender<T>) -> Work) -> Option<T> {
        let _place = self.places.acquire().await.ok()?;
        let (sender, answer) = oneshot::channel();
        self.work.send(work(sender)).ok()?;
        answer.await.ok()
    }
}
