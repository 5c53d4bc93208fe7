//! Missing the primary, ballots, grants: steps 0 to 4 of the protocol.

use super::refusing::Question;
use super::replication::NO_NONCE;
use super::{Ballot, Body, Event, Message, Mutant, Node};
use crate::types::{Monotonic, ReplicaId, Stamp, Term, WallTime};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// An ask that is under way.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    nonce: u64,
    agreed: BTreeSet<ReplicaId>,
    again_at: Monotonic,
}

/// The election of one term, as this replica sees it.
///
/// Invariants: it is of `hard.term`; `ballot` was sent only after the term was durable; one grant.
#[derive(Clone, Debug)]
pub(super) struct Contest {
    /// This replica's answer has been sent: a ballot, or an abstention.
    answered: bool,
    ballot: Option<Ballot>,
    ballots: BTreeMap<ReplicaId, Ballot>,
    heard: BTreeSet<ReplicaId>,
    closes: Monotonic,
    gives_up: Monotonic,
    grants: BTreeMap<ReplicaId, WallTime>,
    /// The grant that waits for its fsync: (candidate, nonce of its ballot).
    granting: Option<(ReplicaId, u64)>,
}

impl Node {
    /// Is a primary followed that shows progress?
    pub(super) fn misses_primary(&self) -> bool {
        if self.leading.is_some() || self.damage.is_some() || !self.is_formed() {
            return false;
        }
        if let Some(primary) = self.primary {
            return self.is_unseen(primary);
        }
        self.boot_until.is_none() && self.contest.is_none() && self.now.mono >= self.ask_after
    }

    /// Has this primary shown no progress for too long?
    fn is_unseen(&self, primary: ReplicaId) -> bool {
        let gone = self.peers.get(&primary).is_some_and(|peer| peer.refused);
        let unseen = self.now.mono.since(self.primary_seen);
        gone || unseen > self.config.election_timeout_us()
    }

    /// The primary that is followed, as long as it shows progress. A replica that takes no part, and
    /// never misses one, may have heard of it long ago.
    pub(super) fn seen_primary(&self) -> Option<ReplicaId> {
        let leads = self.leading.is_some();
        self.primary.filter(|id| leads || !self.is_unseen(*id))
    }

    /// May this replica start and enter an election?
    fn may_ballot(&self) -> bool {
        let free = self.retiring_until.is_none() && !self.abstains_for_its_state();
        self.takes_part() && free && self.reached && self.leading.is_none()
    }

    pub(super) fn tick_election(&mut self) {
        if self
            .retiring_until
            .is_some_and(|until| self.now.mono >= until)
        {
            self.retiring_until = None;
        }
        if let Some(contest) = &self.contest
            && self.now.mono >= contest.gives_up
        {
            self.contest = None;
            self.lost_rounds += 1;
            let pause = self.rng.below(self.config.window_us());
            self.ask_after = self.now.mono.plus(pause);
        }
        self.maybe_decide();
        if self.misses_primary() {
            self.answer_asks();
            self.maybe_ask();
        } else {
            self.missing = None;
        }
    }

    /// Step 0: asks everyone whether they miss the primary too. Nothing is persisted.
    fn maybe_ask(&mut self) {
        if !self.takes_part() || self.retiring_until.is_some() || !self.self_counts() {
            return;
        }
        if self
            .missing
            .as_ref()
            .is_some_and(|m| self.now.mono < m.again_at)
        {
            return;
        }
        if self.missing.is_none() {
            self.event(Event::Asking);
        }
        let nonce = self.rng.next();
        self.questions.ask(Question::Ask, nonce);
        // The copies that are there by now may be newer than those at boot.
        self.may_adopt = true;
        self.maybe_adopt();
        self.missing = Some(Missing {
            nonce,
            agreed: BTreeSet::from([self.config.id]),
            again_at: self.now.mono.plus(self.config.window_us()),
        });
        let last = self.log.durable();
        self.broadcast(&Body::Ask { nonce, last });
        if Mutant::AskNobody.on() {
            self.campaign();
        }
        self.maybe_campaign();
    }

