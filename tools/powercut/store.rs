//! A store by itself: a child writes full-size batches and reports each index that is durable.
//!
//! With a slice that rewrites one hot recipient after each batch. After the cut another child checks
//! that every reported entry is there, that the whole log chains, and that the slice is whole. The
//! same store goes on for several cuts, so that sled reuses segments.

use crate::disk::Disk;
use crate::{Arguments, Outcome, bytes_written, child};
use anyhow::{Context as _, bail};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Cuts of one file system, before it is nearly full.
const CUTS_A_DISK: u32 = 20;
/// A child writes for this long, in milliseconds, before the power goes.
const RUN_MS: std::ops::Range<u64> = 50..700;

/// What was reported last: index and hash.
type Acknowledged = Option<(u64, String)>;

/// Returns the number of cuts that lost something.
pub fn cut_repeatedly(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let (mut lost, mut damaged, mut reported) = (0, 0, 0);
    let mut reuse = Reuse::default();
    let mut disk = Disk::new()?;
    let mut acknowledged: Acknowledged = None;
    for cut in 1..=arguments.cuts {
        let (newer, written) = write_until_cut(&disk, arguments.without_sync)?;
        reuse.written += written;
        if let Some(newer) = newer {
            reported += newer.0
                - acknowledged
                    .as_ref()
                    .map_or(0, |(index, _)| *index)
                    .min(newer.0);
            acknowledged = Some(newer);
        }
        disk.remount()?;
        let (index, hash) = acknowledged.clone().unwrap_or_default();
        let check = start(&disk, "check", false)?
            .args([index.to_string(), hash])
            .output()
            .context("cannot run the check")?;
        let found = if check.status.success() {
            let found = String::from_utf8_lossy(&check.stdout).trim().to_owned();
            let size = found.rsplit_once(child::SIZE_IS);
            reuse.size = size.and_then(|(_, size)| size.parse().ok()).unwrap_or(0);
            found
        } else {
            let why = String::from_utf8_lossy(&check.stderr);
            let why = why.trim().lines().last().unwrap_or("no reason given");
            if why.contains("damaged: ") {
                damaged += 1;
                format!("KNOWS THAT IT IS DAMAGED: {why}")
            } else {
                lost += 1;
                format!("LOST: {why}")
            }
        };
        println!("cut {cut}: reported up to {index}; {found}");
        if !check.status.success() || cut % CUTS_A_DISK == 0 {
            println!("this disk: {reuse}");
            reuse = Reuse::default();
            drop(disk);
            disk = Disk::new()?;
            acknowledged = None;
        }
    }
    println!(
        "{} cuts, {reported} entries reported, {lost} cuts lost something, after {damaged} the store \
         knew that it was damaged, {:.1} s",
        arguments.cuts,
        started.elapsed().as_secs_f64()
    );
    Ok(if lost + damaged == 0 {
        Outcome::Good
    } else {
        Outcome::Bad
    })
}

/// How often the space of one disk's store was written.
#[derive(Default)]
struct Reuse {
    written: u64,
    size: u64,
}

impl std::fmt::Display for Reuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let times = self.written as f64 / self.size.max(1) as f64;
        let (written, size) = (self.written >> 20, self.size >> 20);
        write!(
            f,
            "{written} MiB written to a store of {size} MiB: {times:.1} times over"
        )
    }
}

/// A child that is killed and waited for when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself when its disk went.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(disk: &Disk, role: &str, without_sync: bool) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    if without_sync {
        command.arg("--without-sync");
    }
    command.arg(role).arg(disk.mount_point().join("data"));
    Ok(command)
}

/// Lets a child write for a random time, cuts the power, and ends the child. With what it
/// reported last, the bytes that it wrote.
fn write_until_cut(disk: &Disk, without_sync: bool) -> anyhow::Result<(Acknowledged, u64)> {
    let switch = disk.switch()?;
    let mut child = Ended(
        start(disk, "write", without_sync)?
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the writer")?,
    );
    let output = child.0.stdout.take().context("the writer has no output")?;
    let (first, writing) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut last = None;
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some((index, hash)) = line.split_once(' ') {
                last = index.parse().ok().map(|index| (index, hash.to_owned()));
            }
            // Nobody listens after the first line.
            let _ = first.send(());
        }
        last
    });
    if writing.recv_timeout(Duration::from_secs(60)).is_err() {
        bail!("the writer reported nothing within a minute");
    }
    std::thread::sleep(Duration::from_millis(rand::random_range(RUN_MS)));
    let written = bytes_written(child.0.id());
    switch.cut()?;
    drop(child);
    let last = reader.join();
    let last = last.map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    Ok((last, written))
}
