//! Hello, formation and readmission: who belongs to the cluster.
//!
//! A cluster is formed once, by all its configured replicas together: each durably prepares the
//! same cluster id, and only when all have said so does each write the identical entry 1. A wiped
//! replica can therefore never found a second cluster with another wiped one.

use super::{Body, Event, FormationStatus, Hello, Message, Mutant, Node, Repair};
use crate::types::entry::{Entry, Kind, ReplaceIncarnation};
use crate::types::refusals::RefusalKind;
use crate::types::{ClusterId, Index, Members, ReplicaId};

/// Lowest and highest version of the inter-server protocol that this build speaks.
pub(super) const PROTOCOL: (u32, u32) = (1, 1);
/// A missing replica is named this often, in microseconds.
const WAITING_EVERY_US: u64 = 3_000_000;

impl Node {
    pub(super) fn is_formed(&self) -> bool {
        matches!(self.hard.formation, FormationStatus::Formed(_))
    }

    /// One's own incarnation is in force in one's own committed log.
    pub(super) fn is_admitted(&self) -> bool {
        self.membership
            .in_force(self.config.id, self.hard.incarnation)
    }

    /// May this replica ballot, grant, agree and acknowledge?
    pub(super) fn takes_part(&self) -> bool {
        self.damage.is_none()
            && self.is_admitted()
            && self.installing.is_none()
            && !self.is_repairing()
            && self.is_vouched_for()
    }

    /// Does this replica itself count, by its own log?
    pub(super) fn self_counts(&self) -> bool {
        self.membership
            .counts(self.config.id, self.hard.incarnation)
    }

    /// Does the sender of this message count, by this replica's own log?
    pub(super) fn sender_counts(&self, message: &Message) -> bool {
        self.membership
            .counts(message.from, message.from_incarnation)
    }

    pub(super) fn send_hello(&mut self, to: ReplicaId) {
        let Some(peer) = self.peers.get_mut(&to) else {
            return;
        };
        peer.hello_sent = Some(self.now.mono);
        let knows_run = peer.run;
        let remembers = self.remembered(to);
        let hello = Hello {
            ids: self.config.ids.clone(),
            formation: self.durable_formation(),
            last: self.log.durable(),
            head_hash: self
                .log
                .hash_at(self.log.durable().index)
                .unwrap_or_default(),
            commit: self.commit,
            primary: self.primary,
            protocol: PROTOCOL,
            level: self.config.level,
            build: self.config.build.clone(),
            damaged: self.damage.is_some(),
            admitted: self.is_admitted(),
            repairing: self.hard.repair != Repair::No,
            knows_run,
            remembers,
        };
        self.send(to, Body::Hello(hello));
    }

    /// What has been prepared or formed durably; what is not durable is not said.
    fn durable_formation(&self) -> FormationStatus {
        if self.jobs.formation_is_durable() {
            self.hard.formation.clone()
        } else {
            FormationStatus::Unformed
        }
    }

    /// Asks for a hello, not more often than four times a refresh.
    pub(super) fn maybe_send_hello(&mut self, to: ReplicaId) {
        let pause = self.config.refresh_interval_us / 4;
        let due = self.peers.get(&to).is_some_and(|peer| {
            peer.hello_sent
                .is_none_or(|sent| self.now.mono.since(sent) >= pause)
        });
        if due {
            self.send_hello(to);
        }
    }

    pub(super) fn on_hello(&mut self, message: &Message, hello: Hello) {
        let from = message.from;
        if self.membership.is_retired(from, message.from_incarnation) {
            // Late: that life is over, and must not be readmitted.
            let reason = "its sender's life in this incarnation is over";
            self.refuse(from, RefusalKind::OtherIncarnation, reason);
            return;
        }
        if message.to_incarnation == Some(self.hard.incarnation) {
            self.hear_memory(from, hello.knows_run, hello.remembers);
        }
        let repairing = hello.repairing;
        let formed = matches!(hello.formation, FormationStatus::Formed(_));
        let knows_us = hello.knows_run == Some(self.run) && (formed || !self.is_formed());
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        peer.refused_for = None;
        let new_run = peer.run != Some(message.run);
        if new_run {
            self.clocks.forget(from);
            peer.run = Some(message.run);
            // It has just spoken: expect its ballot.
            peer.progressed = Some(self.now.mono);
            peer.progress = 0;
            (peer.digests, peer.quarantined) = (Vec::new(), false);
        }
        peer.last = hello.last;
        peer.incarnation = Some(message.from_incarnation);
        peer.hello = Some(hello);
        if new_run {
            self.may_adopt = true;
            // What a peer held in an earlier run says nothing about this one.
            if let Some(leading) = &mut self.leading {
                leading.forget(from, self.log.last().index);
            }
            self.copies.remove(&from);
        }
        if !knows_us {
            self.maybe_send_hello(from);
        }
        if repairing {
            self.tell_repair_target(from);
        }
        self.maybe_form();
        self.maybe_readmit();
        self.maybe_raise_level();
        self.maybe_end_boot();
    }

