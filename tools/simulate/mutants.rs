//! The mutation gate: every deliberately wrong variant of the protocol must be caught.
//!
//! First general seeds, 3 and 5 replicas in turn; for a variant that random seeds meet too rarely,
//! a directed generator: the same world with a schedule of its own, which the unmutated code
//! passes. A checker that finds nothing wrong in a wrong protocol is worth nothing.

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

/// The same.
#[cfg(not(feature = "mutants"))]
pub fn rates(only: &str, seeds: u64, jobs: usize) -> ExitCode {
    gate(only, seeds, jobs)
}

#[cfg(feature = "mutants")]
pub use with_variants::{gate, rates};

#[cfg(test)]
mod storage;

#[cfg(feature = "mutants")]
mod with_variants {
    use super::ExitCode;
    use crate::directed::{self, Generator};
    use crate::faults::FaultSet;
    use crate::run::{self, Directed};
    use crate::world::Options;
    use chat::consensus::Mutant;
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Events of the part with faults, as in the default run.
    const STEPS: u64 = 5_000;
    /// Most seeds of a directed generator.
    const DIRECTED_SEEDS: u64 = 500;
    /// General seeds of a variant that has a generator: those that are rarer are the generator's.
    const GENERAL_SEEDS_BESIDE: u64 = 300;
    /// Seeds of each directed generator that the unmutated code must pass.
    const UNMUTATED_SEEDS: u64 = 300;

    /// A caught variant: how many seeds it took, and what it broke.
    type Caught = (u64, &'static str);

    /// Runs the gate.
    pub fn gate(only: &str, max_seeds: u64, jobs: usize) -> ExitCode {
        let only = only.to_lowercase();
        let wanted = |m: &&Mutant| format!("{m:?}").to_lowercase().contains(&only);
        let mut survivors = 0;
        println!(
            "{:<22} {:<28} {:>6}  broken invariant",
            "variant", "caught by", "seeds"
        );
        for mutant in Mutant::ALL.iter().filter(wanted) {
            let name = format!("{mutant:?}");
            let generators: Vec<&Generator> = directed::for_mutant(*mutant).collect();
            let max_seeds = if generators.is_empty() {
                max_seeds
            } else {
                max_seeds.min(GENERAL_SEEDS_BESIDE)
            };
            if let Some((seeds, what)) = hunt(Some(*mutant), max_seeds, jobs, general, None) {
                println!("{name:<22} {:<28} {seeds:>6}  {what}", "general seeds");
                continue;
            }
            let found = generators.iter().find_map(|generator| {
                let options = |_| generator.options();
                let hit = hunt(
                    Some(*mutant),
                    DIRECTED_SEEDS,
                    jobs,
                    options,
                    Some(generator.make),
                );
                hit.map(|hit| (generator.name, hit))
            });
            if let Some((generator, (seeds, what))) = found {
                println!("{name:<22} {generator:<28} {seeds:>6}  {what}");
            } else {
                survivors += 1;
                println!(
                    "{name:<22} SURVIVES {max_seeds} general seeds and {} generators",
                    generators.len()
                );
            }
        }
        let broken = unmutated(&only, jobs);
        if survivors + broken == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// How many of so many seeds catch each variant: general ones, and those of its directed
    /// generators. Exit code 1 if nothing catches one.
    pub fn rates(only: &str, seeds: u64, jobs: usize) -> ExitCode {
        let only = only.to_lowercase();
        let wanted = |m: &&Mutant| format!("{m:?}").to_lowercase().contains(&only);
        let mut survivors = 0;
        println!(
            "{:<22} {:<28} {:>11}  broken invariants",
            "variant", "seeds", "caught"
        );
        for mutant in Mutant::ALL.iter().filter(wanted) {
            let name = format!("{mutant:?}");
            let general_rate = rate(*mutant, seeds, jobs, general, None);
            let mut caught = show(&name, "general seeds", seeds, &general_rate);
            for generator in directed::for_mutant(*mutant) {
                let options = |_| generator.options();
                let seeds = seeds.min(DIRECTED_SEEDS);
                let of_it = rate(*mutant, seeds, jobs, options, Some(generator.make));
                caught += show(&name, generator.name, seeds, &of_it);
            }
            survivors += u64::from(caught == 0);
        }
        if survivors == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// How often each invariant was the first to break.
    type Broken = BTreeMap<&'static str, u64>;

    fn show(mutant: &str, by: &str, seeds: u64, broken: &Broken) -> u64 {
        let caught: u64 = broken.values().sum();
        let mut most: Vec<(&u64, &&str)> = broken.iter().map(|(what, n)| (n, what)).collect();
        most.sort_unstable_by(|a, b| b.cmp(a));
        let most: Vec<String> = most
            .iter()
            .map(|(n, what)| format!("{what} ({n})"))
            .collect();
        let rate = format!("{caught}/{seeds}");
        println!("{mutant:<22} {by:<28} {rate:>11}  {}", most.join(", "));
        caught
    }

    fn rate(
        mutant: Mutant,
        seeds: u64,
        jobs: usize,
        options: impl Fn(u64) -> Options + Sync,
        directed: Option<Directed>,
    ) -> Broken {
        let next = AtomicU64::new(1);
        let broken: Mutex<Broken> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    Mutant::activate(Some(mutant));
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed > seeds {
                            return;
                        }
                        let verdict = run::run(seed, &options(seed), directed);
                        if let Some(violation) = verdict.violation
                            && let Ok(mut broken) = broken.lock()
                        {
                            *broken.entry(violation.invariant).or_default() += 1;
                        }
                    }
                });
            }
        });
        broken.into_inner().unwrap_or_default()
    }

    fn general(seed: u64) -> Options {
        Options {
            replicas: if seed.is_multiple_of(2) { 5 } else { 3 },
            faults: FaultSet::ALL,
            steps: STEPS,
            trace: false,
        }
    }

    /// The directed generators that were asked for, without any variant: how many fail.
    fn unmutated(only: &str, jobs: usize) -> usize {
        let mut broken = 0;
        let asked = |g: &&Generator| {
            only.is_empty()
                || g.mutants
                    .iter()
                    .any(|m| format!("{m:?}").to_lowercase().contains(only))
        };
        for generator in directed::GENERATORS.iter().filter(asked) {
            let options = |_| generator.options();
            match hunt(None, UNMUTATED_SEEDS, jobs, options, Some(generator.make)) {
                None => println!(
                    "{}: {UNMUTATED_SEEDS} seeds pass without a variant",
                    generator.name
                ),
                Some((seed, what)) => {
                    broken += 1;
                    println!(
                        "{}: seed {seed} FAILS without a variant: {what}",
                        generator.name
                    );
                }
            }
        }
        broken
    }

    /// The first seed that is caught, if one is.
    fn hunt(
        mutant: Option<Mutant>,
        seeds: u64,
        jobs: usize,
        options: impl Fn(u64) -> Options + Sync,
        directed: Option<Directed>,
    ) -> Option<Caught> {
        let next = AtomicU64::new(1);
        let first: Mutex<Option<Caught>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    Mutant::activate(mutant);
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        let Ok(found) = first.lock().map(|found| *found) else {
                            return;
                        };
                        if seed > seeds || found.is_some_and(|(at, _)| at < seed) {
                            return;
                        }
                        let verdict = run::run(seed, &options(seed), directed);
                        if let Some(violation) = verdict.violation
                            && let Ok(mut found) = first.lock()
                            && found.is_none_or(|(at, _)| seed < at)
                        {
                            *found = Some((seed, violation.invariant));
                        }
                    }
                });
            }
        });
        first.into_inner().ok().flatten()
    }
}
