//! The client listener: `chat.v1.ChatService`, health and reflection.

use super::chat_convert as convert;
use super::chat_send;
use super::connections::Bounded;
use super::errors;
use super::front::{Front, KEEPALIVE_INTERVAL};
use crate::limits;
use crate::proto::chat as proto;
use crate::proto::chat::chat_service_server::{ChatService, ChatServiceServer};
use crate::replica::Handle;
use crate::service::{Backend, Deliveries, Service, ServiceError, Token};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// Between two looks at whether there is a primary.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// The listener cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors built into this binary do not parse.
    #[error("reflection cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves clients until `shutdown` is ready; then open streams end with `UNAVAILABLE` and open
/// calls have `STOP_GRACE_SECONDS` to finish. Health says NOT_SERVING while this replica knows no
/// primary or may not show its copy, and from the beginning of the stop.
pub async fn serve<B: Backend>(
    listener: TcpListener,
    service: Service<B>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    serve_counted(listener, service, Arc::default(), shutdown).await
}

/// The same; `open` counts the connections.
pub async fn serve_counted<B: Backend>(
    listener: TcpListener,
    service: Service<B>,
    open: Arc<AtomicUsize>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    // BEFORE the first connection: the reporter itself begins with SERVING.
    let serving = service.serves();
    report_health::<B>(&health, serving).await;
    let chat = Chat::new(service.clone());
    let incoming = TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .with_keepalive(Some(KEEPALIVE_INTERVAL));
    let incoming = Bounded::new(incoming, ("clients", limits::CLIENT_CONNECTIONS_MAX), open);
    let (stop, stopped) = oneshot::channel::<()>();
    let others = tonic::service::Routes::new(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    let server = Front::new(chat, others).serve(incoming, async {
        // An error is a dropped sender: stop as well.
        let _ = stopped.await;
    });
    tokio::pin!(server);
    tokio::select! {
        () = &mut server => return Ok(()),
        () = watch_health(&health, &service, serving) => {}
        () = shutdown => {}
    }
    report_health::<B>(&health, false).await;
    service.close_streams();
    drop(stop);
    let grace = Duration::from_secs(limits::STOP_GRACE_SECONDS);
    if tokio::time::timeout(grace, server).await.is_err() {
        tracing::info!("client connections were still open at the end of the grace period");
    }
    Ok(())
}

async fn watch_health<B: Backend>(
    health: &HealthReporter,
    service: &Service<B>,
    mut reported: bool,
) {
    let mut interval = tokio::time::interval(HEALTH_INTERVAL);
    loop {
        interval.tick().await;
        let serving = service.serves();
        // Only changes: the reporter wakes its watchers each time.
        if serving != reported {
            reported = serving;
            report_health::<B>(health, serving).await;
        }
    }
}

async fn report_health<B: Backend>(health: &HealthReporter, serving: bool) {
    let status = if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for name in ["", ChatServiceServer::<Chat<B>>::NAME] {
        health.set_service_status(name, status).await;
    }
}

/// The gRPC face of a [`Service`].
pub struct Chat<B: Backend = Handle> {
    pub(super) service: Service<B>,
}

impl<B: Backend> Chat<B> {
    /// A face of this service.
    pub fn new(service: Service<B>) -> Self {
        Self { service }
    }

    /// An answer with the metadata that every answer has, errors included.
    fn reply<T>(&self, result: Result<T, ServiceError>) -> Result<Response<T>, Status> {
        match result {
            Ok(message) => {
                let mut response = Response::new(message);
                self.mark(response.metadata_mut());
                Ok(response)
            }
            Err(error) => Err(self.status(&error)),
        }
    }

    pub(super) fn status(&self, error: &ServiceError) -> Status {
        let mut status = errors::status(error);
        self.mark(status.metadata_mut());
        status
    }

    /// A message from the bearer of `token`.
    pub(super) async fn send(
        &self,
        token: Result<Token, ServiceError>,
        request: proto::SendMessageRequest,
    ) -> Result<proto::SendMessageResponse, ServiceError> {
        let token = token?;
        let request = convert::send_message(request)?;
        let sent = self.service.send_message(&token, request).await?;
        Ok(convert::sent(sent))
    }

    /// The metadata that every answer has.
    pub(super) fn marks(&self) -> MetadataMap {
        let mut metadata = MetadataMap::with_capacity(4);
        self.mark(&mut metadata);
        metadata
    }

    fn mark(&self, metadata: &mut MetadataMap) {
        metadata.insert("chat-replica", self.service.replica().0.into());
        let primary = self.service.primary_address();
        if let Some(primary) = primary.and_then(|p| MetadataValue::try_from(p).ok()) {
            metadata.insert("chat-primary", primary);
        }
    }
}

/// Hands the stream's events to the client as fast as it takes them; ends when the client goes,
/// and after the stream's error.
async fn pump<B: Backend>(
    chat: Chat<B>,
    mut stream: Deliveries<B>,
    events: mpsc::Sender<Result<proto::DeliverMessagesResponse, Status>>,
) {
    loop {
        let event = tokio::select! {
            () = events.closed() => return,
            event = stream.next() => event,
        };
        let last = event.is_err();
        let event = event
            .map(convert::event)
            .map_err(|error| chat.status(&error));
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}

#[tonic::async_trait]
impl<B: Backend> ChatService for Chat<B> {
    type SendMessagesStream = ReceiverStream<Result<proto::SendMessagesResponse, Status>>;
    type DeliverMessagesStream = ReceiverStream<Result<proto::DeliverMessagesResponse, Status>>;

    async fn create_account(
        &self,
        request: Request<proto::CreateAccountRequest>,
    ) -> Result<Response<proto::CreateAccountResponse>, Status> {
        let done = async {
            let request = convert::create_account(request.into_inner())?;
            self.service.create_account(request).await
        };
        self.reply(done.await.map(convert::created))
    }

    async fn login(
        &self,
        request: Request<proto::LoginRequest>,
    ) -> Result<Response<proto::LoginResponse>, Status> {
        let done = async {
            let request = convert::login(request.into_inner())?;
            self.service.login(request).await
        };
        self.reply(done.await.map(convert::logged_in))
    }

    async fn logout(
        &self,
        request: Request<proto::LogoutRequest>,
    ) -> Result<Response<proto::LogoutResponse>, Status> {
        let done = async {
            let token = convert::token(request.metadata())?;
            let id = convert::id(request.into_inner().request_id)?;
            self.service.logout(&token, id).await
        };
        self.reply(done.await.map(|()| proto::LogoutResponse {}))
    }

    async fn who_am_i(
        &self,
        request: Request<proto::WhoAmIRequest>,
    ) -> Result<Response<proto::WhoAmIResponse>, Status> {
        let done = async {
            let token = convert::token(request.metadata())?;
            self.service.who_am_i(&token).await
        };
        self.reply(done.await.map(convert::who_am_i))
    }

    async fn list_sessions(
        &self,
        request: Request<proto::ListSessionsRequest>,
    ) -> Result<Response<proto::ListSessionsResponse>, Status> {
        let done = async {
            let token = convert::token(request.metadata())?;
            self.service.list_sessions(&token).await
        };
        self.reply(done.await.map(convert::sessions))
    }

    async fn revoke_session(
        &self,
        request: Request<proto::RevokeSessionRequest>,
    ) -> Result<Response<proto::RevokeSessionResponse>, Status> {
        let done = async {
            let token = convert::token(request.metadata())?;
            let request = request.into_inner();
            let id = convert::id(request.request_id)?;
            self.service
                .revoke_session(&token, request.session_id, id)
                .await
        };
        self.reply(done.await.map(|()| proto::RevokeSessionResponse {}))
    }

    async fn change_password(
        &self,
        request: Request<proto::ChangePasswordRequest>,
    ) -> Result<Response<proto::ChangePasswordResponse>, Status> {
        let done = async {
            let token = convert::token(request.metadata())?;
            let request = convert::change_password(request.into_inner())?;
            self.service.change_password(&token, request).await
        };
        self.reply(done.await.map(|()| proto::ChangePasswordResponse {}))
    }

    async fn update_profile(
        &self,
        request: Request<proto::UpdateProfileRequest>,
    ) -> Result<Response<proto::UpdateProfileResponse>, Status> {
        let done = async {
            let token = convert::token(request.metadata())?;
            let request = request.into_inner();
            let id = convert::id(request.request_id)?;
            self.service
                .update_profile(&token, request.full_name, id)
                .await
        };
        self.reply(done.await.map(|()| proto::UpdateProfileResponse {}))
    }

    async fn send_message(
        &self,
        request: Request<proto::SendMessageRequest>,
    ) -> Result<Response<proto::SendMessageResponse>, Status> {
        let token = convert::token(request.metadata());
        self.reply(self.send(token, request.into_inner()).await)
    }

    async fn send_messages(
        &self,
        request: Request<Streaming<proto::SendMessagesRequest>>,
    ) -> Result<Response<Self::SendMessagesStream>, Status> {
        // A bridge has none of its own: each of its sends brings one.
        let token = match request.metadata().get("authorization") {
            Some(_) => convert::token(request.metadata()).map(|token| Some(token.hash())),
            None => Ok(None),
        };
        let stream = token.map(|token| {
            let (sender, replies) = mpsc::channel(limits::PIPELINE_REPLIES_MAX);
            let chat = Self::new(self.service.clone());
            let sends = chat_send::Sends::new(chat, token, request.into_inner(), sender);
            tokio::spawn(sends.run());
            ReceiverStream::new(replies)
        });
        self.reply(stream)
    }

    async fn deliver_messages(
        &self,
        request: Request<proto::DeliverMessagesRequest>,
    ) -> Result<Response<Self::DeliverMessagesStream>, Status> {
        let opened = async {
            let token = convert::token(request.metadata())?;
            let request = convert::deliver_messages(request.into_inner());
            self.service.deliver_messages(&token, request).await
        };
        let stream = opened.await.map(|stream| {
            let (sender, events) = mpsc::channel(limits::STREAM_QUEUE_MAX);
            tokio::spawn(pump(Self::new(self.service.clone()), stream, sender));
            ReceiverStream::new(events)
        });
        self.reply(stream)
    }

    async fn ack_messages(
        &self,
        request: Request<proto::AckMessagesRequest>,
    ) -> Result<Response<proto::AckMessagesResponse>, Status> {
        let done = async {
            let token = convert::token(request.metadata())?;
            let request = request.into_inner();
            let id = convert::id(request.request_id)?;
            let up_to = crate::types::InboxSeq(request.up_to);
            self.service.ack_messages(&token, up_to, id).await
        };
        let response = done
            .await
            .map(|cursor| proto::AckMessagesResponse { cursor: cursor.0 });
        self.reply(response)
    }

    async fn list_delivered(
        &self,
        request: Request<proto::ListDeliveredRequest>,
    ) -> Result<Response<proto::ListDeliveredResponse>, Status> {
        let done = async {
            let token = convert::token(request.metadata())?;
            let peers = request.into_inner().peers;
            self.service.list_delivered(&token, peers).await
        };
        self.reply(done.await.map(convert::delivered))
    }

    async fn list_accounts(
        &self,
        request: Request<proto::ListAccountsRequest>,
    ) -> Result<Response<proto::ListAccountsResponse>, Status> {
        let done = async {
            let token = convert::token(request.metadata())?;
            let request = convert::list_accounts(request.into_inner());
            self.service.list_accounts(&token, request).await
        };
        self.reply(done.await.map(convert::page))
    }

    async fn delete_account(
        &self,
        request: Request<proto::DeleteAccountRequest>,
    ) -> Result<Response<proto::DeleteAccountResponse>, Status> {
        let done = async {
            let token = convert::token(request.metadata())?;
            let request = request.into_inner();
            let id = convert::id(request.request_id)?;
            let password = crate::service::Password(request.password);
            self.service.delete_account(&token, &password, id).await
        };
        self.reply(done.await.map(|()| proto::DeleteAccountResponse {}))
    }
}