    /// What keeps this replica from speaking with the sender of this hello.
    pub(super) fn hello_refusal(&self, hello: &Hello) -> Option<(RefusalKind, String)> {
        if hello.protocol.0 > PROTOCOL.1 || hello.protocol.1 < PROTOCOL.0 {
            let (low, high) = hello.protocol;
            let own = PROTOCOL.1;
            let reason = format!("it speaks protocol {low} to {high}, this replica {own}");
            return Some((RefusalKind::OtherProtocol, reason));
        }
        if hello.ids != self.config.ids {
            let reason = format!(
                "it is configured with replicas {:?}, this one with {:?}",
                hello.ids, self.config.ids
            );
            return Some((RefusalKind::OtherReplicas, reason));
        }
        None
    }

    pub(super) fn tick_formation(&mut self) {
        if self.is_formed() || self.damage.is_some() {
            return;
        }
        self.maybe_form();
        let waiting: Vec<ReplicaId> = self
            .peers
            .iter()
            .filter(|(_, peer)| !peer.link || peer.hello.is_none())
            .map(|(id, _)| *id)
            .collect();
        let told = self.waiting_told.get_or_insert(self.now.mono);
        if !waiting.is_empty() && self.now.mono.since(*told) >= WAITING_EVERY_US {
            *told = self.now.mono;
            self.event(Event::WaitingFor(waiting));
        }
    }

    /// Prepares when every configured replica is there and unformed; forms when all have prepared
    /// the same. Meets a formed cluster that names this very incarnation: forms too.
    fn maybe_form(&mut self) {
        if self.is_formed() || self.damage.is_some() {
            return;
        }
        if let Some(members) = self.formed_with_us() {
            // An old copy from before the formation would pass for what the others remember of it
            // once entry 1 stands in it.
            if self.may_write() {
                self.form(&members);
            }
            return;
        }
        let Some(members) = self.everyone_unformed() else {
            return;
        };
        let cluster = ClusterId::of_members(&members);
        let prepared = FormationStatus::Prepared(cluster);
        if self.hard.formation != prepared {
            self.hard.formation = prepared;
            self.jobs.want_formation();
            return;
        }
        let all_prepared = self.jobs.formation_is_durable()
            && self.peers.values().all(|peer| {
                peer.hello
                    .as_ref()
                    .is_some_and(|hello| hello.formation == prepared)
            });
        if all_prepared || Mutant::FormTwice.on() {
            self.form(&members);
        }
    }

    /// A formed peer whose entry 1 names our incarnation: incarnations are fresh, so this replica
    /// had prepared just that, whatever it may have prepared since.
    fn formed_with_us(&self) -> Option<Members> {
        let ours = Some(&self.hard.incarnation);
        self.peers
            .values()
            .find_map(|peer| match &peer.hello.as_ref()?.formation {
                FormationStatus::Formed(members) if members.get(&self.config.id) == ours => {
                    Some(members.clone())
                }
                _ => None,
            })
    }

    /// The members, if every configured replica is connected, has said hello and is unformed.
    fn everyone_unformed(&self) -> Option<Members> {
        let mut members = Members::new();
        members.insert(self.config.id, self.hard.incarnation);
        for (id, peer) in &self.peers {
            let hello = peer.hello.as_ref().filter(|_| peer.link)?;
            let formed = matches!(hello.formation, FormationStatus::Formed(_));
            if (formed && !Mutant::FormTwice.on()) || hello.damaged {
                return None;
            }
            members.insert(*id, peer.incarnation?);
        }
        Some(members)
    }

    fn form(&mut self, members: &Members) {
        assert_eq!(self.log.last().index, Index(0), "entry 1 is the first");
        let entry = Entry::formation(members);
        self.append(entry);
    }

    /// After a formation step became durable: everyone is told, and the next step may follow.
    pub(super) fn after_persisted_formation(&mut self) {
        if !self.jobs.take_formation_news() {
            return;
        }
        let formed = self.is_formed();
        if formed && self.log.durable().index >= Index(1) {
            self.commit = self.commit.max(Index(1));
            if let Some(cluster) = self.hard.cluster {
                self.event(Event::Formed(cluster));
            }
        }
        let peers: Vec<ReplicaId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.send_hello(peer);
        }
        self.maybe_form();
    }

    /// A serving primary readmits a connected replica that has lost its promises: one at a time,
    /// and each only after an entry of its own term is committed. The replica must have heard of
    /// this very run: a hello left over from the life before is either of a retired incarnation
    /// or knows an earlier run.
    pub(super) fn maybe_readmit(&mut self) {
        let serving = self
            .leading
            .as_ref()
            .is_some_and(|l| l.serving && l.handing_over.is_none());
        if !serving || (self.membership.is_changing() && !Mutant::AdmitTwo.on()) {
            return;
        }
        let found = self.peers.iter().find_map(|(id, peer)| {
            let new = peer.incarnation?;
            let old = *self.membership.committed().get(id)?;
            let hello = peer.hello.as_ref().filter(|_| peer.link)?;
            let present = hello.knows_run == Some(self.run);
            let over = self.membership.is_retired(*id, new);
            (old != new && present && !over && !hello.damaged).then_some(ReplaceIncarnation {
                id: *id,
                old,
                new,
            })
        });
        if let Some(replace) = found {
            let payload = rmp_serde::to_vec(&replace).expect("numbers and bytes always encode");
            self.propose_entry(Kind::ReplaceIncarnation, &payload);
        }
    }
}
