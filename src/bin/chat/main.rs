//! `chat`: the terminal client.
//!
//! Made for people and for scripts alike: it finds the primary, goes on when replicas die, and a
//! send has succeeded when the command has. What a script needs to know is in the exit code, and
//! `--output json` prints one object a line.

mod args;
mod commands;
mod input;
mod man;
mod output;
mod profile;
mod screen;
mod zone;

use chat::client::{Class, ClientError};
use clap::Parser;
use std::process::ExitCode;

/// Why a command failed, and with which exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The servers refused, were not there, or do not know the login.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// There is no login in this profile.
    #[error("not logged in: use `chat login NAME` or `chat create-account NAME` first")]
    NoLogin,
    /// The command line or its input makes no sense.
    #[error("{0}")]
    Usage(String),
    /// What was waited for did not come in time.
    #[error("{0}")]
    TimedOut(String),
    /// A file, the terminal, a pipe.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl Failure {
    /// For `map_err`.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) if error.reason == "WRONG_PROTOCOL" => 2,
            Self::Client(error) => match error.class() {
                Class::Refused => 1,
                Class::Unreachable => 3,
                Class::NotLoggedIn => 4,
            },
            Self::Usage(_) | Self::Io { .. } => 2,
            Self::TimedOut(_) => 3,
            Self::NoLogin => 4,
        }
    }

    /// A stable word for programs.
    fn reason(&self) -> &str {
        match self {
            Self::Client(error) => &error.reason,
            Self::NoLogin => "NO_LOGIN",
            Self::Usage(_) => "USAGE",
            Self::TimedOut(_) => "TIMED_OUT",
            Self::Io { .. } => "IO",
        }
    }

    /// The reader of our output has gone: `chat listen | head -1`.
    fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// What to do about servers that speak the other protocol.
pub fn with_hint(error: &ClientError) -> String {
    let other = if error.message.contains("speaks gRPC") {
        "grpc"
    } else {
        "wire"
    };
    format!("{}: try --protocol {other}", error.message)
}

fn main() -> ExitCode {
    let args = args::Args::parse();
    let json = args.output == args::Format::Json;
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            output::failure(&failure, failure.reason(), json);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(mut args: args::Args) -> Result<(), Failure> {
    let cannot_start = || Failure::io("cannot start");
    let Some(command) = args.command.take() else {
        let settings = screen::Settings {
            bell: args.bell,
            mouse: args.mouse,
            profile: args.profile.clone(),
        };
        // Drawing must not wait for the network's work, nor the other way round.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(cannot_start())?;
        let outcome = runtime.block_on(async {
            let cluster = commands::cluster(&args)?;
            screen::run(cluster, settings).await
        });
        // What is still being asked is no reason to stay.
        runtime.shutdown_background();
        return outcome;
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(cannot_start())?
        .block_on(commands::run(args, command))
}
