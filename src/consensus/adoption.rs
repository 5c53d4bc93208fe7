//! Boot: wait for the others, adopt the newest copy among those that answer, go on to the election.
//!
//! Adoption goes on in the background: the election never waits for it. It is no promise and no
//! acknowledgement; every condition is checked again at installation, on the very bytes installed.

use super::{Body, Event, Mutant, Node};
use crate::limits::{ADOPTION_BYTES_MAX, APPEND_BYTES_MAX};
use crate::types::entry::Entry;
use crate::types::{Hash, Index, Monotonic, ReplicaId, Stamp};

/// A copy on its way to this replica.
#[derive(Clone, Debug)]
pub(super) struct Adoption {
    from: ReplicaId,
    nonce: u64,
    /// Our commit point when it began: the copy follows it.
    after: Stamp,
    staged: Vec<Entry>,
    staged_bytes: usize,
    moved: Monotonic,
}

/// A piece of our log that somebody asked for, being read from the store.
#[derive(Clone, Debug)]
pub(super) struct CopyService {
    nonce: u64,
    after: Stamp,
    after_hash: Hash,
}

impl Node {
    pub(super) fn tick_boot(&mut self) {
        if self.boot_until.is_some_and(|until| self.now.mono >= until) && self.is_formed() {
            self.end_boot();
            self.maybe_adopt();
        }
        self.maybe_end_boot();
    }

    pub(super) fn end_boot(&mut self) {
        if self.boot_until.take().is_some() {
            self.ask_after = self.now.mono;
        }
    }

    /// The boot exchange is over when everyone has said hello and nobody follows a primary. With a
    /// majority there the newest copy among them is adopted at once: the wait for the others is
    /// put to use, and the election finds equal logs.
    pub(super) fn maybe_end_boot(&mut self) {
        if self.boot_until.is_none() || !self.is_formed() {
            return;
        }
        let hellos = || {
            let linked = self.peers.values().filter(|peer| peer.link);
            linked.filter_map(|peer| peer.hello.as_ref())
        };
        if hellos().any(|hello| hello.primary.is_some()) {
            return;
        }
        let here = 1 + hellos().count();
        if here > self.peers.len() {
            self.end_boot();
        }
        if here >= self.membership.majority() {
            self.maybe_adopt();
        }
    }

    /// Asks the peer with the newest copy for what follows our commit point.
    pub(super) fn maybe_adopt(&mut self) {
        let followed = self.primary.is_some() && !self.misses_primary();
        if !self.may_adopt || self.adoption.is_some() || followed || !self.takes_part() {
            return;
        }
        self.may_adopt = false;
        let own = self.log.last();
        let candidates = self.peers.iter().filter_map(|(id, peer)| {
            let hello = peer.hello.as_ref().filter(|_| peer.link)?;
            let in_force = self.membership.in_force(*id, peer.incarnation?);
            let whole = !hello.damaged && !hello.repairing;
            (in_force && whole).then_some((peer.last, *id))
        });
        let best = if Mutant::AdoptOlder.on() {
            candidates.filter(|(last, _)| *last != own).min()
        } else if Mutant::LongestIsNewest.on() {
            candidates.max_by_key(|(last, _)| last.index)
        } else {
            candidates.max()
        };
        let Some((last, from)) = best else {
            return;
        };
        if last <= own && !Mutant::AdoptOlder.on() && !Mutant::LongestIsNewest.on() {
            return;
        }
        let mut point = self.commit;
        if Mutant::AdoptWithoutPrefix.on() {
            point = point.min(Index(1));
        }
        let (Some(after), Some(hash)) = (self.log.stamp_at(point), self.log.hash_at(point)) else {
            return;
        };
        let nonce = self.rng.next();
        self.adoption = Some(Adoption {
            from,
            nonce,
            after,
            staged: Vec::new(),
            staged_bytes: 0,
            moved: self.now.mono,
        });
        self.request_copy(from, nonce, after, hash);
    }

