//! The form of the first screen: logging in, or creating an account.

use super::app::{Credentials, Refused};
use super::editor::Editor;

/// Most bytes in a field: more than any of them may hold.
const FIELD_BYTES_MAX: usize = 1_100;

/// A field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The account.
    Name,
    /// Not shown.
    Password,
    /// The same again, for a new account.
    Again,
    /// Of the person, for this account's own eyes.
    FullName,
    /// What this device is called.
    Device,
}

/// The form.
#[derive(Debug)]
pub struct Form {
    /// For a new account.
    pub sign_up: bool,
    /// Where the cursor is.
    pub field: Field,
    /// The request is under way.
    pub busy: bool,
    /// Since when, in microseconds.
    pub asked_us: u64,
    /// What came of the last one.
    pub error: Option<String>,
    name: Editor,
    password: Editor,
    again: Editor,
    full_name: Editor,
    device: Editor,
}

impl Form {
    /// For logging in; the name may be known.
    pub fn sign_in(name: &str) -> Self {
        let mut form = Self {
            sign_up: false,
            field: if name.is_empty() {
                Field::Name
            } else {
                Field::Password
            },
            busy: false,
            asked_us: 0,
            error: None,
            name: Editor::default(),
            password: Editor::default(),
            again: Editor::default(),
            full_name: Editor::default(),
            device: Editor::default(),
        };
        form.name.set(name);
        form
    }

    /// The fields, from the top.
    pub fn fields(&self) -> &'static [Field] {
        if self.sign_up {
            &[
                Field::Name,
                Field::Password,
                Field::Again,
                Field::FullName,
                Field::Device,
            ]
        } else {
            &[Field::Name, Field::Password, Field::Device]
        }
    }

    /// What is in a field.
    pub fn editor(&self, field: Field) -> &Editor {
        match field {
            Field::Name => &self.name,
            Field::Password => &self.password,
            Field::Again => &self.again,
            Field::FullName => &self.full_name,
            Field::Device => &self.device,
        }
    }

    /// The field with the cursor.
    pub fn editor_mut(&mut self) -> &mut Editor {
        match self.field {
            Field::Name => &mut self.name,
            Field::Password => &mut self.password,
            Field::Again => &mut self.again,
            Field::FullName => &mut self.full_name,
            Field::Device => &mut self.device,
        }
    }

    /// Writes into the field: one line.
    pub fn insert(&mut self, text: &str) {
        let editor = self.editor_mut();
        if editor.text().len() + text.len() <= FIELD_BYTES_MAX {
            editor.insert(&text.replace(['\n', '\r', '\t'], ""));
        }
    }

    /// To the next field, or the one before.
    pub fn step(&mut self, forward: bool) {
        let fields = self.fields();
        let at = fields
            .iter()
            .position(|field| *field == self.field)
            .unwrap_or(0);
        let step = if forward { 1 } else { fields.len() - 1 };
        self.field = fields[(at + step) % fields.len()];
    }

    /// From logging in to creating, and back.
    pub fn toggle(&mut self) {
        self.sign_up = !self.sign_up;
        self.error = None;
        if !self.fields().contains(&self.field) {
            self.field = Field::Password;
        }
    }

    /// What to send; none if something is missing, with the cursor there.
    pub fn submit(&mut self) -> Option<Credentials> {
        let missing = [(Field::Name, "a name"), (Field::Password, "a password")]
            .into_iter()
            .find(|(field, _)| self.editor(*field).is_empty());
        if let Some((field, what)) = missing {
            self.error = Some(format!("{what} is needed"));
            self.field = field;
            return None;
        }
        if self.sign_up && self.again.text() != self.password.text() {
            self.error = Some("the two passwords are not the same".into());
            self.field = Field::Again;
            self.again.take();
            return None;
        }
        self.busy = true;
        self.error = None;
        Some(Credentials {
            name: self.name.text().trim().to_lowercase(),
            password: self.password.text().into(),
            full_name: self.full_name.text().into(),
            device: self.device.text().trim().into(),
        })
    }

    /// It was refused: the cursor goes to what is to blame. A wrong password goes; one that nothing
    /// was said against stays, because nobody likes to type it again.
    pub fn refused(&mut self, refused: Refused) {
        self.busy = false;
        self.error = Some(refused.why);
        let Some(field) = refused.about.filter(|field| self.fields().contains(field)) else {
            return;
        };
        self.field = field;
        if field == Field::Password {
            self.password.take();
            self.again.take();
        }
    }
}
