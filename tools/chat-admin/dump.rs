//! `chat-admin dump`: the log and its commit records, of a running or of a stopped replica.
//!
//! What can be read is printed. What is wrong follows as sentences on standard error: a log that ends
//! early and a log that was damaged look the same otherwise.

use super::{DumpArgs, Output, open};
use anyhow::bail;
use chat::admin::client::{AdminClient, AdminError};
use chat::admin::cluster::Member;
use chat::admin::format;
use chat::admin::stopped::Stopped;
use chat::admin::verify::LogSource;
use chat::limits;
use chat::storage::{CommitRecord, StorageError};
use chat::types::Index;
use chat::types::entry::Entry;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

/// Exit code 1 if anything is wrong with what was to be printed.
pub async fn dump(args: DumpArgs) -> anyhow::Result<ExitCode> {
    if args.from > args.to {
        bail!("--from {} lies behind --to {}", args.from, args.to);
    }
    let findings = match print_all(&args).await {
        Ok(findings) => findings,
        Err(error) if is_damage(&error) => vec![format!("{error:#}")],
        Err(error) => return Err(error),
    };
    for finding in &findings {
        eprintln!("chat-admin: {finding}");
    }
    Ok(ExitCode::from(u8::from(!findings.is_empty())))
}

/// The store cannot be read, as opposed to: nobody can be asked.
fn is_damage(error: &anyhow::Error) -> bool {
    let storage = |error: &StorageError| matches!(error, StorageError::Damaged(_));
    match error.downcast_ref::<AdminError>() {
        Some(AdminError::Refused(status)) => status.code() == tonic::Code::DataLoss,
        Some(AdminError::Storage(error)) => storage(error),
        Some(AdminError::Entry(_)) => true,
        _ => error.downcast_ref().is_some_and(storage),
    }
}

/// Prints all that can be read; returns what is wrong.
async fn print_all(args: &DumpArgs) -> anyhow::Result<Vec<String>> {
    let member = open(&args.data_dir).await?;
    let mut printer = Printer {
        out: BufWriter::new(io::stdout().lock()),
        output: args.output,
        show_bodies: args.show_bodies,
        next: Index(args.from.max(1)),
    };
    let (last, mut findings) = match member {
        Member::Running(mut client) => {
            let status = client.local_status().await?;
            dump_running(&mut client, args, &mut printer).await?;
            (Index(status.last_index), Vec::new())
        }
        Member::Stopped(stopped) => {
            dump_stopped(&stopped, args, &mut printer)?;
            let damage = stopped.damage().into_iter();
            (stopped.last(), damage.map(|(_, what)| what).collect())
        }
    };
    printer.out.flush()?;
    if printer.next <= last && printer.next.0 <= args.to {
        let next = printer.next;
        findings.push(format!(
            "log at index {next}: nothing can be read there, and the log ends at {last}"
        ));
    }
    if args.from > last.0 {
        let from = args.from;
        eprintln!("chat-admin: the log ends at index {last}: nothing is there from {from} on");
    }
    Ok(findings)
}

async fn dump_running(
    client: &mut AdminClient,
    args: &DumpArgs,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<()> {
    let mut pages = client.entries(Index(args.from), Index(args.to)).await?;
    while let Some(page) = pages.next().await? {
        if let (Some(first), Some(last)) = (page.first(), page.last()) {
            let records = client.commit_records(first.index(), last.index()).await?;
            printer.page(&page, &records)?;
        }
    }
    Ok(())
}

fn dump_stopped(
    stopped: &Stopped,
    args: &DumpArgs,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<()> {
    while printer.next.0 <= args.to {
        let mut page = stopped.entries(printer.next, limits::ADMIN_PAGE_BYTES)?;
        page.retain(|entry| entry.index().0 <= args.to);
        let (Some(first), Some(last)) = (page.first(), page.last()) else {
            break;
        };
        let records = stopped.commit_records(first.index(), last.index())?;
        printer.page(&page, &records)?;
    }
    Ok(())
}

struct Printer<W: Write> {
    out: W,
    output: Output,
    show_bodies: bool,
    /// The first index that was not printed yet.
    next: Index,
}

impl<W: Write> Printer<W> {
    /// Says where the log begins, if that is above what was asked for.
    fn cut(&mut self, first: &Entry) -> io::Result<()> {
        if first.index() <= self.next {
            return Ok(());
        }
        match self.output {
            Output::Text => writeln!(self.out, "{}", format::cut_text(first)),
            Output::Json => writeln!(self.out, "{}", format::cut_json(first)),
        }
    }

    /// Each entry, and after it the commit record about it.
    fn page(&mut self, entries: &[Entry], records: &[CommitRecord]) -> io::Result<()> {
        if let Some(first) = entries.first() {
            self.cut(first)?;
        }
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
            self.next = entry.index().next();
        }
        Ok(())
    }
}
