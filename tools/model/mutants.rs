//! Deliberately wrong variants of the protocol: a model that finds nothing wrong in them would be
//! worth nothing.

use crate::options::{Bounds, Network};
use crate::search::{Outcome, Plan, run};
use crate::world::Start;
use chat::consensus::Mutant;
use std::process::ExitCode;
use std::time::Duration;

/// What is found in the smallest bounds, with one command and no crash, and every message at once.
const AT_ONCE: [Mutant; 6] = [
    Mutant::DecideLocally,
    Mutant::ForgetGrant,
    Mutant::CommitBeforeMajority,
    Mutant::CountOwnEarly,
    Mutant::StayPrimary,
    Mutant::AckBeforeFsync,
];

/// The variant of this name.
pub fn named(name: &str) -> Result<Mutant, String> {
    if !cfg!(feature = "mutants") {
        return Err("no wrong variants here: build with --features model,mutants".to_owned());
    }
    let wanted = |mutant: &&Mutant| format!("{mutant:?}").eq_ignore_ascii_case(name);
    let found = Mutant::ALL.iter().find(wanted).copied();
    found.ok_or_else(|| format!("there is no wrong variant {name}"))
}

/// Runs all that are found here, each until it breaks something.
pub fn gate() -> ExitCode {
    if !cfg!(feature = "mutants") {
        eprintln!("no wrong variants here: build with --features model,mutants");
        return ExitCode::FAILURE;
    }
    let mut survivors = 0;
    for mutant in AT_ONCE {
        let name = format!("{mutant:?}");
        match run(&plan(mutant), false) {
            Outcome::Broken { states, what } => println!("{name:<22} {states:>9}  {what}"),
            Outcome::Trouble(what) => {
                println!("{name:<22} the search itself failed: {what}");
                survivors += 1;
            }
            Outcome::Holds(states) | Outcome::Unfinished(states) => {
                println!("{name:<22} SURVIVES {states} states");
                survivors += 1;
            }
        }
    }
    if survivors > 0 {
        return ExitCode::FAILURE;
    }
    println!("every wrong variant was found");
    ExitCode::SUCCESS
}

fn plan(mutant: Mutant) -> Plan {
    Plan {
        bounds: Bounds {
            terms: 2,
            entries: 1,
            crashes: 0,
            cuts: 0,
            network: Network::Late(0),
            draws: 1,
        },
        start: Start::Fresh,
        mutant: Some(mutant),
        // Seconds are enough; a machine may be slow.
        limit: Some(Duration::from_secs(300)),
    }
}
