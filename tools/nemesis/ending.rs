//! The end of a run: everything heals, the clients finish, and what the replicas hold is read and
//! compared.

use crate::check::account::Action;
use crate::check::messages::Inboxes;
use crate::clients::arena::Left;
use crate::clients::talk::{Talker, read_inbox};
use crate::clients::{Crowd, Phase, arena};
use crate::nemesis::Nemesis;
use crate::upkeep;
use anyhow::{Context as _, Result, anyhow};
use chat::admin::client::AdminClient;
use chat::admin::cluster::{Member, verify_members};
use chat::admin::format::verdict_line;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// From the last acknowledged message until all listeners must have heard it.
const HEARD_WAIT: Duration = Duration::from_secs(30);
/// For reading one whole inbox.
const READ_WAIT: Duration = Duration::from_secs(120);
/// Times that a reading is tried.
const TRIES_MAX: u32 = 3;

/// The clients' tasks.
pub struct Tasks {
    /// Phase of the run.
    pub phase: watch::Sender<Phase>,
    /// The accounts of the last round, when their senders have ended.
    pub drained: watch::Receiver<Option<Vec<Talker>>>,
    /// Conversations.
    pub talk: JoinHandle<Vec<Talker>>,
    /// Fights over accounts.
    pub fights: Vec<JoinHandle<Vec<Left>>>,
    /// Accounts that are deleted, and the hosts that they leave.
    pub guests: JoinHandle<Vec<Talker>>,
}

/// What there is at the end.
pub struct Ending {
    /// All inboxes.
    pub inboxes: Inboxes,
    /// `verify: 3 of 3 replicas compared at index 4017: identical`.
    pub verdict: String,
    /// A sentence about each replica's disk.
    pub upkeep: Vec<String>,
}

/// Heals, drains, reads, compares. What is wrong becomes a finding of the nemesis.
pub async fn end(nemesis: &mut Nemesis<Action>, crowd: &Crowd, mut tasks: Tasks) -> Result<Ending> {
    crate::say(&nemesis.history, "everything is healed");
    nemesis.heal_everything().await?;
    nemesis.all_well().await?;
    tasks.phase.send_replace(Phase::Drain);
    let mut left = Vec::new();
    for fight in tasks.fights {
        left.extend(fight.await.context("a client's task failed")?);
    }
    let hosts = tasks.guests.await.context("a client's task failed")?;
    let drained = tasks.drained.wait_for(Option::is_some);
    let last = drained.await.context("a client's task failed")?.clone();
    listeners_catch_up(nemesis, crowd, &last.unwrap_or_default()).await?;
    tasks.phase.send_replace(Phase::End);
    let mut talkers = tasks.talk.await.context("a client's task failed")?;
    talkers.extend(hosts);

    let text = format!(
        "{} inboxes are read, {} accounts asked for",
        talkers.len(),
        left.len()
    );
    crate::say(&nemesis.history, &text);
    let mut inboxes = Inboxes::new();
    for (number, talker) in talkers.iter().enumerate() {
        let messages = read(crowd, talker, number).await?;
        inboxes.insert(talker.name.clone(), messages);
    }
    arena::last_reads(crowd, &left)
        .await
        .map_err(|error| anyhow!("the accounts cannot be read at the end: {error}"))?;
    crate::say(&nemesis.history, "the replicas are compared");
    let directories = nemesis.replicas.data_directories();
    let verdict = compare(nemesis, &directories).await?;
    Ok(Ending {
        inboxes,
        verdict,
        upkeep: upkeep::tell(&nemesis.replicas).await?,
    })
}

/// Each listener of the last round hears everything that its inbox holds.
async fn listeners_catch_up(
    nemesis: &mut Nemesis<Action>,
    crowd: &Crowd,
    talkers: &[Talker],
) -> Result<()> {
    for talker in talkers {
        let inbox = read(crowd, talker, 0).await?;
        let end = inbox.last().map_or(0, |last| last.0);
        let deadline = Instant::now() + HEARD_WAIT;
        while talker.heard() < end && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
        if talker.heard() < end {
            nemesis.findings.push(format!(
                "the listener of {} is at place {} of {end}, {} s after the last message",
                talker.name,
                talker.heard(),
                HEARD_WAIT.as_secs()
            ));
        }
    }
    Ok(())
}

async fn read(
    crowd: &Crowd,
    talker: &Talker,
    replica: usize,
) -> Result<Vec<crate::history::Delivered>> {
    let mut tries = 0;
    loop {
        match read_inbox(crowd, talker, replica, READ_WAIT).await {
            Ok(messages) => return Ok(messages),
            Err(error) => {
                tries += 1;
                if tries == TRIES_MAX {
                    let name = &talker.name;
                    return Err(anyhow!("the inbox of {name} cannot be read: {error}"));
                }
            }
        }
    }
}

/// `chat-admin verify` with all data directories.
async fn compare(nemesis: &mut Nemesis<Action>, directories: &[PathBuf]) -> Result<String> {
    let mut members = Vec::new();
    for directory in directories {
        let client = AdminClient::connect(directory)
            .await?
            .with_context(|| format!("no replica runs in {}", directory.display()))?;
        members.push(Member::Running(client));
    }
    let verdict = verify_members(members)
        .await
        .context("the replicas cannot be compared")?;
    for (id, finding) in verdict.findings() {
        let whose = id.map_or("between replicas".to_owned(), |id| format!("replica {id}"));
        let sentence = &finding.sentence;
        nemesis
            .findings
            .push(format!("verify, {whose}: {sentence}"));
    }
    for (id, why) in &verdict.skipped {
        let finding = format!("verify: replica {id} was not compared: {why}");
        nemesis.findings.push(finding);
    }
    Ok(verdict_line(&verdict))
}
