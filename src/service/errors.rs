//! What can go wrong for a client: one table of stable reason words, shared by every front.
//!
//! A word never changes its meaning and is never reused; clients decide by it, people read the
//! sentence. Nothing here ever carries a password, a token or a message body.

use crate::replica::{ReadError, WriteError};
use crate::state_machine::Refusal;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The kind of an error, numbered as gRPC's canonical status codes are, so that a front converts
/// it without a table of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Code {
    /// The request itself is wrong; the same request will always be refused.
    InvalidArgument = 3,
    /// No answer in time: it may have been applied or not.
    DeadlineExceeded = 4,
    /// What it names does not exist.
    NotFound = 5,
    /// What it would create exists.
    AlreadyExists = 6,
    /// Too much at once; later perhaps.
    ResourceExhausted = 8,
    /// The account is not in a state for it.
    FailedPrecondition = 9,
    /// Another request came in between.
    Aborted = 10,
    /// Beyond the end.
    OutOfRange = 11,
    /// A defect of the server.
    Internal = 13,
    /// Not now, or not on this replica; certainly not applied.
    Unavailable = 14,
    /// Who asks is not known.
    Unauthenticated = 16,
}

/// Writes the enum, the list of all reasons and the table from one list.
macro_rules! reasons {
    ($($variant:ident $word:literal $code:ident $retry_ms:expr, $sentence:literal;)*) => {
        /// Why a request failed. Its [`Reason::word`] is the same in gRPC's `ErrorInfo` and on
        /// the wire.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Reason {
            $(#[doc = $sentence] $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            const fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row {
                        word: $word,
                        code: Code::$code,
                        retry_ms: $retry_ms,
                        sentence: $sentence,
                    },)*
                }
            }
        }
    };
}

struct Row {
    word: &'static str,
    code: Code,
    retry_ms: Option<u64>,
    sentence: &'static str,
}

reasons! {
    InvalidName "INVALID_NAME" InvalidArgument None,
        "a user name is 1 to 32 of a-z, 0-9, '.', '_' and '-', and begins with a letter or digit";
    InvalidPassword "INVALID_PASSWORD" InvalidArgument None,
        "a password is 1 to 1024 bytes long";
    FullNameTooLong "FULL_NAME_TOO_LONG" InvalidArgument None,
        "the full name is too long";
    DeviceIdInvalid "DEVICE_ID_INVALID" InvalidArgument None,
        "a device id is 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'";
    MessageEmpty "MESSAGE_EMPTY" InvalidArgument None,
        "the message has no body";
    MessageTooLong "MESSAGE_TOO_LONG" InvalidArgument None,
        "the message body is too long";
    ContentTypeInvalid "CONTENT_TYPE_INVALID" InvalidArgument None,
        "a content type is at most 128 printable ASCII characters";
    PatternInvalid "PATTERN_INVALID" InvalidArgument None,
        "the pattern is not a regular expression that this server accepts";
    PatternTooLong "PATTERN_TOO_LONG" InvalidArgument None,
        "the pattern is too long";
    PageTokenInvalid "PAGE_TOKEN_INVALID" InvalidArgument None,
        "the page token is not one that this server gave";
    RequestIdInvalid "REQUEST_ID_INVALID" InvalidArgument None,
        "a request id is 16 random bytes and a sequence number from 1";
    TokenMissing "TOKEN_MISSING" Unauthenticated None,
        "the request needs a token: 'authorization: Bearer TOKEN'";
    TokenInvalid "TOKEN_INVALID" Unauthenticated None,
        "the token is not valid: it expired, was revoked, or never existed";
    BadCredentials "BAD_CREDENTIALS" Unauthenticated None,
        "no account has this name and password";
    NameTaken "NAME_TAKEN" AlreadyExists None,
        "the account name is taken";
    RecipientUnknown "RECIPIENT_UNKNOWN" NotFound None,
        "the recipient has no account";
    UserUnknown "USER_UNKNOWN" NotFound None,
        "the account does not exist";
    SessionUnknown "SESSION_UNKNOWN" NotFound None,
        "the account has no such session";
    PasswordChanged "PASSWORD_CHANGED" Aborted None,
        "the password changed while the request was under way";
    ClientUnknown "CLIENT_UNKNOWN" FailedPrecondition None,
        "the client id of the request is not registered: log in with it first";
    RequestIdReused "REQUEST_ID_REUSED" InvalidArgument None,
        "this request id was used for another request";
    RequestTooOld "REQUEST_TOO_OLD" FailedPrecondition None,
        "the request id is older than what the server remembers: its outcome cannot be told";
    TooManyDevices "TOO_MANY_DEVICES" FailedPrecondition None,
        "eight devices of the account are logged in";
    CursorBeyondEnd "CURSOR_BEYOND_END" OutOfRange None,
        "the position is beyond the end of the inbox";
    NotApplied "NOT_APPLIED" Unavailable Some(100),
        "no primary is serving; the request was certainly not applied";
    OutcomeUnknown "OUTCOME_UNKNOWN" DeadlineExceeded Some(100),
        "the request may have been applied or not: retry it with the same request id only";
    Unavailable "UNAVAILABLE" Unavailable Some(200),
        "this replica cannot reach a majority at the moment";
    Overloaded "OVERLOADED" ResourceExhausted Some(1_000),
        "this replica has too much to do; the request was certainly not applied";
    ShuttingDown "SHUTTING_DOWN" Unavailable Some(0),
        "this replica is shutting down; the request was certainly not applied";
    DiskFull "DISK_FULL" ResourceExhausted Some(5_000),
        "the disks of the servers are nearly full; the request was certainly not applied";
    Internal "INTERNAL" Internal None,
        "the server has a defect; its log says more";
}

