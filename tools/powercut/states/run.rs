//! Tries the cases of one seed after the other, and keeps what should not be.

use super::cases::{Case, Cases, Progress};
use super::child::judge_one;
use super::judge::{Expected, Judge, Oracle};
use super::lies::{Answer, Liar, answer};
use super::platter::Platter;
use super::recording::{Scratch, record, record_open};
use super::script::Script;
use super::trace::Trace;
use crate::Outcome;
use crate::preload::Preload;
use anyhow::Context as _;
use clap::Args;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The library that records.
const RECORDER: &str = include_str!("recorder.c");
/// So many crashes of each recovery.
const RECOVERY_STATES: usize = 100;
/// So many findings are kept with their disks; more are told.
const KEPT_MAX: usize = 10;

/// Every state that a crash may leave, on the real store. Needs a C compiler.
#[derive(Args, Clone)]
pub struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// So many of them.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Goes on with more seeds for so long.
    #[arg(long)]
    minutes: Option<f64>,
    /// Of each seed's states at most so many, evenly chosen.
    #[arg(long)]
    states: Option<usize>,
    /// Faults of a disk that lies, on each seed's last state.
    #[arg(long, default_value_t = 200)]
    lies: usize,
    /// So many of the states are opened under the recorder, and each moment of that is a crash, too.
    #[arg(long, default_value_t = 20)]
    recoveries: usize,
    /// Leaves syncs out of the record: the run must then find losses, or it is blind.
    #[arg(long, value_parser = ["data", "directories"])]
    leave_out: Option<String>,
    /// Where disks are kept that show something.
    #[arg(long, default_value = "target/crash-states")]
    keep: PathBuf,
    /// Opens a disk again that was kept.
    #[arg(long, value_name = "DIRECTORY")]
    again: Option<PathBuf>,
}

/// What was seen.
#[derive(Default)]
struct Counts {
    good: usize,
    answers: BTreeMap<Answer, usize>,
    findings: usize,
}

/// Tries all seeds that were asked for.
pub fn explore(arguments: &Arguments) -> anyhow::Result<Outcome> {
    if let Some(kept) = &arguments.again {
        return again(kept);
    }
    let started = Instant::now();
    let preload = Preload::build(RECORDER)?;
    let scratch = Scratch::new()?;
    let (mut total, mut findings) = (0, 0);
    for number in 0.. {
        let time = arguments
            .minutes
            .map(|minutes| Duration::from_secs_f64(minutes * 60.0));
        let more = time.map_or(number < arguments.seeds, |time| started.elapsed() < time);
        if !more {
            break;
        }
        let seed = arguments.seed + number;
        let counts = try_seed(arguments, seed, &scratch, &preload.library())?;
        total += counts.good + counts.findings;
        findings += counts.findings;
    }
    println!(
        "{total} states, {findings} findings, {:.1} s",
        started.elapsed().as_secs_f64()
    );
    Ok(if findings == 0 {
        Outcome::Good
    } else {
        Outcome::Bad
    })
}

fn try_seed(
    arguments: &Arguments,
    seed: u64,
    scratch: &Scratch,
    library: &Path,
) -> anyhow::Result<Counts> {
    let script = Script::new(seed, true);
    let trace = record(
        scratch,
        library,
        (seed, &script),
        arguments.leave_out.as_deref(),
    )?;
    let cases = Cases::of(&trace, seed);
    let shown = format!(
        "seed {seed}: {} steps, {} operations (all subsets at {} points, samples at {}; at most {} \
         not durable)",
        script.steps.len(),
        trace.operations.len(),
        cases.exhaustive,
        cases.sampled,
        cases.unsynced_max
    );
    let found = cases.all.len();
    let chosen = evenly(&cases.all, arguments.states.unwrap_or(found));
    let session = Session {
        arguments,
        seed,
        scratch,
        library,
        trace: &trace,
        counts: Mutex::default(),
    };
    let oracle = Oracle::new(&script);
    drop(script);
    let expected = |progress| oracle.expected(progress);
    on_all_cores(|worker, next| session.crashes(worker, (&chosen, &expected), next))?;
    let mut counts = session.taken();
    let crashes = counts.good;
    let mut recoveries = 0;
    if arguments.leave_out.is_none() {
        for case in evenly(&chosen, arguments.recoveries) {
            counts.add(session.recovery(case, &oracle)?);
        }
        recoveries = counts.good - crashes;
        on_all_cores(|worker, next| session.lies(worker, &oracle, next))?;
        counts.add(session.taken());
    }
    println!(
        "{shown}: {} of {found} states, {crashes} as they should be; {recoveries} of crashes while \
         they were opened; lies: {:?}; {} findings",
        chosen.len(),
        counts.answers,
        counts.findings
    );
    Ok(counts)
}

