//! What goes into a job, and in which order.

use super::*;
use crate::replica::testing::{entry, ms, record, slice};

const POLICY: Policy = Policy {
    record_after_us: 50_000,
    slices_in_turn: 0,
    beside: true,
    force: false,
    hold: false,
};
const FORCE: Policy = Policy {
    force: true,
    ..POLICY
};

fn append(id: u64, index: u64) -> Box<Job> {
    Box::new(Job {
        id: JobId(id),
        append: vec![entry(1, index)],
        ..Job::default()
    })
}

fn none() -> impl FnMut(Index, bool) -> Option<Slice> {
    |_, _| None
}

fn done(disk: &mut Disk, job: &DiskJob) -> Finished {
    disk.on_done(&DiskDone {
        number: job.number,
        fetched: Vec::new(),
        extra: None,
        size_bytes: None,
        live_bytes: None,
    })
}

fn next_job(
    disk: &mut Disk,
    policy: Policy,
    now: Monotonic,
    next_slice: NextSlice<'_>,
) -> Option<Box<DiskJob>> {
    disk.next_job(policy, now, next_slice, &mut || None)
}

fn commit(job: &DiskJob) -> Option<u64> {
    job.commit.map(|record| record.stamp.index.0)
}

#[test]
fn a_hurried_record_goes_at_once_with_a_sync_of_its_own_unless_one_comes_along() {
    let mut disk = Disk::new(Index(5), None, None);
    disk.record(record(1, 5), ms(100));
    disk.hurry(Index(5));
    let job = next_job(&mut disk, POLICY, ms(100), &mut none()).unwrap();
    assert_eq!((commit(&job), job.sync_commit), (Some(5), true));
    done(&mut disk, &job);
    assert_eq!(disk.durable, Index(5));

    disk.set_core(append(1, 6));
    let job = next_job(&mut disk, POLICY, ms(101), &mut none()).unwrap();
    done(&mut disk, &job);
    disk.record(record(1, 6), ms(102));
    disk.hurry(Index(6));
    disk.set_core(append(2, 7));
    let job = next_job(&mut disk, POLICY, ms(102), &mut none()).unwrap();
    assert_eq!((commit(&job), job.core.is_some()), (Some(6), true));
    done(&mut disk, &job);
    assert!(next_job(&mut disk, POLICY, ms(102), &mut none()).is_none());
}

#[test]
fn a_record_rides_with_the_next_entries_or_goes_alone_after_a_refresh() {
    let mut disk = Disk::new(Index(5), None, None);
    disk.record(record(1, 5), ms(100));
    assert!(next_job(&mut disk, POLICY, ms(149), &mut none()).is_none());
    let job = next_job(&mut disk, POLICY, ms(150), &mut none()).unwrap();
    assert_eq!((commit(&job), job.core), (Some(5), None));
    assert!(
        next_job(&mut disk, FORCE, ms(150), &mut none()).is_none(),
        "one at a time"
    );
}

#[test]
fn a_record_waits_until_its_entry_is_in_the_store() {
    let mut disk = Disk::new(Index(5), None, None);
    disk.record(record(1, 4), ms(0));
    disk.record(record(1, 6), ms(0));
    let first = next_job(&mut disk, FORCE, ms(0), &mut none()).unwrap();
    assert_eq!(commit(&first), Some(4));
    done(&mut disk, &first);
    assert!(next_job(&mut disk, FORCE, ms(0), &mut none()).is_none());
    disk.set_core(append(1, 6));
    let second = next_job(&mut disk, POLICY, ms(0), &mut none()).unwrap();
    assert_eq!(commit(&second), Some(6), "with the entry itself");
}

#[test]
fn the_cores_job_goes_before_a_slice_unless_that_presses_and_then_in_turn() {
    let mut disk = Disk::new(Index(5), Some(record(1, 5)), None);
    let mut full = |limit: Index, _| Some(slice(limit.0));
    disk.set_core(append(1, 6));
    let job = next_job(&mut disk, POLICY, ms(0), &mut full).unwrap();
    assert!(job.core.is_some() && job.slice.is_none());
    assert_eq!(done(&mut disk, &job).core, Some(JobId(1)));
    let pressing = Policy {
        slices_in_turn: 1,
        ..POLICY
    };
    disk.set_core(append(2, 7));
    let job = next_job(&mut disk, pressing, ms(0), &mut full).unwrap();
    assert!(job.core.is_none() && job.slice.is_some());
    assert!(done(&mut disk, &job).slice);
    let job = next_job(&mut disk, pressing, ms(0), &mut full).unwrap();
    assert!(
        job.core.is_some() && job.slice.is_none(),
        "not two in a row"
    );
}

