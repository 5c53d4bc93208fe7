//! The client listener with a real client on a real socket, and a model of a replica behind it.

use super::chat::{ServeError, serve};
use super::errors::DOMAIN;
use crate::limits;
use crate::proto::chat as proto;
use crate::proto::chat::chat_service_client::ChatServiceClient;
use crate::proto::chat::deliver_messages_response::Event;
use crate::service::fake::Fake;
use crate::service::{HashCost, Service, Settings};
use crate::types::ReplicaId;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_types::StatusExt as _;

pub(super) struct Server {
    pub(super) fake: Fake,
    pub(super) address: String,
    channel: Channel,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    pub(super) async fn start() -> Self {
        let fake = Fake::new();
        let settings = Settings {
            addresses: Arc::new(|id| Some(format!("replica-{id}:7000"))),
            hash_cost: HashCost {
                memory_kib: 64,
                passes: 1,
            },
            ..Settings::default()
        };
        let service = Service::new(fake.clone(), settings).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(serve(listener, service, async {
            let _ = stopped.await;
        }));
        let channel = Channel::from_shared(address.clone()).unwrap();
        let channel = channel.connect().await;
        Self {
            fake,
            address,
            channel: channel.unwrap(),
            stop,
            ended,
        }
    }

    fn chat(&self) -> ChatServiceClient<Channel> {
        ChatServiceClient::new(self.channel.clone())
    }

