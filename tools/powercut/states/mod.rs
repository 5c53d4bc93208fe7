//! Every state that a crash may leave on the disk, tried on the real store: in the manner of ALICE
//! (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014) and of dm-log-writes.
//!
//! A process works through a script (`script`) on a real data directory: batches, commit records,
//! slices with one hot recipient, syncs, truncations, promises, rewritings into the next store and
//! their installation, closes, kills, and a repair. A preloaded library (`recorder.c`) writes down
//! each write, truncation, creation, rename, removal and sync below that directory, and how far the
//! process said it was (`trace`). Then the record is played (`platter`): at each point of it the disk
//! is built as a crash may have left it, and opened twice (`judge`).
//!
//! # The model
//!
//! - A file's content is durable up to its last fsync or fdatasync. Of the writes since then any
//!   subset is (`cases`: all subsets if there are at most 2^8, samples beyond), and of a kept one perhaps
//!   some sectors only. A sector (512 bytes) is whole, and holds what the page cache held: also what
//!   was written to it before.
//! - Names (creations, renames, removals) are durable up to the last fsync of their directory; of
//!   the later ones in that directory a first part is. The sync of a file does nothing for its name.
//!   Directories do not wait for each other, nor names for contents. ext4 and xfs keep more order than
//!   that: what they leave is among what is tried.
//! - A truncation is durable before what is written beyond its end. A torn write may have made the
//!   file as long as the whole one would have; the missing sectors are zeros.
//! - A kill without a loss of power leaves everything that was written.
//!
//! # What is asked
//!
//! The store holds exactly what it held after some step between the last sync that was reported and
//! the last step begun (of a batch without a transaction perhaps the first entries): entries, commit
//! records, all rows. The promises are the last durable ones or later ones. No damage, no refusal, no
//! panic, no hang. A second open finds the same.

mod cases;
mod child;
mod content;
mod judge;
mod lies;
mod platter;
mod recording;
mod run;
mod script;
mod trace;

pub use child::{judge, live};
pub use run::{Arguments, explore};
