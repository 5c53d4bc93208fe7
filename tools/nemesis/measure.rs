//! What the clients saw of each fault, in numbers.

use crate::history::{Micros, first_acknowledged};
use crate::nemesis::Event;

/// After a fault has healed, this much of the time after it still counts as its effect.
const AFTER: Micros = 5_000_000;

/// One fault as the clients saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Acknowledged messages a second in the five seconds before.
    pub rate_before: f64,
    /// The same, from its beginning to its end.
    pub rate_during: f64,
    /// From its beginning until a write that began after it was acknowledged. `None`: not before
    /// it was healed.
    pub resumed: Option<Micros>,
    /// From its end until a write that began after that was acknowledged.
    pub after_heal: Option<Micros>,
    /// The longest time without any acknowledgement during it or shortly after, up to the next fault.
    pub longest_gap: Micros,
}

/// Measures one event; the next one begins at `next`. `acknowledged` is (returned, latency), in the
/// order of `returned`.
pub fn seen(event: &Event, next: Micros, acknowledged: &[(Micros, Micros)]) -> Seen {
    let (began, healed) = (event.began, event.healed);
    let count = |from: Micros, to: Micros| {
        let place = |time| acknowledged.partition_point(|(returned, _)| *returned < time);
        (place(to) - place(from)) as f64
    };
    let rate = |from: Micros, to: Micros| count(from, to) / ((to - from).max(1) as f64 / 1e6);
    let before = began.saturating_sub(AFTER);
    let resumed = first_acknowledged(acknowledged, began);
    let first = acknowledged.partition_point(|(returned, _)| *returned < began);
    let end = acknowledged
        .last()
        .map_or(healed, |last| last.0.max(healed));
    let until = next.min(healed + AFTER).min(end);
    let last = acknowledged.partition_point(|(returned, _)| *returned < until);
    let mut previous = began;
    let mut longest_gap = 0;
    for (returned, _) in &acknowledged[first..last] {
        longest_gap = longest_gap.max(returned.saturating_sub(previous));
        previous = *returned;
    }
    longest_gap = longest_gap.max(until.saturating_sub(previous));
    Seen {
        rate_before: rate(before, began),
        rate_during: rate(began, healed),
        resumed: resumed.filter(|at| *at <= healed).map(|at| at - began),
        after_heal: first_acknowledged(acknowledged, healed).map(|at| at - healed),
        longest_gap,
    }
}

/// Some part of these numbers is at most this: 0.5 is the median. 0 for no numbers.
pub fn part(mut numbers: Vec<Micros>, part: f64) -> Micros {
    numbers.sort_unstable();
    let at = (part * numbers.len() as f64).ceil() as usize;
    numbers.get(at.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_in_the_acknowledgements_is_measured() {
        let mut acknowledged: Vec<(Micros, Micros)> =
            (0..100).map(|n| (n * 100_000, 1_000)).collect();
        // Nothing from 5.0 s to 7.3 s; what came then had begun before the fault.
        acknowledged.retain(|(returned, _)| !(5_000_000..7_300_000).contains(returned));
        acknowledged[50].1 = 3_000_000;
        let event = Event {
            began: 5_000_000,
            healed: 8_000_000,
            what: Vec::new(),
            notes: Vec::new(),
        };
        let seen = seen(&event, Micros::MAX, &acknowledged);
        assert_eq!(seen.resumed, Some(2_400_000));
        assert_eq!(seen.after_heal, Some(100_000));
        assert_eq!(seen.longest_gap, 2_300_000);
        assert!((seen.rate_before - 10.0).abs() < 0.3, "{seen:?}");
    }

    #[test]
    fn parts_of_numbers() {
        assert_eq!(part(vec![4, 1, 3, 2], 0.5), 2);
        assert_eq!(part(vec![4, 1, 3, 2], 1.0), 4);
        assert_eq!(part(Vec::new(), 0.5), 0);
    }
}
