//! What waits to be sent to one peer: bounded, and the oldest goes when it is full.

use super::{Peer, lock};
use crate::grpc::peer_convert::to_envelope;
use crate::limits;
use crate::proto::peer::ExchangeRequest;
use crate::replica::PeerMessage;
use prost::Message as _;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use tokio_stream::Stream;

/// Messages for one peer.
#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    messages: VecDeque<PeerMessage>,
    /// Of the stream that may take messages; an older one that is still around ends.
    epoch: u64,
    /// A stream is open. Without one nothing is kept: it would be stale.
    open: bool,
    waker: Option<Waker>,
}

impl Queue {
    /// Adds a message, unless no stream is open.
    pub(super) fn push(&self, message: PeerMessage) {
        let waker = {
            let mut inner = lock(&self.inner);
            if !inner.open {
                return;
            }
            if inner.messages.len() >= limits::PEER_QUEUE_MAX {
                inner.messages.pop_front();
            }
            inner.messages.push_back(message);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Begins a new, empty epoch and returns its number. Earlier streams end.
    pub(super) fn open(&self) -> u64 {
        let mut inner = lock(&self.inner);
        inner.messages.clear();
        inner.epoch += 1;
        inner.open = true;
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
        inner.epoch
    }

    /// Drops what waits, and what comes until the next [`Queue::open`].
    pub(super) fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.messages.clear();
        inner.open = false;
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }
}

/// The stream of one connection: takes what waits, in batches, without a task of its own.
pub(super) struct Outgoing {
    pub(super) peer: Arc<Peer>,
    pub(super) epoch: u64,
}

impl Stream for Outgoing {
    type Item = ExchangeRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ExchangeRequest>> {
        let messages = {
            let mut inner = lock(&self.peer.queue.inner);
            if !inner.open || inner.epoch != self.epoch {
                return Poll::Ready(None);
            }
            if inner.messages.is_empty() {
                inner.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            std::mem::take(&mut inner.messages)
        };
        let identity = self.peer.identity().unwrap_or_default();
        let mut envelopes = Vec::with_capacity(messages.len());
        let mut bytes = 0;
        let mut messages = messages.into_iter();
        for message in messages.by_ref() {
            let envelope = to_envelope(&message, &identity);
            bytes += envelope.encoded_len();
            envelopes.push(envelope);
            if bytes >= limits::PEER_BATCH_BYTES_MAX {
                break;
            }
        }
        put_back(&self.peer.queue, self.epoch, messages);
        Poll::Ready(Some(ExchangeRequest { envelopes }))
    }
}

/// What did not fit into this batch goes first in the next one.
fn put_back(queue: &Queue, epoch: u64, rest: std::collections::vec_deque::IntoIter<PeerMessage>) {
    if rest.len() == 0 {
        return;
    }
    let mut inner = lock(&queue.inner);
    if inner.epoch != epoch {
        return;
    }
    for message in rest.rev() {
        inner.messages.push_front(message);
    }
}
