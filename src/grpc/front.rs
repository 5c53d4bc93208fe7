//! Connections of clients: the chat service itself, and everything else through a router.
//!
//! hyper serves them, without the router and the layers that tonic's own server puts around each call: these
//! would be cloned, boxed and moved for every message (what that comes to is in docs/performance.md). What is left
//! of them is what a client may notice: its deadline. `SendMessage` goes past tonic's codec too, by [`unary`].

use super::chat::Chat;
use super::chat_convert as convert;
use super::unary::{self, Begun, Reply};
use crate::limits;
use crate::proto::chat::SendMessageRequest;
use crate::proto::chat::chat_service_server::ChatServiceServer;
use crate::service::{Backend, Reason, ServiceError};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{self, HeaderMap, HeaderName};
use tonic::server::NamedService;
use tonic::service::Routes;

type Call = http::Request<Incoming>;
type Answer = http::Response<Reply>;

/// A connection that says nothing for this long is asked for a sign of life.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// One that gives none for this long is closed.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection whose client has broken the protocol so many times is closed.
const PROTOCOL_ERRORS_MAX: usize = 1_024;

/// How long a caller waits, if it says so.
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The call that is answered without tonic.
const SEND_MESSAGE: &str = "/chat.v1.ChatService/SendMessage";

/// What is served, and how.
pub(super) struct Front<B: Backend>(Arc<Services<B>>);

struct Services<B: Backend> {
    chat: Arc<Chat<B>>,
    calls: ChatServiceServer<Chat<B>>,
    others: Routes,
}

impl<B: Backend> Front<B> {
    pub(super) fn new(chat: Chat<B>, others: Routes) -> Self {
        let chat = Arc::new(chat);
        let calls = ChatServiceServer::from_arc(Arc::clone(&chat))
            .max_decoding_message_size(limits::CLIENT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::CLIENT_MESSAGE_BYTES_MAX);
        Self(Arc::new(Services {
            chat,
            calls,
            others,
        }))
    }

    /// Serves what `incoming` accepts. When `stop` is ready no more is accepted, and open connections end when
    /// their calls have.
    pub(super) async fn serve<IO>(
        self,
        incoming: impl Stream<Item = io::Result<IO>>,
        stop: impl Future<Output = ()>,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let builder = settings();
        let open = GracefulShutdown::new();
        {
            // Dropped BEFORE the wait below: whoever connects then is refused, and tries another replica.
            let mut incoming = pin!(incoming);
            let mut stop = pin!(stop);
            loop {
                let accepted = tokio::select! {
                    () = &mut stop => break,
                    accepted = incoming.next() => accepted,
                };
                match accepted {
                    Some(Ok(accepted)) => {
                        let io = TokioIo::new(accepted);
                        let services = Arc::clone(&self.0);
                        let answer = move |request| answer(Arc::clone(&services), request);
                        let connection =
                            builder.serve_connection(io, hyper::service::service_fn(answer));
                        let connection = open.watch(connection);
                        tokio::spawn(async move {
                            if let Err(error) = connection.await {
                                tracing::debug!("a client's connection failed: {error}");
                            }
                        });
                    }
                    Some(Err(error)) => tracing::debug!("a connection was not accepted: {error}"),
                    None => break,
                }
            }
        }
        open.shutdown().await;
    }
}

/// The answer, within the time that the caller has if it says so.
async fn answer<B: Backend>(
    services: Arc<Services<B>>,
    request: Call,
) -> Result<Answer, Infallible> {
    let Some(time) = time_left(request.headers()) else {
        return Ok(services.answer(request).await);
    };
    let answer = tokio::time::timeout(time, services.answer(request));
    Ok(Box::pin(answer).await.unwrap_or_else(|_| {
        let late = ServiceError::new(Reason::OutcomeUnknown);
        services.refusal(&late)
    }))
}

impl<B: Backend> Services<B> {
    async fn answer(&self, request: Call) -> Answer {
        // Whatever is said of the encoding is for tonic too.
        let plain = !request.headers().contains_key("grpc-encoding");
        if request.uri().path() != SEND_MESSAGE || !plain {
            return self.by_tonic(request.map(Body::new)).await;
        }
        let (head, body) = request.into_parts();
        let body = match Begun::read(body, limits::CLIENT_MESSAGE_BYTES_MAX).await {
            Ok(body) => body,
            Err(error) => return Status::from_error(Box::new(error)).into_http(),
        };
        if let Some(message) = body.message(limits::CLIENT_MESSAGE_BYTES_MAX) {
            drop(body);
            return self.send_message(&head.headers, message).await;
        }
        let request = http::Request::from_parts(head, Body::new(body));
        self.by_tonic(request).await
    }

    async fn send_message(&self, headers: &HeaderMap, message: SendMessageRequest) -> Answer {
        match self.chat.send(convert::bearer(headers), message).await {
            Ok(sent) => unary::answer(self.chat.marks(), &sent),
            Err(error) => self.refusal(&error),
        }
    }

    fn refusal(&self, error: &ServiceError) -> Answer {
        self.chat.status(error).into_http()
    }

    async fn by_tonic(&self, request: http::Request<Body>) -> Answer {
        // Neither service is ever busy, so that nobody asks whether it is ready.
        let answer = if is_of(ChatServiceServer::<Chat<B>>::NAME, request.uri().path()) {
            self.calls.clone().call(request).await
        } else {
            Box::pin(self.others.clone().call(request)).await
        };
        let Ok(answer) = answer;
        answer.map(Reply::Tonic)
    }
}

fn settings() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
        .initial_stream_window_size(limits::CLIENT_WINDOW_BYTES)
        .initial_connection_window_size(limits::CLIENT_WINDOW_BYTES)
        .max_header_list_size(limits::CLIENT_HEADER_BYTES_MAX)
        .max_local_error_reset_streams(PROTOCOL_ERRORS_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}

/// Is it `/SERVICE/METHOD`?
fn is_of(service: &str, path: &str) -> bool {
    let method = path.strip_prefix('/').and_then(|p| p.strip_prefix(service));
    method.is_some_and(|method| method.starts_with('/'))
}

/// How long the caller waits for the answer: up to eight digits and a unit, as gRPC over HTTP/2 specifies. What
/// is something else is no limit.
fn time_left(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let digits_only = digits.bytes().all(|byte| byte.is_ascii_digit());
    if !digits_only || digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_specified_and_nothing_else_is_one() {
        let timeout = |text: &str| HeaderMap::from_iter([(TIMEOUT, text.parse().unwrap())]);
        let of = |text| time_left(&timeout(text));
        let second = Some(Duration::from_secs(1));
        assert_eq!(of("1S"), second);
        assert_eq!(of("1000m"), second);
        assert_eq!(of("1000000u"), second);
        assert_eq!(of("00000001S"), second);
        assert_eq!(of("2M"), Some(Duration::from_secs(120)));
        assert_eq!(
            of("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3_600))
        );
        assert_eq!(of("7n"), Some(Duration::from_nanos(7)));
        for none in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "+1S",
            "1.5S",
            "100000000S",
            "1 S",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(time_left(&HeaderMap::new()), None);
    }

    #[test]
    fn a_path_names_a_service() {
        assert!(is_of("a.B", "/a.B/C"));
        for other in ["/a.B", "a.B/C", "/a.BC/D", "/x/a.B/C", "/", ""] {
            assert!(!is_of("a.B", other), "{other}");
        }
    }
}
