//! Connections of clients: the chat service itself, and everything else through a router.
//!
//! hyper serves them, without the router and the layers that tonic's own server puts around each call: these
//! would be cloned, boxed and moved for every message (what that comes to is in docs/performance.md). What is left
//! of them is what a client may notice: its deadline.

use super::errors;
use crate::limits;
use crate::service::{Reason, ServiceError};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::service::Routes;

type Request = http::Request<Body>;
type Response = http::Response<Body>;
type Answer = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// A connection that says nothing for this long is asked for a sign of life.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// One that gives none for this long is closed.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection whose client has broken the protocol so many times is closed.
const PROTOCOL_ERRORS_MAX: usize = 1_024;

/// A service as tonic generates it.
pub(super) trait Generated:
    Service<Request, Response = Response, Error = Infallible, Future = Answer>
    + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<C> Generated for C where
    C: Service<Request, Response = Response, Error = Infallible, Future = Answer>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What is served.
#[derive(Clone)]
pub(super) struct Front<C> {
    chat: C,
    others: Routes,
}

impl<C: Generated> Front<C> {
    pub(super) fn new(chat: C, others: Routes) -> Self {
        Self { chat, others }
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
                        let connection = builder.serve_connection(io, self.clone());
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

    /// The answer, within the time that the caller has if it says so.
    fn answer(&self, request: Request) -> Answer {
        let time = time_left(request.headers());
        // Neither service is ever busy, so that nobody asks whether it is ready.
        let answer = if is_of(C::NAME, request.uri().path()) {
            self.chat.clone().call(request)
        } else {
            Box::pin(self.others.clone().call(request))
        };
        let Some(time) = time else {
            return answer;
        };
        Box::pin(async move {
            let answer = tokio::time::timeout(time, answer).await;
            answer.unwrap_or_else(|_| {
                let late = ServiceError::new(Reason::OutcomeUnknown);
                Ok(errors::status(&late).into_http())
            })
        })
    }
}

impl<C: Generated> hyper::service::Service<http::Request<Incoming>> for Front<C> {
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        self.answer(request.map(Body::new))
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
fn time_left(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
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
    use std::task::{Context, Poll};
    use tonic::{Code, Status};

    /// Never answers.
    #[derive(Clone)]
    struct Mute;

    impl NamedService for Mute {
        const NAME: &'static str = "chat.v1.Mute";
    }

    impl Service<Request> for Mute {
        type Response = Response;
        type Error = Infallible;
        type Future = Answer;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request) -> Self::Future {
            Box::pin(std::future::pending())
        }
    }

    fn request(path: &str, timeout: Option<&str>) -> Request {
        let mut request = http::Request::new(Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        if let Some(timeout) = timeout {
            let value = timeout.parse().unwrap();
            request.headers_mut().insert("grpc-timeout", value);
        }
        request
    }

    fn code(answered: Result<Response, Infallible>) -> Code {
        let status = Status::from_header_map(answered.unwrap().headers());
        status.unwrap().code()
    }

    #[tokio::test]
    async fn a_call_goes_to_its_service_and_ends_when_its_time_is_over() {
        let front = Front::new(Mute, Routes::default());
        let other = front.answer(request("/chat.v1.Mutes/Say", None));
        assert_eq!(code(other.await), Code::Unimplemented);
        let began = std::time::Instant::now();
        let late = front.answer(request("/chat.v1.Mute/Say", Some("20m")));
        assert_eq!(code(late.await), Code::DeadlineExceeded);
        assert!(began.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn deadlines_are_read_as_specified_and_nothing_else_is_one() {
        let of = |text| time_left(request("/", Some(text)).headers());
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
        assert_eq!(time_left(request("/", None).headers()), None);
    }

    #[test]
    fn a_path_names_a_service() {
        assert!(is_of("a.B", "/a.B/C"));
        for other in ["/a.B", "a.B/C", "/a.BC/D", "/x/a.B/C", "/", ""] {
            assert!(!is_of("a.B", other), "{other}");
        }
    }
}