    pub(super) async fn account(&self, name: &str) -> String {
        let request = proto::CreateAccountRequest {
            username: name.to_owned(),
            password: "secret".to_owned(),
            ..Default::default()
        };
        let response = self.chat().create_account(request).await.unwrap();
        response.into_inner().token
    }
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

pub(super) fn message(recipient: &str, body: Vec<u8>) -> proto::SendMessageRequest {
    proto::SendMessageRequest {
        recipient: recipient.to_owned(),
        body: body.into(),
        ..Default::default()
    }
}

pub(super) fn reason(status: &Status) -> String {
    let info = status
        .get_details_error_info()
        .expect("every error has one");
    assert_eq!(info.domain, DOMAIN);
    info.reason
}

#[tokio::test]
async fn an_account_a_message_and_its_delivery() {
    let server = Server::start().await;
    let mut chat = server.chat();
    let alice = server.account("Alice").await;
    let bob = server.account("bob").await;
    let request = with_token(&alice, message("bob", b"hello".to_vec()));
    let response = chat.send_message(request).await.unwrap();
    assert_eq!(response.metadata().get("chat-replica").unwrap(), "1");
    assert_eq!(
        response.metadata().get("chat-primary").unwrap(),
        "replica-2:7000"
    );
    let sent = response.into_inner();
    let request = with_token(&bob, proto::DeliverMessagesRequest::default());
    let mut stream = chat.deliver_messages(request).await.unwrap().into_inner();
    let Some(Event::Message(received)) = stream.message().await.unwrap().unwrap().event else {
        panic!("a message was to come")
    };
    assert_eq!(&received.body[..], b"hello");
    assert_eq!(
        (received.message_id, received.inbox_seq),
        (sent.message_id, sent.inbox_seq)
    );
    assert_eq!(
        (received.sender.as_str(), received.content_type.as_str()),
        ("alice", "text/plain")
    );
    let end = stream.message().await.unwrap().unwrap().event;
    assert!(matches!(end, Some(Event::EndOfBacklog(_))));
    let ack = proto::AckMessagesRequest {
        up_to: 1,
        request_id: None,
    };
    let acked = chat.ack_messages(with_token(&bob, ack)).await.unwrap();
    assert_eq!(acked.into_inner().cursor, 1);
    let logout = with_token(&bob, proto::LogoutRequest::default());
    chat.logout(logout).await.unwrap();
    let ended = stream.message().await.unwrap_err();
    assert_eq!(
        (reason(&ended).as_str(), ended.code()),
        ("TOKEN_INVALID", Code::Unauthenticated)
    );
}

#[tokio::test]
async fn every_other_method_answers() {
    let server = Server::start().await;
    let mut chat = server.chat();
    let token = server.account("alice").await;
    let login = proto::LoginRequest {
        username: "ALICE".to_owned(),
        password: "secret".to_owned(),
        device_id: "phone".to_owned(),
        request_id: None,
    };
    let phone = chat.login(login).await.unwrap().into_inner().token;
    let me = chat
        .who_am_i(with_token(&phone, proto::WhoAmIRequest {}))
        .await
        .unwrap();
    assert_eq!(me.into_inner().device_id, "phone");
    let list = with_token(&token, proto::ListSessionsRequest {});
    let sessions = chat
        .list_sessions(list)
        .await
        .unwrap()
        .into_inner()
        .sessions;
    let session_id = sessions.iter().find(|s| !s.current).unwrap().session_id;
    let revoke = proto::RevokeSessionRequest {
        session_id,
        request_id: None,
    };
    chat.revoke_session(with_token(&token, revoke))
        .await
        .unwrap();
    let profile = proto::UpdateProfileRequest {
        full_name: "Alice A.".to_owned(),
        request_id: None,
    };
    chat.update_profile(with_token(&token, profile))
        .await
        .unwrap();
    let change = proto::ChangePasswordRequest {
        old_password: "secret".to_owned(),
        new_password: "next".to_owned(),
        request_id: None,
    };
    chat.change_password(with_token(&token, change))
        .await
        .unwrap();
    let list = with_token(&token, proto::ListAccountsRequest::default());
    let names = chat
        .list_accounts(list)
        .await
        .unwrap()
        .into_inner()
        .usernames;
    assert_eq!(names, ["alice"]);
    let delete = proto::DeleteAccountRequest {
        password: "next".to_owned(),
        request_id: None,
    };
    chat.delete_account(with_token(&token, delete))
        .await
        .unwrap();
    let gone = chat
        .who_am_i(with_token(&token, proto::WhoAmIRequest {}))
        .await;
    assert_eq!(reason(&gone.unwrap_err()), "TOKEN_INVALID");
}

#[tokio::test]
async fn bad_requests_get_their_reason_and_the_server_goes_on() {
    let server = Server::start().await;
    let mut chat = server.chat();
    let token = server.account("alice").await;
    let send = |body| with_token(&token, message("alice", body));
    let missing = chat.who_am_i(proto::WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(reason(&missing), "TOKEN_MISSING");
    assert_eq!(missing.metadata().get("chat-replica").unwrap(), "1");
    let wrong = with_token("ct_nonsense", proto::WhoAmIRequest {});
    assert_eq!(
        reason(&chat.who_am_i(wrong).await.unwrap_err()),
        "TOKEN_INVALID"
    );
    let empty = chat.send_message(send(Vec::new())).await.unwrap_err();
    assert_eq!(reason(&empty), "MESSAGE_EMPTY");
    let long = chat
        .send_message(send(vec![0; 16 * 1024 + 1]))
        .await
        .unwrap_err();
    assert_eq!(reason(&long), "MESSAGE_TOO_LONG");
    let limit = &long.get_details_error_info().unwrap().metadata["limit_bytes"];
    assert_eq!(limit, "16384");
    let huge = chat
        .send_message(send(vec![0; limits::CLIENT_MESSAGE_BYTES_MAX]))
        .await
        .unwrap_err();
    assert_eq!(huge.code(), Code::OutOfRange);
    let bad_id = proto::RequestId {
        client_id: vec![1; 15].into(),
        sequence: 1,
    };
    let bad = proto::SendMessageRequest {
        request_id: Some(bad_id),
        ..message("alice", b"x".to_vec())
    };
    let bad = chat
        .send_message(with_token(&token, bad))
        .await
        .unwrap_err();
    assert_eq!(reason(&bad), "REQUEST_ID_INVALID");
    let nested = proto::ListAccountsRequest {
        pattern: "(a{1000}){1000}".to_owned(),
        ..Default::default()
    };
    let nested = chat
        .list_accounts(with_token(&token, nested))
        .await
        .unwrap_err();
    assert_eq!(reason(&nested), "PATTERN_INVALID");
    let stranger = with_token("ct_", proto::DeliverMessagesRequest::default());
    let stranger = chat.deliver_messages(stranger).await.unwrap_err();
    assert_eq!(reason(&stranger), "TOKEN_INVALID");
    chat.send_message(send(b"still here".to_vec()))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_overload_says_when_to_come_back() {
    use crate::replica::WriteError;
    use crate::service::fake::Fault;
    let server = Server::start().await;
    let token = server.account("alice").await;
    let overloaded = Fault::Refuse(WriteError::Overloaded);
    server.fake.state().faults.push_back(overloaded);
    let send = with_token(&token, message("alice", b"x".to_vec()));
    let status = server.chat().send_message(send).await.unwrap_err();
    assert_eq!(
        (reason(&status).as_str(), status.code()),
        ("OVERLOADED", Code::ResourceExhausted)
    );
    let retry = status.get_details_retry_info().unwrap();
    assert_eq!(retry.retry_delay, Some(Duration::from_secs(1)));
}

#[tokio::test]
async fn health_says_whether_it_would_serve_and_reflection_lists_the_service() {
    let server = Server::start().await;
    let mut health = HealthClient::new(server.channel.clone());
    for service in ["", "chat.v1.ChatService"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut states = health.watch(request).await.unwrap().into_inner();
        // The fourth is damaged, repairs itself or is not admitted: every read is unavailable.
        for (primary, damaged, expected) in [
            (Some(ReplicaId(2)), false, ServingStatus::Serving),
            (None, false, ServingStatus::NotServing),
            (Some(ReplicaId(1)), false, ServingStatus::Serving),
            (Some(ReplicaId(1)), true, ServingStatus::NotServing),
            (Some(ReplicaId(1)), false, ServingStatus::Serving),
        ] {
            {
                let mut state = server.fake.state();
                (state.primary, state.damaged) = (primary, damaged);
            }
            // The first state is that of the moment; what follows are changes.
            while states.message().await.unwrap().unwrap().status() != expected {}
        }
    }
    let v1 = list_services_v1(server.channel.clone()).await;
    for name in ["chat.v1.ChatService", "grpc.health.v1.Health"] {
        assert!(v1.iter().any(|s| s == name), "{v1:?}");
    }
}

async fn list_services_v1(channel: Channel) -> Vec<String> {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let requests = tokio_stream::iter([request]);
    let response = client.server_reflection_info(requests).await.unwrap();
    let response = response.into_inner().message().await.unwrap().unwrap();
    match response.message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|s| s.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stop_ends_streams_and_then_the_server() {
    let server = Server::start().await;
    let token = server.account("alice").await;
    let request = with_token(&token, proto::DeliverMessagesRequest::default());
    let response = server.chat().deliver_messages(request).await.unwrap();
    let mut stream = response.into_inner();
    stream.message().await.unwrap();
    server.stop.send(()).unwrap();
    let ended = stream.message().await.unwrap_err();
    assert_eq!(
        (reason(&ended).as_str(), ended.code()),
        ("UNAVAILABLE", Code::Unavailable)
    );
    server.ended.await.unwrap().unwrap();
}

/// A client id that the fake knows nothing about: it remembers every request.
fn send(sequence: u64, recipient: &str, token: &str) -> proto::PipelinedSend {
    proto::PipelinedSend {
        recipient: recipient.to_owned(),
        body: format!("number {sequence}").into_bytes().into(),
        content_type: String::new(),
        request_id: Some(proto::RequestId {
            client_id: vec![9; 16].into(),
            sequence,
        }),
        token: token.to_owned(),
    }
}

#[tokio::test]
async fn a_stream_of_sends_has_its_outcomes_in_order_good_and_bad() {
    use proto::send_outcome::Outcome;
    let server = Server::start().await;
    let alice = server.account("alice").await;
    let bob = server.account("bob").await;
    let (requests, outgoing) = tokio::sync::mpsc::channel(4);
    let sends = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut replies = server
        .chat()
        .send_messages(with_token(&alice, sends))
        .await
        .unwrap()
        .into_inner();
    // The last three: a bad name, no id, a token that is none.
    let mut without_id = send(4, "bob", "");
    without_id.request_id = None;
    let batch = vec![
        send(1, "bob", ""),
        send(2, "alice", &bob),
        send(3, "no such name!", ""),
        without_id,
        send(5, "bob", "ct_nonsense"),
        send(6, "bob", ""),
    ];
    let request = proto::SendMessagesRequest { sends: batch };
    requests.send(request).await.unwrap();
    drop(requests);
    let mut words = Vec::new();
    while let Some(reply) = replies.message().await.unwrap() {
        words.extend(reply.outcomes.into_iter().map(|o| match o.outcome {
            Some(Outcome::Sent(sent)) => format!("inbox {}", sent.inbox_seq),
            Some(Outcome::Refused(refused)) => refused.reason,
            None => "nothing".to_owned(),
        }));
    }
    // The model applies a batch backwards: the outcomes still come in the order of the sends.
    assert_eq!(
        words,
        [
            "inbox 2",
            "inbox 1",
            "INVALID_NAME",
            "REQUEST_ID_INVALID",
            "TOKEN_INVALID",
            "inbox 1"
        ]
    );
    let state = server.fake.state();
    let inbox = |name: &str| {
        let accounts = state.accounts.values();
        let mut with_name = accounts.filter(|account| account.info.name == name);
        with_name.next().map(|account| account.inbox.len())
    };
    assert_eq!((inbox("alice"), inbox("bob")), (Some(1), Some(2)));
}

#[tokio::test]
async fn a_stream_of_sends_ends_when_the_server_stops() {
    let server = Server::start().await;
    let alice = server.account("alice").await;
    let (requests, outgoing) = tokio::sync::mpsc::channel(4);
    let sends = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut replies = server
        .chat()
        .send_messages(with_token(&alice, sends))
        .await
        .unwrap()
        .into_inner();
    let first = proto::SendMessagesRequest {
        sends: vec![send(1, "alice", "")],
    };
    requests.send(first).await.unwrap();
    assert_eq!(replies.message().await.unwrap().unwrap().outcomes.len(), 1);
    server.stop.send(()).unwrap();
    let status = replies.message().await.unwrap_err();
    assert_eq!(reason(&status), "SHUTTING_DOWN");
    server.ended.await.unwrap().unwrap();
}
