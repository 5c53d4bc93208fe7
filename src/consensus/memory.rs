//! Lost memory: what the others remember of a replica, and what it does when that is more than it has.
//!
//! A disk may go back to an old copy: restored from a backup, swapped, cloned. Everything on it is
//! whole, and it breaks promises all the same: what was acknowledged is not there, and a grant that
//! was given may be given again. Nothing on the disk itself can show that, but the others can. The
//! primary's refreshes name the stamp that each member has acknowledged, and which incarnation that is;
//! everybody remembers the highest of the newest incarnation it was told of (written lazily), and says in every
//! `Hello` and refresh what it remembers of the receiver.
//!
//! A replica takes part in a process run, and writes to its log, only AFTER so many others have seen
//! that run that with itself they are a majority, and none of them remembers more of it than its log
//! held at the start. As long as a majority remembers, one of those does. If one remembers more, the
//! replica has lost its promises: it goes on under a new incarnation, and counts again when that is
//! readmitted.
//!
//! A durable log's last stamp falls only in a repair, which has rules of its own, after a fenced
//! poll, and when another log takes the place of one that conflicts, in parts or by a snapshot: its first entries
//! may be older than what goes. In the last two cases a term is written down before
//! (`HardState::given_up`), and what is remembered of earlier terms is no alarm any more. Nothing
//! that counts is hidden by that: what went was of earlier terms and is proven uncommitted, and of what is
//! acknowledged afterwards only an entry of that term or a later one makes anything committed, which is
//! remembered under its own stamp.

use super::{Event, Mutant, Node, Repair};
use crate::types::{Incarnation, Index, Members, ReplicaId, RunNonce, Stamp, Term};
use std::collections::BTreeMap;

impl Node {
    /// What the primary says that each member has acknowledged, in the life that it has among these
    /// members, which are those of index `at`.
    pub(super) fn remember(
        &mut self,
        acknowledged: &BTreeMap<ReplicaId, Stamp>,
        members: &Members,
        at: Index,
    ) {
        // It was late, or its sender does not know yet what is known here.
        if at < self.hard.others_as_of {
            return;
        }
        self.know_lives(members, at);
        for (id, stamp) in acknowledged {
            if members.contains_key(id) && *stamp > Stamp::ZERO {
                let mark = self.hard.others_marks.entry(*id).or_insert(*stamp);
                *mark = (*mark).max(*stamp);
            }
        }
    }

    /// Whoever is another one than was known has acknowledged nothing yet.
    fn know_lives(&mut self, members: &Members, at: Index) {
        self.hard.others_as_of = at;
        for (id, life) in members {
            let before = self.hard.others_lives.insert(*id, *life);
            let other = before.is_some_and(|before| before != *life);
            if other && !Mutant::RememberOldLife.on() {
                self.hard.others_marks.remove(id);
            }
        }
    }

    /// A readmission is delivered, perhaps again after a restart, or the state is another: these are the
    /// members at this index. What is remembered of those of a later one stays.
    pub(super) fn forget_lives_before(&mut self, at: Index, readmitted: Option<ReplicaId>) {
        if let Some(id) = readmitted.filter(|_| Mutant::ForgetAtReplay.on()) {
            self.hard.others_marks.remove(&id);
        }
        if at > self.hard.others_as_of {
            let members = self.membership.committed().clone();
            self.know_lives(&members, at);
        }
    }

    /// What this replica remembers of a peer's present incarnation.
    pub(super) fn remembered(&self, of: ReplicaId) -> Stamp {
        let life = self.peers.get(&of).and_then(|peer| peer.incarnation);
        let present = life.is_some_and(|life| {
            let known = self.hard.others_lives.get(&of);
            let same = known.is_none_or(|known| *known == life) || Mutant::RememberOldLife.on();
            same && self.membership.in_force(of, life)
        });
        let mark = self.hard.others_marks.get(&of).filter(|_| present);
        mark.copied().unwrap_or(Stamp::ZERO)
    }

    /// Have enough others seen this process run, and found nothing missing?
    pub(super) fn is_vouched_for(&self) -> bool {
        let vouching = self.peers.values().filter(|peer| peer.vouches).count();
        vouching + 1 >= self.membership.majority() || Mutant::IgnoreRollback.on()
    }

    /// May the log change? What was written before enough others have seen this run would stand in
    /// it after a crash, and the next run could not tell that it began with less.
    pub(super) fn may_write(&self) -> bool {
        self.is_vouched_for() || Mutant::WriteUnvouched.on()
    }

    /// A peer says what it remembers of this replica.
    pub(super) fn hear_memory(
        &mut self,
        from: ReplicaId,
        knows_run: Option<RunNonce>,
        remembers: Stamp,
    ) {
        // Of another life, or of an earlier run: it may remember more by now.
        let busy = self.damage.is_some() || self.installing.is_some();
        if knows_run != Some(self.run) || busy {
            return;
        }
        let whole = self.hard.repair == Repair::No;
        let given_up = remembers.term < self.hard.given_up
            || Mutant::GiveUpOwnTerm.on() && remembers.term == self.hard.given_up;
        // Until enough others vouch nothing was acknowledged in this run: what came meanwhile proves
        // nothing about the promises.
        let vouched = self.is_vouched_for();
        let has = if vouched {
            self.began_with.and(Some(self.log.last()))
        } else {
            self.began_with
        };
        if let Some(has) = has.filter(|has| remembers > *has)
            && whole
            && !given_up
            && !Mutant::IgnoreRollback.on()
        {
            self.begin_new_life(from, remembers, has);
            return;
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.vouches = true;
        }
        if !vouched && self.is_vouched_for() {
            // What was acknowledged without counting counts now.
            self.ack_due = true;
            self.maybe_acknowledge();
            self.maybe_end_boot();
        }
    }

    /// What was acknowledged here in terms before this one, and is not here any more, went legally.
    /// ORDER: durable BEFORE it goes.
    pub(super) fn give_up_before(&mut self, term: Term) {
        if !Mutant::TruncateUnnoted.on() {
            self.hard.given_up = self.hard.given_up.max(term);
        }
    }

    /// The promises are lost: the log is a source of bytes, and the new incarnation is readmitted.
    fn begin_new_life(&mut self, from: ReplicaId, remembers: Stamp, has: Stamp) {
        self.step_down("its disk is an old copy");
        self.contest = None;
        self.missing = None;
        self.adoption = None;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.rng.next().to_be_bytes());
        bytes[8..].copy_from_slice(&self.rng.next().to_be_bytes());
        self.hard.incarnation = Incarnation(bytes);
        // What was granted in this term is not known: the one grant is used.
        self.hard.granted_to = Some(self.config.id);
        self.hard.others_marks.clear();
        self.hard.others_lives.clear();
        self.hard.others_as_of = Index(0);
        self.began_with = None;
        self.jobs.want_life();
        for peer in self.peers.values_mut() {
            peer.vouches = false;
        }
        self.event(Event::LostMemory {
            from,
            remembers,
            has,
        });
        let peers: Vec<ReplicaId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.send_hello(peer);
        }
    }
}
