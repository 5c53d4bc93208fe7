//! `chat-server demo`: proof on the spot.
//!
//! Starts real replicas as child processes, lets two accounts talk through the client library at
//! full speed, kills the primary in the middle, goes on, restarts it, and then counts: every
//! message that was acknowledged must have been delivered exactly once, and all replicas must hold
//! the same log. The exit code says whether they do.
//!
//! It kills its own children and nothing else, and on every way out.

mod adapter;
mod ports;
mod progress;
mod replicas;
mod report;
mod serve;
mod shell;
mod talk;

use anyhow::{Context, Result, bail};
use chat::client::{Client, Cluster, NewAccount, Options};
use progress::Progress;
use replicas::Replicas;
use report::Report;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use talk::Talk;

/// A replica that is not ready by then will not be.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// For a restarted replica, and for the last messages.
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);

/// Starts replicas, kills the primary in the middle of a conversation, and counts.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// How many replicas: 3 survive the loss of one, 5 of two (which are then killed at once).
    #[arg(long, default_value_t = 3, value_parser = odd)]
    pub replicas: u16,
    /// Where the replicas keep their data (a new or empty directory); a temporary one if missing.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Keep the temporary directory.
    #[arg(long)]
    pub keep: bool,
    /// Stay up afterwards, also without a terminal, until SIGINT or SIGTERM.
    #[arg(long)]
    pub serve: bool,
    /// Messages to send in all.
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u64).range(8..=10_000_000))]
    pub messages: u64,
}

fn odd(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(count @ (3 | 5 | 7)) => Ok(count),
        _ => Err("3, 5 or 7: fewer survive no loss, and an even number survives no more".into()),
    }
}

