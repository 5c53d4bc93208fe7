//! A clean stop: hand the role over, finish what is pending, write everything down.

use crate::types::Monotonic;

/// What is pending gets this long, in microseconds.
const PENDING_US: u64 = 3_000_000;
/// After the role is given away, how long its taker is waited for: it may need this replica's
/// grant to be elected.
const TAKER_US: u64 = 1_000_000;
/// The last entries, commit record and slices get this long. A majority has every acknowledged entry; what is
/// not written here by then only spares the next start some work.
const WRITING_US: u64 = 3_000_000;

/// How far the replica is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    /// This replica is not primary (any more).
    pub role_given: bool,
    /// Another one is.
    pub role_taken: bool,
    /// Writes without an outcome.
    pub writes: usize,
    /// The disk has nothing to do.
    pub disk_idle: bool,
    /// Everything applied is in the trees.
    pub checkpointed: bool,
}

/// The stages of a stop.
pub(super) struct Stopping {
    since: Monotonic,
    given: Option<Monotonic>,
    last_stage: Option<Monotonic>,
    done: bool,
}

impl Stopping {
    pub(super) fn new(now: Monotonic) -> Self {
        Self {
            since: now,
            given: None,
            last_stage: None,
            done: false,
        }
    }

    /// Nothing is accepted or awaited any more; only the disk is still at work.
    pub(super) fn is_last_stage(&self) -> bool {
        self.last_stage.is_some()
    }

    /// Everything is done, or its time is over.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Looks where things stand.
    pub(super) fn advance(&mut self, stage: Stage, now: Monotonic) {
        if let Some(since) = self.last_stage {
            let written = stage.disk_idle && stage.checkpointed;
            self.done |= written || now.since(since) >= WRITING_US;
            return;
        }
        if !stage.role_given {
            self.given = None;
        } else if self.given.is_none() {
            self.given = Some(now);
        }
        let taken =
            stage.role_taken || self.given.is_some_and(|given| now.since(given) >= TAKER_US);
        let finished = stage.role_given && taken && stage.writes == 0;
        if finished || now.since(self.since) >= PENDING_US {
            self.last_stage = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::testing::ms;

    const READY: Stage = Stage {
        role_given: true,
        role_taken: true,
        writes: 0,
        disk_idle: true,
        checkpointed: true,
    };

    #[test]
    fn the_role_is_taken_before_pending_work_ends_and_that_before_the_disk() {
        let mut stopping = Stopping::new(ms(0));
        stopping.advance(
            Stage {
                role_given: false,
                ..READY
            },
            ms(1),
        );
        stopping.advance(Stage { writes: 1, ..READY }, ms(2));
        assert!(!stopping.is_last_stage());
        stopping.advance(READY, ms(3));
        assert!(stopping.is_last_stage() && !stopping.is_done());
        let busy = Stage {
            checkpointed: false,
            ..READY
        };
        stopping.advance(busy, ms(4));
        assert!(!stopping.is_done());
        stopping.advance(READY, ms(5));
        assert!(stopping.is_done());
    }

    #[test]
    fn every_stage_is_bounded() {
        let mut stopping = Stopping::new(ms(0));
        let nobody = Stage {
            role_taken: false,
            ..READY
        };
        stopping.advance(nobody, ms(0));
        stopping.advance(nobody, ms(999));
        assert!(!stopping.is_last_stage());
        stopping.advance(nobody, ms(1_000));
        assert!(stopping.is_last_stage(), "nobody takes the role");
        let mut stopping = Stopping::new(ms(0));
        let stuck = Stage {
            role_given: false,
            writes: 1,
            disk_idle: false,
            ..READY
        };
        stopping.advance(stuck, ms(2_999));
        assert!(!stopping.is_last_stage());
        stopping.advance(stuck, ms(3_000));
        assert!(stopping.is_last_stage());
        stopping.advance(stuck, ms(6_000));
        assert!(stopping.is_done());
    }
}
