//! The invariants of stores that take each other's place: rewritten ones, and snapshots.
//!
//! A view's log is always the whole one, from index 1: what is cut or comes as a snapshot is taken
//! from the committed prefix, whose hash at the cut the store must name.

use super::checker::{Checker, Mark, View};
use super::network::id_of;
use chat::consensus::{HardState, Repair};
use chat::storage::Write;
use chat::types::{Base, Incarnation, Index, Stamp, Term};

/// The next store, as the writes that went through the probe leave it.
#[derive(Clone, Debug, Default)]
pub struct Next {
    base: Base,
    log: Vec<Mark>,
    commit: Index,
}

impl View {
    /// Stamp of the last durable entry.
    pub fn durable_last(&self) -> Stamp {
        self.durable.last().map_or(Stamp::ZERO, |m| m.0)
    }
    /// May a crash leave this log?
    pub fn allows(&self, log: &[Mark]) -> bool {
        let mut possible = self.durable.clone();
        let mut good = possible == log;
        for (keep, appended) in &self.unsynced {
            possible.truncate(*keep);
            possible.extend(appended);
            good |= possible == log;
        }
        good
    }
    /// Would the next process begin or go on with a repair?
    pub fn is_repairing(&self) -> bool {
        let hard = self.hard_durable.as_ref();
        hard.is_some_and(|hard| hard.repair != Repair::No)
    }
    /// This incarnation, once there is one.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.hard_live.as_ref().map(|hard| hard.incarnation)
    }
}

impl Checker {
    /// The committed entries up to a base, which must be one of them.
    pub fn prefix(&mut self, at: usize, base: &Base) -> Vec<Mark> {
        let index = base.stamp.index.0 as usize;
        if index == 0 {
            return Vec::new();
        }
        let known = self.committed.get(index - 1).map(|c| (c.0, c.1));
        // The formation is committed from the first; that there is one only is checked elsewhere.
        let formation = index == 1 && known.is_none();
        self.check(
            formation || known == Some((base.stamp, base.hash)),
            "a log begins after a committed entry",
            || {
                format!(
                    "replica {}: {} {:?}, committed {known:?}",
                    id_of(at),
                    base.stamp,
                    base.hash
                )
            },
        );
        if formation {
            return vec![(base.stamp, base.hash)];
        }
        let known = self.committed.iter().take(index);
        known.map(|(stamp, hash, _)| (*stamp, *hash)).collect()
    }

    /// The log in use is cut where it is, and nothing else is made of it meanwhile.
    pub fn on_cut(&mut self, at: usize, base: &Base) {
        self.count("logs cut in place");
        self.prefix(at, base);
    }

    /// A next store is begun.
    pub fn on_next_begin(&mut self, at: usize, base: &Base) {
        self.views[at].next = Some(Next {
            base: base.clone(),
            ..Next::default()
        });
    }

    /// Its log is cut anew before it has any.
    pub fn on_next_cut(&mut self, at: usize, base: &Base) {
        self.count("logs cut anew after the copy");
        let Some(next) = &mut self.views[at].next else {
            return;
        };
        let empty = next.log.is_empty() && next.commit == Index(0);
        let before = std::mem::replace(&mut next.base, base.clone());
        let higher = before.stamp.index < base.stamp.index;
        self.check(empty && higher, "a log that is copied is not cut", || {
            format!(
                "replica {}: from {} to {}",
                id_of(at),
                before.stamp,
                base.stamp
            )
        });
    }

    /// Something is written to it.
    pub fn on_next_write(&mut self, at: usize, write: &Write) {
        let Some(next) = &mut self.views[at].next else {
            return;
        };
        let base = next.base.stamp.index;
        if let Some(after) = write.truncate_after {
            next.log.truncate(after.0.saturating_sub(base.0) as usize);
        }
        let marks = write.append.iter().map(|e| (e.stamp(), e.hash()));
        next.log.extend(marks);
        if let Some(record) = &write.commit {
            next.commit = next.commit.max(record.stamp.index);
        }
    }

    /// The next store was opened to be checked, and contradicts itself.
    pub fn on_bad_copy(&mut self, at: usize, sentence: &str) {
        self.fail("a copy opens as a whole store", || {
            format!("replica {}: {sentence}", id_of(at))
        });
    }

