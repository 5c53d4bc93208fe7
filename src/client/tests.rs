//! The library against replicas that do as they are told.

use super::*;
use crate::proto::chat as proto;
use crate::proto::chat::chat_service_server::{ChatService, ChatServiceServer};
use crate::proto::chat::deliver_messages_response::Event as Wire;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// What a replica does with a request.
#[derive(Clone)]
enum Step {
    Serve,
    /// Refuses with this code and reason, and names this primary.
    Refuse(Code, &'static str, Option<String>),
    /// Takes it and never answers, as a paused process does.
    Hang,
    /// Streams these events and ends.
    Stream(Vec<Wire>),
}

/// Plays its steps in order, then the last one for ever.
struct Fake {
    steps: Mutex<VecDeque<Step>>,
    /// Sequences of the requests seen.
    seen: Mutex<Vec<u64>>,
    /// `after` of the streams seen.
    after: Mutex<Vec<Option<u64>>>,
}

impl Fake {
    async fn start(steps: Vec<Step>) -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fake = Arc::new(Self {
            steps: Mutex::new(steps.into()),
            seen: Mutex::default(),
            after: Mutex::default(),
        });
        let server = tonic::transport::Server::builder()
            .add_service(ChatServiceServer::from_arc(fake.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        (fake, address)
    }

    async fn play(&self, request: Option<proto::RequestId>) -> Result<Step, Status> {
        let step = {
            let mut steps = self.steps.lock().unwrap();
            if steps.len() > 1 {
                steps.pop_front().unwrap()
            } else {
                steps.front().cloned().unwrap()
            }
        };
        let sequence = request.map_or(0, |id| id.sequence);
        self.seen.lock().unwrap().push(sequence);
        match step {
            Step::Refuse(code, reason, primary) => {
                let details = ErrorDetails::with_error_info(reason, "chat", []);
                let mut status = Status::with_error_details(code, "as told", details);
                if let Some(primary) = primary {
                    let primary = primary.parse().unwrap();
                    status.metadata_mut().insert("chat-primary", primary);
                }
                Err(status)
            }
            Step::Hang => std::future::pending().await,
            step => Ok(step),
        }
    }
}

type Reply<T> = Result<Response<T>, Status>;
type EventStream = Pin<
    Box<dyn tokio_stream::Stream<Item = Result<proto::DeliverMessagesResponse, Status>> + Send>,
>;

#[tonic::async_trait]
impl ChatService for Fake {
    type DeliverMessagesStream = EventStream;
    type SendMessagesStream = tokio_stream::Empty<Result<proto::SendMessagesResponse, Status>>;

    async fn send_messages(
        &self,
        _: Request<tonic::Streaming<proto::SendMessagesRequest>>,
    ) -> Reply<Self::SendMessagesStream> {
        Err(Status::unimplemented("not played"))
    }

    async fn send_message(
        &self,
        request: Request<proto::SendMessageRequest>,
    ) -> Reply<proto::SendMessageResponse> {
        self.play(request.into_inner().request_id).await?;
        let mut response = Response::new(proto::SendMessageResponse::default());
        response
            .metadata_mut()
            .insert("chat-replica", "3".parse().unwrap());
        Ok(response)
    }

    async fn logout(&self, request: Request<proto::LogoutRequest>) -> Reply<proto::LogoutResponse> {
        self.play(request.into_inner().request_id).await?;
        Ok(Response::new(proto::LogoutResponse {}))
    }

