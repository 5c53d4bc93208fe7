//! Sessions: the live tokens of an account.

use super::errors::ServiceError;
use super::requests::WhoAmI;
use super::tokens::Token;
use super::{Backend, Service, unexpected_reply};
use crate::replica::Consistency;
use crate::state_machine::{Answer, Operation, Query, Refusal, Reply, SessionInfo};
use crate::types::RequestId;

impl<B: Backend> Service<B> {
    /// Revokes the token that the request came with.
    pub async fn logout(
        &self,
        token: &Token,
        request_id: Option<RequestId>,
    ) -> Result<(), ServiceError> {
        let outcome = self
            .write(Some(token.hash()), request_id, Operation::RevokeOwnToken)
            .await?;
        match outcome.reply {
            Reply::Done => Ok(()),
            // An earlier attempt revoked it, or somebody else did: it is gone as asked.
            Reply::Refused(Refusal::TokenInvalid) if outcome.unsure => Ok(()),
            other => Err(unexpected_reply("logout", &other)),
        }
    }

    /// Whose token this is.
    pub async fn who_am_i(&self, token: &Token) -> Result<WhoAmI, ServiceError> {
        let identity = self.identity(token.hash()).await?;
        Ok(WhoAmI {
            account: identity.account,
            device_id: identity.device,
        })
    }

    /// The account's live tokens, without their secrets.
    pub async fn list_sessions(&self, token: &Token) -> Result<Vec<SessionInfo>, ServiceError> {
        let token = token.hash();
        let query = Query::Sessions { token };
        match self.read(query, Consistency::Linearizable).await? {
            Answer::Sessions(sessions) => {
                self.inner.backend.token_used(token);
                Ok(sessions)
            }
            _ => Err(ServiceError::internal("sessions: unexpected answer")),
        }
    }

    /// Revokes one of the account's sessions by its public id.
    pub async fn revoke_session(
        &self,
        token: &Token,
        session: u64,
        request_id: Option<RequestId>,
    ) -> Result<(), ServiceError> {
        let operation = Operation::RevokeSession { session };
        match self
            .write(Some(token.hash()), request_id, operation)
            .await?
            .reply
        {
            Reply::Done => Ok(()),
            other => Err(unexpected_reply("revoke_session", &other)),
        }
    }
}
