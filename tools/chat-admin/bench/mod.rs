//! `chat-admin bench`: what a cluster takes, and what it costs.
//!
//! Without `--server` or `--cluster` it starts three replicas of its own as real processes, in a
//! directory that goes when it ends. The load is closed: so many messages are on the way at any
//! time, each begun when another one's acknowledgement has come. A *lane* is one connection that
//! keeps its share of them on the way; what the lanes need to know of each other is in [`meter`].
//!
//! The client's CPU is never counted as the server's, but it is spent on the same machine: the
//! whole generator runs on one thread.

mod accounts;
mod cluster;
mod delivery;
mod failover;
mod grpc;
mod http2;
mod listing;
mod meter;
mod plot;
#[path = "../../../src/bin/chat-server/demo/ports.rs"]
mod ports;
mod prepare;
#[path = "../../nemesis/network/proxy.rs"]
mod proxy;
mod report;
#[path = "../../nemesis/network/rules.rs"]
mod rules;
mod usage;
mod wire;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use cluster::{Cluster, Where};
use indicatif::{ProgressBar, ProgressStyle};
use meter::{Meter, Phase};
use report::{Report, Setup};
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use usage::Usage;

/// How messages are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Protocol {
    /// One call a message.
    Grpc,
    /// One stream a connection, pipelined.
    GrpcStream,
    /// The wire protocol, pipelined.
    Wire,
}

/// Which replica the load goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Target {
    /// The primary: one hop fewer.
    Primary,
    /// One that is not.
    Secondary,
}

/// What is measured instead of throughput.
#[derive(Subcommand)]
enum Instead {
    /// Strike the primary of a cluster of its own, and see how long writes wait
    Failover(failover::FailoverArgs),
    /// Fill a test cluster with accounts
    Prepare(prepare::PrepareArgs),
    /// Send one message at a time, and see how soon it is heard on another replica
    Delivery(delivery::DeliveryArgs),
    /// List accounts by pattern, and see how long a page takes
    Listing(listing::ListingArgs),
}

/// `chat-admin bench`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    instead: Option<Instead>,
    /// Messages on the way at any time
    #[arg(long, default_value_t = 256, value_name = "N")]
    in_flight: usize,
    /// How long to measure
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    seconds: f64,
    /// How long to send before measuring
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    warm_up: f64,
    /// Accounts that send, and as many that receive
    #[arg(long, default_value_t = 100, value_name = "N")]
    senders: usize,
    /// Size of a message
    #[arg(long, default_value_t = 150, value_name = "BYTES")]
    body_bytes: usize,
    /// How messages are sent
    #[arg(long, value_enum, default_value = "grpc")]
    protocol: Protocol,
    /// Connections that share the load
    #[arg(long, default_value_t = 4, value_name = "N")]
    connections: usize,
    /// Which replica the load goes to
    #[arg(long, value_enum, default_value = "primary")]
    to: Target,
    /// Client addresses of a running cluster [default: three replicas of its own]
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    server: Vec<String>,
    /// A running cluster as `chat-server demo` describes it in cluster.json: with process ids and
    /// data directories, so that its CPU and fsyncs are counted
    #[arg(long, value_name = "FILE", conflicts_with = "server")]
    cluster: Option<PathBuf>,
    /// Replicas of its own cluster
    #[arg(long, default_value_t = 3, value_name = "N")]
    replicas: u16,
    /// The server's executable for its own cluster [default: beside this one]
    #[arg(long, value_name = "FILE")]
    server_program: Option<PathBuf>,
    /// Measure so many times, one after the other
    #[arg(long, default_value_t = 1, value_name = "N")]
    repeat: usize,
    #[arg(long, value_enum, default_value = "text")]
    output: super::Output,
    /// Write a page with plots, complete in itself
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What one lane works with.
pub struct Lane {
    /// HOST:PORT.
    pub address: String,
    /// The same replica's for the wire protocol, if it is known.
    pub wire_address: Option<String>,
    /// The accounts that send over it, at least one.
    pub logins: Vec<Rc<accounts::Login>>,
    /// Names.
    pub recipients: Rc<Vec<String>>,
    /// Its share.
    pub in_flight: usize,
    /// Every message's.
    pub body: bytes::Bytes,
    /// Told of every acknowledgement.
    pub meter: Rc<Meter>,
}

/// Measures, and shows what came of it.
pub fn main(args: BenchArgs) -> anyhow::Result<ExitCode> {
    ensure!(args.in_flight > 0, "--in-flight: at least 1");
    ensure!(args.senders > 0, "--senders: at least 1");
    ensure!(args.seconds >= 0.1, "--seconds: at least 0.1");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the executor")?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, until_interrupted(run(args)))?;
    Ok(ExitCode::SUCCESS)
}

async fn run(args: BenchArgs) -> anyhow::Result<()> {
    match args.instead {
        Some(Instead::Failover(args)) => failover::failover(args).await,
        Some(Instead::Prepare(args)) => prepare::prepare(args).await,
        Some(Instead::Delivery(args)) => delivery::delivery(args).await,
        Some(Instead::Listing(args)) => listing::listing(args).await,
        None => bench(args).await,
    }
}

