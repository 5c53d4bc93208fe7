//! What is seen while the demo runs: a bar on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Between two plain lines that only count.
const PLAIN_EVERY: Duration = Duration::from_secs(1);

/// Shows steps and a count.
#[derive(Clone)]
pub struct Progress {
    started: Instant,
    total: u64,
    /// On a terminal only.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Counts up to `total` messages.
    pub fn new(total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            // The template is constant; a wrong one only costs the looks.
            if let Ok(style) =
                ProgressStyle::with_template("[{elapsed}] {wide_bar} {pos}/{len} acknowledged")
            {
                bar.set_style(style);
            }
            bar
        });
        Self {
            started: Instant::now(),
            total,
            bar,
        }
    }

    /// Something begins or has happened.
    pub fn step(&self, text: &str) {
        let line = format!("[{:6.2} s] {text}", self.started.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Shows this count until what is returned is dropped.
    pub fn follow(&self, mut count: watch::Receiver<u64>) -> Following {
        let progress = self.clone();
        let task = tokio::spawn(async move {
            let mut next_line = Instant::now() + PLAIN_EVERY;
            while count.changed().await.is_ok() {
                let now = *count.borrow_and_update();
                if let Some(bar) = &progress.bar {
                    bar.set_position(now);
                } else if Instant::now() >= next_line && now < progress.total {
                    progress.step(&format!("{now} of {} acknowledged", progress.total));
                    next_line = Instant::now() + PLAIN_EVERY;
                }
                // Ten times a second is as often as anybody looks.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Following(task)
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Ends the counting when dropped.
pub struct Following(tokio::task::JoinHandle<()>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}
