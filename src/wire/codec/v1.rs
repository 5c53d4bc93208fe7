//! Version 1: the six operations as they were asked for, field by field. It never changes.

use super::error::FrameError;
use super::field::{Private, Reader, Record, operations, records};
use super::frame::Writer;

operations! {
    /// Creates an account and logs it in.
    CreateAccount = 0 -> LoggedIn,
    /// Logs in.
    Login = 1 -> LoggedIn,
    /// Sends a message.
    SendMessage = 2 -> Done,
    /// Lists account names.
    ListAccounts = 3 -> Accounts,
    /// Deletes the account.
    DeleteAccount = 4 -> Done,
    /// The next batch of messages.
    Refresh = 5 -> Batch,
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
    }
    /// Logs in.
    Login {
        /// The account.
        username: String,
        /// In the clear.
        password: Private,
    }
    /// Sends a message.
    SendMessage {
        /// From a login.
        auth_token: Private,
        /// Whose token it is.
        username: String,
        /// Who gets it.
        recipient_username: String,
        /// The text.
        message: Private,
    }
    /// Lists account names.
    ListAccounts {
        /// From a login.
        auth_token: Private,
        /// Whose token it is.
        username: String,
        /// At most so many names.
        number_of_accounts: Option<u32>,
        /// Which names.
        regex: String,
    }
    /// Deletes the account.
    DeleteAccount {
        /// From a login.
        auth_token: Private,
        /// Whose token it is.
        username: String,
    }
    /// Asks for the next batch, and acknowledges the one that the refresh before it on the same
    /// connection returned.
    Refresh {
        /// From a login.
        auth_token: Private,
        /// Whose token it is.
        username: String,
    }
    /// Answers a login and the creation of an account.
    LoggedIn {
        /// Empty on success.
        error_code: String,
        /// The secret.
        auth_token: Private,
        /// The account's.
        full_name: String,
    }
    /// Answers what has no result.
    Done {
        /// Empty on success.
        error_code: String,
    }
    /// Answers a listing.
    Accounts {
        /// Empty on success.
        error_code: String,
        /// Ascending, separated by commas.
        account_names: String,
    }
    /// Answers a refresh.
    Batch {
        /// `[sender]: text` of each message, separated by U+001E.
        message: Private,
        /// Empty on success.
        error_code: String,
    }
}

impl Reply {
    /// The reply to a failed operation; none for an opcode that version 1 has not.
    pub fn refused(opcode: u64, word: &str) -> Option<Self> {
        let error_code = word.to_owned();
        let logged_in = LoggedIn {
            error_code: error_code.clone(),
            ..LoggedIn::default()
        };
        let done = Done {
            error_code: error_code.clone(),
        };
        Some(match opcode {
            0 => Self::CreateAccount(logged_in),
            1 => Self::Login(logged_in),
            2 => Self::SendMessage(done),
            3 => Self::ListAccounts(Accounts {
                error_code,
                ..Accounts::default()
            }),
            4 => Self::DeleteAccount(done),
            5 => Self::Refresh(Batch {
                error_code,
                ..Batch::default()
            }),
            _ => return None,
        })
    }
}
