//! After the demo: the cluster stays up, and what to do with it is printed, ready to paste.

use super::Accounts;
use super::replicas::Replicas;
use super::shell;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT and SIGTERM.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From now on these signals no longer end the process by themselves.
    pub fn install() -> Result<Self> {
        let install = |kind| signal(kind).context("cannot catch signals");
        Ok(Self {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
            hang_up: install(SignalKind::hangup())?,
        })
    }

    /// Waits for one; returns the exit code that a shell expects of it.
    pub async fn next(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.interrupt.recv() => ExitCode::from(130),
            _ = self.terminate.recv() => ExitCode::from(143),
            _ = self.hang_up.recv() => ExitCode::from(129),
        }
    }
}

/// Serves until a signal.
pub async fn stay(
    replicas: &mut Replicas,
    directory: &Path,
    accounts: &Accounts,
    signals: &mut Signals,
) -> Result<()> {
    let description = replicas.write_description()?;
    print_commands(replicas, directory, accounts)?;
    println!("described in {}; Ctrl-C ends it", description.display());
    loop {
        tokio::select! {
            _ = signals.next() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
        for id in replicas.ended() {
            println!("replica {id} has ended; to start it again:");
            println!("  {}", replicas.command_line(id)?);
            replicas.write_description()?;
        }
    }
}

fn print_commands(replicas: &Replicas, directory: &Path, accounts: &Accounts) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this executable")?;
    let beside = |name: &str| program.with_file_name(name);
    let word = |path: &Path| shell::word(&path.to_string_lossy()).into_owned();
    let (chat, admin) = (beside("chat"), beside("chat-admin"));
    println!("\nThe cluster is up. To use it, in another terminal:");
    if !chat.exists() || !admin.exists() {
        println!("  cargo build --release --bin chat --bin chat-admin");
    }
    let servers = replicas.client_addresses().join(",");
    println!("  export CHAT_SERVER={servers}");
    println!("to chat with it (as one of the two who talked, or with an account of your own):");
    let chat = word(&chat);
    for (name, password) in &accounts.logins {
        println!("  echo {password} | {chat} --profile {name} login {name}");
    }
    println!("  {chat} --profile alice   # full screen; bob in one more terminal");
    println!("  {chat} --profile bob send alice 'hello, alice'");
    println!("  {chat}   # and Ctrl-T for a new account");
    print_wire(replicas, accounts, &chat);
    println!("to kill a replica:");
    for id in replicas.ids() {
        if let Some(pid) = replicas.pid(id) {
            println!("  kill -9 {pid}   # replica {id}");
        }
    }
    println!("to look at it:");
    let first = directory.join("replica-1");
    let admin = word(&admin);
    println!("  {admin} status --data-dir {}", word(&first));
    let all: Vec<String> = replicas
        .data_directories()
        .iter()
        .map(|path| format!("--data-dir {}", word(path)))
        .collect();
    println!("  {admin} verify {}", all.join(" "));
    println!();
    Ok(())
}

/// The other front door.
fn print_wire(replicas: &Replicas, accounts: &Accounts, chat: &str) {
    let addresses = replicas.wire_addresses();
    println!("by lines of text (the token is in the reply to the first one):");
    if let Some((host, port)) = addresses.first().and_then(|first| first.rsplit_once(':')) {
        println!("  nc {host} {port} | tr '\\036' '\\n'");
    }
    for (name, password) in accounts.logins.iter().rev().take(1) {
        println!("  1||1||{name}||{password}||-");
        println!("  2||1||TOKEN||{name}||alice||hello from nc||-");
        println!("  5||1||TOKEN||{name}||-");
    }
    let wire = addresses.join(",");
    println!("  {chat} --protocol wire --server {wire} --profile alice");
}
