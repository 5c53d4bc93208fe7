//! `chat-admin bench prepare`: a test cluster with many accounts, which share one password hash, so
//! that a million of them take a minute and not a day. Refused by replicas that do not run with
//! `--test-cluster`, as those of `chat-server demo` do.

use super::Progress;
use super::cluster::{Cluster, Where};
use anyhow::{Context, ensure};
use chat::admin::client::AdminClient;
use chat::proto::admin::PrepareAccountsRequest;
use clap::Args;
use serde_json::json;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

/// `chat-admin bench prepare`.
#[derive(Args)]
pub struct PrepareArgs {
    /// How many accounts
    #[arg(long, value_name = "N")]
    accounts: u64,
    /// The cluster, as `chat-server demo --serve` describes it in cluster.json
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// The accounts are called by this and a number of seven digits
    #[arg(long, default_value = "user-", value_name = "TEXT")]
    prefix: String,
    /// The first number
    #[arg(long, default_value_t = 0, value_name = "N")]
    first: u64,
    /// Everybody's password
    #[arg(long, default_value = "a test password", value_name = "TEXT")]
    password: String,
    #[arg(long, value_enum, default_value = "text")]
    output: crate::Output,
}

/// Creates the accounts through the primary's admin socket.
pub async fn prepare(args: PrepareArgs) -> anyhow::Result<()> {
    ensure!(args.accounts > 0, "--accounts: at least 1");
    let cluster = Cluster::open(Where::Described(args.cluster.clone()))?;
    let primary = cluster.address(super::Target::Primary).await?;
    let mut members = cluster.members().iter();
    let member = members.find(|member| member.client_addr == primary);
    let directory = member.and_then(|member| member.data_dir.clone());
    let directory = directory.context("cluster.json does not tell the primary's data_dir")?;
    let client = AdminClient::connect(&directory).await?;
    let mut client = client.context("no replica runs on the primary's data directory")?;
    let progress = Progress::new();
    let began = Instant::now();
    let request = PrepareAccountsRequest {
        prefix: args.prefix,
        first: args.first,
        count: args.accounts,
        password: args.password,
    };
    let mut done = 0;
    client
        .prepare_accounts(request, |so_far| {
            done = so_far;
            progress.part(so_far, args.accounts, &format!("{so_far} accounts"));
        })
        .await?;
    progress.end();
    ensure!(done == args.accounts, "only {done} accounts were created");
    let seconds = began.elapsed().as_secs_f64();
    let mut out = std::io::stdout();
    match args.output {
        crate::Output::Text => writeln!(out, "{done} accounts in {seconds:.1} s")?,
        crate::Output::Json => writeln!(out, "{}", json!({"accounts": done, "seconds": seconds}))?,
    }
    Ok(())
}
