//! The programs that a tool starts: those in its own directory.
//!
//! `cargo run --bin nemesis` builds the tool and nothing else, and what lies beside it may be of last
//! week or not there at all: a run would judge another server than the one in the sources. So a tool
//! that cargo runs has cargo build them first. Started by hand it takes what is there.

use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// These programs, in the directory of this one; brought up to date if cargo runs this one.
pub fn beside<const N: usize>(names: [&str; N]) -> Result<[PathBuf; N]> {
    let this = std::env::current_exe().context("cannot find this executable")?;
    let directory = this.parent().context("this executable has no directory")?;
    // Cargo sets it for what it runs.
    if let Some(cargo) = std::env::var_os("CARGO")
        && let Some(place) = Place::of(directory)
    {
        place.build(Path::new(&cargo), &names)?;
    }
    let programs = names.map(|name| directory.join(name));
    for (name, program) in names.iter().zip(&programs) {
        if !program.is_file() {
            bail!(
                "{} is missing: `cargo build --release --bin {name}` builds it",
                program.display()
            );
        }
    }
    Ok(programs)
}

/// What cargo must be told so that it builds into one directory.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    target_dir: PathBuf,
    /// Of the machine, if it is not the default.
    triple: Option<String>,
    profile: String,
}

impl Place {
    /// `TARGET/PROFILE` or `TARGET/TRIPLE/PROFILE`; `None`: cargo does not build there.
    fn of(directory: &Path) -> Option<Self> {
        let is_target_dir = |path: &&Path| path.join("CACHEDIR.TAG").is_file();
        let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
        let profile = match name(directory)?.as_str() {
            // The only profile whose directory has another name.
            "debug" => "dev".to_owned(),
            other => other.to_owned(),
        };
        let above = directory.parent()?;
        let (target_dir, triple) = match Some(above).filter(is_target_dir) {
            Some(target_dir) => (target_dir, None),
            None => (above.parent().filter(is_target_dir)?, Some(name(above)?)),
        };
        Some(Self {
            target_dir: target_dir.to_owned(),
            triple,
            profile,
        })
    }

    fn build(&self, cargo: &Path, names: &[&str]) -> Result<()> {
        let mut command = Command::new(cargo);
        command
            .args(["build", "--profile", &self.profile])
            .arg("--manifest-path")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&self.target_dir);
        if let Some(triple) = &self.triple {
            command.args(["--target", triple]);
        }
        for name in names {
            command.args(["--bin", name]);
        }
        // What cargo says goes to stderr, as it does for the tool itself.
        let done = command
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("cannot run {}", cargo.display()))?;
        if !done.success() {
            bail!("{} could not be built", names.join(" and "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_goes_where_the_tool_lies() {
        let target = tempfile::tempdir().unwrap();
        let place = |path: &str| Place::of(&target.path().join(path));
        assert_eq!(place("release"), None, "no directory of cargo's");
        std::fs::write(target.path().join("CACHEDIR.TAG"), "").unwrap();
        let expected = |profile: &str, triple: Option<&str>| {
            Some(Place {
                target_dir: target.path().to_owned(),
                triple: triple.map(str::to_owned),
                profile: profile.to_owned(),
            })
        };
        assert_eq!(place("release"), expected("release", None));
        assert_eq!(place("debug"), expected("dev", None));
        let triple = "aarch64-unknown-linux-musl";
        let below = format!("{triple}/campaign");
        assert_eq!(place(&below), expected("campaign", Some(triple)));
    }
}