    pub(super) fn on_ask(&mut self, message: &Message, nonce: u64, last: Stamp) {
        if self.sender_counts(message) {
            let until = self.now.mono.plus(self.config.window_us());
            self.asks.insert(message.from, (nonce, last, until));
            if self.misses_primary() {
                self.answer_asks();
            }
        }
    }

    /// Agrees with every pending ask whose copy is at least as new as one's own.
    fn answer_asks(&mut self) {
        self.asks.retain(|_, (_, _, until)| self.now.mono < *until);
        if !self.takes_part() || !self.self_counts() {
            return;
        }
        let own = self.log.durable();
        let asks = std::mem::take(&mut self.asks);
        for (from, (nonce, last, until)) in asks {
            if last >= own || Mutant::AgreeToOlder.on() {
                self.send(from, Body::Agree { nonce });
            } else {
                self.asks.insert(from, (nonce, last, until));
            }
        }
    }

    pub(super) fn on_agree(&mut self, message: &Message, nonce: u64) {
        if nonce == NO_NONCE || !self.expects(Question::Ask, nonce, message.from) {
            return;
        }
        let counts = self.sender_counts(message);
        if let Some(missing) = &mut self.missing
            && missing.nonce == nonce
            && counts
        {
            missing.agreed.insert(message.from);
            self.maybe_campaign();
        }
    }

    fn maybe_campaign(&mut self) {
        let majority = self.membership.majority();
        if self
            .missing
            .as_ref()
            .is_some_and(|m| m.agreed.len() >= majority)
            && self.misses_primary()
        {
            self.campaign();
        }
    }

    /// Step 1: raises the term; the ballot leaves when that is durable.
    pub(super) fn campaign(&mut self) {
        if !self.takes_part() || self.retiring_until.is_some() || self.leading.is_some() {
            return;
        }
        let persisted_again = Mutant::ReballotAfterRestart.on()
            && self.contest.is_none()
            && self.primary.is_none()
            && self.hard.term > Term(0)
            && !self.jobs.term_raised_here();
        if persisted_again {
            self.hard.granted_to = None;
        } else {
            self.raise_term(Term(self.hard.term.0 + 1));
        }
        self.event(Event::ElectionStarted(self.hard.term));
        self.open_contest();
    }

    /// The term rises: the grant is cleared, and every role that hung on the old term ends.
    pub(super) fn raise_term(&mut self, term: Term) {
        assert!(term > self.hard.term, "a term never falls");
        if self.leading.is_some() && Mutant::StayPrimary.on() {
            self.hard.term = term;
            return;
        }
        self.step_down("a higher term");
        self.hard.term = term;
        // A replica that is not admitted does not know what its earlier life granted in this term:
        // its one grant counts as used.
        self.hard.granted_to = (!self.is_admitted()).then_some(self.config.id);
        self.reached = true;
        self.primary = None;
        self.contest = None;
        self.missing = None;
        self.verified = crate::types::Index(0);
        self.commit_known = self.commit;
        self.acked = crate::types::Index(0);
        self.ack_due = false;
        self.jobs.want_hard_state(true);
        // A term that rose without a ballot belongs to an election (or a primary) that will show
        // itself: do not ask at once.
        self.ask_after = self.now.mono.plus(self.config.window_us());
    }

    fn open_contest(&mut self) {
        self.contested = Some(self.hard.term);
        let closes = self.now.mono.plus(self.config.window_us());
        self.contest = Some(Contest {
            answered: false,
            ballot: None,
            ballots: BTreeMap::new(),
            heard: BTreeSet::new(),
            closes,
            gives_up: closes.plus(self.grant_timeout_us()),
            grants: BTreeMap::new(),
            granting: None,
        });
        self.missing = None;
        self.maybe_answer();
    }

