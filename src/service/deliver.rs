//! Delivery: what waits after the device's cursor, then what comes, for as long as the client
//! stays.
//!
//! The stream is pulled: it reads only when the front asks for the next event, so a slow client
//! costs one batch and holds nobody up. What happens meanwhile is coalesced by the watch.

use super::errors::{Reason, ServiceError};
use super::requests::DeliverMessages;
use super::tokens::Token;
use super::{Backend, Service, Watcher as _};
use crate::limits;
use crate::replica::{Consistency, Wake};
use crate::state_machine::{Answer, Cursor, InboxMessage, Query};
use crate::types::{InboxSeq, Index, TokenHash};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Interval, MissedTickBehavior};

/// What a stream brings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deliver {
    /// A message. Inbox sequences rise without a gap, but for what a `Removed` before it names.
    Message(InboxMessage),
    /// Retention removed what was left up to here, before this stream brought it.
    Removed {
        /// Inclusive.
        up_to: InboxSeq,
    },
    /// `peer` acknowledged what this account sent it.
    Delivered {
        /// The peer's name.
        peer: String,
        /// Up to this message.
        up_to: Index,
    },
    /// Nothing has come for a while.
    Heartbeat {
        /// What this device has acknowledged.
        cursor: InboxSeq,
    },
    /// What had been waiting when the stream began has been sent. Once.
    EndOfBacklog,
}

/// An open stream. Dropping it closes it.
pub struct Deliveries<B: Backend> {
    service: Service<B>,
    token: TokenHash,
    watch: B::Watch,
    closing: watch::Receiver<bool>,
    heartbeat: Interval,
    /// The last message handed out, or where the stream began.
    position: InboxSeq,
    /// What the device had acknowledged at the last look.
    acknowledged: InboxSeq,
    /// Read, not handed out yet.
    waiting: VecDeque<InboxMessage>,
    /// To be told before `waiting`: the inbox now begins behind this.
    removed: Option<InboxSeq>,
    /// The inbox goes on behind `waiting`, as far as is known.
    more: bool,
    /// A wake was looked at since the last batch: the next batch's turn.
    woken: bool,
    /// Last message of the inbox when the stream began.
    backlog_end: InboxSeq,
    backlog_sent: bool,
    _place: OwnedSemaphorePermit,
}

impl<B: Backend> Service<B> {
    /// Opens a stream. Its token is judged now, and again with every batch; it ends when the
    /// token is revoked.
    pub async fn deliver_messages(
        &self,
        token: &Token,
        request: DeliverMessages,
    ) -> Result<Deliveries<B>, ServiceError> {
        let closing = self.inner.closing.subscribe();
        if *closing.borrow() {
            return Err(Reason::Unavailable.into());
        }
        let place = self
            .inner
            .streams
            .clone()
            .try_acquire_owned()
            .map_err(|_| {
                ServiceError::new(Reason::Overloaded).with("limit", limits::STREAMS_MAX)
            })?;
        let token = token.hash();
        let user = self.identity(token).await?.account.user;
        // BEFORE the first read: what is applied between the two wakes the stream.
        let watch = self.inner.backend.watch(user, token);
        let (messages, cursor) = self
            .read_inbox(
                token,
                request.after,
                limits::DELIVER_BATCH_MAX,
                Consistency::Linearizable,
            )
            .await?;
        let position = request.after.unwrap_or(cursor.acknowledged);
        if position > cursor.last {
            return Err(
                ServiceError::field(Reason::CursorBeyondEnd, "after").with("end", cursor.last)
            );
        }
        let mut stream = Deliveries {
            service: self.clone(),
            token,
            watch,
            closing,
            heartbeat: heartbeat(request.heartbeat_ms),
            position,
            acknowledged: cursor.acknowledged,
            waiting: VecDeque::new(),
            removed: None,
            more: false,
            woken: false,
            backlog_end: cursor.last,
            backlog_sent: false,
            _place: place,
        };
        stream.take(messages, cursor);
        Ok(stream)
    }

    /// What waits after a place of the inbox (after the device's cursor if none is named), and the
    /// cursor: one look, without a stream. At most `DELIVER_BATCH_MAX` messages.
    pub async fn read_messages(
        &self,
        token: &Token,
        after: Option<InboxSeq>,
    ) -> Result<(Vec<InboxMessage>, Cursor), ServiceError> {
        let limit = limits::DELIVER_BATCH_MAX;
        let consistency = Consistency::Linearizable;
        let (messages, cursor) = self
            .read_inbox(token.hash(), after, limit, consistency)
            .await?;
        if after.is_some_and(|after| after > cursor.last) {
            return Err(
                ServiceError::field(Reason::CursorBeyondEnd, "after").with("end", cursor.last)
            );
        }
        Ok((messages, cursor))
    }

