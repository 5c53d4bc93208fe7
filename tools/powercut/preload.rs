//! A library in C that is preloaded into a process, to be between it and the system.

use anyhow::{Context as _, bail};
use std::path::PathBuf;
use std::process::Command;

/// A library in a directory of its own, which goes with it.
pub struct Preload {
    directory: PathBuf,
}

impl Preload {
    /// Compiles it; needs a C compiler (`cc`).
    pub fn build(source: &str) -> anyhow::Result<Self> {
        let name = format!(
            "powercut-preload-{}-{:x}",
            std::process::id(),
            rand::random::<u32>()
        );
        let built = Self {
            directory: std::env::temp_dir().join(name),
        };
        std::fs::create_dir_all(&built.directory)?;
        let file = built.directory.join("preload.c");
        std::fs::write(&file, source)?;
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-w", "-pthread", "-o"])
            .args([&built.library(), &file])
            .status()
            .context("cannot run a C compiler (cc)")?;
        if !made.success() {
            bail!("the C compiler failed");
        }
        Ok(built)
    }

    /// For `LD_PRELOAD`.
    pub fn library(&self) -> PathBuf {
        self.directory.join("preload.so")
    }
}

impl Drop for Preload {
    fn drop(&mut self) {
        // What stays behind is small, and in the temporary directory.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
