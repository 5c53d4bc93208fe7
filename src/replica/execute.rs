//! Does a [`DiskJob`], step by step in its order. The storage thread and the simulator both call
//! this, so that the order that is simulated is the order that is shipped.

use super::{DiskDone, DiskJob, Workshop};
use crate::consensus::Mutant;
use crate::storage::{StorageError, Store, Write};

/// The size of the store is looked at after so many jobs of the log alone.
const SIZED_EVERY: u64 = 64;

/// Does a job, step by step in its order, and tells when it is done. An error before that leaves the job half
/// done: the replica stops, and nothing of it is acknowledged. A hard state that is not fsynced follows: nothing
/// depends on it, and with one message in flight its call of the kernel would be on the way of each.
pub fn execute<S: Store>(
    store: &mut S,
    workshop: &mut Workshop,
    job: DiskJob,
    tell: impl FnOnce(DiskDone),
) -> Result<(), StorageError> {
    let mut commit = job.commit;
    let mut lazy = None;
    // What a batch adds does not matter to those who look, and a look is a call of the kernel.
    let sized = job.slice.is_some()
        || job.extra.is_some()
        || job.number % SIZED_EVERY == 1
        || job.core.as_ref().is_some_and(|core| core.install.is_some());
    if let Some(core) = job.core {
        if let Some(state) = &core.hard_state_before {
            store.write_hard_state(state, true)?;
        }
        if core.install.is_some() {
            // What was recorded is about the store that goes.
            commit = None;
            store.next_install()?;
            workshop.installed();
        }
        if core.truncate_after.is_some() || !core.append.is_empty() {
            let write = Write {
                truncate_after: core.truncate_after,
                append: core.append,
                commit: commit.take(),
                slice: None,
            };
            write_log(store, workshop, write)?;
        }
        lazy = core.hard_state_after;
        if let Some(state) = lazy.take_if(|_| core.sync_hard_state) {
            store.write_hard_state(&state, true)?;
        }
    }
    if commit.is_some() || job.slice.is_some() {
        let write = Write {
            commit,
            slice: job.slice,
            ..Write::default()
        };
        write_beside(store, workshop, write, job.sync_commit)?;
    }
    let mut fetched = Vec::with_capacity(job.fetches.len());
    for fetch in job.fetches {
        fetched.push((fetch.peer, store.entries(fetch.from, fetch.bytes_max)?));
    }
    let extra = job.extra.map(|extra| workshop.work(store, extra));
    let extra = extra.transpose()?;
    tell(DiskDone {
        number: job.number,
        fetched,
        extra,
        size_bytes: sized.then(|| store.size_bytes()),
        live_bytes: store.live_bytes(),
    });
    match lazy {
        Some(state) => store.write_hard_state(&state, false),
        None => Ok(()),
    }
}

/// What changes the log, and a commit record with it, fsynced.
fn write_log<S: Store>(
    store: &mut S,
    workshop: &mut Workshop,
    write: Write,
) -> Result<(), StorageError> {
    let rest = Write {
        truncate_after: write.truncate_after,
        commit: write.commit,
        ..Write::default()
    };
    store.write(write)?;
    let synced = store.sync();
    if Mutant::RetryFsync.on() && synced.is_err() {
        store.sync()?;
    } else {
        synced?;
    }
    workshop.after_write(store, rest);
    Ok(())
}

