//! Requests and replies as plain values: what a front parses into and answers from.

use super::passwords::Password;
use super::tokens::Token;
use crate::state_machine::AccountInfo;
use crate::types::{InboxSeq, Index, RequestId, WallTime};
use std::fmt;

/// Creates an account and logs it in.
#[derive(Clone, Debug, Default)]
pub struct CreateAccount {
    /// Any case.
    pub username: String,
    /// In the clear; hashed here.
    pub password: Password,
    /// Free text.
    pub full_name: String,
    /// "default" if empty.
    pub device_id: String,
    /// Its client id is registered.
    pub request_id: Option<RequestId>,
}

/// Issues a token.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// Any case.
    pub username: String,
    /// In the clear.
    pub password: Password,
    /// "default" if empty.
    pub device_id: String,
    /// Its client id is registered.
    pub request_id: Option<RequestId>,
}

/// What a login or an account creation gives.
#[derive(Clone, Debug)]
pub struct LoggedIn {
    /// The secret, for the client alone.
    pub token: Token,
    /// The account.
    pub account: AccountInfo,
}

/// Whose token it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WhoAmI {
    /// The account.
    pub account: AccountInfo,
    /// The token's device.
    pub device_id: String,
}

/// Changes the password and revokes every other token.
#[derive(Clone, Debug, Default)]
pub struct ChangePassword {
    /// The current one.
    pub old: Password,
    /// The next one.
    pub new: Password,
    /// For idempotency.
    pub request_id: Option<RequestId>,
}

/// Sends a message.
#[derive(Clone, Default)]
pub struct SendMessage {
    /// Any case.
    pub recipient: String,
    /// 1 byte to `BODY_BYTES_MAX`.
    pub body: Vec<u8>,
    /// "text/plain" if empty.
    pub content_type: String,
    /// For idempotency.
    pub request_id: Option<RequestId>,
}

impl fmt::Debug for SendMessage {
    /// Without the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendMessage({} bytes)", self.body.len())
    }
}

/// A message that is durable on a majority.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// Its id.
    pub message_id: Index,
    /// Its place in the recipient's inbox.
    pub inbox_seq: InboxSeq,
    /// Its time.
    pub time: WallTime,
}

/// Lists account names.
#[derive(Clone, Debug, Default)]
pub struct ListAccounts {
    /// Regular expression, searched anywhere; empty matches all.
    pub pattern: String,
    /// 0: the default. More than the limit: the limit.
    pub page_size: u32,
    /// From the page before; empty for the first.
    pub page_token: String,
}

/// A page of names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// Ascending.
    pub usernames: Vec<String>,
    /// Empty: there is no more. A page may be short, even empty, and still have a next one.
    pub next_page_token: String,
}

/// Opens a stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeliverMessages {
    /// Start after this one instead of the device's cursor.
    pub after: Option<InboxSeq>,
    /// 0: the default; else held to the limits.
    pub heartbeat_ms: u32,
}
