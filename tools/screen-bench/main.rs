//! How fast the full-screen client is, from outside: in a pseudo-terminal of 80 by 24, with a
//! history of many messages and no server.
//!
//! ```sh
//! cargo build --release --bin chat
//! cargo run --release --example screen-bench
//! ```
//!
//! Each figure is the time from the start of the process, or from a key, to the moment at which the
//! bytes that show its effect can be read from the terminal. An example and no binary: what opens a
//! pseudo-terminal is a dependency of tests.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Nothing takes this long.
const PATIENCE: Duration = Duration::from_secs(20);
/// The terminal has drawn all that it was going to.
const QUIET: Duration = Duration::from_millis(60);
/// Stands in the last message, without a space: free cells are not drawn.
const LAST: &str = "the-last-one";
/// Nothing else has this letter.
const LETTER: &str = "∎";

/// Measures the full-screen client.
#[derive(Parser)]
struct Args {
    /// In the conversation that is open.
    #[arg(long, default_value = "100000")]
    messages: u64,
    /// Starts, and keys of each kind.
    #[arg(long, default_value = "30", value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The client; the one beside this program if missing.
    #[arg(long)]
    chat: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let chat = match args.chat {
        Some(chat) => chat,
        None => beside_this("chat")?,
    };
    let home = tempfile::tempdir()?;
    write_login(home.path())?;
    let none = History::of(home.path(), 0)?;
    let starts = run_often(args.runs, || {
        Terminal::start(&chat, home.path())?.first_frame()
    })?;
    println!(
        "{:>10}  {:<34} {:>9} {:>9} {:>9}",
        "messages", "", "median", "slowest", "times"
    );
    report(none.messages, "start to the first frame", &starts);
    let many = History::of(home.path(), args.messages)?;
    let starts = run_often(args.runs, || {
        Terminal::start(&chat, home.path())?.first_frame()
    })?;
    report(many.messages, "start to the first frame", &starts);
    let starts = run_often(args.runs, || {
        Terminal::start(&chat, home.path())?.shows(LAST)
    })?;
    // Nobody tells whose history this is: a second of it is the wait for that.
    report(many.messages, "start to the last message, alone", &starts);
    let mut terminal = Terminal::start(&chat, home.path())?;
    terminal.shows(LAST)?;
    for (what, key, shown, back) in [
        ("a letter", LETTER, LETTER, "\x15"),
        ("PageUp", "\x1b[5~", "below", "\x1b"),
        ("Ctrl-Home", "\x1b[1;5H", "below", "\x1b"),
    ] {
        let times = run_often(args.runs, || terminal.press(key, shown, back))?;
        report(many.messages, &format!("{what} to its effect"), &times);
    }
    Ok(())
}

fn beside_this(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let path = program
        .parent()
        .and_then(Path::parent)
        .map(|target| target.join(name));
    let path = path.filter(|path| path.exists());
    path.with_context(|| format!("there is no `{name}`: cargo build --release --bin {name}"))
}

fn run_often(runs: u32, mut run: impl FnMut() -> Result<Duration>) -> Result<Vec<Duration>> {
    let mut times = (0..runs).map(|_| run()).collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    Ok(times)
}

fn report(messages: u64, what: &str, sorted: &[Duration]) {
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1_000.0);
    let (median, slowest) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    println!(
        "{messages:>10}  {what:<34} {:>9} {:>9} {:>9}",
        ms(median),
        ms(slowest),
        sorted.len()
    );
}

/// A login that no server will ever see.
fn write_login(home: &Path) -> Result<()> {
    let directory = home.join("config/chat");
    std::fs::create_dir_all(&directory)?;
    let login = json!({
        "username": "alice",
        "user_id": 4,
        "device": "default",
        "token": format!("ct_{}", "0".repeat(64)),
        "client_id": vec![7; 16],
        "next_sequence": 2,
    });
    Ok(std::fs::write(
        directory.join("default.json"),
        login.to_string(),
    )?)
}

