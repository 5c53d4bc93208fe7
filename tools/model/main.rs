//! The shipped consensus code under a model checker: every state that three replicas reach within
//! bounds, every invariant in each. `docs/model.md` says what is bounded and what came of it.

#![allow(missing_docs)] // a program, not a library: the modules say what their items are for

mod checks;
mod mutants;
mod network;
mod options;
mod replica;
mod search;
mod store;
mod world;

use clap::Parser;
use options::{Bounds, Network};
use search::{Outcome, Plan};
use std::process::ExitCode;
use std::time::Duration;
use world::Start;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Explores every state of three replicas within the bounds, and checks every invariant in each.
///
/// Exit codes: 0 when every state was explored and nothing is broken, 1 when an invariant is
/// broken or the search itself failed, 2 when the time was over first.
#[derive(Parser, Debug)]
#[command(name = "model")]
struct Arguments {
    /// Highest term.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=8))]
    terms: u64,
    /// Commands proposed in all.
    #[arg(long, default_value_t = 1)]
    entries: u8,
    /// Crashes in all, each with a restart.
    #[arg(long, default_value_t = 0)]
    crashes: u8,
    /// Connections cut in all.
    #[arg(long, default_value_t = 0)]
    cuts: u8,
    /// How many messages at a time may be late, lost or doubled; or "any": all of them.
    #[arg(long, default_value = "0")]
    network: Network,
    /// Election values that a replica may draw.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    draws: u8,
    /// Where it begins.
    #[arg(long, value_enum, default_value_t = Start::Fresh)]
    start: Start,
    /// Ends after so many minutes, explored or not.
    #[arg(long)]
    minutes: Option<f64>,
    /// Switches this wrong variant on (needs the feature `mutants`).
    #[arg(long)]
    mutant: Option<String>,
    /// Runs every wrong variant that this model should find, each in bounds of its own.
    #[arg(long)]
    mutants: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Assertions of the shipped code are a property like others: the search says what failed.
    std::panic::set_hook(Box::new(|_| {}));
    if arguments.mutants {
        return mutants::gate();
    }
    let mutant = match arguments.mutant.as_deref().map(mutants::named).transpose() {
        Ok(mutant) => mutant,
        Err(reason) => {
            eprintln!("{reason}");
            return ExitCode::FAILURE;
        }
    };
    let plan = Plan {
        bounds: Bounds {
            terms: arguments.terms,
            entries: arguments.entries,
            crashes: arguments.crashes,
            cuts: arguments.cuts,
            network: arguments.network,
            draws: arguments.draws,
        },
        start: arguments.start,
        mutant,
        limit: arguments.minutes.map(|m| Duration::from_secs_f64(m * 60.0)),
    };
    match search::run(&plan, true) {
        Outcome::Holds(_) => ExitCode::SUCCESS,
        Outcome::Broken { .. } | Outcome::Trouble(_) => ExitCode::FAILURE,
        Outcome::Unfinished(_) => ExitCode::from(2),
    }
}
