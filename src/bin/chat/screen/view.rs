//! The screen, drawn from the model. Changes nothing.
//!
//! ```text
//!  conversations │ bob
//!                │ messages, the newest at the bottom
//!  ──────────────┴──────────── a remark ──
//!  › input, one to six rows
//!  account · replica · round trip      F1 help
//! ```

use super::app::{App, Link, Screen};
use super::complete::Hint;
use super::style::{Role, Signs, signs, style};
use super::{text, view_form, view_list, view_over, view_talk};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use unicode_segmentation::UnicodeSegmentation;

/// Below this nothing useful fits.
const SIZE_MIN: (u16, u16) = (36, 8);
/// Below this the list of conversations gives its place to the messages.
const LIST_COLUMNS_MIN: u16 = 64;
/// Rows of the input at most.
const INPUT_ROWS_MAX: u16 = 6;
/// Cells before the input.
const PROMPT: u16 = 2;

/// What is where.
pub struct Places {
    /// With its heading; empty on a narrow screen.
    pub list: Rect,
    /// Of the open conversation.
    pub title: Rect,
    /// Below it.
    pub messages: Rect,
    /// Between messages and input.
    pub rule: Rect,
    /// Where one writes.
    pub input: Rect,
    /// At the bottom.
    pub status: Rect,
}

/// Divides the screen.
pub fn places(app: &App) -> Places {
    let (columns, rows) = app.size;
    let list = if columns >= LIST_COLUMNS_MIN {
        view_list::width(app, columns)
    } else {
        0
    };
    let width = usize::from(columns.saturating_sub(PROMPT + 1));
    let needed = app.editor().layout(width).0.len();
    let most = INPUT_ROWS_MAX.min(rows / 3).max(1);
    let input = u16::try_from(needed).unwrap_or(most).clamp(1, most);
    // Title, rule, status.
    let above = rows.saturating_sub(input + 2);
    // A free column between the list and the messages, and one for the line.
    let left = if list > 0 { list + 1 } else { 0 };
    let right = columns.saturating_sub(left);
    Places {
        list: Rect::new(0, 0, list, above),
        title: Rect::new(left, 0, right, 1),
        messages: Rect::new(left, 1, right, above.saturating_sub(1)),
        rule: Rect::new(0, above, columns, 1),
        input: Rect::new(0, above + 1, columns, input),
        status: Rect::new(0, rows.saturating_sub(1), columns, 1),
    }
}

/// Width and height in which messages are laid out.
pub fn message_pane(app: &App) -> (usize, usize) {
    let messages = places(app).messages;
    // A free cell at the left edge.
    (
        usize::from(messages.width.saturating_sub(1)),
        usize::from(messages.height),
    )
}

/// Whose row of the list this is.
pub fn peer_at(app: &App, column: u16, row: u16) -> Option<String> {
    view_list::peer_at(app, places(app).list, Position::new(column, row))
}

/// Draws everything.
pub fn draw(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < SIZE_MIN.0 || area.height < SIZE_MIN.1 {
        return draw_too_small(frame);
    }
    // The window has changed a moment ago: the event that says so is on its way.
    if (area.width, area.height) != app.size {
        return;
    }
    match &app.screen {
        Screen::SignIn(form) => view_form::draw_form(app, form, frame),
        Screen::Talks => {
            let places = places(app);
            let buffer = frame.buffer_mut();
            view_list::draw_list(app, buffer, places.list);
            view_talk::draw_title(app, buffer, places.title);
            view_talk::draw_messages(app, buffer, places.messages);
            draw_rule(app, buffer, &places);
            draw_status(app, buffer, places.status);
            let cursor = draw_input(app, buffer, places.input);
            if app.overlay.is_none() {
                frame.set_cursor_position(cursor);
            }
        }
    }
    view_over::draw_overlay(app, frame);
}

/// Text that is harmless already, cut at the edge.
pub fn put(
    buffer: &mut Buffer,
    at: (u16, u16),
    words: &str,
    room: u16,
    style: ratatui::style::Style,
) -> u16 {
    // A row that does not fit is not there; the buffer would take it for a mistake.
    if !buffer.area.contains(Position::new(at.0, at.1)) {
        return at.0;
    }
    let (x, _) = buffer.set_stringn(at.0, at.1, words, room.into(), style);
    x
}

fn draw_too_small(frame: &mut Frame<'_>) {
    let area = frame.area();
    let words = format!(
        "This window is too small: please make it at least {} x {}.",
        SIZE_MIN.0, SIZE_MIN.1
    );
    let rows = text::rows(&words, area.width.into(), text::Break::Words);
    for (y, row) in (0..area.height).zip(rows) {
        put(
            frame.buffer_mut(),
            (0, y),
            &words[row],
            area.width,
            ratatui::style::Style::default(),
        );
    }
}

fn draw_rule(app: &App, buffer: &mut Buffer, places: &Places) {
    let signs = signs(app.look);
    let area = places.rule;
    let quiet = style(app.look, Role::Quiet);
    put(
        buffer,
        (0, area.y),
        &signs.across.repeat(area.width.into()),
        area.width,
        quiet,
    );
    if places.list.width > 0 {
        put(buffer, (places.list.right(), area.y), signs.meet, 1, quiet);
    }
    if app.notice.is_none() {
        draw_hint(app, buffer, area);
    }
    draw_notice(app, buffer, area);
}

