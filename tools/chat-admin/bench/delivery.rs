//! `chat-admin bench delivery`: how long after its acknowledgement a message reaches somebody who
//! listens on another replica.
//!
//! One message at a time, at a light load: sent through the primary, heard on a replica that is not.
//! Both times are taken in this process. A message that is heard before its acknowledgement came back
//! counts as 0.

use super::cluster::{Cluster, Where};
use super::{Progress, Target};
use anyhow::{Context, ensure};
use chat::client::{Client, Cluster as Servers, Listen, NewAccount, Options};
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::json;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A message that is not heard after so long ends the measurement.
const HEARD_WITHIN: Duration = Duration::from_secs(10);
/// Messages before the first that counts.
const WARM_UP: u64 = 20;

/// `chat-admin bench delivery`.
#[derive(Args)]
pub struct DeliveryArgs {
    /// How many messages
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    messages: u64,
    /// One message every so many milliseconds, or later if the last one was not heard by then
    #[arg(long, default_value_t = 10, value_name = "MS")]
    every_ms: u64,
    /// Size of a message
    #[arg(long, default_value_t = 150, value_name = "BYTES")]
    body_bytes: usize,
    /// Replicas of the cluster
    #[arg(long, default_value_t = 3, value_name = "N")]
    replicas: u16,
    /// The server's executable [default: beside this one]
    #[arg(long, value_name = "FILE")]
    server_program: Option<PathBuf>,
    /// A running cluster as `chat-server demo` describes it in cluster.json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["replicas", "server_program"])]
    cluster: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text")]
    output: crate::Output,
}

/// Microseconds from the call to the acknowledgement, and from there to the listener.
struct Times {
    acknowledged: Histogram<u64>,
    heard: Histogram<u64>,
}

/// Sends, listens, and prints percentiles.
pub async fn delivery(args: DeliveryArgs) -> anyhow::Result<()> {
    ensure!(args.messages > 0, "--messages: at least 1");
    ensure!(
        args.replicas >= 3,
        "--replicas: with one there is no other to listen on"
    );
    let cluster = Cluster::open(match args.cluster.clone() {
        Some(file) => Where::Described(file),
        None => Where::Own {
            replicas: args.replicas,
            program: args.server_program.clone(),
            proxied: false,
        },
    })?;
    let (sender, listener) = accounts(&cluster).await?;
    let progress = Progress::new();
    let times = measure(&args, &sender, &listener, &progress).await?;
    progress.end();
    show(&args, &times)
}

/// One that sends through the primary, and one that listens elsewhere.
async fn accounts(cluster: &Cluster) -> anyhow::Result<(Client, Client)> {
    let stay = || Options {
        follow_primary: false,
        ..Options::default()
    };
    let primary = cluster.address(Target::Primary).await?;
    let other = cluster.address(Target::Secondary).await?;
    let primary = Servers::connect_with([primary], stay()).context("not an address")?;
    let other = Servers::connect_with([other], stay()).context("not an address")?;
    let run: u32 = rand::random();
    let account = |what: &str| NewAccount::named(&format!("bench-{run:08x}-{what}"), "bench");
    let sender = Client::create_account(&primary, account("sends")).await?;
    let listener = Client::create_account(&other, account("listens")).await?;
    Ok((sender, listener))
}

async fn measure(
    args: &DeliveryArgs,
    sender: &Client,
    listener: &Client,
    progress: &Progress,
) -> anyhow::Result<Times> {
    let mut times = Times {
        acknowledged: Histogram::new_with_bounds(1, 60_000_000, 3)?,
        heard: Histogram::new_with_bounds(1, 60_000_000, 3)?,
    };
    let to = listener.session().username().to_owned();
    let body = "x".repeat(args.body_bytes);
    let mut inbox = listener.listen(Listen::default());
    let every = Duration::from_millis(args.every_ms);
    for number in 0..WARM_UP + args.messages {
        let began = Instant::now();
        let sending = async {
            let sent = sender.send(&to, body.as_str()).await?;
            anyhow::Ok((sent.message_id, Instant::now()))
        };
        let hearing = async {
            let heard = tokio::time::timeout(HEARD_WITHIN, inbox.next_message()).await;
            let heard = heard.context("a message is not heard")?;
            let message = heard.context("the listener ended")??;
            anyhow::Ok((message.message_id, Instant::now()))
        };
        let ((sent, acknowledged), (id, heard)) = tokio::try_join!(sending, hearing)?;
        ensure!(sent == id, "message {sent} was sent, and {id} was heard");
        if number >= WARM_UP {
            let us = |time: Duration| (time.as_micros() as u64).max(1);
            let after = heard.saturating_duration_since(acknowledged);
            times
                .acknowledged
                .saturating_record(us(acknowledged.duration_since(began)));
            times.heard.saturating_record(us(after));
        }
        progress.part(number, WARM_UP + args.messages, "one message at a time");
        tokio::time::sleep(every.saturating_sub(began.elapsed())).await;
    }
    Ok(times)
}

fn show(args: &DeliveryArgs, times: &Times) -> anyhow::Result<()> {
    let of = |times: &Histogram<u64>| {
        [0.5, 0.99, 1.0].map(|quantile| times.value_at_quantile(quantile) as f64 / 1e3)
    };
    let (acknowledged, heard) = (of(&times.acknowledged), of(&times.heard));
    let mut out = std::io::stdout();
    if args.output == crate::Output::Json {
        let line = json!({"messages": args.messages, "every_ms": args.every_ms,
            "acknowledged_ms": {"p50": acknowledged[0], "p99": acknowledged[1], "max": acknowledged[2]},
            "heard_after_ms": {"p50": heard[0], "p99": heard[1], "max": heard[2]}});
        writeln!(out, "{line}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{} messages, one every {} ms; milliseconds: p50, p99, longest",
        args.messages, args.every_ms
    )?;
    for (what, [p50, p99, most]) in [
        ("from the call to the acknowledgement", acknowledged),
        ("from there to a listener on another replica", heard),
    ] {
        writeln!(out, "{what:<44} {p50:>8.2} {p99:>8.2} {most:>8.2}")?;
    }
    Ok(())
}
