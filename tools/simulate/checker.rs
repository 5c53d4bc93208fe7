//! The invariants, checked at every step.
//!
//! The checker sees every write to every disk (through [`super::disk::Probe`]), every message sent,
//! every event and every status, and nothing of what the replicas think beside that. It keeps, for
//! the whole world: the hash of every stamp, the committed prefix with the term that committed it,
//! the digest at every index, the primary of every term, and every grant and ballot given. The
//! first violation ends the run.

use super::network::{id_of, slot};
use chat::consensus::{Glance, HardState, Role};
use chat::types::entry::{Entry, Kind, ReplaceIncarnation};
use chat::types::{
    ClusterId, Hash, Incarnation, Index, Level, Members, ReplicaId, RunNonce, Stamp, Term,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A broken invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which: a short fixed name.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

/// Stamp and hash of an entry.
pub type Mark = (Stamp, Hash);

/// One replica's disk, as the writes that went through the probe leave it.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The log with unsynced writes.
    pub live: Vec<Mark>,
    /// The log that a crash cannot take.
    pub durable: Vec<Mark>,
    /// Each unsynced write, oldest first: entries kept, and what follows them.
    pub unsynced: Vec<(usize, Vec<Mark>)>,
    /// Last hard state written.
    pub hard_live: Option<HardState>,
    /// Last hard state fsynced.
    pub hard_durable: Option<HardState>,
    /// Highest commit record on the durable image.
    pub commit_durable: Index,
    /// Highest commit record written.
    pub commit_live: Index,
    /// What a wiped disk held, and whose promises these were.
    pub lost: Option<(Incarnation, Vec<Mark>)>,
    /// Faults have damaged this disk on purpose, and it is not repaired yet.
    pub damaged: bool,
    /// The disk is an old copy, and the new life of whoever has noticed that is not durable yet.
    pub rolled_back: bool,
    /// Something on this disk could not be read any more, at some time of this store.
    pub rotten: bool,
    /// The state is about to be that of another replica.
    pub replacing: bool,
    /// Its state was made wrong on purpose.
    pub wrong: Option<super::wrong::Wrong>,
    /// The replica says that its state is doubted, since before this step.
    pub quarantined: bool,
    /// The next store, while it is built.
    pub next: Option<super::checker_stores::Next>,
    /// What the log is, and the highest commit record, if the stores' exchange has happened.
    pub exchanging: Option<(Vec<Mark>, Index)>,
}

/// What one process run has shown.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub nonce: RunNonce,
    pub commit: Index,
    pub checked: usize,
    /// Highest index that an append of each term has covered. One of a later term may have reached
    /// the replica and been refused, its sender's run unknown: the earlier term goes on.
    pub covered: BTreeMap<Term, u64>,
    /// The term in which it was seen to be primary, and its commit index then.
    pub primary: Option<(Term, Index)>,
    /// Highest term in which it stepped down.
    pub stepped_down: Option<Term>,
    /// The term in which it was primary after the last step.
    pub leads: Option<Term>,
    /// Its term and durable stamp after the last step, as it knows them.
    pub term: Term,
    pub durable: Stamp,
    /// Of each question that it heard: the oldest durable stamp that it has had since.
    pub heard: BTreeMap<(ReplicaId, u64), Stamp>,
    /// For each term that it left: the next one, and what it knew to be durable then.
    pub left: Vec<(Term, Index)>,
    /// Last stamp after the step before this one.
    pub last: Stamp,
    pub admitted: bool,
}

/// Who cast a ballot in which run, and the copy it named.
pub(super) type CastBallot = (Incarnation, RunNonce, Stamp);

