//! The login kept in a file: `$XDG_CONFIG_HOME/chat/NAME.json`, 0600, in a directory of 0700.
//!
//! # Duties of order
//!
//! The next request's sequence is stored BEFORE that request is sent. A process that dies after
//! sending then leaves a file whose sequence was never used, and no later request can be taken
//! for a retry of an earlier one. Processes that share a profile take turns under a lock file, so
//! that no two get the same sequence.

use crate::Failure;
use chat::client::SessionData;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One profile: perhaps with a login in it.
pub struct Profile {
    directory: PathBuf,
    name: String,
}

impl Profile {
    /// The profile of this name. Touches nothing yet.
    pub fn named(name: &str) -> Result<Self, Failure> {
        let base = std::env::var_os("XDG_CONFIG_HOME")
            .filter(|path| Path::new(path).is_absolute())
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")))
            .ok_or_else(|| Failure::Usage("neither XDG_CONFIG_HOME nor HOME is set".into()))?;
        Self::in_directory(base.join("chat"), name)
    }

    /// The profiles that there are, by name, each with its account if it holds a login.
    pub fn all() -> Vec<(String, Option<String>)> {
        let Ok(example) = Self::named("default") else {
            return Vec::new();
        };
        let Ok(entries) = fs::read_dir(&example.directory) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Some(name.strip_suffix(".json")?.to_owned())
        });
        let mut all: Vec<_> = names
            .filter_map(|name| Self::named(&name).ok())
            .map(|profile| {
                let login = profile.load().ok();
                (profile.name, login.map(|login| login.username))
            })
            .collect();
        all.sort();
        all
    }

    /// Whether a profile may have this name: it becomes a part of a path.
    pub fn is_name(name: &str) -> bool {
        let letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !name.is_empty() && !name.starts_with('.') && name.len() <= 64 && name.chars().all(letter)
    }

    /// The same in a directory of the caller's choice.
    pub fn in_directory(directory: PathBuf, name: &str) -> Result<Self, Failure> {
        if !Self::is_name(name) {
            return Err(Failure::Usage(format!(
                "a profile's name has letters, digits, `.`, `_` and `-`, not {name:?}"
            )));
        }
        Ok(Self {
            directory,
            name: name.into(),
        })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Keeps this login instead of what was there.
    pub fn store(&self, data: &SessionData) -> Result<(), Failure> {
        let _lock = self.lock()?;
        self.write(data)
    }

    /// The login, with `count` sequences that are this process's alone: from
    /// `SessionData::next_sequence` on.
    pub fn reserve(&self, count: u64) -> Result<SessionData, Failure> {
        if !self.path().exists() {
            return Err(Failure::NoLogin);
        }
        let _lock = self.lock()?;
        let data = self.read()?;
        self.write(&SessionData {
            next_sequence: data.next_sequence.saturating_add(count),
            ..data.clone()
        })?;
        Ok(data)
    }

    /// The login, for what needs no sequence.
    pub fn load(&self) -> Result<SessionData, Failure> {
        self.read()
    }

    /// Forgets the login.
    pub fn remove(&self) -> Result<(), Failure> {
        let _lock = self.lock()?;
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(self.failed("cannot remove")(error))
            }
            _ => Ok(()),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(format!("{}.json", self.name))
    }

    fn lock(&self) -> Result<File, Failure> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(self.failed("cannot create the directory of"))?;
        let path = self.directory.join(format!("{}.lock", self.name));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(self.failed("cannot lock"))?;
        file.lock().map_err(self.failed("cannot lock"))?;
        Ok(file)
    }

    fn read(&self) -> Result<SessionData, Failure> {
        let bytes = match fs::read(self.path()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(Failure::NoLogin),
            Err(error) => return Err(self.failed("cannot read")(error)),
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            self.failed("does not hold a login; log in again:")(std::io::Error::other(error))
        })
    }

    /// Write, fsync, rename: a crash leaves the old file or the new one.
    fn write(&self, data: &SessionData) -> Result<(), Failure> {
        let new = self.directory.join(format!("{}.json.new", self.name));
        let write = || {
            // A leftover of a crash may have any mode: the file must be made anew.
            match fs::remove_file(&new) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&new)?;
            serde_json::to_writer_pretty(&mut file, data)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&new, self.path())
        };
        write().map_err(self.failed("cannot write"))
    }

    fn failed(&self, what: &str) -> impl FnOnce(std::io::Error) -> Failure + use<> {
        Failure::io(format!("{what} {}", self.path().display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn data() -> SessionData {
        SessionData {
            username: "alice".into(),
            user_id: 2,
            device: "default".into(),
            token: "secret".into(),
            client_id: [7; 16],
            next_sequence: 2,
        }
    }

    #[test]
    fn what_is_reserved_is_never_given_again_and_only_the_owner_can_read_it() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("chat");
        let profile = Profile::in_directory(directory.clone(), "work").unwrap();
        assert!(matches!(profile.reserve(1), Err(Failure::NoLogin)));
        profile.store(&data()).unwrap();
        assert_eq!(profile.reserve(1).unwrap().next_sequence, 2);
        assert_eq!(profile.reserve(64).unwrap().next_sequence, 3);
        assert_eq!(profile.load().unwrap().next_sequence, 67);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&profile.path()), 0o600);
        assert_eq!(mode(&directory), 0o700);
        profile.remove().unwrap();
        assert!(matches!(profile.load(), Err(Failure::NoLogin)));
    }

    #[test]
    fn processes_that_share_a_profile_never_share_a_sequence() {
        let base = tempfile::tempdir().unwrap();
        let profile = || Profile::in_directory(base.path().into(), "shared").unwrap();
        profile().store(&data()).unwrap();
        let reserve = || {
            let profile = profile();
            move || -> Vec<u64> {
                (0..20)
                    .map(|_| profile.reserve(1).unwrap().next_sequence)
                    .collect()
            }
        };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(reserve())).collect();
        let mut all: Vec<u64> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        all.sort_unstable();
        assert_eq!(all, (2..82).collect::<Vec<u64>>());
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "a b"] {
            let refused = Profile::in_directory("/nowhere".into(), name);
            assert!(matches!(refused, Err(Failure::Usage(_))), "{name:?}");
        }
    }
}
