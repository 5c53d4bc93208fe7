//! Outcomes of many writes of one caller, gathered: one wake-up for a batch, not one a write.

use super::{WriteError, Written};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

/// What a write came to.
pub type Outcome = Result<Written, WriteError>;

/// Where the outcomes of one caller's writes arrive. Bounded by the writes that the caller has
/// handed in and not heard of yet.
#[derive(Default)]
pub struct Outcomes {
    ready: Mutex<Vec<(u64, Outcome)>>,
    wake: Notify,
}

impl Outcomes {
    /// None yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Waits for at least one, and takes all: (the caller's number, outcome), in any order.
    /// CANCEL SAFE. For one waiter.
    pub async fn take(&self) -> Vec<(u64, Outcome)> {
        loop {
            let ready = std::mem::take(&mut *self.lock());
            if !ready.is_empty() {
                return ready;
            }
            // What comes between the look and here has left a permit behind.
            self.wake.notified().await;
        }
    }

    /// The outcome of one write. The caller is woken by [`Outcomes::wake`], AFTER the last of a
    /// batch.
    pub(crate) fn push(&self, number: u64, outcome: Outcome) {
        self.lock().push((number, outcome));
    }

    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Outcome)>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One write's place among the outcomes. Dropped without an outcome, it tells `OutcomeUnknown`:
/// the replica has ended.
pub(super) struct Slot {
    outcomes: Option<Arc<Outcomes>>,
    number: u64,
}

impl Slot {
    pub(super) fn new(outcomes: &Arc<Outcomes>, number: u64) -> Self {
        Self {
            outcomes: Some(Arc::clone(outcomes)),
            number,
        }
    }

    /// Files the outcome and returns whom to wake after the batch.
    fn file(mut self, outcome: Outcome) -> Option<Arc<Outcomes>> {
        let outcomes = self.outcomes.take()?;
        outcomes.push(self.number, outcome);
        Some(outcomes)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(outcomes) = self.outcomes.take() {
            outcomes.push(self.number, Err(WriteError::OutcomeUnknown));
            outcomes.wake();
        }
    }
}

/// Who is told what a write came to.
pub(super) enum Waiter {
    /// A call of its own.
    Call(oneshot::Sender<Outcome>),
    /// One of many.
    Slot(Slot),
}

/// Tells a batch of outcomes, and wakes each caller once, at the end.
#[derive(Default)]
pub(super) struct Teller {
    /// Those to wake; the same one several times in a row is kept once.
    callers: Vec<Arc<Outcomes>>,
}

impl Teller {
    pub(super) fn tell(&mut self, waiter: Waiter, outcome: Outcome) {
        match waiter {
            // Whoever called may have gone away.
            Waiter::Call(sender) => drop(sender.send(outcome)),
            Waiter::Slot(slot) => {
                let Some(caller) = slot.file(outcome) else {
                    return;
                };
                if !self.callers.iter().rev().any(|c| Arc::ptr_eq(c, &caller)) {
                    self.callers.push(caller);
                }
            }
        }
    }

    pub(super) fn finish(self) {
        for caller in self.callers {
            caller.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_machine::Reply;
    use crate::types::Index;

    fn done(index: u64) -> Written {
        Written {
            reply: Reply::Done,
            index: Index(index),
        }
    }

    #[tokio::test]
    async fn a_batch_arrives_together_and_a_dropped_slot_is_an_unknown_outcome() {
        let outcomes = Outcomes::new();
        let slot = |number| Waiter::Slot(Slot::new(&outcomes, number));
        let mut teller = Teller::default();
        let (first, second, third) = (slot(1), slot(2), slot(3));
        teller.tell(second, Ok(done(8)));
        teller.tell(first, Ok(done(7)));
        assert_eq!(teller.callers.len(), 1);
        teller.finish();
        assert_eq!(outcomes.take().await, [(2, Ok(done(8))), (1, Ok(done(7)))]);
        drop(third);
        let lost = outcomes.take().await;
        assert_eq!(lost, [(3, Err(WriteError::OutcomeUnknown))]);
    }
}
