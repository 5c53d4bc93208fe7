//! Cuts the power of a disk under a running replica, and looks at what is left.
//!
//! The disk is an ext4 file system in a loop-mounted file. A real `chat-server run`, alone in its
//! cluster, serves real clients; at a random moment the file system is shut down without flushing
//! anything, the process is killed, the file system is mounted again, and the replica started on it:
//! every message with a receipt must be there, once and where the receipt says (see `replica`). With
//! `--store-only` the same for a store by itself (see `store`).
//!
//! `powercut states` needs no power to cut: it records what the store does to its files, and opens
//! every disk that a crash at any moment of it may leave (see `states`).
//!
//! The others need root and loop devices. Exit code 0: nothing was lost; 1: something was, or the replica says
//! that it is damaged, which alone in its cluster it must never be; 2: it could not run.

mod child;
mod disk;
mod ioctl;
#[path = "../../src/bin/chat-server/demo/ports.rs"]
mod ports;
mod preload;
#[path = "../programs.rs"]
mod programs;
mod replica;
mod states;
mod store;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Cuts the power of a disk under a running replica.
#[derive(Parser)]
struct Arguments {
    /// How many times.
    #[arg(long, default_value_t = 20)]
    cuts: u32,
    /// A store by itself, without a replica and clients.
    #[arg(long)]
    store_only: bool,
    /// Acknowledges without syncing: the run must then find losses, or it is blind. For a replica
    /// this takes a C compiler: its syncs are replaced by a preloaded library.
    #[arg(long)]
    without_sync: bool,
    /// The server, if not the one beside this program (which cargo builds if it runs this one).
    #[arg(long)]
    server: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Every state that a crash may leave, one by one, without a real disk.
    States(states::Arguments),
    /// Works through a script, and is recorded.
    #[command(hide = true)]
    Live {
        directory: PathBuf,
        marks: PathBuf,
        seed: u64,
        from: usize,
    },
    /// Opens each directory that its input names.
    #[command(hide = true)]
    Judge,
    /// Writes until it is killed.
    #[command(hide = true)]
    Write { directory: PathBuf },
    /// Checks what is left.
    #[command(hide = true)]
    Check {
        directory: PathBuf,
        index: u64,
        hash: String,
    },
}

/// What came of all cuts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Nothing was lost and nothing is damaged.
    Good,
    /// Something was.
    Bad,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.role {
        Some(Role::Write { directory }) => {
            child::write(directory, !arguments.without_sync).map(|()| Outcome::Good)
        }
        Some(Role::Check {
            directory,
            index,
            hash,
        }) => child::check(directory, *index, hash).map(|()| Outcome::Good),
        Some(Role::States(arguments)) => states::explore(arguments),
        Some(Role::Live {
            directory,
            marks,
            seed,
            from,
        }) => states::live(directory, marks, *seed, *from).map(|()| Outcome::Good),
        Some(Role::Judge) => states::judge().map(|()| Outcome::Good),
        None if arguments.store_only => store::cut_repeatedly(&arguments),
        None => replica::cut_repeatedly(&arguments),
    };
    match result {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Bad) => ExitCode::from(1),
        Err(error) => {
            eprintln!("powercut: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// By a process that runs, to files; 0 where the kernel does not count them.
fn bytes_written(process: u32) -> u64 {
    let counts = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    let count = counts.lines().find_map(|line| line.strip_prefix("wchar: "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}
