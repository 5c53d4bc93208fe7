//! Lanes over gRPC.

use super::Lane;
use super::http2::{Failure, Http2, Unary};
use anyhow::{Context, bail};
use chat::proto::chat as proto;
use chat::proto::chat::chat_service_client::ChatServiceClient;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt as _;

const SEND_MESSAGE: &str = "/chat.v1.ChatService/SendMessage";

async fn connect(address: &str) -> anyhow::Result<Channel> {
    Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .connect()
        .await
        .with_context(|| format!("cannot connect to {address}"))
}

/// One call a message: as many tasks as messages on the way.
pub async fn unary(lane: Lane) -> anyhow::Result<()> {
    let connection = Http2::connect(&lane.address).await?;
    let lane = Rc::new(lane);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..lane.in_flight {
        let login = &lane.logins[number % lane.logins.len()];
        let method = connection.method(SEND_MESSAGE, &login.token)?;
        tasks.spawn_local(caller(Rc::clone(&lane), method, number));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// One message after the other.
async fn caller(lane: Rc<Lane>, mut method: Unary, number: usize) -> anyhow::Result<()> {
    let login = &lane.logins[number % lane.logins.len()];
    let mut recipient = number;
    loop {
        recipient = (recipient + 1) % lane.recipients.len();
        let request = proto::SendMessageRequest {
            recipient: lane.recipients[recipient].clone(),
            body: lane.body.clone(),
            content_type: String::new(),
            request_id: Some(login.request_id()),
        };
        let sent = Instant::now();
        match method.call::<proto::SendMessageResponse>(&request).await {
            Ok(_) => lane.meter.acknowledged(sent),
            Err(Failure::Closed(error)) => bail!("the connection was closed: {error}"),
            Err(Failure::Refused(status)) => {
                lane.meter.refused(&reason(&status));
                // What is refused at once has waited for nothing.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// One stream: for every outcome that comes a new send goes, several in one request as several
/// outcomes came in one reply.
pub async fn stream(lane: Lane) -> anyhow::Result<()> {
    let channel = connect(&lane.address).await?;
    let mut stub = ChatServiceClient::new(channel);
    let (requests, outgoing) = mpsc::channel(lane.in_flight);
    let mut sender = Sender {
        number: 0,
        sent: VecDeque::with_capacity(lane.in_flight),
        lane,
    };
    let mut batch = sender.lane.in_flight;
    requests.send(sender.batch(&mut batch)).await?;
    let mut replies = stub
        .send_messages(ReceiverStream::new(outgoing))
        .await?
        .into_inner();
    loop {
        while batch > 0 {
            let request = sender.batch(&mut batch);
            requests.send(request).await?;
        }
        let reply = replies
            .message()
            .await?
            .context("the server ended the stream")?;
        for outcome in reply.outcomes {
            sender.on_outcome(outcome);
            batch += 1;
        }
    }
}

/// Bytes of sends in one request: below the server's limit of 64 KiB.
const REQUEST_BYTES_MAX: usize = 48 * 1024;
/// What a send has beside its body, at most: token, names, ids.
const SEND_BYTES: usize = 256;

struct Sender {
    lane: Lane,
    number: usize,
    /// When, of those without an outcome, oldest first.
    sent: VecDeque<Instant>,
}

impl Sender {
    /// A request with `count` sends, or as many as fit; `count` is what is left.
    fn batch(&mut self, count: &mut usize) -> proto::SendMessagesRequest {
        let fit = (REQUEST_BYTES_MAX / (self.lane.body.len() + SEND_BYTES)).max(1);
        let now = fit.min(*count);
        *count -= now;
        let sends = (0..now).map(|_| self.send()).collect();
        proto::SendMessagesRequest { sends }
    }

    fn send(&mut self) -> proto::PipelinedSend {
        self.number += 1;
        let login = &self.lane.logins[self.number % self.lane.logins.len()];
        let recipients = &self.lane.recipients;
        self.sent.push_back(Instant::now());
        proto::PipelinedSend {
            // Another step than the senders', so that everybody writes to everybody.
            recipient: recipients[self.number * 7 % recipients.len()].clone(),
            body: self.lane.body.clone(),
            content_type: String::new(),
            request_id: Some(login.request_id()),
            token: login.token.clone(),
        }
    }

    fn on_outcome(&mut self, outcome: proto::SendOutcome) {
        let Some(sent) = self.sent.pop_front() else {
            return;
        };
        match outcome.outcome {
            Some(proto::send_outcome::Outcome::Sent(_)) => self.lane.meter.acknowledged(sent),
            Some(proto::send_outcome::Outcome::Refused(refused)) => {
                self.lane.meter.refused(&refused.reason);
            }
            None => self.lane.meter.refused("an empty outcome"),
        }
    }
}

/// The stable word, or gRPC's own.
fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map_or_else(|| format!("{:?}", status.code()), |info| info.reason)
}
