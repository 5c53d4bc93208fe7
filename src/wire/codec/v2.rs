//! Version 2: all that the gRPC API has. Records only ever grow at their end.

use super::error::FrameError;
use super::field::{Body, Private, Reader, Record, RequestId, operations, records};
use super::frame::Writer;

operations! {
    /// Creates an account and logs it in.
    CreateAccount = 0 -> LoggedIn,
    /// Logs in.
    Login = 1 -> LoggedIn,
    /// Sends a message.
    SendMessage = 2 -> Sent,
    /// A page of account names.
    ListAccounts = 3 -> Page,
    /// Deletes the account.
    DeleteAccount = 4 -> Done,
    /// What happened after a place of the inbox; waits for something if asked to.
    Refresh = 5 -> Batch,
    /// Moves the device's cursor.
    Acknowledge = 6 -> Acknowledged,
    /// Revokes the token.
    Logout = 7 -> Done,
    /// A sign of life.
    Ping = 8 -> Pong,
    /// What the server speaks.
    Versions = 9 -> Spoken,
    /// Whose token it is.
    WhoAmI = 10 -> Me,
    /// The account's logins.
    ListSessions = 11 -> Sessions,
    /// Ends one of them.
    RevokeSession = 12 -> Done,
    /// Changes the password and ends every other login.
    ChangePassword = 13 -> Done,
    /// Changes the full name.
    UpdateProfile = 14 -> Done,
    /// How far peers have acknowledged what this account sent them.
    ListDelivered = 15 -> Receipts,
}

records! {
    /// Creates an account and logs it in.
    CreateAccount {
        /// The name.
        username: String,
        /// In the clear.
        password: Private,
        /// Free text.
        full_name: String,
        /// `default` if empty.
        device_id: String,
        /// Its client id is registered.
        request_id: Option<RequestId>,
    }
    /// Logs in.
    Login {
        /// The account.
        username: String,
        /// In the clear.
        password: Private,
        /// `default` if empty.
        device_id: String,
        /// Its client id is registered.
        request_id: Option<RequestId>,
    }
    /// Sends a message.
    SendMessage {
        /// From a login.
        token: Private,
        /// Who gets it.
        recipient: String,
        /// Any bytes.
        body: Body,
        /// `text/plain` if empty.
        content_type: String,
        /// For a retry.
        request_id: Option<RequestId>,
    }
    /// A page of account names.
    ListAccounts {
        /// From a login.
        token: Private,
        /// A regular expression; empty matches all.
        pattern: String,
        /// Names on a page.
        page_size: Option<u32>,
        /// From the page before.
        page_token: String,
    }
    /// Deletes the account.
    DeleteAccount {
        /// From a login.
        token: Private,
        /// Once more.
        password: Private,
        /// For a retry.
        request_id: Option<RequestId>,
    }
    /// What happened after a place of the inbox.
    Refresh {
        /// From a login.
        token: Private,
        /// After this inbox sequence; empty: after what the device has acknowledged.
        after: Option<u64>,
        /// How long to wait for something; empty: not at all.
        wait_ms: Option<u32>,
        /// Events of the batch, at most.
        events_max: Option<u32>,
    }
    /// Moves the device's cursor.
    Acknowledge {
        /// From a login.
        token: Private,
        /// Inclusive.
        up_to: u64,
        /// For a retry.
        request_id: Option<RequestId>,
    }
    /// Revokes the token.
    Logout {
        /// From a login.
        token: Private,
        /// For a retry.
        request_id: Option<RequestId>,
    }
    /// A sign of life.
    Ping {
        /// Comes back.
        echo: String,
    }
    /// What the server speaks.
    Versions {}
    /// Whose token it is.
    WhoAmI {
        /// From a login.
        token: Private,
    }
    /// The account's logins.
    ListSessions {
        /// From a login.
        token: Private,
    }
    /// Ends a login of the account.
    RevokeSession {
        /// From a login.
        token: Private,
        /// As listed.
        session_id: u64,
        /// For a retry.
        request_id: Option<RequestId>,
    }
    /// Changes the password and ends every other login.
    ChangePassword {
        /// From a login.
        token: Private,
        /// The current one.
        old_password: Private,
        /// The next one.
        new_password: Private,
        /// For a retry.
        request_id: Option<RequestId>,
    }
    /// Changes the full name.
    UpdateProfile {
        /// From a login.
        token: Private,
        /// Free text.
        full_name: String,
        /// For a retry.
        request_id: Option<RequestId>,
    }
    /// How far peers have acknowledged what this account sent them.
    ListDelivered {
        /// From a login.
        token: Private,
        /// Who.
        peers: Vec<Name>,
    }
}

