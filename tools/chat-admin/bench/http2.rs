//! A bare HTTP/2 connection for unary calls.
//!
//! The generator shares the machine with the replicas: what a call costs here is not there for them. tonic's
//! `Channel` reconnects, queues and bounds each call, of which a load of known size needs nothing.

use anyhow::Context as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response, Uri};

/// One connection, shared by those who call over it.
#[derive(Clone)]
pub struct Http2(SendRequest<Body>);

impl Http2 {
    /// Connects to HOST:PORT; also what calls say they are for.
    pub async fn connect(address: &str) -> anyhow::Result<(Self, Uri)> {
        let origin = Uri::builder()
            .scheme("http")
            .authority(address)
            .path_and_query("/")
            .build()?;
        let socket = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        socket.set_nodelay(true)?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(socket))
            .await
            .with_context(|| format!("{address} does not speak HTTP/2"))?;
        // It ends with the last sender; why it ended before, its calls say.
        tokio::spawn(connection);
        Ok((Self(sender), origin))
    }

    /// No call can be made over it any more.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Service<Request<Body>> for Http2 {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
