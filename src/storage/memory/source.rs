//! How recovery reads the store in memory: in blocks, as it reads the real one.

use super::Image;
use crate::storage::recovery::{Fault, Source};
use crate::storage::{CommitRecord, Finding, Slice};
use crate::types::entry::Entry;
use crate::types::{Base, Index, Term};

/// Entries that recovery sees as one block.
const BLOCK_ENTRIES: usize = 16;

impl Image {
    fn readable_block(&self, start: usize, end: usize) -> Result<Option<Vec<Entry>>, Fault> {
        let block = self.log.get(start..end).filter(|block| !block.is_empty());
        if let Some(block) = block {
            let read = self.rot.read_entries(block);
            read.map_err(|error| Finding::new("log", block[0].index(), error.to_string()))?;
        }
        Ok(block.map(<[Entry]>::to_vec))
    }
}

impl Source for Image {
    fn block_at(&self, at: Index) -> Result<Option<Vec<Entry>>, Fault> {
        let end = self.kept(at);
        let start = end.saturating_sub(1) / BLOCK_ENTRIES * BLOCK_ENTRIES;
        self.readable_block(start, end)
    }

    fn block_from(&self, from: Index) -> Result<Option<Vec<Entry>>, Fault> {
        let start = self.kept(from.previous());
        let end = self.log.len().min(start + BLOCK_ENTRIES);
        let begins = self.log.get(start).is_some_and(|e| e.index() == from);
        if !begins {
            return Ok(None);
        }
        self.readable_block(start, end)
    }

    fn base(&self) -> Result<Base, Fault> {
        Ok(self.base.clone())
    }

    fn runs(&self) -> Result<Vec<(Index, Term)>, Fault> {
        let mut runs: Vec<(Index, Term)> = Vec::new();
        for entry in &self.log {
            if runs
                .last()
                .is_none_or(|(_, term)| *term != entry.stamp().term)
            {
                runs.push((entry.index(), entry.stamp().term));
            }
        }
        Ok(runs)
    }

    fn last_commit(&self) -> Result<Option<CommitRecord>, Fault> {
        let last = self.commits.last_key_value().map(|(_, record)| *record);
        if let Some(record) = last {
            let index = record.stamp.index;
            let read = self.rot.read_commits(index, index);
            read.map_err(|error| Finding::new("commits", index, error.to_string()))?;
        }
        Ok(last)
    }

    fn applied(&self) -> Result<Option<Slice>, Fault> {
        Ok(self.applied.clone())
    }
}