records! {
    /// Answers a login and the creation of an account.
    LoggedIn {
        /// The secret.
        token: Private,
        /// Never reused.
        user_id: u64,
        /// In its one form.
        username: String,
        /// Free text.
        full_name: String,
        /// Microseconds since the Unix epoch, UTC; as all times here.
        created_us: u64,
    }
    /// Answers what has no result.
    Done {}
    /// A message that is durable on a majority.
    Sent {
        /// Its id.
        message_id: u64,
        /// Its place in the recipient's inbox.
        inbox_seq: u64,
        /// Its time.
        time_us: u64,
    }
    /// An account name.
    Name {
        /// In its one form.
        username: String,
    }
    /// A page of account names.
    Page {
        /// For the next page; empty: there is none.
        next_page_token: String,
        /// Ascending.
        names: Vec<Name>,
    }
    /// Something that happened. Clients skip kinds that they do not know.
    Event {
        /// `m` a message; `d` the peer `sender` has received everything up to `message_id`;
        /// `e` what had been waiting has been told; `r` retention removed what was left of the
        /// inbox up to `inbox_seq`.
        kind: String,
        /// The message's id.
        message_id: Option<u64>,
        /// The message's place in the inbox.
        inbox_seq: Option<u64>,
        /// The sender's id.
        sender_id: Option<u64>,
        /// The sender's name.
        sender: String,
        /// The message's time.
        time_us: Option<u64>,
        /// Any bytes.
        body: Body,
        /// Of the body.
        content_type: String,
    }
    /// Answers a refresh.
    Batch {
        /// What to name as `after` in the next refresh.
        position: u64,
        /// What the device has acknowledged.
        cursor: u64,
        /// More is waiting.
        more: bool,
        /// In order.
        events: Vec<Event>,
    }
    /// Answers an acknowledgement.
    Acknowledged {
        /// The cursor now: never moves back.
        cursor: u64,
    }
    /// Answers a ping.
    Pong {
        /// As it came.
        echo: String,
    }
    /// What the server speaks.
    Spoken {
        /// Numbers, separated by commas.
        versions: String,
        /// Of the server, for people.
        build: String,
        /// Longest frame that it takes, in bytes.
        frame_bytes_max: u64,
        /// Requests of one connection that it works on at once.
        in_flight_max: u64,
    }
    /// Whose token it is.
    Me {
        /// Never reused.
        user_id: u64,
        /// In its one form.
        username: String,
        /// Free text.
        full_name: String,
        /// When the account was created.
        created_us: u64,
        /// The token's device.
        device_id: String,
    }
    /// A login.
    Session {
        /// Names it.
        session_id: u64,
        /// Its device.
        device_id: String,
        /// When it began.
        created_us: u64,
        /// Up to five minutes late.
        last_used_us: u64,
        /// The one that asks.
        current: bool,
    }
    /// The account's logins.
    Sessions {
        /// By age.
        sessions: Vec<Session>,
    }
    /// How far a peer has acknowledged what this account sent.
    Receipt {
        /// Who.
        peer: String,
        /// Inclusive.
        message_id: u64,
    }
    /// Answers the question for them.
    Receipts {
        /// In the order of the question, without those who have acknowledged nothing.
        receipts: Vec<Receipt>,
    }
    /// What every reply begins with.
    Head {
        /// The reason word; empty on success.
        error_code: String,
        /// Who answers.
        replica: u16,
        /// HOST:PORT of the primary's wire address; empty if not known.
        primary: String,
    }
    /// More about an error.
    Detail {
        /// `field`, `limit_bytes`, …
        key: String,
        /// Its value.
        value: String,
    }
    /// Why an operation failed: what follows the head.
    Explanation {
        /// For people.
        message: String,
        /// When to try again, where that makes sense; 0: at once, on another replica.
        retry_after_ms: Option<u64>,
        /// As gRPC numbers its status codes.
        code: Option<u32>,
        /// For programs.
        details: Vec<Detail>,
    }
}

/// A failed operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The reason word.
    pub reason: String,
    /// More.
    pub explanation: Explanation,
}

/// A whole reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Who answers.
    pub replica: u16,
    /// HOST:PORT of the primary's wire address; empty if not known.
    pub primary: String,
    /// The result, or why there is none.
    pub outcome: Result<Reply, Failure>,
}

impl Answer {
    pub(super) fn put(&self, out: &mut Writer<'_>) {
        let error_code = match &self.outcome {
            Ok(_) => "",
            Err(failure) => &failure.reason,
        };
        out.text(error_code);
        out.plain(self.replica);
        out.text(&self.primary);
        match &self.outcome {
            Ok(reply) => reply.put(out),
            Err(failure) => failure.explanation.put(out),
        }
    }

    pub(super) fn take(opcode: u64, from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let head = Head::take(from)?;
        let outcome = if head.error_code.is_empty() {
            Ok(Reply::take(opcode, from)?)
        } else {
            Err(Failure {
                reason: head.error_code,
                explanation: Explanation::take(from)?,
            })
        };
        Ok(Self {
            replica: head.replica,
            primary: head.primary,
            outcome,
        })
    }
}
