//! What a node is configured with.

use crate::types::{Level, ReplicaId};

/// Ids and timings.
#[derive(Clone, Debug)]
pub struct Config {
    /// This replica.
    pub id: ReplicaId,
    /// Every configured replica, this one included, sorted.
    pub ids: Vec<ReplicaId>,
    /// Microseconds between refreshes.
    pub refresh_interval_us: u64,
    /// A primary unseen for this many refreshes is missed.
    pub election_iters: u32,
    /// The collection window is eight of these, in microseconds.
    pub election_check_interval_us: u64,
    /// How long a booting replica waits for the others, in microseconds.
    pub initialize_wait_us: u64,
    /// While batches follow each other closely, a commit index waits for so many microseconds for
    /// entries that carry it.
    pub notice_wait_us: u64,
    /// Version and build, told to peers.
    pub build: String,
    /// The highest level that this build knows: [`crate::types::LEVEL`] outside of tests.
    pub level: Level,
}

impl Config {
    /// Microseconds after which an unseen primary is missed, and an unheard majority is lost.
    pub fn election_timeout_us(&self) -> u64 {
        self.refresh_interval_us * u64::from(self.election_iters)
    }
    /// Microseconds in which ballots are collected.
    pub fn window_us(&self) -> u64 {
        self.election_check_interval_us * 8
    }
    /// Microseconds after the window in which a primary must appear.
    pub fn grant_timeout_us(&self) -> u64 {
        self.window_us()
    }
}
