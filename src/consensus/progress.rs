//! What a primary knows of one secondary's log (after etcd's `tracker/progress.go`).

use crate::limits::APPENDS_IN_FLIGHT_MAX;
use crate::types::{Index, Monotonic};
use std::collections::VecDeque;

/// How entries are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Looking for the point where the logs agree: one empty append at a time.
    Probe {
        /// One is on the way.
        sent: bool,
    },
    /// In a stream, ahead of the answers.
    Replicate,
    /// Entries are being read from the store.
    Fetch {
        /// Since when.
        since: Monotonic,
    },
    /// What it needs is cut from our log: it is offered the state, and asks for it in parts.
    Snapshot {
        /// When it last asked, or was offered it.
        since: Monotonic,
    },
}

/// What is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sending {
    Nothing,
    Entries,
    /// A probe or a heartbeat.
    Beat,
    /// A commit advance: wants no answer.
    Notice,
}

/// Invariants: `matched < next`; `matched` never falls within a run of the peer.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// Durable on the peer, and as ours, up to here.
    pub(super) matched: Index,
    /// Next index to send.
    pub(super) next: Index,
    /// The peer is admitted: its matches are acknowledgements.
    pub(super) counting: bool,
    /// A refresh interval has passed without an append.
    pub(super) beat_due: bool,
    /// When `matched` last rose.
    pub(super) moved: Monotonic,
    state: State,
    in_flight: VecDeque<Index>,
    commit_sent: Index,
}

impl Progress {
    pub(super) fn new(next: Index) -> Self {
        Self {
            matched: Index(0),
            next,
            counting: false,
            beat_due: true,
            moved: Monotonic(0),
            state: State::Probe { sent: false },
            in_flight: VecDeque::new(),
            commit_sent: Index(0),
        }
    }

    pub(super) fn probe(&mut self, next: Index) {
        self.next = next.max(self.matched.next());
        self.state = State::Probe { sent: false };
        self.in_flight.clear();
        self.commit_sent = Index(0);
    }

    pub(super) fn is_probing(&self) -> bool {
        matches!(self.state, State::Probe { .. })
    }

    /// The state is to be offered.
    pub(super) fn snapshot(&mut self, now: Monotonic) {
        self.state = State::Snapshot { since: now };
        self.in_flight.clear();
    }

    pub(super) fn is_taking_snapshot(&self) -> bool {
        matches!(self.state, State::Snapshot { .. })
    }

    pub(super) fn is_fetching(&self) -> bool {
        matches!(self.state, State::Fetch { .. })
    }

    pub(super) fn window_is_full(&self) -> bool {
        self.in_flight.len() >= APPENDS_IN_FLIGHT_MAX
    }

    /// A lost probe or fetch is tried again after a refresh interval.
    pub(super) fn maybe_retry(&mut self, now: Monotonic, interval_us: u64) {
        match self.state {
            State::Probe { sent: true } if self.beat_due => {
                self.state = State::Probe { sent: false };
            }
            State::Fetch { since } if now.since(since) > interval_us * 2 => {
                self.state = State::Probe { sent: false };
            }
            State::Snapshot { since } if now.since(since) > interval_us * 8 => {
                self.state = State::Probe { sent: false };
            }
            _ => {}
        }
    }

    /// `notice_due`: a commit advance is not to wait any longer for entries that carry it.
    pub(super) fn sending(&self, last: Index, commit: Index, notice_due: bool) -> Sending {
        match self.state {
            State::Probe { sent: false } => Sending::Beat,
            State::Probe { sent: true } | State::Fetch { .. } | State::Snapshot { .. } => {
                Sending::Nothing
            }
            State::Replicate if self.next <= last && !self.window_is_full() => Sending::Entries,
            State::Replicate if self.beat_due => Sending::Beat,
            State::Replicate if self.lacks_commit(commit) && notice_due => Sending::Notice,
            State::Replicate => Sending::Nothing,
        }
    }

    /// It follows, and was not told of this commit.
    pub(super) fn lacks_commit(&self, commit: Index) -> bool {
        self.state == State::Replicate && self.commit_sent < commit
    }

    pub(super) fn on_sent(&mut self, last: Option<Index>, commit: Index, _now: Monotonic) {
        self.beat_due = false;
        self.commit_sent = commit;
        if let State::Probe { sent } = &mut self.state {
            *sent = true;
        } else if let Some(last) = last {
            self.next = last.next();
            self.in_flight.push_back(last);
        }
    }

    pub(super) fn fetching(&mut self, now: Monotonic) {
        self.state = State::Fetch { since: now };
    }

    pub(super) fn fetched(&mut self, last: Option<Index>, commit: Index, now: Monotonic) {
        self.state = State::Replicate;
        self.on_sent(last, commit, now);
    }

    pub(super) fn on_match(&mut self, index: Index, counting: bool, now: Monotonic) {
        self.counting = counting;
        if index > self.matched {
            self.matched = index;
            self.moved = now;
        }
        self.next = self.next.max(self.matched.next());
        while self.in_flight.front().is_some_and(|last| *last <= index) {
            self.in_flight.pop_front();
        }
        if self.is_probing() {
            self.state = State::Replicate;
            self.next = self.matched.next();
            self.in_flight.clear();
        }
    }

    pub(super) fn on_conflict(&mut self, previous: Index, hint: Index, last: Index) {
        let stale = match self.state {
            State::Probe { .. } => previous != self.next.previous(),
            State::Replicate | State::Fetch { .. } | State::Snapshot { .. } => {
                previous < self.matched
            }
        };
        if !stale {
            self.probe(hint.min(last).next());
        }
    }
}

#[cfg(feature = "model")]
impl Progress {
    pub(super) fn view(&self, view: &mut super::view::View, limit_us: u64) {
        let Self {
            matched,
            next,
            counting,
            beat_due,
            moved,
            state,
            in_flight,
            commit_sent,
        } = self;
        view.put(&(matched, next, counting, beat_due, in_flight, commit_sent));
        view.put(&view.recent_at_tick(*moved, limit_us));
        match state {
            State::Probe { sent } => view.put(&(0, sent)),
            State::Replicate => view.put(&1),
            State::Fetch { .. } | State::Snapshot { .. } => {
                unreachable!("in the model the whole log is in memory")
            }
        }
    }
}
