//! What the replicas did about their disks: damage that they repaired, logs that they cut, states that
//! they were given.

use crate::network::Node;
use crate::replicas::{Health, Replicas};
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// What a replica's log says when its store was replaced by one that it was given.
const REPAIRED: &str = "repaired: ";
/// And when all of its store was read and is as it must be.
const SOUND: &str = "scrubbed: ";
/// And when it was given a state.
const INSTALLED: &str = "installed the state after ";
/// Times that a replica may end by itself on a damaged disk before its operator helps.
const ENDS_MAX: u32 = 2;

/// Disks that were damaged.
#[derive(Default)]
pub struct Damages {
    /// Whose replicas have not shown since that they are whole.
    open: BTreeMap<Node, Open>,
    done: u64,
    repaired: u64,
    sound: u64,
    by_operator: u64,
}

struct Open {
    /// Where its log was then.
    log_from: u64,
    /// Times that it ended by itself since.
    ends: u32,
}

impl Damages {
    /// A disk is damaged now.
    pub fn begin(&mut self, replicas: &Replicas, id: Node) -> Result<()> {
        let log_from = length(&replicas.log(id))?;
        self.done += 1;
        self.open.insert(id, Open { log_from, ends: 0 });
        Ok(())
    }

    /// Whatever it says of itself is explained.
    pub fn explains(&self, id: Node) -> bool {
        self.open.contains_key(&id)
    }

    /// It ended by itself. Whether its operator must help now.
    pub fn ended(&mut self, id: Node) -> bool {
        let Some(open) = self.open.get_mut(&id) else {
            return false;
        };
        open.ends += 1;
        open.ends >= ENDS_MAX
    }

    /// Its operator has helped: the disk is another.
    pub fn helped(&mut self, id: Node) {
        if self.open.remove(&id).is_some() {
            self.by_operator += 1;
        }
    }

    /// Those that have repaired themselves since, or have read all of their store and found nothing, are
    /// whole. A sentence about each.
    pub fn look(&mut self, replicas: &Replicas) -> Result<Vec<String>> {
        let mut sentences = Vec::new();
        for (id, open) in std::mem::take(&mut self.open) {
            let said = since(&replicas.log(id), open.log_from)?;
            if said.contains(REPAIRED) {
                self.repaired += 1;
                sentences.push(format!("replica {id} has repaired itself"));
            } else if said.contains(SOUND) {
                self.sound += 1;
                sentences.push(format!(
                    "replica {id} has read its whole store, and is sound"
                ));
            } else {
                self.open.insert(id, open);
            }
        }
        Ok(sentences)
    }

    /// Those that are not whole yet.
    pub fn open(&self) -> Vec<Node> {
        self.open.keys().copied().collect()
    }

    /// `damaged disks: 9; 6 repaired by their replicas, …`.
    pub fn summary(&self) -> String {
        format!(
            "damaged disks: {}; {} repaired by their replicas, {} read again and sound, {} replaced by \
             the operator",
            self.done, self.repaired, self.sound, self.by_operator
        )
    }
}

/// For each replica: how much of its log was cut, which of its stores is the live one, what it was given.
pub async fn tell(replicas: &Replicas) -> Result<Vec<String>> {
    let mut sentences = Vec::new();
    for (id, health) in replicas.all_health().await {
        let Health::Answers(status) = health else {
            continue;
        };
        let said = since(&replicas.log(id), 0)?;
        let live = replicas.disk(id)?.data_dir().join("CURRENT");
        let live = std::fs::read_to_string(live).unwrap_or_default();
        sentences.push(format!(
            "replica {id}: log cut at {} of {}, live in {}; {} states installed, {} repairs, {} scrubs",
            status.base_index,
            status.last_index,
            live.trim(),
            said.matches(INSTALLED).count(),
            said.matches(REPAIRED).count(),
            said.matches(SOUND).count()
        ));
    }
    Ok(sentences)
}

fn length(log: &Path) -> Result<u64> {
    let data = log.metadata();
    Ok(data.context("a replica's log file is gone")?.len())
}

fn since(log: &Path, from: u64) -> Result<String> {
    let bytes = std::fs::read(log).context("a replica's log file is gone")?;
    let new = bytes.get(from as usize..).unwrap_or_default();
    Ok(String::from_utf8_lossy(new).into_owned())
}