    /// The next store is about to take this one's place. A crash may leave either.
    pub fn on_exchange(&mut self, at: usize) {
        let Some(next) = self.views[at].next.take() else {
            self.fail("a store is built before it is installed", || {
                format!("replica {}", id_of(at))
            });
            return;
        };
        let id = id_of(at);
        let mut log = self.prefix(at, &next.base);
        log.extend(next.log);
        let base = next.base.stamp.index;
        let old = std::mem::take(&mut self.views[at].live);
        let held = base.0 == 0
            || old
                .get(base.0 as usize - 1)
                .is_some_and(|m| m.0 == next.base.stamp);
        if held {
            self.count("stores rewritten");
            self.check(log == old, "a rewritten store holds the same log", || {
                let (new, old) = (log.last().map(|m| m.0), old.last().map(|m| m.0));
                format!("replica {id}: to {new:?}, and it was to {old:?}")
            });
        } else {
            self.count("snapshots installed");
            let commit = self.runs[at].commit.max(self.views[at].commit_live);
            self.check(
                base >= commit,
                "a snapshot is not older than the commit point",
                || format!("replica {id}: after {base}, and {commit} is committed here"),
            );
            for mark in &old {
                self.check_dropped(at, *mark, &log, false);
            }
        }
        self.views[at].live.clone_from(&old);
        let commit = next.commit;
        self.views[at].exchanging = Some((log, commit));
    }

    /// It has done so, durably.
    pub fn on_exchanged(&mut self, at: usize) {
        let Some((log, commit)) = self.views[at].exchanging.take() else {
            return;
        };
        let view = &mut self.views[at];
        view.rotten = false;
        if std::mem::take(&mut view.replacing) {
            view.wrong = None;
        }
        view.live.clone_from(&log);
        view.durable = log;
        view.unsynced.clear();
        (view.commit_live, view.commit_durable) = (commit, commit);
    }

    /// A disk was damaged on purpose: what it held is lost, as by a wipe, and its promises are not.
    pub fn on_damaged(&mut self, at: usize) {
        self.count("disks damaged");
        let view = &mut self.views[at];
        view.damaged = true;
        view.next = None;
        view.exchanging = None;
        if let Some(hard) = &view.hard_durable {
            view.lost = Some((hard.incarnation, view.durable.clone()));
        }
    }

    /// A disk went back to an old copy: what it held, and what it had promised since, is lost. It
    /// takes no part before it knows.
    pub fn on_rolled_back(&mut self, at: usize) {
        self.count("disks rolled back");
        let view = &mut self.views[at];
        (view.damaged, view.rolled_back) = (true, true);
        (view.next, view.exchanging) = (None, None);
        if let Some(hard) = view.hard_durable.take() {
            self.ended.insert((id_of(at), hard.incarnation));
            view.lost = Some((hard.incarnation, view.durable.clone()));
        }
        view.hard_live = None;
    }

    /// The store was put aside for an empty one, or for what was readable of its log.
    pub fn on_repair_begun(&mut self, at: usize, kept: Option<Index>) {
        let kept = kept.map_or(0, |kept| kept.0 as usize);
        let view = &mut self.views[at];
        view.live.truncate(kept);
        view.durable.truncate(kept);
        view.unsynced.clear();
        if kept == 0 {
            (view.wrong, view.rotten) = (None, false);
            (view.commit_live, view.commit_durable) = (Index(0), Index(0));
        }
    }

    /// Durably: until the end of the repair is, too, the next process goes on with it.
    pub fn on_repair_written(&mut self, at: usize, hard: Option<&HardState>) {
        let view = &mut self.views[at];
        (view.hard_live, view.hard_durable) = (hard.cloned(), hard.cloned());
    }

    /// A damaged replica asks about what it cannot read: in a term above all of that.
    pub(super) fn on_poll(&mut self, at: usize, term: Term, above: Index) {
        self.count("polls sent");
        let lost = self.views[at].lost.as_ref().map(|(_, log)| log);
        let suspects = lost.into_iter().flatten().filter(|m| m.0.index > above);
        let newest = suspects.map(|m| m.0.term).max().unwrap_or_default();
        self.check(term > newest, "a poll is fenced", || {
            format!(
                "replica {} asks in term {term} about entries of term {newest}",
                id_of(at)
            )
        });
    }

    /// It gives up what it cannot read: nothing of that was committed, or can be by those who were
    /// primary before.
    pub(super) fn on_proven(&mut self, at: usize, above: Index) {
        self.count("polls that proved");
        self.views[at].damaged = false;
        let lost = self.views[at]
            .lost
            .clone()
            .map_or_else(Vec::new, |(_, log)| log);
        let committed = lost.iter().skip(above.0 as usize).find(|mark| {
            let place = mark.0.index.0 as usize - 1;
            self.committed.get(place).is_some_and(|c| c.1 == mark.1)
        });
        self.check(
            committed.is_none(),
            "what is given up was never committed",
            || format!("replica {} gives up {committed:?}", id_of(at)),
        );
    }
}
