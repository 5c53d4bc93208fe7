//! The fuzz targets on a stable compiler: valid inputs of each decoder, changed at random.
//!
//! `cargo run --release --example fuzz -- --minutes 10`. With a nightly compiler and cargo-fuzz the
//! same targets are in `tools/fuzz`, with the coverage as a guide. An input that panics, takes more
//! than ten seconds or a gigabyte of memory is kept in a file; `--replay FILE` runs it again.

mod change;
mod forms;

use anyhow::{Context as _, bail};
use chat::fuzzing::{TARGETS, Target};
use clap::Parser;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A target runs for so long before it is the next one's turn.
const TURN: Duration = Duration::from_millis(50);
/// An input that takes longer hangs.
const HANG: Duration = Duration::from_secs(10);
/// More memory than this is absurd, in KiB: no input has more than 64 KiB.
const MEMORY_KIB_MAX: u64 = 1024 * 1024;
/// So much address space, and no more: an allocation beyond ends the process at once.
const ADDRESSES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Between two looks at time and memory.
const LOOK: Duration = Duration::from_millis(50);

/// Feeds every decoder with valid inputs that were changed at random.
#[derive(Parser)]
struct Args {
    /// How long.
    #[arg(long, default_value = "1")]
    minutes: f64,
    /// Only targets whose name contains this.
    #[arg(long, default_value = "")]
    target: String,
    /// The same inputs again, as far as the time allows.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs one input from a file, to the target that the file is named after.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Writes the valid inputs, a directory for each target: a corpus for cargo-fuzz.
    #[arg(long, value_name = "DIR")]
    write_corpus: Option<PathBuf>,
    /// Where inputs are kept that show a defect.
    #[arg(long, value_name = "DIR", default_value = "target/fuzz-defects")]
    defects: PathBuf,
}

/// What is running, for whoever watches.
type Running = Arc<Mutex<Option<(&'static str, Vec<u8>, Instant)>>>;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    if let Some(file) = &args.replay {
        return replay(file);
    }
    let wanted = |target: &&Target| target.name.contains(&args.target);
    let targets: Vec<&'static Target> = TARGETS.iter().filter(wanted).collect();
    if targets.is_empty() {
        bail!("no target's name contains {:?}", args.target);
    }
    if let Some(directory) = &args.write_corpus {
        return write_corpus(directory, &targets);
    }
    let limit = Rlimit {
        current: Some(ADDRESSES_MAX),
        maximum: getrlimit(Resource::As).maximum,
    };
    setrlimit(Resource::As, limit).context("cannot limit the memory")?;
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let running = Running::default();
    watch(&running, &args.defects);
    let counts = feed(args, &targets, seed, &running)?;
    for (name, count) in &counts {
        println!("{name:>12} {count:>10} inputs");
    }
    let sum: u64 = counts.values().sum();
    println!("{sum} inputs to {} targets: no defect", targets.len());
    Ok(true)
}

/// Until the time is up; ends the process at a defect.
fn feed(
    args: &Args,
    targets: &[&'static Target],
    seed: u64,
    running: &Running,
) -> anyhow::Result<BTreeMap<&'static str, u64>> {
    let until = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    let mut counts = BTreeMap::new();
    let mut corpora: Vec<(Vec<Vec<u8>>, SmallRng)> = Vec::new();
    for (number, target) in (0..).zip(targets) {
        let rng = SmallRng::seed_from_u64(seed.wrapping_add(number));
        corpora.push(((target.seeds)(), rng));
    }
    while Instant::now() < until {
        for (target, (seeds, rng)) in targets.iter().zip(&mut corpora) {
            let turn = Instant::now() + TURN;
            while Instant::now() < turn {
                let input = change::changed(seeds, rng);
                *lock(running) = Some((target.name, input.clone(), Instant::now()));
                if std::panic::catch_unwind(|| (target.run)(&input)).is_err() {
                    let file = keep(&args.defects, target.name, &input)?;
                    bail!("{}: a panic; --replay {}", target.name, file.display());
                }
                *counts.entry(target.name).or_default() += 1;
            }
        }
    }
    *lock(running) = None;
    Ok(counts)
}

/// Ends the process when an input hangs or takes too much memory.
fn watch(running: &Running, defects: &Path) {
    let (running, defects) = (Arc::clone(running), defects.to_owned());
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(LOOK);
            let Some((name, input, since)) = lock(&running).clone() else {
                continue;
            };
            let resident = resident_kib();
            let what = if since.elapsed() > HANG {
                format!("hangs for {HANG:?}")
            } else if resident > MEMORY_KIB_MAX {
                format!("takes {} MiB of memory", resident / 1024)
            } else {
                continue;
            };
            let file = keep(&defects, name, &input);
            eprintln!("fuzz: {name}: it {what}; kept as {file:?}");
            std::process::exit(1);
        }
    });
}

/// Of this process; 0 where it is not told.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    number.unwrap_or(0)
}

fn keep(directory: &Path, name: &str, input: &[u8]) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let hash = blake3::hash(input).to_hex();
    let file = directory.join(format!("{name}-{}", &hash[..12]));
    std::fs::write(&file, input).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn replay(file: &Path) -> anyhow::Result<bool> {
    let input = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let name = name.rsplit_once('-').map_or(&*name, |(name, _)| name);
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.with_context(|| format!("there is no target {name}"))?;
    let began = Instant::now();
    (target.run)(&input);
    println!("{name}: no defect, {:.3} s", began.elapsed().as_secs_f64());
    Ok(true)
}

fn write_corpus(directory: &Path, targets: &[&'static Target]) -> anyhow::Result<bool> {
    for target in targets {
        for seed in (target.seeds)() {
            keep(&directory.join(target.name), target.name, &seed)?;
        }
    }
    Ok(true)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
