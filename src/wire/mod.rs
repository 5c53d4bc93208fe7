//! The wire protocol: the text front, for `nc`, scripts, gateways and load generators.
//!
//! `docs/wire_protocol.md` is the reference. [`codec`] reads and writes frames and knows nothing
//! else; [`serve`] accepts connections; a session a connection turns frames into requests, works
//! on many of them at once and answers in their order; what a request means is [`crate::service`]'s
//! business.
//!
//! Never here: a decision of the service or the cluster, a password or token in a log line, a
//! buffer without a limit, a task per request.

pub mod codec;
mod convert;
#[cfg(test)]
mod document_tests;
mod execute;
#[cfg(test)]
mod first_version_tests;
mod listener;
mod refresh;
mod session;
#[cfg(test)]
mod tests;

pub use listener::{Options, serve};
