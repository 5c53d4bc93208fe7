//! `chat-admin bench listing`: how long a page of account names takes, by pattern.
//!
//! Fill the cluster before, by `chat-admin bench prepare`. For what a listing costs others, run
//! `chat-admin bench` beside it.

use super::Target;
use super::cluster::{Cluster, Where};
use anyhow::{Context, ensure};
use chat::client::{Client, Cluster as Servers, NewAccount};
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::json;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

/// `chat-admin bench listing`.
#[derive(Args)]
pub struct ListingArgs {
    /// The cluster, as `chat-server demo --serve` describes it in cluster.json
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// A regular expression; may be repeated
    #[arg(long, value_name = "REGEX", required = true)]
    pattern: Vec<String>,
    /// How often each
    #[arg(long, default_value_t = 20, value_name = "N")]
    trials: u32,
    /// Names in the page; 0: as many as the server gives
    #[arg(long, default_value_t = 0, value_name = "N")]
    page_size: u32,
    #[arg(long, value_enum, default_value = "text")]
    output: crate::Output,
}

/// Asks for the first page of each pattern, and prints medians and maxima.
pub async fn listing(args: ListingArgs) -> anyhow::Result<()> {
    ensure!(args.trials > 0, "--trials: at least 1");
    let cluster = Cluster::open(Where::Described(args.cluster.clone()))?;
    let primary = cluster.address(Target::Primary).await?;
    let servers = Servers::connect([primary]).context("not an address")?;
    let name = format!("bench-{:08x}-lists", rand::random::<u32>());
    let client = Client::create_account(&servers, NewAccount::named(&name, "bench")).await?;
    let mut out = std::io::stdout();
    if args.output == crate::Output::Text {
        writeln!(
            out,
            "{:>8} {:>10} {:>10}  pattern",
            "names", "median ms", "longest"
        )?;
    }
    for pattern in &args.pattern {
        let mut times = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?;
        let mut names = 0;
        for _ in 0..args.trials {
            let began = Instant::now();
            let page = client.list_accounts(pattern, args.page_size, "").await?;
            times.saturating_record(began.elapsed().as_micros() as u64);
            names = page.usernames.len();
        }
        let ms = |us: u64| us as f64 / 1e3;
        let (median, most) = (ms(times.value_at_quantile(0.5)), ms(times.max()));
        match args.output {
            crate::Output::Text => {
                writeln!(out, "{names:>8} {median:>10.1} {most:>10.1}  {pattern}")?;
            }
            crate::Output::Json => {
                let line = json!({"pattern": pattern, "names": names, "trials": args.trials,
                    "median_ms": median, "maximum_ms": most});
                writeln!(out, "{line}")?;
            }
        }
    }
    client.delete_account("bench").await?;
    Ok(())
}
