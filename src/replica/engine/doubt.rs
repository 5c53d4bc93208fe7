//! A [`Replica`] whose state is doubted and whose log is good: it applies nothing and shows nothing
//! until the state has been rebuilt.
//!
//! What was computed from the state that is doubted is dropped at once: nothing of it is written
//! any more, neither slices nor commit records, which carry the state's digest. The next store gets
//! trees of their own ([`crate::replica::workshop`]), from the log or from the primary's state, and
//! the same log. When it has taken the old one's place, the entries that were committed meanwhile
//! are read from it and applied; then the state is shown again.

use super::Replica;
use crate::consensus::Fetch;
use crate::limits::APPEND_BYTES_MAX;
use crate::replica::Rebuilt;
use crate::state_machine::StateMachine;
use crate::storage::{StateReader, StorageError};
use crate::types::entry::Entry;
use crate::types::{Index, UserId};

/// What can be said of the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It is what it should be, as far as is known.
    Good,
    /// It is wrong, or was: nothing is applied.
    Doubted,
    /// It was rebuilt, and lacks the newest entries.
    CatchingUp,
}

impl Standing {
    /// As the promises say.
    pub(super) fn at_start(doubted: bool) -> Self {
        if doubted { Self::Doubted } else { Self::Good }
    }
}

impl<R: StateReader> Replica<R> {
    /// May the state not be shown?
    pub(super) fn is_doubted(&self) -> bool {
        self.standing != Standing::Good
    }

    /// A record of the state that is wrong makes the state doubtful, and the log stays good. Other
    /// errors are the disk's, or about entries that this build does not know.
    pub(super) fn sound<T>(
        &mut self,
        result: Result<T, StorageError>,
    ) -> Result<Option<T>, StorageError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(StorageError::Damaged(sentence)) => {
                self.doubt(&sentence)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The state is wrong: somebody has looked.
    pub(super) fn doubt(&mut self, sentence: &str) -> Result<(), StorageError> {
        let index = self.machine.applied().max(self.disk.checkpoint());
        self.node.quarantine(self.now, index, sentence.to_owned());
        self.stop_applying()
    }

    /// The core doubts the state. What was computed from it goes.
    pub(super) fn stop_applying(&mut self) -> Result<(), StorageError> {
        if self.standing == Standing::Doubted || !self.node.is_quarantined() {
            return Ok(());
        }
        self.standing = Standing::Doubted;
        self.machine = StateMachine::open_knowing(None, self.config.node.level)?;
        self.disk.forget_records();
        self.upkeep.doubted(self.now.mono);
        self.writes.on_jump(Index(u64::MAX - 1));
        let refused = self.reads.give_up();
        self.answer_unavailable(refused);
        self.tell_applied();
        Ok(())
    }

    /// A state to rebuild from is asked for, where the log alone is not enough.
    pub(super) fn maybe_want_state(&mut self) {
        let alone = self.config.node.ids.len() == 1;
        let pause = self.config.node.refresh_interval_us * 2;
        let wanted = self.standing == Standing::Doubted
            && self.stopping.is_none()
            && self
                .upkeep
                .wants_state(self.now.mono, self.node.base(), alone, pause);
        if wanted {
            self.node.want_state(self.now, self.node.base());
        }
    }

    /// The rebuilt trees are in the live store.
    pub(super) fn on_rebuilt(&mut self, rebuilt: &Rebuilt) -> Result<(), StorageError> {
        self.reader.switch();
        self.machine = self.open_machine(Some(&rebuilt.applied))?;
        self.disk.on_rebuilt(rebuilt);
        self.standing = Standing::CatchingUp;
        self.applied_time = rebuilt.record.time;
        self.catch_up_further();
        Ok(())
    }

    /// The state of another replica was installed: that of this one is nobody's any more.
    pub(super) fn on_installed(&mut self) {
        if self.is_doubted() {
            self.standing = Standing::Good;
            self.node.end_quarantine(self.now, self.machine.applied());
        }
    }

    fn catch_up_further(&mut self) {
        let applied = self.machine.applied();
        if applied < self.node.delivered() {
            self.disk.fetch(vec![Fetch {
                peer: self.config.node.id,
                from: applied.next(),
                bytes_max: APPEND_BYTES_MAX,
            }]);
            return;
        }
        self.standing = Standing::Good;
        self.applied_at = self.now.mono;
        self.node.end_quarantine(self.now, applied);
        // Names and streams are of a state that was wrong.
        self.output.jumped = true;
        self.tell_applied();
    }

    /// Entries from this replica's own log, for the state that was rebuilt.
    pub(super) fn catch_up(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        if self.standing != Standing::CatchingUp {
            return Ok(());
        }
        let (applied, delivered) = (self.machine.applied(), self.node.delivered());
        let missing = |entry: &&Entry| entry.index() > applied && entry.index() <= delivered;
        let entries: Vec<Entry> = entries.iter().filter(missing).cloned().collect();
        if entries.is_empty() {
            return self.doubt("the entries that it lacks are not in the log");
        }
        self.apply_in_order(&entries)?;
        if self.standing == Standing::CatchingUp {
            self.catch_up_further();
        }
        Ok(())
    }

    /// All account names as applied now: for the name index at start. It reads in pages. None while
    /// the state is doubted.
    pub fn names(&mut self) -> Result<Vec<(String, UserId)>, StorageError> {
        if self.is_doubted() {
            return Ok(Vec::new());
        }
        let names = self.machine.names(&self.reader);
        Ok(self.sound(names)?.unwrap_or_default())
    }
}
