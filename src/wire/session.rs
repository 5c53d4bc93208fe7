//! One connection: bytes in, requests under way, replies out in their order.
//!
//! One task a connection and none a request. Whatever frames are in the buffer are started one
//! after the other, in their order, before any reply is awaited: so the writes of one connection
//! enter the replica's queue in the order in which they were sent. All replies that are ready leave
//! with one write.
//!
//! Invariants: requests under way, their bytes, and replies that were not taken are each bounded;
//! at a bound the connection stops reading, and the client's own socket holds the rest back. A
//! request that must run alone (version 1, where one request's meaning hangs on the one before)
//! starts when nothing is under way, and nothing starts until it is done.

use super::codec::{Broken, Cut, FrameError, Lines, Request, v1, v2};
use super::execute::{Answer, Done, Effect, Known, credentials, execute, execute_v1};
use super::listener::Front;
use super::refresh::Kept;
use crate::limits;
use crate::service::{Backend, Token};
use crate::types::TokenHash;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

type UnderWay<B> = Pin<Box<dyn Future<Output = Done<B>> + Send>>;

pub(super) struct Session<B: Backend> {
    front: Arc<Front<B>>,
    lines: Lines,
    in_flight: FuturesOrdered<UnderWay<B>>,
    /// What those weigh.
    in_flight_bytes: usize,
    /// Something that must run alone is under way.
    alone: bool,
    /// Parsed, and waits until nothing is under way.
    waiting: Option<(v1::Request, usize)>,
    /// Encoded, not written yet.
    out: Vec<u8>,
    /// Of those, written.
    written: usize,
    /// Nothing more is read: the client said that it is done, fell silent in the middle of a
    /// frame, or the server stops.
    no_more: bool,
    /// The client said that it is done.
    ended: bool,
    /// No whole frame is left in the buffer.
    drained: bool,
    /// The frame that is not complete yet began.
    frame_began: Option<Instant>,
    /// The client has not taken anything since.
    write_began: Option<Instant>,
    kept: Option<Kept<B>>,
    /// Version 1: by token, the least recent first.
    known: VecDeque<(TokenHash, Known)>,
}

impl<B: Backend> Session<B> {
    pub(super) fn new(front: Arc<Front<B>>) -> Self {
        Self {
            lines: Lines::new(limits::WIRE_FRAME_BYTES_MAX),
            front,
            in_flight: FuturesOrdered::new(),
            in_flight_bytes: 0,
            alone: false,
            waiting: None,
            out: Vec::new(),
            written: 0,
            no_more: false,
            ended: false,
            drained: true,
            frame_began: None,
            write_began: None,
            kept: None,
            known: VecDeque::new(),
        }
    }

