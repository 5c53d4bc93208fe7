//! The full-screen client: `chat` without a subcommand.
//!
//! ```text
//!  keys, signals ─┐                              ┌─ files (a thread): history, profile
//!                 ├─ Event ─> App::update ─ Effect ─┤
//!  servers ───────┘              │               └─ network (tasks): requests, inbox
//!                             view::draw
//! ```
//!
//! [`app`] is the model: pure, and told the time. [`view`] draws it. This file turns events and
//! effects into one another, and never waits for the network or for a disk.
//!
//! # Never
//!
//! Nothing that another account wrote reaches the terminal but through [`text`].

mod app;
mod complete;
mod editor;
mod events;
mod files;
mod form;
mod history;
mod keys;
mod layout;
mod network;
mod news;
mod style;
mod talk;
mod terminal;
mod text;
mod view;
mod view_form;
mod view_list;
mod view_over;
mod view_talk;
mod words;

#[cfg(test)]
mod tests;

use crate::Failure;
use crate::profile::Profile;
use crate::zone::Zone;
use app::{App, Effect, Event, Look};
use chat::client::Cluster;
use files::{Batch, Files};
use network::{Command, Tagged, now_us};
use ratatui::crossterm::event as input;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use terminal::Screen;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Keys and other local events that wait.
const LOCAL_MAX: usize = 1_024;
/// Events of the network that wait: beyond, the servers wait.
const NETWORK_MAX: usize = 64;
/// Commands that wait for the network's task, which does nothing but take them.
const COMMANDS_MAX: usize = 1_024;
/// Batches that wait for the disk before no more is taken from the network.
const BATCHES_MAX: usize = 64;
/// Events taken before the screen is drawn again.
const TURN_MAX: usize = 64;
/// How long the end waits for messages that are on their way.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the command line says.
pub struct Settings {
    /// Ring when a message comes.
    pub bell: bool,
    /// Take the mouse.
    pub mouse: bool,
    /// Which login.
    pub profile: String,
}

/// Runs until the person who sits here has enough.
pub async fn run(cluster: Cluster, settings: Settings) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "without a command this is a full-screen client, and there is no terminal here; \
             `chat --help` lists the commands for scripts"
                .into(),
        ));
    }
    let profile = Profile::named(&settings.profile)?;
    // A profile that cannot be read is told before the screen is taken.
    let login = match profile.load() {
        Ok(login) => Some(login),
        Err(Failure::NoLogin) => None,
        Err(failure) => return Err(failure),
    };
    // BEFORE the screen is taken: a signal that ends the process would leave it so.
    let signals = Signals::catch()?;
    let mut screen = Screen::take()?;
    let size = screen
        .terminal
        .size()
        .map_err(Failure::io("cannot use the terminal"))?;
    let mut app = App::new(
        &settings.profile,
        (size.width, size.height),
        Zone::local(),
        look(),
    );
    app.bell = settings.bell;
    app.mouse = settings.mouse;
    app.servers = network::described(&cluster);
    let (local, local_events) = mpsc::channel(LOCAL_MAX);
    let mut shell = Shell::start(cluster, profile, local.clone());
    listen_to_keys(local.clone());
    signals.listen(&local);
    shell.local = Some(local_events);
    if app.mouse {
        Screen::mouse(true);
    }
    let first = login.map_or(Event::Tick, Event::Resumed);
    shell.apply(&mut app, first, &mut screen)?;
    let outcome = shell.turn_until_the_end(&mut app, &mut screen).await;
    shell.say_farewell(&mut app, &mut screen).await;
    drop(screen);
    shell.finish();
    if let Some(farewell) = app.farewell() {
        eprintln!("chat: {farewell}");
    }
    outcome
}

/// Between the model and everything else.
struct Shell {
    local: Option<mpsc::Receiver<Tagged>>,
    network: mpsc::Receiver<Tagged>,
    batches: std::sync::mpsc::Sender<Batch>,
    waiting: Arc<AtomicUsize>,
    files: std::thread::JoinHandle<()>,
    /// Which login the events must be about.
    epoch: u64,
    ended: bool,
}

impl Shell {
    fn start(cluster: Cluster, profile: Profile, local: mpsc::Sender<Tagged>) -> Self {
        let (told, network) = mpsc::channel(NETWORK_MAX);
        let (commands, wanted) = mpsc::channel::<Command>(COMMANDS_MAX);
        tokio::spawn(network::run(cluster, wanted, told));
        let waiting = Arc::new(AtomicUsize::new(0));
        // Its length is bounded by what is taken from the network: see `BATCHES_MAX`.
        let (batches, received) = std::sync::mpsc::channel();
        let files = Files::new(
            local,
            commands,
            waiting.clone(),
            profile,
            files::directory(),
        );
        let files = std::thread::spawn(move || files.run(&received));
        Self {
            local: None,
            network,
            batches,
            waiting,
            files,
            epoch: 1,
            ended: false,
        }
    }

