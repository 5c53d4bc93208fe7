//! Power cuts on a real file system: twenty while a store writes batches at their full size and one
//! hot recipient, and eight under a whole replica with clients. Without root: states that a crash may
//! leave on a disk that is played. And both with the syncs left out, which must be noticed.

mod skips;

use std::process::{Command, Output};

fn powercut(arguments: &[&str]) -> Option<Output> {
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|o| o.stdout == b"0\n");
    if !root {
        skips::skip("power-cuts", "they need root");
        return None;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_powercut"))
        .args(arguments)
        .output()
        .expect("the tool starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(2) && errors.contains("mount failed") {
        skips::skip(
            "power-cuts",
            &format!("they need loop mounts ({})", errors.trim()),
        );
        return None;
    }
    println!("{}{errors}", String::from_utf8_lossy(&output.stdout));
    Some(output)
}

#[test]
fn full_batches_that_were_synced_survive_twenty_power_cuts() {
    if let Some(output) = powercut(&["--store-only", "--cuts", "20"]) {
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn what_a_replica_acknowledged_survives_eight_power_cuts() {
    if let Some(output) = powercut(&["--cuts", "8"]) {
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn without_the_sync_the_same_cuts_lose_something() {
    if let Some(output) = powercut(&["--cuts", "2", "--without-sync"]) {
        assert_eq!(output.status.code(), Some(1));
    }
}

/// `None`: there is no C compiler for the library that records.
fn states(arguments: &[&str]) -> Option<Output> {
    if let Err(error) = Command::new("cc").arg("--version").output() {
        skips::skip("compiler", &format!("there is no C compiler ({error})"));
        return None;
    }
    let keep = concat!(env!("CARGO_TARGET_TMPDIR"), "/crash-states");
    let output = Command::new(env!("CARGO_BIN_EXE_powercut"))
        .args(["states", "--keep", keep])
        .args(arguments)
        .output()
        .expect("the tool starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{}{errors}", String::from_utf8_lossy(&output.stdout));
    Some(output)
}

#[test]
fn what_a_crash_at_any_moment_leaves_is_what_was_reported() {
    let slice = ["--states", "300", "--recoveries", "2", "--lies", "60"];
    if let Some(output) = states(&slice) {
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn a_sync_that_is_left_out_shows_in_what_a_crash_leaves() {
    for left_out in ["data", "directories"] {
        if let Some(output) = states(&["--states", "150", "--leave-out", left_out]) {
            assert_eq!(output.status.code(), Some(1), "{left_out}");
        }
    }
}
