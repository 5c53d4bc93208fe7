//! What is remembered between runs: one file for each profile and account, one JSON object a line.
//!
//! The servers keep inboxes, but not what an account has sent, nor what was read. The file holds
//! all three, and the request ids of messages whose outcome is open, so that a message that was on
//! its way when the client died is sent again under the same id, and arrives once.
//!
//! # Duties of order
//!
//! A message's request id is on disk BEFORE it is sent. A received message is on disk BEFORE it is
//! acknowledged: from then on the servers start behind it.
//!
//! # Bounds
//!
//! The file is rewritten when it is opened with more than [`FILE_BYTES_MAX`]; the newer half of it
//! stays. It is 0600, in a directory of 0700: the bodies are in it as they were written. A line
//! that was torn by a crash is skipped.

use chat::client::Message;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Error, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest file, in bytes, before its older half goes: about 300,000 short messages, which load
/// in half a second (in the background).
pub const FILE_BYTES_MAX: u64 = 48 * 1024 * 1024;

/// Under which id a message is sent, however often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Drawn at the login.
    pub client: [u8; 16],
    /// Of this client.
    pub sequence: u64,
}

/// Whose history it is: names come again, and another cluster counts from 1 as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The account's id.
    pub user_id: u64,
    /// When it was created, in microseconds.
    pub created_us: u64,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The first line.
    Owner(Owner),
    /// A message came.
    In {
        /// Who sent it.
        peer: String,
        /// The servers' id.
        id: u64,
        /// Its place in the inbox.
        seq: u64,
        /// Microseconds since the Unix epoch.
        time_us: u64,
        /// What it says.
        body: String,
    },
    /// A message was written.
    Out {
        /// Of this client.
        key: u64,
        /// To whom.
        peer: String,
        /// Microseconds since the Unix epoch.
        time_us: u64,
        /// What it says.
        body: String,
        /// Its request id.
        request: Option<Request>,
    },
    /// It was accepted.
    Accepted {
        /// Of this client.
        key: u64,
        /// The servers' id.
        id: u64,
        /// Their time.
        time_us: u64,
    },
    /// It failed.
    Failed {
        /// Of this client.
        key: u64,
        /// Why.
        why: String,
    },
    /// It goes on its way again.
    Again {
        /// Of this client.
        key: u64,
    },
    /// It was given up.
    Discarded {
        /// Of this client.
        key: u64,
    },
    /// The peer has everything up to this message.
    Delivered {
        /// Who.
        peer: String,
        /// Inclusive.
        id: u64,
    },
    /// The person who sits here has seen everything up to this message.
    Read {
        /// With whom.
        peer: String,
        /// Inclusive.
        id: u64,
    },
    /// What was being written when the client ended.
    Draft {
        /// To whom.
        peer: String,
        /// The text so far.
        text: String,
    },
    /// The conversation is in the list, though it may be empty.
    Open {
        /// With whom.
        peer: String,
    },
    /// It is not, until something is said in it again.
    Closed {
        /// With whom.
        peer: String,
    },
    /// The inbox was read up to here.
    Cursor {
        /// Inclusive.
        seq: u64,
    },
}

impl Record {
    /// A message that came.
    pub fn received(message: &Message) -> Self {
        let body = match std::str::from_utf8(&message.body) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("<{} bytes of {}>", message.body.len(), message.content_type),
        };
        Self::In {
            peer: message.sender.clone(),
            id: message.message_id,
            seq: message.inbox_seq,
            time_us: message.time_us,
            body,
        }
    }
}

/// An open history.
pub struct History {
    path: PathBuf,
    file: File,
    /// One process writes; without the lock this one only reads.
    lock: Option<File>,
}

