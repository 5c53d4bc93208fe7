//! The vocabulary: commands, replies, refusals, queries.
//!
//! Encoded with rmp-serde into entries: fields only ever grow at the end, with defaults.

use super::blob;
use crate::types::{ClientId, InboxSeq, Index, RequestId, TokenHash, UserId, WallTime};
use serde::{Deserialize, Serialize};

/// Rows that an entry removes beside what it is for: bounded, so that it costs nobody who waits.
const CLEAN_UP_ROWS: usize = 8;
/// Rows that an entry removes that is for nothing else. Far below what an entry may change.
const CLEAN_UP_ROWS_ALONE: usize = 256;

/// A command as it stands in the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Command {
    /// Who asks; checked at apply. `None` only for operations that need no login.
    pub auth: Option<Auth>,
    /// Names the request; `None` only for internal operations.
    pub request: Option<RequestId>,
    /// What to do.
    pub operation: Operation,
    /// `request` is an id that a replica's front door made, for a client that brought none. Such
    /// ids are kept apart from the clients' own and need no registration.
    #[serde(default)]
    pub front: bool,
}

impl Command {
    /// The bytes for an entry's payload.
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec(self).expect("plain structs of strings and numbers always encode")
    }
    /// The command in an entry's payload; `None`: not one that this build knows.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(payload).ok()
    }
}

/// The token that a request came with. (The user is what the token says.)
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Auth {
    /// blake3 of the token.
    pub token: TokenHash,
}

/// A token to register: made by the replica that received the request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewToken {
    /// blake3 of the token.
    pub hash: TokenHash,
    /// The device that it is for.
    pub device: String,
    /// Registers this client for idempotency.
    pub client: ClientId,
}

/// What can be done.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Creates an account and logs it in. Replies `LoggedIn`, or `AlreadyCreated` when this very
    /// request created the account before (the service then verifies the password and issues a
    /// token).
    CreateAccount {
        /// Case-folded and checked.
        name: String,
        /// Free text.
        full_name: String,
        /// argon2id in PHC format.
        password_hash: String,
        /// The first token.
        token: NewToken,
    },
    /// A login whose password was verified against `password_version`. Replies `LoggedIn`.
    IssueToken {
        /// Whose.
        user: UserId,
        /// The version of the password that was verified; refused if it has changed since.
        password_version: u32,
        /// The token.
        token: NewToken,
    },
    /// Logout. Replies `Done`.
    RevokeOwnToken,
    /// Revokes another session of the same account by its public id. Replies `Done`.
    RevokeSession {
        /// `SessionInfo::id`.
        session: u64,
    },
    /// Replies `Sent`.
    SendMessage {
        /// Case-folded and checked.
        recipient: String,
        /// At most `BODY_BYTES_MAX`.
        #[serde(with = "blob")]
        body: Vec<u8>,
        /// At most `CONTENT_TYPE_BYTES_MAX`.
        content_type: String,
    },
    /// Everything up to here has been received by the token's device. Never moves back. Replies
    /// `Acknowledged`.
    Acknowledge {
        /// Inclusive.
        up_to: InboxSeq,
    },
    /// Changes the password and revokes every other token. Replies `Done`.
    ChangePassword {
        /// argon2id in PHC format. Under a client's request id it is a function of that id and of
        /// both passwords: it tells a repeated request from another one with the same id.
        password_hash: String,
        /// The version of the old password that was verified.
        password_version: u32,
    },
    /// Replies `Done`.
    UpdateProfile {
        /// Free text.
        full_name: String,
    },
    /// Deletes the token's account. Replies `Done`.
    DeleteAccount,
    /// Internal: these tokens were used. At most once per token in five minutes.
    ExtendTokens {
        /// At most `EXTEND_TOKENS_MAX`; what is beyond is passed over.
        #[serde(with = "blob::token_hashes")]
        tokens: Vec<TokenHash>,
    },
    /// Internal, proposed by the primary only: drop those of these tokens that have been idle.
    ExpireTokens {
        /// At most `EXPIRE_TOKENS_MAX`; what is beyond is passed over.
        #[serde(with = "blob::token_hashes")]
        tokens: Vec<TokenHash>,
        /// Idle for this long, in microseconds, by the entry's time.
        idle_us: u64,
    },
    /// Internal, proposed by the primary only: drop the old messages of these inboxes, at most
    /// `EXPIRE_BLOCKS_MAX` blocks in all.
    ExpireMessages {
        /// At most `EXPIRE_INBOXES_MAX`; what is beyond is passed over.
        users: Vec<UserId>,
        /// Sent before this.
        before: WallTime,
    },
}

