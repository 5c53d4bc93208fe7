//! Commands in, replies and changes out: what the cluster agrees on.
//!
//! PURE and deterministic: the same entries give the same replies, records and digest on every
//! replica. A refusal is a value in the reply, never an error. It reads records through
//! [`crate::storage::StateReader`], keeps what it has changed in an overlay, and hands the overlay
//! out in checkpoint slices.

mod command;
pub use command::{
    AccountInfo, Answer, Auth, Command, Credentials, Cursor, InboxMessage, NewToken, Notice,
    Operation, PasswordHash, Query, Refusal, Reply, SessionInfo,
};
mod machine;
pub use machine::{Applied, StateMachine};
