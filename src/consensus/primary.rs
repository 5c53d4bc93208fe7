//! The primary: entry times, replication to each secondary, commits, stepping down.

use super::clocks::base_time;
use super::notices::Notices;
use super::progress::{Progress, Sending};
use super::{Append, AppendReply, Body, Event, Message, Mutant, Node, Refresh};
use crate::limits::APPEND_BYTES_MAX;
use crate::types::entry::{Entry, Kind};
use crate::types::refusals::RefusalKind;
use crate::types::{Index, Monotonic, ReplicaId, Stamp, WallTime};
use std::collections::{BTreeMap, BTreeSet};

/// How long a handover may take before the role is given up all the same, in microseconds.
const HANDOVER_US: u64 = 1_000_000;
/// How far the term's time may be steered towards the primary's wall clock, in microseconds.
const STEER_US_MAX: u64 = 60_000_000;
/// A microsecond of steering for this many microseconds of time.
const STEER_ONE_IN: u64 = 100;

/// What only a primary has.
///
/// Invariants: `serving` only after an entry of this term is committed; `next > matched` for each
/// peer.
#[derive(Clone, Debug)]
pub(super) struct PrimaryState {
    pub(super) serving: bool,
    /// The first entry of this term.
    pub(super) term_start: Index,
    pub(super) peers: BTreeMap<ReplicaId, Progress>,
    /// Where the handover goes, and until when it may take.
    pub(super) handing_over: Option<(Option<ReplicaId>, Monotonic)>,
    since: Monotonic,
    base_time: WallTime,
    last_time: WallTime,
    /// When this replica's own log last became more durable.
    pub(super) own_moved: Monotonic,
    /// When the commit index last moved, or the log was last all committed.
    commit_moved: Monotonic,
    pub(super) notices: Notices,
    /// Of proposals; bounds what a primary without a majority gathers.
    pub(super) uncommitted_bytes: usize,
    /// Writes of clients are refused: see `room`.
    pub(super) full: bool,
    /// Replicas that rebuild their state from this one's.
    pub(super) rebuilding: BTreeSet<ReplicaId>,
}

impl PrimaryState {
    pub(super) fn matches(&self) -> BTreeMap<ReplicaId, Index> {
        self.peers.iter().map(|(id, p)| (*id, p.matched)).collect()
    }

    pub(super) fn on_link_up(&mut self, peer: ReplicaId, last: Index) {
        if let Some(progress) = self.peers.get_mut(&peer) {
            progress.probe(last.next());
        }
    }

    /// The peer's process is another: what it had acknowledged is forgotten.
    pub(super) fn forget(&mut self, peer: ReplicaId, last: Index) {
        self.peers.insert(peer, Progress::new(last.next()));
    }

    /// A primary of nobody, since now and by a clock that is right.
    #[cfg(test)]
    pub(super) fn for_test(now: super::Now) -> Self {
        Self {
            serving: false,
            term_start: Index(1),
            peers: BTreeMap::new(),
            handing_over: None,
            since: now.mono,
            base_time: now.wall,
            last_time: WallTime(0),
            own_moved: now.mono,
            commit_moved: now.mono,
            notices: Notices::new(now.mono),
            uncommitted_bytes: 0,
            full: false,
            rebuilding: BTreeSet::new(),
        }
    }

    /// Never falls within a term, starts at the base, and advances with the monotonic clock,
    /// steered towards the wall clock.
    pub(super) fn time(&mut self, now: super::Now) -> WallTime {
        let elapsed = now.mono.since(self.since);
        let plain = self.base_time.0.saturating_add(elapsed);
        let steer = (elapsed / STEER_ONE_IN).min(STEER_US_MAX);
        let steered = now
            .wall
            .0
            .clamp(plain.saturating_sub(steer), plain.saturating_add(steer));
        self.last_time = self.last_time.max(WallTime(steered));
        self.last_time
    }
}

