//! The invariants of what leaves a replica (messages) and of what reaches its disk.

use super::checker::{Checker, Mark, Run};
use super::network::{id_of, slot};
use chat::consensus::{AppendReply, Body, Event, HardState, Message};
use chat::state_machine::{Command, Operation};
use chat::storage::{Recovered, Write};
use chat::types::entry::{Entry, Kind};
use chat::types::{Index, ReplicaId, RunNonce, Stamp, Term};

impl Run {
    /// Term and durable stamp after a step. The latter falls where entries are replaced.
    pub(super) fn note(&mut self, term: Term, durable: Stamp) {
        if durable < self.durable {
            for own in self.heard.values_mut() {
                *own = durable.min(*own);
            }
        }
        (self.term, self.durable) = (term, durable);
    }
}

impl Checker {
    /// A process starts from what its disk holds.
    pub fn on_open(&mut self, at: usize, recovered: &Recovered, log: Vec<Mark>, run: RunNonce) {
        let id = id_of(at);
        let log = [self.prefix(at, &recovered.base), log].concat();
        self.views[at].next = None;
        let exchanging = self.views[at].exchanging.take();
        if let Some((_, commit)) = exchanging.filter(|(new, _)| *new == log)
            && recovered.commit.is_some_and(|c| c.stamp.index == commit)
        {
            // The exchange was done when the process died.
            self.views[at].durable.clone_from(&log);
            self.views[at].unsynced.clear();
            self.views[at].commit_durable = commit;
            if self.views[at].replacing {
                self.views[at].wrong = None;
            }
        }
        self.views[at].replacing = false;
        self.runs[at] = Run {
            nonce: run,
            ..Run::default()
        };
        let view = self.views[at].clone();
        if !view.damaged {
            self.check(
                recovered.damage.is_empty(),
                "a crash damages nothing",
                || format!("replica {id}: {:?}", recovered.damage),
            );
            let allowed = view.allows(&log);
            self.check(allowed, "a synced log survives a crash", || {
                let last = log.last().map(|m| m.0);
                format!(
                    "replica {id} reopens with {last:?}, synced {:?}",
                    view.durable_last()
                )
            });
            let commit = recovered.commit.map_or(Index(0), |c| c.stamp.index);
            self.check(
                commit >= view.commit_durable,
                "the commit index never falls",
                || {
                    format!(
                        "replica {id} reopens with {commit} after {}",
                        view.commit_durable
                    )
                },
            );
        }
        self.check_hard_state(at, recovered.hard_state.as_ref());
        let view = &mut self.views[at];
        view.live.clone_from(&log);
        view.durable = log;
        view.unsynced.clear();
        view.hard_live.clone_from(&recovered.hard_state);
        view.hard_durable.clone_from(&recovered.hard_state);
        view.commit_live = recovered.commit.map_or(Index(0), |c| c.stamp.index);
        view.commit_durable = view.commit_live;
    }

    fn check_hard_state(&mut self, at: usize, found: Option<&HardState>) {
        let id = id_of(at);
        let Some(synced) = self.views[at].hard_durable.clone() else {
            return;
        };
        let Some(found) = found else {
            self.fail("a synced promise survives a crash", || {
                format!("replica {id} lost its hard state")
            });
            return;
        };
        // A new life's first write may have survived without its sync: it grants nobody else.
        let live = self.views[at].hard_live.as_ref();
        let same_life = found.incarnation == synced.incarnation;
        let good = (same_life || live.is_some_and(|live| found.incarnation == live.incarnation))
            && found.term >= synced.term
            && (found.term > synced.term
                || synced.granted_to.is_none()
                || found.granted_to == synced.granted_to
                || (!same_life && found.granted_to == Some(id)));
        self.check(good, "a synced promise survives a crash", || {
            format!(
                "replica {id} synced term {} grant {:?}, reopens with term {} grant {:?}",
                synced.term, synced.granted_to, found.term, found.granted_to
            )
        });
    }