/// A commit record and a slice. Neither needs a sync of its own, but for a readmission's record: both
/// only spare a restart some work, and the slice stands on a commit record of this very write or of
/// one that is durable.
fn write_beside<S: Store>(
    store: &mut S,
    workshop: &mut Workshop,
    write: Write,
    sync: bool,
) -> Result<(), StorageError> {
    workshop.before_write(store, &write)?;
    let mirrored = workshop.mirrors().then(|| write.clone());
    store.write(write)?;
    if sync {
        store.sync()?;
    }
    if let Some(write) = mirrored {
        workshop.after_write(store, write);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::{Fetch, Job, JobId};
    use crate::replica::testing::{FakeStore, entry, hard_state, record, slice};
    use crate::types::{Index, ReplicaId};

    fn job(core: Option<Job>) -> DiskJob {
        DiskJob {
            number: 7,
            core: core.map(Box::new),
            commit: None,
            sync_commit: false,
            slice: None,
            fetches: Vec::new(),
            extra: None,
        }
    }

    fn execute(store: &mut FakeStore, job: DiskJob) -> Result<DiskDone, StorageError> {
        let mut told = None;
        super::execute(store, &mut Workshop::default(), job, |done| {
            told = Some(done);
        })?;
        Ok(told.unwrap())
    }

    fn core() -> Job {
        Job {
            id: JobId(1),
            hard_state_before: Some(hard_state(3)),
            install: None,
            truncate_after: Some(Index(4)),
            append: vec![entry(3, 5), entry(3, 6)],
            hard_state_after: Some(hard_state(4)),
            sync_hard_state: true,
        }
    }

    #[test]
    fn every_step_is_complete_before_the_next_begins() {
        let mut store = FakeStore {
            first: Some(entry(1, 1)),
            ..FakeStore::default()
        };
        let done = execute(
            &mut store,
            DiskJob {
                commit: Some(record(3, 4)),
                slice: Some(slice(4)),
                fetches: vec![Fetch {
                    peer: ReplicaId(2),
                    from: Index(1),
                    bytes_max: 10,
                }],
                ..job(Some(core()))
            },
        )
        .unwrap();
        assert_eq!(done.number, 7);
        assert_eq!(done.fetched, [(ReplicaId(2), vec![entry(1, 1)])]);
        assert_eq!(
            store.operations,
            [
                "hard state term 3 synced",
                "write truncate 4 append 5..6 commit 4",
                "sync",
                "hard state term 4 synced",
                "write slice 4",
            ]
        );
    }

    #[test]
    fn a_commit_record_without_entries_is_in_the_same_write_as_its_slice() {
        let mut store = FakeStore::default();
        let lazy = Job {
            id: JobId(2),
            hard_state_after: Some(hard_state(4)),
            ..Job::default()
        };
        execute(
            &mut store,
            DiskJob {
                commit: Some(record(3, 4)),
                slice: Some(slice(4)),
                ..job(Some(lazy))
            },
        )
        .unwrap();
        assert_eq!(
            store.operations,
            ["write commit 4 slice 4", "hard state term 4 lazy"]
        );
    }

    #[test]
    fn a_job_is_told_before_its_lazy_hard_state_is_written_and_after_one_that_is_synced() {
        for (sync, fail_at, told) in [
            (false, 2, false),
            (false, 3, true),
            (true, 3, false),
            (true, 4, true),
        ] {
            let mut store = FakeStore {
                fail_at: Some(fail_at),
                ..FakeStore::default()
            };
            let core = Job {
                append: vec![entry(1, 1)],
                hard_state_after: Some(hard_state(1)),
                sync_hard_state: sync,
                ..Job::default()
            };
            let mut heard = false;
            let job = job(Some(core));
            let done = super::execute(&mut store, &mut Workshop::default(), job, |_| {
                heard = true;
            });
            assert_eq!((heard, done.is_ok()), (told, sync && told));
        }
    }

    #[test]
    fn a_hurried_commit_record_is_synced() {
        let mut store = FakeStore::default();
        let hurried = DiskJob {
            commit: Some(record(3, 4)),
            sync_commit: true,
            ..job(None)
        };
        execute(&mut store, hurried).unwrap();
        assert_eq!(store.operations, ["write commit 4", "sync"]);
    }

    #[test]
    fn a_rewriting_that_fails_costs_nothing_and_one_that_meets_damage_stops_the_job() {
        use crate::replica::{Cut, Extra, ExtraDone, RewriteStep};
        use crate::types::WallTime;
        let begin = || DiskJob {
            extra: Some(Extra::Rewrite(RewriteStep::Begin {
                cut: Cut {
                    base: Index(1),
                    keep_since: WallTime(9),
                },
                applied: slice(1),
                least: Index(0),
            })),
            ..job(None)
        };
        let first = Some(crate::types::entry::Entry::formation(
            &crate::types::Members::new(),
        ));
        let mut full = FakeStore {
            first,
            next_is_full: true,
            ..FakeStore::default()
        };
        let done = execute(&mut full, begin()).unwrap();
        assert!(matches!(done.extra, Some(ExtraDone::RewriteFailed)));
        full.damaged = true;
        let done = execute(&mut full, begin());
        assert!(matches!(done, Err(StorageError::Damaged(_))), "{done:?}");
    }

    #[test]
    fn a_failed_step_stops_the_job() {
        for failing in 1..=4 {
            let mut store = FakeStore {
                fail_at: Some(failing),
                ..FakeStore::default()
            };
            assert!(execute(&mut store, job(Some(core()))).is_err());
            assert_eq!(store.operations.len(), failing);
        }
    }
}
