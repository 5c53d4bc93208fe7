//! A bound on the open connections of a listener.
//!
//! One connection more is accepted and closed at once: its client sees that, and tries another
//! replica, instead of waiting in a queue that nobody serves.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// A connection says its first byte within this time.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Lets at most `max` of the connections of `incoming` be open at a time.
pub(super) struct Bounded<S> {
    incoming: S,
    open: Arc<AtomicUsize>,
    max: usize,
    /// Whose connections they are, for the log.
    of: &'static str,
    /// Told once for each time that the bound is reached.
    full: bool,
}

impl<S> Bounded<S> {
    /// At most `max`, of whom the log is told; `open` counts them, for whoever wants to know.
    pub fn new(incoming: S, (of, max): (&'static str, usize), open: Arc<AtomicUsize>) -> Self {
        Self {
            incoming,
            open,
            max,
            of,
            full: false,
        }
    }
}

impl<S, C> Stream for Bounded<S>
where
    S: Stream<Item = io::Result<C>> + Unpin,
{
    type Item = io::Result<Connection<C>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let accepted = match ready!(Pin::new(&mut self.incoming).poll_next(cx)) {
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            // Only this stream counts up, so that the bound holds.
            if self.open.load(Ordering::Acquire) < self.max {
                self.full = false;
                self.open.fetch_add(1, Ordering::AcqRel);
                let place = Place(Arc::clone(&self.open));
                return Poll::Ready(Some(Ok(Connection {
                    accepted,
                    silent: Some(Box::pin(tokio::time::sleep(SILENCE_MAX))),
                    gathered: false,
                    _place: place,
                })));
            }
            if !std::mem::replace(&mut self.full, true) {
                let Self { of, max, .. } = &*self;
                tracing::warn!("{max} connections of {of} are open: more are closed");
            }
        }
    }
}

/// Counts down when its connection is dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An accepted connection, counted. One that says nothing at first is closed: it would keep its
/// place from others for ever.
pub(super) struct Connection<C> {
    accepted: C,
    /// Until its first byte.
    silent: Option<Pin<Box<Sleep>>>,
    /// What is to be written since the last flush has waited for others to add to it.
    gathered: bool,
    _place: Place,
}

impl<C> Connection<C> {
    /// Pending once for each flush: the tasks that can run now have their turn first, and what they answer
    /// goes out in the same call of the kernel. Each would be a call, and a packet, of its own otherwise: a
    /// task that sends wakes the connection's, which tokio runs next.
    fn poll_gather(&mut self, cx: &Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.gathered, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<C: Connected> Connected for Connection<C> {
    type ConnectInfo = C::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.accepted.connect_info()
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Connection<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.accepted).poll_read(cx, buf);
        let spoke = buf.filled().len() > before;
        if let Some(silent) = self.silent.as_mut().filter(|_| !spoke) {
            if read.is_pending() && silent.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        } else {
            self.silent = None;
        }
        read
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Connection<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_gather(cx));
        Pin::new(&mut self.accepted).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_gather(cx));
        Pin::new(&mut self.accepted).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.accepted.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.accepted).poll_flush(cx))?;
        self.gathered = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.accepted).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt as _;

    #[tokio::test]
    async fn one_too_many_is_dropped_and_a_closed_one_makes_room() {
        let (to, from) = tokio::sync::mpsc::channel(8);
        let accept = |name: &'static str| to.try_send(Ok(name)).unwrap();
        let incoming = tokio_stream::wrappers::ReceiverStream::new(from);
        let mut bounded = Bounded::new(incoming, ("tests", 2), Arc::default());
        accept("a");
        accept("b");
        let first = bounded.next().await.unwrap().unwrap();
        let second = bounded.next().await.unwrap().unwrap();
        assert_eq!((first.accepted, second.accepted), ("a", "b"));
        accept("c");
        let none = tokio::select! {
            biased;
            got = bounded.next() => got.map(|c| c.unwrap().accepted),
            () = std::future::ready(()) => None,
        };
        assert_eq!(none, None, "c is closed");
        drop(first);
        accept("d");
        assert_eq!(bounded.next().await.unwrap().unwrap().accepted, "d");
    }

    #[tokio::test]
    async fn who_says_nothing_at_first_is_closed_and_who_has_spoken_may_be_silent() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let soon = || Some(Box::pin(tokio::time::sleep(Duration::from_millis(1))));
        let connection = |accepted, silent| Connection {
            accepted,
            silent,
            gathered: false,
            _place: Place(Arc::new(AtomicUsize::new(1))),
        };
        let (_mute, server) = tokio::io::duplex(8);
        let mut closed = connection(server, soon());
        let error = closed.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let (mut client, server) = tokio::io::duplex(8);
        client.write_u8(7).await.unwrap();
        let mut open = connection(server, soon());
        assert_eq!(open.read_u8().await.unwrap(), 7);
        assert!(open.silent.is_none());
    }
}
