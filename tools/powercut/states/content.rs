//! What a store holds, as the script says and as it is read back.

use anyhow::Context as _;
use bytes::Bytes;
use chat::limits;
use chat::storage::{
    Change, CommitRecord, Recovered, SledStore, Slice, StateReader, StorageError, Store as _, Tree,
    Write, verify_log,
};
use chat::types::entry::Entry;
use chat::types::{Base, Hash, Index, Members};
use std::collections::BTreeMap;

/// Records of a page.
const PAGE: usize = 500;
/// Above every key.
const END: [u8; 64] = [0xFF; 64];

/// All of a store.
#[derive(Clone, Default)]
pub struct Content {
    /// Where the log begins.
    pub base: Base,
    /// All of them.
    pub entries: Vec<Entry>,
    /// By index.
    pub commits: BTreeMap<Index, CommitRecord>,
    /// What the trees stand at, without changes.
    pub applied: Option<Slice>,
    /// By number of the tree and key.
    pub rows: BTreeMap<(usize, Bytes), Bytes>,
}

impl Content {
    /// As the store's contract says.
    pub fn apply(&mut self, write: &Write) {
        if let Some(after) = write.truncate_after {
            self.entries.retain(|entry| entry.index() <= after);
        }
        self.entries.extend(write.append.iter().cloned());
        if let Some(record) = &write.commit {
            self.commits.insert(record.stamp.index, *record);
        }
        if let Some(slice) = &write.slice {
            for Change { tree, key, value } in &slice.changes {
                let key = (*tree as usize, key.clone());
                match value {
                    Some(value) => self.rows.insert(key, value.clone()),
                    None => self.rows.remove(&key),
                };
            }
            self.applied = Some(Slice {
                changes: Vec::new(),
                ..slice.clone()
            });
        }
    }

    /// The log begins after this base.
    pub fn cut(&mut self, base: &Base) {
        let at = base.stamp.index;
        self.entries.retain(|entry| entry.index() > at);
        self.commits.retain(|index, _| *index >= at);
        self.base = base.clone();
    }

    /// A slice up to an entry with these changes, and the digest of the rows as they are then.
    pub fn slice(&self, entry: &Entry, changes: Vec<Change>) -> Slice {
        let mut slice = Slice {
            applied: entry.index(),
            hash: entry.hash(),
            digest: Hash::default(),
            members: Members::new(),
            machine: Bytes::from_static(b"totals"),
            changes,
        };
        let mut after = Self {
            rows: self.rows.clone(),
            ..Self::default()
        };
        after.apply(&Write {
            slice: Some(slice.clone()),
            ..Write::default()
        });
        slice.digest = after.digest();
        slice
    }

    /// Of all rows.
    pub fn digest(&self) -> Hash {
        digest_of(self.rows.iter().map(|((t, k), v)| (*t, k, v)))
    }

    /// Equal for equal contents only. `rows` is the digest of all rows.
    pub fn hash(&self, rows: Hash) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        };
        part(format!("{:?}", self.base).as_bytes());
        for entry in &self.entries {
            part(&entry.hash().0);
        }
        for record in self.commits.values() {
            part(format!("{record:?}").as_bytes());
        }
        part(format!("{:?}", self.applied).as_bytes());
        part(&rows.0);
        hasher.finalize().to_hex().to_string()
    }

    /// For people.
    pub fn summary(&self) -> String {
        let last = self.entries.last().map_or(self.base.stamp, Entry::stamp);
        let commit = self.commits.keys().next_back().copied().unwrap_or_default();
        let applied = self
            .applied
            .as_ref()
            .map_or(Index(0), |slice| slice.applied);
        format!(
            "base {}, log to {last}, {} commit records to {commit}, state at {applied} with {} rows",
            self.base.stamp,
            self.commits.len(),
            self.rows.len()
        )
    }

    /// Everything in a store, and what its checks find wrong in it.
    pub fn read(store: &SledStore, recovered: &Recovered) -> anyhow::Result<(Self, Vec<String>)> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let base = recovered.base.stamp.index;
            let from = entries.last().map_or(base, Entry::index).next();
            let page = store.entries(from, limits::APPEND_BYTES_MAX)?;
            if page.is_empty() {
                break;
            }
            entries.extend(page);
        }
        let commits = store.commit_records(Index(0), Index(u64::MAX))?;
        let rows = read_rows(&store.reader())?;
        let verified = verify_log(
            &recovered.base,
            |from| store.entries(from, limits::APPEND_BYTES_MAX),
            |from, to| store.commit_records(from, to),
        );
        let mut findings: Vec<String> = verified
            .findings()
            .iter()
            .map(ToString::to_string)
            .collect();
        if let Some(slice) = &recovered.applied {
            let digest = scan(slice, &store.reader()).context("cannot scan")?;
            if digest != slice.digest {
                findings.push("the state's digest is not that of its records".into());
            }
        }
        let content = Self {
            base: recovered.base.clone(),
            entries,
            commits: commits.into_iter().map(|c| (c.stamp.index, c)).collect(),
            applied: recovered.applied.clone(),
            rows,
        };
        Ok((content, findings))
    }
}

type Rows = BTreeMap<(usize, Bytes), Bytes>;

fn read_rows(reader: &dyn StateReader) -> Result<Rows, StorageError> {
    let mut rows = BTreeMap::new();
    for (number, tree) in Tree::ALL.into_iter().enumerate() {
        let mut from = Vec::new();
        loop {
            let page = reader.range(tree, &from, &END, PAGE)?;
            let Some((last, _)) = page.last() else {
                break;
            };
            from = [&last[..], &[0]].concat();
            rows.extend(page.into_iter().map(|(key, value)| ((number, key), value)));
        }
    }
    Ok(rows)
}

/// Recomputes the digest of the state, as a check of the next store wants it.
pub fn scan(_: &Slice, reader: &dyn StateReader) -> Result<Hash, StorageError> {
    let rows = read_rows(reader)?;
    Ok(digest_of(rows.iter().map(|((t, k), v)| (*t, k, v))))
}

fn digest_of<'a>(rows: impl Iterator<Item = (usize, &'a Bytes, &'a Bytes)>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for (tree, key, value) in rows {
        hasher.update(&[tree as u8, key.len() as u8]);
        hasher.update(key);
        hasher.update(&(value.len() as u64).to_be_bytes());
        hasher.update(value);
    }
    Hash(*hasher.finalize().as_bytes())
}
