//! Both clocks of a replica. The wall clock is read here and nowhere else.

use crate::consensus::Now;
use crate::types::{Monotonic, WallTime};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

/// A wall clock that a test turns or stops while the replica runs.
///
/// Its two numbers are not one: who reads while it is turned may see one of each, a clock that is
/// wrong for a moment in another way.
#[derive(Debug, Default)]
pub struct Turned {
    /// It is wrong by this.
    offset_us: AtomicI64,
    /// It stands here; 0: it runs.
    stands_at_us: AtomicU64,
}

impl Turned {
    /// From now on it is wrong by `offset_us`, and stands or runs.
    pub fn turn(&self, offset_us: i64, stands: bool) {
        let stands_at_us = if stands { wall_us(offset_us) } else { 0 };
        self.offset_us.store(offset_us, Ordering::Relaxed);
        self.stands_at_us.store(stands_at_us, Ordering::Relaxed);
    }

    fn now_us(&self) -> u64 {
        match self.stands_at_us.load(Ordering::Relaxed) {
            0 => wall_us(self.offset_us.load(Ordering::Relaxed)),
            stands_at_us => stands_at_us,
        }
    }
}

/// What the machine's clock shows, and so much more.
fn wall_us(offset_us: i64) -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 is as wrong as one at 1970; the core raises the alarm.
    since
        .map_or(0, |since| since.as_micros() as u64)
        .saturating_add_signed(offset_us)
}

/// Both clocks.
#[derive(Clone)]
pub(super) struct Clock {
    started: Instant,
    /// In tests only.
    turned: Option<Arc<Turned>>,
}

impl Clock {
    pub(super) fn start(turned: Option<Arc<Turned>>) -> Self {
        Self {
            started: Instant::now(),
            turned,
        }
    }

    pub(super) fn now(&self) -> Now {
        let wall_us = match &self.turned {
            None => wall_us(0),
            Some(turned) => turned.now_us(),
        };
        Now {
            mono: Monotonic(self.started.elapsed().as_micros() as u64),
            wall: WallTime(wall_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: u64 = 3_600_000_000;

    #[test]
    fn a_clock_is_turned_stopped_and_set_right() {
        let turned = Arc::new(Turned::default());
        let clock = Clock::start(Some(Arc::clone(&turned)));
        let right = Clock::start(None);
        let (first, mono) = (right.now().wall, clock.now().mono);
        turned.turn(HOUR_US as i64, false);
        assert!(clock.now().wall.0 >= first.0 + HOUR_US);
        turned.turn(-(HOUR_US as i64), true);
        let stands = clock.now().wall;
        assert!(stands.0 < first.0);
        // The machine's clock, which a person may set back, is not asked to prove that it goes on.
        while clock.now().mono == mono {}
        assert_eq!(clock.now().wall, stands);
        turned.turn(0, false);
        assert!(clock.now().wall >= first);
    }
}
