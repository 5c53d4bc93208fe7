//! A short simulation, through the program that CI runs for longer.

use std::process::{Command, Output};

fn simulate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_simulate"))
        .args(arguments)
        .output()
        .expect("the binary was built for this test")
}

fn passes(arguments: &[&str]) -> String {
    let output = simulate(arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    said
}

/// A count that the program prints: a run in which nothing happened proves nothing.
fn count(said: &str, what: &str) -> u64 {
    let line = said
        .lines()
        .find(|line| line.ends_with(&format!(" {what}")));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.map_or(0, |number| number.parse().expect("a number"))
}

#[test]
fn a_few_seeds_of_three_replicas_pass_and_have_seen_faults() {
    let said = passes(&["--seeds", "150", "--first", "601", "--replicas", "3"]);
    assert!(count(&said, "messages acknowledged") > 1_000, "{said}");
    for what in [
        "kills",
        "kills inside a disk job",
        "handovers",
        "readmissions committed",
        "reads paused beyond an election timeout",
        "turns for a commit notice that waited",
        "stores rewritten",
        "snapshots installed",
        "accounts deleted",
    ] {
        assert!(count(&said, what) > 0, "no {what}\n{said}");
    }
}

#[test]
fn a_few_seeds_of_one_and_of_five_replicas_pass() {
    passes(&["--seeds", "20", "--replicas", "1"]);
    let said = passes(&["--seeds", "30", "--replicas", "5"]);
    assert!(count(&said, "writes acknowledged") > 500, "{said}");
}

#[test]
fn a_seed_is_the_same_run_for_ever() {
    let arguments = [
        "--seeds",
        "1",
        "--first",
        "7",
        "--replicas",
        "3",
        "--verbose",
    ];
    assert_eq!(passes(&arguments), passes(&arguments));
}

#[test]
fn an_unknown_fault_is_named() {
    let output = simulate(&["--faults", "los"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("\"los\""));
}
