//! The trace: what a person reads after a failure. Nothing is formatted unless one is kept.

use super::checker_io;
use super::world::World;
use chat::consensus::{Body, HardState};
use chat::replica::{Input, Output, PeerMessage};
use chat::types::{ReplicaId, Stamp, Term};
use std::collections::VecDeque;

/// Lines of trace kept for a report.
const TRACE_LINES: usize = 80;

impl World {
    /// A line for the trace, if one is kept.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if self.options.trace {
            let line = format!(
                "{:>10.3} ms {}",
                (self.now - 1_000_000) as f64 / 1e3,
                line()
            );
            if TRACE_ALL.get() {
                println!("{line}");
            }
            LAST_LINES.with_borrow_mut(|last| {
                if last.len() == TRACE_LINES {
                    last.pop_front();
                }
                last.push_back(line);
            });
        }
    }

    /// What a replica is given.
    pub fn note_input(&mut self, at: usize, input: &Input) {
        match input {
            Input::Tick | Input::DiskDone(_) => {}
            Input::Peer(PeerMessage::Consensus(m)) => {
                if !matches!(m.body, Body::Refresh(_)) {
                    self.note(|| format!("{} < {} term {} {:?}", at + 1, m.from, m.term, m.body));
                }
            }
            Input::Peer(m) => self.note(|| format!("{} < {m:?}", at + 1)),
            other => self.note(|| format!("{} < {other:?}", at + 1)),
        }
    }

    /// What a replica wants done.
    pub fn note_output(&mut self, at: usize, output: &Output) {
        for event in &output.events {
            self.note(|| format!("{} event {event:?}", at + 1));
        }
        for message in &output.messages {
            if let PeerMessage::Consensus(m) = message {
                let quiet = matches!(m.body, Body::Refresh(_));
                if !quiet {
                    let body = checker_io::name(&m.body);
                    self.note(|| format!("{} > {} term {} {body}", at + 1, m.to, m.term));
                }
            }
        }
        if let Some(core) = output.job.as_ref().and_then(|job| job.core.as_ref()) {
            self.note(|| {
                format!(
                    "{} job {}: before {:?}, truncate {:?}, append {:?}, after {:?} sync {}",
                    at + 1,
                    core.id.0,
                    brief(core.hard_state_before.as_ref()),
                    core.truncate_after,
                    core.append,
                    brief(core.hard_state_after.as_ref()),
                    core.sync_hard_state
                )
            });
        }
    }
}

/// What matters of a hard state.
pub fn brief(hard: Option<&HardState>) -> Option<(Term, Option<ReplicaId>, Stamp)> {
    hard.map(|h| (h.term, h.granted_to, h.mark))
}

thread_local! {
    /// Print every line of the trace.
    pub static TRACE_ALL: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    /// The last lines of the trace: they outlive a world that panics.
    pub static LAST_LINES: std::cell::RefCell<VecDeque<String>> =
        const { std::cell::RefCell::new(VecDeque::new()) };
}