    /// The replica has started: it must stand where its log does.
    pub fn on_started(&mut self, at: usize, last: Stamp, commit: Index) {
        let durable = self.views[at].durable_last();
        self.runs[at].last = last;
        let good = last == durable || self.views[at].damaged;
        self.check(good, "a restart keeps the whole log", || {
            format!("replica {} starts at {last} of {durable}", at + 1)
        });
        self.check(
            commit >= self.views[at].commit_durable,
            "the commit index never falls",
            || format!("replica {} starts at {commit}", at + 1),
        );
    }

    /// A write reaches the disk's live image.
    pub fn on_write(&mut self, at: usize, write: &Write, is_primary: bool) {
        let id = id_of(at);
        for entry in &write.append {
            self.on_entry(at, entry);
        }
        let mut log = std::mem::take(&mut self.views[at].live);
        let keep = write.truncate_after.map_or(log.len(), |i| i.0 as usize);
        let first = write.append.first().map(|e| e.index().0 as usize - 1);
        let keep = keep.min(first.unwrap_or(keep)).min(log.len());
        let dropped: Vec<Mark> = log.drain(keep..).collect();
        let consecutive = first.is_none_or(|first| first == log.len());
        self.check(consecutive, "a log has no gap", || {
            format!("replica {id} appends at {first:?} to {} entries", log.len())
        });
        log.extend(write.append.iter().map(|e| (e.stamp(), e.hash())));
        for mark in dropped {
            self.check_dropped(at, mark, &log, is_primary);
        }
        if let Some(record) = &write.commit {
            self.views[at].commit_live = record.stamp.index;
            let i = record.stamp.index.0 as usize - 1;
            let known = self.committed.get(i).copied();
            let good =
                known.is_none_or(|(stamp, hash, _)| (stamp, hash) == (record.stamp, record.hash));
            self.check(good, "a commit record names what was committed", || {
                format!(
                    "replica {id}: {} {:?}, committed {known:?}",
                    record.stamp, record.hash
                )
            });
            self.on_digest(at, record.stamp.index, record.digest);
        }
        if let Some(slice) = &write.slice {
            self.on_digest(at, slice.applied, slice.digest);
            let recorded = self.views[at].commit_live;
            self.check(
                slice.applied <= recorded,
                "a slice ends below a commit record",
                || format!("replica {id}: {} above {recorded}", slice.applied),
            );
        }
        let view = &mut self.views[at];
        if keep < log.len() || write.truncate_after.is_some() {
            view.unsynced.push((keep, log[keep..].to_vec()));
        }
        view.live = log;
    }

    pub(super) fn check_dropped(
        &mut self,
        at: usize,
        dropped: Mark,
        log: &[Mark],
        is_primary: bool,
    ) {
        let (stamp, hash) = dropped;
        let i = stamp.index.0 as usize - 1;
        if log.get(i) == Some(&dropped) {
            return;
        }
        let committed = self.committed.get(i).is_some_and(|c| c.1 == hash);
        // A replica that a crash made forget both a commit and the term that it learned it in may
        // adopt a newer copy over it: allowed while a majority of the others keeps the entry.
        let known = stamp.index <= self.runs[at].commit;
        let safe = !known && self.holders_but(at, stamp.index, hash) >= self.majority();
        if committed && safe {
            self.count("forgotten commits adopted over");
        }
        self.check(!committed || safe, "a committed entry never goes", || {
            format!("replica {} drops {stamp}", at + 1)
        });
        let own = is_primary && self.primary_of(stamp.term) == Some(at);
        self.check(!own, "a primary never rewrites its own log", || {
            format!("replica {} drops {stamp}", at + 1)
        });
        self.count("entries truncated");
    }

    /// The disk's live image became durable.
    pub fn on_sync(&mut self, at: usize) {
        let view = &mut self.views[at];
        for (keep, appended) in view.unsynced.drain(..) {
            view.durable.truncate(keep);
            view.durable.extend(appended);
        }
        view.commit_durable = view.commit_live;
    }

