//! One request from its parsed form to its answer.

use super::codec::{Broken, FrameError, Private, Reply, SEPARATOR, VERSIONS, v1, v2};
use super::convert;
use super::refresh::{Kept, refresh, refresh_v1};
use crate::limits;
use crate::service::{
    Backend, ChangePassword, CreateAccount, ListAccounts, Login, Password, Reason, SendMessage,
    Service, ServiceError, Token,
};
use crate::types::{InboxSeq, TokenHash};

/// Short pages of a listing that one request of version 1 joins: it has no page token.
const PAGES_MAX: usize = 16;

/// An answer without its head, which is the same for all that are written at once.
pub(super) enum Answer {
    V1(v1::Reply),
    V2(u64, Result<v2::Reply, v2::Failure>),
    Broken(Broken),
}

impl Answer {
    /// The whole reply.
    pub(super) fn into_reply(self, replica: u16, primary: &str) -> Reply {
        match self {
            Self::V1(reply) => Reply::V1(reply),
            Self::V2(opcode, outcome) => Reply::V2(
                opcode,
                v2::Answer {
                    replica,
                    primary: primary.to_owned(),
                    outcome,
                },
            ),
            Self::Broken(broken) => Reply::to_broken(broken, replica, primary),
        }
    }
}

/// What a request changes in its connection, once its reply is on its way.
pub(super) enum Effect<B: Backend> {
    None,
    /// A stream for the next refresh.
    Keep(Kept<B>),
    /// Version 1: whose token this is, and what its last refresh returned.
    Known {
        token: TokenHash,
        name: String,
        returned: Option<InboxSeq>,
    },
}

/// A finished request.
pub(super) struct Done<B: Backend> {
    pub(super) answer: Answer,
    pub(super) effect: Effect<B>,
    /// Of its frame: what it counted for among those under way.
    pub(super) bytes: usize,
}

/// What version 1 knows of a token on a connection.
#[derive(Clone, Default)]
pub(super) struct Known {
    pub(super) name: Option<String>,
    pub(super) returned: Option<InboxSeq>,
}

/// A request of version 2.
pub(super) async fn execute<B: Backend>(
    service: Service<B>,
    kept: Option<Kept<B>>,
    request: v2::Request,
    bytes: usize,
) -> Done<B> {
    let opcode = request.opcode();
    let mut effect = Effect::None;
    let outcome = match request {
        v2::Request::Refresh(request) => match refresh(&service, kept, request).await {
            Ok((batch, kept)) => {
                effect = kept.map_or(Effect::None, Effect::Keep);
                Ok(v2::Reply::Refresh(batch))
            }
            Err(error) => Err(error),
        },
        request => call(&service, request).await,
    };
    Done {
        answer: Answer::V2(opcode, outcome.map_err(|error| convert::failure(&error))),
        effect,
        bytes,
    }
}

async fn call<B: Backend>(
    service: &Service<B>,
    request: v2::Request,
) -> Result<v2::Reply, ServiceError> {
    use v2::{Reply, Request};
    match request {
        // First, because it is what comes most.
        Request::SendMessage(request) => send(service, request).await.map(Reply::SendMessage),
        Request::Acknowledge(request) => {
            let token = convert::token(&request.token)?;
            let id = convert::request_id(request.request_id)?;
            let up_to = InboxSeq(request.up_to);
            let cursor = service.ack_messages(&token, up_to, id).await?.0;
            Ok(Reply::Acknowledge(v2::Acknowledged { cursor }))
        }
        Request::Ping(ping) => Ok(Reply::Ping(v2::Pong { echo: ping.echo })),
        Request::Versions(_) => Ok(Reply::Versions(spoken())),
        Request::ListAccounts(request) => {
            let token = convert::token(&request.token)?;
            let request = ListAccounts {
                pattern: request.pattern,
                page_size: request.page_size.unwrap_or_default(),
                page_token: request.page_token,
            };
            let page = service.list_accounts(&token, request).await?;
            Ok(Reply::ListAccounts(convert::page(page)))
        }
        Request::WhoAmI(request) => {
            let me = service.who_am_i(&convert::token(&request.token)?).await?;
            Ok(Reply::WhoAmI(convert::me(me)))
        }
        Request::ListSessions(request) => {
            let token = convert::token(&request.token)?;
            let sessions = service.list_sessions(&token).await?;
            Ok(Reply::ListSessions(convert::sessions(sessions)))
        }
        Request::ListDelivered(request) => {
            let token = convert::token(&request.token)?;
            let peers = request.peers.into_iter().map(|peer| peer.username);
            let marks = service.list_delivered(&token, peers.collect()).await?;
            Ok(Reply::ListDelivered(convert::receipts(marks)))
        }
        Request::RevokeSession(request) => {
            let token = convert::token(&request.token)?;
            let id = convert::request_id(request.request_id)?;
            service
                .revoke_session(&token, request.session_id, id)
                .await?;
            Ok(Reply::RevokeSession(v2::Done {}))
        }
        other => account(service, other).await,
    }
}

