//! The list of conversations: the open one is always in it, and what does not fit is counted.

use super::app::App;
use super::style::{Role, signs, style};
use super::text;
use super::view::put;
use chat::limits;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use std::ops::Range;

/// Cells beside a name: one before it, and behind it a number of two digits between spaces.
const BESIDE_NAME: usize = 5;
/// Fewer rows than this have no room for the counts of what is not shown.
const ROWS_COUNTED_MIN: usize = 3;

/// Which conversations are shown, and how many are not.
///
/// INVARIANT: the open one is shown. What is counted is never one alone: it would fit in the row
/// that its count takes.
#[derive(Debug, PartialEq, Eq)]
struct Window {
    /// Above those that are shown.
    above: usize,
    /// Places in the list.
    shown: Range<usize>,
    /// Below.
    below: usize,
}

impl Window {
    /// Of `count` conversations in so many rows; `open`: the place that must be shown.
    fn new(count: usize, rows: usize, open: usize) -> Self {
        let shown = if count <= rows {
            0..count
        } else if rows < ROWS_COUNTED_MIN {
            let start = (open + 1).saturating_sub(rows);
            return Self {
                above: 0,
                shown: start..start + rows,
                below: 0,
            };
        } else if open < rows - 1 {
            0..rows - 1
        } else if open + 2 >= count {
            count + 1 - rows..count
        } else {
            open + 3 - rows..open + 1
        };
        Self {
            above: shown.start,
            below: count - shown.end,
            shown,
        }
    }

    fn of(app: &App, list: Rect) -> Self {
        let open = app
            .order
            .iter()
            .position(|peer| Some(peer) == app.open.as_ref());
        let rows = usize::from(list.height.saturating_sub(1));
        Self::new(app.order.len(), rows, open.unwrap_or(0))
    }

    /// The first row below the heading that is a conversation's.
    fn first_row(&self) -> u16 {
        1 + u16::from(self.above > 0)
    }
}

/// Columns of the list: a quarter of the screen, and more if names need it, but less than half.
pub fn width(app: &App, columns: u16) -> u16 {
    let longest = app.order.iter().map(|peer| text::width(peer)).max();
    let wanted = longest.unwrap_or(0).min(limits::USER_NAME_MAX) + BESIDE_NAME;
    let usual = (columns / 4).clamp(18, 30);
    usual.max(wanted as u16).min(columns / 2 - 1)
}

/// Whose row of the list this is.
pub fn peer_at(app: &App, list: Rect, at: Position) -> Option<String> {
    if !list.contains(at) {
        return None;
    }
    let window = Window::of(app, list);
    let row = at.y.checked_sub(window.first_row())?;
    let place = window.shown.start + usize::from(row);
    let peer = app.order.get(place);
    peer.filter(|_| window.shown.contains(&place)).cloned()
}

/// Draws the list and the line right of it.
pub fn draw_list(app: &App, buffer: &mut Buffer, area: Rect) {
    if area.width == 0 {
        return;
    }
    let signs = signs(app.look);
    let quiet = style(app.look, Role::Quiet);
    for y in area.top()..area.bottom() {
        put(buffer, (area.right(), y), signs.down, 1, quiet);
    }
    let heading = heading(app.unread(), area.width.into());
    let strong = style(app.look, Role::Strong);
    put(buffer, (0, 0), &heading, area.width, strong);
    let window = Window::of(app, area);
    let rows = window.first_row()..area.bottom();
    for (y, peer) in rows.zip(&app.order[window.shown.clone()]) {
        draw_row(app, buffer, y, area.width, peer);
    }
    for (sign, count, y) in [
        (signs.above, window.above, 1),
        (signs.below, window.below, area.bottom() - 1),
    ] {
        if count > 0 {
            let words = format!(" {sign} {count} more");
            put(buffer, (0, y), &words, area.width, quiet);
        }
    }
}

/// What is unread in all of them, in words that fit.
fn heading(unread: usize, width: usize) -> String {
    if unread == 0 {
        return " Conversations".into();
    }
    let count = counted(unread);
    let long = format!(" Conversations ({count})");
    if text::width(&long) <= width {
        return long;
    }
    format!(" Unread: {count}")
}

/// A number that is never cut.
fn counted(unread: usize) -> String {
    match unread {
        0..=999 => unread.to_string(),
        _ => "999+".into(),
    }
}

fn draw_row(app: &App, buffer: &mut Buffer, y: u16, width: u16, peer: &str) {
    let Some(talk) = app.talks.get(peer) else {
        return;
    };
    let signs = signs(app.look);
    let is_open = app.open.as_deref() == Some(peer);
    let role = match (is_open, talk.unread > 0) {
        (true, _) => Role::Chosen,
        (false, true) => Role::Strong,
        (false, false) => Role::Plain,
    };
    let look = style(app.look, role);
    let count = match (talk.unread, talk.failed) {
        (0, 0) => String::new(),
        (0, _) => signs.failed.to_owned(),
        (unread, 0) => counted(unread),
        (unread, _) => format!("{} {}", signs.failed, counted(unread)),
    };
    let draft = if !is_open && !talk.draft.is_empty() {
        " (draft)"
    } else {
        ""
    };
    let right = text::width(&count) as u16 + 1;
    put(buffer, (0, y), &" ".repeat(width.into()), width, look);
    // A free cell at the left, and one before the count, if there is one.
    let room = width.saturating_sub(right + 1 + u16::from(!count.is_empty()));
    let x = put(
        buffer,
        (1, y),
        &text::line(peer, room.into(), signs.cut),
        room,
        look,
    );
    let left = width.saturating_sub(right + x);
    put(buffer, (x, y), draft, left, style(app.look, Role::Quiet));
    let look = if talk.failed > 0 && !is_open {
        style(app.look, Role::Bad)
    } else {
        look
    };
    put(
        buffer,
        (width.saturating_sub(right), y),
        &count,
        right,
        look,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_open_one_is_always_shown_and_every_one_is_shown_or_counted() {
        for count in 0..40_usize {
            for rows in 1..20 {
                for open in 0..count.max(1) {
                    let window = Window::new(count, rows, open);
                    let context = format!("{open} of {count} in {rows}: {window:?}");
                    assert!(count == 0 || window.shown.contains(&open), "{context}");
                    assert!(window.above != 1 && window.below != 1, "{context}");
                    let counts = usize::from(window.above > 0) + usize::from(window.below > 0);
                    assert!(window.shown.len() + counts <= rows, "{context}");
                    if rows >= ROWS_COUNTED_MIN {
                        assert_eq!(
                            window.above + window.shown.len() + window.below,
                            count,
                            "{context}"
                        );
                        // No row is wasted.
                        assert_eq!(window.shown.len() + counts, rows.min(count), "{context}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_heading_is_never_cut() {
        for width in 18..=30 {
            for unread in [0, 1, 9, 10, 999, 1_000, 1_000_000] {
                assert!(text::width(&heading(unread, width)) <= width);
            }
        }
    }
}
