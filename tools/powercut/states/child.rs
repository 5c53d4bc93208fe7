//! The processes: one lives a part of a script and is recorded, one opens what a crash left.

use super::content::{self, Content};
use super::script::{Script, Step, judge_options, options};
use anyhow::{Context as _, bail, ensure};
use chat::consensus::{HardState, Repair};
use chat::storage::{Opened, Recovered, SledStore, StateReader as _, Store as _, note_damage};
use chat::storage::{open_directory, repairs};
use serde::{Deserialize, Serialize};
use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::time::Duration;

/// How often a check that goes on is asked for.
const CHECK_POLL: Duration = Duration::from_millis(1);

/// Does the steps from this one on, to the end or to where the process is killed. Tells the file
/// `marks` of each step before and after it.
pub fn live(directory: &Path, marks: &Path, seed: u64, from: usize) -> anyhow::Result<()> {
    let script = Script::new(seed, false);
    let mut marks = std::fs::File::create(marks)?;
    let mut store = None;
    for (number, (step, _)) in script.steps.iter().enumerate().skip(from) {
        if matches!(step, Step::Kill) {
            // Without a destructor, as a kill would.
            std::process::exit(0);
        }
        marks.write_all(format!("begun {number}").as_bytes())?;
        take(step, directory, &mut store).with_context(|| format!("step {number}"))?;
        marks.write_all(format!("done {number}").as_bytes())?;
    }
    std::process::exit(0);
}

fn take(step: &Step, directory: &Path, store: &mut Option<SledStore>) -> anyhow::Result<()> {
    match step {
        Step::Open => {
            ensure!(store.is_none(), "it is open");
            match open_directory(directory, &options())? {
                Opened::Good {
                    store: opened,
                    recovered,
                } => {
                    ensure!(recovered.damage.is_empty(), "{:?}", recovered.damage);
                    *store = Some(opened);
                }
                Opened::Damaged { sentence, .. } => bail!("{sentence}"),
            }
            return Ok(());
        }
        Step::Close => {
            *store = None;
            return Ok(());
        }
        Step::Note => return Ok(note_damage(directory, "the script says so")?),
        _ => {}
    }
    let store = store.as_mut().context("it is not open")?;
    match step {
        Step::Write(write) => store.write(write.clone())?,
        Step::Cut(base) => store.cut(base)?,
        Step::Sync => store.sync()?,
        Step::Promise(state, sync) => store.write_hard_state(state, *sync)?,
        Step::NextBegin(base) => store.next_begin(base)?,
        Step::NextWrite(write) => store.next_write(write.clone())?,
        Step::NextCheck => loop {
            if let Some(checked) = store.next_check(content::scan)? {
                checked.map_err(anyhow::Error::msg)?;
                break;
            }
            std::thread::sleep(CHECK_POLL);
        },
        Step::NextInstall => {
            store.next_install()?;
            store.reader().switch();
        }
        Step::NextDrop => store.next_drop()?,
        Step::Open | Step::Close | Step::Note | Step::Kill => {}
    }
    Ok(())
}

/// What an open found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// A store.
    Store {
        /// [`Content::hash`].
        hash: String,
        /// [`Content::summary`].
        summary: String,
        /// The promises.
        promises: HardState,
        /// What the checks say: of the open, and of all that is in it.
        findings: Vec<String>,
        /// Why the open has put a store aside, if it has, and whether that one is kept.
        repaired: Option<(String, bool)>,
    },
    /// It says that it is damaged.
    Damaged(String),
    /// It says that it cannot be used.
    Failed(String),
}

/// What two opens found, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The first.
    pub first: Found,
    /// The second; none after a first one that found no store.
    pub second: Option<Found>,
}

/// Opens each directory that is named on the input, and prints a verdict for it.
pub fn judge() -> anyhow::Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let verdict = judge_one(Path::new(&line));
        println!("{}", serde_json::to_string(&verdict)?);
    }
    Ok(())
}

/// Opens a directory twice.
pub fn judge_one(directory: &Path) -> Verdict {
    let first = open(directory);
    let second = matches!(first, Found::Store { .. }).then(|| open(directory));
    Verdict { first, second }
}

fn open(directory: &Path) -> Found {
    match open_directory(directory, &judge_options()) {
        Ok(Opened::Good { store, recovered }) => {
            let found = look(directory, &store, &recovered);
            found.unwrap_or_else(|error| Found::Damaged(format!("{error:#}")))
        }
        Ok(Opened::Damaged { sentence, .. }) => Found::Damaged(sentence),
        Err(error) => Found::Failed(format!("{:#}", anyhow::Error::from(error))),
    }
}

fn look(directory: &Path, store: &SledStore, recovered: &Recovered) -> anyhow::Result<Found> {
    let (content, mut findings) = Content::read(store, recovered)?;
    findings.extend(
        recovered
            .damage
            .iter()
            .map(|(_, sentence)| sentence.clone()),
    );
    let promises = recovered.hard_state.clone().context("no promises")?;
    let repaired = if promises.repair == Repair::No {
        None
    } else {
        let note = repairs(directory)?.pop().context("no note of the repair")?;
        let kept = note
            .kept_in
            .is_some_and(|kept| directory.join(kept).join("db").exists());
        Some((note.why, kept))
    };
    Ok(Found::Store {
        hash: content.hash(content.digest()),
        summary: content.summary(),
        promises,
        findings,
        repaired,
    })
}