    fn request_copy(&mut self, from: ReplicaId, nonce: u64, after: Stamp, after_hash: Hash) {
        let body = Body::CopyRequest {
            nonce,
            after,
            after_hash,
        };
        self.send(from, body);
    }

    /// A transfer without progress for one window is dropped, and at boot tried again.
    pub(super) fn tick_adoption(&mut self) {
        let limit = self.adoption_limit_us();
        if self
            .adoption
            .as_ref()
            .is_some_and(|a| self.now.mono.since(a.moved) > limit)
        {
            self.adoption = None;
            // A peer gives nothing before others have vouched for it: it may by now.
            self.may_adopt |= self.boot_until.is_some();
        }
    }

    pub(super) fn adoption_limit_us(&self) -> u64 {
        self.config.window_us().max(self.config.refresh_interval_us)
    }

    /// Somebody adopts our copy: a piece of it, durable entries only.
    pub(super) fn on_copy_request(
        &mut self,
        to: ReplicaId,
        nonce: u64,
        after: Stamp,
        after_hash: Hash,
    ) {
        if !self.takes_part() {
            return;
        }
        if self.log.stamp_at(after.index) != Some(after) {
            let entries = Vec::new();
            let done = true;
            self.send(
                to,
                Body::CopyPiece {
                    nonce,
                    entries,
                    done,
                },
            );
            return;
        }
        self.copies.insert(
            to,
            CopyService {
                nonce,
                after,
                after_hash,
            },
        );
        let durable = self.log.durable().index;
        if let Some(entries) = self
            .log
            .entries(after.index.next(), durable, APPEND_BYTES_MAX)
        {
            self.send_copy_piece(to, entries);
        } else {
            self.ready.fetches.push(super::Fetch {
                peer: to,
                from: after.index.next(),
                bytes_max: APPEND_BYTES_MAX,
            });
        }
    }

    /// Entries read from the store, if they were for a copy.
    pub(super) fn serve_fetched_copy(&mut self, peer: ReplicaId, entries: &[Entry]) -> bool {
        let wanted = self.copies.get(&peer).is_some_and(|copy| {
            entries
                .first()
                .is_none_or(|first| first.index() == copy.after.index.next())
        });
        if wanted {
            let durable = self.log.durable().index;
            let durable = entries
                .iter()
                .filter(|e| e.index() <= durable)
                .cloned()
                .collect();
            self.send_copy_piece(peer, durable);
        }
        wanted
    }

    fn send_copy_piece(&mut self, to: ReplicaId, entries: Vec<Entry>) {
        let Some(copy) = self.copies.remove(&to) else {
            return;
        };
        let follows = entries
            .first()
            .is_none_or(|e| e.previous_hash() == copy.after_hash);
        let entries = if follows { entries } else { Vec::new() };
        let last = entries.last().map_or(copy.after.index, Entry::index);
        let done = entries.is_empty() || last >= self.log.durable().index;
        let nonce = copy.nonce;
        self.send(
            to,
            Body::CopyPiece {
                nonce,
                entries,
                done,
            },
        );
    }

    pub(super) fn on_copy_piece(
        &mut self,
        from: ReplicaId,
        nonce: u64,
        entries: Vec<Entry>,
        done: bool,
    ) {
        let asked = |adoption: &Adoption| adoption.nonce == nonce && adoption.from == from;
        let Some(adoption) = self.adoption.as_mut().filter(|adoption| asked(adoption)) else {
            self.refuse_answer(from);
            return;
        };
        let expected = adoption
            .staged
            .last()
            .map_or(adoption.after.index, Entry::index)
            .next();
        if entries
            .first()
            .is_some_and(|first| first.index() != expected)
        {
            self.refuse_answer(from); // a piece that came twice
            return;
        }
        adoption.moved = self.now.mono;
        adoption.staged_bytes += entries.iter().map(|e| e.bytes().len()).sum::<usize>();
        adoption.staged.extend(entries);
        let complete = done || adoption.staged_bytes >= ADOPTION_BYTES_MAX;
        let last = adoption
            .staged
            .last()
            .map(|entry| (entry.stamp(), entry.hash()));
        match last {
            Some((after, hash)) if !complete => self.request_copy(from, nonce, after, hash),
            _ => {
                if let Some(adoption) = self.adoption.take() {
                    self.install(adoption);
                }
            }
        }
    }

