//! `chat-admin`: status, dump and verify, by data directory.
//!
//! Exit code 0: all is well. 1: something is wrong with a replica, and a sentence says which index
//! in which tree. 2: the request could not be carried out.

use anyhow::{Context, bail};
use chat::admin::client::AdminClient;
use chat::admin::cluster::{Member, Verdict, verify_members, verify_running};
use chat::admin::format;
use chat::admin::stopped::Stopped;
use chat::admin::verify::LogSource;
use chat::limits;
use chat::storage::CommitRecord;
use chat::types::Index;
use chat::types::entry::Entry;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Looks at replicas of the chat server, running or stopped. Changes and repairs nothing
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
    #[arg(long, default_value_t = 1, hide_default_value = true, value_name = "INDEX")]
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

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the executor")
        .and_then(|runtime| {
            runtime.block_on(async {
                match command {
                    Command::Status(args) => status(args).await,
                    Command::Dump(args) => dump(args).await,
                    Command::Verify(args) => verify(args).await,
                }
            })
        });
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
    Ok(ExitCode::SUCCESS)
}

async fn verify(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let mut members = Vec::new();
    for data_dir in &args.data_dirs {
        members.push(open(data_dir).await?);
    }
    let verdict = match members.as_mut_slice() {
        [Member::Running(client)] => verify_running(client).await?,
        _ => verify_members(members).await?,
    };
    let text = match args.output {
        Output::Text => format::verdict_text(&verdict),
        Output::Json => format!("{:#}\n", format::verdict_json(&verdict)),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(exit_code(&verdict))
}

fn exit_code(verdict: &Verdict) -> ExitCode {
    if !verdict.findings().is_empty() {
        ExitCode::from(1)
    } else if verdict.reports.is_empty() {
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

async fn dump(args: DumpArgs) -> anyhow::Result<ExitCode> {
    let mut printer = Printer {
        out: BufWriter::new(io::stdout().lock()),
        output: args.output,
        show_bodies: args.show_bodies,
    };
    match open(&args.data_dir).await? {
        Member::Running(mut client) => {
            let (from, to) = (Index(args.from), Index(args.to));
            let mut pages = client.entries(from, to).await?;
            while let Some(page) = pages.next().await? {
                if let (Some(first), Some(last)) = (page.first(), page.last()) {
                    let records = client.commit_records(first.index(), last.index()).await?;
                    printer.page(&page, &records)?;
                }
            }
        }
        Member::Stopped(stopped) => dump_stopped(&stopped, &args, &mut printer)?,
    }
    printer.out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn dump_stopped(
    stopped: &Stopped,
    args: &DumpArgs,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<()> {
    let mut from = Index(args.from.max(1));
    while from.0 <= args.to {
        let mut page = stopped.entries(from, limits::ADMIN_PAGE_BYTES)?;
        page.retain(|entry| entry.index().0 <= args.to);
        let (Some(first), Some(last)) = (page.first(), page.last()) else {
            break;
        };
        let (first, last) = (first.index(), last.index());
        let records = stopped.commit_records(first, last)?;
        printer.page(&page, &records)?;
        from = last.next();
    }
    Ok(())
}

struct Printer<W: Write> {
    out: W,
    output: Output,
    show_bodies: bool,
}

impl<W: Write> Printer<W> {
    /// Each entry, and after it the commit record about it.
    fn page(&mut self, entries: &[Entry], records: &[CommitRecord]) -> io::Result<()> {
        let mut records = records.iter().peekable();
        for entry in entries {
            match self.output {
                Output::Text => {
                    writeln!(self.out, "{}", format::entry_text(entry, self.show_bodies))?;
                }
                Output::Json => {
                    writeln!(self.out, "{}", format::entry_json(entry, self.show_bodies))?;
                }
            }
            while let Some(record) = records.next_if(|r| r.stamp.index <= entry.index()) {
                match self.output {
                    Output::Text => writeln!(self.out, "{}", format::commit_record_text(record))?,
                    Output::Json => writeln!(self.out, "{}", format::commit_record_json(record))?,
                }
            }
        }
        Ok(())
    }
}
