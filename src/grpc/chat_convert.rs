//! Between `chat.v1` messages and the service's plain values.

use crate::proto::chat as proto;
use crate::service::{
    ChangePassword, CreateAccount, Deliver, DeliverMessages, ListAccounts, LoggedIn, Login, Page,
    Password, Reason, SendMessage, Sent, ServiceError, Token, WhoAmI, request_id,
};
use crate::state_machine::{AccountInfo, InboxMessage, SessionInfo};
use crate::types::{InboxSeq, Index, RequestId};
use tonic::codegen::http::HeaderMap;
use tonic::metadata::MetadataMap;

/// The scheme is case-insensitive (RFC 9110, 11.1), the token is not.
pub(super) fn token(metadata: &MetadataMap) -> Result<Token, ServiceError> {
    bearer(metadata.as_ref())
}

/// The same, from a request's headers.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Token, ServiceError> {
    let value = headers.get("authorization").ok_or(Reason::TokenMissing)?;
    let text = value.to_str().map_err(|_| Reason::TokenInvalid)?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            Token::parse(token.trim())
        }
        _ => Err(Reason::TokenMissing.into()),
    }
}

pub(super) fn id(id: Option<proto::RequestId>) -> Result<Option<RequestId>, ServiceError> {
    id.map(|id| request_id(&id.client_id, id.sequence))
        .transpose()
}

pub(super) fn create_account(
    request: proto::CreateAccountRequest,
) -> Result<CreateAccount, ServiceError> {
    Ok(CreateAccount {
        username: request.username,
        password: Password(request.password),
        full_name: request.full_name,
        device_id: request.device_id,
        request_id: id(request.request_id)?,
    })
}

pub(super) fn login(request: proto::LoginRequest) -> Result<Login, ServiceError> {
    Ok(Login {
        username: request.username,
        password: Password(request.password),
        device_id: request.device_id,
        request_id: id(request.request_id)?,
    })
}

pub(super) fn change_password(
    request: proto::ChangePasswordRequest,
) -> Result<ChangePassword, ServiceError> {
    Ok(ChangePassword {
        old: Password(request.old_password),
        new: Password(request.new_password),
        request_id: id(request.request_id)?,
    })
}

pub(super) fn send_message(
    request: proto::SendMessageRequest,
) -> Result<SendMessage, ServiceError> {
    Ok(SendMessage {
        recipient: request.recipient,
        body: request.body.into(),
        content_type: request.content_type,
        request_id: id(request.request_id)?,
    })
}

/// One of the sends of a stream, with the token that it brings (empty: the stream's).
pub(super) fn pipelined_send(
    send: proto::PipelinedSend,
) -> (String, Result<SendMessage, ServiceError>) {
    let request = id(send.request_id).map(|request_id| SendMessage {
        recipient: send.recipient,
        body: send.body.into(),
        content_type: send.content_type,
        request_id,
    });
    (send.token, request)
}

/// Outcomes in the order of their sends.
pub(super) fn outcomes(outcomes: Vec<Result<Sent, ServiceError>>) -> proto::SendMessagesResponse {
    use proto::send_outcome::Outcome;
    let outcomes = outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Ok(done) => Outcome::Sent(sent(done)),
            Err(error) => Outcome::Refused(proto::SendRefused {
                // The service numbers its codes as gRPC does.
                code: error.reason.code() as u32,
                reason: error.reason.word().to_owned(),
                message: error.to_string(),
            }),
        })
        .map(|outcome| proto::SendOutcome {
            outcome: Some(outcome),
        })
        .collect();
    proto::SendMessagesResponse { outcomes }
}

pub(super) fn list_accounts(request: proto::ListAccountsRequest) -> ListAccounts {
    ListAccounts {
        pattern: request.pattern,
        page_size: request.page_size,
        page_token: request.page_token,
    }
}

pub(super) fn deliver_messages(request: proto::DeliverMessagesRequest) -> DeliverMessages {
    DeliverMessages {
        after: request.after.map(InboxSeq),
        heartbeat_ms: request.heartbeat_ms,
    }
}

pub(super) fn created(done: LoggedIn) -> proto::CreateAccountResponse {
    proto::CreateAccountResponse {
        token: done.token.reveal(),
        account: Some(account(done.account)),
    }
}

pub(super) fn logged_in(done: LoggedIn) -> proto::LoginResponse {
    proto::LoginResponse {
        token: done.token.reveal(),
        account: Some(account(done.account)),
    }
}

pub(super) fn who_am_i(me: WhoAmI) -> proto::WhoAmIResponse {
    proto::WhoAmIResponse {
        account: Some(account(me.account)),
        device_id: me.device_id,
    }
}

pub(super) fn sessions(sessions: Vec<SessionInfo>) -> proto::ListSessionsResponse {
    let sessions = sessions
        .into_iter()
        .map(|session| proto::Session {
            session_id: session.id,
            device_id: session.device,
            created_us: session.created.0,
            last_used_us: session.last_used.0,
            current: session.current,
        })
        .collect();
    proto::ListSessionsResponse { sessions }
}

pub(super) fn sent(sent: Sent) -> proto::SendMessageResponse {
    proto::SendMessageResponse {
        message_id: sent.message_id.0,
        inbox_seq: sent.inbox_seq.0,
        time_us: sent.time.0,
    }
}

pub(super) fn page(page: Page) -> proto::ListAccountsResponse {
    proto::ListAccountsResponse {
        usernames: page.usernames,
        next_page_token: page.next_page_token,
    }
}

pub(super) fn delivered(marks: Vec<(String, Index)>) -> proto::ListDeliveredResponse {
    let delivered = marks.into_iter().map(|(peer, up_to)| proto::Delivered {
        peer,
        up_to_message_id: up_to.0,
    });
    proto::ListDeliveredResponse {
        delivered: delivered.collect(),
    }
}

pub(super) fn event(event: Deliver) -> proto::DeliverMessagesResponse {
    use proto::deliver_messages_response::Event;
    let event = match event {
        Deliver::Message(message) => Event::Message(inbox_message(message)),
        Deliver::Delivered { peer, up_to } => Event::Delivered(proto::Delivered {
            peer,
            up_to_message_id: up_to.0,
        }),
        Deliver::Heartbeat { cursor } => Event::Heartbeat(proto::Heartbeat { cursor: cursor.0 }),
        Deliver::Removed { up_to } => Event::Removed(proto::Removed { up_to: up_to.0 }),
        Deliver::EndOfBacklog => Event::EndOfBacklog(proto::EndOfBacklog {}),
    };
    proto::DeliverMessagesResponse { event: Some(event) }
}

fn inbox_message(message: InboxMessage) -> proto::Message {
    proto::Message {
        message_id: message.id.0,
        inbox_seq: message.seq.0,
        sender_id: message.sender.0,
        sender: message.sender_name,
        time_us: message.time.0,
        body: message.body.into(),
        content_type: message.content_type,
    }
}

fn account(account: AccountInfo) -> proto::Account {
    proto::Account {
        user_id: account.user.0,
        username: account.name,
        full_name: account.full_name,
        created_us: account.created.0,
    }
}
