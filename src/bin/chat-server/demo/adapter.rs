//! The demo's view of the admin library: the only file here that knows its types.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// What the demo wants to know of a replica.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Applied index.
    pub applied: u64,
    /// Last index of the log.
    pub last: u64,
    /// State digest at `applied`.
    pub digest: String,
}

/// What a comparison of all replicas came to.
#[derive(Clone, Debug)]
pub struct Verified {
    /// How many were compared.
    pub compared: usize,
    /// At which index.
    pub index: u64,
    /// All were equal, and nothing else was found.
    pub identical: bool,
    /// What is wrong, a sentence each.
    pub findings: Vec<String>,
}

/// Asks a running replica through its admin socket.
pub async fn status(data_dir: &Path) -> Result<Seen> {
    let status = chat::admin::status(data_dir)
        .await
        .with_context(|| format!("no status from {}", data_dir.display()))?;
    Ok(Seen {
        applied: status.applied,
        last: status.last,
        digest: status.digest,
    })
}

/// Verifies each replica's log, records and state, and compares them with each other.
pub async fn verify(data_dirs: &[PathBuf]) -> Result<Verified> {
    let report = chat::admin::verify(data_dirs)
        .await
        .context("the replicas cannot be verified")?;
    Ok(Verified {
        compared: report.compared,
        index: report.index,
        identical: report.identical,
        findings: report.findings,
    })
}
