//! Wall clocks: which of them is wrong, and where a term's time begins.
//!
//! Nothing that consensus promises depends on a wall clock. Times of messages and the expiry of
//! tokens do, and so the clocks of all replicas are compared: a wrong one is told by the others,
//! not by its own word.

use super::{Event, Mutant, Node, Now};
use crate::types::{Monotonic, ReplicaId, WallTime};
use std::collections::BTreeMap;

/// A clock this far from the median of all raises an alarm, in microseconds.
const SKEW_US_MAX: i64 = 60_000_000;
/// The alarm about a clock is told this often, in microseconds.
const TOLD_EVERY_US: u64 = 60_000_000;

/// The lower median: with an even number the lower one of the two in the middle, so that one wrong
/// clock of two, or of three, is never it if it is ahead.
pub(super) fn lower_median<T: Ord + Copy>(values: impl IntoIterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort_unstable();
    let middle = values.len().checked_sub(1)? / 2;
    values.get(middle).copied()
}

/// Where the time of a new term begins: the lower median of the clocks of those who granted it, or
/// the last entry's time if that is later.
pub(super) fn base_time(
    grants: impl IntoIterator<Item = WallTime>,
    last: WallTime,
    now: Now,
) -> WallTime {
    let median = if Mutant::OwnClock.on() {
        None
    } else {
        lower_median(grants)
    };
    median.unwrap_or(now.wall).max(last)
}

/// What is known of the wall clocks.
///
/// A clock is kept as its distance from this process's monotonic clock, which does not change while
/// it runs true: what was last heard of a replica that is away goes on counting, and a jump of the
/// own wall clock does not move those of the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Clocks {
    heard: BTreeMap<ReplicaId, i64>,
    told: BTreeMap<ReplicaId, Monotonic>,
    /// Those that are wrong, and by how much they are ahead of the median.
    wrong: BTreeMap<ReplicaId, i64>,
}

fn distance(wall: WallTime, mono: Monotonic) -> i64 {
    let signed = |us: u64| i64::try_from(us).unwrap_or(i64::MAX);
    signed(wall.0).saturating_sub(signed(mono.0))
}

impl Clocks {
    /// A replica has said what its wall clock shows.
    pub(super) fn hear(&mut self, id: ReplicaId, wall: WallTime, now: Now) {
        self.heard.insert(id, distance(wall, now.mono));
    }

    /// Another process runs there: its clock may have been set.
    pub(super) fn forget(&mut self, id: ReplicaId) {
        self.heard.remove(&id);
    }

    /// How far this replica's clock is ahead of the median, if it is wrong.
    pub(super) fn wrong(&self, id: ReplicaId) -> Option<i64> {
        self.wrong.get(&id).copied()
    }

    /// Compares all clocks; returns the alarms to tell. Alone there is nothing to compare with.
    fn judge(&mut self, me: ReplicaId, now: Now) -> Vec<(ReplicaId, i64)> {
        let own = (me, distance(now.wall, now.mono));
        let others = self.heard.iter().map(|(id, distance)| (*id, *distance));
        let all: Vec<(ReplicaId, i64)> = others.chain([own]).collect();
        let median = lower_median(all.iter().map(|(_, distance)| *distance)).unwrap_or(own.1);
        let ahead = all
            .into_iter()
            .map(|(id, distance)| (id, distance.saturating_sub(median)));
        self.wrong = ahead
            .filter(|(_, ahead)| ahead.saturating_abs() > SKEW_US_MAX)
            .collect();
        let told = &mut self.told;
        told.retain(|_, at| now.mono.since(*at) < TOLD_EVERY_US);
        let news: Vec<(ReplicaId, i64)> = self
            .wrong
            .iter()
            .filter(|(id, _)| !told.contains_key(id))
            .map(|(id, ahead)| (*id, *ahead))
            .collect();
        told.extend(news.iter().map(|(id, _)| (*id, now.mono)));
        news
    }
}

