//! The codec of the wire protocol: frames to typed requests and replies, and back.
//!
//! `docs/wire_protocol.md` is the reference. PURE: no I/O, no clock, no executor and no type of
//! the service; the same code runs in the server, in the client library and under the fuzzers. It
//! never panics and never allocates more than a small multiple of what it is given.
//!
//! From the outside in: [`Lines`] cuts a stream of bytes into frames; [`Frame`] checks UTF-8,
//! canary and head of one of them; [`Request`] and [`Reply`] are what is in it. A frame is written
//! with [`Request::encode`] and [`Reply::encode`].
//!
//! # How it may grow
//!
//! - Version 1 never changes.
//! - In version 2 a request or a reply only ever gains fields at its end, and an item of a list at
//!   the end of the item. A server reads missing fields as empty; a client ignores those that it
//!   does not know. So neither breaks the other, whichever is older.

mod error;
mod field;
mod frame;
pub mod fuzzing;
mod lines;
mod message;
#[cfg(test)]
mod tests;
pub mod v1;
pub mod v2;

pub use error::{Broken, FrameError};
pub use field::{Body, Private, RequestId};
pub use frame::{Frame, canary};
pub use lines::{Cut, Lines};
pub use message::{Reply, Request};

/// The versions that this codec speaks, ascending.
pub const VERSIONS: [u16; 2] = [1, 2];

/// Separates version 1's messages in a batch. A body that has it is refused, so that nobody can
/// forge the sender of a message.
pub const SEPARATOR: char = '\u{1e}';
