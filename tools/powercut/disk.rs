//! The disk: an ext4 file system in a loop-mounted file, whose power can be cut.

use crate::ioctl;
use anyhow::{Context as _, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of the image file, which is sparse.
const IMAGE_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Cuts the power of a disk.
pub struct Switch(File);

impl Switch {
    /// From now on nothing reaches the disk, and what was not flushed is gone.
    pub fn cut(&self) -> anyhow::Result<()> {
        ioctl::cut_power(&self.0).context("cannot cut the power (EXT4_IOC_SHUTDOWN)")
    }
}

/// An ext4 file system in a file, mounted. Unmounted and removed when dropped.
pub struct Disk {
    scratch: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Makes and mounts it, in a directory of its own.
    pub fn new() -> anyhow::Result<Self> {
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

    /// For what must outlive the cut.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Kept open, so that the power can be cut at once.
    pub fn switch(&self) -> anyhow::Result<Switch> {
        Ok(Switch(File::open(self.mount_point())?))
    }

    fn image(&self) -> PathBuf {
        self.scratch.join("image")
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> PathBuf {
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

    /// As after the power is back.
    pub fn remount(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.mounted || self.unmount().is_ok() {
            // What stays behind is in the temporary directory.
            let _ = std::fs::remove_dir_all(&self.scratch);
        }
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