impl Reason {
    /// The stable word.
    pub const fn word(self) -> &'static str {
        self.row().word
    }
    /// The kind of error.
    pub const fn code(self) -> Code {
        self.row().code
    }
    /// For people.
    pub const fn sentence(self) -> &'static str {
        self.row().sentence
    }
    /// How long to wait before trying again, where trying again makes sense. Zero: at once, on
    /// another replica.
    pub const fn retry_after(self) -> Option<Duration> {
        match self.row().retry_ms {
            Some(ms) => Some(Duration::from_millis(ms)),
            None => None,
        }
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TokenInvalid => Self::TokenInvalid,
            Refusal::NameTaken => Self::NameTaken,
            Refusal::RecipientUnknown => Self::RecipientUnknown,
            Refusal::UserUnknown => Self::UserUnknown,
            Refusal::PasswordChanged => Self::PasswordChanged,
            Refusal::ClientUnknown => Self::ClientUnknown,
            Refusal::RequestIdReused => Self::RequestIdReused,
            Refusal::RequestTooOld => Self::RequestTooOld,
            Refusal::TooManyDevices => Self::TooManyDevices,
            Refusal::SessionUnknown => Self::SessionUnknown,
            Refusal::CursorBeyondEnd => Self::CursorBeyondEnd,
        }
    }
}

/// A failed request, as every front tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceError {
    /// The word, the code and the sentence.
    pub reason: Reason,
    /// What exactly, where the sentence leaves it open.
    pub detail: Option<String>,
    /// For programs: which field, which limit.
    pub metadata: BTreeMap<&'static str, String>,
}

impl ServiceError {
    /// An error with nothing to add.
    pub const fn new(reason: Reason) -> Self {
        Self {
            reason,
            detail: None,
            metadata: BTreeMap::new(),
        }
    }
    /// An error about one field of the request.
    pub fn field(reason: Reason, field: &'static str) -> Self {
        Self::new(reason).with("field", field)
    }
    /// Adds a metadata entry.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.insert(key, value.to_string());
        self
    }
    /// Adds a sentence about this very case.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
    /// A defect: logged here, once; the client learns no more than that.
    pub fn internal(what: &str) -> Self {
        tracing::error!(what, "a request met a defect");
        Self::new(Reason::Internal)
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.sentence())?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ServiceError {}

impl From<Reason> for ServiceError {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

impl From<Refusal> for ServiceError {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.into())
    }
}

impl From<WriteError> for ServiceError {
    fn from(error: WriteError) -> Self {
        Self::new(match error {
            WriteError::NotApplied => Reason::NotApplied,
            WriteError::OutcomeUnknown => Reason::OutcomeUnknown,
            WriteError::Overloaded => Reason::Overloaded,
            WriteError::ShuttingDown => Reason::ShuttingDown,
            WriteError::DiskFull => Reason::DiskFull,
        })
    }
}

impl From<ReadError> for ServiceError {
    fn from(error: ReadError) -> Self {
        Self::new(match error {
            ReadError::Unavailable => Reason::Unavailable,
            ReadError::Overloaded => Reason::Overloaded,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_word_is_unique_and_shaped_like_one() {
        let words: BTreeSet<_> = Reason::ALL.iter().map(|r| r.word()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        for word in words {
            assert!(
                word.chars().all(|c| c.is_ascii_uppercase() || c == '_'),
                "{word}"
            );
        }
    }

    #[test]
    fn a_refusal_keeps_its_word() {
        for refusal in [
            Refusal::TokenInvalid,
            Refusal::NameTaken,
            Refusal::RecipientUnknown,
            Refusal::UserUnknown,
            Refusal::PasswordChanged,
            Refusal::ClientUnknown,
            Refusal::RequestIdReused,
            Refusal::RequestTooOld,
            Refusal::TooManyDevices,
            Refusal::SessionUnknown,
            Refusal::CursorBeyondEnd,
        ] {
            assert_eq!(Reason::from(refusal).word(), refusal.reason());
        }
    }

    #[test]
    fn what_may_be_retried_says_when() {
        for reason in Reason::ALL {
            let transient = matches!(
                reason.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
            );
            assert_eq!(transient, reason.retry_after().is_some(), "{reason:?}");
        }
    }

    #[test]
    fn the_documentation_has_this_very_table() {
        let document = include_str!("../../docs/client_api.md");
        let rows: Vec<_> = document.lines().filter(|l| l.starts_with("| `")).collect();
        let table: Vec<_> = Reason::ALL.iter().map(|r| documented(*r)).collect();
        assert_eq!(rows, table);
    }

    fn documented(reason: Reason) -> String {
        let mut code = String::new();
        for letter in format!("{:?}", reason.code()).chars() {
            if letter.is_uppercase() && !code.is_empty() {
                code.push('_');
            }
            code.push(letter.to_ascii_uppercase());
        }
        let retry = reason
            .retry_after()
            .map_or_else(String::new, |delay| format!("{} ms", delay.as_millis()));
        format!(
            "| `{}` | {code} | {retry} | {} |",
            reason.word(),
            reason.sentence()
        )
    }
}
