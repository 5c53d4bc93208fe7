//! Each operation over each protocol. The protobuf messages are this library's own form of
//! requests and replies; over the wire protocol they are converted.

use super::cluster::Channel;
use super::session::Session;
use super::wire::{self, Lane};
use crate::proto::chat as proto;
use crate::proto::chat::chat_service_client::ChatServiceClient;
use crate::wire::codec::{Body, Private, RequestId, v2};
use std::future::Future;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};

/// What is called over gRPC.
pub(super) type Stub = ChatServiceClient<tonic::transport::Channel>;

/// A reply, and what it says about the cluster.
pub(super) struct Answered<R> {
    pub body: R,
    pub replica: Option<u16>,
    pub primary: Option<String>,
}

/// A request that has one reply.
pub(super) trait Operation: Clone + Send + 'static {
    type Reply: Default;
    const LANE: Lane = Lane::Fast;
    fn over_grpc(
        stub: Stub,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Reply>, Status>> + Send;
    fn to_wire(self, token: Private) -> v2::Request;
    /// None if the reply is of another kind.
    fn from_wire(reply: v2::Reply) -> Option<Self::Reply>;
}

/// One attempt.
pub(super) async fn attempt<Q: Operation>(
    channel: Channel,
    message: Q,
    session: Option<&Session>,
) -> Result<Answered<Q::Reply>, Status> {
    match channel {
        Channel::Grpc(channel) => {
            let request = authorized(message, session.map(Session::bearer));
            let response = Q::over_grpc(Stub::new(channel), request).await?;
            Ok(Answered {
                replica: replica_of(response.metadata()),
                primary: primary_of(response.metadata()).map(str::to_owned),
                body: response.into_inner(),
            })
        }
        Channel::Wire(channel) => {
            let token = session.map_or_else(Private::default, |session| session.token().into());
            let answer = channel.ask(Q::LANE, message.to_wire(token)).await?;
            let (reply, replica, primary) = wire::result(answer)?;
            let body = Q::from_wire(reply);
            Ok(Answered {
                body: body.ok_or_else(|| Status::internal("a reply of another kind"))?,
                replica: Some(replica),
                primary: Some(primary).filter(|primary| !primary.is_empty()),
            })
        }
    }
}

/// A request with the login's token.
pub(super) fn authorized<Q>(message: Q, bearer: Option<&MetadataValue<Ascii>>) -> Request<Q> {
    let mut request = Request::new(message);
    if let Some(bearer) = bearer {
        request
            .metadata_mut()
            .insert("authorization", bearer.clone());
    }
    request
}

/// The id of the replica that answered.
fn replica_of(metadata: &MetadataMap) -> Option<u16> {
    metadata.get("chat-replica")?.to_str().ok()?.parse().ok()
}

/// Where the primary is, as a reply says.
pub(super) fn primary_of(metadata: &MetadataMap) -> Option<&str> {
    metadata.get("chat-primary")?.to_str().ok()
}

/// Writes the implementations: the messages, the method, the wire operation, both conversions.
macro_rules! operations {
    ($($request:ident -> $response:ident, $method:ident, $operation:ident $(in $lane:ident)?,
        |$message:ident, $token:ident| $to:expr,
        |$reply:ident| $from:expr;
    )*) => {$(
        impl Operation for proto::$request {
            type Reply = proto::$response;
            $(const LANE: Lane = Lane::$lane;)?
            async fn over_grpc(
                mut stub: Stub,
                request: Request<Self>,
            ) -> Result<Response<Self::Reply>, Status> {
                stub.$method(request).await
            }
            fn to_wire(self, $token: Private) -> v2::Request {
                let $message = self;
                v2::Request::$operation($to)
            }
            fn from_wire(reply: v2::Reply) -> Option<Self::Reply> {
                match reply {
                    v2::Reply::$operation($reply) => Some($from),
                    _ => None,
                }
            }
        }
    )*};
}