impl Node {
    /// Once a refresh.
    pub(super) fn judge_clocks(&mut self) {
        for (replica, ahead_us) in self.clocks.judge(self.config.id, self.now) {
            self.event(Event::ClockSkew { replica, ahead_us });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;
    const START: u64 = 1_700_000_000_000_000;

    fn now(mono: u64, ahead: i64) -> Now {
        Now {
            mono: Monotonic(mono),
            wall: wall(mono, ahead),
        }
    }

    fn wall(mono: u64, ahead: i64) -> WallTime {
        WallTime((START + mono).saturating_add_signed(ahead))
    }

    #[test]
    fn the_lower_median_is_the_lower_one_of_two_in_the_middle() {
        assert_eq!(lower_median([9]), Some(9));
        assert_eq!(lower_median([9, 4]), Some(4));
        assert_eq!(lower_median([9, 4, 7]), Some(7));
        assert_eq!(lower_median([9, 4, 7, 1]), Some(4));
        assert_eq!(lower_median(Vec::<i64>::new()), None);
    }

    #[test]
    fn a_terms_time_begins_at_the_lower_median_and_never_before_the_last_entry() {
        let clocks = [WallTime(900), WallTime(100)];
        let base = |last| base_time(clocks, WallTime(last), now(0, 0));
        assert_eq!(base(50), WallTime(100));
        assert_eq!(base(500), WallTime(500));
    }

    #[test]
    fn the_wrong_clock_is_named_by_everybody_and_the_right_ones_by_nobody() {
        let ids = [ReplicaId(1), ReplicaId(2), ReplicaId(3)];
        for ahead in [HOUR, -HOUR] {
            let of = |id: ReplicaId| if id == ReplicaId(2) { ahead } else { 0 };
            for me in ids {
                let mut clocks = Clocks::default();
                for other in ids.into_iter().filter(|other| *other != me) {
                    clocks.hear(other, wall(5, of(other)), now(5, of(me)));
                }
                let alarms = clocks.judge(me, now(5, of(me)));
                assert_eq!(alarms, [(ReplicaId(2), ahead)], "on replica {me}");
                assert_eq!(clocks.wrong(ReplicaId(2)), Some(ahead));
                // Once a minute, and as long as it is so.
                assert_eq!(clocks.judge(me, now(6, of(me))), []);
                let later = 7 + TOLD_EVERY_US;
                assert_eq!(clocks.judge(me, now(later, of(me))).len(), 1);
            }
        }
    }

    #[test]
    fn a_jump_of_the_own_clock_moves_no_other_and_a_minute_is_none() {
        let (me, other) = (ReplicaId(1), ReplicaId(2));
        let mut clocks = Clocks::default();
        clocks.hear(other, wall(5, -SKEW_US_MAX), now(5, 0));
        clocks.hear(ReplicaId(3), wall(5, SKEW_US_MAX), now(5, 0));
        assert_eq!(clocks.judge(me, now(5, 0)), []);
        clocks.hear(other, wall(6, 0), now(6, 0));
        clocks.hear(ReplicaId(3), wall(6, 0), now(6, 0));
        assert_eq!(clocks.judge(me, now(7, HOUR)), [(me, HOUR)]);
        assert_eq!(clocks.wrong(other), None);
        assert_eq!(clocks.judge(me, now(8, 0)), []);
        assert_eq!(clocks.wrong(me), None);
    }

    #[test]
    fn alone_there_is_nothing_to_compare_with() {
        let mut clocks = Clocks::default();
        assert_eq!(clocks.judge(ReplicaId(1), now(5, HOUR)), []);
        clocks.hear(ReplicaId(2), wall(6, 0), now(6, HOUR));
        assert_eq!(clocks.judge(ReplicaId(1), now(6, HOUR)).len(), 1);
        clocks.forget(ReplicaId(2));
        assert_eq!(clocks.judge(ReplicaId(1), now(7, HOUR)), []);
        assert_eq!(clocks.wrong(ReplicaId(1)), None);
    }
}