    /// A message is about to leave replica `at`.
    pub fn on_message(&mut self, at: usize, message: &Message) {
        let id = id_of(at);
        let durable_term = self.views[at].hard_durable.as_ref().map(|h| h.term);
        let promising = matches!(
            message.body,
            Body::Ballot(_)
                | Body::Grant { .. }
                | Body::Append(_)
                | Body::RoundReply { .. }
                | Body::Poll { .. }
                | Body::PollReply { .. }
                | Body::AppendReply(AppendReply::Match { .. })
        );
        if promising {
            let known = durable_term.is_some_and(|t| t >= message.term);
            self.check(
                known,
                "nothing is sent before what it promises is durable",
                || {
                    format!(
                        "replica {id} sends {} in term {}, durable is {durable_term:?}",
                        name(&message.body),
                        message.term
                    )
                },
            );
            let counts = !matches!(
                message.body,
                Body::Poll { .. }
                    | Body::PollReply { .. }
                    | Body::AppendReply(AppendReply::Match {
                        counting: false,
                        ..
                    })
            );
            let ended = self.ended.contains(&(id, message.from_incarnation));
            let takes_part = !self.views[at].damaged && !ended || !counts;
            self.check(takes_part, "a damaged replica takes no part", || {
                format!("replica {id} sends {}", name(&message.body))
            });
        }
        match &message.body {
            Body::Append(append) => {
                for entry in &append.entries {
                    self.on_entry(at, entry);
                }
            }
            Body::SnapshotOffer(_) | Body::SnapshotChunk(_) => {
                let shown = self.views[at].quarantined;
                self.check(!shown, "a quarantined replica serves nothing", || {
                    format!("replica {id} sends its state")
                });
            }
            Body::Ballot(ballot) => self.on_ballot(at, message, ballot.last),
            Body::Grant { .. } => self.on_grant_sent(at, message),
            Body::AppendReply(AppendReply::Match { index, counting }) => {
                self.on_match(at, message, *index, *counting);
            }
            Body::Poll { above, .. } => self.on_poll(at, message.term, *above),
            Body::Ask { nonce, last } => {
                self.asks.insert((id, *nonce), *last);
            }
            Body::RoundReply { .. } | Body::Agree { .. } => self.on_answer(at, message),
            _ => {}
        }
    }

    fn on_answer(&mut self, at: usize, message: &Message) {
        if let Body::Agree { nonce } = message.body {
            self.on_agree(at, message.to, nonce);
        }
        let admitted = self.runs[at].admitted;
        self.check(admitted, "only admitted replicas count", || {
            format!("replica {} sends {}", at + 1, name(&message.body))
        });
    }

    /// Who agrees lets the asker raise its term: it must have a chance to win. The answer leaves when
    /// the term is durable, and the own copy may have grown by then.
    fn on_agree(&mut self, at: usize, to: ReplicaId, nonce: u64) {
        let asked = self.asks.get(&(to, nonce)).copied();
        let own = self.runs[at].heard.get(&(to, nonce)).copied();
        let good = own.is_some() && asked >= own;
        self.check(good, "agreed is only with a copy as new", || {
            format!(
                "replica {} with {own:?} agrees with {to}, which has {asked:?}",
                at + 1
            )
        });
    }

    /// Nobody was idle for long, whatever a clock says.
    pub(super) fn check_expiry(&mut self, entry: &Entry) {
        let command = (entry.kind() == Kind::Command).then(|| Command::decode(entry.payload()));
        let Some(Operation::ExpireTokens { tokens, .. }) = command.flatten().map(|c| c.operation)
        else {
            return;
        };
        self.check(tokens.is_empty(), "one wrong clock logs nobody out", || {
            let (stamp, time) = (entry.stamp(), entry.time());
            format!("{stamp} at {time} expires {} tokens", tokens.len())
        });
    }

    fn on_ballot(&mut self, at: usize, message: &Message, last: Stamp) {
        let (id, term) = (id_of(at), message.term);
        let view = &self.views[at];
        let known = last.index.0 as usize;
        let durable = last == Stamp::ZERO
            || view
                .durable
                .get(known.wrapping_sub(1))
                .is_some_and(|m| m.0 == last);
        self.check(durable, "a ballot names durable entries only", || {
            format!("replica {id} in term {term} names {last}")
        });
        self.check(
            self.runs[at].admitted,
            "only admitted replicas ballot",
            || format!("replica {id} in term {term}"),
        );
        let life = message.from_incarnation;
        let given = self.ballots.entry((term, id)).or_default();
        let other = given
            .iter()
            .any(|(l, run, _)| *l == life && *run != message.run);
        if !given.contains(&(life, message.run, last)) {
            given.push((life, message.run, last));
            self.count("ballots");
        }
        self.check(!other, "one run ballots in a term", || {
            format!("replica {id} in term {term}")
        });
    }