#[test]
fn a_slice_waits_for_its_replicas_turn_unless_it_is_forced() {
    let mut disk = Disk::new(Index(5), Some(record(1, 5)), None);
    let mut full = |limit: Index, _| Some(slice(limit.0));
    let others = Policy {
        beside: false,
        ..POLICY
    };
    let job = next_job(&mut disk, POLICY, ms(1), &mut full).unwrap();
    assert!(job.slice.is_some());
    done(&mut disk, &job);
    assert!(next_job(&mut disk, others, ms(250), &mut full).is_none());
    let forced = Policy {
        beside: false,
        ..FORCE
    };
    let job = next_job(&mut disk, forced, ms(250), &mut full).unwrap();
    assert!(job.slice.is_some());
    done(&mut disk, &job);
    let job = next_job(&mut disk, others, ms(500), &mut full).unwrap();
    assert!(job.slice.is_some(), "its turn is long in coming");
}

#[test]
fn a_slice_that_somebody_waits_for_goes_between_two_jobs_of_the_core() {
    let mut disk = Disk::new(Index(5), Some(record(1, 5)), None);
    let mut full = |limit: Index, _| Some(slice(limit.0));
    disk.set_core(append(1, 6));
    let mut turns = Vec::new();
    for number in 2..6 {
        let job = next_job(&mut disk, FORCE, ms(1), &mut full).unwrap();
        turns.push(if job.slice.is_some() { 's' } else { 'c' });
        if done(&mut disk, &job).core.is_some() {
            disk.set_core(append(number, 5 + number));
        }
    }
    assert_eq!(turns.iter().collect::<String>(), "scsc");
}

#[test]
fn the_further_the_trees_are_behind_the_more_slices_go_before_the_cores_job() {
    let mut disk = Disk::new(Index(5), Some(record(1, 5)), None);
    let mut full = |limit: Index, _| Some(slice(limit.0));
    let pressing = Policy {
        slices_in_turn: 3,
        ..POLICY
    };
    disk.set_core(append(1, 6));
    let mut turns = Vec::new();
    for number in 2..10 {
        let job = next_job(&mut disk, pressing, ms(0), &mut full).unwrap();
        turns.push(if job.slice.is_some() { 's' } else { 'c' });
        if done(&mut disk, &job).core.is_some() {
            disk.set_core(append(number, 5 + number));
        }
    }
    assert_eq!(turns.iter().collect::<String>(), "sssc".repeat(2));
    let mut extra = || Some(Extra::Unpin);
    let mut turns = Vec::new();
    for number in 10..20 {
        let job = disk.next_job(pressing, ms(0), &mut full, &mut extra);
        let job = job.unwrap();
        turns.push(match (&job.extra, &job.slice) {
            (Some(_), _) => 'x',
            (None, Some(_)) => 's',
            (None, None) => 'c',
        });
        if done(&mut disk, &job).core.is_some() {
            disk.set_core(append(number, 5 + number));
        }
    }
    assert_eq!(turns.iter().collect::<String>(), "xcssscxcss");
}

#[test]
fn a_slice_stands_on_a_durable_record_or_brings_its_own() {
    let mut disk = Disk::new(Index(5), None, None);
    disk.record(record(1, 5), ms(0));
    let alone = next_job(&mut disk, FORCE, ms(0), &mut none()).unwrap();
    assert_eq!(commit(&alone), Some(5));
    assert!(alone.slice.is_none());
    assert_eq!(done(&mut disk, &alone), Finished::default());
    let mut some = |limit: Index, _| Some(slice(limit.0));
    let job = next_job(&mut disk, FORCE, ms(0), &mut some).unwrap();
    assert_eq!(commit(&job), Some(5), "written, but no sync has followed");
    done(&mut disk, &job);
    disk.set_core(append(1, 6));
    let job = next_job(&mut disk, POLICY, ms(0), &mut none()).unwrap();
    done(&mut disk, &job);
    let job = next_job(&mut disk, FORCE, ms(0), &mut some).unwrap();
    assert_eq!(commit(&job), None, "durable by now");
    assert_eq!(disk.checkpoint(), Index(5));
}

#[test]
fn without_any_record_there_is_no_slice() {
    let mut disk = Disk::new(Index(5), None, None);
    let mut never = |_: Index, _: bool| -> Option<Slice> { panic!("nothing is recorded") };
    assert!(next_job(&mut disk, FORCE, ms(0), &mut never).is_none());
}

#[test]
fn the_trees_stand_still_once_everything_is_in_them() {
    let mut disk = Disk::new(Index(5), Some(record(1, 5)), Some(slice(2)));
    disk.freeze(Index(5));
    assert!(!disk.is_frozen());
    let mut some = |_: Index, force: bool| force.then(|| slice(5));
    let job = next_job(&mut disk, POLICY, ms(0), &mut some).unwrap();
    assert!(!disk.is_frozen(), "the slice is on its way");
    done(&mut disk, &job);
    assert!(disk.is_frozen());
    assert_eq!(disk.checkpoint_slice(), Some(&slice(5)));
    assert!(next_job(&mut disk, FORCE, ms(0), &mut some).is_none());
    disk.thaw();
    assert!(next_job(&mut disk, FORCE, ms(0), &mut some).is_some());
}

#[test]
fn truncation_moves_the_end_of_the_log_back() {
    let job = Job {
        truncate_after: Some(Index(3)),
        ..Job::default()
    };
    assert_eq!(log_after(&job, Index(9)), (Index(3), true));
}
