//! Takes the terminal, and gives it back as it was: at a normal end, after a signal, and in a
//! panic of any thread.

use crate::Failure;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute};
use std::io::{Stdout, Write, stdout};

/// The terminal while it is ours.
pub struct Screen {
    /// For drawing.
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes it.
    pub fn take() -> Result<Self, Failure> {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // BEFORE the message is printed: it would be lost with the second screen.
            give_back();
            hook(panic);
            // A thread that is missing would leave a screen that does nothing.
            std::process::exit(101);
        }));
        enter().map_err(Failure::io("cannot use the terminal"))?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout()));
        match terminal {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                give_back();
                Err(Failure::io("cannot use the terminal")(error))
            }
        }
    }

    /// Takes the mouse, or leaves it.
    pub fn mouse(on: bool) {
        let _ = if on {
            execute!(stdout(), EnableMouseCapture)
        } else {
            execute!(stdout(), DisableMouseCapture)
        };
    }

    /// Rings.
    pub fn bell() {
        let mut out = stdout();
        let _ = out.write_all(b"\x07").and_then(|()| out.flush());
    }

    /// Gives the terminal back and stops the process; the signal that ends the stop brings the
    /// screen back.
    pub fn suspend() {
        give_back();
        let id = std::process::id().to_string();
        let _ = std::process::Command::new("kill")
            .args(["-TSTP", &id])
            .status();
    }

    /// Everything is drawn anew: after other programs wrote there, or after a stop.
    pub fn again(&mut self) -> std::io::Result<()> {
        enter()?;
        execute!(stdout(), Clear(ClearType::All))?;
        // One that knows of nothing on the screen. Its own `clear` would ask the terminal where
        // the cursor is, and the thread that waits for keys has the answer's way.
        self.terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn enter() -> std::io::Result<()> {
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste)
}

/// Each step by itself: the terminal may be gone, and then none of them matters.
fn give_back() {
    let _ = execute!(stdout(), DisableMouseCapture);
    let _ = execute!(stdout(), DisableBracketedPaste);
    let _ = execute!(stdout(), LeaveAlternateScreen, cursor::Show);
    let _ = disable_raw_mode();
}

#[cfg(test)]
#[path = "../../../../tests/skips/mod.rs"]
mod skips;

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Tells the test that it is the one that shall panic.
    const INSIDE: &str = "CHAT_TEST_INSIDE_A_TERMINAL";

    /// Runs itself in a pseudo-terminal of `script`, which not every system has.
    #[test]
    fn a_panic_gives_the_terminal_back_before_it_says_why() {
        if std::env::var_os(INSIDE).is_some() {
            let _screen = Screen::take().unwrap();
            let thread = std::thread::spawn(|| panic!("on purpose"));
            let _ = thread.join();
            unreachable!("the process ends with the panic of any thread");
        }
        let name = "screen::terminal::tests::a_panic_gives_the_terminal_back_before_it_says_why";
        let me = std::env::current_exe().unwrap();
        let command = format!("'{}' --exact {name} --nocapture; stty -a", me.display());
        let run = Command::new("script")
            .args(["-q", "-c", &command, "/dev/null"])
            .env(INSIDE, "1")
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .output();
        let Ok(output) = run else {
            super::skips::skip("script", "there is no `script`");
            return;
        };
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let at = |what: &str| {
            output
                .find(what)
                .unwrap_or_else(|| panic!("no {what:?}: {output:?}"))
        };
        let (taken, left, why) = (at("\u{1b}[?1049h"), at("\u{1b}[?1049l"), at("on purpose"));
        assert!(taken < left && left < why, "{output:?}");
        assert!(at("\u{1b}[?2004l") < why);
        // Lines are edited and shown again.
        let modes: Vec<&str> = output[why..].split_whitespace().collect();
        assert!(
            modes.contains(&"icanon") && modes.contains(&"echo"),
            "{output:?}"
        );
    }
}