    fn on_grant_sent(&mut self, at: usize, message: &Message) {
        let (id, term, to) = (id_of(at), message.term, message.to);
        let hard = self.views[at].hard_durable.as_ref();
        let kept =
            hard.is_some_and(|h| h.term > term || (h.term == term && h.granted_to == Some(to)));
        self.check(
            kept,
            "nothing is sent before what it promises is durable",
            || format!("replica {id} grants term {term} to {to} without having written it"),
        );
        self.check(
            self.runs[at].admitted,
            "only admitted replicas grant",
            || format!("replica {id} in term {term}"),
        );
        let life = message.from_incarnation;
        let first = self
            .grants
            .get(&(term, id))
            .is_none_or(|g| !g.contains(&(life, to)));
        self.on_grant(id, life, term, to);
        if first {
            self.count("grants sent before they were seen on a disk");
        }
        let newest = self
            .ballots
            .get(&(term, to))
            .and_then(|given| given.iter().map(|(_, _, last)| *last).max());
        let Some(ballot) = newest else {
            self.fail("a grant answers a ballot", || {
                format!("replica {id} grants term {term} to {to}")
            });
            return;
        };
        let hard_term = self.views[at].hard_durable.as_ref().map(|h| h.term);
        let own = self.views[at].durable_last();
        let newer = own > ballot && hard_term == Some(term) && own.term < term;
        self.check(!newer, "a grant never goes to an older copy", || {
            format!("replica {id} with {own} grants term {term} to {to} with {ballot}")
        });
    }

    fn on_match(&mut self, at: usize, message: &Message, index: Index, counting: bool) {
        let (id, term) = (id_of(at), message.term);
        let i = index.0 as usize;
        // An answer may have waited for its term to be durable, and that term may have ended
        // meanwhile: it was true when it was made, as one that is late on its way.
        let left = self.runs[at]
            .left
            .iter()
            .find(|(next, _)| *next > term)
            .copied();
        let held = left.is_some() || self.views[at].durable.len() >= i;
        self.check(held, "nothing is acknowledged before it is durable", || {
            format!("replica {id} acknowledges {index} in term {term}")
        });
        if !counting {
            return;
        }
        self.check(
            self.runs[at].admitted,
            "only admitted replicas count",
            || format!("replica {id} acknowledges {index}"),
        );
        let current = left.is_none_or(|(_, durable)| index <= durable);
        self.check(
            current,
            "nothing is acknowledged after a grant above it",
            || format!("replica {id} acknowledges {index} in term {term}, which it left: {left:?}"),
        );
        if left.is_some() {
            return;
        }
        let covered = self.runs[at].covered.get(&term).copied();
        let good = covered.unwrap_or_default() >= index.0;
        self.check(good, "only what this primary sent is acknowledged", || {
            format!("replica {id} acknowledges {index} in term {term}, was sent {covered:?}")
        });
        // The primary's own disk may be behind; its log is compared where it is known.
        if i > 0
            && self.primary_of(term) == Some(slot(message.to))
            && let (Some(mine), Some(theirs)) = (
                self.views[at].durable.get(i - 1).copied(),
                self.views[slot(message.to)].live.get(i - 1).copied(),
            )
            && theirs.0.term <= term
            && self.runs[slot(message.to)]
                .primary
                .is_some_and(|(t, _)| t == term)
        {
            self.check(
                mine == theirs,
                "an acknowledged entry is the primary's",
                || format!("replica {id} acknowledges {mine:?}, the primary has {theirs:?}"),
            );
        }
    }

