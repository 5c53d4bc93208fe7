//! `chat-server`: one replica (`run`), or a whole cluster to try (`demo`).

mod demo;
mod run;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

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
    Run(Box<chat::config::Flags>),
    /// Start a cluster on this machine, kill its primary, and show that nothing is lost
    Demo(demo::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(flags) => run::main(&flags),
        Command::Demo(args) => demo::main(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("chat-server: {error:#}");
        ExitCode::FAILURE
    })
}