/// Runs the demo.
pub fn main(args: Args) -> Result<ExitCode> {
    // On a thread of its own, because the caller may be inside a runtime already.
    std::thread::scope(|scope| {
        let demo = scope.spawn(|| {
            tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?
                .block_on(until_signal(args))
        });
        demo.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A signal ends the demo wherever it is; the children go with what is dropped.
async fn until_signal(args: Args) -> Result<ExitCode> {
    let mut signals = serve::Signals::install()?;
    let directory = Directory::prepare(&args)?;
    let mut replicas = Replicas::new(&directory.path, args.replicas)?;
    let stay = args.serve || (std::io::stdout().is_terminal() && std::io::stdin().is_terminal());
    let outcome = tokio::select! {
        outcome = demo(&args, &mut replicas) => outcome,
        code = signals.next() => {
            eprintln!("interrupted");
            return Ok(code);
        }
    };
    let (report, accounts) = match outcome {
        Ok(done) => done,
        Err(error) => {
            directory.keep_after_failure();
            return Err(error);
        }
    };
    report.print()?;
    if !report.is_good() {
        directory.keep_after_failure();
    }
    if stay {
        serve::stay(&mut replicas, &directory.path, &accounts, &mut signals).await?;
    }
    if args.keep && args.data_dir.is_none() {
        println!("kept: {}", directory.path.display());
    }
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The two who talk.
pub struct Accounts {
    /// Name and password of each.
    logins: [(&'static str, String); 2],
}

async fn demo(args: &Args, replicas: &mut Replicas) -> Result<(Report, Accounts)> {
    let progress = Progress::new(args.messages);
    progress.step(&format!("starting {} replicas", args.replicas));
    let started = Instant::now();
    for id in replicas.ids() {
        replicas.start(id)?;
    }
    let cluster = Cluster::connect_with(
        replicas.client_addresses(),
        Options {
            deadline: START_PATIENCE,
            ..Options::default()
        },
    )?;
    let accounts = Accounts {
        logins: ["alice", "bob"].map(|name| (name, password())),
    };
    let clients = create(&accounts, &cluster, replicas).await?;
    progress.step(&format!(
        "{} replicas serve after {:.1} s; alice and bob talk",
        args.replicas,
        started.elapsed().as_secs_f64()
    ));

    let mut talk = Talk::start(&clients, args.messages);
    let watch = progress.follow(talk.acknowledged());
    talk.until(args.messages / 2).await?;
    let victims = choose_victims(&clients[0], replicas).await?;
    talk.killing(&victims);
    replicas.kill(&victims)?;
    talk.killed();
    progress.step(&format!("SIGKILL to {}", replicas::names(&victims)));
    talk.until(args.messages / 4 * 3).await?;
    progress.step(&format!("restarting {}", replicas::names(&victims)));
    let restarted = Instant::now();
    for id in &victims {
        replicas.start(*id)?;
    }
    let spoken = talk.finish().await?;
    progress.step("all sent; waiting for the last messages and for the restarted");
    let delivered = talk.delivered(SETTLE_PATIENCE).await;
    let caught_up = wait_until_equal(replicas, &victims, restarted).await?;
    let settled = talk
        .read_again(&clients, &replicas.client_address(victims[0])?)
        .await?;
    progress.step("comparing the logs of all replicas");
    let verified = adapter::verify(&replicas.data_directories()).await?;
    let primary = primary(&clients[0], replicas).await?;
    drop(watch);
    progress.finish();
    Ok((
        Report {
            primary,
            victims,
            spoken,
            counted: report::Counted::of(talk.acknowledgements(), &delivered, &settled),
            caught_up,
            verified,
        },
        accounts,
    ))
}

/// Creates the accounts: the first requests, so they also wait until the cluster serves.
async fn create(
    accounts: &Accounts,
    cluster: &Cluster,
    replicas: &mut Replicas,
) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for (name, password) in &accounts.logins {
        let account = NewAccount::named(name, password);
        let client = tokio::select! {
            client = Client::create_account(cluster, account) => {
                client.with_context(|| format!("cannot create the account {name}"))?
            }
            died = replicas.first_to_die() => return Err(died),
        };
        clients.push(client);
    }
    Ok(clients)
}

/// The primary first, then as many others as the cluster survives.
async fn choose_victims(client: &Client, replicas: &Replicas) -> Result<Vec<u16>> {
    let primary = primary(client, replicas).await?;
    let others = replicas.ids().into_iter().filter(|id| *id != primary);
    let mut victims = vec![primary];
    victims.extend(others.take(replicas.count() / 2 - 1));
    Ok(victims)
}

/// Which replica is primary, as the replies say.
async fn primary(client: &Client, replicas: &Replicas) -> Result<u16> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        client.who_am_i().await?;
        let named = client.cluster().primary();
        if let Some(id) = named.and_then(|address| replicas.id_of_client_address(&address)) {
            return Ok(id);
        }
        if Instant::now() > deadline {
            bail!("no reply names a primary");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until all replicas have applied the same; returns the time since the restart at which
/// the restarted ones had.
async fn wait_until_equal(
    replicas: &mut Replicas,
    victims: &[u16],
    restarted: Instant,
) -> Result<Duration> {
    let deadline = Instant::now() + SETTLE_PATIENCE;
    loop {
        if let Some(died) = replicas.dead() {
            return Err(died);
        }
        let mut seen = Vec::new();
        let mut problem = None;
        for directory in replicas.data_directories() {
            match adapter::status(&directory).await {
                Ok(status) => seen.push(status),
                Err(error) => problem = Some(error),
            }
        }
        let equal = seen
            .windows(2)
            .all(|pair| pair[0].applied == pair[1].applied && pair[0].digest == pair[1].digest);
        let complete = seen.len() == replicas.count();
        if complete && equal && seen.iter().all(|status| status.applied == status.last) {
            return Ok(restarted.elapsed());
        }
        if Instant::now() > deadline {
            let names = replicas::names(victims);
            return Err(problem
                .unwrap_or_else(|| anyhow::anyhow!("{names} did not catch up in time: {seen:?}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// 16 letters and digits: enough for an account that lives as long as the demo.
fn password() -> String {
    use rand::Rng;
    rand::rng()
        .sample_iter(rand::distr::Alphanumeric)
        .take(16)
        .map(char::from)
        .collect()
}

/// Where the replicas keep their data.
struct Directory {
    path: PathBuf,
    /// Removed at the end, unless something went wrong.
    remove: std::cell::Cell<bool>,
}

impl Directory {
    fn prepare(args: &Args) -> Result<Self> {
        let name = format!(
            "chat-demo-{}-{:08x}",
            std::process::id(),
            rand::random::<u32>()
        );
        let temporary = || std::env::temp_dir().join(name);
        let remove = args.data_dir.is_none() && !args.keep;
        let path = args.data_dir.clone().unwrap_or_else(temporary);
        create_private(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut entries =
            std::fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if entries.next().is_some() {
            bail!(
                "{} is not empty: the demo begins with a new cluster; name a new directory",
                path.display()
            );
        }
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot resolve {}", path.display()))?;
        Ok(Self {
            path,
            remove: remove.into(),
        })
    }

    fn keep_after_failure(&self) {
        self.remove.set(false);
        eprintln!("data and logs are kept in {}", self.path.display());
    }
}

fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

impl Drop for Directory {
    fn drop(&mut self) {
        // It is declared before the replicas, so they are dead by now.
        if self.remove.get()
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}
