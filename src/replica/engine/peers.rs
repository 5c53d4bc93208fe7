//! What other replicas send to a [`Replica`].

use super::Replica;
use crate::replica::{PeerMessage, WriteError, Written};
use crate::state_machine::Command;
use crate::storage::{StateReader, StorageError};
use crate::types::refusals::RefusalKind;
use crate::types::{Index, ReplicaId, RunNonce};

impl<R: StateReader> Replica<R> {
    pub(super) fn on_peer(&mut self, message: PeerMessage) -> Result<(), StorageError> {
        if message.to() != self.config.node.id {
            return Ok(());
        }
        match message {
            PeerMessage::Consensus(message) => self.node.step(self.now, message),
            PeerMessage::Forward {
                from,
                run,
                nonce,
                command,
                ..
            } => self.on_forward((from, run, nonce), command),
            PeerMessage::ForwardReply {
                from,
                run,
                nonce,
                outcome,
                ..
            } => self.on_forward_reply((from, run, nonce), outcome),
            PeerMessage::ForwardRead {
                from,
                run,
                nonce,
                query,
                ..
            } => self.on_forward_read((from, run, nonce), query)?,
            PeerMessage::ForwardReadReply {
                from,
                run,
                nonce,
                answer,
                ..
            } => self.on_forward_read_reply((from, run, nonce), answer),
        }
        Ok(())
    }

    fn on_forward(&mut self, origin: (ReplicaId, RunNonce, u64), command: Command) {
        let (from, run, _) = origin;
        if !self.node.knows_run(from, run) {
            let reason = "a write of another process run than the one that said hello";
            self.refuse(from, RefusalKind::OtherRun, reason);
            return;
        }
        let open = if self.stopping.is_some() {
            Err(WriteError::ShuttingDown)
        } else if self.primary == Some(self.config.node.id) {
            Ok(())
        } else {
            Err(WriteError::NotApplied)
        };
        let now = self.now.mono;
        if !self.writes.accept_forward(origin, command, open, now) {
            self.refuse(from, RefusalKind::Replay, "a write that was taken before");
        }
    }

    fn on_forward_reply(
        &mut self,
        (from, run, nonce): (ReplicaId, RunNonce, u64),
        outcome: Result<Written, WriteError>,
    ) {
        // An answer to an earlier run of this replica is nobody's.
        if run != self.run {
            let reason = "it answers a write of another run of this replica";
            self.refuse(from, RefusalKind::OtherRun, reason);
            return;
        }
        // Reads after it are answered by others while this state must not be shown.
        let applied = if self.is_doubted() {
            Index(u64::MAX)
        } else {
            self.machine.applied()
        };
        let (writes, now) = (&mut self.writes, self.now.mono);
        if !writes.on_forward_reply(from, nonce, outcome, applied, now) {
            let reason = "it answers a write that does not wait for it";
            self.refuse(from, RefusalKind::Replay, reason);
        }
    }

    pub(super) fn refuse(&mut self, peer: ReplicaId, kind: RefusalKind, reason: &str) {
        self.node.on_refused(self.now, peer, kind, reason);
    }
}
