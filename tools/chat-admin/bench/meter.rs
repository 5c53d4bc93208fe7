//! What the lanes tell, gathered: latencies, and how they went over time.

use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

/// A point of the timeline covers so much time.
pub const SLOT: Duration = Duration::from_millis(100);
/// Latencies above are counted as this; in microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;

/// Where a run is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Load, but nothing counts.
    WarmUp,
    /// Everything counts.
    Measuring,
    /// Load, and nothing counts any more; lanes are ended from outside.
    Over,
}

/// One tenth of a second.
#[derive(Clone, Copy, Default)]
pub struct Slot {
    /// Acknowledgements.
    pub count: u64,
    /// Longest latency in microseconds.
    pub worst_us: u64,
}

/// Shared by the lanes of one thread.
pub struct Meter {
    phase: Cell<Phase>,
    began: Cell<Instant>,
    histogram: RefCell<Histogram<u64>>,
    slots: RefCell<Vec<Slot>>,
    refused: RefCell<Vec<(String, u64)>>,
}

impl Meter {
    /// Warming up.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3);
        Self {
            phase: Cell::new(Phase::WarmUp),
            began: Cell::new(Instant::now()),
            histogram: RefCell::new(histogram.expect("constant bounds that the crate allows")),
            slots: RefCell::default(),
            refused: RefCell::default(),
        }
    }

    /// Goes on to another phase.
    pub fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        if phase == Phase::Measuring {
            self.began.set(Instant::now());
        }
    }

    /// A message that was sent at `sent` has been acknowledged.
    pub fn acknowledged(&self, sent: Instant) {
        if self.phase.get() != Phase::Measuring {
            return;
        }
        let now = Instant::now();
        let latency = (now - sent).as_micros() as u64;
        self.histogram
            .borrow_mut()
            .saturating_record(latency.max(1));
        let at = ((now - self.began.get()).as_micros() / SLOT.as_micros()) as usize;
        let mut slots = self.slots.borrow_mut();
        if slots.len() <= at {
            slots.resize(at + 1, Slot::default());
        }
        slots[at].count += 1;
        slots[at].worst_us = slots[at].worst_us.max(latency);
    }

    /// A message was refused, with this word.
    pub fn refused(&self, reason: &str) {
        if self.phase.get() != Phase::Measuring {
            return;
        }
        let mut refused = self.refused.borrow_mut();
        match refused.iter_mut().find(|(known, _)| known == reason) {
            Some((_, count)) => *count += 1,
            None => refused.push((reason.to_owned(), 1)),
        }
    }

    /// Acknowledged so far.
    pub fn count(&self) -> u64 {
        self.histogram.borrow().len()
    }

    /// Latencies in microseconds.
    pub fn histogram(&self) -> Histogram<u64> {
        self.histogram.borrow().clone()
    }

    /// The timeline.
    pub fn slots(&self) -> Vec<Slot> {
        self.slots.borrow().clone()
    }

    /// Refusals by word.
    pub fn refusals(&self) -> Vec<(String, u64)> {
        self.refused.borrow().clone()
    }
}