    /// A message reached replica `at` (before it is handled).
    pub fn on_received(&mut self, at: usize, message: &Message) {
        if let Body::Append(append) = &message.body {
            let upto = append.previous.index.0 + append.entries.len() as u64;
            let covered = self.runs[at].covered.entry(message.term).or_default();
            *covered = (*covered).max(upto);
        }
        if let Body::Ask { nonce, .. } = message.body {
            let run = &mut self.runs[at];
            let own = run.durable;
            run.heard.entry((message.from, nonce)).or_insert(own);
        }
    }

    /// Something happened in replica `at`.
    pub fn on_event(&mut self, at: usize, event: &Event) {
        let id = id_of(at);
        match event {
            Event::Formed(cluster) => {
                self.on_formed(at, *cluster);
                self.count("formations");
            }
            Event::SteppedDown { term, .. } => {
                let run = &mut self.runs[at];
                run.stepped_down = run.stepped_down.max(Some(*term));
                self.count("primaries that stepped down");
            }
            Event::BecamePrimary(term) => {
                let again = self.runs[at].stepped_down.is_some_and(|t| t >= *term);
                self.check(
                    !again,
                    "who stepped down is never primary again in that term",
                    || format!("replica {id} in term {term}"),
                );
            }
            Event::Adopted { last, .. } => {
                let before = self.runs[at].last;
                self.check(*last > before, "an adopted copy is newer", || {
                    format!("replica {id} adopts {last} over {before}")
                });
                self.count("adoptions");
            }
            Event::SnapshotInstalled { .. } => {
                // Once the store is exchanged: until then the old one is there.
                self.views[at].replacing = true;
                self.count("snapshots taken");
            }
            Event::Quarantined { index, reason } => self.on_quarantined(at, *index, reason),
            Event::Rebuilt { .. } => self.on_rebuilt(at),
            Event::DigestTie { .. } => self.count("digests without a majority"),
            Event::SnapshotRefused { .. } => self.count("snapshots refused"),
            Event::Repaired { .. } => {
                self.views[at].damaged = false;
                self.count("replicas repaired");
            }
            Event::Proven { above, .. } => self.on_proven(at, *above),
            // It is over when the new life is durable: until then a kill makes it an old copy again.
            Event::LostMemory { remembers, has, .. } => {
                let cause = self.views[at].rolled_back;
                self.check(cause, "only an old copy is taken for one", || {
                    format!("replica {id} has {has}, and {remembers} is remembered of it")
                });
                self.count("lost memories noticed");
            }
            Event::CannotRepair { .. } => self.count("halts told"),
            Event::AdoptionRefused { .. } => self.count("adoptions refused"),
            Event::ElectionStarted(_) => self.count("elections started"),
            Event::Damaged { index, reason } => {
                let asked = self.views[at].damaged;
                self.check(asked, "nothing committed is contradicted", || {
                    format!("replica {id} finds itself damaged at {index}: {reason}")
                });
            }
            _ => {}
        }
    }
}

/// Name of a message, for reports.
pub fn name(body: &Body) -> &'static str {
    match body {
        Body::Hello(_) => "hello",
        Body::Refresh(_) => "refresh",
        Body::Ask { .. } => "ask",
        Body::Agree { .. } => "agree",
        Body::Ballot(_) => "ballot",
        Body::Abstain => "abstain",
        Body::Grant { .. } => "grant",
        Body::Append(_) => "append",
        Body::AppendReply(_) => "append reply",
        Body::Round { .. } => "round",
        Body::RoundReply { .. } => "round reply",
        Body::ReadIndex { .. } => "read index",
        Body::ReadIndexReply { .. } => "read index reply",
        Body::CampaignNow => "campaign now",
        Body::CopyRequest { .. } => "copy request",
        Body::CopyPiece { .. } => "copy piece",
        Body::SnapshotOffer(_) => "snapshot offer",
        Body::SnapshotRequest { .. } => "snapshot request",
        Body::SnapshotChunk(_) => "snapshot chunk",
        Body::StateWanted { .. } => "state wanted",
        Body::StateDoubted { .. } => "state doubted",
        Body::RepairTo { .. } => "repair to",
        Body::Poll { .. } => "poll",
        Body::PollReply { .. } => "poll reply",
    }
}