/// What the Tab key has found.
fn draw_hint(app: &App, buffer: &mut Buffer, area: Rect) {
    let room = area.width.saturating_sub(6);
    let hint = app.completion.as_ref();
    let Some(hint) = hint.and_then(|completion| completion.hint(room.into())) else {
        return;
    };
    let parts = match hint {
        Hint::Remark(words, bad) => {
            let role = if bad { Role::Bad } else { Role::Plain };
            vec![(words, role)]
        }
        Hint::Choice(before, chosen, after) => vec![
            (before, Role::Plain),
            (chosen, Role::Chosen),
            (after, Role::Plain),
        ],
    };
    let mut x = put(buffer, (2, area.y), " ", 1, style(app.look, Role::Plain));
    let end = x + room;
    for (words, role) in parts {
        let left = end.saturating_sub(x);
        let words = text::line(&words, left.into(), signs(app.look).cut);
        x = put(buffer, (x, area.y), &words, left, style(app.look, role));
    }
    put(buffer, (x, area.y), " ", 1, style(app.look, Role::Plain));
}

/// A remark, if there is one.
pub fn draw_notice(app: &App, buffer: &mut Buffer, area: Rect) {
    if let Some(notice) = &app.notice {
        let role = if notice.bad { Role::Bad } else { Role::Plain };
        let words = text::line(
            &notice.text,
            usize::from(area.width.saturating_sub(6)),
            signs(app.look).cut,
        );
        let words = format!(" {words} ");
        put(
            buffer,
            (2, area.y),
            &words,
            area.width.saturating_sub(4),
            style(app.look, role),
        );
    }
}

fn draw_input(app: &App, buffer: &mut Buffer, area: Rect) -> Position {
    let signs = signs(app.look);
    put(
        buffer,
        (0, area.y),
        signs.prompt,
        1,
        style(app.look, Role::Me),
    );
    let editor = app.editor();
    let width = area.width.saturating_sub(PROMPT + 1);
    let (rows, (row, cell)) = editor.layout(width.into());
    let height = usize::from(area.height).max(1);
    let from = (row + 1).saturating_sub(height);
    for (y, row) in (area.y..area.bottom()).zip(rows.into_iter().skip(from)) {
        let words = &editor.text()[row];
        draw_text(
            buffer,
            (PROMPT, y),
            words,
            width,
            style(app.look, Role::Plain),
        );
    }
    if editor.is_empty() {
        let hint = match &app.open {
            Some(peer) => format!("Write to {}", text::line(peer, 32, signs.cut)),
            None => "Ctrl-F finds people, /msg NAME opens a conversation".into(),
        };
        put(
            buffer,
            (PROMPT, area.y),
            &hint,
            width,
            style(app.look, Role::Quiet),
        );
    }
    Position::new(PROMPT + cell as u16, area.y + (row - from) as u16)
}

/// A row of anybody's text, made harmless on the way.
pub fn draw_text(
    buffer: &mut Buffer,
    at: (u16, u16),
    words: &str,
    room: u16,
    style: ratatui::style::Style,
) -> u16 {
    let end = at.0 + room;
    let mut x = at.0;
    for grapheme in words.graphemes(true) {
        let left = end.saturating_sub(x);
        if left == 0 {
            break;
        }
        x = put(buffer, (x, at.1), &text::shown(grapheme), left, style);
    }
    x
}

fn draw_status(app: &App, buffer: &mut Buffer, area: Rect) {
    let signs = signs(app.look);
    let role = match app.link {
        Link::Down { .. } | Link::Wrong(_) => Role::BarBad,
        Link::Connecting | Link::Up { .. } => Role::Bar,
    };
    let bar = style(app.look, role);
    put(
        buffer,
        (0, area.y),
        &" ".repeat(area.width.into()),
        area.width,
        bar,
    );
    let mut parts = vec![app.me.clone(), link_words(app, signs)];
    if app.profile != "default" && app.profile != app.me {
        parts[0] = format!("{} ({})", app.me, app.profile);
    }
    let sending = app.sending();
    if sending > 0 {
        parts.push(format!("{sending} on the way"));
    }
    if !app.loaded {
        parts.push("reading the history".into());
    } else if !app.writable {
        parts.push("no history kept".into());
    }
    let left = format!(" {}", parts.join(&format!(" {} ", signs.dot)));
    let right = "F1 help ";
    let room = usize::from(area.width).saturating_sub(right.len() + 1);
    put(
        buffer,
        (0, area.y),
        &text::line(&left, room, signs.cut),
        area.width,
        bar,
    );
    let x = area.width.saturating_sub(right.len() as u16);
    put(buffer, (x, area.y), right, area.width, bar);
}

fn link_words(app: &App, signs: &Signs) -> String {
    let is_narrow = app.size.0 < LIST_COLUMNS_MIN;
    let word = if is_narrow { "" } else { "replica " };
    match &app.link {
        Link::Connecting => "connecting".into(),
        Link::Up {
            replica,
            rtt_us: None,
        } => format!("{word}{replica}"),
        Link::Up {
            replica,
            rtt_us: Some(us),
        } => {
            let rtt = match us {
                0..10_000 => format!("{:.1} ms", *us as f64 / 1_000.0),
                us => format!("{} ms", us / 1_000),
            };
            format!("{word}{replica} {} {rtt}", signs.dot)
        }
        Link::Wrong(why) => why.clone(),
        Link::Down { since_us } => {
            let seconds = app.now_us.saturating_sub(*since_us) / 1_000_000;
            if app.was_up {
                format!("reconnecting, for {seconds} s")
            } else {
                format!("no answer for {seconds} s from {}", app.servers)
            }
        }
    }
}
