//! The next store of a [`MemStore`]: an image of its own, which a crash takes whole until it is
//! installed.

use super::{Image, MemReader, MemStore, cut_off};
use crate::limits;
use crate::storage::recovery::recover;
use crate::storage::{Checked, Scan, StateReader, StorageError, Tree, Write, records};
use crate::types::Base;
use bytes::Bytes;

impl MemStore {
    pub(super) fn begin_next(&mut self, base: &Base) -> Result<(), StorageError> {
        let image = Image {
            base: base.clone(),
            ..Image::default()
        };
        let mut disk = self.disk.lock();
        disk.operate(self.epoch, |disk| disk.next = Some(image))
    }

    pub(super) fn cut_next(&mut self, base: &Base) -> Result<(), StorageError> {
        let disk = &mut *self.disk.lock();
        if disk.next.is_none() {
            return Err(cut_off());
        }
        disk.operate(self.epoch, |disk| {
            if let Some(next) = &mut disk.next {
                next.base = base.clone();
            }
        })
    }

    pub(super) fn write_next(&mut self, write: Write) -> Result<(), StorageError> {
        let disk = &mut *self.disk.lock();
        let next = disk.next.as_ref().ok_or_else(cut_off)?;
        records::check_append(&write, |after| next.end_at(after))?;
        disk.operate(self.epoch, |disk| {
            if let Some(next) = &mut disk.next {
                next.apply(write);
            }
        })
    }

    pub(super) fn read_next(&self) -> NextReader {
        NextReader(MemReader(self.disk.clone()))
    }

    /// An open of the image as it is.
    pub(super) fn check_next(&mut self, scan: Scan) -> Result<Checked, StorageError> {
        self.disk.lock().operate(self.epoch, |_| ())?;
        let recovered = {
            let disk = self.disk.lock();
            let next = disk.next.as_ref().ok_or_else(cut_off)?;
            // The promises are not its business: a rewriting goes on while entries are written.
            recover(next, None, limits::LOG_CACHE_BYTES)?
        };
        if let Some((_, sentence)) = recovered.damage.into_iter().next() {
            return Ok(Err(sentence));
        }
        let Some(slice) = recovered.applied else {
            return Ok(Err("it holds no state".into()));
        };
        Ok(scan(&slice, &self.read_next()).map_err(|e| e.to_string()))
    }

    pub(super) fn install_next(&mut self) -> Result<(), StorageError> {
        let disk = &mut *self.disk.lock();
        if disk.next.is_none() {
            return Err(cut_off());
        }
        disk.operate(self.epoch, |disk| {
            let Some(mut next) = disk.next.take() else {
                return;
            };
            next.rewritten = next.bytes.max(1);
            disk.old = Some(std::mem::replace(&mut disk.live, next));
            disk.unsynced.clear();
        })
    }
}

/// Reads the image that is being built.
pub(super) struct NextReader(MemReader);

impl StateReader for NextReader {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let disk = self.0.0.lock();
        let next = disk.next.as_ref().ok_or_else(cut_off)?;
        Ok(next.trees[tree as usize].get(key).cloned())
    }

    fn range(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let disk = self.0.0.lock();
        let next = disk.next.as_ref().ok_or_else(cut_off)?;
        let rows = next.trees[tree as usize].range::<[u8], _>((
            std::ops::Bound::Included(from),
            std::ops::Bound::Excluded(to),
        ));
        let rows = rows.take(limit);
        Ok(rows.map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn range_back(
        &self,
        tree: Tree,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        let mut rows = self.range(tree, from, to, usize::MAX)?;
        rows.reverse();
        rows.truncate(limit);
        Ok(rows)
    }
}