    /// Installs the copy if every condition holds for these very bytes.
    fn install(&mut self, adoption: Adoption) {
        let from = adoption.from;
        match self.may_install(&adoption) {
            Ok(differs) => self.switch_to_copy(adoption, differs),
            Err(reason) => self.event(Event::AdoptionRefused { from, reason }),
        }
    }

    /// The conditions of DESIGN §3.9. Returns the first index at which the copy differs from our
    /// log.
    fn may_install(&self, adoption: &Adoption) -> Result<Index, &'static str> {
        let last = adoption
            .staged
            .last()
            .map(Entry::stamp)
            .ok_or("it is empty")?;
        if self.leading.is_some() || !self.takes_part() {
            return Err("this replica is primary, or takes no part");
        }
        let own = self.log.last();
        let newer = if Mutant::LongestIsNewest.on() {
            last.index > own.index
        } else {
            last > own
        };
        if !newer && !Mutant::AdoptUnchecked.on() && !Mutant::AdoptOlder.on() {
            return Err("it is not newer than what is here by now");
        }
        let careless = Mutant::AdoptOlder.on() || Mutant::AdoptWithoutPrefix.on();
        if last.term < self.hard.term_accepted && !careless {
            return Err("it is older than the last primary followed");
        }
        let mut index = adoption.after.index;
        let mut hash = self
            .log
            .hash_at(index)
            .ok_or("the commit point has moved")?;
        let mut differs = None;
        let mut term = adoption.after.term;
        for entry in &adoption.staged {
            index = index.next();
            let stamp = entry.stamp();
            if stamp.index != index || entry.previous_hash() != hash || stamp.term < term {
                return Err("its chain does not hold");
            }
            hash = entry.hash();
            term = stamp.term;
            let same = self.log.term_at(index) == Some(stamp.term);
            if !same && differs.is_none() {
                differs = Some(index);
            }
        }
        let differs = differs.unwrap_or(index.next());
        let prefix = differs > self.commit && last.index >= self.commit;
        if !prefix && !Mutant::AdoptWithoutPrefix.on() {
            return Err("it lacks what is committed here");
        }
        Ok(differs)
    }

    /// ORDER: the mark is lowered and the term raised, durably, BEFORE the copy's entries show it.
    fn switch_to_copy(&mut self, adoption: Adoption, differs: Index) {
        let Some(last) = adoption.staged.last().map(Entry::stamp) else {
            return;
        };
        if last.term > self.hard.term && !Mutant::AdoptWithoutTerm.on() {
            self.raise_term(last.term);
            self.jobs.want_hard_state_first();
        }
        if self.log.last().index >= differs || Mutant::AdoptOlder.on() {
            self.truncate(differs.previous(), last.term);
        }
        for entry in adoption.staged {
            if entry.index() > self.log.last().index {
                self.append(entry);
            }
        }
        if Mutant::AdoptAcknowledges.on() {
            self.verified = self.log.last().index;
            self.ack_due = true;
        }
        self.installing = Some(self.jobs.pending_id());
        let from = adoption.from;
        self.adopted = Some((from, last));
        self.event(Event::Adopted { from, last });
    }
}

#[cfg(feature = "model")]
impl Adoption {
    pub(super) fn view(&self, view: &mut super::view::View, window_us: u64) {
        let Self {
            from,
            nonce,
            after,
            staged,
            staged_bytes,
            moved,
        } = self;
        view.put(&(from, nonce, after, staged, staged_bytes));
        view.put(&view.recent_at_tick(*moved, window_us));
    }
}

#[cfg(feature = "model")]
impl CopyService {
    pub(super) fn view(&self, view: &mut super::view::View) {
        let Self {
            nonce,
            after,
            after_hash,
        } = self;
        view.put(&(nonce, after, after_hash));
    }
}
