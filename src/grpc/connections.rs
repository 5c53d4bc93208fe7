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

/// What is this long is written at once: about the payload of an Ethernet frame.
const PACKET_BYTES: usize = 1_400;

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
                    written: false,
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
    /// What is to be written since the last flush has waited for others to add to it, ...
    gathered: bool,
    /// ... and a part of it was written.
    written: bool,
    _place: Place,
}

impl<C> Connection<C> {
    /// Pending once for each flush of less than a packet: the tasks that can run now have their turn first, and
    /// what they answer goes out in the same call of the kernel. Each would be a call, and a packet, of its own
    /// otherwise: a task that sends wakes the connection's, which tokio runs next.
    fn poll_gather(&mut self, cx: &Context<'_>, bytes: usize) -> Poll<()> {
        if std::mem::replace(&mut self.gathered, true) || bytes >= PACKET_BYTES {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn note_written(&mut self, written: &Poll<io::Result<usize>>) {
        self.written |= matches!(written, Poll::Ready(Ok(_)));
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
        ready!(self.poll_gather(cx, buf.len()));
        let written = Pin::new(&mut self.accepted).poll_write(cx, buf);
        self.note_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_gather(cx, bufs.iter().map(|buf| buf.len()).sum()));
        let written = Pin::new(&mut self.accepted).poll_write_vectored(cx, bufs);
        self.note_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.accepted.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.accepted).poll_flush(cx))?;
        if std::mem::take(&mut self.written) {
            self.gathered = false;
        }
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
            written: false,
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

    /// Writes what it is given, and counts the calls.
    #[derive(Default)]
    struct Calls(usize);

    impl AsyncWrite for Calls {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0 += 1;
            Poll::Ready(Ok(buf.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_short_write_waits_once_for_each_flush_and_a_long_one_does_not() {
        let mut connection = Connection {
            accepted: Calls::default(),
            silent: None,
            gathered: false,
            written: false,
            _place: Place(Arc::new(AtomicUsize::new(1))),
        };
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let write = |connection: &mut Connection<Calls>, bytes| {
            let cx = &mut Context::from_waker(&waker);
            let written = Pin::new(connection).poll_write(cx, &vec![0; bytes]);
            written.is_ready()
        };
        let flush = |connection: &mut Connection<Calls>| {
            let cx = &mut Context::from_waker(&waker);
            assert!(Pin::new(connection).poll_flush(cx).is_ready());
        };
        for round in 1..=2 {
            assert!(!write(&mut connection, 10), "others have their turn");
            assert_eq!(woken.0.load(Ordering::Relaxed), round);
            // Nothing was written: that is no reason to wait again.
            flush(&mut connection);
            assert!(write(&mut connection, 10) && write(&mut connection, 10));
            flush(&mut connection);
        }
        assert!(write(&mut connection, PACKET_BYTES));
        assert_eq!(connection.accepted.0, 5);
    }
}
