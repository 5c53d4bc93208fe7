//! Rows of the message pane.
//!
//! A message is laid out by itself and the one before it: a new day gets a row, a new speaker (or
//! a pause) a heading, and the body follows, set in by the width of the marks.

use super::talk::{Message, State, Talk};
use super::text::{self, Break};
use crate::zone::Zone;
use std::ops::Range;

/// Cells left of a body: two for the mark, and a space.
pub const GUTTER: usize = 3;
/// A speaker who goes on after this long gets a new heading with the time.
const PAUSE_US: u64 = 5 * 60 * 1_000_000;

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// A free one.
    Space,
    /// A new day.
    Day,
    /// Who, and when.
    Heading,
    /// A part of the body; the first of them carries the mark.
    Body {
        /// Of the body, in bytes.
        range: Range<usize>,
        /// The message's first one.
        first: bool,
    },
    /// A part of why it failed.
    Reason {
        /// Of [`reason`], in bytes.
        range: Range<usize>,
    },
}

/// The rows of a message, top first; at least one.
pub fn rows(talk: &Talk, index: usize, width: usize, zone: &Zone) -> Vec<Row> {
    #[cfg(test)]
    LAID_OUT.set(laid_out() + 1);
    let message = &talk.messages()[index];
    let before = index.checked_sub(1).map(|before| &talk.messages()[before]);
    let mut rows = Vec::new();
    let new_day = before.is_none_or(|before| zone.day(before.time_us) != zone.day(message.time_us));
    let goes_on = before.is_some_and(|before| {
        before.own == message.own && message.time_us.abs_diff(before.time_us) < PAUSE_US
    });
    if new_day || !goes_on {
        if before.is_some() {
            rows.push(Row::Space);
        }
        if new_day {
            rows.push(Row::Day);
        }
        rows.push(Row::Heading);
    }
    let column = width.saturating_sub(GUTTER + 1);
    let body = text::rows(&message.body, column, Break::Words);
    rows.extend(
        body.into_iter()
            .enumerate()
            .map(|(number, range)| Row::Body {
                range,
                first: number == 0,
            }),
    );
    if let Some(reason) = reason(message) {
        let reason = text::rows(&reason, column, Break::Words);
        rows.extend(reason.into_iter().map(|range| Row::Reason { range }));
    }
    rows
}

/// Why a message failed or waits, and what can be done.
pub fn reason(message: &Message) -> Option<String> {
    match &message.state {
        State::Failed(why) => Some(format!("{why} (Ctrl-R tries again, Ctrl-X discards)")),
        State::Waiting(why) if !why.is_empty() => {
            Some(format!("{why}; it goes out by itself (Ctrl-X discards)"))
        }
        State::Sending | State::Waiting(_) | State::Accepted => None,
    }
}

#[cfg(test)]
thread_local! {
    static LAID_OUT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Messages that this thread has laid out so far: tests see to it that it stays small.
#[cfg(test)]
pub fn laid_out() -> usize {
    LAID_OUT.get()
}
