//! When the next part of a scrub is read: never two at once, and with a rest between them.

use super::News;
use crate::replica::{ExtraDone, ScrubPart};
use crate::types::{Monotonic, ReplicaId};

/// Between two parts of a scrub, in microseconds.
const SCRUB_PAUSE_US: u64 = 20_000;
/// A state that changed too much while it was read is tried again after this long, then twice as long
/// each time, and never later than the next scrub would come.
const GIVEN_UP_PAUSE_US: u64 = 600_000_000;
/// What another replica says of the state sends this one to read it no more often than this.
const DOUBTED_PAUSE_US: u64 = 600_000_000;
/// The first scrub comes after so small a part of the interval, for few processes live for all of
/// it, ...
const FIRST_SCRUB: u64 = 10;
/// ... or twice or three times as late: not on all replicas at once.
const STAGGERED: u64 = 3;

/// When everything in the store is read again.
pub(super) struct Scrubbing {
    /// 0: never.
    interval_us: u64,
    first_us: u64,
    /// When the next one begins; unknown before the first look at the clock.
    due: Option<Monotonic>,
    /// One is under way.
    goes_on: bool,
    /// How often the state was given up since it was last read to its end.
    given_up: u32,
    /// When the next part is read.
    part_at: Monotonic,
    /// The state alone is read, for somebody doubts it.
    doubted: bool,
    /// When the next scrub was due before that.
    due_before: Option<Monotonic>,
    /// When that was last begun.
    doubted_at: Option<Monotonic>,
}

impl Scrubbing {
    pub(super) fn new(interval_us: u64, id: ReplicaId) -> Self {
        Self {
            interval_us,
            first_us: interval_us / FIRST_SCRUB * (1 + u64::from(id.0) % STAGGERED),
            due: None,
            goes_on: false,
            given_up: 0,
            part_at: Monotonic(0),
            doubted: false,
            due_before: None,
            doubted_at: None,
        }
    }

    /// Another replica says that the state is wrong: it is read at once. False: that was done not long
    /// ago, and the replica that doubts may be the one that is wrong.
    pub(super) fn doubt(&mut self, now: Monotonic) -> bool {
        let lately = |at| now.since(at) < DOUBTED_PAUSE_US;
        if self.doubted_at.is_some_and(lately) {
            return false;
        }
        self.doubted_at = Some(now);
        if !std::mem::replace(&mut self.doubted, true) {
            self.due_before = self.due;
        }
        (self.due, self.goes_on) = (Some(now), false);
        self.given_up = self.given_up.max(1);
        true
    }

    /// The next part, if it is time for one.
    pub(super) fn next(&mut self, now: Monotonic) -> Option<ScrubPart> {
        let never = self.interval_us == 0 && !self.doubted;
        if never || now < self.part_at {
            return None;
        }
        let due = now >= *self.due.get_or_insert(now.plus(self.first_us));
        if !self.goes_on && !due {
            return None;
        }
        self.part_at = now.plus(SCRUB_PAUSE_US);
        Some(
            match (std::mem::replace(&mut self.goes_on, true), self.given_up) {
                (true, _) => ScrubPart::GoOn,
                (false, 0) => ScrubPart::Begin,
                (false, _) => ScrubPart::BeginState,
            },
        )
    }

    /// What was held for it is gone: it begins anew.
    pub(super) fn dropped(&mut self) {
        self.goes_on = false;
    }

    /// The last part of a scrub was read.
    pub(super) fn on_done(&mut self, done: ExtraDone, now: Monotonic) -> Option<News> {
        match done {
            ExtraDone::Scrubbed(scrubbed) => {
                self.is_over(now);
                Some(News::Scrubbed(scrubbed))
            }
            ExtraDone::StateWrong(sentence) => {
                self.is_over(now);
                Some(News::StateWrong(sentence))
            }
            ExtraDone::ScrubGivenUp => {
                self.is_given_up(now);
                Some(News::ScrubGivenUp)
            }
            _ => None,
        }
    }

