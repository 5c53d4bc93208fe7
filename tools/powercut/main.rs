//! Cuts the power of a disk while a store writes to it, and looks at what is left.
//!
//! The disk is an ext4 file system in a loop-mounted file. A child process writes full-size batches,
//! with a slice that rewrites one hot recipient after each, and reports every index AFTER the sync
//! that makes it durable. At a random moment the file system is shut down without flushing
//! anything, the child is killed, the file system is mounted again, and another child checks that
//! every reported entry is there, that the whole log chains, and that the slice is whole. The same
//! store goes on for several cuts, so that sled reuses segments.
//!
//! Needs root and loop devices. Exit code 0: nothing was lost; 1: something was; 2: it could not
//! run.

mod child;
mod ioctl;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Bytes of the image file, which is sparse.
const IMAGE_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Cuts of one file system, before it is nearly full.
const CUTS_A_DISK: u32 = 20;
/// A child writes for this long, in milliseconds, before the power goes.
const RUN_MS: std::ops::Range<u64> = 50..700;

/// Cuts the power of a disk while a store writes to it.
#[derive(Parser)]
struct Arguments {
    /// How many times.
    #[arg(long, default_value_t = 20)]
    cuts: u32,
    /// Reports entries without syncing them: the run must then find losses, or it is blind.
    #[arg(long)]
    without_sync: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Writes until it is killed.
    #[command(hide = true)]
    Write { directory: PathBuf },
    /// Checks what is left.
    #[command(hide = true)]
    Check {
        directory: PathBuf,
        index: u64,
        hash: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.role {
        Some(Role::Write { directory }) => {
            child::write(directory, !arguments.without_sync).map(|()| 0)
        }
        Some(Role::Check {
            directory,
            index,
            hash,
        }) => child::check(directory, *index, hash).map(|()| 0),
        None => cut_repeatedly(&arguments),
    };
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("powercut: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// What was reported last: index and hash.
type Acknowledged = Option<(u64, String)>;

/// Returns the number of cuts that lost something.
fn cut_repeatedly(arguments: &Arguments) -> anyhow::Result<u32> {
    let started = Instant::now();
    let (mut lost, mut reported) = (0, 0);
    let mut reuse = Reuse::default();
    let mut disk = Disk::new()?;
    let mut acknowledged: Acknowledged = None;
    for cut in 1..=arguments.cuts {
        let (newer, written) = disk.write_until_cut(arguments.without_sync)?;
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
        let check = disk
            .child("check", false)?
            .args([index.to_string(), hash])
            .output()
            .context("cannot run the check")?;
        let found = if check.status.success() {
            let found = String::from_utf8_lossy(&check.stdout).trim().to_owned();
            let size = found.rsplit_once(child::SIZE_IS);
            reuse.size = size.and_then(|(_, size)| size.parse().ok()).unwrap_or(0);
            found
        } else {
            lost += 1;
            let why = String::from_utf8_lossy(&check.stderr);
            format!(
                "LOST: {}",
                why.trim().lines().last().unwrap_or("no reason given")
            )
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
        "{} cuts, {reported} entries reported, {lost} cuts lost something, {:.1} s",
        arguments.cuts,
        started.elapsed().as_secs_f64()
    );
    Ok(lost)
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

/// An ext4 file system in a file, mounted. Unmounted and removed when dropped.
struct Disk {
    scratch: PathBuf,
    mounted: bool,
}

impl Disk {
    fn new() -> anyhow::Result<Self> {
        let name = format!(
            "powercut-{}-{:x}",
            std::process::id(),
            rand::random::<u32>()
        );
        let scratch = std::env::temp_dir().join(name);
        std::fs::create_dir_all(scratch.join("disk"))?;
        let mut disk = Self {
            scratch,
            mounted: false,
        };
        let image = disk.image();
        std::fs::File::create(&image)?.set_len(IMAGE_BYTES)?;
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &image])?;
        disk.mount()?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.scratch.join("image")
    }

    fn mount_point(&self) -> PathBuf {
        self.scratch.join("disk")
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        run(
            "mount",
            &[
                "-o".as_ref(),
                "loop".as_ref(),
                &self.image(),
                &self.mount_point(),
            ],
        )?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        run("umount", &[&self.mount_point()])?;
        self.mounted = false;
        Ok(())
    }

    fn remount(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn child(&self, role: &str, without_sync: bool) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        if without_sync {
            command.arg("--without-sync");
        }
        command.arg(role).arg(self.mount_point().join("data"));
        Ok(command)
    }

    /// Lets a child write for a random time, cuts the power, and ends the child. With what it
    /// reported last, the bytes that it wrote.
    fn write_until_cut(&self, without_sync: bool) -> anyhow::Result<(Acknowledged, u64)> {
        let handle = std::fs::File::open(self.mount_point())?;
        let mut child = Ended(
            self.child("write", without_sync)?
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
        ioctl::cut_power(&handle).context("cannot cut the power (EXT4_IOC_SHUTDOWN)")?;
        drop(child);
        let last = reader.join();
        let last = last.map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        Ok((last, written))
    }
}

/// By a process that runs, to files; 0 where the kernel does not count them.
fn bytes_written(process: u32) -> u64 {
    let counts = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    let count = counts.lines().find_map(|line| line.strip_prefix("wchar: "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.mounted || self.unmount().is_ok() {
            // What stays behind is in the temporary directory.
            let _ = std::fs::remove_dir_all(&self.scratch);
        }
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

fn run(program: &str, arguments: &[&Path]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed: {}", why.trim());
    }
    Ok(())
}
