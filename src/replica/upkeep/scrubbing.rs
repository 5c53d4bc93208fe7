//! When the next part of a scrub is read: never two at once, and with a rest between them.

use crate::types::Monotonic;

/// Between two parts of a scrub, in microseconds.
const SCRUB_PAUSE_US: u64 = 20_000;
/// A scrub that was given up, because the state changed too much meanwhile, begins again after this
/// long, or after its interval if that is shorter.
const SCRUB_FAILED_PAUSE_US: u64 = 600_000_000;
/// The first scrub comes after so small a part of the interval: few processes live for all of it.
const FIRST_SCRUB: u64 = 10;

/// When everything in the store is read again.
pub(super) struct Scrubbing {
    /// 0: never.
    interval_us: u64,
    /// When the next one begins; unknown before the first look at the clock.
    due: Option<Monotonic>,
    /// One is under way.
    goes_on: bool,
    /// When its next part is read.
    part_at: Monotonic,
}

impl Scrubbing {
    pub(super) fn new(interval_us: u64) -> Self {
        Self {
            interval_us,
            due: None,
            goes_on: false,
            part_at: Monotonic(0),
        }
    }

    /// The next part; true: of a new one.
    pub(super) fn next(&mut self, now: Monotonic) -> Option<bool> {
        if self.interval_us == 0 || now < self.part_at {
            return None;
        }
        let first = now.plus(self.interval_us / FIRST_SCRUB);
        let due = now >= *self.due.get_or_insert(first);
        let begin = !self.goes_on;
        if begin && !due {
            return None;
        }
        self.goes_on = true;
        self.part_at = now.plus(SCRUB_PAUSE_US);
        Some(begin)
    }

    /// What was held for it is gone: it begins anew.
    pub(super) fn dropped(&mut self) {
        self.goes_on = false;
    }

    pub(super) fn is_over(&mut self, sound: bool, now: Monotonic) {
        self.goes_on = false;
        let pause = if sound {
            self.interval_us
        } else {
            self.interval_us.min(SCRUB_FAILED_PAUSE_US)
        };
        self.due = Some(now.plus(pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_goes_on_in_parts_begins_anew_when_it_is_void_and_comes_again() {
        let interval = 1_000_000;
        let first = interval / FIRST_SCRUB;
        let mut scrubbing = Scrubbing::new(interval);
        let mut at = |now: u64| scrubbing.next(Monotonic(now));
        assert_eq!((at(0), at(first - 1)), (None, None));
        assert_eq!(
            (at(first), at(first)),
            (Some(true), None),
            "others come between"
        );
        assert_eq!(at(first + SCRUB_PAUSE_US), Some(false));
        scrubbing.dropped();
        let third = first + 2 * SCRUB_PAUSE_US;
        assert_eq!(scrubbing.next(Monotonic(third)), Some(true));
        scrubbing.is_over(true, Monotonic(third));
        assert_eq!(scrubbing.next(Monotonic(third + interval - 1)), None);
        assert_eq!(scrubbing.next(Monotonic(third + interval)), Some(true));
        assert_eq!(Scrubbing::new(0).next(Monotonic(u64::MAX)), None);
    }

    #[test]
    fn one_that_was_given_up_comes_sooner() {
        let mut scrubbing = Scrubbing::new(100 * SCRUB_FAILED_PAUSE_US);
        scrubbing.is_over(false, Monotonic(5));
        assert_eq!(scrubbing.next(Monotonic(4 + SCRUB_FAILED_PAUSE_US)), None);
        assert_eq!(
            scrubbing.next(Monotonic(5 + SCRUB_FAILED_PAUSE_US)),
            Some(true)
        );
    }
}
