//! The mutation gate.

use std::process::ExitCode;

/// Says how to build it.
#[cfg(not(feature = "mutants"))]
pub fn gate(_only: &str, _max_seeds: u64, _jobs: usize) -> ExitCode {
    eprintln!(
        "this binary has no wrong variants; build one that has:\n  cargo run --release --features \
         mutants --bin simulate -- --mutants"
    );
    ExitCode::FAILURE
}