    async fn read_inbox(
        &self,
        token: TokenHash,
        after: Option<InboxSeq>,
        limit: usize,
        consistency: Consistency,
    ) -> Result<(Vec<InboxMessage>, Cursor), ServiceError> {
        let query = Query::Inbox {
            token,
            after,
            limit,
        };
        match self.read(query, consistency).await? {
            Answer::Inbox {
                messages, cursor, ..
            } => {
                // An open stream is use of its token.
                self.inner.backend.token_used(token);
                Ok((messages, cursor))
            }
            _ => Err(ServiceError::internal("inbox: unexpected answer")),
        }
    }
}

impl<B: Backend> Deliveries<B> {
    /// The next event; after an error the stream is over. CANCEL SAFE: a call that is dropped
    /// before it is ready loses nothing.
    pub async fn next(&mut self) -> Result<Deliver, ServiceError> {
        loop {
            if let Some(up_to) = self.removed.take() {
                self.position = up_to;
                return Ok(Deliver::Removed { up_to });
            }
            if let Some(message) = self.waiting.pop_front() {
                self.position = message.seq;
                return Ok(Deliver::Message(message));
            }
            if !self.backlog_sent && (self.position >= self.backlog_end || !self.more) {
                self.backlog_sent = true;
                return Ok(Deliver::EndOfBacklog);
            }
            if *self.closing.borrow() {
                return Err(Reason::Unavailable.into());
            }
            if self.more {
                // Wakes and batches take turns, so that neither a full inbox nor many
                // acknowledging peers hold the other up.
                if !std::mem::replace(&mut self.woken, true)
                    && let Some(wake) = self.wake_if_any().await
                    && let Some(event) = self.on_wake(wake)?
                {
                    return Ok(event);
                }
                self.read_on(limits::DELIVER_BATCH_MAX).await?;
                self.woken = false;
                continue;
            }
            tokio::select! {
                biased;
                _ = self.closing.changed() => return Err(Reason::Unavailable.into()),
                wake = self.watch.next() => {
                    if let Some(event) = self.on_wake(wake)? {
                        return Ok(event);
                    }
                }
                _ = self.heartbeat.tick() => {
                    let cursor = self.read_on(1).await?;
                    return Ok(Deliver::Heartbeat { cursor });
                }
            }
        }
    }

    /// The last message handed out, or where the stream began.
    pub fn position(&self) -> InboxSeq {
        self.position
    }

    /// What the device had acknowledged when the inbox was last read.
    pub fn acknowledged(&self) -> InboxSeq {
        self.acknowledged
    }

    /// Is more known to be there? Then the next event does not take long.
    pub fn has_more(&self) -> bool {
        self.more || !self.waiting.is_empty() || self.removed.is_some()
    }

    /// Judges the token and looks at the cursor, as a heartbeat does.
    pub async fn look(&mut self) -> Result<(), ServiceError> {
        if self.waiting.is_empty() {
            self.read_on(1).await?;
        }
        Ok(())
    }

    async fn wake_if_any(&mut self) -> Option<Wake> {
        tokio::select! {
            biased;
            wake = self.watch.next() => Some(wake),
            () = std::future::ready(()) => None,
        }
    }

    fn on_wake(&mut self, wake: Wake) -> Result<Option<Deliver>, ServiceError> {
        match wake {
            Wake::Inbox(seq) => {
                self.more |= seq > self.position;
                Ok(None)
            }
            Wake::Delivered { peer, up_to } => Ok(Some(Deliver::Delivered { peer, up_to })),
            Wake::Revoked => Err(Reason::TokenInvalid.into()),
            Wake::Lost | Wake::ShutDown => Err(Reason::Unavailable.into()),
        }
    }

    /// Reads behind the position. What woke the stream has been applied on this replica, so its
    /// own state is fresh enough.
    async fn read_on(&mut self, limit: usize) -> Result<InboxSeq, ServiceError> {
        let (messages, cursor) = self
            .service
            .read_inbox(self.token, Some(self.position), limit, Consistency::Stale)
            .await?;
        self.take(messages, cursor);
        Ok(cursor.acknowledged)
    }

    fn take(&mut self, messages: Vec<InboxMessage>, cursor: Cursor) {
        let begins_behind = InboxSeq(cursor.first.0.saturating_sub(1));
        self.removed = (begins_behind > self.position).then_some(begins_behind);
        self.waiting = messages.into();
        self.more = self.waiting.back().is_some_and(|m| m.seq < cursor.last);
        self.acknowledged = cursor.acknowledged;
        self.heartbeat.reset();
    }
}

fn heartbeat(asked_ms: u32) -> Interval {
    let ms = match asked_ms {
        0 => limits::HEARTBEAT_MS_DEFAULT,
        ms => ms.clamp(limits::HEARTBEAT_MS_MIN, limits::HEARTBEAT_MS_MAX),
    };
    let mut interval = tokio::time::interval(Duration::from_millis(ms.into()));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval.reset(); // the first one is a whole interval away
    interval
}
