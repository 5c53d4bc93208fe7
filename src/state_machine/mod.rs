//! Commands in, replies and changes out: what the cluster agrees on.
//!
//! PURE and deterministic: the same entries give the same replies, records and digest on every
//! replica. A refusal is a value in the reply, never an error: an error means that this replica's
//! disk failed or that an entry is beyond this build, and stops it. It reads records through
//! [`crate::storage::StateReader`], keeps what it has changed in an overlay, and hands the overlay
//! out in checkpoint slices.
//!
//! It must never look at a clock, draw a random number or depend on when a slice is written: ids
//! are log indexes, times are the entries', secrets come in as hashes.
//!
//! ```text
//! machine       apply: entry -> command -> run -> reply, notices     query, slices
//!    users  tokens  inboxes  retention  idempotency      what commands do
//!    transaction                              one entry's writes, and the sums of the digest
//!    overlay  cache                           what the store does not have yet, and what it has
//!    records  packed  block  digest           bytes and hashes
//! ```
//!
//! The records, the digest and the rules are in `docs/state_machine.md`.

mod blob;
mod block;
mod cache;
mod command;
mod digest;
mod idempotency;
mod inboxes;
mod machine;
#[cfg(any(test, feature = "mutants"))]
mod misapply;
mod names;
mod overlay;
mod packed;
mod query;
mod records;
mod retention;
mod scan;
mod sound;
#[cfg(test)]
mod tests;
mod tokens;
mod transaction;
mod users;

pub use command::{
    AccountInfo, Answer, Auth, Command, Credentials, Cursor, InboxMessage, NewToken, Notice,
    Operation, PasswordHash, Query, Refusal, Reply, SessionInfo,
};
pub use machine::{Applied, StateMachine, check_level_of};
pub use names::validate_name;