/// At most so many, from all over.
fn evenly<T>(all: &[T], count: usize) -> Vec<&T> {
    let count = count.min(all.len());
    (0..count).map(|at| &all[at * all.len() / count]).collect()
}

/// Does the same on every core. What is next is counted for all of them.
fn on_all_cores(
    work: impl Fn(usize, &AtomicUsize) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, work) = (AtomicUsize::new(0), &work);
    std::thread::scope(|scope| {
        let next = &next;
        let workers: Vec<_> = (0..cores)
            .map(|worker| scope.spawn(move || work(worker, next)))
            .collect();
        for worker in workers {
            let done = worker.join();
            done.map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok(())
    })
}

/// One seed's trace, and what comes of it.
struct Session<'a> {
    arguments: &'a Arguments,
    seed: u64,
    scratch: &'a Scratch,
    library: &'a Path,
    trace: &'a Trace,
    counts: Mutex<Counts>,
}

impl Counts {
    fn add(&mut self, more: Self) {
        self.good += more.good;
        self.findings += more.findings;
        for (answer, count) in more.answers {
            *self.answers.entry(answer).or_default() += count;
        }
    }
}

impl Session<'_> {
    fn taken(&self) -> Counts {
        std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens what a crash left, and crashes at each moment of that.
    fn recovery(&self, case: &Case, oracle: &Oracle) -> anyhow::Result<Counts> {
        let trace = record_open(self.scratch, self.library, |root| {
            let mut platter = Platter::new(self.trace);
            platter.play_to(case.point);
            platter.build(&case.fate, root)
        })?;
        let cases = Cases::of(&trace, self.seed);
        let session = Session {
            trace: &trace,
            counts: Mutex::default(),
            ..*self
        };
        let chosen = evenly(&cases.all, RECOVERY_STATES);
        // Nobody is told anything by an open.
        let expected = |_| oracle.expected(case.progress[0]);
        on_all_cores(|worker, next| session.crashes(worker, (&chosen, &expected), next))?;
        Ok(session.taken())
    }

    fn place(&self, worker: usize) -> anyhow::Result<(PathBuf, Judge)> {
        let place = self.scratch.join(&format!("worker-{worker}"));
        std::fs::create_dir_all(&place)?;
        let judge = Judge::new(self.library, place.join("said"));
        Ok((place.join("disk"), judge))
    }

    /// Every case, by its point.
    fn crashes(
        &self,
        worker: usize,
        (cases, expected): (&[&Case], &(impl Fn(Progress) -> Expected + Sync)),
        next: &AtomicUsize,
    ) -> anyhow::Result<()> {
        let (disk, mut judge) = self.place(worker)?;
        let mut platter = Platter::new(self.trace);
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            platter.play_to(case.point);
            empty(&disk)?;
            platter.build(&case.fate, &disk)?;
            let verdict = judge.judge(&disk.join("data"))?;
            let contradiction = case.progress.iter().find_map(|progress| {
                let expected = expected(*progress);
                let wrong = match &verdict {
                    Ok(verdict) => expected.contradicted_by(verdict),
                    Err(ended) => Some(ended.clone()),
                };
                wrong.map(|wrong| (expected, wrong))
            });
            let Some((expected, wrong)) = contradiction else {
                self.count(|counts| counts.good += 1);
                continue;
            };
            let about = format!("{}: {wrong}", self.told(case));
            empty(&disk)?;
            platter.build(&case.fate, &disk)?;
            self.keep(&about, &expected, &disk)?;
        }
        Ok(())
    }

    fn lies(&self, worker: usize, oracle: &Oracle, next: &AtomicUsize) -> anyhow::Result<()> {
        let (disk, mut judge) = self.place(worker)?;
        let liar = Liar::new(self.trace);
        let (at_the_end, mut ever) = (oracle.at_the_end(), oracle.ever());
        // The newest promise is there twice, so that no one fault may take it.
        ever.promises.clone_from(&at_the_end.promises);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.arguments.lies {
                return Ok(());
            }
            let mut random = StdRng::seed_from_u64(self.seed << 20 | number as u64);
            let Some(lie) = liar.draw(&mut random) else {
                continue;
            };
            empty(&disk)?;
            liar.build(&lie, &disk)?;
            let verdict = judge.judge(&disk.join("data"))?;
            let answer = verdict.and_then(|verdict| answer(&verdict, &at_the_end, &ever));
            match answer {
                Ok(answer) => self.count(|counts| {
                    counts.good += 1;
                    *counts.answers.entry(answer).or_default() += 1;
                }),
                Err(wrong) => {
                    empty(&disk)?;
                    liar.build(&lie, &disk)?;
                    self.keep(&format!("{lie}: {wrong}"), &ever, &disk)?;
                }
            }
        }
    }

    /// A case, in words.
    fn told(&self, case: &Case) -> String {
        let named = |number: &usize| {
            let operation = &self.trace.operations[*number];
            format!("{number} ({operation})")
        };
        let lost: Vec<_> = case.fate.lost.iter().map(named).collect();
        let torn = case.fate.torn.iter();
        let torn: Vec<_> = torn
            .map(|(number, tear)| format!("{} by {tear:?}", named(number)))
            .collect();
        let last = case
            .point
            .checked_sub(1)
            .map_or_else(|| "nothing".to_owned(), |last| named(&last));
        format!(
            "after {last}, without [{}], torn [{}]",
            lost.join(", "),
            torn.join(", ")
        )
    }

    fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A finding: the disk as it was before it was opened, what may be found on it, and a word.
    fn keep(&self, about: &str, expected: &Expected, disk: &Path) -> anyhow::Result<()> {
        static KEPT: AtomicUsize = AtomicUsize::new(0);
        let number = 1 + KEPT.fetch_add(1, Ordering::Relaxed);
        self.count(|counts| counts.findings += 1);
        println!("FINDING, seed {}: {about}", self.seed);
        if number > KEPT_MAX {
            return Ok(());
        }
        let kept = self.arguments.keep.join(format!("{}-{number}", self.seed));
        empty(&kept)?;
        copy(disk, &kept.join("disk"))?;
        std::fs::write(kept.join("about"), format!("{about}\n"))?;
        std::fs::write(kept.join("expected"), serde_json::to_vec(expected)?)?;
        println!("  again: powercut states --again {}", kept.display());
        Ok(())
    }
}

/// Opens a copy of a disk that was kept.
fn again(kept: &Path) -> anyhow::Result<Outcome> {
    print!("{}", std::fs::read_to_string(kept.join("about"))?);
    let expected: Expected = serde_json::from_slice(&std::fs::read(kept.join("expected"))?)?;
    let scratch = Scratch::new()?;
    copy(&kept.join("disk"), &scratch.join("disk"))?;
    let verdict = judge_one(&scratch.join("disk").join("data"));
    println!("{verdict:#?}");
    Ok(match expected.contradicted_by(&verdict) {
        None => {
            println!("nothing is wrong with that");
            Outcome::Good
        }
        Some(wrong) => {
            println!("{wrong}");
            Outcome::Bad
        }
    })
}

fn empty(directory: &Path) -> anyhow::Result<()> {
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let to = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &to)?;
        } else {
            std::fs::copy(&path, &to)?;
        }
    }
    Ok(())
}