impl Node {
    pub(super) fn become_primary(&mut self, grants: BTreeMap<ReplicaId, WallTime>) {
        let last = self.log.last();
        assert_eq!(last, self.log.durable(), "a candidate's log is durable");
        let before = self
            .log
            .entry_at(last.index)
            .map_or(self.log.base().time, Entry::time);
        let peers = self.peers.keys();
        self.leading = Some(PrimaryState {
            serving: false,
            term_start: last.index.next(),
            peers: peers
                .map(|id| (*id, Progress::new(last.index.next())))
                .collect(),
            handing_over: None,
            since: self.now.mono,
            base_time: base_time(grants.into_values(), before, self.now),
            last_time: before,
            own_moved: self.now.mono,
            commit_moved: self.now.mono,
            notices: Notices::new(self.now.mono),
            uncommitted_bytes: 0,
            full: false,
            rebuilding: BTreeSet::new(),
        });
        self.primary = Some(self.config.id);
        if !Mutant::PrimaryAgain.on() {
            self.contest = None;
        }
        self.missing = None;
        self.lost_rounds = 0;
        self.end_boot();
        self.adoption = None;
        let now = self.now.mono;
        for peer in self.peers.values_mut() {
            peer.heard = Some(now);
        }
        let term = self.hard.term;
        self.hard.term_accepted = term;
        self.event(Event::BecamePrimary(term));
        // Before it takes what has waited for a primary.
        self.tick_room();
        self.propose_entry(Kind::TermStart, &[]);
        self.send_refreshes();
        self.reads_to_new_primary();
    }

    /// Ends the primary role; the term stays, and this replica is not primary in it again.
    pub(super) fn step_down(&mut self, reason: &'static str) {
        if self.leading.take().is_none() {
            return;
        }
        self.primary = None;
        self.ask_after = self.now.mono;
        let term = self.hard.term;
        self.event(Event::SteppedDown { term, reason });
        self.fail_remote_reads();
    }

    pub(super) fn propose_entry(&mut self, kind: Kind, payload: &[u8]) {
        let leading = self.leading.as_mut().expect("only a primary proposes");
        let time = leading.time(self.now);
        leading.uncommitted_bytes += payload.len();
        if self.log.last().index == self.commit {
            leading.commit_moved = self.now.mono;
        }
        let stamp = Stamp::new(self.hard.term, self.log.last().index.next());
        self.append(Entry::seal(
            stamp,
            time,
            self.log.head_hash(),
            kind,
            payload,
        ));
    }

    /// These bytes wait no more.
    pub(super) fn note_delivered(&mut self, payload_bytes: usize) {
        if let Some(leading) = &mut self.leading {
            leading.uncommitted_bytes = leading.uncommitted_bytes.saturating_sub(payload_bytes);
        }
    }

    /// Hand the primary role over (SIGTERM). `Event::SteppedDown` follows on a primary.
    pub fn hand_over(&mut self, now: super::Now) {
        self.now = now;
        // A clean stop leaves the mark fsynced.
        self.jobs.want_hard_state(true);
        let heir = self.heir();
        let Some(leading) = &mut self.leading else {
            return;
        };
        leading.handing_over = Some((heir, now.mono.plus(HANDOVER_US)));
        self.maybe_hand_over();
    }

    pub(super) fn maybe_hand_over(&mut self) {
        let Some(leading) = &self.leading else {
            return;
        };
        let Some((target, until)) = leading.handing_over else {
            return;
        };
        let matched = target
            .and_then(|id| leading.peers.get(&id))
            .map(|p| p.matched);
        let equal = matched == Some(self.log.last().index);
        if !equal && target.is_some() && self.now.mono < until {
            return;
        }
        if let (true, Some(target)) = (equal, target) {
            self.send(target, Body::CampaignNow);
        }
        self.step_down("handed over");
        let quiet = self.config.window_us() + self.config.grant_timeout_us();
        self.retiring_until = Some(self.now.mono.plus(quiet));
    }