/// What changes accounts and logins.
async fn account<B: Backend>(
    service: &Service<B>,
    request: v2::Request,
) -> Result<v2::Reply, ServiceError> {
    use v2::{Reply, Request};
    match request {
        Request::CreateAccount(request) => {
            let request = CreateAccount {
                username: request.username,
                password: Password(request.password.0),
                full_name: request.full_name,
                device_id: request.device_id,
                request_id: convert::request_id(request.request_id)?,
            };
            let done = service.create_account(request).await?;
            Ok(Reply::CreateAccount(convert::logged_in(done)))
        }
        Request::Login(request) => {
            let request = Login {
                username: request.username,
                password: Password(request.password.0),
                device_id: request.device_id,
                request_id: convert::request_id(request.request_id)?,
            };
            let done = service.login(request).await?;
            Ok(Reply::Login(convert::logged_in(done)))
        }
        Request::DeleteAccount(request) => {
            let token = convert::token(&request.token)?;
            let id = convert::request_id(request.request_id)?;
            let password = Password(request.password.0);
            service.delete_account(&token, &password, id).await?;
            Ok(Reply::DeleteAccount(v2::Done {}))
        }
        Request::Logout(request) => {
            let token = convert::token(&request.token)?;
            let id = convert::request_id(request.request_id)?;
            service.logout(&token, id).await?;
            Ok(Reply::Logout(v2::Done {}))
        }
        Request::ChangePassword(request) => {
            let token = convert::token(&request.token)?;
            let request = ChangePassword {
                old: Password(request.old_password.0),
                new: Password(request.new_password.0),
                request_id: convert::request_id(request.request_id)?,
            };
            service.change_password(&token, request).await?;
            Ok(Reply::ChangePassword(v2::Done {}))
        }
        Request::UpdateProfile(request) => {
            let token = convert::token(&request.token)?;
            let id = convert::request_id(request.request_id)?;
            service
                .update_profile(&token, request.full_name, id)
                .await?;
            Ok(Reply::UpdateProfile(v2::Done {}))
        }
        _ => Err(ServiceError::internal("wire: a request without a handler")),
    }
}

async fn send<B: Backend>(
    service: &Service<B>,
    request: v2::SendMessage,
) -> Result<v2::Sent, ServiceError> {
    let token = convert::token(&request.token)?;
    let request = SendMessage {
        recipient: request.recipient,
        body: request.body.0,
        content_type: request.content_type,
        request_id: convert::request_id(request.request_id)?,
    };
    let sent = service.send_message(&token, request).await?;
    Ok(v2::Sent {
        message_id: sent.message_id.0,
        inbox_seq: sent.inbox_seq.0,
        time_us: sent.time.0,
    })
}

fn spoken() -> v2::Spoken {
    v2::Spoken {
        versions: VERSIONS.map(|version| version.to_string()).join(","),
        build: env!("CARGO_PKG_VERSION").to_owned(),
        frame_bytes_max: limits::WIRE_FRAME_BYTES_MAX as u64,
        in_flight_max: limits::WIRE_IN_FLIGHT_MAX as u64,
    }
}

/// The token and the name that a request of version 1 carries.
pub(super) fn credentials(request: &v1::Request) -> Option<(&Private, &str)> {
    match request {
        v1::Request::CreateAccount(_) | v1::Request::Login(_) => None,
        v1::Request::SendMessage(r) => Some((&r.auth_token, &r.username)),
        v1::Request::ListAccounts(r) => Some((&r.auth_token, &r.username)),
        v1::Request::DeleteAccount(r) => Some((&r.auth_token, &r.username)),
        v1::Request::Refresh(r) => Some((&r.auth_token, &r.username)),
    }
}

/// A request of version 1. `known` is what the connection knows of its token.
pub(super) async fn execute_v1<B: Backend>(
    service: Service<B>,
    known: Known,
    request: v1::Request,
    bytes: usize,
) -> Done<B> {
    let opcode = request.opcode();
    let refreshes = matches!(request, v1::Request::Refresh(_));
    let mut effect = Effect::None;
    let reply = match named(&service, &known, &request).await {
        Ok(Some((token, name))) => {
            let done = call_v1(&service, &token, known.returned, request).await;
            let returned = match &done {
                Ok((_, last)) if refreshes => *last,
                _ => known.returned,
            };
            effect = Effect::Known {
                token: token.hash(),
                name,
                returned,
            };
            done.map(|(reply, _)| reply)
        }
        Ok(None) => sign_in(&service, request).await,
        Err(error) => Err(error),
    };
    let answer = match reply {
        Ok(reply) => Answer::V1(reply),
        Err(Refused::Frame(error)) => Answer::Broken(Broken {
            head: Some((opcode, 1)),
            error,
        }),
        Err(Refused::Service(error)) => {
            let word = error.reason.word();
            v1::Reply::refused(opcode, word).map_or_else(
                || Answer::Broken(FrameError::OpcodeUnknown.into()),
                Answer::V1,
            )
        }
    };
    Done {
        answer,
        effect,
        bytes,
    }
}

