//! The times of entries, and clocks that are wrong.

use super::*;
use std::collections::BTreeSet;

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

impl Cluster {
    /// Makes this replica primary, by handovers and deaths of nobody.
    fn make_primary(&mut self, wanted: ReplicaId) {
        for _ in 0..50 {
            match self.primary() {
                Some(primary) if primary == wanted => return,
                Some(primary) => {
                    let now = self.now_of(primary);
                    self.nodes.get_mut(&primary).unwrap().hand_over(now);
                }
                None => {}
            }
            self.run(300_000);
        }
        panic!("{wanted} never becomes primary");
    }

    /// Proposes something on the primary; how far its time is ahead of the true one.
    fn entry_ahead(&mut self) -> i64 {
        let primary = self.primary().expect("a primary serves");
        let now = self.now_of(primary);
        let node = self.nodes.get_mut(&primary).unwrap();
        let index = node.propose(now, &[command("x")]).unwrap();
        self.settle();
        let entry = self.committed[&primary].last().unwrap();
        assert_eq!(entry.index(), index);
        entry.time().0 as i64 - self.now().wall.0 as i64
    }

    fn alarms(&self) -> Vec<(ReplicaId, ReplicaId, bool)> {
        let events = self.events.iter();
        let alarms = events.filter_map(|(on, event)| match event {
            Event::ClockSkew { replica, ahead_us } => Some((*on, *replica, *ahead_us > 0)),
            _ => None,
        });
        alarms.collect()
    }
}

#[test]
fn one_wrong_clock_moves_no_time_by_more_than_a_minute_whoever_is_primary() {
    for n in [3, 5] {
        let mut cluster = Cluster::new(n);
        let wrong = ReplicaId(2);
        cluster.ahead.insert(wrong, HOUR);
        cluster.run(500_000);
        for id in 1..=n {
            cluster.make_primary(ReplicaId(id));
            let ahead = cluster.entry_ahead();
            assert!(ahead.abs() <= MINUTE, "primary {id} of {n}: {ahead}");
        }
        // Not even when it jumps while its replica is primary, and however long that goes on.
        cluster.make_primary(wrong);
        cluster.ahead.insert(wrong, 24 * HOUR);
        for _ in 0..4 {
            cluster.run(1_000_000);
            let ahead = cluster.entry_ahead();
            assert!(ahead.abs() <= MINUTE, "{ahead}");
        }
    }
}

#[test]
fn time_is_steered_towards_the_primarys_clock_slowly_and_by_a_minute_in_all() {
    let mut cluster = Cluster::new(1);
    cluster.run(500_000);
    let id = ReplicaId(1);
    for (jump, steered) in [(HOUR, MINUTE), (-HOUR, -MINUTE), (MINUTE / 2, MINUTE / 2)] {
        let mut now = cluster.now();
        let mut leading = crate::consensus::primary::PrimaryState::for_test(now);
        let at = |now: Now, ahead: i64| Now {
            wall: WallTime(now.wall.0.saturating_add_signed(ahead)),
            ..now
        };
        let mut last = WallTime(0);
        for _ in 0..200 {
            now.mono.0 += MINUTE as u64;
            now.wall.0 += MINUTE as u64;
            let time = leading.time(at(now, jump));
            assert!(time >= last, "time never falls");
            let step = time.0 as i64 - last.0 as i64;
            assert!(
                last.0 == 0 || step <= MINUTE + MINUTE / 50,
                "{step}: slowly"
            );
            last = time;
        }
        assert_eq!(last.0 as i64 - now.wall.0 as i64, steered);
        // And back, when the clock is set right.
        for _ in 0..200 {
            now.mono.0 += MINUTE as u64;
            now.wall.0 += MINUTE as u64;
            let time = leading.time(now);
            assert!(time >= last, "time never falls");
            last = time;
        }
        assert_eq!(last, now.wall);
    }
    assert_eq!(cluster.primary(), Some(id));
}

#[test]
fn times_never_fall_from_one_term_to_the_next() {
    let mut cluster = Cluster::new(3);
    // Every clock is another one, and each primary's is behind that of the one before.
    for id in 1..=3 {
        let ahead = 40_000_000 * (2 - i64::from(id));
        cluster.ahead.insert(ReplicaId(id), ahead);
    }
    cluster.run(500_000);
    for id in [1, 3, 2, 3, 1] {
        cluster.make_primary(ReplicaId(id));
        cluster.entry_ahead();
    }
    for entries in cluster.committed.values() {
        let terms: BTreeSet<Term> = entries.iter().map(|e| e.stamp().term).collect();
        assert!(terms.len() >= 5);
        for pair in entries.windows(2) {
            assert!(pair[0].time() <= pair[1].time(), "{pair:?}");
        }
    }
}

#[test]
fn the_alarm_names_the_wrong_clock_and_no_other() {
    for ahead in [HOUR, -HOUR] {
        let mut cluster = Cluster::new(3);
        cluster.run(1_000_000);
        assert_eq!(cluster.alarms(), []);
        let wrong = ReplicaId(2);
        cluster.ahead.insert(wrong, ahead);
        cluster.run(1_000_000);
        let mut alarms = cluster.alarms();
        alarms.sort_unstable();
        // Once on each, its own included.
        let expected = [1, 2, 3].map(|on| (ReplicaId(on), wrong, ahead > 0));
        assert_eq!(alarms, expected);
        for (id, node) in &cluster.nodes {
            let shown = node.status().clock_ahead_us;
            assert_eq!(shown.is_some(), *id == wrong, "on {id}: {shown:?}");
        }
        cluster.ahead.clear();
        cluster.run(1_000_000);
        let shown = |node: &Node| node.status().clock_ahead_us;
        assert!(cluster.nodes.values().all(|node| shown(node).is_none()));
    }
}