    /// Commits what a majority holds durably, if it is of the primary's own term. This replica need
    /// not be among them (Ongaro's thesis, section 10.2.1): what others have fsynced does not wait for
    /// a disk that is writing a slice.
    pub(super) fn maybe_commit(&mut self) {
        let last = self.log.last().index;
        let Some(leading) = self.leading.as_mut().filter(|_| last > self.commit) else {
            return;
        };
        let mut held: Vec<Index> = leading
            .peers
            .iter()
            .filter(|(id, progress)| {
                let incarnation = self.peers[*id].incarnation;
                progress.counting && incarnation.is_some_and(|i| self.membership.counts(**id, i))
            })
            .map(|(_, progress)| progress.matched)
            .collect();
        if self
            .membership
            .counts(self.config.id, self.hard.incarnation)
        {
            let durable = self.log.durable().index;
            held.push(if Mutant::CountOwnEarly.on() {
                last
            } else {
                durable
            });
        }
        held.sort_unstable_by(|a, b| b.cmp(a));
        let mut need = self.membership.majority();
        if Mutant::CommitBeforeMajority.on() {
            need = (need - 1).max(1);
        }
        let Some(index) = held.get(need - 1).copied() else {
            return;
        };
        let own_term = self.log.term_at(index) == Some(self.hard.term);
        if index <= self.commit || !(own_term || Mutant::CommitEarlierTerm.on()) {
            return;
        }
        self.commit = index;
        leading.commit_moved = self.now.mono;
        leading
            .notices
            .on_commit(self.now.mono, self.config.notice_wait_us);
        self.stuck_limit_us = self.config.election_timeout_us() * 4;
        self.maybe_serve();
        self.maybe_readmit();
        self.maybe_raise_level();
        self.maybe_retreat();
        self.maybe_hand_over();
    }

    pub(super) fn tick_primary(&mut self) {
        if self.leading.is_none() {
            return;
        }
        self.maybe_retreat();
        self.maybe_hand_over();
        self.maybe_readmit();
        self.maybe_raise_level();
        let Some(leading) = &mut self.leading else {
            return;
        };
        let now = self.now.mono;
        for progress in leading.peers.values_mut() {
            progress.maybe_retry(now, self.config.refresh_interval_us);
        }
        let timeout = self.config.election_timeout_us();
        let heard = |(id, peer): &(&ReplicaId, &super::node::Peer)| {
            let recent = peer.heard.is_some_and(|at| now.since(at) <= timeout);
            recent
                && peer
                    .incarnation
                    .is_some_and(|i| self.membership.counts(**id, i))
        };
        let near = 1 + self.peers.iter().filter(heard).count();
        if near < self.membership.majority() {
            self.step_down("no majority answers");
            return;
        }
        let limit = self.stuck_limit_us;
        let moved = leading
            .peers
            .values()
            .filter(|p| now.since(p.moved) <= limit)
            .count()
            + usize::from(now.since(leading.own_moved) <= limit);
        let waiting =
            self.log.last().index > self.commit && now.since(leading.commit_moved) > limit;
        if self.disk_age_us > limit || (waiting && moved < self.membership.majority()) {
            self.stuck_limit_us = limit.saturating_mul(2);
            self.step_down("its disk or its oldest proposal is stuck");
        }
    }

    /// Sends each secondary what it lacks. A commit advance goes with the next entries, or alone when
    /// none come within a moment, or none are expected.
    pub(super) fn send_appends(&mut self) {
        let Some(leading) = &self.leading else {
            return;
        };
        let ids: Vec<ReplicaId> = leading.peers.keys().copied().collect();
        for id in ids {
            while self.send_append(id) {}
        }
        self.note_told();
    }

