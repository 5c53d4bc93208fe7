//! The consensus core. (Essay to come with the implementation.)
//!
//! PURE: no I/O, no clock, no randomness but its seed, no tokio, no sled.

mod adoption;
mod election;
mod formation;
mod jobs;
mod log;
mod membership;
mod message;
mod mutants;
mod node;
mod primary;
mod progress;
mod reads;
mod ready;
mod replication;
mod rng;

pub use message::{Append, AppendReply, Ballot, Body, FormationStatus, Hello, Message, Refresh};
pub use mutants::Mutant;
pub use node::{Config, Node, NotPrimary, Status};
pub use ready::{Event, Fetch, HardState, Job, JobId, Now, ReadId, Ready, Role, Start};

#[cfg(test)]
mod tests;
