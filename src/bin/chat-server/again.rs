//! What follows damage that a running replica has come upon: it is written down, and the same process
//! begins again, as if it had been started anew. Its open puts the store aside and repairs it.
//!
//! The process image is replaced, rather than everything in it closed and opened again: nothing of
//! the run that met the damage survives, no thread that hangs in the store, no handle that keeps its
//! file locked.

use anyhow::{Context as _, bail};
use chat::config::Config;
use chat::limits::REPAIRS_AN_HOUR;
use chat::storage::{note_damage, repairs};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Damage is written down, and the next start repairs it: see `docs/operations.md`.
const DAMAGE_NOTED: i32 = 3;
/// As of every other failure.
const FAILURE: i32 = 1;
const HOUR: Duration = Duration::from_secs(3600);

/// Begins again, or ends. Nothing of the damaged store is closed before: that may take for ever.
pub fn after_damage(config: &Config, what: &str) -> ! {
    let code = begin_again(config, what).unwrap_or_else(|error| {
        eprintln!("chat-server: {error:#}");
        FAILURE
    });
    std::process::exit(code)
}

/// Returns only if it does not.
fn begin_again(config: &Config, what: &str) -> anyhow::Result<i32> {
    if config.peers.len() < 2 {
        bail!(
            "the store in {} is damaged and there is no other replica to repair it from ({what}). \
             Next: `chat-admin verify --data-dir` shows everything that is wrong; restore the \
             directory from a backup",
            config.data_dir.display()
        );
    }
    note_damage(&config.data_dir, what).context("cannot write down the damage")?;
    let recent = repairs_in_the_last_hour(config)?;
    if recent >= REPAIRS_AN_HOUR {
        tracing::error!(
            "{recent} repairs in the last hour: the disk of {} is not to be trusted. This replica \
             ends, and repairs itself at its next start",
            config.data_dir.display()
        );
        return Ok(DAMAGE_NOTED);
    }
    tracing::warn!("begins again, to repair its store");
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let error = Command::new(program()).arg0(name).args(arguments).exec();
    tracing::error!("cannot begin again: {error}. The next start repairs the store");
    Ok(DAMAGE_NOTED)
}

/// Those that a running replica has brought about.
fn repairs_in_the_last_hour(config: &Config) -> anyhow::Result<usize> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let since = now.saturating_sub(HOUR).as_micros() as u64;
    let notes = repairs(&config.data_dir)?;
    let recent = |note: &&chat::storage::RepairNote| note.while_running && note.began.0 >= since;
    Ok(notes.iter().filter(recent).count())
}

/// This program, also after an upgrade has removed its file.
fn program() -> PathBuf {
    let path = std::env::current_exe().unwrap_or_default();
    if path.exists() {
        path
    } else {
        PathBuf::from("/proc/self/exe")
    }
}