    async fn deliver_messages(
        &self,
        request: Request<proto::DeliverMessagesRequest>,
    ) -> Reply<Self::DeliverMessagesStream> {
        self.after.lock().unwrap().push(request.get_ref().after);
        let Step::Stream(events) = self.play(None).await? else {
            return Err(Status::unimplemented("not a stream"));
        };
        let events = events
            .into_iter()
            .map(|event| Ok(proto::DeliverMessagesResponse { event: Some(event) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    async fn create_account(
        &self,
        _: Request<proto::CreateAccountRequest>,
    ) -> Reply<proto::CreateAccountResponse> {
        Err(Status::unimplemented("not played"))
    }
    async fn login(&self, _: Request<proto::LoginRequest>) -> Reply<proto::LoginResponse> {
        Err(Status::unimplemented("not played"))
    }
    async fn who_am_i(&self, _: Request<proto::WhoAmIRequest>) -> Reply<proto::WhoAmIResponse> {
        Err(Status::unimplemented("not played"))
    }
    async fn list_sessions(
        &self,
        _: Request<proto::ListSessionsRequest>,
    ) -> Reply<proto::ListSessionsResponse> {
        Err(Status::unimplemented("not played"))
    }
    async fn revoke_session(
        &self,
        _: Request<proto::RevokeSessionRequest>,
    ) -> Reply<proto::RevokeSessionResponse> {
        Err(Status::unimplemented("not played"))
    }
    async fn change_password(
        &self,
        _: Request<proto::ChangePasswordRequest>,
    ) -> Reply<proto::ChangePasswordResponse> {
        Err(Status::unimplemented("not played"))
    }
    async fn update_profile(
        &self,
        _: Request<proto::UpdateProfileRequest>,
    ) -> Reply<proto::UpdateProfileResponse> {
        Err(Status::unimplemented("not played"))
    }
    async fn ack_messages(
        &self,
        _: Request<proto::AckMessagesRequest>,
    ) -> Reply<proto::AckMessagesResponse> {
        Err(Status::unimplemented("not played"))
    }
    async fn list_delivered(
        &self,
        _: Request<proto::ListDeliveredRequest>,
    ) -> Reply<proto::ListDeliveredResponse> {
        Err(Status::unimplemented("not played"))
    }
    async fn list_accounts(
        &self,
        _: Request<proto::ListAccountsRequest>,
    ) -> Reply<proto::ListAccountsResponse> {
        Err(Status::unimplemented("not played"))
    }
    async fn delete_account(
        &self,
        _: Request<proto::DeleteAccountRequest>,
    ) -> Reply<proto::DeleteAccountResponse> {
        Err(Status::unimplemented("not played"))
    }
}

fn client(addresses: &[&String], deadline: Duration) -> Client {
    let options = Options {
        attempt_timeout: Duration::from_millis(800).min(deadline / 3),
        deadline,
        ..Options::default()
    };
    let cluster = Cluster::connect_with(addresses, options).unwrap();
    let data = SessionData {
        username: "alice".into(),
        user_id: 2,
        device: "default".into(),
        token: "secret".into(),
        client_id: [7; 16],
        next_sequence: 5,
    };
    Client::resume(&cluster, data).unwrap()
}

fn message(inbox_seq: u64) -> Wire {
    Wire::Message(Message {
        inbox_seq,
        ..Message::default()
    })
}

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_send_that_was_not_applied_goes_to_the_primary_under_the_same_id() {
    let (primary, primary_address) = Fake::start(vec![Step::Serve]).await;
    let hint = Some(primary_address.clone());
    let refuse = Step::Refuse(Code::Unavailable, "NOT_APPLIED", hint);
    let (secondary, secondary_address) = Fake::start(vec![refuse]).await;
    // The primary is not even in the list: the hint names it.
    let client = client(&[&secondary_address], LONG);
    let receipt = client.send("bob", "hello").await.unwrap();
    assert_eq!((receipt.attempts, receipt.replica), (2, Some(3)));
    assert_eq!(*secondary.seen.lock().unwrap(), [5]);
    assert_eq!(*primary.seen.lock().unwrap(), [5]);
    assert_eq!(client.send("bob", "again").await.unwrap().attempts, 1);
    assert_eq!(*primary.seen.lock().unwrap(), [5, 6]);
    assert_eq!(client.cluster().stats().retries, 1);
    assert_eq!(client.cluster().primary(), Some(primary_address));
}

#[tokio::test]
async fn a_dead_and_a_paused_replica_are_passed_over() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = gone.local_addr().unwrap().to_string();
    drop(gone);
    let (paused, paused_address) = Fake::start(vec![Step::Hang]).await;
    let (good, good_address) = Fake::start(vec![Step::Serve]).await;
    let client = client(&[&dead, &paused_address, &good_address], LONG);
    assert_eq!(client.send("bob", "hello").await.unwrap().attempts, 3);
    assert_eq!(client.send("bob", "again").await.unwrap().attempts, 1);
    assert_eq!(*paused.seen.lock().unwrap(), [5]);
    assert_eq!(*good.seen.lock().unwrap(), [5, 6]);
    assert_eq!(client.cluster().stats().failovers, 2);
}

#[tokio::test]
async fn giving_up_says_whether_the_message_may_have_been_sent() {
    let not_applied = Step::Refuse(Code::Unavailable, "NOT_APPLIED", None);
    let (_fake, address) = Fake::start(vec![not_applied.clone()]).await;
    let error = client(&[&address], SHORT).send("bob", "x").await;
    assert_eq!(error.unwrap_err().reason, "NOT_APPLIED");

    // One unknown outcome among many refusals: the outcome of the whole is unknown.
    let unknown = Step::Refuse(Code::Unavailable, "OUTCOME_UNKNOWN", None);
    let (_fake, address) = Fake::start(vec![not_applied.clone(), unknown, not_applied]).await;
    let error = client(&[&address], SHORT).send("bob", "x").await;
    let error = error.unwrap_err();
    assert_eq!(error.reason, "OUTCOME_UNKNOWN");
    assert_eq!(error.class(), Class::Unreachable);
}

#[tokio::test]
async fn a_refusal_is_not_retried() {
    let refuse = Step::Refuse(Code::NotFound, "RECIPIENT_UNKNOWN", None);
    let (fake, address) = Fake::start(vec![refuse]).await;
    let error = client(&[&address], LONG).send("nobody", "x").await;
    assert_eq!(error.unwrap_err().reason, "RECIPIENT_UNKNOWN");
    assert_eq!(fake.seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_logout_whose_reply_was_lost_is_a_logout() {
    let refuse = Step::Refuse(Code::Unauthenticated, "TOKEN_INVALID", None);
    let (_fake, address) = Fake::start(vec![Step::Hang, refuse.clone()]).await;
    client(&[&address], LONG).logout().await.unwrap();

    let (_fake, address) = Fake::start(vec![refuse]).await;
    let error = client(&[&address], LONG).logout().await.unwrap_err();
    assert_eq!(error.class(), Class::NotLoggedIn);
}

#[tokio::test]
async fn a_logout_of_a_client_that_was_dropped_is_none() {
    // The token was found good before the client was looked for: nothing has ended the login.
    let refuse = Step::Refuse(Code::FailedPrecondition, "CLIENT_UNKNOWN", None);
    let (_fake, address) = Fake::start(vec![Step::Hang, refuse]).await;
    let error = client(&[&address], LONG).logout().await.unwrap_err();
    assert_eq!(error.reason, "CLIENT_UNKNOWN");
}

#[tokio::test]
async fn a_listener_goes_on_elsewhere_and_drops_what_it_has_seen() {
    let end = Wire::EndOfBacklog(proto::EndOfBacklog {});
    let (_first, a) = Fake::start(vec![Step::Stream(vec![message(4), message(5)])]).await;
    let rest = vec![message(5), message(6), end];
    let (second, b) = Fake::start(vec![Step::Stream(rest)]).await;
    let mut inbox = client(&[&a, &b], LONG).listen(Listen::default());
    let mut heard = Vec::new();
    loop {
        match inbox.next().await.unwrap().unwrap() {
            Event::Message(message) => heard.push(message.inbox_seq),
            Event::EndOfBacklog => break,
            Event::Reconnected => heard.push(0),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard, [4, 5, 0, 6]);
    assert_eq!(second.after.lock().unwrap()[0], Some(5));
}

#[tokio::test]
async fn a_gap_is_an_error() {
    let (_fake, a) = Fake::start(vec![Step::Stream(vec![message(1), message(3)])]).await;
    let mut inbox = client(&[&a], LONG).listen(Listen::default());
    assert_eq!(inbox.next_message().await.unwrap().unwrap().inbox_seq, 1);
    let error = inbox.next_message().await.unwrap().unwrap_err();
    assert_eq!(error.reason, "GAP");
    assert!(inbox.next().await.is_none());
}

#[tokio::test]
async fn a_gap_that_retention_left_is_none() {
    let removed = |up_to| Wire::Removed(proto::Removed { up_to });
    let stream = vec![message(1), removed(1), removed(4), message(5)];
    let (_fake, a) = Fake::start(vec![Step::Stream(stream)]).await;
    let mut inbox = client(&[&a], LONG).listen(Listen::default());
    assert_eq!(inbox.next_message().await.unwrap().unwrap().inbox_seq, 1);
    let told = inbox.next().await.unwrap().unwrap();
    assert_eq!(told, Event::Removed { up_to: 4 });
    assert_eq!(inbox.next_message().await.unwrap().unwrap().inbox_seq, 5);
}

#[tokio::test]
async fn a_listener_without_a_replica_gives_up_at_its_deadline() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = gone.local_addr().unwrap().to_string();
    drop(gone);
    let mut inbox = client(&[&dead], SHORT).listen(Listen::default());
    let error = inbox.next().await.unwrap().unwrap_err();
    assert_eq!(error.class(), Class::Unreachable);
}

#[test]
fn an_address_without_a_port_is_refused() {
    for address in ["", "localhost", "localhost:", "localhost:x", "a b:1"] {
        let error = Cluster::connect([address]).unwrap_err();
        assert_eq!(error.reason, "ADDRESS_INVALID", "{address:?}");
    }
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_at_once() {
    for address in [
        "http://127.0.0.1:7400",
        "127.0.0.1:7400/",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:7400:7401",
        "::1:7400",
        ":7400",
        "a host:7400",
    ] {
        let refused = Cluster::connect([address]).unwrap_err();
        assert_eq!(refused.reason, "ADDRESS_INVALID", "{address}");
    }
    for address in ["127.0.0.1:7400", "[::1]:7400", "chat.example.org:7400"] {
        Cluster::connect([address]).unwrap();
    }
}

#[tokio::test]
async fn a_server_without_our_service_is_called_no_client_address_of_a_replica() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (_reporter, other) = tonic_health::server::health_reporter();
    let server = tonic::transport::Server::builder()
        .add_service(other)
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    let cluster = Cluster::connect([&address]).unwrap();
    let refused = Client::login(&cluster, "alice", "secret", "").await;
    let refused = refused.err().expect("nobody serves it");
    assert_eq!(refused.reason, "WRONG_PROTOCOL");
    let expected = format!("{address} is no client address of a replica");
    assert!(refused.message.contains(&expected), "{refused}");
    // One of the addresses is right.
    let (_fake, good) = Fake::start(vec![Step::Serve]).await;
    let client = client(&[&address, &good], Duration::from_secs(20));
    client.send("bob", "hello").await.unwrap();
}
