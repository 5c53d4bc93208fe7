//! Room on this replica's disk: when it counts as low.
//!
//! What must always be left is the room for one rewriting of the store, which is how space ever
//! comes back, and a floor beside it for what is already under way. A rewriting takes no more than
//! the store has now; while one is being built its room is in use, as it should be.

/// What is wanted beyond that before the disk counts as roomy again: one part in so many.
const SLACK_ONE_IN: u64 = 8;

/// Free space as it was last seen, and as much as is needed, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Free on the file system of the data directory.
    pub free: u64,
    /// With less than this the disk is low.
    pub needed: u64,
}

/// See the module. Nothing is low before free space was seen.
pub(super) struct Room {
    floor: u64,
    seen: Option<Space>,
    low: bool,
}

impl Room {
    pub(super) fn new(floor: u64) -> Self {
        Self {
            floor,
            seen: None,
            low: false,
        }
    }

    /// So much is free, and the next rewriting may take so much. True if that changes whether the
    /// disk is low.
    pub(super) fn see(&mut self, free: u64, rewriting: u64) -> bool {
        let needed = self.floor.saturating_add(rewriting);
        self.seen = Some(Space { free, needed });
        let wanted = if self.low {
            needed.saturating_add(needed / SLACK_ONE_IN)
        } else {
            needed
        };
        let low = free < wanted;
        let changed = low != self.low;
        self.low = low;
        changed
    }

    pub(super) fn is_low(&self) -> bool {
        self.low
    }

    /// A rewriting of a store of this size fits, as far as is known.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.seen.is_none_or(|space| space.free >= bytes)
    }

    pub(super) fn seen(&self) -> Option<Space> {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_low_before_a_rewriting_and_the_floor_do_not_fit_and_roomy_only_with_some_slack() {
        let mut room = Room::new(100);
        assert!(
            !room.is_low() && room.fits(u64::MAX),
            "nothing was seen yet"
        );
        assert!(!room.see(180, 80));
        assert!(room.see(179, 80) && room.is_low());
        assert!(!room.see(201, 80) && room.is_low(), "it does not flap");
        assert!(room.see(202, 80) && !room.is_low());
        assert!(room.fits(202) && !room.fits(203));
        // The rewriting is under way: its room is in use.
        assert!(!room.see(122, 0) && !room.is_low());
    }
}
