//! One replica over the wire protocol.
//!
//! A lane is a connection that many requests share: frames that are asked for at once leave with
//! one write, replies come in order. There are two, so that a password that has to be hashed does
//! not hold messages up. A listener has a connection of its own, because its refreshes wait.

use super::cluster::Protocol;
use super::error::NotConnected;
use super::mismatch::wrong_protocol;
use crate::proto::chat as proto;
use crate::proto::chat::deliver_messages_response::Event;
use crate::wire::codec::{Cut, FrameError, Lines, Private, Reply, Request, v2};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Requests on their way in one connection. The server works on no more than that.
const IN_FLIGHT_MAX: usize = 512;
/// Requests that wait for a place among those.
const WAITING_MAX: usize = 512;
/// A connection on which nothing is heard for so long, while something is asked, is dead.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Longest reply: a batch, and one more message with every byte escaped.
const REPLY_BYTES_MAX: usize = 512 * 1024;
const READ_BYTES: usize = 16 * 1024;

/// Which of the two connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    /// For what takes a replica a millisecond.
    Fast = 0,
    /// For what needs a password hash.
    Slow = 1,
}

/// A replica's wire address and the connections to it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Channel {
    shared: Arc<Shared>,
}

struct Shared {
    address: String,
    connect_timeout: Duration,
    silence_max: Duration,
    lanes: [Mutex<Option<mpsc::Sender<Asked>>>; 2],
    /// The last thing heard was no text at all.
    is_not_wire: AtomicBool,
}

/// A request on its way, and who waits for the reply.
struct Asked {
    frame: Vec<u8>,
    reply: oneshot::Sender<Result<v2::Answer, Status>>,
}

impl Channel {
    pub(super) fn new(address: &str, connect_timeout: Duration) -> Self {
        Self::with(address, connect_timeout, SILENCE_MAX)
    }

    /// One that gives a silent connection up sooner.
    #[cfg(test)]
    pub(super) fn impatient(address: &str, silence_max: Duration) -> Self {
        Self::with(address, SILENCE_MAX, silence_max)
    }

    fn with(address: &str, connect_timeout: Duration, silence_max: Duration) -> Self {
        Self {
            shared: Arc::new(Shared {
                address: address.to_owned(),
                connect_timeout,
                silence_max,
                lanes: [Mutex::new(None), Mutex::new(None)],
                is_not_wire: AtomicBool::new(false),
            }),
        }
    }

    /// Asks, and waits for the answer. CANCEL SAFE: the reply to a request that nobody waits for
    /// is dropped when it comes.
    pub(super) async fn ask(&self, lane: Lane, request: v2::Request) -> Result<v2::Answer, Status> {
        let mut frame = Vec::new();
        Request::V2(request).encode(&mut frame);
        let lane = self.lane(lane).await?;
        let (reply, answer) = oneshot::channel();
        if lane.send(Asked { frame, reply }).await.is_err() {
            let ended = not_connected("the connection has just ended");
            return Err(self.shared.why(ended));
        }
        match answer.await {
            Ok(answer) => answer,
            // Some of it may have arrived.
            Err(_) => Err(self.shared.why(Status::unknown("the connection broke"))),
        }
    }

    async fn lane(&self, lane: Lane) -> Result<mpsc::Sender<Asked>, Status> {
        let mut place = self.shared.lanes[lane as usize].lock().await;
        if let Some(open) = place.as_ref().filter(|open| !open.is_closed()) {
            return Ok(open.clone());
        }
        let socket = self.connect().await?;
        let (sender, asked) = mpsc::channel(WAITING_MAX);
        tokio::spawn(Connection::new(self.shared.clone(), socket, asked).run());
        *place = Some(sender.clone());
        Ok(sender)
    }

    async fn connect(&self) -> Result<TcpStream, Status> {
        let connect = TcpStream::connect(&self.shared.address);
        match tokio::time::timeout(self.shared.connect_timeout, connect).await {
            Ok(Ok(socket)) => {
                socket
                    .set_nodelay(true)
                    .map_err(|error| not_connected(error.to_string()))?;
                Ok(socket)
            }
            Ok(Err(error)) => Err(not_connected(error.to_string())),
            Err(_) => Err(not_connected("no connection in time")),
        }
    }

    /// Opens a stream of events after this place of the inbox, and waits for its first batch.
    /// Also says where the primary is.
    pub(super) async fn stream(
        &self,
        token: &str,
        after: Option<u64>,
        heartbeat: Duration,
    ) -> Result<(Stream, Option<String>), Status> {
        let mut stream = Stream {
            shared: self.shared.clone(),
            socket: self.connect().await?,
            lines: Lines::new(REPLY_BYTES_MAX),
            refresh: v2::Refresh {
                token: Private(token.to_owned()),
                after,
                wait_ms: Some(heartbeat.as_millis().max(100) as u32),
                events_max: None,
            },
            events: VecDeque::new(),
        };
        let primary = stream.poll().await?;
        Ok((stream, primary))
    }
}

