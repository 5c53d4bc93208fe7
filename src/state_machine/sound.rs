//! The form of a command that comes from another replica.
//!
//! What a client sends is checked by the service of the replica that received it, and passed on as
//! a command. The primary checks it again, because a command that is in the log is applied by every
//! replica: one that does not fit into a record would stop all of them, at every start.

use super::{Command, NewToken, Operation, validate_name};
use crate::limits;
use crate::types::UserId;

impl Command {
    /// Could a replica's service have made it? The primary's own expiry it could not.
    pub fn is_sound(&self) -> bool {
        match &self.operation {
            Operation::CreateAccount {
                name,
                full_name,
                password_hash,
                token,
            } => {
                validate_name(name).as_ref() == Some(name)
                    && is_full_name(full_name)
                    && is_password_hash(password_hash)
                    && is_token(token)
            }
            Operation::IssueToken { user, token, .. } => is_user(*user) && is_token(token),
            Operation::SendMessage {
                recipient,
                body,
                content_type,
            } => {
                recipient.len() <= limits::USER_NAME_MAX
                    && body.len() <= limits::BODY_BYTES_MAX
                    && content_type.len() <= limits::CONTENT_TYPE_BYTES_MAX
            }
            Operation::Acknowledge { up_to } => up_to.0 <= limits::NUMBER_MAX,
            Operation::ChangePassword { password_hash, .. } => is_password_hash(password_hash),
            Operation::UpdateProfile { full_name } => is_full_name(full_name),
            Operation::ExtendTokens { tokens } => tokens.len() <= limits::EXTEND_TOKENS_MAX,
            Operation::ExpireTokens { .. } | Operation::ExpireMessages { .. } => false,
            Operation::RevokeOwnToken
            | Operation::RevokeSession { .. }
            | Operation::DeleteAccount => true,
        }
    }
}

fn is_full_name(name: &str) -> bool {
    name.len() <= limits::FULL_NAME_BYTES_MAX
}

fn is_password_hash(hash: &str) -> bool {
    hash.len() <= limits::PASSWORD_HASH_BYTES_MAX
}

fn is_token(token: &NewToken) -> bool {
    token.device.len() <= limits::DEVICE_ID_BYTES_MAX
}

fn is_user(user: UserId) -> bool {
    user.0 <= limits::NUMBER_MAX
}
