//! Calls as bytes: what a client library never sends, and when time is up.

use super::chat_tests::{Server, message, reason};
use crate::limits;
use crate::proto::chat as proto;
use crate::replica::WriteError;
use crate::service::fake::Fault;
use bytes::Bytes;
use prost::Message as _;
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::codegen::http::{HeaderMap, Request};
use tonic::{Code, Status};

const SEND_MESSAGE: &str = "/chat.v1.ChatService/SendMessage";

type Headers<'a> = &'a [(&'static str, &'a str)];

/// What a call of these bytes, each part a frame of its own, is answered: headers, body and status.
async fn call(
    server: &Server,
    path: &str,
    headers: Headers<'_>,
    parts: &[&[u8]],
) -> (HeaderMap, Bytes, Status) {
    let ended = [parts, &[&[]]].concat();
    call_in_parts(server, path, headers, &ended, true).await
}

/// The same; `ends` if the last part is the last one.
async fn call_in_parts(
    server: &Server,
    path: &str,
    headers: Headers<'_>,
    parts: &[&[u8]],
    ends: bool,
) -> (HeaderMap, Bytes, Status) {
    let authority = server.address.strip_prefix("http://").unwrap();
    let socket = TcpStream::connect(authority).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::post(format!("{}{path}", server.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).unwrap();
    let mut client = client.ready().await.unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    for (number, part) in (1..).zip(parts) {
        let last = ends && number == parts.len();
        // It may have its answer, and want no more.
        let _ = body.send_data(Bytes::copy_from_slice(part), last);
    }
    let (head, mut body) = answer.await.unwrap().into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return (head.headers, Bytes::new(), status);
    }
    let message = body.data().await.unwrap().unwrap();
    assert!(body.data().await.is_none(), "one message is one frame");
    let trailers = body.trailers().await.unwrap().unwrap();
    let status = Status::from_header_map(&trailers).unwrap();
    (head.headers, message, status)
}

/// A message with its prefix.
fn framed(flag: u8, length: usize, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [&[flag], &length[..], message].concat()
}

#[tokio::test]
async fn one_message_however_it_comes_is_sent_and_what_is_none_is_not() {
    let server = Server::start().await;
    server.account("bob").await;
    let token = format!("Bearer {}", server.account("alice").await);
    let headers = [("authorization", token.as_str())];
    let hello = message("bob", b"hello".to_vec()).encode_to_vec();
    let plain = framed(0, hello.len(), &hello);

    let (first, rest) = plain.split_at(2);
    let bytes: Vec<&[u8]> = plain.chunks(1).collect();
    for (parts, seq) in [
        (&[&plain[..]][..], 1),
        (&[first, rest], 2),
        (&bytes, 3),
        // tonic's rule: the first one counts.
        (&[&plain, &plain], 4),
    ] {
        let (head, answer, status) = call(&server, SEND_MESSAGE, &headers, parts).await;
        assert_eq!(status.code(), Code::Ok);
        assert_eq!(head["content-type"], "application/grpc");
        assert_eq!(head["chat-replica"], "1");
        assert_eq!(head["chat-primary"], "replica-2:7000");
        assert_eq!(answer[..5], framed(0, answer.len() - 5, &[]));
        let sent = proto::SendMessageResponse::decode(&answer[5..]).unwrap();
        assert_eq!(sent.inbox_seq, seq);
    }

    let written = server.fake.state().writes.len();
    let long = vec![7; limits::CLIENT_MESSAGE_BYTES_MAX + 1];
    for (what, bytes, code) in [
        ("no message", vec![], Code::Internal),
        ("compressed", framed(1, hello.len(), &hello), Code::Internal),
        (
            "no such flag",
            framed(2, hello.len(), &hello),
            Code::Internal,
        ),
        ("a part", framed(0, hello.len() + 1, &hello), Code::Internal),
        ("a part of the prefix", vec![0; 4], Code::Internal),
        ("not protobuf", framed(0, 3, &[255; 3]), Code::Internal),
        ("too long", framed(0, long.len(), &long), Code::OutOfRange),
        (
            "said to be too long",
            framed(0, long.len(), &hello),
            Code::OutOfRange,
        ),
    ] {
        let (_, _, status) = call(&server, SEND_MESSAGE, &headers, &[&bytes]).await;
        assert_eq!(status.code(), code, "{what}: {status}");
    }
    // What is wrong from the beginning is told before the end.
    for bytes in [
        framed(0, long.len(), &[]),
        framed(1, 9, &[]),
        framed(2, 9, &[]),
    ] {
        let parts = [&bytes[..]];
        let answer = call_in_parts(&server, SEND_MESSAGE, &headers, &parts, false);
        let answer = tokio::time::timeout(Duration::from_secs(20), answer).await;
        let (_, _, status) = answer.expect("nothing waits for the end");
        assert_ne!(status.code(), Code::Ok);
    }
    let headers = [headers[0], ("grpc-encoding", "gzip")];
    for flag in [0, 1] {
        let zipped = framed(flag, hello.len(), &hello);
        let (_, _, status) = call(&server, SEND_MESSAGE, &headers, &[&zipped]).await;
        assert_eq!(status.code(), Code::Unimplemented);
    }
    let no_id = proto::SendMessageRequest {
        request_id: Some(proto::RequestId::default()),
        ..Default::default()
    };
    let no_id = no_id.encode_to_vec();
    for message in [hello, no_id] {
        let bytes = framed(0, message.len(), &message);
        let (_, _, status) = call(&server, SEND_MESSAGE, &[], &[&bytes]).await;
        assert_eq!(reason(&status), "TOKEN_MISSING");
    }
    assert_eq!(server.fake.state().writes.len(), written);
}

#[tokio::test]
async fn a_call_that_is_late_ends_with_an_unknown_outcome() {
    let server = Server::start().await;
    server.account("bob").await;
    let token = format!("Bearer {}", server.account("alice").await);
    let hello = message("bob", b"hello".to_vec()).encode_to_vec();
    let plain = framed(0, hello.len(), &hello);
    let headers = [("authorization", token.as_str()), ("grpc-timeout", "1H")];
    let (_, _, status) = call(&server, SEND_MESSAGE, &headers, &[&plain]).await;
    assert_eq!(status.code(), Code::Ok);
    // More than can be tried in that time.
    let never = vec![Fault::Refuse(WriteError::NotApplied); 10_000];
    server.fake.state().faults.extend(never);
    let headers = [("authorization", token.as_str()), ("grpc-timeout", "20m")];
    let (head, _, status) = call(&server, SEND_MESSAGE, &headers, &[&plain]).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(reason(&status), "OUTCOME_UNKNOWN");
    assert_eq!(head["chat-replica"], "1");
    // By tonic, too.
    let logout = framed(0, 0, &[]);
    let path = "/chat.v1.ChatService/Logout";
    let (_, _, status) = call(&server, path, &headers, &[&logout]).await;
    assert_eq!(reason(&status), "OUTCOME_UNKNOWN");
}

#[tokio::test]
async fn what_nobody_serves_is_unimplemented() {
    let server = Server::start().await;
    for path in [
        "/chat.v1.ChatService/Shout",
        "/chat.v1.ChatServices/Login",
        "/",
    ] {
        let (_, _, status) = call(&server, path, &[], &[]).await;
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
}
