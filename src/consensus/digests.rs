//! Whether this replica's state is what the others' is: digests compared at agreed indexes.
//!
//! Each replica keeps the digests of its state at the last few multiples of a fixed index and names
//! them in its refreshes. What is compared is the highest such index that this replica and another
//! one both have, and a finding takes a majority of all n: a replica whose state contradicts what a
//! majority says alike is quarantined; where the others differ and no majority says who is right, it
//! is an alarm and nothing else. What a replica said in an earlier process run, or what one says
//! whose own state is doubted, is no opinion.

use super::{Event, HardState, Mutant, Node};
use crate::types::{Hash, Index, Level, Monotonic, ReplicaId};
use std::collections::BTreeMap;

/// Refreshes after which a difference without a majority is told.
const TIE_REFRESHES: u64 = 4;

/// What the comparison came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Comparison {
    /// Digests of this replica's own state, oldest first.
    pub(super) own: Vec<(Index, Hash)>,
    /// The highest index at which a majority, this replica included, has the same.
    pub(super) agreed: Index,
    /// The highest index at which others have something else and no majority has the same.
    pub(super) tie: Option<Tie>,
    /// Why the state is doubted, if it is: see `quarantine`.
    pub(super) doubt: Option<(Index, String)>,
}

#[derive(Clone, Debug)]
pub(super) struct Tie {
    index: Index,
    /// Who has something else.
    others: Vec<ReplicaId>,
    since: Monotonic,
    told: bool,
}

impl Comparison {
    /// Nothing is compared yet; a replica that was quarantined when its process ended still is.
    pub(super) fn at_start(hard: &HardState, applied: Index) -> Self {
        let why = "it was found wrong before this start";
        Self {
            doubt: hard.quarantined.then(|| (applied, why.to_owned())),
            ..Self::default()
        }
    }

    /// Where others differ without a majority, and who they are, once that has been told.
    pub(super) fn tie(&self) -> Option<(Index, Vec<ReplicaId>)> {
        let tie = self.tie.as_ref().filter(|tie| tie.told);
        tie.map(|tie| (tie.index, tie.others.clone()))
    }
}

/// What all say about one index.
enum Verdict {
    /// Too few have said anything.
    Open,
    /// A majority has what this replica has.
    Alike,
    /// A majority has something else.
    Contradicted(Vec<ReplicaId>),
    /// These have something else, and no majority has the same.
    Tie(Vec<ReplicaId>),
}

impl Node {
    /// State for refreshes: applied index, digests at the last multiples of 1,024, disk low.
    pub fn set_applied(
        &mut self,
        (applied, level): (Index, Level),
        digests: Vec<(Index, Hash)>,
        disk_low: bool,
    ) {
        self.applied = applied;
        self.levels.learn(applied, level);
        self.disk_low = disk_low;
        if self.comparison.own != digests {
            self.comparison.own = digests;
            self.compare_digests();
        }
    }

    /// What this replica says of its state: nothing while it is doubted.
    pub(super) fn digests_to_tell(&self) -> Vec<(Index, Hash)> {
        if self.is_quarantined() {
            return Vec::new();
        }
        self.comparison.own.clone()
    }

    /// A peer has said what it has.
    pub(super) fn hear_digests(&mut self, from: ReplicaId, digests: Vec<(Index, Hash)>) {
        if let Some(peer) = self.peers.get_mut(&from)
            && peer.digests != digests
        {
            peer.digests = digests;
            self.compare_digests();
        }
    }

    fn compare_digests(&mut self) {
        let alone = self.peers.is_empty();
        if alone || self.is_quarantined() || self.damage.is_some() || Mutant::CompareNothing.on() {
            return;
        }
        let mut tie = None;
        let mut found = None;
        for (index, own) in self.comparison.own.iter().rev() {
            match self.judge(*index, *own) {
                Verdict::Open => {}
                Verdict::Alike => {
                    self.comparison.agreed = self.comparison.agreed.max(*index);
                    break;
                }
                Verdict::Contradicted(by) => {
                    found = Some((*index, by));
                    break;
                }
                Verdict::Tie(others) => tie = tie.or(Some((*index, others))),
            }
        }
        if let Some((index, by)) = found {
            let reason = format!(
                "the state there has another digest than that of {}, a majority",
                super::quarantine::names(&by)
            );
            self.enter_quarantine(index, reason);
            return;
        }
        let before = self.comparison.tie.take();
        let now = self.now.mono;
        self.comparison.tie = tie.map(|(index, others)| {
            let same = before.filter(|before| before.index == index);
            Tie {
                index,
                others,
                since: same.as_ref().map_or(now, |before| before.since),
                told: same.is_some_and(|before| before.told),
            }
        });
    }

    /// The others' refreshes do not come at once: what they have not decided after a few is told.
    pub(super) fn tick_digests(&mut self) {
        let patience = self.config.refresh_interval_us * TIE_REFRESHES;
        let now = self.now.mono;
        let Some(tie) = &mut self.comparison.tie else {
            return;
        };
        if !tie.told && now.since(tie.since) >= patience {
            tie.told = true;
            let (index, others) = (tie.index, tie.others.clone());
            self.event(Event::DigestTie { index, others });
        }
    }

    fn judge(&self, index: Index, own: Hash) -> Verdict {
        let majority = self.membership.majority();
        let mut alike = 1;
        let mut others: BTreeMap<Hash, Vec<ReplicaId>> = BTreeMap::new();
        for (id, peer) in &self.peers {
            let counts = peer
                .incarnation
                .is_some_and(|life| self.membership.counts(*id, life));
            let said = peer.digests.iter().find(|(at, _)| *at == index);
            let Some((_, digest)) = said.filter(|_| counts) else {
                continue;
            };
            if *digest == own {
                alike += 1;
            } else {
                others.entry(*digest).or_default().push(*id);
            }
        }
        if alike >= majority {
            return Verdict::Alike;
        }
        if let Some(by) = others.values().find(|ids| ids.len() >= majority) {
            return Verdict::Contradicted(by.clone());
        }
        if others.is_empty() {
            return Verdict::Open;
        }
        let mut differing: Vec<ReplicaId> = others.into_values().flatten().collect();
        differing.sort_unstable();
        Verdict::Tie(differing)
    }
}

#[cfg(feature = "model")]
impl Comparison {
    /// Nobody has said anything of a state.
    pub(super) fn is_untouched(&self) -> bool {
        let Self {
            own,
            agreed,
            tie,
            doubt,
        } = self;
        own.is_empty() && *agreed == Index(0) && tie.is_none() && doubt.is_none()
    }
}
