//! `chat-server`: one replica (`run`), or a whole cluster to try (`demo`).

mod again;
mod clock;
mod demo;
mod run;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// See Cargo.toml for the figure.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A replicated, durable chat server
#[derive(Parser)]
#[command(name = "chat-server", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one replica on one data directory, until SIGTERM or SIGINT
    Run {
        #[command(flatten)]
        flags: Box<chat::config::Flags>,
        /// Stop as soon as standard input ends: with whoever started this, however that ended
        #[arg(long, hide = true)]
        until_stdin_ends: bool,
    },
    /// Start a cluster on this machine, kill its primary, and show that nothing is lost
    Demo(demo::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run {
            flags,
            until_stdin_ends,
        } => run::main(&flags, until_stdin_ends),
        Command::Demo(args) => demo::main(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("chat-server: {error:#}");
        ExitCode::FAILURE
    })
}
