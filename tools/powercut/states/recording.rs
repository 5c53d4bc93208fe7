//! Runs the process that is recorded, and checks that the record is complete.

use super::platter::Platter;
use super::script::{Script, Step};
use super::trace::{Given, Trace};
use anyhow::{Context as _, bail, ensure};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where everything happens.
pub struct Scratch(PathBuf);

impl Scratch {
    /// In memory, where there is such a file system.
    pub fn new() -> anyhow::Result<Self> {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let name = format!(
            "powercut-states-{}-{:x}",
            std::process::id(),
            rand::random::<u32>()
        );
        let scratch = Self(place.join(name));
        std::fs::create_dir_all(&scratch.0).context("cannot create a scratch directory")?;
        Ok(scratch)
    }

    /// An empty directory in it, and no record yet.
    fn emptied(&self, name: &str) -> anyhow::Result<PathBuf> {
        let place = self.join(name);
        for old in [&place, &self.join("trace")] {
            if old.is_dir() {
                std::fs::remove_dir_all(old)?;
            } else if old.exists() {
                std::fs::remove_file(old)?;
            }
        }
        std::fs::create_dir(&place)?;
        Ok(place)
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind is in a temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Has a script done by one process after the other, and returns what they did.
pub fn record(
    scratch: &Scratch,
    library: &Path,
    (seed, script): (u64, &Script),
    left_out: Option<&str>,
) -> anyhow::Result<Trace> {
    let root = scratch.emptied("root")?;
    let mut from = 0;
    while from < script.steps.len() {
        let mut command = recorded(scratch, library, &root)?;
        command
            .arg("live")
            .arg(root.join("data"))
            .arg(scratch.join("marks"))
            .args([seed.to_string(), from.to_string()]);
        if let Some(left_out) = left_out {
            command.env("RECORD_LIES", left_out);
        }
        run(&mut command, "")?;
        let killed = |(step, _): &(Step, _)| matches!(step, Step::Kill);
        let rest = script.steps[from..].iter().position(killed);
        from = rest.map_or(script.steps.len(), |killed| from + killed + 1);
    }
    read_trace(scratch, &root, &Given::new())
}

/// Has what a crash left opened, and closed, and opened and closed once more; `build` puts it there.
pub fn record_open(
    scratch: &Scratch,
    library: &Path,
    build: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<Trace> {
    let root = scratch.emptied("root")?;
    build(&root)?;
    let mut given = Given::new();
    read(&root, &root, &mut given)?;
    for (path, _) in &mut given {
        *path = format!("{}{path}", root.display());
    }
    let mut command = recorded(scratch, library, &root)?;
    run(
        command.arg("judge"),
        &format!("{}\n", root.join("data").display()),
    )?;
    read_trace(scratch, &root, &given)
}

fn recorded(scratch: &Scratch, library: &Path, root: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .env("LD_PRELOAD", library)
        .env("RECORD_UNDER", root)
        .env("RECORD_TRACE", scratch.join("trace"))
        .env("RECORD_MARKS", scratch.join("marks"));
    Ok(command)
}

fn run(command: &mut Command, input: &str) -> anyhow::Result<()> {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the process")?;
    let mut stdin = process.stdin.take().context("it has no input")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = process.wait_with_output()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        let status = output.status;
        bail!(
            "the process that is recorded failed ({status}): {}",
            why.trim()
        );
    }
    Ok(())
}

fn read_trace(scratch: &Scratch, root: &Path, given: &Given) -> anyhow::Result<Trace> {
    let bytes = std::fs::read(scratch.join("trace")).unwrap_or_default();
    let trace = Trace::parse(&bytes, root, given)?;
    is_complete(&trace, root)?;
    Ok(trace)
}

/// Everything that is on the disk is there because of what was written down.
fn is_complete(trace: &Trace, root: &Path) -> anyhow::Result<()> {
    let mut platter = Platter::new(trace);
    platter.play_to(trace.operations.len());
    platter.settle();
    let mut found = Given::new();
    read(root, root, &mut found)?;
    let mut found: BTreeMap<_, _> = found.into_iter().collect();
    for (path, _, content) in platter.durable_files() {
        let there = found.remove(&path).flatten();
        let (_, there) = there.with_context(|| format!("{path} is not there"))?;
        ensure!(
            there == content,
            "{path} holds something else than the record says"
        );
    }
    found.retain(|_, file| file.is_some());
    let more: Vec<_> = found.keys().collect();
    ensure!(more.is_empty(), "nobody wrote {more:?}");
    Ok(())
}

/// Everything below a directory, by its path from the root on.
fn read(root: &Path, directory: &Path, found: &mut Given) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = format!("/{}", path.strip_prefix(root)?.display());
        if path.is_dir() {
            found.push((name, None));
            read(root, &path, found)?;
        } else {
            let inode = path.metadata()?.ino();
            found.push((name, Some((inode, std::fs::read(&path)?))));
        }
    }
    Ok(())
}
