//! The record of what a process did to its files.

use anyhow::{Context as _, bail, ensure};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// A file, by the order in which they were created. One that is renamed stays itself.
pub type FileId = usize;
/// A directory, likewise; 0 is the one that the record is about.
pub type DirectoryId = usize;

/// What a name in a directory stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node {
    /// A file.
    File(FileId),
    /// A directory.
    Directory(DirectoryId),
}

/// One thing that was done.
#[derive(Debug)]
pub enum Operation {
    /// A file or directory got a name.
    Enter(DirectoryId, String, Node),
    /// A name went.
    Leave(DirectoryId, String),
    /// A name became another one, whatever that stood for.
    Rename(DirectoryId, String, String),
    /// Bytes were written at an offset.
    Write(FileId, u64, Vec<u8>),
    /// A file got this length.
    Resize(FileId, u64),
    /// Everything written to the file is durable.
    SyncFile(FileId),
    /// The names in the directory are durable.
    SyncDirectory(DirectoryId),
    /// A step of the script has begun.
    Begun(usize),
    /// It is done.
    Done(usize),
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enter(directory, name, node) => write!(f, "{node:?} is {name} in {directory}"),
            Self::Leave(directory, name) => write!(f, "{name} leaves {directory}"),
            Self::Rename(directory, from, to) => write!(f, "{from} becomes {to} in {directory}"),
            Self::Write(file, at, bytes) => {
                write!(f, "{} bytes at {at} of file {file}", bytes.len())
            }
            Self::Resize(file, length) => write!(f, "file {file} is {length} bytes long"),
            Self::SyncFile(file) => write!(f, "sync of file {file}"),
            Self::SyncDirectory(directory) => write!(f, "sync of directory {directory}"),
            Self::Begun(step) => write!(f, "step {step} begins"),
            Self::Done(step) => write!(f, "step {step} is done"),
        }
    }
}

/// Names in a directory.
pub type Names = BTreeMap<String, Node>;

/// Everything that was done, in order.
#[derive(Default)]
pub struct Trace {
    /// In order.
    pub operations: Vec<Operation>,
    /// So many of the first ones made what was there before: all of it is durable.
    pub given: usize,
    /// The number of files.
    pub files: usize,
    /// The number of directories.
    pub directories: usize,
}

/// Reads a trace. Invariant: `names` and `inodes` are as the operations so far left them.
struct Reader<'a> {
    root: &'a Path,
    trace: Trace,
    names: Vec<Names>,
    inodes: BTreeMap<u64, FileId>,
}

/// One record of the recorder.
struct Record<'a> {
    what: u8,
    inode: u64,
    number: u64,
    path: &'a str,
    bytes: &'a [u8],
}

/// Bytes before the path of a record.
const HEADER_BYTES: usize = 25;

fn next<'a>(rest: &mut &'a [u8]) -> anyhow::Result<Option<Record<'a>>> {
    if rest.is_empty() {
        return Ok(None);
    }
    let (header, after) = rest
        .split_at_checked(HEADER_BYTES)
        .context("a cut record")?;
    let number = |at: usize| {
        let bytes = header[at..at + 8].try_into().expect("eight bytes");
        u64::from_ne_bytes(bytes)
    };
    let length = |at: usize| {
        let bytes = header[at..at + 4].try_into().expect("four bytes");
        u32::from_ne_bytes(bytes) as usize
    };
    let (path, after) = after.split_at_checked(length(17)).context("a cut record")?;
    let (bytes, after) = after.split_at_checked(length(21)).context("a cut record")?;
    *rest = after;
    Ok(Some(Record {
        what: header[0],
        inode: number(1),
        number: number(9),
        path: std::str::from_utf8(path)?,
        bytes,
    }))
}

/// What is there before anything is recorded: paths, of files with inode and content; directories
/// before what is in them.
pub type Given = Vec<(String, Option<(u64, Vec<u8>)>)>;

