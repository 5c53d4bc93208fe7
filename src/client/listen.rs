//! An inbox that survives the death of the replica that serves it.
//!
//! A task of its own keeps one stream open and hands events on through a bounded channel, so that
//! waiting for the next event may be cancelled at any moment without losing one.

use super::call::{Backoff, note_failure};
use super::cluster::{Channel, Cluster};
use super::error::{ClientError, judge};
use super::operation::{Stub, authorized, primary_of};
use super::session::Session;
use super::wire;
use crate::proto::chat as proto;
use crate::proto::chat::deliver_messages_response::Event as Wire;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tonic::{Code, Status};

/// Events between the task and its listener. The server's flow control holds back the rest.
const EVENTS_MAX: usize = 256;
/// Heartbeats that may be missing before the stream counts as dead.
const HEARTBEATS_MISSED_MAX: u32 = 6;

/// How to listen.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    /// Start after this place of the inbox instead of what the device has acknowledged.
    pub after: Option<u64>,
    /// How often the server shows that it is there; 100 ms at least. After six of these without
    /// a sign the listener goes to another replica.
    pub heartbeat: Duration,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            after: None,
            heartbeat: Duration::from_millis(500),
        }
    }
}

/// What a listener hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A message. Each place of the inbox comes once, in order, without a gap but for what a
    /// `Removed` before it names.
    Message(proto::Message),
    /// Retention removed what was left of the inbox up to here, before it was heard.
    Removed {
        /// Inclusive.
        up_to: u64,
    },
    /// This peer has received what this account sent it, up to this message.
    Delivered {
        /// Name.
        peer: String,
        /// Inclusive.
        up_to_message_id: u64,
    },
    /// Nothing new; this device has acknowledged up to `cursor`.
    Heartbeat {
        /// Inclusive.
        cursor: u64,
    },
    /// What had been waiting has been told; what follows is new.
    EndOfBacklog,
    /// The stream goes on at another replica (or at the same one, restarted). Another
    /// [`Event::EndOfBacklog`] follows.
    Reconnected,
}

/// A running inbox; ends when dropped.
pub struct Listener {
    events: mpsc::Receiver<Result<Event, ClientError>>,
    task: tokio::task::JoinHandle<()>,
}