impl std::fmt::Debug for Operation {
    /// Neither password hashes, token hashes nor bodies appear in a trace or a panic.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Operation {
    /// Does nothing but to remove rows that nobody can see any more, many at once: what the primary
    /// proposes when no other command does it. An expiry of no token is one that every level knows.
    pub const fn clean_up() -> Self {
        Self::ExpireTokens {
            tokens: Vec::new(),
            idle_us: 0,
        }
    }

    /// How many of those rows its entry removes at most.
    pub(super) fn cleans_up(&self) -> usize {
        if *self == Self::clean_up() {
            CLEAN_UP_ROWS_ALONE
        } else {
            CLEAN_UP_ROWS
        }
    }

    /// The operation's name, for `dump` and traces.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::CreateAccount { .. } => "create_account",
            Self::IssueToken { .. } => "issue_token",
            Self::RevokeOwnToken => "revoke_own_token",
            Self::RevokeSession { .. } => "revoke_session",
            Self::SendMessage { .. } => "send_message",
            Self::Acknowledge { .. } => "acknowledge",
            Self::ChangePassword { .. } => "change_password",
            Self::UpdateProfile { .. } => "update_profile",
            Self::DeleteAccount => "delete_account",
            Self::ExtendTokens { .. } => "extend_tokens",
            Self::ExpireTokens { .. } => "expire_tokens",
            Self::ExpireMessages { .. } => "expire_messages",
        }
    }
}

/// What a command came to. Stored for idempotency: grows only at the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The account is there and the token is valid.
    LoggedIn {
        /// The account.
        account: AccountInfo,
        /// Public id of the new session.
        session: u64,
    },
    /// This request created the account before.
    AlreadyCreated {
        /// The account.
        user: UserId,
    },
    /// The message is in the recipient's inbox.
    Sent {
        /// The message's id: its log index.
        id: Index,
        /// Its place in the recipient's inbox.
        inbox_seq: InboxSeq,
        /// Its time.
        time: WallTime,
    },
    /// The device's cursor now.
    Acknowledged {
        /// Inclusive.
        up_to: InboxSeq,
    },
    /// Done; nothing to tell.
    Done,
    /// Refused; nothing was changed.
    Refused(Refusal),
}

/// Why the state machine refused. The reason word is [`Refusal::reason`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// No such token, or it expired, was revoked, or its password changed.
    TokenInvalid,
    /// The account name is taken.
    NameTaken,
    /// The recipient has no account.
    RecipientUnknown,
    /// No such account.
    UserUnknown,
    /// The password changed while the request was under way.
    PasswordChanged,
    /// The client id is not registered (never, or dropped).
    ClientUnknown,
    /// The same request id with another body.
    RequestIdReused,
    /// Below the floor of what is remembered.
    RequestTooOld,
    /// The account has its `DEVICES_MAX` devices.
    TooManyDevices,
    /// No such session.
    SessionUnknown,
    /// The cursor would go beyond the inbox's end.
    CursorBeyondEnd,
}

impl Refusal {
    /// The stable reason word, the same in gRPC's `ErrorInfo` and on the wire.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TokenInvalid => "TOKEN_INVALID",
            Self::NameTaken => "NAME_TAKEN",
            Self::RecipientUnknown => "RECIPIENT_UNKNOWN",
            Self::UserUnknown => "USER_UNKNOWN",
            Self::PasswordChanged => "PASSWORD_CHANGED",
            Self::ClientUnknown => "CLIENT_UNKNOWN",
            Self::RequestIdReused => "REQUEST_ID_REUSED",
            Self::RequestTooOld => "REQUEST_TOO_OLD",
            Self::TooManyDevices => "TOO_MANY_DEVICES",
            Self::SessionUnknown => "SESSION_UNKNOWN",
            Self::CursorBeyondEnd => "CURSOR_BEYOND_END",
        }
    }
}

/// An account, without secrets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccountInfo {
    /// Id.
    pub user: UserId,
    /// Name.
    pub name: String,
    /// Free text.
    pub full_name: String,
    /// When it was created.
    pub created: WallTime,
}

