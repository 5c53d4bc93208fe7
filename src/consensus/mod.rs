//! The consensus core. (Essay to come with the implementation.)
//!
//! PURE: no I/O, no clock, no randomness but its seed, no tokio, no sled.

mod message;
mod mutants;
mod node;
mod ready;

pub use message::{Append, AppendReply, Ballot, Body, FormationStatus, Hello, Message, Refresh};
pub use mutants::Mutant;
pub use node::{Config, Node, NotPrimary, Status};
pub use ready::{Event, Fetch, HardState, Job, JobId, Now, ReadId, Ready, Role, Start};