impl Shared {
    /// Why a connection ended: perhaps it was never one to a server of ours.
    fn why(&self, status: Status) -> Status {
        if self.is_not_wire.load(Ordering::Relaxed) {
            return wrong_protocol(&self.address, Protocol::Wire);
        }
        status
    }

    /// Takes what is there. The first byte of a reply is a digit or `-`; an HTTP/2 server begins
    /// with the length of its settings.
    fn read(&self, socket: &TcpStream, lines: &mut Lines) -> io::Result<()> {
        read_some(socket, lines)?;
        let first = lines.buffer().first();
        let is_text = first.is_none_or(u8::is_ascii_graphic);
        self.is_not_wire.store(!is_text, Ordering::Relaxed);
        if is_text {
            return Ok(());
        }
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// A connection that requests share: one task, which ends with the connection or when nobody can
/// ask any more.
struct Connection {
    shared: Arc<Shared>,
    socket: TcpStream,
    asked: mpsc::Receiver<Asked>,
    /// In the order of their requests.
    waiting: VecDeque<oneshot::Sender<Result<v2::Answer, Status>>>,
    lines: Lines,
    out: Vec<u8>,
    written: usize,
}

impl Connection {
    fn new(shared: Arc<Shared>, socket: TcpStream, asked: mpsc::Receiver<Asked>) -> Self {
        Self {
            shared,
            socket,
            asked,
            waiting: VecDeque::new(),
            lines: Lines::new(REPLY_BYTES_MAX),
            out: Vec::new(),
            written: 0,
        }
    }

    async fn run(mut self) {
        // Whoever still waits at the end learns that the connection broke.
        let _ = self.serve().await;
    }

    async fn serve(&mut self) -> io::Result<()> {
        let mut heard = Instant::now();
        loop {
            self.write()?;
            let flushed = self.written == self.out.len();
            tokio::select! {
                biased;
                ready = self.socket.readable() => {
                    ready?;
                    self.read()?;
                    heard = Instant::now();
                }
                ready = self.socket.writable(), if !flushed => ready?,
                asked = self.asked.recv(), if flushed && self.waiting.len() < IN_FLIGHT_MAX => {
                    let Some(asked) = asked else { return Ok(()) };
                    if self.waiting.is_empty() {
                        heard = Instant::now();
                    }
                    self.take(asked);
                }
                () = tokio::time::sleep_until(heard + self.shared.silence_max), if !self.waiting.is_empty() => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
    }

    /// This request, and those that have come with it: they leave together.
    fn take(&mut self, first: Asked) {
        let mut next = Some(first);
        while let Some(asked) = next {
            self.out.extend_from_slice(&asked.frame);
            self.waiting.push_back(asked.reply);
            next = (self.waiting.len() < IN_FLIGHT_MAX)
                .then(|| self.asked.try_recv().ok())
                .flatten();
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while self.written < self.out.len() {
            match self.socket.try_write(&self.out[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        self.shared.read(&self.socket, &mut self.lines)?;
        loop {
            let answer = match self.lines.next_frame() {
                Cut::Incomplete => return Ok(()),
                Cut::TooLong => return Err(io::ErrorKind::InvalidData.into()),
                Cut::Frame(line) => understand(&line),
            };
            // One who has stopped waiting does not need it.
            let waiting = self.waiting.pop_front();
            let _ = waiting.map(|waiting| waiting.send(answer));
        }
    }
}

/// A stream of events: a refresh after the other, each waiting for something to happen.
pub(super) struct Stream {
    shared: Arc<Shared>,
    socket: TcpStream,
    lines: Lines,
    refresh: v2::Refresh,
    events: VecDeque<proto::DeliverMessagesResponse>,
}

impl Stream {
    /// The next event. NOT cancel safe: one who stops waiting gives the stream up.
    pub(super) async fn message(&mut self) -> Result<proto::DeliverMessagesResponse, Status> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.poll().await?;
        }
    }

    /// One refresh; returns where the primary is.
    async fn poll(&mut self) -> Result<Option<String>, Status> {
        let mut frame = Vec::new();
        let refresh = v2::Request::Refresh(self.refresh.clone());
        Request::V2(refresh).encode(&mut frame);
        let broken = |error: io::Error| Status::unavailable(format!("the stream broke: {error}"));
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            self.socket.writable().await.map_err(broken)?;
            match self.socket.try_write(rest) {
                Ok(bytes) => rest = &rest[bytes..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(broken(error)),
            }
        }
        let answer = loop {
            match self.lines.next_frame() {
                Cut::Frame(line) => break understand(&line)?,
                Cut::TooLong => return Err(broken(io::ErrorKind::InvalidData.into())),
                Cut::Incomplete => {}
            }
            self.socket.readable().await.map_err(broken)?;
            let read = self.shared.read(&self.socket, &mut self.lines);
            read.map_err(|error| self.shared.why(broken(error)))?;
        };
        let primary = (!answer.primary.is_empty()).then(|| answer.primary.clone());
        match result(answer)?.0 {
            v2::Reply::Refresh(batch) => self.take(batch),
            _ => return Err(Status::internal("a reply of another kind")),
        }
        Ok(primary)
    }

    fn take(&mut self, batch: v2::Batch) {
        self.refresh.after = Some(batch.position);
        let cursor = batch.cursor;
        let quiet = batch.events.is_empty();
        let events = batch.events.into_iter().filter_map(event);
        let heartbeat = quiet.then_some(Event::Heartbeat(proto::Heartbeat { cursor }));
        let events = events.chain(heartbeat);
        self.events
            .extend(events.map(|event| proto::DeliverMessagesResponse { event: Some(event) }));
    }
}

/// None for a kind that this version does not know.
fn event(event: v2::Event) -> Option<Event> {
    match event.kind.as_str() {
        "m" => Some(Event::Message(proto::Message {
            message_id: event.message_id.unwrap_or_default(),
            inbox_seq: event.inbox_seq.unwrap_or_default(),
            sender_id: event.sender_id.unwrap_or_default(),
            sender: event.sender,
            time_us: event.time_us.unwrap_or_default(),
            body: event.body.0.into(),
            content_type: event.content_type,
        })),
        "d" => Some(Event::Delivered(proto::Delivered {
            peer: event.sender,
            up_to_message_id: event.message_id.unwrap_or_default(),
        })),
        "r" => Some(Event::Removed(proto::Removed {
            up_to: event.inbox_seq.unwrap_or_default(),
        })),
        "e" => Some(Event::EndOfBacklog(proto::EndOfBacklog {})),
        _ => None,
    }
}

fn read_some(socket: &TcpStream, lines: &mut Lines) -> io::Result<()> {
    lines.buffer().reserve(READ_BYTES);
    match socket.try_read_buf(lines.buffer()) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// A reply, or why it is none to a request.
fn understand(line: &[u8]) -> Result<v2::Answer, Status> {
    match Reply::decode(line) {
        Ok(Reply::V2(_, answer)) => Ok(answer),
        Ok(Reply::Unread(error @ FrameError::TooManyConnections)) => {
            Err(not_connected(error.sentence()))
        }
        Ok(Reply::Unread(error)) => Err(refusal(error)),
        Ok(Reply::VersionUnsupported(..)) => Err(refusal(FrameError::VersionUnsupported)),
        Ok(Reply::V1(_) | Reply::OpcodeUnknown(_)) => {
            Err(Status::internal("a reply of another version"))
        }
        // What the reply was, nobody can tell: the request may have been applied.
        Err(broken) => Err(Status::unknown(format!("a damaged reply: {broken}"))),
    }
}

/// The result and who gave it, or the error as gRPC would have told it.
pub(super) fn result(answer: v2::Answer) -> Result<(v2::Reply, u16, String), Status> {
    let failure = match answer.outcome {
        Ok(reply) => return Ok((reply, answer.replica, answer.primary)),
        Err(failure) => failure,
    };
    let why = failure.explanation;
    let details = why.details.into_iter().map(|d| (d.key, d.value));
    let mut details = ErrorDetails::with_error_info(
        failure.reason,
        super::error::DOMAIN,
        details.collect::<std::collections::HashMap<_, _>>(),
    );
    details.set_retry_info(why.retry_after_ms.map(Duration::from_millis));
    let code = Code::from_i32(why.code.unwrap_or(Code::Unknown as u32) as i32);
    let mut status = Status::with_error_details(code, why.message, details);
    let metadata = status.metadata_mut();
    metadata.insert("chat-replica", answer.replica.into());
    if let Ok(primary) = MetadataValue::try_from(answer.primary)
        && !primary.is_empty()
    {
        metadata.insert("chat-primary", primary);
    }
    Err(status)
}

fn refusal(error: FrameError) -> Status {
    let none = std::collections::HashMap::<String, String>::new();
    let details = ErrorDetails::with_error_info(error.word(), super::error::DOMAIN, none);
    let code = Code::from_i32(error.code() as i32);
    Status::with_error_details(code, error.sentence(), details)
}

fn not_connected(why: impl Into<String>) -> Status {
    let mut status = Status::unavailable(why.into());
    status.set_source(Arc::new(NotConnected));
    status
}
