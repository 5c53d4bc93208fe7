//! What is served on the client listener: the chat service itself, and everything else through a router.

use futures_util::future::Either;
use std::convert::Infallible;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::service::Routes;

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// Calls of `C` reach it without the router's layers, each of which would allocate and move what is to be done for
/// each call.
#[derive(Clone)]
pub(super) struct Front<C> {
    chat: C,
    others: Routes,
}

impl<C> Front<C> {
    pub(super) fn new(chat: C, others: Routes) -> Self {
        Self { chat, others }
    }
}

impl<C: NamedService> Front<C> {
    /// `/SERVICE/METHOD`
    fn is_chat(path: &str) -> bool {
        let method = path
            .strip_prefix('/')
            .and_then(|path| path.strip_prefix(C::NAME));
        method.is_some_and(|method| method.starts_with('/'))
    }
}

impl<C> Service<Request> for Front<C>
where
    C: Service<Request, Response = Response, Error = Infallible> + NamedService,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<C::Future, <Routes as Service<Request>>::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self.chat.poll_ready(context) {
            Poll::Ready(Ok(())) => Service::<Request>::poll_ready(&mut self.others, context),
            other => other,
        }
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if Self::is_chat(request.uri().path()) {
            Either::Left(self.chat.call(request))
        } else {
            Either::Right(self.others.call(request))
        }
    }
}
