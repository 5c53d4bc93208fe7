//! The first screen: logging in, or creating an account.
//!
//! A small window loses free rows first, then the border, then hints; never a field, nor all of why
//! something was refused.

use super::app::App;
use super::form::{Field, Form};
use super::style::{Role, signs, style};
use super::text::{self, Break};
use super::view::{draw_notice, put};
use super::view_over::{draw_field, open_box};
use ratatui::Frame;
use ratatui::layout::Rect;

/// Columns of the box, where there are so many.
const COLUMNS: u16 = 60;
/// Rows of what is said below the fields.
const STATUS_ROWS_MAX: usize = 3;

/// What is where.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    bordered: bool,
    /// Free rows above the fields, below them, and below what is said.
    free: [u16; 3],
    status: u16,
    hints: u16,
}

impl Plan {
    /// For so many fields, rows of what is said, and of hints; `matters`: what is said is worth more
    /// than a second row of hints.
    fn new(fields: usize, status: usize, hints: usize, matters: bool, height: u16) -> Self {
        let (fields, status, hints) = (fields as u16, status as u16, hints as u16);
        // With a border at least a row of each must fit.
        let bordered = fields + 2 + 2 <= height;
        let mut left = height.saturating_sub(fields + if bordered { 2 } else { 1 });
        let mut take = |wanted: u16| {
            let taken = wanted.min(left);
            left -= taken;
            taken
        };
        // One row of each before a second row of anything.
        let (first_hint, first_said) = (take(1), take(1));
        let more = hints.saturating_sub(1);
        let mut more_hints = if matters { 0 } else { take(more) };
        let status = first_said + take(status.saturating_sub(1));
        more_hints += take(more - more_hints);
        let hints = first_hint + more_hints;
        let (below, above_hints, above) = (take(1), take(1), take(1));
        Self {
            bordered,
            free: [above, below, above_hints],
            status,
            hints,
        }
    }

    fn height(&self, fields: usize) -> u16 {
        let free: u16 = self.free.iter().sum();
        fields as u16 + free + self.status + self.hints + if self.bordered { 2 } else { 1 }
    }
}

/// Draws it.
pub fn draw_form(app: &App, form: &Form, frame: &mut Frame<'_>) {
    let area = frame.area();
    let title = if form.sign_up {
        "chat: create an account"
    } else {
        "chat: log in"
    };
    // The same room with and without a border, so that what is said has the same rows.
    let width = COLUMNS.min(area.width) - 4;
    let (words, role) = status(app, form);
    let status = text::rows(&words, width.into(), Break::Words);
    let hints = hints(form, width.into());
    let fields = form.fields().len();
    let said = status.len().min(STATUS_ROWS_MAX);
    let matters = role == Role::Bad;
    let plan = Plan::new(fields, said, hints.len(), matters, area.height);
    let inside = if plan.bordered {
        open_box(app, frame, COLUMNS, plan.height(fields), title)
    } else {
        let strong = style(app.look, Role::Strong);
        put(frame.buffer_mut(), (2, 0), title, width, strong);
        Rect::new(2, 1, width, area.height - 1)
    };
    let mut y = inside.y + plan.free[0];
    draw_fields(app, form, frame, inside, y);
    y += fields as u16 + plan.free[1];
    let look = style(app.look, role);
    let shown = text::fold(&words, &status, plan.status.into(), signs(app.look).cut);
    for row in shown {
        put(frame.buffer_mut(), (inside.x, y), &row, width, look);
        y += 1;
    }
    y += plan.free[2];
    let quiet = style(app.look, Role::Quiet);
    for hint in hints.iter().take(plan.hints.into()) {
        put(frame.buffer_mut(), (inside.x, y), hint, width, quiet);
        y += 1;
    }
    let bottom = Rect::new(0, area.height.saturating_sub(1), area.width, 1);
    draw_notice(app, frame.buffer_mut(), bottom);
}

fn draw_fields(app: &App, form: &Form, frame: &mut Frame<'_>, inside: Rect, top: u16) {
    let signs = signs(app.look);
    let column = 17.min(inside.width / 2);
    for (y, field) in (top..).zip(form.fields()) {
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
            let hidden = signs.hidden.repeat(letters(editor.text()));
            put(buffer, at, &hidden, room, style(app.look, Role::Plain));
            letters(&editor.text()[..editor.cursor()]) as u16
        } else {
            draw_field(editor.text(), editor.cursor(), buffer, at, room, app)
        };
        if editor.is_empty() && matches!(field, Field::FullName | Field::Device) {
            let quiet = style(app.look, Role::Quiet);
            put(buffer, at, "(may stay empty)", room, quiet);
        }
        if is_here && app.overlay.is_none() && !form.busy {
            frame.set_cursor_position((at.0 + cell, y));
        }
    }
}

/// What came of it, or what is going on, or where it would go.
fn status(app: &App, form: &Form) -> (String, Role) {
    let servers = &app.servers;
    match (&form.error, form.busy) {
        (_, true) => {
            let seconds = app.now_us.saturating_sub(form.asked_us) / 1_000_000;
            let waits = match seconds {
                0 => String::new(),
                _ => format!(": no answer for {seconds} s"),
            };
            (format!("asking {servers}{waits}"), Role::Quiet)
        }
        (Some(why), false) => (why.clone(), Role::Bad),
        (None, false) => (
            format!("profile {}, at {servers}", app.profile),
            Role::Quiet,
        ),
    }
}

/// What the keys do, those that matter most first.
fn hints(form: &Form, width: usize) -> Vec<String> {
    let (enter, other) = if form.sign_up {
        ("Enter create", "Ctrl-T log in")
    } else {
        ("Enter log in", "Ctrl-T new account")
    };
    let mut rows: Vec<String> = Vec::new();
    for hint in [
        enter,
        other,
        "Tab next field",
        "Ctrl-O profiles",
        "Esc ends",
    ] {
        match rows.last_mut() {
            Some(row) if row.len() + 3 + hint.len() <= width => {
                row.push_str("   ");
                row.push_str(hint);
            }
            _ => rows.push(hint.to_owned()),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_all_fields_and_a_row_of_what_is_said_and_of_hints() {
        for fields in [3, 5] {
            for status in 1..=STATUS_ROWS_MAX {
                for hints in 2..5 {
                    for (height, matters) in (8..40).flat_map(|h| [(h, true), (h, false)]) {
                        let plan = Plan::new(fields, status, hints, matters, height);
                        let context = format!("{fields} {status} {hints} {height}: {plan:?}");
                        assert!(plan.height(fields) <= height, "{context}");
                        assert!(plan.status >= 1 && plan.hints >= 1, "{context}");
                        if height >= 20 {
                            assert_eq!(plan.free, [1, 1, 1], "{context}");
                            assert_eq!(usize::from(plan.hints), hints, "{context}");
                        }
                    }
                }
            }
        }
    }
}
