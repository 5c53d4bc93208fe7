//! Gives a [`Replica`] what it lacks: a thread, a clock, a queue, a disk and links.
//!
//! Two OS threads. The replica's thread takes everything that waits in its queue, hands it to the
//! replica, and takes the output once: what came together goes out as one batch. The storage
//! thread does the disk jobs. Neither is a tokio task, so that a busy executor deposes nobody and
//! a slow write blocks nobody. While little is going on, others take turns too (`turns`).
//!
//! A failed disk is logged once, here, and ends both threads; [`Runtime::failed`] tells `main`,
//! which exits non-zero. Nothing is retried: after a failed fsync nobody knows what is durable. Damage,
//! whichever thread comes upon it, ends them in the same way, and `main` begins again: the next open
//! repairs the store.

use super::clock::{Clock, Turned};
use super::driver::Driver;
use super::queue::{Item, Queue};
use super::shared::Shared;
use super::storage_thread::{self, Desk, Work};
use super::transport::{PeerInbox, Transport};
use super::{Config, Handle, Input, Names, Replica};
use crate::consensus::HardState;
use crate::metrics::Metrics;
use crate::state_machine::StateMachine;
use crate::storage::{self, Recovered, Slice, StateReader, StorageError, Store};
use crate::types::{Incarnation, Index, RunNonce, Stamp};
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::watch;

/// Why a running replica ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Its store is damaged. `storage::note_damage`, and the next open repairs it.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// Its disk failed, or an entry is of a kind that this build does not know.
    #[error("the replica's storage failed")]
    Storage(#[source] StorageError),
    /// An invariant of our own code did not hold; the panic's message is in the log.
    #[error("the {0} thread panicked")]
    Panicked(&'static str),
}

/// How the threads are.
#[derive(Clone, Debug)]
enum State {
    Running,
    Stopped,
    Failed(Arc<Failure>),
}

/// A running replica's threads. Dropping it leaves them running; see [`Runtime::shut_down`].
pub struct Runtime {
    queue: Arc<Queue>,
    state: watch::Receiver<State>,
}

impl Runtime {
    /// Hands the primary role over, finishes what is pending, writes everything down, and returns
    /// when the threads have ended. Bounded.
    pub async fn shut_down(mut self) -> Result<(), Arc<Failure>> {
        // Refused only if it has ended already.
        let _ = self.queue.push_always(Item::Input(Input::ShutDown));
        let ended = self
            .state
            .wait_for(|state| !matches!(state, State::Running))
            .await;
        match ended.as_deref() {
            Ok(State::Failed(failure)) => Err(Arc::clone(failure)),
            _ => Ok(()),
        }
    }

    /// Resolves when the replica has failed, and never otherwise: the process must exit non-zero.
    pub async fn failed(&self) -> Arc<Failure> {
        let mut state = self.state.clone();
        let failed = state
            .wait_for(|state| matches!(state, State::Failed(_)))
            .await;
        if let Ok(State::Failed(failure)) = failed.as_deref() {
            return Arc::clone(failure);
        }
        drop(failed);
        std::future::pending().await
    }
}

/// Starts a replica on its store. `connect` is given the way in for what the network brings, and
/// returns the way out. A store without hard state gets one first: a new incarnation, fsynced.
pub fn spawn<S, T>(
    config: Config,
    store: S,
    recovered: Recovered,
    connect: impl FnOnce(PeerInbox) -> T,
) -> Result<(Handle, Runtime), StorageError>
where
    S: Store + 'static,
    T: Transport,
{
    spawn_in(config, Surroundings::default(), store, recovered, connect)
}

/// Tells how many bytes are free on the disk, if it can.
pub type FreeBytes = Box<dyn Fn() -> Option<u64> + Send>;

/// What a replica sees of the machine that it runs on.
#[derive(Default)]
pub struct Surroundings {
    /// Shown instead of the machine's wall clock: for tests.
    pub clock: Option<Arc<Turned>>,
    /// Looks how much room is left. `None`: nobody looks, and the disk is never low.
    pub free_bytes: Option<FreeBytes>,
    /// Where the replica counts what it does.
    pub metrics: Arc<Metrics>,
}

/// [`spawn`] in these surroundings.
pub fn spawn_in<S, T>(
    config: Config,
    surroundings: Surroundings,
    mut store: S,
    mut recovered: Recovered,
    connect: impl FnOnce(PeerInbox) -> T,
) -> Result<(Handle, Runtime), StorageError>
where
    S: Store + 'static,
    T: Transport,
{
    make_sure_of_hard_state(&config, &mut store, &mut recovered)?;
    let (id, knows) = (config.node.id, config.node.level);
    let lost_after_us = config.node.election_timeout_us();
    let clock = Clock::start(surroundings.clock);
    let (run, seed) = (RunNonce(rand::random()), rand::random());
    let reader = store.reader();
    let replica = Replica::start(config, recovered, reader.clone(), run, seed, clock.now())?;
    let (replica, names) = with_names(replica)?;
    let shared = Arc::new(Shared::new(names));
    let queue = Arc::new(Queue::new());
    let (tell, state) = watch::channel(State::Running);
    let report = Reporter {
        queue: Arc::clone(&queue),
        tell: Arc::new(tell),
    };

    let (work, jobs) = std::sync::mpsc::channel();
    let storage = {
        let (queue, report) = (Arc::clone(&queue), report.clone());
        thread("storage", move || {
            report.watch_over("storage", || storage_thread::run(&mut store, &jobs, &queue));
        })?
    };
    let transport = connect(PeerInbox::new(Arc::clone(&queue)));
    let driver = Driver::new(
        replica,
        clock,
        Arc::clone(&shared),
        (work.clone(), transport),
        lost_after_us,
        surroundings.metrics,
    );
    let (last_work, last_shared) = (work.clone(), Arc::clone(&shared));
    thread("replica", move || {
        report.watch_over("replica", || report.queue.run(Box::new(driver)));
        report.queue.close();
        last_shared.set_shut_down();
        // Ends the storage thread, unless it has failed and ended already.
        let _ = last_work.send(Work::Stop);
        // Its panics are caught and reported inside.
        let _ = storage.join();
        report.stopped();
        report.queue.clear();
    })?;
    if let Some(free_bytes) = surroundings.free_bytes {
        watch_space(free_bytes, Arc::clone(&queue))?;
    }
    let scan =
        move |slice: &Slice| StateMachine::open_knowing(Some(slice), knows)?.scan_digest(&reader);
    let handle = Handle {
        id,
        queue: Arc::clone(&queue),
        shared,
        desk: Desk::new(work),
        scan: Arc::new(scan),
        scanning: Arc::default(),
    };
    Ok((handle, Runtime { queue, state }))
}

/// Reads all of one tree, of which the open has seen little: that may meet damage, too.
fn with_names<R: StateReader + Send + 'static>(
    mut replica: Replica<R>,
) -> Result<(Replica<R>, Names), StorageError> {
    storage::guarded(storage::PATIENCE, move || {
        let names = replica.names()?.into_iter().map(|(name, _)| name);
        let names = Names::new(names.collect());
        Ok((replica, names))
    })
}

