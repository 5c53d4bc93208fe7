//! An entry that is applied wrongly on purpose, to see it noticed. In no shipped binary.

use crate::types::Index;
use crate::types::entry::Entry;

/// Whether the next command is to be taken for none, and which one was.
#[derive(Default)]
pub struct Misapply {
    next: bool,
    done: Option<Index>,
}

impl Misapply {
    /// The next command is.
    pub fn next(&mut self) {
        self.next = true;
    }

    /// The one that was.
    pub fn done(&self) -> Option<Index> {
        self.done
    }

    pub(super) fn strikes(&mut self, entry: &Entry) -> bool {
        let strikes = std::mem::take(&mut self.next);
        if strikes {
            self.done = Some(entry.index());
        }
        strikes
    }
}
