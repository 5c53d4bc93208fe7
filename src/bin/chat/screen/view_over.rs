//! What lies over the conversation, and the first screen.

use super::app::{App, Find, Overlay, Profiled};
use super::form::{Field, Form};
use super::style::{Role, signs, style};
use super::text;
use super::view::{draw_notice, draw_text, put};
use super::words::{COMMANDS, KEYS};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::widgets::{Block, Clear, Widget};

/// Draws what lies over the rest, if anything does.
pub fn draw_overlay(app: &App, frame: &mut Frame<'_>) {
    match &app.overlay {
        None => {}
        Some(Overlay::Help(from)) => draw_help(app, *from, frame),
        Some(Overlay::Find(find)) => draw_find(app, find, frame),
        Some(Overlay::Profiles { list, chosen }) => draw_profiles(app, list, *chosen, frame),
    }
}

/// An empty box with a title, in the middle; returns its inside.
fn open_box(app: &App, frame: &mut Frame<'_>, width: u16, height: u16, title: &str) -> Rect {
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
            &text::line(&right, room.into()),
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
    let list = Rect::new(
        inside.x,
        inside.y + 2,
        inside.width,
        inside.height.saturating_sub(3),
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
            text::line(name, 40),
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
    let (words, role) = match (&find.error, find.asked.is_some(), find.names.len()) {
        (Some(why), _, _) => (why.clone(), Role::Bad),
        (None, true, _) => ("asking".into(), Role::Quiet),
        (None, false, 0) => ("nobody".into(), Role::Quiet),
        (None, false, _) => ("Enter opens, Esc closes".into(), Role::Quiet),
    };
    let words = text::line(&words, inside.width.into());
    put(
        buffer,
        (inside.x, inside.bottom() - 1),
        &words,
        inside.width,
        style(app.look, role),
    );
    frame.set_cursor_position((inside.x + 2 + cell, inside.y));
}

/// One line of input, moved so that the cursor is visible; returns the cursor's cell.
fn draw_field(
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

fn draw_profiles(app: &App, list: &[Profiled], chosen: usize, frame: &mut Frame<'_>) {
    let height = (list.len() as u16)
        .saturating_add(5)
        .min(frame.area().height);
    let inside = open_box(app, frame, 50, height, "Profiles");
    let buffer = frame.buffer_mut();
    let rows = inside.height.saturating_sub(2);
    let from = (chosen + 1).saturating_sub(rows.into());
    let lines = (inside.y..inside.y + rows).zip(list.iter().enumerate().skip(from));
    for (y, (index, profile)) in lines {
        let role = if index == chosen {
            Role::Chosen
        } else {
            Role::Plain
        };
        let account = profile.account.as_deref().unwrap_or("not logged in");
        let words = format!(" {:<20} {account}", profile.name);
        let words = format!(
            "{:<width$}",
            text::line(&words, inside.width.into()),
            width = inside.width.into()
        );
        put(
            buffer,
            (inside.x, y),
            &words,
            inside.width,
            style(app.look, role),
        );
    }
    let hint = "Enter: go on with it; /profile NAME: a new one";
    put(
        buffer,
        (inside.x, inside.bottom() - 1),
        hint,
        inside.width,
        style(app.look, Role::Quiet),
    );
}

/// The first screen.
pub fn draw_form(app: &App, form: &Form, frame: &mut Frame<'_>) {
    let title = if form.sign_up {
        "chat: create an account"
    } else {
        "chat: log in"
    };
    let fields = form.fields();
    let height = fields.len() as u16 + 8;
    let inside = open_box(app, frame, 60, height, title);
    let signs = signs(app.look);
    let mut cursor = None;
    let column = 17.min(inside.width / 2);
    for (y, field) in (inside.y + 1..inside.bottom()).zip(fields) {
        let label = match field {
            Field::Name => "Name",
            Field::Password => "Password",
            Field::Again => "Password, again",
            Field::FullName => "Full name",
            Field::Device => "Device",
        };
        let is_here = *field == form.field;
        let role = if is_here { Role::Strong } else { Role::Plain };
        let buffer = frame.buffer_mut();
        put(buffer, (inside.x, y), label, column, style(app.look, role));
        let room = inside.width.saturating_sub(column);
        let editor = form.editor(*field);
        let at = (inside.x + column, y);
        let cell = if matches!(field, Field::Password | Field::Again) {
            // Not even how long it is, beyond the edge.
            let letters = |text: &str| text.chars().count().min(usize::from(room) - 1);
            put(
                buffer,
                at,
                &signs.hidden.repeat(letters(editor.text())),
                room,
                style(app.look, Role::Plain),
            );
            letters(&editor.text()[..editor.cursor()]) as u16
        } else {
            draw_field(editor.text(), editor.cursor(), buffer, at, room, app)
        };
        if editor.is_empty() && matches!(field, Field::FullName | Field::Device) {
            put(
                buffer,
                at,
                "(may stay empty)",
                room,
                style(app.look, Role::Quiet),
            );
        }
        if is_here {
            cursor = Some((at.0 + cell, y));
        }
    }
    draw_form_hints(app, form, frame, inside);
    let (columns, rows) = app.size;
    let bottom = Rect::new(0, rows.saturating_sub(1), columns, 1);
    draw_notice(app, frame.buffer_mut(), bottom);
    if let Some(cursor) = cursor.filter(|_| app.overlay.is_none() && !form.busy) {
        frame.set_cursor_position(cursor);
    }
}

fn draw_form_hints(app: &App, form: &Form, frame: &mut Frame<'_>, inside: Rect) {
    let y = inside.y + form.fields().len() as u16 + 2;
    let buffer = frame.buffer_mut();
    let (words, role) = match (&form.error, form.busy) {
        (_, true) => ("asking the servers".to_owned(), Role::Quiet),
        (Some(why), false) => (why.clone(), Role::Bad),
        (None, false) => (format!("profile {}", app.profile), Role::Quiet),
    };
    let words = text::line(&words, inside.width.into());
    put(
        buffer,
        (inside.x, y),
        &words,
        inside.width,
        style(app.look, role),
    );
    let other = if form.sign_up {
        "Ctrl-T log in"
    } else {
        "Ctrl-T new account"
    };
    let hints = [
        format!(
            "Enter {}   Tab next field   {other}",
            if form.sign_up { "create" } else { "log in" }
        ),
        "Ctrl-O profiles   Esc ends".to_owned(),
    ];
    for (y, words) in (y + 2..inside.bottom()).zip(hints) {
        put(
            buffer,
            (inside.x, y),
            &words,
            inside.width,
            style(app.look, Role::Quiet),
        );
    }
}
