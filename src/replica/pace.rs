//! How fast the state trees follow the log, and when a replica writes its slices.
//!
//! A slice and the fsync that carries its pages hold the disk for some milliseconds, and more if all replicas on
//! a machine, or on machines that share a disk, do it at once. All apply the same entries at about the same
//! time, so each has stretches of the log in which it writes its slices, and the others' disks are free for
//! batches, as long as that is enough for the trees to follow. A stretch is counted in entries, for clocks differ.

use crate::limits::{SLICES_IN_TURN, SLICES_IN_TURN_MAX};
use crate::types::{Index, ReplicaId};

/// All replicas have their turn in such a part of the entries that the trees may lag.
const ROUND: u64 = 4;

/// What is allowed at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pace {
    /// So many slices between two jobs of the core.
    pub slices_in_turn: u64,
    /// One when the core has nothing to write.
    pub beside: bool,
}

/// None between two jobs while the trees follow; then one; and from `load_max` on the more the further they are
/// behind. From three quarters of that on the others' stretches count no more.
pub(super) fn pace(load: u64, load_max: u64, own_stretch: bool) -> Pace {
    let far = load > load_max - load_max / 4;
    let slices_in_turn = if load > load_max {
        (load.saturating_mul(SLICES_IN_TURN) / load_max.max(1)).min(SLICES_IN_TURN_MAX)
    } else {
        u64::from(far || own_stretch && load > load_max / 2)
    };
    Pace {
        slices_in_turn,
        beside: own_stretch || far,
    }
}

/// Is this entry in a stretch of this replica?
pub(super) fn is_own_stretch(
    applied: Index,
    (me, ids): (ReplicaId, &[ReplicaId]),
    load_max: u64,
) -> bool {
    let place = ids.iter().filter(|id| **id < me).count();
    let replicas = ids.len().max(1) as u64;
    let stretch = (load_max / ROUND / replicas).max(1);
    applied.0 / stretch % replicas == place as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_replica_has_its_turn_at_a_time_and_a_single_one_always() {
        let ids: Vec<ReplicaId> = [2, 5, 9].map(ReplicaId).to_vec();
        let of = |applied, ids: &[ReplicaId]| -> Vec<u16> {
            let turns = ids
                .iter()
                .filter(|id| is_own_stretch(Index(applied), (**id, ids), 24));
            turns.map(|id| id.0).collect()
        };
        let turns: Vec<_> = (0..8).map(|applied| of(applied, &ids)).collect();
        assert_eq!(turns, [[2], [2], [5], [5], [9], [9], [2], [2]]);
        assert_eq!(of(7, &ids[..1]), [2]);
    }

    #[test]
    fn slices_wait_for_their_stretch_until_the_trees_are_far_behind() {
        let at = |load, own| {
            let pace = pace(load, 100, own);
            (pace.slices_in_turn, pace.beside)
        };
        assert_eq!([0, 50, 51, 75].map(|load| at(load, false)), [(0, false); 4]);
        assert_eq!([0, 50].map(|load| at(load, true)), [(0, true); 2]);
        assert_eq!([51, 75].map(|load| at(load, true)), [(1, true); 2]);
        for own in [false, true] {
            assert_eq!([76, 100].map(|load| at(load, own)), [(1, true); 2]);
            assert_eq!(at(101, own), (4, true));
            assert_eq!(at(1_000, own), (40, true));
            assert_eq!(at(10_000, own), (SLICES_IN_TURN_MAX, true));
        }
    }
}