    /// One append to one peer; false when there is nothing (more) to send it now.
    fn send_append(&mut self, id: ReplicaId) -> bool {
        let last = self.log.last().index;
        let known = &self.peers[&id];
        let linked = known.link && known.run.is_some();
        let Some(leading) = self.leading.as_mut().filter(|_| linked) else {
            return false;
        };
        let notice_due = leading.notices.are_due(self.now.mono);
        let Some(progress) = leading.peers.get_mut(&id) else {
            return false;
        };
        let commit = self.commit;
        let sending = progress.sending(last, commit, notice_due);
        if sending == Sending::Nothing {
            return false;
        }
        if progress.next <= self.log.base().stamp.index {
            self.offer_snapshot(id);
            return false;
        }
        let bytes_max = if progress.is_probing() {
            0
        } else {
            APPEND_BYTES_MAX
        };
        let previous = progress.next.previous();
        let found = self
            .log
            .entries(progress.next, last, bytes_max)
            .zip(self.log.stamp_at(previous).zip(self.log.hash_at(previous)));
        let Some((mut entries, (previous, previous_hash))) = found else {
            progress.fetching(self.now.mono);
            let from = progress.next;
            self.ready.fetches.push(super::Fetch {
                peer: id,
                from,
                bytes_max: APPEND_BYTES_MAX,
            });
            return false;
        };
        if progress.is_probing() || progress.window_is_full() {
            entries.clear();
        }
        progress.on_sent(entries.last().map(Entry::index), commit, self.now.mono);
        let append = Append {
            previous,
            previous_hash,
            entries,
            commit,
            notice: sending == Sending::Notice,
        };
        self.send(id, Body::Append(append));
        true
    }

    /// Entries for a [`super::Fetch`]; empty if the log no longer has them.
    pub fn on_fetched(&mut self, now: super::Now, peer: ReplicaId, entries: Vec<Entry>) {
        self.now = now;
        if self.serve_fetched_copy(peer, &entries) {
            return;
        }
        let Some(first) = entries.first().cloned() else {
            return;
        };
        let still_ours = entries
            .iter()
            .all(|entry| self.log.term_at(entry.index()) == Some(entry.stamp().term));
        let Some(previous) = self.log.stamp_at(first.index().previous()) else {
            return;
        };
        let commit = self.commit;
        let Some(progress) = self.leading.as_mut().and_then(|l| l.peers.get_mut(&peer)) else {
            return;
        };
        if !progress.is_fetching() || progress.next != first.index() || !still_ours {
            return;
        }
        progress.fetched(entries.last().map(Entry::index), commit, now.mono);
        let append = Append {
            previous,
            previous_hash: first.previous_hash(),
            entries,
            commit,
            notice: false,
        };
        self.send(peer, Body::Append(append));
    }

    pub(super) fn on_append_reply(&mut self, message: &Message, reply: AppendReply) {
        let last = self.log.last().index;
        let now = self.now.mono;
        let Some(progress) = self
            .leading
            .as_mut()
            .and_then(|l| l.peers.get_mut(&message.from))
        else {
            return;
        };
        match reply {
            AppendReply::Match { index, counting } if index <= last => {
                progress.on_match(index, counting, now);
                self.maybe_commit();
                self.maybe_retreat();
                self.maybe_hand_over();
            }
            AppendReply::Match { .. } => {
                let reason = "it acknowledges entries that this primary does not have";
                self.refuse(message.from, RefusalKind::BrokenChain, reason);
            }
            AppendReply::Conflict { previous, hint } => {
                progress.on_conflict(previous.index, hint, last);
            }
        }
    }

