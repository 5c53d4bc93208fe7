//! A unary call without tonic's codec, which is made for streams of messages: here the request is one and the
//! answer is one (what that saves is in docs/performance.md).
//!
//! What is not as plain as that (compressed, no message or several, too long, not protobuf) is for tonic to judge.

use bytes::{BufMut as _, Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use prost::Message;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{self, HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;

/// In front of each message: is it compressed, and how long is it (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX_BYTES: usize = 5;
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What a client is answered.
#[derive(Default)]
pub(super) enum Reply {
    /// What tonic makes of it.
    Tonic(Body),
    /// One message, and then that all is well.
    Message(Bytes),
    /// That all is well.
    Ok,
    /// Nothing more.
    #[default]
    Ended,
}

/// One message; before it, `headers`.
pub(super) fn answer(headers: MetadataMap, message: &impl Message) -> http::Response<Reply> {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    message.encode_raw(&mut bytes);
    let mut response = http::Response::new(Reply::Message(bytes.freeze()));
    *response.headers_mut() = headers.into_headers();
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    response
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Self::Tonic(body) = &mut *self {
            return Pin::new(body).poll_frame(cx);
        }
        let frame = match std::mem::take(&mut *self) {
            Self::Message(message) => {
                *self = Self::Ok;
                Some(Frame::data(message))
            }
            Self::Ok => {
                let trailers = [(GRPC_STATUS, HeaderValue::from_static("0"))];
                Some(Frame::trailers(HeaderMap::from_iter(trailers)))
            }
            Self::Tonic(_) | Self::Ended => None,
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Tonic(body) => body.is_end_stream(),
            Self::Message(_) | Self::Ok => false,
            Self::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Tonic(body) => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

/// What may become one plain message: the prefix, or a part of it, and what has come of the rest.
fn may_be_plain(bytes: &[u8], bytes_max: usize) -> bool {
    match bytes.split_first_chunk::<PREFIX_BYTES>() {
        Some(([0, length @ ..], message)) => {
            let length = u32::from_be_bytes(*length) as usize;
            length <= bytes_max && message.len() <= length
        }
        Some(_) => false,
        None => true,
    }
}

/// The message, if these are one that is whole and not compressed.
fn plain<M: Message + Default>(bytes: &[u8], bytes_max: usize) -> Option<M> {
    let (prefix, message) = bytes.split_first_chunk::<PREFIX_BYTES>()?;
    let [_, length @ ..] = *prefix;
    let whole = u32::from_be_bytes(length) as usize == message.len();
    if !whole || !may_be_plain(bytes, bytes_max) {
        return None;
    }
    M::decode(message).ok()
}

/// The body of a request, of which a part was taken.
pub(super) struct Begun {
    taken: BytesMut,
    rest: Incoming,
}

impl Begun {
    /// Reads until the end, or until it is no plain message any more: whoever judges that need not wait for
    /// the rest.
    pub(super) async fn read(rest: Incoming, bytes_max: usize) -> Result<Self, hyper::Error> {
        let taken = BytesMut::new();
        let mut begun = Self { taken, rest };
        while may_be_plain(&begun.taken, bytes_max) {
            let frame = poll_fn(|cx| Pin::new(&mut begun.rest).poll_frame(cx)).await;
            let Some(frame) = frame.transpose()? else {
                break;
            };
            // A request of gRPC has no trailers.
            if let Ok(data) = frame.into_data() {
                begun.taken.extend_from_slice(&data);
            }
        }
        Ok(begun)
    }

    /// The message, if it is a plain one.
    pub(super) fn message<M: Message + Default>(&self, bytes_max: usize) -> Option<M> {
        plain(&self.taken, bytes_max)
    }
}

impl HttpBody for Begun {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.taken.is_empty() {
            return Pin::new(&mut self.rest).poll_frame(cx);
        }
        let taken = self.taken.split().freeze();
        Poll::Ready(Some(Ok(Frame::data(taken))))
    }

    fn is_end_stream(&self) -> bool {
        self.taken.is_empty() && self.rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::{may_be_plain, plain};
    use crate::proto::chat::RequestId;
    use prost::Message as _;

    #[test]
    fn one_whole_message_that_is_not_too_long_is_plain_and_its_parts_may_be() {
        let id = RequestId {
            client_id: vec![7; 16].into(),
            sequence: 300,
        };
        let message = id.encode_to_vec();
        let max = message.len();
        let bytes = [&[0, 0, 0, 0, max as u8][..], &message].concat();
        assert_eq!(plain(&bytes, max), Some(id));
        for length in 0..bytes.len() {
            let part = &bytes[..length];
            assert!(may_be_plain(part, max), "{length}");
            assert_eq!(plain::<RequestId>(part, max), None, "{length}");
        }
        let more = [&bytes[..], &[0]].concat();
        let compressed = [&[1], &bytes[1..]].concat();
        for (bytes, max) in [(&more, max), (&compressed, max), (&bytes, max - 1)] {
            assert!(!may_be_plain(bytes, max));
            assert_eq!(plain::<RequestId>(bytes, max), None);
        }
        let other = [0, 0, 0, 0, 1, 255];
        assert!(may_be_plain(&other, max));
        assert_eq!(plain::<RequestId>(&other, max), None, "no protobuf");
    }
}
