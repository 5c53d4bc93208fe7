//! What is told of this replica's last repair: how it began, from the store's directory; how it ended,
//! from what the core says.

use crate::consensus::Event;
use crate::storage::{RepairEnd, RepairNote};
use crate::types::{Index, ReplicaId, WallTime};

/// The last repair.
pub(super) struct Repairs {
    last: Option<RepairNote>,
    /// The state that was fetched in this process run: after this entry, from this replica.
    fetched: Option<(Index, ReplicaId)>,
}

impl Repairs {
    pub(super) fn new(last: Option<RepairNote>) -> Self {
        Self {
            last,
            fetched: None,
        }
    }

    pub(super) fn last(&self) -> Option<&RepairNote> {
        self.last.as_ref()
    }

    /// After each turn: is the repair over? Once, how it ended.
    pub(super) fn look(
        &mut self,
        events: &[Event],
        (repairing, primary): (bool, Option<ReplicaId>),
        (reached, at): (Index, WallTime),
    ) -> Option<RepairEnd> {
        for event in events {
            if let Event::SnapshotInstalled { from, base } = event {
                self.fetched = Some((base.index, *from));
            }
        }
        let note = self.last.as_mut()?;
        if note.ended.is_some() || repairing {
            return None;
        }
        let proven = events
            .iter()
            .any(|event| matches!(event, Event::Proven { .. }));
        let end = RepairEnd {
            at,
            reached,
            from: primary
                .or(self.fetched.map(|(_, from)| from))
                .filter(|_| !proven),
            state_after: self.fetched.map(|(index, _)| index),
        };
        note.ended = Some(end.clone());
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Stamp, Term};

    #[test]
    fn a_repair_ends_once_and_says_what_was_fetched() {
        let note = RepairNote {
            began: WallTime(1),
            why: "a page is lost".into(),
            while_running: true,
            kept_in: Some("damaged-store-0001".into()),
            kept_up_to: None,
            again: false,
            ended: None,
        };
        let mut repairs = Repairs::new(Some(note));
        let from = ReplicaId(2);
        let installed = Event::SnapshotInstalled {
            from,
            base: Stamp::new(Term(3), Index(40)),
        };
        let at = (Index(41), WallTime(7));
        assert_eq!(repairs.look(&[installed], (true, Some(from)), at), None);
        let end = repairs.look(&[], (false, Some(from)), at).unwrap();
        assert_eq!((end.state_after, end.from), (Some(Index(40)), Some(from)));
        assert_eq!((end.reached, end.at), at);
        assert_eq!(repairs.look(&[], (false, Some(from)), at), None);
        assert_eq!(repairs.last().unwrap().ended, Some(end));
        assert_eq!(Repairs::new(None).look(&[], (false, None), at), None);
    }
}