    /// Every refresh interval: this replica's status, to everyone.
    pub(super) fn send_refreshes(&mut self) {
        let mut acknowledged = BTreeMap::new();
        if let Some(leading) = &mut self.leading {
            for (id, progress) in &mut leading.peers {
                progress.beat_due = true;
                let stamp = self.log.stamp_at(progress.matched);
                if let Some(stamp) = stamp.filter(|_| progress.counting) {
                    acknowledged.insert(*id, stamp);
                }
            }
            acknowledged.insert(self.config.id, self.log.durable());
            let members = self.membership.committed().clone();
            self.remember(&acknowledged, &members, self.delivered);
        }
        self.judge_clocks();
        let ids: Vec<ReplicaId> = self.peers.keys().copied().collect();
        for id in ids {
            if self.peers[&id].run.is_none() || !self.is_formed() {
                self.maybe_send_hello(id);
                continue;
            }
            let common = self.peers[&id].last.index.min(self.commit);
            let refresh = Refresh {
                settled: self.log.stamp_at(common).unwrap_or(Stamp::ZERO),
                progress: self.progress,
                is_primary: self.leading.is_some(),
                primary: self.primary,
                last: self.log.durable(),
                commit: self.commit,
                applied: self.applied,
                digests: self.digests_to_tell(),
                acknowledged: acknowledged.clone(),
                members: self.membership.committed().clone(),
                members_at: self.delivered,
                clock: self.now.wall,
                disk_low: self.disk_low,
                knows_run: self.peers[&id].run,
                remembers: self.remembered(id),
                quarantined: self.is_quarantined(),
            };
            self.send(id, Body::Refresh(refresh));
        }
    }

    pub(super) fn on_refresh(&mut self, message: &Message, refresh: Refresh) {
        let from = message.from;
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        if refresh.progress < peer.progress {
            let reason = "a later refresh of the same run came before it";
            self.refuse(from, RefusalKind::Replay, reason);
            return;
        }
        if let Some(hello) = &mut peer.hello {
            hello.knows_run = refresh.knows_run;
            hello.primary = refresh.primary;
        }
        peer.last = refresh.last;
        peer.disk_low = refresh.disk_low;
        peer.quarantined = refresh.quarantined;
        if let Some(leading) = self.leading.as_mut().filter(|_| !refresh.quarantined) {
            leading.rebuilding.remove(&from);
        }
        let progressed = refresh.progress > peer.progress;
        if progressed {
            peer.progress = refresh.progress;
            peer.progressed = Some(now.mono);
        }
        self.clocks.hear(from, refresh.clock, now);
        self.hear_memory(from, refresh.knows_run, refresh.remembers);
        self.hear_digests(from, refresh.digests);
        if refresh.knows_run != Some(self.run) {
            self.maybe_send_hello(from);
        }
        self.learn_commit(refresh.last, refresh.commit);
        self.learn_commit(refresh.settled, refresh.settled.index);
        if message.term != self.hard.term || self.leading.is_some() {
            return;
        }
        if !refresh.is_primary {
            if self.primary == Some(from) {
                // It stepped down in its own term: nobody is primary in it any more.
                self.primary = None;
                self.ask_after = now.mono;
            }
            return;
        }
        self.follow(from);
        if progressed {
            self.primary_seen = now.mono;
        }
        if refresh.members.is_empty() {
            let members = self.membership.committed().clone();
            self.remember(&refresh.acknowledged, &members, self.delivered);
        } else {
            self.remember(&refresh.acknowledged, &refresh.members, refresh.members_at);
        }
    }
}

#[cfg(feature = "model")]
impl PrimaryState {
    pub(super) fn view(&self, view: &mut super::view::View, limit_us: u64) {
        let Self {
            serving,
            term_start,
            peers,
            handing_over,
            since: _, // times of entries stand still, see below
            base_time,
            last_time: _,
            own_moved,
            commit_moved,
            notices,
            uncommitted_bytes,
            full,
            rebuilding,
        } = self;
        assert_eq!(*base_time, WallTime(u64::MAX), "the clocks' last moment");
        view.put(&(serving, term_start, uncommitted_bytes, full, rebuilding));
        view.put(&handing_over.map(|(to, until)| (to, view.reached(until))));
        for (id, progress) in peers {
            view.put(id);
            progress.view(view, limit_us);
        }
        view.put(&view.recent_at_tick(*own_moved, limit_us));
        view.put(&view.recent_at_tick(*commit_moved, limit_us));
        notices.view(*commit_moved);
    }
}