    /// Sends one's own ballot or abstention once the term is durable (and with it everything that
    /// was appended before: the ballot names durable entries only).
    fn maybe_answer(&mut self) {
        if !self.jobs.term_is_durable(self.hard.term) || self.jobs.appends_under_way() {
            return;
        }
        let may_ballot = self.may_ballot() && self.self_counts();
        let closes = self.now.mono.plus(self.config.window_us());
        let gives_up = closes.plus(self.grant_timeout_us());
        let Some(contest) = &mut self.contest else {
            return;
        };
        if std::mem::replace(&mut contest.answered, true) {
            return;
        }
        // From here, not from the opening: a slow disk must not eat the window.
        contest.closes = closes;
        contest.gives_up = gives_up;
        contest.heard.insert(self.config.id);
        if !may_ballot {
            self.broadcast(&Body::Abstain);
            return;
        }
        let ballot = Ballot {
            nonce: self.rng.next(),
            last: self.log.durable(),
            head_hash: self
                .log
                .hash_at(self.log.durable().index)
                .unwrap_or_default(),
            random: self.rng.next(),
            timestamp: self.now.wall,
        };
        self.questions.ask(Question::Ballot, ballot.nonce);
        contest.ballot = Some(ballot.clone());
        contest.ballots.insert(self.config.id, ballot.clone());
        self.broadcast(&Body::Ballot(ballot));
        self.maybe_decide();
    }

    /// An election of our term is held: `step` has raised the term if it was higher. False: it is
    /// over for this replica, or nothing to it.
    fn join_contest(&mut self, message: &Message) -> bool {
        let deaf = self.primary.is_some() || self.damage.is_some() || !self.is_formed();
        if deaf || !self.sender_counts(message) {
            return false;
        }
        if self.contest.is_none() {
            if self.contested == Some(self.hard.term) {
                return false; // late: this replica has balloted in the term
            }
            self.open_contest();
        }
        true
    }

    pub(super) fn on_ballot(&mut self, message: &Message, ballot: Ballot) {
        if !self.join_contest(message) {
            return;
        }
        if let Some(contest) = &mut self.contest {
            contest.heard.insert(message.from);
            if let Entry::Vacant(place) = contest.ballots.entry(message.from) {
                place.insert(ballot);
            } else {
                self.refuse_answer(message.from);
            }
        }
        self.maybe_decide();
    }

    /// From one that has called the election and does not stand, too: see `quarantine`.
    pub(super) fn on_abstain(&mut self, message: &Message) {
        if !self.join_contest(message) {
            return;
        }
        if let Some(contest) = &mut self.contest {
            contest.heard.insert(message.from);
        }
        self.maybe_decide();
    }

    /// Steps 2 and 3: when every reachable replica's answer is in, or the window ends, grant to the
    /// best ballot that is not older than one's own log.
    fn maybe_decide(&mut self) {
        let Some(contest) = &self.contest else {
            return;
        };
        if !contest.answered || self.hard.granted_to.is_some() || !self.takes_part() {
            return;
        }
        let all = self
            .peers
            .keys()
            .all(|id| contest.heard.contains(id) || !self.reachable(*id));
        if !all && self.now.mono < contest.closes {
            return;
        }
        let longest = Mutant::LongestIsNewest.on();
        let best = contest.ballots.iter().max_by_key(|(id, ballot)| {
            let mut ballot = (*ballot).clone();
            if longest {
                ballot.last.term = Term(0);
            }
            ballot.rank(**id)
        });
        let Some((id, ballot)) = best.map(|(id, ballot)| (*id, ballot.clone())) else {
            return;
        };
        if Mutant::DecideLocally.on() {
            if id == self.config.id {
                self.become_primary(BTreeMap::from([(id, self.now.wall)]));
            }
            return;
        }
        let own = self.log.durable();
        let older = if longest {
            ballot.last.index < own.index
        } else {
            ballot.last < own
        };
        if (older && !Mutant::GrantToOlder.on()) || !self.self_counts() {
            return;
        }
        self.hard.granted_to = Some(id);
        self.jobs.want_grant();
        if let Some(contest) = &mut self.contest {
            contest.granting = Some((id, ballot.nonce));
        }
        if Mutant::ForgetGrant.on() {
            self.after_persisted_election();
        }
    }

