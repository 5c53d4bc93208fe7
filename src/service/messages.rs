//! Messages: send and acknowledge. (Delivery is in `deliver`.)

use super::errors::ServiceError;
use super::requests::{SendMessage, Sent};
use super::tokens::Token;
use super::{Backend, Service, unexpected_reply, validate};
use crate::state_machine::{Operation, Reply};
use crate::types::{InboxSeq, RequestId};

impl<B: Backend> Service<B> {
    /// Sends a message. When this returns, it is durable on a majority.
    pub async fn send_message(
        &self,
        token: &Token,
        request: SendMessage,
    ) -> Result<Sent, ServiceError> {
        let recipient = validate::user_name(&request.recipient, "recipient")?;
        validate::body(&request.body)?;
        let operation = Operation::SendMessage {
            recipient,
            body: request.body,
            content_type: validate::content_type(request.content_type)?,
        };
        match self
            .write(Some(token.hash()), request.request_id, operation)
            .await?
            .reply
        {
            Reply::Sent {
                id,
                inbox_seq,
                time,
            } => Ok(Sent {
                message_id: id,
                inbox_seq,
                time,
            }),
            other => Err(unexpected_reply("send_message", &other)),
        }
    }

    /// Moves the cursor of the token's device; returns where it is now. It never moves back.
    pub async fn ack_messages(
        &self,
        token: &Token,
        up_to: InboxSeq,
        request_id: Option<RequestId>,
    ) -> Result<InboxSeq, ServiceError> {
        let operation = Operation::Acknowledge { up_to };
        match self
            .write(Some(token.hash()), request_id, operation)
            .await?
            .reply
        {
            Reply::Acknowledged { up_to } => Ok(up_to),
            other => Err(unexpected_reply("ack_messages", &other)),
        }
    }
}
