//! The store of a stopped replica, read on a private copy.

use super::verify::{LogSource, Scan};
use crate::consensus::FormationStatus;
use crate::state_machine::StateMachine;
use crate::storage::{CommitRecord, Inspection, SledReader, StateReader, StorageError, Tree};
use crate::types::entry::Entry;
use crate::types::{Base, ClusterId, Index, ReplicaId};
use std::path::Path;

/// A stopped replica.
pub struct Stopped {
    inspection: Inspection,
    trees: SledReader,
    id: ReplicaId,
    replicas: usize,
    cluster: Option<ClusterId>,
}

impl Stopped {
    /// Copies the store under the directory's lock. Neither migrates nor repairs. Blocks.
    pub fn open(data_dir: &Path) -> Result<Self, StorageError> {
        let inspection = Inspection::open(data_dir)?;
        let hard_state = inspection.hard_state().ok().flatten();
        let cluster = hard_state.and_then(|state| state.cluster);
        let id = hard_state.map_or(ReplicaId(0), |state| state.id);
        let replicas = match hard_state.map(|state| &state.formation) {
            Some(FormationStatus::Formed(members)) => members.len(),
            _ => 1,
        };
        Ok(Self {
            trees: inspection.reader(),
            inspection,
            id,
            replicas,
            cluster,
        })
    }

    /// Which replica; 0 if its hard state is lost.
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// Replicas in its cluster, as far as it knows.
    pub fn replicas(&self) -> usize {
        self.replicas
    }

    /// Which cluster; `None` if it belongs to none yet, or its hard state is lost.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// The commit point: the last commit record, or what the state trees hold if that is more.
    pub fn commit(&self) -> Index {
        let recovered = self.inspection.recovered();
        let recorded = recovered
            .commit
            .map_or(Index(0), |record| record.stamp.index);
        let applied = recovered
            .applied
            .as_ref()
            .map_or(Index(0), |slice| slice.applied);
        recorded.max(applied)
    }

    /// The last entry.
    pub fn last(&self) -> Index {
        self.inspection.recovered().last.index
    }

    /// What opening the store has found already, and what is wrong with the hard state.
    pub fn damage(&self) -> Vec<(Index, String)> {
        let mut damage = self.inspection.recovered().damage.clone();
        match self.inspection.hard_state() {
            Ok(None) if self.last() > Index(0) => damage.push((
                Index(0),
                format!(
                    "hard_state: the file is missing although the log ends at {}",
                    self.last()
                ),
            )),
            Ok(_) => {}
            Err(sentence) => damage.push((Index(0), sentence.to_owned())),
        }
        damage
    }

    /// Scans every record of the state trees.
    pub fn scan(&self) -> Scan {
        let Some(slice) = &self.inspection.recovered().applied else {
            return self.scan_nothing();
        };
        let machine = StateMachine::open(Some(slice));
        match machine.and_then(|machine| machine.scan_digest(&self.trees)) {
            Ok(digest) => Scan::Done(slice.applied, digest),
            Err(error) => Scan::Failed(slice.applied, error.to_string()),
        }
    }

    /// Nothing was applied: the trees must be empty.
    fn scan_nothing(&self) -> Scan {
        for tree in Tree::ALL {
            let what = match self.trees.range(tree, &[], &[0xff; 64], 1) {
                Ok(records) if records.is_empty() => continue,
                Ok(_) => "there are records, and nothing says which entries made them".to_owned(),
                Err(error) => error.to_string(),
            };
            return Scan::Failed(Index(0), format!("{}: {what}", tree.name()));
        }
        Scan::Empty
    }

    /// The digest that was stored beside the state trees.
    pub fn stored_digest(&self) -> Option<(Index, crate::types::Hash)> {
        let slice = self.inspection.recovered().applied.as_ref();
        slice.map(|slice| (slice.applied, slice.digest))
    }
}

impl LogSource for Stopped {
    fn base(&self) -> Result<Base, StorageError> {
        Ok(self.inspection.recovered().base.clone())
    }

    fn entries(&self, from: Index, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        self.inspection.entries(from, bytes_max)
    }

    fn commit_records(&self, from: Index, to: Index) -> Result<Vec<CommitRecord>, StorageError> {
        self.inspection.commit_records(from, to)
    }

    fn trees(&self) -> Option<&dyn StateReader> {
        Some(&self.trees)
    }
}
