//! What lies over the conversation.

use super::app::{App, Find, Overlay, Profiled};
use super::editor::Editor;
use super::style::{Role, signs, style};
use super::text::{self, Break};
use super::view::{draw_text, put};
use super::words::{COMMANDS, KEYS};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::widgets::{Block, Clear, Widget};

/// Rows of what is said about a search.
const SAID_ROWS_MAX: usize = 3;

/// Draws what lies over the rest, if anything does.
pub fn draw_overlay(app: &App, frame: &mut Frame<'_>) {
    match &app.overlay {
        None => {}
        Some(Overlay::Help(from)) => draw_help(app, *from, frame),
        Some(Overlay::Find(find)) => draw_find(app, find, frame),
        Some(Overlay::Profiles { list, chosen, name }) => {
            draw_profiles(app, (list, *chosen), name, frame);
        }
    }
}

/// An empty box with a title, in the middle; returns its inside.
pub fn open_box(app: &App, frame: &mut Frame<'_>, width: u16, height: u16, title: &str) -> Rect {
    let area = frame.area();
    let (width, height) = (width.min(area.width), height.min(area.height));
    let x = (area.width - width) / 2;
    let y = (area.height - height) / 2;
    let place = Rect::new(x, y, width, height);
    let block = Block::bordered()
        .border_set(signs(app.look).border)
        .title(format!(" {title} "))
        .title_style(style(app.look, Role::Strong));
    let inside = block.inner(place);
    Clear.render(place, frame.buffer_mut());
    block.render(place, frame.buffer_mut());
    // A free cell at both sides.
    Rect::new(
        inside.x + 1,
        inside.y,
        inside.width.saturating_sub(2),
        inside.height,
    )
}

fn draw_help(app: &App, from: usize, frame: &mut Frame<'_>) {
    let signs = signs(app.look);
    let mut lines: Vec<(String, String, Role)> = Vec::new();
    let heading = |words: &str| (words.to_owned(), String::new(), Role::Strong);
    lines.push(heading("Keys"));
    lines.extend(
        KEYS.iter()
            .map(|(key, what)| (format!("  {key}"), (*what).into(), Role::Plain)),
    );
    lines.push(heading(""));
    lines.push(heading("Commands"));
    lines.extend(COMMANDS.iter().map(|(name, arguments, what)| {
        (format!("  {name} {arguments}"), (*what).into(), Role::Plain)
    }));
    lines.push(heading(""));
    lines.push(heading("Marks"));
    let marks = [
        (
            signs.sending,
            "on its way; goes out when a replica takes it",
        ),
        (
            signs.accepted,
            "accepted: on disk on a majority of the replicas",
        ),
        (
            signs.delivered,
            "delivered: a device of the other one has it",
        ),
        (
            signs.failed,
            "refused: Ctrl-R tries again, and it arrives once",
        ),
    ];
    lines.extend(marks.map(|(sign, what)| (format!("  {sign}"), what.into(), Role::Plain)));
    let height = (lines.len() as u16).saturating_add(2);
    let inside = open_box(app, frame, 78, height, "Help (Esc closes, Down goes on)");
    let from = from.min(lines.len().saturating_sub(inside.height.into()));
    let column = 23.min(inside.width / 3);
    let rows = inside.y..inside.bottom();
    for (y, (left, right, role)) in rows.zip(lines.into_iter().skip(from)) {
        let buffer = frame.buffer_mut();
        let x = put(
            buffer,
            (inside.x, y),
            &left,
            inside.width,
            style(app.look, role),
        );
        let x = x.max(inside.x + column) + 1;
        let room = inside.right().saturating_sub(x);
        put(
            buffer,
            (x, y),
            &text::line(&right, room.into(), signs.cut),
            room,
            style(app.look, Role::Plain),
        );
    }
}