    /// It came to its end.
    fn is_over(&mut self, now: Monotonic) {
        (self.goes_on, self.given_up) = (false, 0);
        self.due = if std::mem::take(&mut self.doubted) {
            self.due_before
        } else {
            Some(now.plus(self.interval_us))
        };
    }

    /// The log was read to its end, and the state was not.
    fn is_given_up(&mut self, now: Monotonic) {
        let pause = GIVEN_UP_PAUSE_US << self.given_up.min(16);
        self.goes_on = false;
        self.given_up += 1;
        if self.doubted {
            self.due = Some(now.plus(pause));
            return;
        }
        if pause >= self.interval_us {
            self.given_up = 0;
        }
        self.due = Some(now.plus(pause.min(self.interval_us)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_goes_on_in_parts_begins_anew_when_it_is_void_and_comes_again() {
        let interval = 1_000_000;
        let first = interval / FIRST_SCRUB;
        let mut scrubbing = Scrubbing::new(interval, ReplicaId(3));
        let mut at = |now: u64| scrubbing.next(Monotonic(now));
        assert_eq!((at(0), at(first - 1)), (None, None));
        assert_eq!(at(first), Some(ScrubPart::Begin));
        assert_eq!(at(first), None, "others come between");
        assert_eq!(at(first + SCRUB_PAUSE_US), Some(ScrubPart::GoOn));
        scrubbing.dropped();
        let third = first + 2 * SCRUB_PAUSE_US;
        assert_eq!(scrubbing.next(Monotonic(third)), Some(ScrubPart::Begin));
        scrubbing.is_over(Monotonic(third));
        assert_eq!(scrubbing.next(Monotonic(third + interval - 1)), None);
        let again = scrubbing.next(Monotonic(third + interval));
        assert_eq!(again, Some(ScrubPart::Begin));
        let never = Scrubbing::new(0, ReplicaId(1)).next(Monotonic(u64::MAX));
        assert_eq!(never, None);
    }

    #[test]
    fn a_state_that_was_given_up_is_tried_again_alone_and_later_each_time() {
        let pause = GIVEN_UP_PAUSE_US;
        let mut scrubbing = Scrubbing::new(3 * pause, ReplicaId(1));
        let mut now = 0;
        for (wait, part) in [
            (pause, ScrubPart::BeginState),
            (2 * pause, ScrubPart::BeginState),
            (3 * pause, ScrubPart::Begin),
        ] {
            scrubbing.is_given_up(Monotonic(now));
            assert_eq!(scrubbing.next(Monotonic(now + wait - 1)), None);
            now += wait;
            assert_eq!(scrubbing.next(Monotonic(now)), Some(part));
        }
    }

    #[test]
    fn a_state_that_another_replica_doubts_is_read_at_once_but_not_again_and_again() {
        for interval in [0, 3 * DOUBTED_PAUSE_US] {
            let mut scrubbing = Scrubbing::new(interval, ReplicaId(3));
            assert_eq!(scrubbing.next(Monotonic(0)), None);
            assert!(scrubbing.doubt(Monotonic(5)));
            assert_eq!(scrubbing.next(Monotonic(5)), Some(ScrubPart::BeginState));
            assert!(!scrubbing.doubt(Monotonic(6)), "it is under way");
            scrubbing.is_over(Monotonic(9));
            let later = Monotonic(5 + DOUBTED_PAUSE_US);
            assert!(!scrubbing.doubt(Monotonic(later.0 - 1)));
            let due = interval > 0 && later.0 >= interval / FIRST_SCRUB;
            let next = scrubbing.next(later);
            assert_eq!(
                next,
                due.then_some(ScrubPart::Begin),
                "the log was not read"
            );
            assert!(scrubbing.doubt(later));
        }
    }

    #[test]
    fn replicas_do_not_begin_at_once() {
        let first = |id| Scrubbing::new(100, ReplicaId(id)).first_us;
        assert_eq!([1, 2, 3, 4, 5].map(first), [20, 30, 10, 20, 30]);
    }
}
