//! Runs the real replica in a simulated world, many seeds long, and checks every invariant at
//! every step. See `docs/simulation.md`.

#![allow(missing_docs)] // a program, not a library: the modules say what their items are for

mod answers;
mod checker;
mod checker_io;
mod checker_stores;
mod clients;
mod directed;
mod disk;
mod faults;
mod harm;
mod mutants;
mod network;
mod odd;
mod processes;
mod rng;
mod run;
mod world;
mod wrong;

use clap::Parser;
use directed::Generator;
use faults::FaultSet;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use world::Options;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the real replica under a seeded scheduler with faults, and checks every invariant.
#[derive(Parser, Debug)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many replicas: 1, 3 or 5. Without it, each in turn.
    #[arg(long, value_parser = ["1", "3", "5"])]
    replicas: Option<String>,
    /// Which faults may happen: names separated by commas, or "all", or "none".
    #[arg(long, default_value = "all")]
    faults: String,
    /// Events in the part of each run that has faults.
    #[arg(long, default_value_t = 5_000)]
    steps: u64,
    /// Print every event.
    #[arg(long)]
    verbose: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Run a directed generator instead of random faults: its name, or a part of it.
    #[arg(long)]
    directed: Option<String>,
    /// Check that every deliberately wrong variant of the protocol is caught.
    #[arg(long)]
    mutants: bool,
    /// Only variants whose name contains this.
    #[arg(long, default_value = "")]
    mutant: String,
    /// With --mutants: instead of the first seed that is caught, how many of so many are.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Most general seeds tried for each variant; at most 300 for one that has a directed generator.
    #[arg(long, default_value_t = 2_000)]
    max_seeds: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let faults = match FaultSet::parse(&arguments.faults) {
        Ok(faults) => faults,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    run::silence_panics();
    if arguments.mutants {
        return match arguments.rate {
            Some(seeds) => mutants::rates(&arguments.mutant, seeds, arguments.jobs),
            None => mutants::gate(&arguments.mutant, arguments.max_seeds, arguments.jobs),
        };
    }
    if let Some(name) = &arguments.directed {
        let Some(generator) = directed::find(name) else {
            let names: Vec<&str> = directed::GENERATORS.iter().map(|g| g.name).collect();
            eprintln!("no generator {name:?}; there are: {}", names.join("; "));
            return ExitCode::FAILURE;
        };
        let good = campaign(&arguments, &generator.options(), Some(generator));
        return if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let sizes = arguments
        .replicas
        .as_ref()
        .and_then(|n| n.parse().ok())
        .map_or_else(|| vec![1, 3, 5], |n| vec![n]);
    let mut good = true;
    for replicas in sizes {
        let options = Options {
            replicas,
            faults,
            steps: arguments.steps,
            trace: false,
        };
        good &= campaign(&arguments, &options, None);
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs the seeds for one size of cluster.
fn campaign(arguments: &Arguments, options: &Options, directed: Option<&Generator>) -> bool {
    if arguments.verbose {
        return verbose(arguments, options, directed);
    }
    let make = directed.map(|d| d.make);
    let next = AtomicU64::new(arguments.first);
    let end = arguments.first.saturating_add(arguments.seeds);
    let failed = AtomicBool::new(false);
    let totals: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                let mut mine: BTreeMap<&'static str, u64> = BTreeMap::new();
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let verdict = run::run(seed, options, make);
                    for (what, times) in verdict.seen {
                        *mine.entry(what).or_default() += times;
                    }
                    *mine.entry("events").or_default() += verdict.events;
                    *mine.entry("virtual seconds").or_default() += verdict.virtual_us / 1_000_000;
                    let slowest = mine.entry("slowest recovery, virtual ms").or_default();
                    *slowest = (*slowest).max(verdict.healed_us / 1_000);
                    if verdict.violation.is_some() && !failed.swap(true, Ordering::Relaxed) {
                        report(seed, arguments, options, directed);
                    }
                }
                merge(&totals, mine);
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let ran = next.load(Ordering::Relaxed).min(end) - arguments.first;
    if failed.load(Ordering::Relaxed) {
        return false;
    }
    println!(
        "{} replicas: {ran} seeds, none failing, in {seconds:.1} s ({:.0} a second)",
        options.replicas,
        ran as f64 / seconds
    );
    if let Ok(totals) = totals.lock() {
        for (what, times) in totals.iter() {
            println!("  {times:>12} {what}");
        }
    }
    true
}

fn merge(totals: &Mutex<BTreeMap<&'static str, u64>>, mine: BTreeMap<&'static str, u64>) {
    let Ok(mut totals) = totals.lock() else {
        return;
    };
    for (what, times) in mine {
        let total = totals.entry(what).or_default();
        if what.starts_with("slowest") {
            *total = times.max(*total);
        } else {
            *total += times;
        }
    }
}

/// Says what failed, what came before, and how to see it again.
fn report(seed: u64, arguments: &Arguments, options: &Options, directed: Option<&Generator>) {
    let (verdict, lines) = run::replay(seed, options, directed.map(|d| d.make), false);
    let Some(violation) = verdict.violation else {
        eprintln!("seed {seed} failed once and not again: the run is not deterministic");
        return;
    };
    eprintln!("last events:");
    for line in lines {
        eprintln!("{line}");
    }
    eprintln!();
    eprintln!(
        "seed {seed}, {} replicas: VIOLATED: {}",
        options.replicas, violation.invariant
    );
    eprintln!("{}", violation.what);
    eprintln!(
        "replay: {}",
        replay_command(seed, arguments, options, directed)
    );
}

fn replay_command(
    seed: u64,
    arguments: &Arguments,
    options: &Options,
    directed: Option<&Generator>,
) -> String {
    let start = format!("cargo run --release --bin simulate -- --seeds 1 --first {seed}");
    match directed {
        Some(generator) => format!("{start} --directed {:?} --verbose", generator.name),
        None => format!(
            "{start} --replicas {} --faults {} --steps {} --verbose",
            options.replicas, arguments.faults, options.steps
        ),
    }
}

fn verbose(arguments: &Arguments, options: &Options, directed: Option<&Generator>) -> bool {
    let mut good = true;
    for seed in arguments.first..arguments.first.saturating_add(arguments.seeds) {
        println!("seed {seed}, {} replicas", options.replicas);
        let (verdict, _) = run::replay(seed, options, directed.map(|d| d.make), true);
        for (what, times) in &verdict.seen {
            println!("  {times:>12} {what}");
        }
        match verdict.violation {
            Some(violation) => {
                good = false;
                println!("VIOLATED: {}\n{}", violation.invariant, violation.what);
            }
            None => println!("no violation in {} events", verdict.events),
        }
    }
    good
}