/// See the module.
pub struct Checker {
    replicas: usize,
    /// Disks.
    pub views: Vec<View>,
    /// Process runs.
    pub runs: Vec<Run>,
    /// The highest level that each one's build knew when it last ran.
    pub levels: Vec<Level>,
    /// Virtual time, for reports.
    pub violation: Option<Violation>,
    pub(super) stamps: HashMap<Stamp, Hash>,
    replacements: HashMap<Stamp, ReplaceIncarnation>,
    /// The committed prefix: stamp, hash, and the term whose primary committed it.
    pub committed: Vec<(Stamp, Hash, Term)>,
    pub(super) digests: Vec<Option<Hash>>,
    /// Incarnations in force by the committed prefix.
    pub in_force: Members,
    founders: Option<Members>,
    /// Lives whose disk went back to an old copy: they promise nothing any more, and take no part.
    pub(super) ended: BTreeSet<(ReplicaId, Incarnation)>,
    /// Index of the formation, or of the last readmission that is committed.
    pub last_readmission: Index,
    cluster: Option<ClusterId>,
    /// The last stamp that each question named: who asks, and its nonce.
    pub(super) asks: BTreeMap<(ReplicaId, u64), Stamp>,
    /// No token is idle for so long that it may expire.
    pub nobody_expires: bool,
    pub(super) primaries: BTreeMap<Term, (ReplicaId, RunNonce)>,
    pub(super) grants: BTreeMap<(Term, ReplicaId), Vec<(Incarnation, ReplicaId)>>,
    pub(super) ballots: BTreeMap<(Term, ReplicaId), Vec<CastBallot>>,
    /// How often each thing worth knowing happened, for `--verbose` and the rates.
    pub seen: BTreeMap<&'static str, u64>,
}

