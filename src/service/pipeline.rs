//! Many sends of one connection on the way at once: outcomes in their order, in batches.
//!
//! A call costs a task, a queue entry and a wake-up in each direction. Here those are shared by
//! whatever came together; what is checked is the same. The server does not retry inside: every
//! send has the client's own id, and the client sends again what ends without an outcome.

use super::errors::{Reason, ServiceError};
use super::requests::{SendMessage, Sent};
use super::tokens::Token;
use super::{Backend, Service, unexpected_reply, validate};
use crate::limits::{PIPELINE_MAX, PIPELINE_TOKENS_MAX};
use crate::replica::{Outcome, Outcomes};
use crate::state_machine::{Auth, Command, Operation, Refusal, Reply};
use crate::types::TokenHash;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Sends that have no outcome yet, and outcomes that wait for those before them.
///
/// Invariants: `waiting` holds the sends `first..`, in order; what is handed out is its front.
pub struct Pipeline<B: Backend> {
    service: Service<B>,
    outcomes: Arc<Outcomes>,
    first: u64,
    waiting: VecDeque<Send>,
    batch: Vec<(u64, Command)>,
    /// Hashes of tokens that came as text with the sends.
    hashes: HashMap<String, TokenHash>,
}

struct Send {
    token: Option<TokenHash>,
    outcome: Option<Result<Sent, ServiceError>>,
}

impl<B: Backend> Service<B> {
    /// Begins to send many messages. Ends by being dropped: what is on its way stays so.
    pub fn pipeline(&self) -> Pipeline<B> {
        Pipeline {
            service: self.clone(),
            outcomes: Outcomes::new(),
            first: 0,
            waiting: VecDeque::new(),
            batch: Vec::new(),
            hashes: HashMap::new(),
        }
    }

    /// Resolves when the server is stopping.
    pub async fn closing(&self) {
        let mut closing = self.inner.closing.subscribe();
        // Fails only if the service is gone, which is a stop too.
        let _ = closing.wait_for(|closing| *closing).await;
    }
}

impl<B: Backend> Pipeline<B> {
    /// More may be pushed.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < PIPELINE_MAX
    }

    /// Nothing waits for an outcome.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The hash of a token in its text form; each text is hashed once.
    pub fn token(&mut self, text: &str) -> Result<TokenHash, ServiceError> {
        if let Some(hash) = self.hashes.get(text) {
            return Ok(*hash);
        }
        let hash = Token::parse(text)?.hash();
        if self.hashes.len() >= PIPELINE_TOKENS_MAX {
            self.hashes.clear();
        }
        self.hashes.insert(text.to_owned(), hash);
        Ok(hash)
    }

    /// One more send, or what is wrong with it already: its outcome has its place among the
    /// others. It leaves with the next [`Pipeline::flush`].
    pub fn push(&mut self, send: Result<(TokenHash, SendMessage), ServiceError>) {
        let number = self.first + self.waiting.len() as u64;
        let checked = send.and_then(|(token, request)| Ok((token, command(token, request)?)));
        let waiting = match checked {
            Ok((token, command)) => {
                self.batch.push((number, command));
                Send {
                    token: Some(token),
                    outcome: None,
                }
            }
            Err(error) => Send {
                token: None,
                outcome: Some(Err(error)),
            },
        };
        self.waiting.push_back(waiting);
    }

    /// Hands on what was pushed.
    pub fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        let backend = &self.service.inner.backend;
        backend.write_many(batch, &self.outcomes);
    }

    /// The outcomes of the oldest sends, in their order; at least one. CANCEL SAFE. Never ready
    /// while nothing waits.
    pub async fn next(&mut self) -> Vec<Result<Sent, ServiceError>> {
        while self
            .waiting
            .front()
            .is_none_or(|send| send.outcome.is_none())
        {
            for (number, outcome) in self.outcomes.take().await {
                let place = number.checked_sub(self.first);
                let send = place.and_then(|place| self.waiting.get_mut(place as usize));
                if let Some(send) = send {
                    send.outcome = Some(judge(outcome));
                    let refused = Some(Reason::TokenInvalid);
                    let used = send.outcome.as_ref().is_some_and(|outcome| {
                        outcome.as_ref().err().map(|error| error.reason) != refused
                    });
                    if let Some(token) = send.token.filter(|_| used) {
                        self.service.inner.backend.token_used(token);
                    }
                }
            }
        }
        let mut ready = Vec::new();
        while let Some(outcome) = self
            .waiting
            .front_mut()
            .and_then(|send| send.outcome.take())
        {
            self.waiting.pop_front();
            self.first += 1;
            ready.push(outcome);
        }
        ready
    }
}

fn command(token: TokenHash, request: SendMessage) -> Result<Command, ServiceError> {
    let recipient = validate::user_name(&request.recipient, "recipient")?;
    validate::body(&request.body)?;
    if request.request_id.is_none() {
        return Err(ServiceError::field(Reason::RequestIdInvalid, "request_id"));
    }
    Ok(Command {
        auth: Some(Auth { token }),
        request: request.request_id,
        operation: Operation::SendMessage {
            recipient,
            body: request.body,
            content_type: validate::content_type(request.content_type)?,
        },
        front: false,
    })
}

fn judge(outcome: Outcome) -> Result<Sent, ServiceError> {
    match outcome?.reply {
        Reply::Sent {
            id,
            inbox_seq,
            time,
        } => Ok(Sent {
            message_id: id,
            inbox_seq,
            time,
        }),
        Reply::Refused(Refusal::TokenInvalid) => Err(Reason::TokenInvalid.into()),
        other => Err(unexpected_reply("send_messages", &other)),
    }
}
