//! The demo's view of the admin library: the only file here that knows its types.

use anyhow::{Context, Result};
use chat::admin::client::AdminClient;
use chat::admin::cluster::{Member, verify_members};
use chat::admin::format::verdict_line;
use std::path::{Path, PathBuf};

/// What the demo wants to know of a replica.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Applied index.
    pub applied: u64,
    /// Last index of the log.
    pub last: u64,
    /// State digest at `applied`.
    pub digest: Vec<u8>,
}

/// What a comparison of all replicas came to.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Every replica was compared, all were equal, and nothing else was found.
    pub identical: bool,
    /// `verify: 3 of 3 replicas compared at index 4017: identical`.
    pub line: String,
    /// What is wrong, a sentence each.
    pub findings: Vec<String>,
}

/// Asks a running replica through its admin socket.
pub async fn status(data_dir: &Path) -> Result<Seen> {
    let status = connect(data_dir)
        .await?
        .local_status()
        .await
        .with_context(|| format!("no status from {}", data_dir.display()))?;
    Ok(Seen {
        applied: status.applied_index,
        last: status.last_index,
        digest: status.digest.to_vec(),
    })
}

/// Verifies each replica's log, records and state, and compares them with each other.
pub async fn verify(data_dirs: &[PathBuf]) -> Result<Verified> {
    let mut members = Vec::new();
    for data_dir in data_dirs {
        members.push(Member::Running(connect(data_dir).await?));
    }
    let verdict = verify_members(members)
        .await
        .context("the replicas cannot be verified")?;
    let findings = verdict.findings();
    Ok(Verified {
        identical: verdict.all_identical() && verdict.replicas == data_dirs.len(),
        line: verdict_line(&verdict),
        findings: findings
            .iter()
            .map(|(_, finding)| finding.sentence.clone())
            .collect(),
    })
}

async fn connect(data_dir: &Path) -> Result<AdminClient> {
    AdminClient::connect(data_dir)
        .await
        .with_context(|| format!("no admin socket in {}", data_dir.display()))?
        .with_context(|| format!("no replica runs in {}", data_dir.display()))
}