impl Listener {
    pub(super) fn start(cluster: Cluster, session: Arc<Session>, listen: Listen) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let feed = Feed {
            cluster,
            session,
            listen,
            seen: listen.after,
            sender,
        };
        Self {
            events,
            task: tokio::spawn(feed.run()),
        }
    }

    /// The next event. `None` after an error: a login that is no longer valid, no replica within
    /// the deadline, or a gap. May be cancelled without losing an event.
    pub async fn next(&mut self) -> Option<Result<Event, ClientError>> {
        self.events.recv().await
    }

    /// The next message, whatever else comes in between.
    pub async fn next_message(&mut self) -> Option<Result<proto::Message, ClientError>> {
        loop {
            match self.next().await? {
                Ok(Event::Message(message)) => return Some(Ok(message)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a stream ended.
enum End {
    /// The one who listened is gone.
    NobodyListens,
    /// For good.
    Failed(ClientError),
    /// Another replica may go on.
    Broken(Status),
}

/// Events from one replica.
enum Stream {
    Grpc(Box<tonic::Streaming<proto::DeliverMessagesResponse>>),
    Wire(Box<wire::Stream>),
}

impl Stream {
    /// The next one; none at the end.
    async fn message(&mut self) -> Result<Option<proto::DeliverMessagesResponse>, Status> {
        match self {
            Self::Grpc(stream) => stream.message().await,
            Self::Wire(stream) => stream.message().await.map(Some),
        }
    }
}

struct Feed {
    cluster: Cluster,
    session: Arc<Session>,
    listen: Listen,
    /// The last place of the inbox handed on.
    seen: Option<u64>,
    sender: mpsc::Sender<Result<Event, ClientError>>,
}

impl Feed {
    async fn run(mut self) {
        let deadline = self.cluster.options().deadline;
        let mut backoff = Backoff::new();
        let mut alive = Instant::now();
        let mut first = true;
        loop {
            let opened = Instant::now();
            let (end, heard) = self.one_stream(first).await;
            if let Some(heard) = heard {
                first = false;
                alive = heard;
                // A replica that accepts streams and drops them at once is not a success.
                if heard.duration_since(opened) > Duration::from_secs(1) {
                    backoff = Backoff::new();
                }
            }
            let status = match end {
                End::NobodyListens => return,
                End::Failed(error) => return self.fail(error).await,
                End::Broken(status) => status,
            };
            let wait = backoff.wait(judge(&status).wait);
            if alive.elapsed() + wait >= deadline {
                let last = ClientError::from_status(&status);
                let message = format!("no replica serves the inbox; the last one: {last}");
                let error = ClientError::local("UNAVAILABLE", Code::Unavailable, message);
                return self.fail(error).await;
            }
            self.cluster.count_retry();
            tokio::time::sleep(wait).await;
        }
    }

    /// One stream from its beginning to its end, and when it was last heard of.
    async fn one_stream(&mut self, first: bool) -> (End, Option<Instant>) {
        let chosen = self.cluster.choose();
        let mut heard = None;
        let stream = match self.open(chosen.number, chosen.channel).await {
            Ok(stream) => stream,
            Err(end) => return (end, heard),
        };
        if !first && self.sender.send(Ok(Event::Reconnected)).await.is_err() {
            return (End::NobodyListens, heard);
        }
        let end = self.pump(chosen.number, stream, &mut heard).await;
        (end, heard)
    }

    async fn open(&self, number: usize, channel: Channel) -> Result<Stream, End> {
        let open = self.request(channel);
        match tokio::time::timeout(self.cluster.options().attempt_timeout, open).await {
            Ok(Ok((stream, primary))) => {
                self.cluster.on_answer(number, primary.as_deref());
                Ok(stream)
            }
            Ok(Err(status)) => Err(self.broken(number, status)),
            Err(_) => Err(self.silent(number)),
        }
    }

    /// A new stream, and where the primary is.
    async fn request(&self, channel: Channel) -> Result<(Stream, Option<String>), Status> {
        let heartbeat = self.listen.heartbeat;
        match channel {
            Channel::Wire(channel) => {
                let token = self.session.token();
                let (stream, primary) = channel.stream(token, self.seen, heartbeat).await?;
                Ok((Stream::Wire(Box::new(stream)), primary))
            }
            Channel::Grpc(channel) => {
                let request = proto::DeliverMessagesRequest {
                    after: self.seen,
                    heartbeat_ms: heartbeat.as_millis() as u32,
                };
                let request = authorized(request, Some(self.session.bearer()));
                let response = Stub::new(channel).deliver_messages(request).await?;
                let primary = primary_of(response.metadata()).map(str::to_owned);
                Ok((Stream::Grpc(Box::new(response.into_inner())), primary))
            }
        }
    }

    async fn pump(
        &mut self,
        number: usize,
        mut stream: Stream,
        heard: &mut Option<Instant>,
    ) -> End {
        let patience =
            self.listen.heartbeat.max(Duration::from_millis(100)) * HEARTBEATS_MISSED_MAX;
        loop {
            let response = match tokio::time::timeout(patience, stream.message()).await {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) => {
                    self.cluster.prefer_another(number);
                    return End::Broken(Status::unavailable("the replica ended the stream"));
                }
                Ok(Err(status)) => return self.broken(number, status),
                Err(_) => return self.silent(number),
            };
            *heard = Some(Instant::now());
            let event = match response.event.map(|event| self.accept(event)) {
                Some(Ok(Some(event))) => event,
                // Seen before, or of a kind that this version does not know.
                Some(Ok(None)) | None => continue,
                Some(Err(gap)) => return End::Failed(gap),
            };
            if self.sender.send(Ok(event)).await.is_err() {
                return End::NobodyListens;
            }
        }
    }

    /// Drops what was seen before; refuses a gap.
    fn accept(&mut self, event: Wire) -> Result<Option<Event>, ClientError> {
        let message = match event {
            Wire::Message(message) => message,
            Wire::Delivered(delivered) => {
                return Ok(Some(Event::Delivered {
                    peer: delivered.peer,
                    up_to_message_id: delivered.up_to_message_id,
                }));
            }
            Wire::Heartbeat(heartbeat) => {
                return Ok(Some(Event::Heartbeat {
                    cursor: heartbeat.cursor,
                }));
            }
            Wire::EndOfBacklog(_) => return Ok(Some(Event::EndOfBacklog)),
            Wire::Removed(proto::Removed { up_to }) => {
                if self.seen.is_some_and(|seen| up_to <= seen) {
                    return Ok(None);
                }
                self.seen = Some(up_to);
                return Ok(Some(Event::Removed { up_to }));
            }
        };
        let place = message.inbox_seq;
        if let Some(seen) = self.seen {
            if place <= seen {
                return Ok(None);
            }
            if place != seen + 1 {
                let text = format!("place {place} of the inbox came after place {seen}");
                return Err(ClientError::local("GAP", Code::DataLoss, text));
            }
        }
        self.seen = Some(place);
        Ok(Some(Event::Message(message)))
    }

    fn broken(&self, number: usize, status: Status) -> End {
        let verdict = judge(&status);
        note_failure(&self.cluster, number, &status, verdict);
        if verdict.retry {
            End::Broken(status)
        } else {
            End::Failed(ClientError::from_status(&status))
        }
    }

    fn silent(&self, number: usize) -> End {
        self.cluster.on_unreachable(number, true);
        End::Broken(Status::deadline_exceeded("the replica fell silent"))
    }

    async fn fail(&self, error: ClientError) {
        // Nobody listens any more: then nobody wants to know.
        let _ = self.sender.send(Err(error)).await;
    }
}
