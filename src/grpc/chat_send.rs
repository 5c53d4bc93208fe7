//! One `SendMessages` stream: sends in, outcomes out, in order.

use super::chat::Chat;
use super::chat_convert as convert;
use crate::proto::chat as proto;
use crate::service::{Backend, Pipeline, Reason, ServiceError};
use crate::types::TokenHash;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// An open stream.
pub(super) struct Sends<B: Backend> {
    chat: Chat<B>,
    pipeline: Pipeline<B>,
    /// The one that the stream was opened with.
    token: Option<TokenHash>,
    incoming: Streaming<proto::SendMessagesRequest>,
    replies: mpsc::Sender<Result<proto::SendMessagesResponse, Status>>,
}

impl<B: Backend> Sends<B> {
    pub(super) fn new(
        chat: Chat<B>,
        token: Option<TokenHash>,
        incoming: Streaming<proto::SendMessagesRequest>,
        replies: mpsc::Sender<Result<proto::SendMessagesResponse, Status>>,
    ) -> Self {
        Self {
            pipeline: chat.service.pipeline(),
            chat,
            token,
            incoming,
            replies,
        }
    }

    /// Until the client has ended its side and everything has its outcome, or the client or the
    /// server goes: what is on its way then may be applied, and is sent again under the same id.
    pub(super) async fn run(mut self) {
        let service = self.chat.service.clone();
        let closing = service.closing();
        tokio::pin!(closing);
        let mut open = true;
        while open || !self.pipeline.is_empty() {
            tokio::select! {
                () = self.replies.closed() => return,
                () = &mut closing => {
                    let status = self.chat.status(&Reason::ShuttingDown.into());
                    // Nobody may be there to hear it.
                    let _ = self.replies.send(Err(status)).await;
                    return;
                }
                outcomes = self.pipeline.next(), if !self.pipeline.is_empty() => {
                    let reply = convert::outcomes(outcomes);
                    if self.replies.send(Ok(reply)).await.is_err() {
                        return;
                    }
                }
                request = self.incoming.message(), if open && self.pipeline.has_room() => {
                    match request {
                        Ok(Some(request)) => self.take(request),
                        Ok(None) => open = false,
                        Err(_) => return,
                    }
                }
            }
        }
    }

    fn take(&mut self, request: proto::SendMessagesRequest) {
        for send in request.sends {
            let (text, request) = convert::pipelined_send(send);
            let token = if text.is_empty() {
                self.token
                    .ok_or_else(|| ServiceError::from(Reason::TokenMissing))
            } else {
                self.pipeline.token(&text)
            };
            self.pipeline
                .push(token.and_then(|token| Ok((token, request?))));
        }
        self.pipeline.flush();
    }
}
