//! Real replicas under real faults, real clients, and a judge of what the clients were told.
//!
//! Each replica is a `chat-server` process on a machine of its own (a network namespace) with a
//! disk of its own (a file system in a file). A schedule of faults that depends on the seed alone
//! is worked through, while clients create and delete accounts, log in and out, change passwords,
//! send, look into inboxes and listen, through random replicas. Every operation is recorded with its times
//! and its outcome; afterwards the record is compared with what the replicas hold.
//!
//! The schedule is the same for a seed; what comes of it is not: real processes are not a
//! simulation. Exit code 0: nothing is wrong; 1: something is; 2: it could not run.

mod check;
mod clients;
mod disk;
mod ending;
mod faults;
mod harm;
mod history;
mod measure;
mod nemesis;
mod network;
mod plot;
#[path = "../../src/bin/chat-server/demo/ports.rs"]
mod ports;
#[path = "../programs.rs"]
mod programs;
mod replicas;
mod report;
#[path = "../simulate/rng.rs"]
#[allow(dead_code)]
mod rng;
mod upkeep;

use anyhow::{Context as _, Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, ValueEnum as _};
use clients::{Crowd, History, Phase, arena, guests, talk};
use ending::Tasks;
use faults::{Kind, Schedule};
use nemesis::Nemesis;
use network::Network;
use replicas::Replicas;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

/// Accounts that are fought over at once.
const FIGHTS: usize = 2;

/// Real replicas under a nemesis, and a judge of what their clients were told
#[derive(Parser)]
#[command(name = "nemesis")]
struct Arguments {
    /// How long faults are made
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// How many
    #[arg(long, default_value = "3", value_parser = replicas_parser())]
    replicas: u16,
    /// Kinds of faults [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Vec<Kind>,
    /// Of the schedule [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Messages a second
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Writes report.txt and report.html here
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// The server [default: the one beside this program, which cargo builds if it runs this one]
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// Proxied links, also where namespaces can be made
    #[arg(long)]
    proxies: bool,
    /// The server's own limits for its log and its store: in a short run nothing is cut or rewritten then
    #[arg(long)]
    default_limits: bool,
    /// Keeps the replicas' directories, also when nothing was found
    #[arg(long)]
    keep: bool,
}

/// What is run, and what the schedule's bounds are made for.
fn replicas_parser() -> impl TypedValueParser<Value = u16> {
    PossibleValuesParser::new(["3", "5"]).try_map(|number| number.parse::<u16>())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the executor")
        .and_then(|runtime| runtime.block_on(run_or_stop(arguments)));
    result.unwrap_or_else(|error| {
        eprintln!("nemesis: {error:#}");
        ExitCode::from(2)
    })
}

/// Everything that was made is removed when the run is dropped, also by a signal or a panic.
async fn run_or_stop(arguments: Arguments) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = run(arguments) => done,
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

async fn run(mut arguments: Arguments) -> Result<ExitCode> {
    if arguments.faults.is_empty() {
        arguments.faults = Kind::value_variants().to_vec();
    }
    let seed = arguments
        .seed
        .unwrap_or_else(|| rand::random_range(0..1_000_000));
    let command = command_line(&arguments, seed);
    println!("{command}");
    let home = Home::new()?;
    let (mut nemesis, notes) = prepare(&arguments, &home.path)?;
    for note in &notes {
        println!("{note}");
    }
    for id in nemesis.replicas.ids() {
        nemesis.replicas.start(id)?;
    }
    if !nemesis.all_well().await? {
        bail!(
            "the replicas did not come up; their logs are in {}",
            home.keep()
        );
    }
    let (crowd, tasks) = start_clients(&nemesis, arguments.rate);
    let mut schedule = Schedule::new(seed, &arguments.faults, arguments.replicas);
    let until = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
    while Instant::now() < until {
        nemesis.step(&schedule.next()).await?;
    }
    let ending = ending::end(&mut nemesis, &crowd, tasks).await?;
    let network = nemesis.replicas.network().name();
    let report = report::Report::of(&nemesis, &ending, &command, network, &notes);
    print!("{}", report.text());
    if let Some(directory) = &arguments.report {
        report.write(directory)?;
    }
    drop(nemesis);
    if report.is_good() {
        if arguments.keep {
            println!("the replicas' directories are in {}", home.keep());
        }
        return Ok(ExitCode::SUCCESS);
    }
    println!("the replicas' logs and disks are in {}", home.keep());
    Ok(ExitCode::from(1))
}

/// What makes the same schedule again.
fn command_line(arguments: &Arguments, seed: u64) -> String {
    let faults: Vec<String> = arguments.faults.iter().map(Kind::to_string).collect();
    let proxies = if arguments.proxies { " --proxies" } else { "" };
    let limits = if arguments.default_limits {
        " --default-limits"
    } else {
        ""
    };
    format!(
        "nemesis --minutes {} --replicas {} --faults {} --rate {} --seed {seed}{proxies}{limits}",
        arguments.minutes,
        arguments.replicas,
        faults.join(","),
        arguments.rate
    )
}

fn prepare(
    arguments: &Arguments,
    home: &Path,
) -> Result<(Nemesis<check::account::Action>, Vec<String>)> {
    let server = match &arguments.server {
        Some(server) if server.is_file() => server.clone(),
        Some(server) => bail!("--server: {} is not there", server.display()),
        None => {
            let [server] = programs::beside(["chat-server"])?;
            server
        }
    };
    let (network, no_namespaces) = Network::new(arguments.replicas, arguments.proxies)?;
    let (mut replicas, no_disks) = Replicas::new(server, home, arguments.replicas, network)?;
    if arguments.default_limits {
        replicas.keep_default_limits();
    }
    let mut notes = Vec::new();
    if let Some(why) = no_namespaces {
        notes.push(format!(
            "links are proxied, clients' links are never cut: {why}"
        ));
    }
    if let Some(why) = no_disks {
        notes.push(format!("disks are plain directories and never full: {why}"));
    }
    Ok((Nemesis::new(replicas, History::start()), notes))
}

fn start_clients(nemesis: &Nemesis<check::account::Action>, rate: u64) -> (Crowd, Tasks) {
    let (phase, phases) = watch::channel(Phase::Run);
    let (tell, drained) = watch::channel(None);
    let addresses = nemesis.replicas.client_addresses();
    let crowd = Crowd::new(addresses, nemesis.history.clone(), rate, phases);
    let fights = (0..FIGHTS).map(|_| tokio::spawn(arena::fight(crowd.clone())));
    let tasks = Tasks {
        phase,
        drained,
        talk: tokio::spawn(talk::talk(crowd.clone(), tell)),
        fights: fights.collect(),
        guests: tokio::spawn(guests::receive(crowd.clone())),
    };
    (crowd, tasks)
}

/// Prints a line with the time of the run.
fn say<A>(history: &history::History<A>, text: &str) {
    println!("{:8.1} s  {text}", history.now() as f64 / 1e6);
}

/// The directory of the run. Removed when dropped, unless kept.
struct Home {
    path: PathBuf,
    kept: std::cell::Cell<bool>,
}

impl Home {
    fn new() -> Result<Self> {
        let name = format!("nemesis-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self {
            path,
            kept: std::cell::Cell::new(false),
        })
    }

    fn keep(&self) -> std::path::Display<'_> {
        self.kept.set(true);
        self.path.display()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.kept.get() {
            // What stays behind is in the temporary directory.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