    /// Doubles with each round that no primary came of: a disk slower than the timings must not
    /// keep the cluster without one for ever.
    fn grant_timeout_us(&self) -> u64 {
        self.config.grant_timeout_us() << self.lost_rounds.min(6)
    }

    /// A peer that is expected to answer: its connection is open and it made progress within two
    /// refreshes.
    fn reachable(&self, id: ReplicaId) -> bool {
        self.peers.get(&id).is_some_and(|peer| {
            let recent = self.config.refresh_interval_us * 2;
            let damaged = |hello: &super::Hello| hello.damaged || hello.repairing;
            let damaged = peer.hello.as_ref().is_some_and(damaged);
            peer.link
                && !damaged
                && peer
                    .progressed
                    .is_some_and(|at| self.now.mono.since(at) <= recent)
        })
    }

    /// The term or the grant became durable: what waited for that leaves now.
    pub(super) fn after_persisted_election(&mut self) {
        self.maybe_answer();
        if !self.jobs.grant_is_durable() {
            return;
        }
        let Some((id, nonce)) = self.contest.as_mut().and_then(|c| c.granting.take()) else {
            return;
        };
        let clock = self.now.wall;
        if id == self.config.id {
            self.count_grant(id, nonce, clock);
        } else {
            self.send(id, Body::Grant { nonce, clock });
        }
    }

    pub(super) fn on_grant(&mut self, message: &Message, nonce: u64, clock: WallTime) {
        if self.expects(Question::Ballot, nonce, message.from) && self.sender_counts(message) {
            self.count_grant(message.from, nonce, clock);
        }
    }

    fn count_grant(&mut self, from: ReplicaId, nonce: u64, clock: WallTime) {
        let Some(contest) = &mut self.contest else {
            return;
        };
        if contest
            .ballot
            .as_ref()
            .is_none_or(|ballot| ballot.nonce != nonce)
        {
            return;
        }
        contest.grants.insert(from, clock);
        self.maybe_win();
    }

    /// Step 4: a majority of grants makes the primary.
    pub(super) fn maybe_win(&mut self) {
        let majority = self.membership.majority();
        let able = self.takes_part() && self.leading.is_none();
        let Some(contest) = &self.contest else {
            return;
        };
        if contest.grants.len() >= majority && able {
            let grants = contest.grants.clone();
            self.become_primary(grants);
        }
    }

    /// A message of the primary of our term arrived.
    pub(super) fn follow(&mut self, primary: ReplicaId) {
        if self.primary == Some(primary) {
            return;
        }
        self.primary = Some(primary);
        self.primary_seen = self.now.mono;
        self.contest = None;
        self.missing = None;
        self.retiring_until = None;
        self.lost_rounds = 0;
        self.end_boot();
        let term = self.hard.term;
        let primary = Some(primary);
        self.event(Event::Primary { term, primary });
        self.reads_to_new_primary();
    }

    /// Step 12: the primary hands its role over; step 0 is skipped.
    pub(super) fn on_campaign_now(&mut self, message: &Message) {
        if self.primary == Some(message.from) {
            self.campaign();
        }
    }
}

#[cfg(feature = "model")]
impl Missing {
    pub(super) fn view(&self, view: &mut super::view::View) {
        let Self {
            nonce,
            agreed,
            again_at,
        } = self;
        view.put(&(nonce, agreed, view.reached(*again_at)));
    }
}

#[cfg(feature = "model")]
impl Contest {
    pub(super) fn has_balloted(&self) -> bool {
        self.ballot.is_some()
    }

    pub(super) fn view(&self, view: &mut super::view::View, decided: bool) {
        let Self {
            answered,
            ballot,
            ballots,
            heard,
            closes,
            gives_up,
            grants,
            granting,
        } = self;
        view.put(&(answered, ballot, grants, granting));
        view.put(&view.reached(*gives_up));
        if !decided {
            // Read for the decision, and there is one a term.
            view.put(&(ballots, heard, view.reached(*closes)));
        }
    }
}
