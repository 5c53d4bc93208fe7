//! Messages between replicas: our types to protobuf and back.
//!
//! The way back is strict: a peer's bytes are parsed into types here or refused here. Lengths of
//! hashes, ranges of ids, counts, the order of lists, entry bytes and their chain are checked, so
//! that nothing further in has to. It never panics on what it is given.

mod incoming;
mod outgoing;
#[cfg(test)]
mod tests;

pub use incoming::{Received, from_envelope};
pub use outgoing::to_envelope;

use crate::types::entry::EntryError;
use crate::types::refusals::RefusalKind;
use crate::types::{ClusterId, Incarnation, ReplicaId, RunNonce};

/// What a link puts on messages that do not carry it themselves (forwards and their replies).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The sender's cluster.
    pub cluster: Option<ClusterId>,
    /// The sender's incarnation.
    pub from_incarnation: Incarnation,
    /// The receiver's, as the sender knows it.
    pub to_incarnation: Option<Incarnation>,
    /// The sender's process run.
    pub run: RunNonce,
}

/// Who may speak to whom on a connection.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The replica at the other end.
    pub from: ReplicaId,
    /// This replica.
    pub to: ReplicaId,
}

/// Why a message was refused.
#[derive(Debug, thiserror::Error)]
pub enum BadMessage {
    /// A part that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A hash, id or incarnation of the wrong length.
    #[error("{what} has {bytes} bytes")]
    Length {
        /// The field.
        what: &'static str,
        /// Bytes found.
        bytes: usize,
    },
    /// A number out of its range, or a list that is too long or out of order.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// From or to another replica than those at the ends of this connection.
    #[error("it is from replica {from} to replica {to}: check --peers of both")]
    Misdirected {
        /// Claimed sender.
        from: u32,
        /// Claimed receiver.
        to: u32,
    },
    /// An entry does not parse.
    #[error("an entry does not parse")]
    Entry(#[from] EntryError),
    /// Entries that do not follow one another.
    #[error("entry {0} does not follow the one before it")]
    Chain(crate::types::Index),
    /// A command or outcome does not decode.
    #[error("{what} does not decode")]
    Decode {
        /// The field.
        what: &'static str,
        /// Why.
        #[source]
        source: rmp_serde::decode::Error,
    },
}

impl BadMessage {
    /// What sort of refusal this is.
    pub fn kind(&self) -> RefusalKind {
        match self {
            Self::Misdirected { .. } => RefusalKind::Misdirected,
            _ => RefusalKind::Malformed,
        }
    }
}
