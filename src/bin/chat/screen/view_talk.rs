//! The open conversation: from the bottom upwards, and only as far as the screen reaches.

use super::app::App;
use super::layout::{self, GUTTER, Row};
use super::style::{Role, signs, style};
use super::talk::{Message, State, Talk};
use super::text;
use super::view::{draw_text, message_pane, put};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// With whom, and how far below the newest is.
pub fn draw_title(app: &App, buffer: &mut Buffer, area: Rect) {
    let signs = signs(app.look);
    let strong = style(app.look, Role::Strong);
    let Some(talk) = app.talk() else {
        put(buffer, (area.x + 1, area.y), "chat", area.width, strong);
        return;
    };
    let below = match talk.bottom() {
        Some(bottom) if !talk.follows() => {
            let count = talk.messages().len() - 1 - bottom.index;
            format!(" {} {} below (Esc) ", signs.below, count.max(1))
        }
        _ => String::new(),
    };
    let right = text::width(&below) as u16;
    let x = area.right().saturating_sub(right);
    put(
        buffer,
        (x, area.y),
        &below,
        right,
        style(app.look, Role::Quiet),
    );
    let mut words = talk.peer.clone();
    if talk.peer == app.me {
        words.push_str(" (yourself)");
    }
    // On a narrow screen there is no list that would show it.
    if area.x == 0 && app.unread() > talk.unread {
        let elsewhere = app.unread() - talk.unread;
        words = format!("{words}  ({elsewhere} unread elsewhere: Ctrl-G)");
    }
    let room = area.width.saturating_sub(right + 1);
    let words = text::line(&words, room.into(), signs.cut);
    put(buffer, (area.x + 1, area.y), &words, room, strong);
}

/// The messages.
pub fn draw_messages(app: &App, buffer: &mut Buffer, area: Rect) {
    let Some(talk) = app.talk() else {
        return draw_welcome(app, buffer, area);
    };
    let Some(bottom) = talk.bottom() else {
        let words = format!(
            "Nothing was said yet. What you write goes to {}.",
            talk.peer
        );
        let words = text::line(
            &words,
            usize::from(area.width.saturating_sub(2)),
            signs(app.look).cut,
        );
        put(
            buffer,
            (area.x + 1, area.y + 1),
            &words,
            area.width,
            style(app.look, Role::Quiet),
        );
        return;
    };
    let (width, height) = message_pane(app);
    let mut visible: Vec<(usize, Row)> = Vec::with_capacity(height);
    let mut skip = bottom.hidden;
    for index in (0..=bottom.index).rev() {
        if visible.len() >= height {
            break;
        }
        let rows = layout::rows(talk, index, width, &app.zone);
        let rows = rows.into_iter().rev().skip(skip);
        visible.extend(rows.map(|row| (index, row)));
        skip = 0;
    }
    visible.truncate(height);
    // A conversation that does not fill the pane begins at its top.
    let rows = visible.iter().rev();
    for (y, (index, row)) in (area.y..area.bottom()).zip(rows) {
        let message = &talk.messages()[*index];
        draw_row(
            app,
            talk,
            message,
            row,
            buffer,
            Rect::new(area.x + 1, y, area.width - 1, 1),
        );
    }
}

fn draw_welcome(app: &App, buffer: &mut Buffer, area: Rect) {
    let lines = [
        "No conversations yet.",
        "",
        "Ctrl-F    find people",
        "/msg NAME open a conversation",
        "F1        all keys and commands",
    ];
    for (y, words) in (area.y + 1..area.bottom()).zip(lines) {
        put(
            buffer,
            (area.x + 1, y),
            words,
            area.width,
            style(app.look, Role::Quiet),
        );
    }
}

fn draw_row(app: &App, talk: &Talk, message: &Message, row: &Row, buffer: &mut Buffer, area: Rect) {
    let look = |role| style(app.look, role);
    let at = (area.x, area.y);
    match row {
        Row::Space => {}
        Row::Day => {
            let across = signs(app.look).across;
            let words = format!(
                "{across}{across} {} {across}{across}",
                app.zone.date(message.time_us)
            );
            put(buffer, at, &words, area.width, look(Role::Quiet));
        }
        Row::Heading => {
            let (name, role) = if message.own {
                ("you", Role::Me)
            } else {
                (talk.peer.as_str(), Role::Peer)
            };
            let room = area.width.saturating_sub(7);
            let x = put(
                buffer,
                at,
                &text::line(name, room.into(), signs(app.look).cut),
                room,
                look(role),
            );
            let clock = app.zone.clock(message.time_us);
            put(buffer, (x + 1, area.y), &clock, 6, look(Role::Quiet));
        }
        Row::Body { range, first } => {
            if *first && message.own {
                draw_mark(app, talk, message, buffer, at);
            }
            let gutter = GUTTER as u16;
            let room = area.width.saturating_sub(gutter);
            draw_body(
                app,
                &message.body,
                range,
                buffer,
                (area.x + gutter, area.y),
                room,
            );
        }
        Row::Reason { range } => {
            let reason = layout::reason(message).unwrap_or_default();
            let gutter = GUTTER as u16;
            let room = area.width.saturating_sub(gutter);
            let at = (area.x + gutter, area.y);
            let role = match message.state {
                State::Failed(_) => Role::Bad,
                State::Sending | State::Waiting(_) | State::Accepted => Role::Quiet,
            };
            draw_text(buffer, at, &reason[range.clone()], room, look(role));
        }
    }
}

fn draw_mark(app: &App, talk: &Talk, message: &Message, buffer: &mut Buffer, at: (u16, u16)) {
    let signs = signs(app.look);
    let (sign, role) = match &message.state {
        State::Sending | State::Waiting(_) => (signs.sending, Role::Quiet),
        State::Accepted if talk.is_delivered(message) => (signs.delivered, Role::Good),
        State::Accepted => (signs.accepted, Role::Good),
        State::Failed(_) => (signs.failed, Role::Bad),
    };
    put(buffer, at, sign, 2, style(app.look, role));
}

fn draw_body(
    app: &App,
    body: &str,
    range: &std::ops::Range<usize>,
    buffer: &mut Buffer,
    at: (u16, u16),
    room: u16,
) {
    let end = at.0 + room;
    let mut x = at.0;
    let mut from = range.start;
    for link in text::links(body) {
        let start = link.start.clamp(from, range.end);
        let stop = link.end.clamp(start, range.end);
        if start == stop {
            continue;
        }
        let plain = style(app.look, Role::Plain);
        x = draw_text(
            buffer,
            (x, at.1),
            &body[from..start],
            end.saturating_sub(x),
            plain,
        );
        let look = style(app.look, Role::Link);
        x = draw_text(
            buffer,
            (x, at.1),
            &body[start..stop],
            end.saturating_sub(x),
            look,
        );
        from = stop;
    }
    let plain = style(app.look, Role::Plain);
    draw_text(
        buffer,
        (x, at.1),
        &body[from..range.end],
        end.saturating_sub(x),
        plain,
    );
}
