//! `--clock-file`, for tests: a file turns the wall clock of a replica that runs.
//!
//! It holds `OFFSET_MS [frozen]`: the clock is wrong by so many milliseconds, and stands still from
//! the moment at which that was read. Whoever writes it renames it into place.

use anyhow::{Context as _, bail};
use chat::replica::clock::Turned;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A clock that shows what the file says, from the first moment on.
pub fn of_file(file: &Path) -> anyhow::Result<Arc<Turned>> {
    let turned = Arc::new(Turned::default());
    let mut known = read(file)?;
    set(&turned, &known).with_context(|| format!("--clock-file {}", file.display()))?;
    let (shared, file) = (Arc::clone(&turned), file.to_owned());
    std::thread::Builder::new()
        .name("clock".to_owned())
        .spawn(move || {
            loop {
                std::thread::sleep(LOOK_EVERY);
                let now = match read(&file) {
                    Ok(now) if now != known => now,
                    Ok(_) => continue,
                    Err(error) => {
                        tracing::error!("the clock stays as it is: {error:#}");
                        return;
                    }
                };
                if let Err(error) = set(&shared, &now) {
                    tracing::error!("the clock stays as it is: {error:#}");
                }
                known = now;
            }
        })
        .context("cannot start a thread")?;
    Ok(turned)
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file)
        .with_context(|| format!("--clock-file: cannot read {}", file.display()))
}

fn set(turned: &Turned, text: &str) -> anyhow::Result<()> {
    let (offset_ms, stands) = parse(text)?;
    turned.turn(offset_ms.saturating_mul(1_000), stands);
    Ok(())
}

fn parse(text: &str) -> anyhow::Result<(i64, bool)> {
    let mut words = text.split_whitespace();
    let offset_ms = words.next().and_then(|word| word.parse().ok());
    let rest: Vec<&str> = words.collect();
    match (offset_ms, rest.as_slice()) {
        (Some(offset_ms), []) => Ok((offset_ms, false)),
        (Some(offset_ms), ["frozen"]) => Ok((offset_ms, true)),
        _ => bail!("expected `OFFSET_MS [frozen]`, found `{}`", text.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_how_wrong_and_whether_it_stands() {
        let parsed = |text: &str| parse(text).ok();
        assert_eq!(parsed("-60000\n"), Some((-60_000, false)));
        assert_eq!(parsed("2000 frozen\n"), Some((2_000, true)));
        for wrong in ["", "frozen", "1.5", "1 2", "1 frozen 2"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