    /// Serves the connection to its end. An error is the connection's: nobody else needs it.
    pub(super) async fn run(
        mut self,
        socket: &TcpStream,
        mut stopping: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let stop = async move {
            // An error is a sender that is gone: that is a stop as well.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        tokio::pin!(stop);
        let mut stopped = false;
        loop {
            self.start_requests();
            self.take_ready().await;
            self.write(socket)?;
            if self.is_over() {
                return Ok(());
            }
            if !self.drained && self.may_start() {
                // More frames are in the buffer, and nothing would wake this task for them.
                tokio::task::yield_now().await;
                continue;
            }
            self.release_memory();
            let deadline = self.deadline();
            tokio::select! {
                biased;
                done = self.in_flight.next(), if !self.in_flight.is_empty() && self.has_room() => {
                    if let Some(done) = done {
                        self.finish(done);
                    }
                }
                ready = socket.writable(), if !self.is_flushed() => ready?,
                ready = socket.readable(), if self.may_read() => {
                    ready?;
                    self.read(socket)?;
                }
                () = sleep_until(deadline), if deadline.is_some() => {
                    self.on_deadline()?;
                }
                () = &mut stop, if !stopped => {
                    stopped = true;
                    self.no_more = true;
                }
            }
        }
    }

    /// Starts what is in the buffer, as far as the bounds allow.
    fn start_requests(&mut self) {
        self.drained = false;
        while self.may_start() && !self.drained {
            if let Some((request, bytes)) = self.waiting.take() {
                self.alone = true;
                self.start_v1(request, bytes);
                continue;
            }
            match self.lines.next_frame() {
                Cut::Frame(line) => {
                    self.frame_began = None;
                    self.start(&line);
                }
                Cut::TooLong => self.start_broken(FrameError::FrameTooLong.into()),
                Cut::Incomplete => self.drained = true,
            }
        }
        let inside = self.drained && self.lines.is_inside_frame();
        if inside && std::mem::take(&mut self.ended) {
            self.start_broken(FrameError::FrameCut.into());
        }
        // A client that is not read from cannot finish its frame.
        if !inside || !self.may_read() {
            self.frame_began = None;
        } else if self.frame_began.is_none() {
            self.frame_began = Some(Instant::now());
        }
    }

    fn may_start(&self) -> bool {
        let alone = self.alone || self.waiting.is_some();
        (!alone || self.in_flight.is_empty())
            && self.in_flight.len() < limits::WIRE_IN_FLIGHT_MAX
            && self.in_flight_bytes < limits::WIRE_IN_FLIGHT_BYTES_MAX
            && self.has_room()
    }

    fn start(&mut self, line: &Bytes) {
        let bytes = line.len();
        match Request::decode(line) {
            Err(broken) => self.start_broken(broken),
            Ok(Request::V2(request)) => {
                let bytes = bytes + reply_bytes(&request);
                let kept = match &request {
                    v2::Request::Refresh(_) => self.kept.take(),
                    _ => None,
                };
                let service = self.front.service.clone();
                self.push(bytes, Box::pin(execute(service, kept, request, bytes)));
            }
            Ok(Request::V1(request)) => {
                if self.must_run_alone(&request) {
                    self.waiting = Some((request, bytes));
                } else {
                    self.start_v1(request, bytes);
                }
            }
        }
    }

    fn start_v1(&mut self, request: v1::Request, bytes: usize) {
        let known = self.known_of(&request).cloned().unwrap_or_default();
        let service = self.front.service.clone();
        self.push(bytes, Box::pin(execute_v1(service, known, request, bytes)));
    }

    fn start_broken(&mut self, broken: Broken) {
        let done = Done {
            answer: Answer::Broken(broken),
            effect: Effect::None,
            bytes: 0,
        };
        self.push(0, Box::pin(std::future::ready(done)));
    }

    fn push(&mut self, bytes: usize, request: UnderWay<B>) {
        self.in_flight_bytes += bytes;
        self.in_flight.push_back(request);
    }

    /// A refresh acknowledges what the one before it returned; a request with a new token asks
    /// whose it is first, and must not be overtaken by the next one, which need not ask.
    fn must_run_alone(&self, request: &v1::Request) -> bool {
        match request {
            v1::Request::Refresh(_) => true,
            _ if credentials(request).is_none() => false,
            _ => self.known_of(request).is_none(),
        }
    }

    fn known_of(&self, request: &v1::Request) -> Option<&Known> {
        let (token, _) = credentials(request)?;
        let token = Token::parse(&token.0).ok()?.hash();
        let found = self.known.iter().find(|(known, _)| *known == token);
        found.map(|(_, known)| known)
    }

    /// Everything that is ready now. The first look at a request starts it.
    async fn take_ready(&mut self) {
        while self.has_room() {
            let next = std::future::poll_fn(|context| {
                Poll::Ready(self.in_flight.poll_next_unpin(context))
            });
            match next.await {
                Poll::Ready(Some(done)) => self.finish(done),
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }

    fn finish(&mut self, done: Done<B>) {
        self.in_flight_bytes -= done.bytes;
        if self.in_flight.is_empty() {
            self.alone = false;
        }
        match done.effect {
            Effect::None => {}
            Effect::Keep(kept) => self.kept = Some(kept),
            Effect::Known {
                token,
                name,
                returned,
            } => {
                self.known.retain(|(known, _)| *known != token);
                if self.known.len() >= limits::WIRE_TOKENS_MAX {
                    self.known.pop_front();
                }
                let name = Some(name);
                self.known.push_back((token, Known { name, returned }));
            }
        }
        let primary = self.front.primary_address();
        let reply = done
            .answer
            .into_reply(self.front.service.replica().0, &primary);
        reply.encode(&mut self.out);
    }

    fn has_room(&self) -> bool {
        self.out.len() - self.written < limits::WIRE_REPLIES_BYTES_MAX
    }

    fn is_flushed(&self) -> bool {
        self.out.len() == self.written
    }

    fn may_read(&self) -> bool {
        !self.no_more && self.waiting.is_none() && self.may_start()
    }

    fn is_over(&self) -> bool {
        let idle = self.in_flight.is_empty() && self.waiting.is_none() && self.drained;
        self.no_more && idle && self.is_flushed()
    }

    /// Writes what it can, without waiting.
    fn write(&mut self, socket: &TcpStream) -> io::Result<()> {
        while !self.is_flushed() {
            match socket.try_write(&self.out[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    self.written += bytes;
                    self.write_began = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.write_began.get_or_insert_with(Instant::now);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    fn read(&mut self, socket: &TcpStream) -> io::Result<()> {
        self.lines.buffer().reserve(limits::WIRE_READ_BYTES);
        match socket.try_read_buf(self.lines.buffer()) {
            Ok(0) => {
                // Half closed: `nc` at the end of its input still wants its replies.
                self.no_more = true;
                self.ended = true;
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// An idle connection keeps no buffers.
    fn release_memory(&mut self) {
        if self.in_flight.is_empty() && self.is_flushed() {
            self.lines.shrink();
            self.out = Vec::new();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let frame = self
            .frame_began
            .map(|began| began + self.front.options.frame_timeout);
        let write = self
            .write_began
            .map(|began| began + self.front.options.write_timeout);
        match (frame, write) {
            (Some(frame), Some(write)) => Some(frame.min(write)),
            (one, other) => one.or(other),
        }
    }

    fn on_deadline(&mut self) -> io::Result<()> {
        let late = |began: Option<Instant>, timeout| {
            began.is_some_and(|began| began + timeout <= Instant::now())
        };
        if late(self.write_began, self.front.options.write_timeout) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if late(self.frame_began, self.front.options.frame_timeout) {
            self.no_more = true;
            self.start_broken(FrameError::FrameTimeout.into());
        }
        Ok(())
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What a request's reply may take beyond that of others, so that one connection cannot ask for
/// more than it may be answered.
fn reply_bytes(request: &v2::Request) -> usize {
    match request {
        v2::Request::Refresh(_) => 2 * limits::WIRE_BATCH_BYTES_MAX,
        v2::Request::ListAccounts(_) => limits::PAGE_MAX as usize * (limits::USER_NAME_MAX + 2),
        // A receipt is not much longer than the name that asks for it.
        v2::Request::ListDelivered(request) => request.peers.len() * 32,
        _ => 0,
    }
}