    async fn turn_until_the_end(
        &mut self,
        app: &mut App,
        screen: &mut Screen,
    ) -> Result<(), Failure> {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        while !self.ended {
            draw(app, screen)?;
            let event = tokio::select! {
                event = self.next() => event,
                _ = tick.tick() => Some((0, Event::Tick)),
            };
            let Some(event) = event else { break };
            self.take(app, event, screen)?;
            // What is here already is drawn at once.
            for _ in 0..TURN_MAX {
                let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, self.next()).await
                else {
                    break;
                };
                self.take(app, event, screen)?;
            }
        }
        Ok(())
    }

    /// The next event; from the network only while the disk keeps up. CANCEL SAFE.
    async fn next(&mut self) -> Option<Tagged> {
        let local = self.local.as_mut()?;
        let keeps_up = self.waiting.load(Ordering::Relaxed) < BATCHES_MAX;
        tokio::select! {
            biased;
            event = local.recv() => event,
            event = self.network.recv(), if keeps_up => event,
        }
    }

    fn take(
        &mut self,
        app: &mut App,
        (epoch, event): Tagged,
        screen: &mut Screen,
    ) -> Result<(), Failure> {
        // Of a login that is no longer in use.
        if epoch != 0 && epoch != self.epoch {
            return Ok(());
        }
        self.apply(app, event, screen)
    }

    fn apply(&mut self, app: &mut App, event: Event, screen: &mut Screen) -> Result<(), Failure> {
        let mut batch = Vec::new();
        for effect in app.update(event, now_us()) {
            match effect {
                Effect::Bell => Screen::bell(),
                Effect::Mouse(on) => Screen::mouse(on),
                Effect::Redraw => {
                    screen.again().map_err(Failure::io("cannot draw"))?;
                    Screen::mouse(app.mouse);
                }
                Effect::Suspend => Screen::suspend(),
                Effect::Quit => self.ended = true,
                Effect::Open { .. } | Effect::Close => {
                    self.flush(&mut batch);
                    self.epoch += 1;
                    batch.push(effect);
                }
                other => batch.push(other),
            }
        }
        self.flush(&mut batch);
        Ok(())
    }

    fn flush(&mut self, batch: &mut Vec<Effect>) {
        if batch.is_empty() {
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The thread ends after this one does.
        let _ = self.batches.send((self.epoch, std::mem::take(batch)));
    }

    /// What was sent a moment ago should arrive, if the servers are there.
    async fn say_farewell(&mut self, app: &mut App, screen: &mut Screen) {
        let end = Instant::now() + FAREWELL;
        while app.sending() > 0 {
            let Ok(Some(event)) = tokio::time::timeout_at(end, self.next()).await else {
                return;
            };
            if matches!(event.1, Event::Key(_) | Event::Quit)
                || self.take(app, event, screen).is_err()
            {
                return;
            }
        }
    }

    /// Waits until everything is on disk.
    fn finish(mut self) {
        // BEFORE the wait: the thread may be telling something.
        self.local = None;
        drop(self.batches);
        let _ = self.files.join();
    }
}

fn draw(app: &App, screen: &mut Screen) -> Result<(), Failure> {
    let drawn = screen.terminal.draw(|frame| view::draw(app, frame));
    drawn.map(|_| ()).map_err(Failure::io("cannot draw"))
}

/// A thread of its own: a key is waited for without a limit.
fn listen_to_keys(local: mpsc::Sender<Tagged>) {
    std::thread::spawn(move || {
        loop {
            let event = match input::read() {
                Ok(input::Event::Key(key)) => Event::Key(key),
                Ok(input::Event::Paste(text)) => Event::Paste(text),
                Ok(input::Event::Mouse(mouse)) => Event::Mouse(mouse),
                Ok(input::Event::Resize(columns, rows)) => Event::Resize(columns, rows),
                Ok(input::Event::FocusGained | input::Event::FocusLost) => continue,
                // The terminal is gone.
                Err(_) => Event::Quit,
            };
            let last = matches!(event, Event::Quit);
            if local.blocking_send((0, event)).is_err() || last {
                return;
            }
        }
    });
}

/// The signals that matter, caught from now on.
struct Signals {
    ends: Vec<Signal>,
    goes_on: Signal,
}

impl Signals {
    fn catch() -> Result<Self, Failure> {
        let catch = |kind| signal(kind).map_err(Failure::io("cannot catch signals"));
        let ends = [
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
        ];
        Ok(Self {
            ends: ends.into_iter().map(catch).collect::<Result<_, _>>()?,
            goes_on: catch(SignalKind::from_raw(libc::SIGCONT))?,
        })
    }

    /// Tells of them, each in a task of its own.
    fn listen(self, local: &mpsc::Sender<Tagged>) {
        for mut end in self.ends {
            let local = local.clone();
            tokio::spawn(async move {
                if end.recv().await.is_some() {
                    let _ = local.send((0, Event::Quit)).await;
                }
            });
        }
        // After a stop from outside, the terminal is as the shell left it.
        let (mut goes_on, local) = (self.goes_on, local.clone());
        tokio::spawn(async move {
            while goes_on.recv().await.is_some() {
                let key =
                    input::KeyEvent::new(input::KeyCode::Char('l'), input::KeyModifiers::CONTROL);
                if local.send((0, Event::Key(key))).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// What this terminal can show, as the environment says.
fn look() -> Look {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let terminal = set("TERM").unwrap_or_default();
    let locale = set("LC_ALL")
        .or_else(|| set("LC_CTYPE"))
        .or_else(|| set("LANG"));
    // Where nothing is set, in a container say, the terminal is a modern one all the same.
    let unicode = locale.is_none_or(|locale| {
        let locale = locale.to_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    });
    Look {
        colour: set("NO_COLOR").is_none() && terminal != "dumb",
        unicode: unicode && terminal != "linux",
    }
}
