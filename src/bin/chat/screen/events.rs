//! What happens, and what is to be done about it.

use super::form::Field;
use super::history::{Owner, Record};
use chat::client::{Account, Message, Page, Receipt, SessionData};
use ratatui::crossterm::event::{KeyEvent, MouseEvent};

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// A key.
    Key(KeyEvent),
    /// Text that came at once.
    Paste(String),
    /// The mouse, if it is on.
    Mouse(MouseEvent),
    /// The screen has this size now (columns, rows).
    Resize(u16, u16),
    /// A second or so has passed.
    Tick,
    /// The terminal is gone, or the system ends.
    Quit,
    /// A stored login was found, and is taken into use.
    Resumed(SessionData),
    /// The profiles that there are.
    Profiles(Vec<Profiled>),
    /// Remembered, oldest first.
    History(Vec<Record>),
    /// That was all; whether more can be written.
    HistoryLoaded {
        /// No other process has it open.
        writable: bool,
    },
    /// The history is known to be this account's (or has been emptied).
    HistoryReady {
        /// It was somebody else's: forget what came of it.
        emptied: bool,
    },
    /// A file cannot be read or written.
    Trouble(String),
    /// Logged in by the form.
    SignedIn(SessionData),
    /// Not logged in.
    SignInFailed(Refused),
    /// Whose login it is.
    Account(Account),
    /// The login is no longer valid.
    LoginEnded(String),
    /// The login was ended as one wished, or not.
    LoggedOut(Result<(), String>),
    /// How the connection is.
    Link(Link),
    /// Messages came.
    Inbox(Vec<Message>),
    /// This peer has everything up to this message.
    Delivered(String, u64),
    /// The servers keep nothing of the inbox up to here, and it was not heard before.
    Removed(u64),
    /// What had been waiting is here.
    EndOfBacklog,
    /// The inbox goes on at another replica.
    Reconnected,
    /// The servers do not keep the inbox from where it was asked for.
    InboxTrimmed,
    /// A message was accepted, or not.
    Sent(u64, Result<Receipt, Unsent>),
    /// Names that match a pattern, or why not.
    Names(Asked, Result<Page, String>),
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Take a login into use; keep it in the profile if it is new.
    Open {
        /// The login.
        session: SessionData,
        /// Made just now.
        new: bool,
    },
    /// Log in.
    SignIn(Credentials),
    /// Create an account.
    SignUp(Credentials),
    /// Make sure that the history is this account's.
    Identify(Owner),
    /// Read the inbox, from behind this place or from where the servers think best.
    Listen(Option<u64>),
    /// Remember.
    Keep(Record),
    /// Send (AFTER its request id is kept).
    Send {
        /// Names it.
        key: u64,
        /// To whom.
        peer: String,
        /// What.
        body: String,
        /// When it was written.
        time_us: u64,
        /// Under the request id that it had before.
        again: bool,
        /// How often messages have had to wait before: see [`Unsent::Later`].
        round: u64,
    },
    /// Tell the servers that this device has everything up to here (AFTER it is kept).
    Ack(u64),
    /// Ask how far these peers have received what this account sent them.
    ListDelivered(Vec<String>),
    /// Ask for names.
    Names(Asked),
    /// End the login.
    Logout,
    /// It has ended: the profile forgets it.
    Forget,
    /// Nothing more is wanted of this login now.
    Close,
    /// Look which profiles there are.
    Profiles,
    /// Go on with another profile.
    Profile(String),
    /// Ring.
    Bell,
    /// Take or leave the mouse.
    Mouse(bool),
    /// Draw everything anew.
    Redraw,
    /// Stop, as Ctrl-Z does elsewhere.
    Suspend,
    /// End.
    Quit,
}

/// From the form.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The account.
    pub name: String,
    /// Its password.
    pub password: String,
    /// For a new account.
    pub full_name: String,
    /// May be empty.
    pub device: String,
}

impl std::fmt::Debug for Credentials {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("name", &self.name)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// Why a message was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// Trying again by itself would not help.
    Refused(String),
    /// No replica took it in time. What was sent after it, in this round, was not tried: it would
    /// have overtaken it.
    Later(String),
}

/// Why nobody was logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In words.
    pub why: String,
    /// The field that is to blame.
    pub about: Option<Field>,
}

/// A question for names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// A regular expression.
    pub pattern: String,
    /// Of the page before; empty for the first.
    pub page_token: String,
    /// What for.
    pub purpose: Purpose,
}

/// What names are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The search.
    Search,
    /// The Tab key.
    Completion,
    /// A conversation with somebody who is not known here.
    Opening,
}

/// A profile, and who is logged in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profiled {
    /// Its name.
    pub name: String,
    /// The account, if there is a login.
    pub account: Option<String>,
}

/// How the connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing was heard yet.
    Connecting,
    /// A replica answers.
    Up {
        /// Where requests go.
        replica: String,
        /// There and back, in microseconds; none right after a failover.
        rtt_us: Option<u64>,
    },
    /// None does.
    Down {
        /// Since when, in microseconds since the Unix epoch.
        since_us: u64,
    },
    /// The servers speak another protocol; what to do about it.
    Wrong(String),
}
