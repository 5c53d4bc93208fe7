//! `chat-admin bench failover`: how long writes wait when the primary goes.
//!
//! Each trial sends one message after the other through the client library, strikes the primary of
//! a cluster of its own, and takes the time from the blow to the first acknowledgement of a message
//! that was begun after it. A killed primary closes its connections; one that is
//! paused (SIGSTOP) or cut off from the others closes none and must be missed.

use super::cluster::{Cluster, Where};
use anyhow::{Context, ensure};
use chat::client::{Client, Cluster as Servers, NewAccount};
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde_json::json;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Messages that must be acknowledged before a blow, so that the cluster is at rest.
const CALM_MESSAGES: usize = 50;
/// From a trial to the next: longer than the client library avoids a replica whose connection broke.
const AFTER_BROKEN: Duration = Duration::from_millis(500);
/// The same for one that did not answer in time. A client that avoids both others takes the one that is
/// struck for the only one, and gives it more time.
const AFTER_SILENT: Duration = Duration::from_millis(3_500);

/// What happens to the primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Blow {
    /// SIGKILL; started again for the next trial.
    Kill,
    /// SIGSTOP; SIGCONT afterwards.
    Pause,
    /// Nothing passes between it and the others, and no connection closes; clients still reach it.
    Cut,
}

/// `chat-admin bench failover`.
#[derive(Args)]
pub struct FailoverArgs {
    /// How often
    #[arg(long, default_value_t = 10, value_name = "N")]
    trials: u32,
    /// What happens to the primary
    #[arg(long, value_enum, default_value = "kill")]
    blow: Blow,
    /// Replicas of the cluster
    #[arg(long, default_value_t = 3, value_name = "N")]
    replicas: u16,
    /// The server's executable [default: beside this one]
    #[arg(long, value_name = "FILE")]
    server_program: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text")]
    output: crate::Output,
}

/// Runs the trials and prints each, then their median and maximum.
pub async fn failover(args: FailoverArgs) -> anyhow::Result<()> {
    ensure!(
        args.replicas >= 3,
        "--replicas: with less than 3 nobody takes over"
    );
    let mut cluster = Cluster::open(Where::Own {
        replicas: args.replicas,
        program: args.server_program.clone(),
        proxied: args.blow == Blow::Cut,
    })?;
    cluster.address(super::Target::Primary).await?;
    let addresses = cluster.members().iter().map(|m| m.client_addr.clone());
    let servers = Servers::connect(addresses).context("not an address")?;
    let account = NewAccount::named("bench-failover", "bench");
    let client = Client::create_account(&servers, account).await?;
    let mut times = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?;
    let mut out = std::io::stdout();
    for trial in 1..=args.trials {
        for _ in 0..CALM_MESSAGES {
            client.send("bench-failover", "calm").await?;
        }
        let primary = cluster.address(super::Target::Primary).await?;
        let struck = Instant::now();
        match args.blow {
            Blow::Kill => cluster.kill(&primary)?,
            Blow::Pause => cluster.signal(&primary, "STOP")?,
            Blow::Cut => cluster.cut_off(&primary)?,
        }
        let dealt = struck.elapsed();
        client.send("bench-failover", "first").await?;
        let took = struck.elapsed();
        times.saturating_record(took.as_micros() as u64);
        if args.output == crate::Output::Text {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let (took, dealt) = (ms(took), ms(dealt));
            // A process that waits for its disk dies when that has answered.
            let gone = match args.blow {
                Blow::Kill => format!(", of which {dealt:.1} ms until the process was gone"),
                Blow::Pause | Blow::Cut => String::new(),
            };
            writeln!(out, "{trial:>4} {took:>10.1} ms{gone}")?;
        }
        match args.blow {
            Blow::Kill => cluster.restart(&primary)?,
            Blow::Pause => cluster.signal(&primary, "CONT")?,
            Blow::Cut => cluster.heal(),
        }
        cluster.wait_linked(&primary).await?;
        tokio::time::sleep(match args.blow {
            Blow::Kill => AFTER_BROKEN,
            Blow::Pause | Blow::Cut => AFTER_SILENT,
        })
        .await;
    }
    let ms = |us: u64| us as f64 / 1e3;
    let (median, most) = (ms(times.value_at_quantile(0.5)), ms(times.max()));
    match args.output {
        crate::Output::Text => writeln!(out, "median {median:.1} ms, maximum {most:.1} ms")?,
        crate::Output::Json => {
            let line = json!({"blow": format!("{:?}", args.blow).to_lowercase(),
                "trials": args.trials, "median_ms": median, "maximum_ms": most});
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}
