//! Is there an order of these operations that a single copy could have executed?
//!
//! The search of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) with Lowe's
//! memory of what was tried ("Testing for Linearizability", 2017): take any operation that no
//! unfinished one precedes, execute it on the model, go on; never visit the same set of executed
//! operations with the same state twice. An operation without an answer may be executed at any
//! time after it was invoked, or never.

use crate::history::{Call, Micros};
use std::collections::HashSet;
use std::hash::Hash;

/// Operations of one object: the set of executed ones is one machine word. More are refused.
pub const CALLS_MAX: usize = 128;
/// Configurations visited before the search gives up. It takes a few seconds.
const VISITS_MAX: usize = 2_000_000;

/// A sequential object.
pub trait Model {
    /// What is done, with its answer.
    type Action;
    /// What the object is.
    type State: Clone + Eq + Hash;
    /// The object after this action; `None` if a single copy would have answered otherwise.
    fn apply(state: &Self::State, action: &Self::Action) -> Option<Self::State>;
}

/// What the search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Such an order exists.
    Linearizable,
    /// None does. In the longest one that was found, one of these operations had to come next and
    /// none could.
    Impossible {
        /// Numbers of calls.
        stuck: Vec<usize>,
    },
    /// The search was too long.
    Undecided,
}

/// Searches for an order of `calls`, starting at `initial`.
pub fn check<M: Model>(initial: M::State, calls: &[Call<M::Action>]) -> Verdict {
    if calls.len() > CALLS_MAX {
        return Verdict::Undecided;
    }
    let answered = |number: usize| calls[number].returned.is_some();
    let must: u128 = (0..calls.len())
        .filter(|number| answered(*number))
        .fold(0, |set, number| set | 1 << number);
    let mut visited = HashSet::new();
    let mut stack = vec![(0_u128, initial)];
    let mut longest = (0, 0_u128);
    while let Some((done, state)) = stack.pop() {
        if done & must == must {
            return Verdict::Linearizable;
        }
        if !visited.insert((done, state.clone())) {
            continue;
        }
        if visited.len() > VISITS_MAX {
            return Verdict::Undecided;
        }
        let length = (done & must).count_ones();
        if length >= longest.0 {
            longest = (length, done);
        }
        for number in next(calls, done) {
            if let Some(after) = M::apply(&state, &calls[number].action) {
                stack.push((done | 1 << number, after));
            }
        }
    }
    let stuck = next(calls, longest.1).filter(|number| answered(*number));
    Verdict::Impossible {
        stuck: stuck.collect(),
    }
}

/// Those that may be executed next: invoked before any that is left returned.
fn next<A>(calls: &[Call<A>], done: u128) -> impl Iterator<Item = usize> {
    let left = move |number: &usize| done & (1 << *number) == 0;
    let end: Option<Micros> = (0..calls.len())
        .filter(left)
        .filter_map(|number| calls[number].returned)
        .min();
    (0..calls.len())
        .filter(left)
        .filter(move |number| end.is_none_or(|end| calls[*number].invoked <= end))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register of one number.
    struct Register;

    enum Do {
        Write(u8),
        Read(u8),
    }

    impl Model for Register {
        type Action = Do;
        type State = u8;
        fn apply(state: &u8, action: &Do) -> Option<u8> {
            match action {
                Do::Write(value) => Some(*value),
                Do::Read(value) => (state == value).then_some(*state),
            }
        }
    }

    fn call(invoked: Micros, returned: impl Into<Option<Micros>>, action: Do) -> Call<Do> {
        Call {
            invoked,
            returned: returned.into(),
            action,
        }
    }

    #[test]
    fn concurrent_operations_may_be_ordered_either_way() {
        for seen in [1, 2] {
            let calls = [
                call(0, 10, Do::Write(1)),
                call(5, 15, Do::Write(2)),
                call(20, 25, Do::Read(seen)),
            ];
            assert_eq!(check::<Register>(0, &calls), Verdict::Linearizable);
        }
    }

    #[test]
    fn a_stale_read_is_found_and_named() {
        let calls = [
            call(0, 10, Do::Write(1)),
            call(11, 12, Do::Write(2)),
            call(13, 14, Do::Read(1)),
        ];
        let stuck = vec![2];
        assert_eq!(check::<Register>(0, &calls), Verdict::Impossible { stuck });
    }

    #[test]
    fn two_readers_may_not_see_a_write_come_and_go() {
        let calls = [
            call(0, 100, Do::Write(1)),
            call(10, 20, Do::Read(1)),
            call(30, 40, Do::Read(0)),
        ];
        assert!(matches!(
            check::<Register>(0, &calls),
            Verdict::Impossible { .. }
        ));
    }

    #[test]
    fn a_write_without_an_answer_happens_late_or_never_but_not_before_it_began() {
        let late = [
            call(0, None, Do::Write(1)),
            call(10, 20, Do::Read(0)),
            call(30, 40, Do::Read(1)),
        ];
        assert_eq!(check::<Register>(0, &late), Verdict::Linearizable);
        let never = [call(0, None, Do::Write(1)), call(10, 20, Do::Read(0))];
        assert_eq!(check::<Register>(0, &never), Verdict::Linearizable);
        let too_early = [call(0, 5, Do::Read(1)), call(10, None, Do::Write(1))];
        assert!(matches!(
            check::<Register>(0, &too_early),
            Verdict::Impossible { .. }
        ));
        let twice = [
            call(0, None, Do::Write(1)),
            call(10, 20, Do::Read(1)),
            call(21, 22, Do::Write(2)),
            call(23, 24, Do::Read(1)),
        ];
        assert!(matches!(
            check::<Register>(0, &twice),
            Verdict::Impossible { .. }
        ));
    }

    #[test]
    fn a_long_history_of_overlapping_operations_is_decided() {
        let calls: Vec<_> = (0..CALLS_MAX as u64)
            .map(|n| call(n * 10, n * 10 + 35, Do::Write(n as u8)))
            .collect();
        assert_eq!(check::<Register>(0, &calls), Verdict::Linearizable);
    }
}