/// Looks at the free space again and again, on a thread of its own: a file system may hang.
fn watch_space(free_bytes: FreeBytes, queue: Arc<Queue>) -> Result<(), StorageError> {
    let every = std::time::Duration::from_millis(crate::limits::DISK_LOOK_MS);
    thread("disk-space", move || {
        loop {
            let seen = free_bytes().map(|free| Item::Input(Input::DiskSpace(free)));
            let closed = seen.is_some_and(|seen| queue.push_always(seen).is_err());
            if closed || queue.is_closed() {
                return;
            }
            std::thread::sleep(every);
        }
    })?;
    Ok(())
}

fn make_sure_of_hard_state<S: Store>(
    config: &Config,
    store: &mut S,
    recovered: &mut Recovered,
) -> Result<(), StorageError> {
    if recovered.hard_state.is_none() {
        let state = first_hard_state(config, store, recovered.last)?;
        // Over a file that is there and cannot be read, nothing is written: it is evidence.
        if recovered.damage.is_empty() {
            store.write_hard_state(&state, true)?;
        }
        recovered.hard_state = Some(state);
    }
    Ok(())
}

/// Says how the threads ended. The first failure is what is told.
#[derive(Clone)]
struct Reporter {
    queue: Arc<Queue>,
    tell: Arc<watch::Sender<State>>,
}

impl Reporter {
    /// Runs a thread's work; if it fails, logs it once and lets the other thread end too.
    fn watch_over(&self, name: &'static str, work: impl FnOnce() -> Result<(), StorageError>) {
        let failure = match std::panic::catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => return,
            Ok(Err(StorageError::Damaged(what))) => Failure::Damaged(what),
            Ok(Err(error)) => Failure::Storage(error),
            Err(_) => Failure::Panicked(name),
        };
        let mut text = failure.to_string();
        let mut cause = std::error::Error::source(&failure);
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        // Where the log is on the same disk, writing it fails too, and that may panic.
        let log = || tracing::error!("the replica stops: {text}");
        let _ = std::panic::catch_unwind(AssertUnwindSafe(log));
        self.end(State::Failed(Arc::new(failure)));
        self.queue.close();
    }

    fn stopped(&self) {
        self.end(State::Stopped);
    }

    fn end(&self, end: State) {
        self.tell.send_if_modified(|state| {
            let running = matches!(state, State::Running);
            if running {
                *state = end;
            }
            running
        });
    }
}