impl Checker {
    /// For this many replicas.
    pub fn new(replicas: usize) -> Self {
        Self {
            replicas,
            views: vec![View::default(); replicas],
            runs: vec![Run::default(); replicas],
            levels: vec![Level::default(); replicas],
            violation: None,
            stamps: HashMap::new(),
            replacements: HashMap::new(),
            committed: Vec::new(),
            digests: Vec::new(),
            in_force: Members::new(),
            founders: None,
            ended: BTreeSet::new(),
            last_readmission: Index(1),
            cluster: None,
            asks: BTreeMap::new(),
            nobody_expires: false,
            primaries: BTreeMap::new(),
            grants: BTreeMap::new(),
            ballots: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Records the first violation.
    pub fn fail(&mut self, invariant: &'static str, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(Violation {
                invariant,
                what: what(),
            });
        }
    }
    /// Records a violation unless `good`.
    pub fn check(&mut self, good: bool, invariant: &'static str, what: impl FnOnce() -> String) {
        if !good {
            self.fail(invariant, what);
        }
    }
    /// Counts.
    pub fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }
    /// Replicas that make a majority.
    pub fn majority(&self) -> usize {
        self.replicas / 2 + 1
    }

    /// Same stamp, same hash.
    pub fn on_entry(&mut self, at: usize, entry: &Entry) {
        let (stamp, hash) = (entry.stamp(), entry.hash());
        let new = !self.stamps.contains_key(&stamp);
        let known = *self.stamps.entry(stamp).or_insert(hash);
        self.check(known == hash, "same stamp, same hash", || {
            format!("{stamp} is {known:?} and, on replica {}, {hash:?}", at + 1)
        });
        if entry.kind() == Kind::ReplaceIncarnation
            && let Some(replace) = entry.replace_incarnation()
            && self.replacements.insert(stamp, replace).is_none()
        {
            self.check_alone(stamp);
        }
        if self.nobody_expires && new {
            self.check_expiry(entry);
        }
        if let Some(level) = entry.raise_level().filter(|_| new) {
            let all = self.levels.iter().all(|known| *known >= level);
            let levels = self.levels.clone();
            self.check(all, "a level is raised when every member knows it", || {
                format!("{stamp} raises to {level}, and the builds know {levels:?}")
            });
            self.count("levels raised");
        }
        if let Some(formation) = entry.as_formation() {
            self.founders = Some(formation.members);
        }
    }

    /// A primary proposes a readmission only when the one before is committed.
    fn check_alone(&mut self, stamp: Stamp) {
        let committed = self.committed.len() as u64;
        let before = |other: &&Stamp| other.term == stamp.term && other.index < stamp.index;
        let mut earlier = self.replacements.keys().filter(before);
        let waiting = earlier.find(|other| other.index.0 > committed).copied();
        self.check(waiting.is_none(), "one readmission at a time", || {
            format!("{stamp} is proposed while {waiting:?} waits for its commit")
        });
    }

    /// How many admitted disks hold, durably, this entry. A disk that was wiped since counts as
    /// holding what it held: the fault model allows that loss.
    fn holders(&self, index: Index, hash: Hash, without: Option<ReplicaId>) -> usize {
        let at = index.0 as usize - 1;
        let founders = self.founders.as_ref().unwrap_or(&self.in_force);
        let members = if self.committed.is_empty() {
            founders
        } else {
            &self.in_force
        };
        let holds = |log: &Vec<Mark>| log.get(at).is_some_and(|m| m.1 == hash);
        self.views
            .iter()
            .enumerate()
            .filter(|(i, view)| {
                let id = id_of(*i);
                let in_force = members.get(&id);
                let now = without != Some(id)
                    && view.incarnation().as_ref() == in_force
                    && holds(&view.durable);
                now || view.lost.as_ref().is_some_and(|(_, log)| holds(log))
            })
            .count()
    }

    /// How many durable logs but this one hold the entry now.
    pub(super) fn holders_but(&self, at: usize, index: Index, hash: Hash) -> usize {
        let place = index.0 as usize - 1;
        let others = self.views.iter().enumerate().filter(|(i, _)| *i != at);
        others
            .filter(|(_, view)| view.durable.get(place).is_some_and(|m| m.1 == hash))
            .count()
    }

    /// The log of `at` up to `index` is committed, and `term`'s primary did it.
    fn commit_prefix(&mut self, at: usize, log: &[Mark], term: Term) {
        for (i, &(stamp, hash)) in log.iter().enumerate() {
            if let Some(&(_, known, by)) = self.committed.get(i) {
                self.check(known == hash, "a committed entry never changes", || {
                    format!(
                        "index {} was committed as {known:?} in term {by}, and replica {} commits \
                         {stamp} {hash:?} in term {term}",
                        i + 1,
                        at + 1
                    )
                });
                continue;
            }
            self.committed.push((stamp, hash, term));
            if i == 0 {
                self.in_force = self.founders.clone().unwrap_or_default();
            }
            if let Some(replace) = self.replacements.get(&stamp).copied()
                && self.in_force.get(&replace.id) == Some(&replace.old)
            {
                let holders = self.holders(stamp.index, hash, Some(replace.id));
                self.check(
                    holders >= self.majority(),
                    "a readmission counts only once it is committed",
                    || format!("{stamp} readmits {}: {holders} others hold it", replace.id),
                );
                self.in_force.insert(replace.id, replace.new);
                self.last_readmission = stamp.index;
                self.count("readmissions committed");
            }
        }
    }

    /// A durable log that holds this entry, up to it.
    fn log_with(&self, index: Index, hash: Hash) -> Option<Vec<Mark>> {
        let at = index.0 as usize - 1;
        let logs = self.views.iter().flat_map(|view| {
            let lost = view.lost.as_ref().map(|lost| &lost.1);
            std::iter::once(&view.durable).chain(lost)
        });
        let mut holding = logs.filter(|log| log.get(at).is_some_and(|m| m.1 == hash));
        holding.next().map(|log| log[..=at].to_vec())
    }

    /// Formed: entry 1 counts as committed.
    pub fn on_formed(&mut self, at: usize, cluster: ClusterId) {
        let known = *self.cluster.get_or_insert(cluster);
        self.check(known == cluster, "one formation", || {
            format!("replica {} formed {cluster:?} beside {known:?}", at + 1)
        });
    }

    /// A step is over: what the replica shows of itself.
    pub fn on_glance(&mut self, at: usize, node: &Glance, state: (Index, Hash), idle: bool) {
        let (applied, digest) = state;
        let id = id_of(at);
        let before = self.runs[at].commit;
        self.check(
            node.commit >= before,
            "the commit index never falls",
            || format!("replica {id}: {} after {before}", node.commit),
        );
        self.check(
            applied <= node.commit,
            "only committed entries are applied",
            || format!("replica {id}: applied {applied} of {}", node.commit),
        );
        self.check(
            node.term >= node.last.term,
            "the term is at least the log's",
            || format!("replica {id} in term {} has {}", node.term, node.last),
        );
        let advanced = node.commit > before;
        self.runs[at].commit = node.commit;
        self.runs[at].admitted = node.admitted;
        let run = &mut self.runs[at];
        if node.term > run.term {
            run.left.push((node.term, run.durable.index));
        }
        run.note(node.term, node.durable);
        let ended = run.leads.take();
        if node.role == Role::Primary {
            run.leads = Some(node.term);
        }
        if node.role == Role::Primary {
            self.on_primary(at, node, advanced);
        } else if let Some(term) = ended
            && advanced
        {
            self.on_last_commit(at, Stamp::new(term, node.commit));
        }
        if !node.doubted {
            self.on_digest(at, applied, digest);
        }
        let shown = node.serving && node.doubted;
        self.check(!shown, "a quarantined replica serves nothing", || {
            format!("replica {id} serves as primary")
        });
        let settled = idle && node.last == node.durable;
        if settled && self.views[at].durable.len() == node.last.index.0 as usize {
            self.check_committed(at, node.commit);
        }
    }

    fn on_primary(&mut self, at: usize, node: &Glance, advanced: bool) {
        let (id, term) = (id_of(at), node.term);
        if self.runs[at].primary.is_none_or(|(t, _)| t != term) {
            self.runs[at].primary = Some((term, node.commit));
            self.on_became_primary(at, term);
        }
        if !advanced
            || self.runs[at]
                .primary
                .is_none_or(|(_, since)| node.commit <= since)
        {
            return;
        }
        let stamp = Stamp::new(term, node.commit);
        let Some(hash) = self.stamps.get(&stamp).copied() else {
            self.fail("commit only entries of one's own term", || {
                format!("primary {id} of term {term} commits {}", node.commit)
            });
            return;
        };
        let Some(log) = self.log_with(node.commit, hash) else {
            self.fail("committed is durable on a majority", || {
                format!("primary {id} commits {stamp}, which no disk holds")
            });
            return;
        };
        self.commit_prefix(at, &log, term);
        if node.commit > node.durable.index {
            self.count("commits before the primary's own fsync");
        }
        let holders = self.holders(node.commit, hash, None);
        self.check(
            holders >= self.majority(),
            "committed is durable on a majority",
            || format!("primary {id} commits {stamp}: {holders} disks hold it"),
        );
    }

    /// A primary may commit and step down in one step (a handover does).
    fn on_last_commit(&mut self, at: usize, stamp: Stamp) {
        let Some(hash) = self.stamps.get(&stamp).copied() else {
            return;
        };
        if let Some(log) = self.log_with(stamp.index, hash)
            && self.holders(stamp.index, hash, None) >= self.majority()
        {
            self.commit_prefix(at, &log, stamp.term);
        }
    }

    fn on_became_primary(&mut self, at: usize, term: Term) {
        let (id, nonce) = (id_of(at), self.runs[at].nonce);
        self.count("primaries");
        let known = *self.primaries.entry(term).or_insert((id, nonce));
        self.check(known == (id, nonce), "one primary a term", || {
            format!("term {term}: replica {} and then replica {id}", known.0)
        });
        self.check(
            self.runs[at].stepped_down.is_none_or(|t| t < term),
            "who stepped down is never primary again in that term",
            || format!("replica {id} in term {term}"),
        );
        self.check(self.runs[at].admitted, "only admitted replicas win", || {
            format!("replica {id} in term {term}")
        });
        self.check(
            !self.views[at].damaged,
            "a damaged replica never wins",
            || format!("replica {id} in term {term}"),
        );
        let granted = (0..self.replicas)
            .filter(|i| {
                let given = self.grants.get(&(term, id_of(*i)));
                given.is_some_and(|given| given.iter().any(|(_, to)| *to == id))
            })
            .count();
        self.check(
            granted >= self.majority(),
            "a primary holds a majority of grants",
            || format!("replica {id} in term {term}: {granted} durable grants"),
        );
        let durable = &self.views[at].durable;
        let lacking = self.committed.iter().enumerate().find(|(i, entry)| {
            entry.2 < term && durable.get(*i).is_none_or(|mine| mine.1 != entry.1)
        });
        if let Some((_, entry)) = lacking {
            let what = format!(
                "replica {id} in term {term} lacks {}, committed in term {}",
                entry.0, entry.2
            );
            self.fail("a primary holds all that was committed", || what);
        }
    }

    fn check_committed(&mut self, at: usize, commit: Index) {
        let from = self.runs[at].checked;
        let to = commit.0 as usize;
        for i in from..to.min(self.committed.len()) {
            let mine = self.views[at].durable.get(i).copied();
            let (stamp, hash, _) = self.committed[i];
            self.check(
                mine == Some((stamp, hash)),
                "a committed entry never changes",
                || {
                    format!(
                        "replica {} holds {mine:?} as committed, the cluster {stamp} {hash:?}",
                        at + 1
                    )
                },
            );
        }
        if to > self.committed.len() {
            // Only a formation that no primary has built on is committed unseen.
            self.check(to == 1, "nothing is committed but by a primary", || {
                format!("replica {} has committed {commit}", at + 1)
            });
            return;
        }
        self.runs[at].checked = to;
    }

    /// Equal index, equal digest.
    pub fn on_digest(&mut self, at: usize, index: Index, digest: Hash) {
        if self.is_wrong(at, index, digest) {
            return;
        }
        let i = index.0 as usize;
        if self.digests.len() <= i {
            self.digests.resize(i + 64, None);
        }
        let known = *self.digests[i].get_or_insert(digest);
        self.check(known == digest, "equal index, equal state digest", || {
            format!(
                "index {index}: {known:?}, and on replica {} {digest:?}",
                at + 1
            )
        });
    }

    /// A client was told that its write is done.
    pub fn on_acknowledged(&mut self, at: usize, index: Index) {
        self.count("writes acknowledged");
        let Some(&(stamp, hash, _)) = self.committed.get(index.0 as usize - 1) else {
            self.fail("acknowledged is committed", || {
                format!("replica {} acknowledges index {index}", at + 1)
            });
            return;
        };
        let holders = self.holders(index, hash, None);
        self.check(
            holders >= self.majority(),
            "acknowledged is durable on a majority",
            || format!("{stamp}: {holders} disks hold it"),
        );
    }

    /// A disk was replaced by an empty one.
    pub fn on_wiped(&mut self, at: usize) {
        self.count("disks wiped");
        let old = std::mem::take(&mut self.views[at]);
        if let Some(hard) = old.hard_durable {
            self.views[at].lost = Some((hard.incarnation, old.durable));
        }
    }

    /// A disk lost its hard state and kept its log.
    pub fn on_promises_lost(&mut self, at: usize) {
        self.count("promises lost");
        let view = &mut self.views[at];
        if let Some(hard) = view.hard_durable.take() {
            view.lost = Some((hard.incarnation, view.durable.clone()));
        }
        view.hard_live = None;
    }

    /// A hard state is on its way to the disk.
    pub fn on_hard_state(&mut self, at: usize, state: &HardState, synced: bool) {
        let id = id_of(at);
        if let Some(before) = self.views[at].hard_live.as_ref()
            && before.incarnation == state.incarnation
        {
            let before = before.clone();
            self.check(
                state.term >= before.term,
                "a persisted term never falls",
                || format!("replica {id}: {} after {}", state.term, before.term),
            );
            let changed = state.term == before.term
                && before.granted_to.is_some()
                && state.granted_to != before.granted_to;
            self.check(!changed, "one grant a term", || {
                format!(
                    "replica {id} in term {}: {:?} after {:?}",
                    state.term, state.granted_to, before.granted_to
                )
            });
        }
        self.views[at].hard_live = Some(state.clone());
        if !synced {
            return;
        }
        self.views[at].hard_durable = Some(state.clone());
        let ended = self.ended.contains(&(id, state.incarnation));
        if self.views[at].rolled_back && !ended {
            (self.views[at].rolled_back, self.views[at].damaged) = (false, false);
        }
        // One that takes no part has used its grant up, and gives none: see `on_grant_sent`.
        let promises = !self.views[at].damaged && !ended;
        if let Some(to) = state.granted_to.filter(|_| promises) {
            self.on_grant(id, state.incarnation, state.term, to);
        }
    }

    /// A grant is durable, or sent.
    pub fn on_grant(&mut self, from: ReplicaId, life: Incarnation, term: Term, to: ReplicaId) {
        let given = self.grants.entry((term, from)).or_default();
        let other = given.iter().find(|(l, t)| *l == life && *t != to).copied();
        if !given.contains(&(life, to)) {
            given.push((life, to));
        }
        self.check(other.is_none(), "one grant a term", || {
            format!(
                "replica {from} in term {term}: to {to} after {:?}",
                other.map(|o| o.1)
            )
        });
    }

    /// Place of a replica that is primary in this term and running, if there is one.
    pub fn primary_of(&self, term: Term) -> Option<usize> {
        self.primaries.get(&term).map(|(id, _)| slot(*id))
    }
}
