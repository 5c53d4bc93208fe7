//! The demo (to come).

use std::process::ExitCode;

/// How the demo runs.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the demo.
pub fn main(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the demo is not built yet")
}
