//! `chat-admin`: status, dump, verify and recover, by data directory; and `bench`, a load generator.
//!
//! Exit code 0: all is well. 1: something is wrong with a replica, and a sentence says which index
//! in which tree. 2: the request could not be carried out.

mod bench;
mod dump;

use anyhow::{Context, bail};
use chat::admin::client::AdminClient;
use chat::admin::cluster::{Member, Verdict, verify_members, verify_running};
use chat::admin::format;
use chat::admin::recover::{Recovery, parse_directory};
use chat::admin::stopped::Stopped;
use chat::admin::verify::Finding;
use chat::proto::admin::ReplicaStatus;
use chat::storage::StorageError;
use chat::types::Index;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// The load generator's CPU time comes off the servers'.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Looks at replicas of the chat server, running or stopped, and measures them. Changes nothing, unless `recover`
/// is told to
#[derive(Parser)]
#[command(name = "chat-admin", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show all replicas, by asking the one that runs on this data directory
    Status(StatusArgs),
    /// Print the log and its commit records
    Dump(DumpArgs),
    /// Check hash chain, commit records and state, and compare the replicas at one index.
    /// One running replica asks all others; several directories are compared with each other
    Verify(VerifyArgs),
    /// Show what is left of a cluster that cannot repair itself, and what would be lost by going on
    /// with one of its stores; do it if that store is named. All replicas must be stopped
    Recover(RecoverArgs),
    /// Send messages as fast as they are acknowledged, and show rate, latencies and cost
    Bench(bench::BenchArgs),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Args)]
struct StatusArgs {
    /// A running replica's data directory
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Args)]
struct DumpArgs {
    /// The data directory of a replica, running or stopped
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// First index [default: the first]
    #[arg(
        long,
        default_value_t = 1,
        hide_default_value = true,
        value_name = "INDEX"
    )]
    from: u64,
    /// Last index [default: the last]
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true, value_name = "INDEX")]
    to: u64,
    /// Show what the messages say
    #[arg(long)]
    show_bodies: bool,
    /// One JSON object a line with `json`
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Args)]
struct VerifyArgs {
    /// The data directory of a replica, running or stopped; may be repeated
    #[arg(long = "data-dir", value_name = "DIR", required = true)]
    data_dirs: Vec<PathBuf>,
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Args)]
struct RecoverArgs {
    /// The data directory of each replica; ID=DIR for one whose promises are lost
    #[arg(long = "data-dir", value_name = "[ID=]DIR", required = true)]
    data_dirs: Vec<String>,
    /// Show what would be lost with this store, instead of the newest one
    #[arg(long, value_name = "ID/STORE", conflicts_with = "confirm_survivor")]
    survivor: Option<String>,
    /// Go on with this store: every replica gets a copy of it. What they held is kept aside
    #[arg(long, value_name = "ID/STORE")]
    confirm_survivor: Option<String>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Status(args) => block_on(status(args)),
        Command::Dump(args) => block_on(dump::dump(args)),
        Command::Verify(args) => block_on(verify(args)),
        Command::Recover(args) => recover(&args),
        // It has an executor of its own.
        Command::Bench(args) => bench::main(args),
    };
    result.unwrap_or_else(|error| {
        let pipe = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if pipe == Some(io::ErrorKind::BrokenPipe) {
            // Whoever reads has seen enough.
            return ExitCode::SUCCESS;
        }
        eprintln!("chat-admin: {error:#}");
        ExitCode::from(2)
    })
}

fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the executor")?
        .block_on(work)
}

