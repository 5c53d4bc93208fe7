//! What may be found after a crash, and the process that looks.

use super::cases::Progress;
use super::child::{Found, Verdict};
use super::script::{Script, judge_options, new_life};
use anyhow::Context as _;
use chat::consensus::HardState;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// A verdict takes milliseconds. What takes longer than this, and longer than the store's own
/// patience with two opens, hangs.
const PATIENCE: Duration = Duration::from_secs(90);
/// A process judges so many disks: what hangs leaves threads behind.
const DISKS_A_PROCESS: usize = 2_000;

/// What may be found, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Hash and summary of each content.
    pub contents: Vec<(String, String)>,
    /// The promises.
    pub promises: Vec<HardState>,
}

/// A script as the judge knows it: hashes instead of contents.
pub struct Oracle {
    steps: Vec<Known>,
}

struct Known {
    content: (String, String),
    partly: Vec<(String, String)>,
    promises: HardState,
    settles_store: bool,
    settles_promises: bool,
}

impl Oracle {
    /// Of a script.
    pub fn new(script: &Script) -> Self {
        let steps = script.steps.iter().map(|(_, after)| Known {
            content: after.content.clone(),
            partly: after.partly.clone(),
            promises: after.promises.clone(),
            settles_store: after.settles_store,
            settles_promises: after.settles_promises,
        });
        Self {
            steps: steps.collect(),
        }
    }

    /// What may be found when the process had said this.
    pub fn expected(&self, (begun, done): Progress) -> Expected {
        let steps = &self.steps[..=begun.unwrap_or(0)];
        let settled = |settles: fn(&Known) -> bool| {
            let done = done.map_or(0, |done| done + 1);
            steps[..done].iter().rposition(&settles).unwrap_or(0)
        };
        let store = settled(|step| step.settles_store);
        let mut contents = vec![steps[store].content.clone()];
        for step in &steps[store + 1..] {
            contents.extend(step.partly.iter().cloned());
            contents.push(step.content.clone());
        }
        let promises = settled(|step| step.settles_promises);
        let mut expected = Expected {
            contents,
            promises: steps[promises..]
                .iter()
                .map(|step| step.promises.clone())
                .collect(),
        };
        if done.is_none() {
            // Nobody had been told of the first life.
            expected.promises.push(new_life(&judge_options()));
        }
        expected.contents.dedup();
        expected.promises.dedup();
        expected
    }

    /// What was there at any time.
    pub fn ever(&self) -> Expected {
        self.expected((Some(self.steps.len() - 1), None))
    }

    /// What is there at the end.
    pub fn at_the_end(&self) -> Expected {
        let last = self.steps.len() - 1;
        self.expected((Some(last), Some(last)))
    }
}

impl Expected {
    /// What is wrong with a verdict after a crash, if anything is.
    pub fn contradicted_by(&self, verdict: &Verdict) -> Option<String> {
        let (hash, summary, promises, findings, repaired) = match &verdict.first {
            Found::Damaged(why) => return Some(format!("it says that it is damaged: {why}")),
            Found::Failed(why) => return Some(format!("it cannot be opened: {why}")),
            Found::Store {
                hash,
                summary,
                promises,
                findings,
                repaired,
            } => (hash, summary, promises, findings, repaired),
        };
        if let Some((why, kept)) = repaired
            && (!kept
                || self
                    .promises
                    .iter()
                    .all(|may| may.repair != promises.repair))
        {
            return Some(format!(
                "its store was put aside (is it kept? {kept}): {why}"
            ));
        }
        if let Some(finding) = findings.first() {
            return Some(finding.clone());
        }
        if self.contents.iter().all(|(may, _)| may != hash) {
            let may: Vec<_> = self
                .contents
                .iter()
                .map(|(_, summary)| &summary[..])
                .collect();
            return Some(format!(
                "it holds {summary}, and may hold: {}",
                may.join("; ")
            ));
        }
        if !self.promises.contains(promises) {
            return Some(format!(
                "it promises {promises:?}, and may: {:?}",
                self.promises
            ));
        }
        let second = verdict.second.as_ref();
        (second != Some(&verdict.first)).then(|| format!("a second open finds {second:?}"))
    }
}

/// The process that looks, and is started again when it ends or hangs.
pub struct Judge {
    library: PathBuf,
    /// What it says is written there.
    said: PathBuf,
    process: Option<Process>,
}

struct Process {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
    disks: usize,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Judge {
    /// One that writes what it says to this file.
    pub fn new(library: &Path, said: PathBuf) -> Self {
        Self {
            library: library.to_owned(),
            said,
            process: None,
        }
    }

    /// Opens a directory, twice. The inner `Err`: the process did not survive it.
    pub fn judge(&mut self, directory: &Path) -> anyhow::Result<Result<Verdict, String>> {
        let mut process = match self.process.take().filter(|p| p.disks < DISKS_A_PROCESS) {
            Some(process) => process,
            None => self.start()?,
        };
        process.disks += 1;
        writeln!(process.input, "{}", directory.display())?;
        process.input.flush()?;
        match process.output.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.process = Some(process);
                let verdict = serde_json::from_str(&line);
                Ok(Ok(verdict.with_context(|| format!("no verdict: {line}"))?))
            }
            Err(RecvTimeoutError::Timeout) => Ok(Err(format!(
                "no verdict within {} s: it hangs",
                PATIENCE.as_secs()
            ))),
            Err(RecvTimeoutError::Disconnected) => {
                let status = process.child.wait()?;
                let said = std::fs::read_to_string(&self.said).unwrap_or_default();
                let last = said.lines().last().unwrap_or("it said nothing");
                Ok(Err(format!("the process ended ({status}): {last}")))
            }
        }
    }

    fn start(&self) -> anyhow::Result<Process> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("judge")
            .env("LD_PRELOAD", &self.library)
            .env("RECORD_UNDER", directory_of(&self.said))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&self.said)?)
            .spawn()
            .context("cannot start the judge")?;
        let input = child.stdin.take().context("it has no input")?;
        let output = child.stdout.take().context("it has no output")?;
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Process {
            child,
            input,
            output: told,
            disks: 0,
        })
    }
}

fn directory_of(file: &Path) -> &Path {
    file.parent().unwrap_or(file)
}