impl History {
    /// Opens the history of this account in this profile; to read only if another process has it.
    pub fn open(directory: &Path, profile: &str, account: &str) -> Result<Self, Error> {
        // The servers chose the account's name, and it becomes a part of a path.
        let letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !account.chars().all(letter) {
            return Err(Error::other("the account's name is not one"));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let path = directory.join(format!("{profile}.{account}.history"));
        let lock = options().open(beside(&path, ".lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let file = options().read(true).open(&path)?;
                return Ok(Self {
                    path,
                    file,
                    lock: None,
                });
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if fs::metadata(&path).is_ok_and(|meta| meta.len() > FILE_BYTES_MAX) {
            shorten(&path, FILE_BYTES_MAX / 2)?;
        }
        let mut file = options().read(true).open(&path)?;
        end_line(&mut file)?;
        let lock = Some(lock);
        Ok(Self { path, file, lock })
    }

    /// Whether what is appended is kept.
    pub fn is_writable(&self) -> bool {
        self.lock.is_some()
    }

    /// All records, oldest first, in bunches.
    pub fn load(&mut self, mut each: impl FnMut(Vec<Record>)) -> Result<(), Error> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut bunch = Vec::new();
        for line in BufReader::new(&self.file).split(b'\n') {
            // A torn or foreign line is no reason to forget the others.
            if let Ok(record) = serde_json::from_slice(&line?) {
                bunch.push(record);
            }
            if bunch.len() == 4_096 {
                each(std::mem::take(&mut bunch));
            }
        }
        each(bunch);
        self.file.seek(SeekFrom::End(0))?;
        Ok(())
    }

    /// Puts this history aside (one of them, under another name) and begins a new one.
    pub fn replace(&mut self) -> Result<(), Error> {
        if !self.is_writable() {
            return Ok(());
        }
        fs::rename(&self.path, beside(&self.path, ".old"))?;
        self.file = options().read(true).open(&self.path)?;
        Ok(())
    }

    /// Writes records, and waits until they are on disk.
    pub fn append(&mut self, records: &[Record]) -> Result<(), Error> {
        if !self.is_writable() || records.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for record in records {
            serde_json::to_writer(&mut lines, record)?;
            lines.push(b'\n');
        }
        self.file.write_all(&lines)?;
        self.file.sync_data()
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    options
}

/// A crash may have left half a line.
fn end_line(file: &mut File) -> Result<(), Error> {
    use std::os::unix::fs::FileExt;
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok(())
}

/// Keeps the last bytes, and of what stands before them what is still true.
fn shorten(path: &Path, keep: u64) -> Result<(), Error> {
    let old = File::open(path)?;
    let from = old.metadata()?.len().saturating_sub(keep);
    let new_path = beside(path, ".new");
    let _ = fs::remove_file(&new_path);
    let mut new = std::io::BufWriter::new(options().create_new(true).open(&new_path)?);
    let mut kept = Kept::default();
    let mut at = 0;
    for line in BufReader::new(old).split(b'\n') {
        let line = line?;
        let here = at;
        at += line.len() as u64 + 1;
        if here < from {
            if let Ok(record) = serde_json::from_slice(&line) {
                kept.add(record);
            }
            continue;
        }
        for record in kept.take() {
            serde_json::to_writer(&mut new, &record)?;
            new.write_all(b"\n")?;
        }
        new.write_all(&line)?;
        new.write_all(b"\n")?;
    }
    let new = new
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?;
    new.sync_all()?;
    fs::rename(new_path, path)
}

/// What stays true of records that go.
#[derive(Default)]
struct Kept {
    owner: Option<Record>,
    cursor: u64,
    read: BTreeMap<String, Record>,
    delivered: BTreeMap<String, Record>,
    /// By key: without an outcome, or with a bad one.
    open: BTreeMap<u64, Vec<Record>>,
}

impl Kept {
    fn add(&mut self, record: Record) {
        match record {
            Record::Owner(_) => self.owner = Some(record),
            Record::In { seq, .. } | Record::Cursor { seq } => self.cursor = self.cursor.max(seq),
            Record::Out { key, .. } => {
                self.open.insert(key, vec![record]);
            }
            Record::Failed { key, .. } | Record::Again { key } => {
                if let Some(records) = self.open.get_mut(&key) {
                    records.truncate(1);
                    records.push(record);
                }
            }
            Record::Accepted { key, .. } | Record::Discarded { key } => {
                self.open.remove(&key);
            }
            Record::Read { ref peer, .. } => {
                self.read.insert(peer.clone(), record);
            }
            Record::Delivered { ref peer, .. } => {
                self.delivered.insert(peer.clone(), record);
            }
            // Newer ones follow, or there was nothing to keep.
            Record::Draft { .. } | Record::Open { .. } | Record::Closed { .. } => {}
        }
    }

    fn take(&mut self) -> Vec<Record> {
        let mut records: Vec<Record> = self.owner.take().into_iter().collect();
        if self.cursor > 0 {
            records.push(Record::Cursor { seq: self.cursor });
        }
        let kept = std::mem::take(self);
        records.extend(kept.read.into_values());
        records.extend(kept.delivered.into_values());
        records.extend(kept.open.into_values().flatten());
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn received(seq: u64) -> Record {
        Record::In {
            peer: "bob".into(),
            id: seq * 10,
            seq,
            time_us: 0,
            body: format!("body\n{seq}"),
        }
    }

    fn all(history: &mut History) -> Vec<Record> {
        let mut all = Vec::new();
        history.load(|bunch| all.extend(bunch)).unwrap();
        all
    }

    #[test]
    fn what_is_written_is_read_again_by_one_process_at_a_time() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("chat");
        let mut history = History::open(&directory, "default", "alice").unwrap();
        history.append(&[received(1), received(2)]).unwrap();
        let mut second = History::open(&directory, "default", "alice").unwrap();
        assert!(!second.is_writable());
        second.append(&[received(7)]).unwrap();
        assert_eq!(all(&mut second), [received(1), received(2)]);
        drop(history);
        // A crash in the middle of a line costs that line.
        let path = directory.join("default.alice.history");
        options()
            .open(&path)
            .unwrap()
            .write_all(b"{\"in\":{\"pe")
            .unwrap();
        let mut history = History::open(&directory, "default", "alice").unwrap();
        history.append(&[received(3)]).unwrap();
        assert_eq!(all(&mut history), [received(1), received(2), received(3)]);
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        history.replace().unwrap();
        assert!(all(&mut history).is_empty());
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        let base = tempfile::tempdir().unwrap();
        assert!(History::open(base.path(), "p", "../x").is_err());
    }

    #[test]
    fn a_file_that_is_too_long_keeps_its_newer_part_and_what_is_still_true() {
        let base = tempfile::tempdir().unwrap();
        let mut history = History::open(base.path(), "p", "a").unwrap();
        let owner = Record::Owner(Owner {
            user_id: 2,
            created_us: 3,
        });
        let out = |key| Record::Out {
            key,
            peer: "bob".into(),
            time_us: 0,
            body: "x".into(),
            request: Some(Request {
                client: [1; 16],
                sequence: key,
            }),
        };
        let accepted = Record::Accepted {
            key: 1,
            id: 5,
            time_us: 0,
        };
        let read = Record::Read {
            peer: "bob".into(),
            id: 20,
        };
        let failed = Record::Failed {
            key: 2,
            why: "no".into(),
        };
        let head = [
            owner.clone(),
            out(1),
            out(2),
            accepted,
            failed.clone(),
            read.clone(),
        ];
        history.append(&head).unwrap();
        let many: Vec<Record> = (1..=1_000).map(received).collect();
        history.append(&many).unwrap();
        shorten(&history.path, 10_000).unwrap();
        drop(history);
        let mut history = History::open(base.path(), "p", "a").unwrap();
        let left = all(&mut history);
        let first = match &left[5] {
            Record::In { seq, .. } => *seq,
            other => panic!("{other:?}"),
        };
        let cursor = Record::Cursor { seq: first - 1 };
        assert_eq!(left[..5], [owner, cursor, read, out(2), failed]);
        assert_eq!(left.last(), many.last());
    }
}
