//! What a running replica counts, for `--metrics-addr`: numbers that only grow, and histograms.
//!
//! Whoever counts never waits. What is known anyway (indexes, roles, room) is not here but asked for
//! when somebody looks: see `crate::exporter`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Since the process began.
    pub fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Most bounds of a histogram.
const BOUNDS_MAX: usize = 16;

/// How often a value lay at or below each of some bounds.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// By bound; what is above the last one is in the last place.
    buckets: [AtomicU64; BOUNDS_MAX + 1],
    sum: AtomicU64,
}

impl Histogram {
    /// An empty one. The bounds ascend.
    pub const fn new(bounds: &'static [u64]) -> Self {
        assert!(bounds.len() <= BOUNDS_MAX);
        Self {
            bounds,
            buckets: [const { AtomicU64::new(0) }; BOUNDS_MAX + 1],
            sum: AtomicU64::new(0),
        }
    }

    /// One more value.
    pub fn record(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// (bound, values at or below it) for each bound, then how many values there are in all, and
    /// their sum. Taken while others count: consistent enough for a graph.
    pub fn read(&self) -> (Vec<(u64, u64)>, u64, u64) {
        let mut below = 0;
        let mut cumulative = Vec::with_capacity(self.bounds.len());
        for (bound, bucket) in self.bounds.iter().zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            cumulative.push((*bound, below));
        }
        let above = self.buckets[self.bounds.len()].load(Ordering::Relaxed);
        (cumulative, below + above, self.sum.load(Ordering::Relaxed))
    }
}

/// Bounds of times, in microseconds.
pub const TIME_US: &[u64] = &[
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 5_000_000,
];
/// Bounds of counts.
const COUNTS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024];
/// Bounds of sizes, in bytes.
const BYTES: &[u64] = &[
    256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304,
];

/// Everything that one replica counts.
#[derive(Debug)]
pub struct Metrics {
    /// Open connections of gRPC clients.
    pub grpc_connections: Arc<AtomicUsize>,
    /// Open connections of wire clients.
    pub wire_connections: Arc<AtomicUsize>,
    /// Entries applied.
    pub entries: Counter,
    /// Messages that came into an inbox.
    pub messages: Counter,
    /// Clients' writes by their outcome: see [`WRITE_OUTCOMES`].
    pub writes: [Counter; WRITE_OUTCOMES.len()],
    /// Clients' reads that were answered.
    pub reads: Counter,
    /// Clients' reads without an answer in time, or refused.
    pub reads_failed: Counter,
    /// Entries that went to the disk as one batch.
    pub batch_entries: Histogram,
    /// Their bytes.
    pub batch_bytes: Histogram,
    /// Ballots of this replica's own.
    pub elections: Counter,
    /// Elections that it won.
    pub elections_won: Counter,
    /// Ends of its primary role.
    pub step_downs: Counter,
    /// Copies adopted at a boot.
    pub adoptions: Counter,
    /// Damage found in a running replica.
    pub damages: Counter,
    /// Scrubs that came to their end and found nothing.
    pub scrubs: Counter,
    /// Scrubs whose state changed too much meanwhile.
    pub scrubs_given_up: Counter,
    /// Entries of the log that they have read.
    pub scrubbed_entries: Counter,
    /// Times that its state contradicted a majority, and was rebuilt.
    pub quarantines: Counter,
    /// Repairs that came to their end.
    pub repairs: Counter,
    /// Readmissions of any replica, as this one's log says.
    pub readmissions: Counter,
    /// Times that the disk turned out to be an old copy.
    pub lost_memories: Counter,
    /// Snapshots sent to the last row.
    pub snapshots_sent: Counter,
    /// Snapshots installed.
    pub snapshots_received: Counter,
    /// Snapshots refused, or given up.
    pub snapshots_refused: Counter,
}

/// How a client's write can end, in the order of [`Metrics::writes`].
pub const WRITE_OUTCOMES: [&str; 6] = [
    "ok",
    "not_applied",
    "outcome_unknown",
    "overloaded",
    "shutting_down",
    "disk_full",
];

impl Default for Metrics {
    fn default() -> Self {
        Self {
            grpc_connections: Arc::default(),
            wire_connections: Arc::default(),
            entries: Counter::default(),
            messages: Counter::default(),
            writes: Default::default(),
            reads: Counter::default(),
            reads_failed: Counter::default(),
            batch_entries: Histogram::new(COUNTS),
            batch_bytes: Histogram::new(BYTES),
            elections: Counter::default(),
            elections_won: Counter::default(),
            step_downs: Counter::default(),
            adoptions: Counter::default(),
            damages: Counter::default(),
            scrubs: Counter::default(),
            scrubs_given_up: Counter::default(),
            scrubbed_entries: Counter::default(),
            quarantines: Counter::default(),
            repairs: Counter::default(),
            readmissions: Counter::default(),
            lost_memories: Counter::default(),
            snapshots_sent: Counter::default(),
            snapshots_received: Counter::default(),
            snapshots_refused: Counter::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_lies_at_or_below_each_bound() {
        let histogram = Histogram::new(&[10, 20]);
        for value in [0, 10, 11, 20, 21, 1_000] {
            histogram.record(value);
        }
        assert_eq!(histogram.read(), (vec![(10, 2), (20, 4)], 6, 1_062));
    }
}
