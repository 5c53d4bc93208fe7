//! Redirects `sync_file_range` to `fdatasync`, for the whole binary.
//!
//! sled 0.34 flushes with `sync_file_range`, which neither writes the file's metadata nor tells
//! the disk to empty its cache: of 20 power cuts 8 reopened as an empty database without an error
//! (sled's issues 1351 and 1452). A definition in the binary takes precedence over the C library's,
//! so sled calls this one; it also orders sled's own reuse of segments. `SledStore` refuses to open
//! in a binary in which the redirect does not work.
//!
//! The only file of the library with unsafe code. It must never do anything but sync.
#![allow(unsafe_code)]

use crate::metrics::{Histogram, TIME_US};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

static CALLS: AtomicU64 = AtomicU64::new(0);
static TIMES: Histogram = Histogram::new(TIME_US);

/// How many times the redirect has called `fdatasync` in this process.
pub fn fdatasync_calls() -> u64 {
    CALLS.load(Ordering::Relaxed)
}

/// How long each fsync of this process's stores took, in microseconds: of the redirect, and of ours.
pub fn fsync_times() -> &'static Histogram {
    &TIMES
}

/// Counts the time of one fsync.
pub(super) fn timed<T>(sync: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = sync();
    TIMES.record(began.elapsed().as_micros() as u64);
    done
}

/// Stands in for the C library's function of this name; a wider promise than it gives.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(
    fd: libc::c_int,
    _offset: libc::off64_t,
    _bytes: libc::off64_t,
    _flags: libc::c_uint,
) -> libc::c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: fdatasync takes any number and reports a bad descriptor through errno, as the
    // function that this one replaces does.
    timed(|| unsafe { libc::fdatasync(fd) })
}
