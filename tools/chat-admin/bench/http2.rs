//! Unary calls over a bare HTTP/2 connection.
//!
//! The generator shares the machine with the replicas: what a call costs here is not there for them. tonic's
//! `Channel` reconnects, queues and bounds each call, and hyper hands it from task to task, of which a load of
//! known size needs nothing. The same headers and message go over the wire; the stream ends with the message's own
//! frame, where tonic sends an empty one more.

use anyhow::Context as _;
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::{self, ResponseFuture, SendRequest};
use prost::Message;
use std::future::poll_fn;
use tokio::net::TcpStream;
use tonic::codegen::http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use tonic::{Code, Status};

/// In front of each message: is it compressed (0: no), and how long is it.
const PREFIX_BYTES: usize = 5;
/// What the server may send before it is read: all answers of all calls on the way.
const WINDOW_BYTES: u32 = 4 << 20;

/// Until the server has said how many calls it takes at once.
const STREAMS_AT_FIRST: usize = 100;

/// One connection, shared by those who call over it.
#[derive(Clone)]
pub struct Http2 {
    calls: SendRequest<Bytes>,
    origin: Uri,
}

impl Http2 {
    /// Connects to HOST:PORT.
    pub async fn connect(address: &str) -> anyhow::Result<Self> {
        let origin = format!("http://{address}/").parse()?;
        let socket = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        socket.set_nodelay(true)?;
        let (calls, connection) = client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .initial_max_send_streams(STREAMS_AT_FIRST)
            .enable_push(false)
            .handshake(socket)
            .await
            .with_context(|| format!("{address} does not speak HTTP/2"))?;
        // It ends with the last sender; why it ended before, its calls say.
        tokio::spawn(connection);
        Ok(Self { calls, origin })
    }

    /// A method that this token's bearer calls, by its path.
    pub fn method(&self, path: &'static str, token: &str) -> anyhow::Result<Unary> {
        let mut uri = self.origin.clone().into_parts();
        uri.path_and_query = Some(path.try_into()?);
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = Uri::from_parts(uri)?;
        let headers = head.headers_mut();
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse()?);
        let calls = self.calls.clone();
        Ok(Unary { calls, head })
    }
}

/// A method of one request message and one answer.
pub struct Unary {
    calls: SendRequest<Bytes>,
    head: Request<()>,
}

/// Why a call has no answer.
pub enum Failure {
    /// The server refused it, or gave it up.
    Refused(Status),
    /// The connection is of no use any more.
    Closed(h2::Error),
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        if error.is_reset() {
            Self::Refused(Status::from_error(Box::new(error)))
        } else {
            Self::Closed(error)
        }
    }
}

impl Unary {
    /// Calls it.
    pub async fn call<A: Message + Default>(
        &mut self,
        request: &impl Message,
    ) -> Result<A, Failure> {
        let answer = self.begin(request).await?.await?;
        let refusal = |headers: &HeaderMap| {
            Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
        };
        // What is refused at once has no body.
        if let Some(status) = refusal(answer.headers()) {
            return Err(Failure::Refused(status));
        }
        let mut body = answer.into_body();
        let message = read(&mut body).await?;
        if let Some(status) = body.trailers().await?.as_ref().and_then(refusal) {
            return Err(Failure::Refused(status));
        }
        decode(&message).map_err(Failure::Refused)
    }

    async fn begin(&mut self, request: &impl Message) -> Result<ResponseFuture, h2::Error> {
        let length = request.encoded_len();
        let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
        bytes.put_u8(0);
        bytes.put_u32(length as u32);
        request.encode_raw(&mut bytes);
        poll_fn(|cx| self.calls.poll_ready(cx)).await?;
        let (answer, mut body) = self.calls.send_request(self.head.clone(), false)?;
        body.send_data(bytes.freeze(), true)?;
        Ok(answer)
    }
}

async fn read(body: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut message = Bytes::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        message = if message.is_empty() {
            chunk
        } else {
            [message, chunk].concat().into()
        };
    }
    Ok(message)
}

fn decode<A: Message + Default>(answer: &[u8]) -> Result<A, Status> {
    let Some(([0, length @ ..], message)) = answer.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(Status::internal("the answer is no message, or compressed"));
    };
    if u32::from_be_bytes(*length) as usize != message.len() {
        return Err(Status::internal("the answer is not one whole message"));
    }
    A::decode(message).map_err(|error| Status::internal(error.to_string()))
}
