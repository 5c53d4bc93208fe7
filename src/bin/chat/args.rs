//! The command line.

use clap::{Parser, Subcommand, ValueEnum};
use std::time::Duration;

const AFTER_HELP: &str = "\
Passwords are asked for on a terminal, and otherwise read from standard input, one a line; never \
from the command line, where others could see them.

Exit codes:
  0  done
  1  refused by the server
  2  wrong usage, or a file or pipe that cannot be used
  3  no replica answered in time, or --timeout has passed
  4  not logged in, or the login is no longer valid

A `send` that ends with 0 is fsynced on a majority of the replicas and in the recipient's inbox \
exactly once, however often it had to be retried. One that ends with 3 says whether the message \
was certainly not sent (NOT_APPLIED) or perhaps (OUTCOME_UNKNOWN).";

const LONG_ABOUT: &str = "\
The client of a replicated chat server.

Without a command it is a full-screen client: conversations, messages with their state, search in \
the account list. F1 in it shows the keys. With a command it does one thing, for scripts.";

/// The client of a replicated chat server.
#[derive(Parser)]
#[command(name = "chat", version, about = "The client of a replicated chat server", long_about = LONG_ABOUT, after_help = AFTER_HELP)]
pub struct Args {
    /// Replicas to speak to: HOST:PORT, separated by commas; one of them suffices, all are better.
    #[arg(
        long,
        short,
        global = true,
        env = "CHAT_SERVER",
        default_value = "127.0.0.1:7400",
        value_delimiter = ','
    )]
    pub server: Vec<String>,
    /// How to speak to them: with `wire`, --server names wire addresses (--wire-addr of the
    /// replicas).
    #[arg(
        long,
        global = true,
        env = "CHAT_PROTOCOL",
        value_enum,
        default_value = "grpc"
    )]
    pub protocol: ProtocolName,
    /// Which login to use; each has a file of its own under ~/.config/chat (or
    /// $XDG_CONFIG_HOME/chat).
    #[arg(
        long,
        short,
        global = true,
        env = "CHAT_PROFILE",
        default_value = "default"
    )]
    pub profile: String,
    /// How to print.
    #[arg(long, short, global = true, value_enum, default_value = "text")]
    pub output: Format,
    /// Seconds until a request is given up, with all its retries.
    #[arg(long, global = true, default_value = "30", value_parser = seconds)]
    pub deadline: Duration,
    /// Full screen: ring the terminal's bell when a message comes.
    #[arg(long)]
    pub bell: bool,
    /// Full screen: take the mouse (the wheel scrolls, a click opens a conversation).
    #[arg(long)]
    pub mouse: bool,
    /// Without one: the full-screen client.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// How to speak to the replicas.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProtocolName {
    /// gRPC.
    Grpc,
    /// The text protocol.
    Wire,
}

impl From<ProtocolName> for chat::client::Protocol {
    fn from(name: ProtocolName) -> Self {
        match name {
            ProtocolName::Grpc => Self::Grpc,
            ProtocolName::Wire => Self::Wire,
        }
    }
}

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Create an account and log in.
    CreateAccount {
        /// Lower-case letters, digits, `.`, `_`, `-`; at most 32.
        name: String,
        /// How you are called: `whoami` shows it, others see the name only.
        #[arg(long, default_value = "")]
        full_name: String,
        /// What this device is called; each device has its own place in the inbox.
        #[arg(long, default_value = "")]
        device: String,
    },
    /// Log in.
    Login {
        /// The account.
        name: String,
        /// What this device is called; each device has its own place in the inbox.
        #[arg(long, default_value = "")]
        device: String,
    },
    /// Log out, and forget the login.
    Logout,
    /// Send a message.
    Send {
        /// The account that gets it.
        recipient: String,
        /// The message; standard input if missing or `-` (one line end at its end is dropped).
        text: Option<String>,
        /// Each line of standard input is a message, in order; empty lines are skipped.
        #[arg(long)]
        lines: bool,
    },
    /// Print messages: first those that are waiting, then those that come. Times are in the local
    /// zone; with `--output json` in microseconds since 1970, UTC.
    Listen {
        /// Tell the server that this device has what was printed.
        #[arg(long)]
        ack: bool,
        /// End after this many messages.
        #[arg(long)]
        count: Option<u64>,
        /// Start after this place of the inbox (0: at its beginning).
        #[arg(long)]
        after: Option<u64>,
        /// End after this many seconds; with --count that is a failure.
        #[arg(long, value_parser = seconds)]
        timeout: Option<Duration>,
    },
    /// List account names.
    List {
        /// A regular expression, searched anywhere in the name.
        #[arg(default_value = "")]
        pattern: String,
        /// Names on a page; at most 1000.
        #[arg(long, default_value = "0", hide_default_value = true)]
        page_size: u32,
        /// All pages, not only the first.
        #[arg(long)]
        all: bool,
    },
    /// Show where this account is logged in.
    Sessions {
        #[command(subcommand)]
        command: Option<SessionsCommand>,
    },
    /// Change the password; every other login of the account ends.
    ChangePassword,
    /// Delete the account, its inbox and its logins.
    DeleteAccount,
    /// Show whose login this is.
    Whoami,
    /// Print the completions of a shell, to be put where it looks for them.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page (`chat man | man -l -`).
    Man,
}

/// What to do with sessions.
#[derive(Subcommand)]
pub enum SessionsCommand {
    /// End one of them.
    Revoke {
        /// As shown by `chat sessions`.
        id: u64,
    },
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    if duration.is_zero() || duration > Duration::from_secs(365 * 86_400) {
        return Err("between 0 seconds and a year".into());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_the_help_names_the_exit_codes() {
        Args::command().debug_assert();
        let help = Args::command().render_help().to_string();
        for code in [
            "0  done",
            "1  refused",
            "2  wrong",
            "3  no replica",
            "4  not logged",
        ] {
            assert!(help.contains(code), "{code:?} is missing in:\n{help}");
        }
    }

    #[test]
    fn seconds_are_finite_and_positive() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "x", "-1", "0", "NaN", "inf", "1e12"] {
            assert!(seconds(wrong).is_err(), "{wrong:?}");
        }
    }
}