async fn status(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let Some(mut client) = AdminClient::connect(&args.data_dir).await? else {
        bail!(
            "no replica runs on {}: status needs a running one",
            args.data_dir.display()
        );
    };
    let replicas = client.status(false).await?.replicas;
    let text = match args.output {
        Output::Text => format::status_table(&replicas),
        Output::Json => format!("{:#}\n", format::status_json(&replicas)),
    };
    io::stdout().write_all(text.as_bytes())?;
    let well = |status: &ReplicaStatus| status.unreachable.is_empty() && status.errors.is_empty();
    Ok(if replicas.iter().all(well) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

async fn verify(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let mut members = Vec::new();
    let mut unreadable = Vec::new();
    for data_dir in &args.data_dirs {
        match open(data_dir).await {
            Ok(member) => members.push(member),
            // One that cannot be read is a finding, and no reason not to look at the others.
            Err(error) => match error.downcast_ref::<StorageError>() {
                Some(StorageError::Damaged(what)) => unreadable.push(Finding {
                    tree: "store".to_owned(),
                    index: Index(0),
                    sentence: format!("store in {}: {what}", data_dir.display()),
                }),
                _ => return Err(naming(error, data_dir)),
            },
        }
    }
    let alone = matches!(members.as_slice(), [Member::Stopped(_)]) && unreadable.is_empty();
    let mut verdict = match members.as_mut_slice() {
        [Member::Running(client)] if unreadable.is_empty() => verify_running(client).await?,
        _ => verify_members(members).await?,
    };
    verdict.replicas = verdict
        .replicas
        .max(verdict.reports.len() + unreadable.len());
    verdict.differences.extend(unreadable);
    let text = match args.output {
        Output::Text => format::verdict_text(&verdict),
        Output::Json => format!("{:#}\n", format::verdict_json(&verdict)),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(exit_code(&verdict, alone))
}

/// The error with the directory that it is about, unless it names it already.
fn naming(error: anyhow::Error, data_dir: &Path) -> anyhow::Error {
    let directory = data_dir.display().to_string();
    if format!("{error:#}").contains(&directory) {
        return error;
    }
    error.context(directory)
}

fn recover(args: &RecoverArgs) -> anyhow::Result<ExitCode> {
    let directories: Vec<_> = args.data_dirs.iter().map(|d| parse_directory(d)).collect();
    let recovery = Recovery::open(&directories)?;
    print!("{}", recovery.stores_text());
    let named = args.confirm_survivor.as_ref().or(args.survivor.as_ref());
    let choice = match named {
        Some(name) => Some(recovery.find(name)?),
        None => recovery.newest(),
    };
    let Some(choice) = choice else {
        println!("No store can be gone on with. Nothing was changed");
        return Ok(ExitCode::from(1));
    };
    let name = recovery.name(choice);
    if named.is_none() {
        println!("The newest that can be gone on with: {name}");
    }
    print!("{}", recovery.loss_text(choice)?);
    if args.confirm_survivor.is_none() {
        println!(
            "Nothing was changed. To go on with it, say the same again with --confirm-survivor \
             {name}"
        );
        return Ok(ExitCode::SUCCESS);
    }
    for aside in recovery.carry_out(choice)? {
        println!("what was there before is in {}", aside.display());
    }
    println!("Every replica now holds {name}. Start them all");
    Ok(ExitCode::SUCCESS)
}

/// `alone`: one stopped replica was to be checked by itself.
fn exit_code(verdict: &Verdict, alone: bool) -> ExitCode {
    let compared = verdict.reports.len();
    if !verdict.findings().is_empty() {
        ExitCode::from(1)
    } else if compared == 0
        || compared == 1 && verdict.replicas > 1 && !alone
        || !verdict.uncompared().is_empty()
    {
        // A check that compared nothing has not passed.
        ExitCode::from(2)
    } else {
        ExitCode::SUCCESS
    }
}

async fn open(data_dir: &Path) -> anyhow::Result<Member> {
    if let Some(client) = AdminClient::connect(data_dir).await? {
        return Ok(Member::Running(client));
    }
    let data_dir = data_dir.to_owned();
    let stopped = tokio::task::spawn_blocking(move || Stopped::open(&data_dir)).await??;
    Ok(Member::Stopped(Arc::new(stopped)))
}