/// A session: a token without its secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Public id: index of the entry that issued the token.
    pub id: u64,
    /// Device.
    pub device: String,
    /// Issued at.
    pub created: WallTime,
    /// Last use as the log knows it (up to five minutes late).
    pub last_used: WallTime,
    /// The session that asks.
    pub current: bool,
}

/// A device's position in its account's inbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cursor {
    /// Acknowledged up to here, inclusive.
    pub acknowledged: InboxSeq,
    /// First message still kept (1 in an empty or untrimmed inbox).
    pub first: InboxSeq,
    /// Last message.
    pub last: InboxSeq,
}

/// A message as delivered.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxMessage {
    /// Log index.
    pub id: Index,
    /// Place in the inbox.
    pub seq: InboxSeq,
    /// Sender.
    pub sender: UserId,
    /// The sender's name at the time.
    pub sender_name: String,
    /// Time.
    pub time: WallTime,
    /// Body.
    #[serde(with = "blob")]
    pub body: Vec<u8>,
    /// Content type.
    pub content_type: String,
}

impl std::fmt::Debug for InboxMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "message {} seq {} from {}",
            self.id, self.seq, self.sender_name
        )
    }
}

/// What can be read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Query {
    /// What a login needs. Answers `Credentials`.
    Credentials {
        /// Case-folded name.
        name: String,
    },
    /// Who a token is. Answers `WhoAmI`. Judged at the read's index.
    WhoAmI {
        /// The token.
        token: TokenHash,
    },
    /// Answers `Sessions`.
    Sessions {
        /// The token.
        token: TokenHash,
    },
    /// Messages after a position, and the cursor. Answers `Inbox`.
    Inbox {
        /// The token.
        token: TokenHash,
        /// After this one; `None`: after the device's cursor.
        after: Option<InboxSeq>,
        /// At most. Large messages make it fewer: there are more while the last one's sequence is
        /// below the cursor's `last`.
        limit: usize,
    },
    /// How far the accounts named have received what this account sent: for those who were not
    /// listening when they did. Answers `Delivered`.
    Delivered {
        /// The sender's token.
        token: TokenHash,
        /// Case-folded names of the peers.
        peers: Vec<String>,
    },
    /// Is the token good? Answers `WhoAmI` or a refusal; for listings, whose names come from the
    /// name index.
    Check {
        /// The token.
        token: TokenHash,
    },
}

/// The answer to a [`Query`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// For `Credentials`; `None`: no such account.
    Credentials(Option<Credentials>),
    /// For `WhoAmI` and `Check`.
    WhoAmI {
        /// The account.
        account: AccountInfo,
        /// The token's device.
        device: String,
        /// Version of the password.
        password_version: u32,
        /// argon2id in PHC format, for `ChangePassword` and `DeleteAccount`.
        password_hash: PasswordHash,
    },
    /// For `Sessions`.
    Sessions(Vec<SessionInfo>),
    /// For `Inbox`.
    Inbox {
        /// The account.
        user: UserId,
        /// Ascending, gapless.
        messages: Vec<InboxMessage>,
        /// The device's cursor.
        cursor: Cursor,
    },
    /// For `Delivered`: for each peer the id of the newest message of this sender that any of its
    /// devices has acknowledged (0: none, or there is no such account).
    Delivered(Vec<Index>),
    /// Refused.
    Refused(Refusal),
}

/// What a login needs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Credentials {
    /// Whose.
    pub user: UserId,
    /// argon2id in PHC format.
    pub password_hash: PasswordHash,
    /// Rises with each change.
    pub password_version: u32,
}

/// A PHC string that does not show itself in a trace.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordHash(pub String);

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<password hash>")
    }
}

/// What apply tells those who watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A message is waiting.
    Inbox {
        /// Recipient.
        user: UserId,
        /// Its place.
        seq: InboxSeq,
    },
    /// `peer` acknowledged messages that `user` sent.
    Delivered {
        /// The sender of those messages.
        user: UserId,
        /// The account that acknowledged.
        peer: String,
        /// Newest message of `user` that is acknowledged.
        up_to: Index,
    },
    /// The token is no longer valid.
    Revoked(TokenHash),
    /// An account came.
    AccountCreated {
        /// Name.
        name: String,
        /// Id.
        user: UserId,
    },
    /// An account went.
    AccountDeleted {
        /// Name.
        name: String,
        /// Id.
        user: UserId,
    },
}