struct History {
    messages: u64,
}

impl History {
    /// Messages of bob, of about 80 letters each, and a message of one's own after each fourth.
    fn of(home: &Path, messages: u64) -> Result<Self> {
        let directory = home.join("data/chat");
        std::fs::create_dir_all(&directory)?;
        let file = File::create(directory.join("default.alice.history"))?;
        let mut file = BufWriter::new(file);
        let words = "some words, as people write them, and not always of the same length";
        for number in 1..=messages {
            let end = if number == messages { LAST } else { "" };
            let body = format!("{number}: {} {end}", &words[..20 + (number % 48) as usize]);
            let time_us = 1_790_000_000_000_000 + number * 20_000_000;
            let record = if number % 5 == 4 {
                json!({"out": {"key": number, "peer": "bob", "time_us": time_us, "body": body, "request": null}})
            } else {
                json!({"in": {"peer": "bob", "id": number * 10, "seq": number, "time_us": time_us, "body": body}})
            };
            writeln!(file, "{record}")?;
            if number % 5 == 4 {
                let record =
                    json!({"accepted": {"key": number, "id": number * 10, "time_us": time_us}});
                writeln!(file, "{record}")?;
            }
        }
        file.flush()?;
        Ok(Self { messages })
    }
}

/// The client in a pseudo-terminal.
struct Terminal {
    client: Child,
    keys: File,
    drawn: Receiver<(Instant, Vec<u8>)>,
    started: Instant,
}

impl Terminal {
    fn start(chat: &Path, home: &Path) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size)?;
        let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let terminal = File::options().read(true).write(true).open(path)?;
        let keys = File::from(master);
        let mut screen = keys.try_clone()?;
        let (sender, drawn) = channel();
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                if sender
                    .send((Instant::now(), bytes[..count].to_vec()))
                    .is_err()
                {
                    return;
                }
            }
        });
        let mut command = Command::new(chat);
        command
            // Reserved, and nobody listens there.
            .args(["--server", "127.0.0.1:1"])
            .env_clear()
            .env("HOME", home)
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_DATA_HOME", home.join("data"))
            .env("TERM", "xterm-256color")
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC0")
            .stdin(terminal.try_clone()?)
            .stdout(terminal.try_clone()?)
            .stderr(terminal);
        let started = Instant::now();
        let client = command
            .spawn()
            .with_context(|| format!("{}", chat.display()))?;
        Ok(Self {
            client,
            keys,
            drawn,
            started,
        })
    }

    /// From the start to the line at the bottom.
    fn first_frame(&mut self) -> Result<Duration> {
        self.shows("F1")
    }

    /// From the start until this was drawn.
    fn shows(&mut self, text: &str) -> Result<Duration> {
        self.wait_for(text, self.started)
    }

    fn wait_for(&mut self, text: &str, since: Instant) -> Result<Duration> {
        let mut all = Vec::new();
        loop {
            let Ok((at, bytes)) = self.drawn.recv_timeout(PATIENCE) else {
                bail!(
                    "{text:?} was not drawn: {:?}",
                    String::from_utf8_lossy(&all)
                );
            };
            all.extend(bytes);
            if all.windows(text.len()).any(|part| part == text.as_bytes()) {
                return Ok(at.duration_since(since));
            }
        }
    }

    /// From a key to what it shows; `back` undoes it.
    fn press(&mut self, key: &str, shown: &str, back: &str) -> Result<Duration> {
        self.wait_until_quiet()?;
        let pressed = Instant::now();
        self.keys.write_all(key.as_bytes())?;
        let time = self.wait_for(shown, pressed)?;
        self.keys.write_all(back.as_bytes())?;
        Ok(time)
    }

    fn wait_until_quiet(&mut self) -> Result<()> {
        loop {
            match self.drawn.recv_timeout(QUIET) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = self.client.try_wait()?;
                    ensure!(ended.is_none(), "the client has ended: {ended:?}");
                }
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}
