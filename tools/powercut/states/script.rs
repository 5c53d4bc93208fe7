//! What the recorded process does: a list of steps that a seed names, and what is in the store and in
//! the promises after each of them.
//!
//! Both the process that is recorded and the judge make it from the seed, so that nothing needs to be
//! carried from one to the other but the number of a step.

use super::content::Content;
use bytes::Bytes;
use chat::consensus::{FormationStatus, HardState, Repair};
use chat::limits;
use chat::storage::{Change, CommitRecord, OpenOptions, Slice, Tree, Write};
use chat::types::entry::{Entry, Kind};
use chat::types::{
    Base, ClusterId, Hash, Incarnation, Index, Members, ReplicaId, Stamp, Term, WallTime,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeSet;
use std::time::Duration;

/// Rounds of a script.
const ROUNDS: usize = 24;
/// Of so many seeds one writes batches at their full size, so that sled fills and reuses segments.
const LARGE_EVERY: u64 = 4;
/// Entries in one write to the next store.
const NEXT_ENTRIES: usize = 8;
/// The inbox that every slice writes to.
const HOT: &[u8] = b"hot recipient";
/// A store that does not open in this time hangs: it has a few MiB.
const PATIENCE: Duration = Duration::from_secs(20);

/// One thing that the process does.
pub enum Step {
    /// Opens the directory, in this process for the first time or again.
    Open,
    /// Writes to the live store.
    Write(Write),
    /// Cuts its log where it is.
    Cut(Base),
    /// Syncs it.
    Sync,
    /// Writes the promises, durably or not.
    Promise(HardState, bool),
    /// Begins the next store.
    NextBegin(Base),
    /// Writes to it.
    NextWrite(Write),
    /// Has it checked.
    NextCheck,
    /// Puts it in the live one's place.
    NextInstall,
    /// Gives it up.
    NextDrop,
    /// Notes damage, so that the next open puts the store aside.
    Note,
    /// Closes the store, which goes on at the next step.
    Close,
    /// The process ends without a word.
    Kill,
}

/// What may be in the store and in the promises once a step has begun.
pub struct After {
    /// Hash and summary of the content, with everything that the step wrote.
    pub content: (String, String),
    /// The same of what a crash in the middle of it may leave: the first entries of a batch. Then
    /// nothing of its commit record.
    pub partly: Vec<(String, String)>,
    /// The promises.
    pub promises: HardState,
    /// When the step is done, nothing older may be found in the store.
    pub settles_store: bool,
    /// Nor in the promises.
    pub settles_promises: bool,
}

/// The steps, and what each leaves.
pub struct Script {
    /// In order.
    pub steps: Vec<(Step, After)>,
}

/// Who opens the directory to see what a crash left. A new life of the promises is told from the old
/// one by this.
pub fn judge_options() -> OpenOptions {
    OpenOptions {
        incarnation: Incarnation([9; 16]),
        ..options()
    }
}

/// The promises of a replica that has made none.
pub fn new_life(options: &OpenOptions) -> HardState {
    HardState::new_life(options.id, options.incarnation, None, Stamp::ZERO)
}

/// Who works through the script.
pub fn options() -> OpenOptions {
    OpenOptions {
        id: ReplicaId(1),
        ids: members().into_keys().collect(),
        incarnation: Incarnation([1; 16]),
        cache_bytes: 8 * 1024 * 1024,
        patience: PATIENCE,
    }
}

fn members() -> Members {
    (1..=3)
        .map(|id| (ReplicaId(id), Incarnation([id as u8; 16])))
        .collect()
}

impl Script {
    /// The script of this seed. Whoever only works through it need not know what each step leaves.
    pub fn new(seed: u64, knows_contents: bool) -> Self {
        let mut author = Author {
            knows_contents,
            random: StdRng::seed_from_u64(seed),
            large: seed.is_multiple_of(LARGE_EVERY),
            content: Content::default(),
            blocks: BTreeSet::new(),
            next: None,
            promises: new_life(&options()),
            steps: Vec::new(),
        };
        author.form();
        for _ in 0..ROUNDS {
            match author.random.random_range(0..100) {
                0..35 => author.batches(),
                35..55 => author.slices(),
                55..62 => author.cut(),
                62..70 => author.new_term(),
                70..80 => author.rewrite(),
                80..84 => author.give_up_a_rewriting(),
                84..92 => author.close(),
                _ => author.kill(),
            }
        }
        author.rewrite();
        author.kill();
        author.repair();
        author.batches();
        author.slices();
        author.sync();
        Self {
            steps: author.steps,
        }
    }
}

/// Writes a script. Invariant: `content`, `next` and `promises` are what the steps so far leave.
struct Author {
    knows_contents: bool,
    random: StdRng,
    large: bool,
    content: Content,
    /// Where a block of the log begins for certain.
    blocks: BTreeSet<Index>,
    next: Option<Content>,
    promises: HardState,
    steps: Vec<(Step, After)>,
}

impl Author {
    fn known(&self) -> (String, String) {
        if !self.knows_contents {
            return Default::default();
        }
        // The digest of the last slice is that of all rows.
        let applied = self.content.applied.as_ref();
        let rows = applied.map_or_else(|| self.content.digest(), |slice| slice.digest);
        (self.content.hash(rows), self.content.summary())
    }

    fn push(&mut self, step: Step, (store, promises): (bool, bool)) {
        self.push_with(step, Vec::new(), (store, promises));
    }

    fn push_with(
        &mut self,
        step: Step,
        partly: Vec<(String, String)>,
        (store, promises): (bool, bool),
    ) {
        let after = After {
            content: self.known(),
            partly,
            promises: self.promises.clone(),
            settles_store: store,
            settles_promises: promises,
        };
        self.steps.push((step, after));
    }

    fn write(&mut self, write: Write) {
        let in_parts = write.slice.is_none() && write.truncate_after.is_none();
        if let Some(after) = write.truncate_after {
            self.blocks.split_off(&after.next());
        }
        self.blocks.extend(write.append.first().map(Entry::index));
        let one_term = write
            .append
            .iter()
            .all(|e| e.stamp().term == self.last().term);
        let mut partly = Vec::new();
        if in_parts && one_term {
            partly.push(self.known());
            for entry in &write.append {
                self.content.entries.push(entry.clone());
                partly.push(self.known());
            }
            self.content.apply(&Write {
                append: Vec::new(),
                ..write.clone()
            });
        } else {
            self.content.apply(&write);
        }
        self.push_with(Step::Write(write), partly, (false, false));
    }

    fn sync(&mut self) {
        self.push(Step::Sync, (true, false));
    }

    fn promise(&mut self, sync: bool, change: impl FnOnce(&mut HardState)) {
        change(&mut self.promises);
        let step = Step::Promise(self.promises.clone(), sync);
        self.push(step, (false, sync));
    }

    fn last(&self) -> Stamp {
        let base = self.content.base.stamp;
        self.content.entries.last().map_or(base, Entry::stamp)
    }

    fn committed(&self) -> Index {
        self.content
            .commits
            .keys()
            .next_back()
            .copied()
            .unwrap_or_default()
    }

    fn form(&mut self) {
        self.push(Step::Open, (true, true));
        self.write(Write {
            append: vec![Entry::formation(&members())],
            ..Write::default()
        });
        self.sync();
        self.promise(true, |promises| {
            promises.formation = FormationStatus::Formed(members());
            promises.cluster = Some(ClusterId::of_members(&members()));
            promises.term = Term(1);
            promises.term_accepted = Term(1);
            promises.mark = Stamp::FORMATION;
        });
        self.batches();
    }

    /// The next entries of the running term.
    fn entries(&mut self) -> Vec<Entry> {
        let payloads: &[usize] = if self.large {
            &[100, 8_000, limits::ENTRY_PAYLOAD_BYTES_MAX]
        } else {
            &[10, 100, 3_000]
        };
        let payload = payloads[self.random.random_range(0..payloads.len())];
        let most = if self.large {
            (limits::APPEND_BYTES_MAX / payload).min(200)
        } else {
            5
        };
        let count = self.random.random_range(1..=most);
        let base = &self.content.base;
        let (mut stamp, mut hash) = (base.stamp, base.hash);
        if let Some(last) = self.content.entries.last() {
            (stamp, hash) = (last.stamp(), last.hash());
        }
        (0..count)
            .map(|_| {
                stamp = Stamp::new(self.promises.term, stamp.index.next());
                let mut bytes = vec![0; payload];
                self.random.fill(&mut bytes[..]);
                let entry =
                    Entry::seal(stamp, WallTime(stamp.index.0), hash, Kind::Command, &bytes);
                hash = entry.hash();
                entry
            })
            .collect()
    }

    fn record_of(entry: &Entry) -> CommitRecord {
        CommitRecord {
            stamp: entry.stamp(),
            hash: entry.hash(),
            digest: Hash([7; 32]),
            time: entry.time(),
        }
    }

    /// One to three batches, each with a commit record for the one before; a sync; the mark.
    fn batches(&mut self) {
        for _ in 0..self.random.random_range(1..=3) {
            let last = self.content.entries.last();
            let commit = last.filter(|last| last.index() > self.committed());
            let commit = commit.map(Self::record_of);
            let append = self.entries();
            self.write(Write {
                append,
                commit,
                ..Write::default()
            });
        }
        self.sync();
        let (mark, durable) = (self.last(), self.random.random_bool(0.3));
        self.promise(durable, |promises| promises.mark = mark);
    }

    /// Slices of what is committed, without a sync.
    fn slices(&mut self) {
        for _ in 0..self.random.random_range(1..=3) {
            let committed = self.committed();
            let entry = self.content.entries.iter().find(|e| e.index() == committed);
            let Some(entry) = entry.cloned() else {
                return;
            };
            let changes = self.changes(committed);
            let slice = self.content.slice(&entry, changes);
            self.write(Write {
                slice: Some(slice),
                ..Write::default()
            });
        }
    }

    /// The hot record, some others, some removals.
    fn changes(&mut self, applied: Index) -> Vec<Change> {
        let (hot, others, bytes) = if self.large {
            (16 * 1024, 400, 1_000)
        } else {
            (2_000, 12, 200)
        };
        let value = |random: &mut StdRng, bytes: usize| {
            let mut value = applied.0.to_be_bytes().to_vec();
            value.resize(bytes, random.random());
            Some(Bytes::from(value))
        };
        let mut changes = vec![Change {
            tree: Tree::Inboxes,
            key: Bytes::from_static(HOT),
            value: value(&mut self.random, hot),
        }];
        for _ in 0..others {
            let number = self.random.random_range(0..others * 3);
            let tree = Tree::ALL[number % Tree::ALL.len()];
            let gone = self.random.random_bool(0.2);
            changes.push(Change {
                tree,
                key: key(tree, number),
                value: value(&mut self.random, bytes).filter(|_| !gone),
            });
        }
        changes
    }

    /// A higher term, whose first entries take the place of what was not committed.
    fn new_term(&mut self) {
        let granted = ReplicaId(self.random.random_range(1..=3));
        let entries = &self.content.entries;
        let room = self.last().index.0.saturating_sub(self.committed().0);
        let after = Index(self.last().index.0 - self.random.random_range(0..=room));
        let kept = entries.iter().rev().find(|e| e.index() <= after);
        let kept = kept.map_or(self.content.base.stamp, Entry::stamp);
        self.promise(true, |promises| {
            promises.term = Term(promises.term.0 + 1);
            promises.granted_to = Some(granted);
            // Lowered BEFORE the entries above it go.
            promises.mark = promises.mark.min(kept);
        });
        if self.random.random_bool(0.5) {
            return;
        }
        let mut content = self.content.clone();
        content.apply(&Write {
            truncate_after: Some(after),
            ..Write::default()
        });
        let before = std::mem::replace(&mut self.content, content);
        let append = self.entries();
        self.content = before;
        self.write(Write {
            truncate_after: Some(after),
            append,
            ..Write::default()
        });
        self.sync();
        let (term, mark) = (self.promises.term, self.last());
        self.promise(true, |promises| {
            promises.term_accepted = term;
            promises.mark = mark;
        });
    }

    /// Cuts the log at the end of a block that is in the trees.
    fn cut(&mut self) {
        let stands = self.content.applied.as_ref().map(|slice| slice.applied);
        let (base, stands) = (self.content.base.stamp.index, stands.unwrap_or_default());
        let ends = self.blocks.iter().map(|first| first.previous());
        let ends: Vec<Index> = ends.filter(|end| base < *end && *end <= stands).collect();
        if ends.is_empty() {
            return;
        }
        let at = ends[self.random.random_range(0..ends.len())];
        let base = self.base_at(at);
        self.content.cut(&base);
        self.push(Step::Cut(base), (false, false));
    }

    fn base_at(&self, at: Index) -> Base {
        let entry = self.content.entries.iter().find(|e| e.index() == at);
        entry.map_or_else(
            || self.content.base.clone(),
            |entry| Base {
                stamp: entry.stamp(),
                hash: entry.hash(),
                time: entry.time(),
                founders: members(),
            },
        )
    }

    /// The next store, up to where it could be installed. False: there is nothing to begin with.
    fn build(&mut self) -> bool {
        let Some(applied) = self.content.applied.clone() else {
            return false;
        };
        let from = self.content.base.stamp.index.0;
        let cut = Index(self.random.random_range(from..=applied.applied.0));
        let base = self.base_at(cut);
        self.next = Some(Content {
            base: base.clone(),
            ..Content::default()
        });
        self.push(Step::NextBegin(base), (false, false));
        let above: Vec<Entry> = self
            .content
            .entries
            .iter()
            .filter(|e| e.index() > cut)
            .cloned()
            .collect();
        let commits: Vec<CommitRecord> =
            self.content.commits.range(cut..).map(|(_, c)| *c).collect();
        let newest = commits.last().copied();
        for part in above.chunks(NEXT_ENTRIES) {
            self.write_next(Write {
                append: part.to_vec(),
                ..Write::default()
            });
        }
        self.write_next(Write {
            commit: newest,
            ..Write::default()
        });
        let rows: Vec<Change> = self
            .content
            .rows
            .iter()
            .map(|((tree, key), value)| Change {
                tree: Tree::ALL[*tree],
                key: key.clone(),
                value: Some(value.clone()),
            })
            .collect();
        for part in rows.chunks(limits::SNAPSHOT_ROWS_MAX) {
            self.write_next(Write {
                slice: Some(Slice {
                    changes: part.to_vec(),
                    ..applied.clone()
                }),
                ..Write::default()
            });
        }
        true
    }

    fn write_next(&mut self, write: Write) {
        if let Some(next) = &mut self.next {
            next.apply(&write);
        }
        self.push(Step::NextWrite(write), (false, false));
    }

    fn rewrite(&mut self) {
        if !self.build() {
            return;
        }
        self.push(Step::NextCheck, (false, false));
        if let Some(next) = self.next.take() {
            let parts = next.entries.chunks(NEXT_ENTRIES);
            self.blocks = parts.map(|part| part[0].index()).collect();
            self.content = next;
        }
        self.push(Step::NextInstall, (true, false));
    }

    fn give_up_a_rewriting(&mut self) {
        if self.build() {
            self.next = None;
            self.push(Step::NextDrop, (false, false));
        }
    }

    fn close(&mut self) {
        self.push(Step::Close, (false, false));
        self.push(Step::Open, (true, true));
    }

    /// After a sync, so that the script knows what the next process finds: all that was written. A
    /// promise without a sync is in the page cache, and the next process makes it durable.
    fn kill(&mut self) {
        self.sync();
        if self.random.random_bool(0.5) {
            let heard = Stamp::new(Term(1), Index(self.random.random_range(1..50)));
            self.promise(false, |promises| {
                promises.others_marks.insert(ReplicaId(2), heard);
            });
        }
        self.push(Step::Kill, (false, false));
        self.push(Step::Open, (true, true));
    }

    /// Damage was met: the store is put aside, and an empty one filled again.
    fn repair(&mut self) {
        self.content = Content::default();
        self.blocks.clear();
        self.promises = self.promises.clone().with_repair(Repair::UnderWay);
        self.push(Step::Note, (true, true));
        self.close();
        self.write(Write {
            append: vec![Entry::formation(&members())],
            ..Write::default()
        });
        let append = self.entries();
        self.write(Write {
            append,
            ..Write::default()
        });
        self.sync();
        let mark = self.last();
        self.promise(true, |promises| {
            *promises = promises.clone().with_repair(Repair::No);
            promises.mark = mark;
        });
    }
}

/// A small record's, or that of one of many in an inbox or of a client.
fn key(tree: Tree, number: usize) -> Bytes {
    let last = (number as u64).to_be_bytes();
    match tree {
        Tree::Inboxes => [[1; 8], last].concat().into(),
        Tree::Sessions => [&b"r"[..], &[1; 16], &last].concat().into(),
        Tree::Users | Tree::Tokens => format!("key {number}").into(),
    }
}