fn draw_find(app: &App, find: &Find, frame: &mut Frame<'_>) {
    let height = frame.area().height.saturating_sub(4).min(20);
    let inside = open_box(
        app,
        frame,
        50,
        height,
        "Find people: a part of the name, or a pattern",
    );
    let signs = signs(app.look);
    let buffer = frame.buffer_mut();
    put(
        buffer,
        (inside.x, inside.y),
        signs.prompt,
        1,
        style(app.look, Role::Me),
    );
    let room = inside.width.saturating_sub(2);
    let cell = draw_field(
        find.pattern.text(),
        find.pattern.cursor(),
        buffer,
        (inside.x + 2, inside.y),
        room,
        app,
    );
    let (words, role) = match (&find.error, find.asked.is_some(), find.names.len()) {
        (Some(why), _, _) => (why.as_str(), Role::Bad),
        (None, true, _) => ("asking", Role::Quiet),
        (None, false, 0) => ("nobody", Role::Quiet),
        (None, false, _) => ("Enter opens, Esc closes", Role::Quiet),
    };
    let rows = text::rows(words, inside.width.into(), Break::Words);
    let said = text::fold(words, &rows, SAID_ROWS_MAX, signs.cut);
    let above = inside.height.saturating_sub(said.len() as u16);
    for (y, words) in (inside.y + above..inside.bottom()).zip(&said) {
        let look = style(app.look, role);
        put(buffer, (inside.x, y), words, inside.width, look);
    }
    let list = Rect::new(
        inside.x,
        inside.y + 2,
        inside.width,
        above.saturating_sub(2),
    );
    let from = (find.chosen + 1).saturating_sub(list.height.into());
    let rows = (list.y..list.bottom()).zip(find.names.iter().enumerate().skip(from));
    for (y, (index, name)) in rows {
        let role = if index == find.chosen {
            Role::Chosen
        } else {
            Role::Plain
        };
        let words = format!(
            " {:<width$}",
            text::line(name, 40, signs.cut),
            width = usize::from(list.width.saturating_sub(1))
        );
        put(
            buffer,
            (list.x, y),
            &words,
            list.width,
            style(app.look, role),
        );
    }
    frame.set_cursor_position((inside.x + 2 + cell, inside.y));
}

/// One line of input, moved so that the cursor is visible; returns the cursor's cell.
pub fn draw_field(
    words: &str,
    cursor: usize,
    buffer: &mut ratatui::buffer::Buffer,
    at: (u16, u16),
    room: u16,
    app: &App,
) -> u16 {
    use unicode_segmentation::UnicodeSegmentation;
    let mut from = 0;
    while text::width(&words[from..cursor]) + 1 > usize::from(room) {
        let Some(first) = words[from..].graphemes(true).next() else {
            break;
        };
        from += first.len();
    }
    draw_text(
        buffer,
        at,
        &words[from..],
        room,
        style(app.look, Role::Plain),
    );
    text::width(&words[from..cursor]) as u16
}

fn draw_profiles(
    app: &App,
    (list, chosen): (&[Profiled], usize),
    name: &Editor,
    frame: &mut Frame<'_>,
) {
    let wanted = (list.len() as u16).saturating_add(6);
    let height = wanted.min(frame.area().height);
    let inside = open_box(app, frame, 50, height, "Profiles");
    let (width, signs) = (inside.width, signs(app.look));
    let buffer = frame.buffer_mut();
    let me = style(app.look, Role::Me);
    put(buffer, (inside.x, inside.y), signs.prompt, 1, me);
    let at = (inside.x + 2, inside.y);
    let cell = draw_field(name.text(), name.cursor(), buffer, at, width - 2, app);
    let quiet = style(app.look, Role::Quiet);
    if name.is_empty() {
        put(buffer, at, "a name, for a new one", width - 2, quiet);
    }
    let rows = inside.height.saturating_sub(4);
    let from = (chosen + 1).saturating_sub(rows.into());
    let top = inside.y + 2;
    let lines = (top..top + rows).zip(list.iter().enumerate().skip(from));
    for (y, (index, profile)) in lines {
        let role = if index == chosen && name.is_empty() {
            Role::Chosen
        } else {
            Role::Plain
        };
        let account = profile.account.as_deref().unwrap_or("not logged in");
        let mark = if profile.name == app.profile {
            " (this one)"
        } else {
            ""
        };
        let words = format!(" {:<20} {account}{mark}", profile.name);
        let words = text::line(&words, width.into(), signs.cut);
        let words = format!("{words:<width$}", width = width.into());
        put(buffer, (inside.x, y), &words, width, style(app.look, role));
    }
    let hint = "Enter: go on with it   Esc: stay";
    put(buffer, (inside.x, inside.bottom() - 1), hint, width, quiet);
    frame.set_cursor_position((at.0 + cell, at.1));
}