/// An interrupted measurement ends as a failed one does: with its replicas, and their directory.
async fn until_interrupted(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("cannot wait for a signal")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("cannot wait for a signal")?;
    tokio::select! {
        done = work => done,
        _ = interrupted.recv() => bail!("interrupted"),
        _ = terminated.recv() => bail!("terminated"),
    }
}

async fn bench(args: BenchArgs) -> anyhow::Result<()> {
    let place = match (&args.cluster, args.server.is_empty()) {
        (Some(file), _) => Where::Described(file.clone()),
        (None, false) => Where::At(args.server.clone()),
        (None, true) => Where::Own {
            replicas: args.replicas,
            program: args.server_program.clone(),
            proxied: false,
        },
    };
    let mut cluster = Cluster::open(place)?;
    let address = cluster.address(args.to).await?;
    let progress = Progress::new();
    progress.say("creating accounts");
    let people = accounts::create(&address, args.senders).await?;
    let people = (people.senders, Rc::new(people.recipients));
    let mut out = std::io::stdout();
    let mut reports = Vec::new();
    for _ in 0..args.repeat.max(1) {
        let report = measure(&args, &mut cluster, &address, &people, &progress).await?;
        let text = match args.output {
            super::Output::Text => report.text(),
            super::Output::Json => format!("{}\n", report.json()),
        };
        out.write_all(text.as_bytes())?;
        reports.push(report);
    }
    if let Some(file) = &args.html {
        std::fs::write(file, plot::html(&reports))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Runs until it fails or is dropped.
async fn keep_busy(protocol: Protocol, lane: Lane) -> anyhow::Result<()> {
    match protocol {
        Protocol::Grpc => grpc::unary(lane).await,
        Protocol::GrpcStream => grpc::stream(lane).await,
        Protocol::Wire => wire::pipelined(lane).await,
    }
}

/// One window.
async fn measure(
    args: &BenchArgs,
    cluster: &mut Cluster,
    address: &str,
    (senders, recipients): &(Vec<Rc<accounts::Login>>, Rc<Vec<String>>),
    progress: &Progress,
) -> anyhow::Result<Report> {
    let meter = Rc::new(Meter::new());
    let connections = args.connections.clamp(1, args.in_flight);
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..connections {
        let share = args.in_flight / connections + usize::from(lane < args.in_flight % connections);
        let logins: Vec<_> = senders
            .iter()
            .skip(lane)
            .step_by(connections)
            .cloned()
            .collect();
        let lane = Lane {
            address: address.to_owned(),
            wire_address: cluster.wire_address(address),
            logins: if logins.is_empty() {
                senders.clone()
            } else {
                logins
            },
            recipients: Rc::clone(recipients),
            in_flight: share,
            body: vec![b'x'; args.body_bytes].into(),
            meter: Rc::clone(&meter),
        };
        lanes.spawn_local(keep_busy(args.protocol, lane));
    }
    let run = async {
        tokio::time::sleep(Duration::from_secs_f64(args.warm_up)).await;
        let before = Usage::take(cluster).await?;
        meter.enter(Phase::Measuring);
        let began = Instant::now();
        progress.follow(&meter, args.seconds).await;
        meter.enter(Phase::Over);
        let seconds = began.elapsed().as_secs_f64();
        anyhow::Ok((seconds, before, Usage::take(cluster).await?))
    };
    let (seconds, before, after) = tokio::select! {
        done = run => done?,
        Some(ended) = lanes.join_next() => match ended {
            Ok(Err(error)) => return Err(error.context("a connection of the load ended")),
            _ => bail!("a connection of the load ended"),
        },
    };
    lanes.shutdown().await;
    let setup = Setup {
        protocol: args
            .protocol
            .to_possible_value()
            .map_or_else(String::new, |v| v.get_name().to_owned()),
        in_flight: args.in_flight,
        connections,
        senders: args.senders,
        body_bytes: args.body_bytes,
        replicas: cluster.size(),
    };
    Ok(Report::new(setup, seconds, &meter, &after.since(&before)))
}

/// A bar on a terminal, and nothing elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(100);
            // The template is constant; a wrong one only costs the looks.
            if let Ok(style) = ProgressStyle::with_template("[{elapsed}] {wide_bar} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar }
    }

    fn say(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    /// Until so many seconds have passed.
    async fn follow(&self, meter: &Meter, seconds: f64) {
        let began = Instant::now();
        loop {
            let passed = began.elapsed().as_secs_f64();
            if passed >= seconds {
                break;
            }
            if let Some(bar) = &self.bar {
                bar.set_position((passed / seconds * 100.0) as u64);
                bar.set_message(format!(
                    "{:.0} messages/s",
                    meter.count() as f64 / passed.max(0.01)
                ));
            }
            tokio::time::sleep(Duration::from_secs_f64((seconds - passed).min(0.2))).await;
        }
        self.end();
    }

    /// So much of a whole.
    fn part(&self, done: u64, whole: u64, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done * 100 / whole.max(1));
            bar.set_message(text.to_owned());
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
