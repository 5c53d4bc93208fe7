//! Refreshes: batches of what waits, and the wait for it.
//!
//! Version 2 keeps the stream of a refresh open until the next one of the connection goes on where
//! it ended, so that nothing that happens in between is missed. Version 1 has no streams: each
//! refresh is one look.

use super::codec::{Private, SEPARATOR, v1, v2};
use super::convert;
use crate::limits;
use crate::service::{Backend, Deliver, DeliverMessages, Deliveries, Service, ServiceError, Token};
use crate::types::{InboxSeq, TokenHash};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of an event beside its body and names.
const EVENT_BYTES: usize = 96;

/// A stream between two refreshes.
pub(super) struct Kept<B: Backend> {
    token: TokenHash,
    stream: Box<Deliveries<B>>,
}

impl<B: Backend> Kept<B> {
    fn goes_on(&self, token: TokenHash, after: Option<InboxSeq>) -> bool {
        self.token == token && after == Some(self.stream.position())
    }
}

/// One refresh of version 2; the stream is for the next one.
pub(super) async fn refresh<B: Backend>(
    service: &Service<B>,
    kept: Option<Kept<B>>,
    request: v2::Refresh,
) -> Result<(v2::Batch, Option<Kept<B>>), ServiceError> {
    let token = convert::token(&request.token)?;
    let after = request.after.map(InboxSeq);
    let events_max = limits::DELIVER_BATCH_MAX as u32;
    let events_max = request
        .events_max
        .unwrap_or(events_max)
        .clamp(1, events_max) as usize;
    let wait_ms = request.wait_ms.unwrap_or(0).min(limits::WIRE_WAIT_MS_MAX);
    let kept = kept.filter(|kept| kept.goes_on(token.hash(), after));
    if wait_ms == 0 && kept.is_none() {
        return Ok((look(service, &token, after, events_max).await?, None));
    }
    let mut kept = if let Some(kept) = kept {
        kept
    } else {
        let request = DeliverMessages {
            after,
            heartbeat_ms: limits::HEARTBEAT_MS_MAX,
        };
        Kept {
            token: token.hash(),
            stream: Box::new(service.deliver_messages(&token, request).await?),
        }
    };
    let until = Instant::now() + Duration::from_millis(wait_ms.into());
    let batch = gather(&mut kept.stream, until, events_max).await?;
    Ok((batch, Some(kept)))
}

/// One look at the inbox.
async fn look<B: Backend>(
    service: &Service<B>,
    token: &Token,
    after: Option<InboxSeq>,
    events_max: usize,
) -> Result<v2::Batch, ServiceError> {
    let (messages, cursor) = service.read_messages(token, after).await?;
    let mut position = after.unwrap_or(cursor.acknowledged);
    let mut batch = Gathered::new(events_max);
    let begins_behind = InboxSeq(cursor.first.0.saturating_sub(1));
    if begins_behind > position {
        position = begins_behind;
        batch.push(removed(begins_behind));
    }
    for message in messages {
        if batch.is_full() {
            break;
        }
        position = message.seq;
        batch.push(convert::message(message));
    }
    Ok(v2::Batch {
        position: position.0,
        cursor: cursor.acknowledged.0,
        more: position < cursor.last && !batch.events.is_empty(),
        events: batch.events,
    })
}

/// Waits for the first event, and takes with it what is there already.
async fn gather<B: Backend>(
    stream: &mut Deliveries<B>,
    until: Instant,
    events_max: usize,
) -> Result<v2::Batch, ServiceError> {
    let mut batch = Gathered::new(events_max);
    while !batch.is_full() {
        let event = if batch.events.is_empty() {
            match tokio::time::timeout_at(until, stream.next()).await {
                Ok(event) => Some(event?),
                Err(_) => None,
            }
        } else if stream.has_more() {
            Some(stream.next().await?)
        } else {
            tokio::select! {
                biased;
                event = stream.next() => Some(event?),
                () = std::future::ready(()) => None,
            }
        };
        match event {
            Some(Deliver::Message(message)) => batch.push(convert::message(message)),
            Some(Deliver::Delivered { peer, up_to }) => batch.push(v2::Event {
                kind: "d".to_owned(),
                message_id: Some(up_to.0),
                sender: peer,
                ..v2::Event::default()
            }),
            Some(Deliver::Removed { up_to }) => batch.push(removed(up_to)),
            Some(Deliver::EndOfBacklog) => batch.push(v2::Event {
                kind: "e".to_owned(),
                ..v2::Event::default()
            }),
            Some(Deliver::Heartbeat { .. }) | None => break,
        }
    }
    if batch.events.is_empty() {
        // An empty reply is a sign of life: the token is good, and this is the cursor.
        stream.look().await?;
    }
    Ok(v2::Batch {
        position: stream.position().0,
        cursor: stream.acknowledged().0,
        more: stream.has_more(),
        events: batch.events,
    })
}

/// Retention took what was left up to there.
fn removed(up_to: InboxSeq) -> v2::Event {
    v2::Event {
        kind: "r".to_owned(),
        inbox_seq: Some(up_to.0),
        ..v2::Event::default()
    }
}

/// Events up to a number of bytes.
struct Gathered {
    events: Vec<v2::Event>,
    bytes: usize,
    events_max: usize,
}

impl Gathered {
    fn new(events_max: usize) -> Self {
        Self {
            events: Vec::new(),
            bytes: 0,
            events_max,
        }
    }

    fn is_full(&self) -> bool {
        self.events.len() >= self.events_max || self.bytes >= limits::WIRE_BATCH_BYTES_MAX
    }

    fn push(&mut self, event: v2::Event) {
        self.bytes += EVENT_BYTES + event.body.0.len() + event.sender.len();
        self.bytes += event.content_type.len();
        self.events.push(event);
    }
}

/// One refresh of version 1: the batch, and the last message in it.
pub(super) async fn refresh_v1<B: Backend>(
    service: &Service<B>,
    token: &Token,
    returned: Option<InboxSeq>,
) -> Result<(v1::Batch, Option<InboxSeq>), ServiceError> {
    if let Some(up_to) = returned {
        service.ack_messages(token, up_to, None).await?;
    }
    let (messages, _) = service.read_messages(token, None).await?;
    let mut text = String::new();
    let mut last = None;
    for message in messages {
        if text.len() >= limits::WIRE_BATCH_BYTES_MAX {
            break;
        }
        if last.is_some() {
            text.push(SEPARATOR);
        }
        let body = String::from_utf8_lossy(&message.body);
        text.extend(["[", &message.sender_name, "]: "]);
        text.extend(body.chars().map(harmless));
        last = Some(message.seq);
    }
    let batch = v1::Batch {
        message: Private(text),
        error_code: String::new(),
    };
    Ok((batch, last))
}

/// Version 1 has no escape for control characters: its reader may be a person whose terminal would
/// obey them, and the separator would forge a sender. The picture of one stands for it.
fn harmless(letter: char) -> char {
    match letter {
        '\t' | '\n' | '\r' => letter,
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(letter)).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        // Unicode has no pictures of these; a terminal takes them for an escape and a letter.
        '\u{80}'..='\u{9f}' => '\u{fffd}',
        letter => letter,
    }
}
