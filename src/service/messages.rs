//! Messages: send, acknowledge, and how far peers have. (Delivery is in `deliver`.)

use super::errors::ServiceError;
use super::requests::{SendMessage, Sent};
use super::tokens::Token;
use super::{Backend, Service, unexpected_reply, validate};
use crate::limits;
use crate::replica::Consistency;
use crate::state_machine::{Answer, Operation, Query, Reply};
use crate::types::{InboxSeq, Index, RequestId};

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

    /// How far each of these peers has acknowledged what this account sent it: the message's id,
    /// without those who have acknowledged nothing. Looks at `DELIVERED_PEERS_MAX` of them.
    pub async fn list_delivered(
        &self,
        token: &Token,
        peers: Vec<String>,
    ) -> Result<Vec<(String, Index)>, ServiceError> {
        let token = token.hash();
        let peers = peers.iter().take(limits::DELIVERED_PEERS_MAX);
        let peers = peers.map(|peer| validate::user_name(peer, "peers"));
        let peers = peers.collect::<Result<Vec<_>, _>>()?;
        let query = Query::Delivered {
            token,
            peers: peers.clone(),
        };
        match self.read(query, Consistency::Linearizable).await? {
            Answer::Delivered(marks) => {
                self.inner.backend.token_used(token);
                let marks = peers.into_iter().zip(marks);
                Ok(marks.filter(|(_, mark)| *mark > Index(0)).collect())
            }
            _ => Err(ServiceError::internal("list_delivered: unexpected answer")),
        }
    }
}
