//! The client library: one handle for the whole cluster.
//!
//! A [`Cluster`] knows several replicas, prefers the primary, and goes to the next replica when
//! one does not answer. A [`Client`] is a login on it: every write carries a request id and is
//! retried under the same id until it has an outcome, so that it is applied exactly once however
//! many replicas die on the way. A [`Listener`] is an inbox that survives the same: it reconnects
//! after the last message that it has seen, drops what comes twice, and reports a gap, which the
//! servers promise never to leave.
//!
//! ```no_run
//! # async fn example() -> Result<(), chat::client::ClientError> {
//! use chat::client::{Client, Cluster, Event, NewAccount};
//! let cluster = Cluster::connect(["127.0.0.1:7400", "127.0.0.1:7401", "127.0.0.1:7402"])?;
//! let alice = Client::create_account(&cluster, NewAccount::named("alice", "a secret")).await?;
//! alice.send("alice", "a note to myself").await?;
//! let mut inbox = alice.listen(Default::default());
//! while let Some(event) = inbox.next().await {
//!     if let Event::Message(message) = event? {
//!         alice.ack(message.inbox_seq).await?;
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! # Two protocols
//!
//! [`Options::protocol`] chooses between gRPC and the wire protocol; everything else is the same.
//!
//! # Order
//!
//! Messages keep the order of their acknowledgements. To have two messages in order, await the
//! first before sending the second. To have throughput, clone the client and send concurrently;
//! what is in flight at once has no order among itself.
//!
//! # Never
//!
//! This module imports `crate::proto` and `crate::wire::codec` and nothing else of the crate: it is
//! what any other client could be. It never logs or prints a token, a password or a message.

mod api;
mod call;
mod cluster;
mod error;
mod listen;
mod mismatch;
mod operation;
mod session;
mod wire;

pub use crate::proto::chat::{Account, Message, Session as SessionInfo};
pub use api::{Client, NewAccount, Page, Receipt};
pub use cluster::{Cluster, Options, Protocol, Stats};
pub use error::{Class, ClientError};
pub use listen::{Event, Listen, Listener};
pub use session::{Session, SessionData};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod wire_tests;