impl Trace {
    /// The trace of processes that worked below `root`, where this was at first.
    pub fn parse(mut bytes: &[u8], root: &Path, given: &Given) -> anyhow::Result<Self> {
        let mut reader = Reader {
            root,
            trace: Self {
                directories: 1,
                ..Self::default()
            },
            names: vec![Names::new()],
            inodes: BTreeMap::new(),
        };
        for (path, file) in given {
            let record = |what, content| Record {
                what,
                inode: file.as_ref().map_or(0, |(inode, _)| *inode),
                number: 0,
                path,
                bytes: content,
            };
            match file {
                None => reader.take(record(b'd', &[]))?,
                Some((_, content)) => {
                    reader.take(record(b'c', &[]))?;
                    reader.take(record(b'w', content))?;
                }
            }
        }
        reader.trace.given = reader.trace.operations.len();
        while let Some(record) = next(&mut bytes)? {
            let at = record.path.to_owned();
            reader.take(record).with_context(|| format!("about {at}"))?;
        }
        Ok(reader.trace)
    }
}

impl Reader<'_> {
    /// The directory that a path lies in, and its name there.
    fn place(&self, path: &str) -> anyhow::Result<(DirectoryId, String)> {
        let inside = Path::new(path).strip_prefix(self.root)?;
        let mut parts: Vec<_> = inside
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        let name = parts.pop().unwrap_or_default();
        let mut directory = 0;
        for part in parts {
            match self.names[directory].get(&part) {
                Some(Node::Directory(inner)) => directory = *inner,
                _ => bail!("{part} is no directory"),
            }
        }
        Ok((directory, name))
    }

    fn node(&self, path: &str) -> anyhow::Result<Option<Node>> {
        let (directory, name) = self.place(path)?;
        if name.is_empty() {
            return Ok(Some(Node::Directory(0)));
        }
        Ok(self.names[directory].get(&name).copied())
    }

    fn file(&self, inode: u64) -> anyhow::Result<FileId> {
        self.inodes
            .get(&inode)
            .copied()
            .context("a file that nobody created")
    }

    fn enter(&mut self, path: &str, node: Node) -> anyhow::Result<Operation> {
        let (directory, name) = self.place(path)?;
        self.names[directory].insert(name.clone(), node);
        Ok(Operation::Enter(directory, name, node))
    }

    fn take(&mut self, record: Record<'_>) -> anyhow::Result<()> {
        let operation = match record.what {
            b'c' => {
                let file = self.trace.files;
                self.trace.files += 1;
                self.inodes.insert(record.inode, file);
                self.enter(record.path, Node::File(file))?
            }
            b'd' => {
                let directory = self.trace.directories;
                self.trace.directories += 1;
                self.names.push(Names::new());
                self.enter(record.path, Node::Directory(directory))?
            }
            b'u' => {
                let (directory, name) = self.place(record.path)?;
                self.names[directory]
                    .remove(&name)
                    .context("it was not there")?;
                Operation::Leave(directory, name)
            }
            b'r' => {
                let (directory, from) = self.place(record.path)?;
                let (same, to) = self.place(std::str::from_utf8(record.bytes)?)?;
                ensure!(directory == same, "a rename to another directory");
                let node = self.names[directory]
                    .remove(&from)
                    .context("it was not there")?;
                self.names[directory].insert(to.clone(), node);
                Operation::Rename(directory, from, to)
            }
            b'w' => Operation::Write(
                self.file(record.inode)?,
                record.number,
                record.bytes.to_vec(),
            ),
            b't' => Operation::Resize(self.file(record.inode)?, record.number),
            b's' => match self.node(record.path) {
                Ok(Some(Node::Directory(directory))) => Operation::SyncDirectory(directory),
                // It may have lost its name since.
                _ => Operation::SyncFile(self.file(record.inode)?),
            },
            b'm' => {
                let text = std::str::from_utf8(record.bytes)?;
                let (what, number) = text.split_once(' ').context("half a mark")?;
                match what {
                    "begun" => Operation::Begun(number.parse()?),
                    _ => Operation::Done(number.parse()?),
                }
            }
            what => bail!("a record of kind {what}"),
        };
        self.trace.operations.push(operation);
        Ok(())
    }
}