fn thread(
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StorageError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(|source| StorageError::Io {
            what: "cannot start a thread:",
            path: name.into(),
            source,
        })
}

/// For a new replica, or for one that lost its promises: then the log tells which cluster it was
/// of, and the new incarnation must be readmitted there.
fn first_hard_state<S: Store>(
    config: &Config,
    store: &S,
    last: Stamp,
) -> Result<HardState, StorageError> {
    let of_base = store.base()?.founders;
    let of_entry = store
        .entries(Index(1), 1)?
        .first()
        .and_then(crate::types::entry::Entry::as_formation)
        .map(|formation| formation.members);
    let founders = of_entry.or_else(|| (!of_base.is_empty()).then_some(of_base));
    let incarnation = Incarnation(rand::random());
    Ok(HardState::new_life(
        config.node.id,
        incarnation,
        founders,
        last,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::FormationStatus;
    use crate::replica::testing::{FakeStore, hard_state};
    use crate::types::{ClusterId, Members, ReplicaId, Term, entry::Entry};

    fn config() -> Config {
        Config {
            node: crate::consensus::Config {
                id: ReplicaId(1),
                ids: vec![ReplicaId(1)],
                refresh_interval_us: 50_000,
                election_iters: 3,
                election_check_interval_us: 10_000,
                initialize_wait_us: 0,
                notice_wait_us: 0,
                build: "test".into(),
                level: crate::types::LEVEL,
            },
            write_timeout_us: 1_000_000,
            read_timeout_us: 1_000_000,
            token_idle_us: 1_000_000,
            retention_us: 0,
            checkpoint_entries_max: 1_000,
            rewriting: crate::replica::Rewriting::default(),
            scrub_interval_us: 0,
            free_bytes_min: 0,
            digest_every: crate::limits::DIGEST_EVERY,
        }
    }

    #[test]
    fn lost_promises_get_a_new_incarnation_in_the_cluster_that_the_log_names() {
        let members = Members::from([(ReplicaId(1), hard_state(1).incarnation)]);
        let store = FakeStore {
            first: Some(Entry::formation(&members)),
            ..FakeStore::default()
        };
        let last = Stamp::new(Term(4), Index(9));
        let state = first_hard_state(&config(), &store, last).unwrap();
        assert_eq!(state.cluster, Some(ClusterId::of_members(&members)));
        assert_eq!(state.formation, FormationStatus::Formed(members));
        assert_ne!(state.incarnation, hard_state(1).incarnation);
        assert_eq!(state.term, Term(4));

        let new = first_hard_state(&config(), &FakeStore::default(), Stamp::ZERO).unwrap();
        assert_eq!(new.formation, FormationStatus::Unformed);
        assert_eq!(new.cluster, None);
    }

    #[tokio::test]
    async fn the_first_failure_is_told_and_closes_the_queue() {
        let (tell, state) = watch::channel(State::Running);
        let queue = Arc::new(Queue::new());
        let report = Reporter {
            queue: Arc::clone(&queue),
            tell: Arc::new(tell),
        };
        let runtime = Runtime {
            queue: Arc::clone(&queue),
            state,
        };
        report.watch_over("storage", || Err(StorageError::Unusable("fsync".into())));
        report.watch_over("replica", || panic!("later"));
        report.stopped();
        assert!(queue.take().is_none());
        let failure = runtime.failed().await;
        assert!(matches!(*failure, Failure::Storage(_)));
        assert!(runtime.shut_down().await.is_err());
    }

    #[test]
    fn a_failing_disk_ends_the_storage_thread_and_a_stop_syncs() {
        use crate::replica::testing::entry;
        use crate::replica::{DiskJob, Input};
        let job = || {
            let core = crate::consensus::Job {
                append: vec![entry(1, 1)],
                ..Default::default()
            };
            Work::Job(Box::new(DiskJob {
                number: 1,
                core: Some(Box::new(core)),
                commit: None,
                sync_commit: false,
                slice: None,
                fetches: Vec::new(),
                extra: None,
            }))
        };
        for (fail_at, good) in [(None, true), (Some(2), false), (Some(3), false)] {
            let queue = Queue::new();
            let (work, jobs) = std::sync::mpsc::channel();
            work.send(job()).unwrap();
            work.send(Work::Stop).unwrap();
            let mut store = FakeStore {
                fail_at,
                ..FakeStore::default()
            };
            assert_eq!(storage_thread::run(&mut store, &jobs, &queue).is_ok(), good);
            let (items, _) = queue.take().unwrap();
            let done = matches!(
                items.front(),
                Some(Item::Input(Input::DiskDone(done))) if done.number == 1
            );
            // Two operations are the job's own; a failure among them is never "done".
            assert_eq!(done, fail_at != Some(2));
        }
    }
}