enum Refused {
    Service(ServiceError),
    /// Only version 1 minds.
    Frame(FrameError),
}

impl From<ServiceError> for Refused {
    fn from(error: ServiceError) -> Self {
        Self::Service(error)
    }
}

/// Whose token it is, if the request has one: it must be that of the name beside it.
async fn named<B: Backend>(
    service: &Service<B>,
    known: &Known,
    request: &v1::Request,
) -> Result<Option<(Token, String)>, Refused> {
    let Some((token, claimed)) = credentials(request) else {
        return Ok(None);
    };
    let token = convert::token(token)?;
    let name = match &known.name {
        Some(name) => name.clone(),
        None => service.who_am_i(&token).await?.account.name,
    };
    if !name.eq_ignore_ascii_case(claimed) {
        return Err(ServiceError::field(Reason::TokenInvalid, "username").into());
    }
    Ok(Some((token, name)))
}

async fn sign_in<B: Backend>(
    service: &Service<B>,
    request: v1::Request,
) -> Result<v1::Reply, Refused> {
    let logged_in = |done: crate::service::LoggedIn| v1::LoggedIn {
        error_code: String::new(),
        auth_token: Private(done.token.reveal()),
        full_name: done.account.full_name,
    };
    match request {
        v1::Request::CreateAccount(request) => {
            let request = CreateAccount {
                username: request.username,
                password: Password(request.password.0),
                full_name: request.full_name,
                ..CreateAccount::default()
            };
            let done = service.create_account(request).await?;
            Ok(v1::Reply::CreateAccount(logged_in(done)))
        }
        v1::Request::Login(request) => {
            let request = Login {
                username: request.username,
                password: Password(request.password.0),
                ..Login::default()
            };
            let done = service.login(request).await?;
            Ok(v1::Reply::Login(logged_in(done)))
        }
        _ => Err(ServiceError::internal("wire: a request without a handler").into()),
    }
}

async fn call_v1<B: Backend>(
    service: &Service<B>,
    token: &Token,
    returned: Option<InboxSeq>,
    request: v1::Request,
) -> Result<(v1::Reply, Option<InboxSeq>), Refused> {
    let done = v1::Done::default;
    let reply = match request {
        v1::Request::SendMessage(request) => {
            if request.message.0.contains(SEPARATOR) {
                return Err(Refused::Frame(FrameError::FieldInvalid));
            }
            let message = SendMessage {
                recipient: request.recipient_username,
                body: request.message.0.into_bytes(),
                ..SendMessage::default()
            };
            service.send_message(token, message).await?;
            v1::Reply::SendMessage(done())
        }
        v1::Request::ListAccounts(request) => {
            let names = list_v1(service, token, request).await?;
            v1::Reply::ListAccounts(v1::Accounts {
                error_code: String::new(),
                account_names: names.join(","),
            })
        }
        v1::Request::DeleteAccount(_) => {
            service.delete_account_by_token(token).await?;
            v1::Reply::DeleteAccount(done())
        }
        v1::Request::Refresh(_) => {
            let (batch, last) = refresh_v1(service, token, returned).await?;
            return Ok((v1::Reply::Refresh(batch), last));
        }
        v1::Request::CreateAccount(_) | v1::Request::Login(_) => {
            return Err(ServiceError::internal("wire: a sign-in with a token").into());
        }
    };
    Ok((reply, None))
}

/// Pages may be short; version 1 wants as many names as it asked for.
async fn list_v1<B: Backend>(
    service: &Service<B>,
    token: &Token,
    request: v1::ListAccounts,
) -> Result<Vec<String>, ServiceError> {
    let wanted = match request.number_of_accounts {
        None | Some(0) => limits::PAGE_DEFAULT,
        Some(number) => number.min(limits::PAGE_MAX),
    };
    let mut names = Vec::new();
    let mut page_token = String::new();
    for _ in 0..PAGES_MAX {
        let page = ListAccounts {
            pattern: request.regex.clone(),
            page_size: wanted - names.len() as u32,
            page_token,
        };
        let page = service.list_accounts(token, page).await?;
        names.extend(page.usernames);
        page_token = page.next_page_token;
        if page_token.is_empty() || names.len() as u32 >= wanted {
            break;
        }
    }
    Ok(names)
}
