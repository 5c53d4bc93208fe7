//! Reads in a [`Replica`]: answered from what is applied, or given to another replica while this
//! one's own state must not be shown.

use super::Replica;
use crate::consensus::{Mutant, Role};
use crate::limits::DELIVER_BATCH_MAX;
use crate::replica::reads::{Asker, Read};
use crate::replica::{Consistency, PeerMessage, ReadError};
use crate::state_machine::{Answer, Query};
use crate::storage::{StateReader, StorageError};
use crate::types::{ReplicaId, RunNonce};

impl<R: StateReader> Replica<R> {
    pub(super) fn on_read(
        &mut self,
        asker: Asker,
        query: Query,
        consistency: Consistency,
    ) -> Result<(), StorageError> {
        if !self.may_serve() {
            self.relay(asker, query);
            return Ok(());
        }
        if consistency == Consistency::Stale {
            let answer = self.query(&query)?;
            self.answer(asker, answer);
            return Ok(());
        }
        let on_arrival = if Mutant::TokenOnArrival.on() {
            self.query(&query)?.ok()
        } else {
            None
        };
        let now = self.now;
        if let Some(id) = self.reads.accept(asker, query, on_arrival, now.mono) {
            self.node.read_index(now, id);
        } else {
            self.answer(asker, Err(ReadError::Overloaded));
        }
        Ok(())
    }

    pub(super) fn serve_reads(&mut self) -> Result<(), StorageError> {
        let applied = self.machine.applied();
        while self.may_serve()
            && let Some(read) = self.reads.next_due(applied)
        {
            let Read {
                asker,
                query,
                on_arrival,
                ..
            } = read;
            let answer = match on_arrival {
                Some(answer) => Ok(answer),
                None => self.query(&query)?,
            };
            self.answer(asker, answer);
        }
        Ok(())
    }

    /// From what is applied; a record that is wrong makes the whole state doubtful.
    fn query(&mut self, query: &Query) -> Result<Result<Answer, ReadError>, StorageError> {
        let answer = self.machine.query(&self.reader, query);
        Ok(self.sound(answer)?.ok_or(ReadError::Unavailable))
    }

    pub(super) fn answer(&mut self, asker: Asker, answer: Result<Answer, ReadError>) {
        match asker {
            Asker::Client(ticket) => self.output.answered.push((ticket, answer)),
            Asker::Peer { from, run, nonce } => {
                self.output.messages.push(PeerMessage::ForwardReadReply {
                    from: self.config.node.id,
                    to: from,
                    run,
                    nonce,
                    answer,
                });
            }
        }
    }

    pub(super) fn answer_unavailable(&mut self, askers: impl IntoIterator<Item = Asker>) {
        for asker in askers {
            self.answer(asker, Err(ReadError::Unavailable));
        }
    }

    /// The primary answers in this replica's place. Only for its own clients, and not for what is
    /// answered together with the names that are kept here.
    fn relay(&mut self, asker: Asker, query: Query) {
        let known = self.is_doubted() || self.role == Role::Repairing;
        let linked = |to: &ReplicaId| self.linked.contains(to);
        let primary = self.primary.filter(|to| known && linked(to));
        let (Asker::Client(ticket), Some(to)) = (asker, primary) else {
            return self.answer_unavailable([asker]);
        };
        if matches!(query, Query::Check { .. }) {
            return self.answer_unavailable([asker]);
        }
        let Some(nonce) = self.relays.give(ticket, to, self.now.mono) else {
            return self.answer(asker, Err(ReadError::Overloaded));
        };
        self.output.messages.push(PeerMessage::ForwardRead {
            from: self.config.node.id,
            to,
            run: self.run,
            nonce,
            query,
        });
    }

    /// Another replica must not answer this from its own state.
    pub(super) fn on_forward_read(
        &mut self,
        (from, run, nonce): (ReplicaId, RunNonce, u64),
        mut query: Query,
    ) -> Result<(), StorageError> {
        if let Query::Inbox { limit, .. } = &mut query {
            *limit = (*limit).min(DELIVER_BATCH_MAX);
        }
        let asker = Asker::Peer { from, run, nonce };
        self.on_read(asker, query, Consistency::Linearizable)
    }

    pub(super) fn on_forward_read_reply(
        &mut self,
        (from, run, nonce): (ReplicaId, RunNonce, u64),
        answer: Result<Answer, ReadError>,
    ) {
        // An answer to an earlier run of this replica is nobody's.
        if run != self.run {
            return;
        }
        if let Some(ticket) = self.relays.take(from, nonce) {
            self.output.answered.push((ticket, answer));
        }
    }

    pub(super) fn give_up_late_reads(&mut self) {
        let now = self.now.mono;
        let late = self.reads.late(now);
        self.answer_unavailable(late);
        let primary = self.primary;
        let late = self.relays.given_up(now, |to| Some(to) == primary);
        self.answer_unavailable(late.into_iter().map(Asker::Client));
    }
}