operations! {
    CreateAccountRequest -> CreateAccountResponse, create_account, CreateAccount in Slow,
        |message, _token| v2::CreateAccount {
            username: message.username,
            password: Private(message.password),
            full_name: message.full_name,
            device_id: message.device_id,
            request_id: id(message.request_id),
        },
        |reply| {
            let (token, account) = logged_in(reply);
            proto::CreateAccountResponse { token, account }
        };
    LoginRequest -> LoginResponse, login, Login in Slow,
        |message, _token| v2::Login {
            username: message.username,
            password: Private(message.password),
            device_id: message.device_id,
            request_id: id(message.request_id),
        },
        |reply| {
            let (token, account) = logged_in(reply);
            proto::LoginResponse { token, account }
        };
    LogoutRequest -> LogoutResponse, logout, Logout,
        |message, token| v2::Logout { token, request_id: id(message.request_id) },
        |_reply| proto::LogoutResponse {};
    WhoAmIRequest -> WhoAmIResponse, who_am_i, WhoAmI,
        |_message, token| v2::WhoAmI { token },
        |reply| proto::WhoAmIResponse {
            account: Some(proto::Account {
                user_id: reply.user_id,
                username: reply.username,
                full_name: reply.full_name,
                created_us: reply.created_us,
            }),
            device_id: reply.device_id,
        };
    ListSessionsRequest -> ListSessionsResponse, list_sessions, ListSessions,
        |_message, token| v2::ListSessions { token },
        |reply| proto::ListSessionsResponse {
            sessions: reply.sessions.into_iter().map(session).collect(),
        };
    RevokeSessionRequest -> RevokeSessionResponse, revoke_session, RevokeSession,
        |message, token| v2::RevokeSession {
            token,
            session_id: message.session_id,
            request_id: id(message.request_id),
        },
        |_reply| proto::RevokeSessionResponse {};
    ChangePasswordRequest -> ChangePasswordResponse, change_password, ChangePassword in Slow,
        |message, token| v2::ChangePassword {
            token,
            old_password: Private(message.old_password),
            new_password: Private(message.new_password),
            request_id: id(message.request_id),
        },
        |_reply| proto::ChangePasswordResponse {};
    UpdateProfileRequest -> UpdateProfileResponse, update_profile, UpdateProfile,
        |message, token| v2::UpdateProfile {
            token,
            full_name: message.full_name,
            request_id: id(message.request_id),
        },
        |_reply| proto::UpdateProfileResponse {};
    SendMessageRequest -> SendMessageResponse, send_message, SendMessage,
        |message, token| v2::SendMessage {
            token,
            recipient: message.recipient,
            body: Body(message.body.into()),
            content_type: message.content_type,
            request_id: id(message.request_id),
        },
        |reply| proto::SendMessageResponse {
            message_id: reply.message_id,
            inbox_seq: reply.inbox_seq,
            time_us: reply.time_us,
        };
    AckMessagesRequest -> AckMessagesResponse, ack_messages, Acknowledge,
        |message, token| v2::Acknowledge {
            token,
            up_to: message.up_to,
            request_id: id(message.request_id),
        },
        |reply| proto::AckMessagesResponse { cursor: reply.cursor };
    ListDeliveredRequest -> ListDeliveredResponse, list_delivered, ListDelivered,
        |message, token| v2::ListDelivered {
            token,
            peers: message.peers.into_iter().map(|username| v2::Name { username }).collect(),
        },
        |reply| proto::ListDeliveredResponse {
            delivered: reply.receipts.into_iter().map(|receipt| proto::Delivered {
                peer: receipt.peer,
                up_to_message_id: receipt.message_id,
            }).collect(),
        };
    ListAccountsRequest -> ListAccountsResponse, list_accounts, ListAccounts in Slow,
        |message, token| v2::ListAccounts {
            token,
            pattern: message.pattern,
            page_size: Some(message.page_size),
            page_token: message.page_token,
        },
        |reply| proto::ListAccountsResponse {
            usernames: reply.names.into_iter().map(|name| name.username).collect(),
            next_page_token: reply.next_page_token,
        };
    DeleteAccountRequest -> DeleteAccountResponse, delete_account, DeleteAccount in Slow,
        |message, token| v2::DeleteAccount {
            token,
            password: Private(message.password),
            request_id: id(message.request_id),
        },
        |_reply| proto::DeleteAccountResponse {};
}

fn id(id: Option<proto::RequestId>) -> Option<RequestId> {
    let id = id?;
    Some(RequestId {
        // The library draws 16 bytes; what is not 16 bytes is refused by the server as zeros are.
        client_id: <[u8; 16]>::try_from(id.client_id.as_ref()).unwrap_or_default(),
        sequence: id.sequence,
    })
}

fn logged_in(reply: v2::LoggedIn) -> (String, Option<proto::Account>) {
    let account = proto::Account {
        user_id: reply.user_id,
        username: reply.username,
        full_name: reply.full_name,
        created_us: reply.created_us,
    };
    (reply.token.0, Some(account))
}

fn session(session: v2::Session) -> proto::Session {
    proto::Session {
        session_id: session.session_id,
        device_id: session.device_id,
        created_us: session.created_us,
        last_used_us: session.last_used_us,
        current: session.current,
    }
}
