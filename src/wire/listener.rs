//! Accepts connections, as many as there may be, until it is told to stop.

use super::codec::{FrameError, Reply};
use super::session::Session;
use crate::limits;
use crate::service::{AddressBook, Backend, Service};
use socket2::{SockRef, TcpKeepalive};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// A connection that says nothing for this long is asked for a sign of life by TCP; a host that
/// vanished is noticed about half a minute later.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two attempts to accept while the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A refused client may take its reply for so long.
const REFUSAL_WAIT: Duration = Duration::from_secs(1);

/// How the front is run.
#[derive(Clone)]
pub struct Options {
    /// For the replies: where the primary's wire clients connect.
    pub addresses: AddressBook,
    /// Connections at once.
    pub connections_max: usize,
    /// Counts those that are open.
    pub open: Arc<AtomicUsize>,
    /// From the first byte of a frame to its last.
    pub frame_timeout: Duration,
    /// For a client to take some of its replies.
    pub write_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let patience = Duration::from_secs(limits::WIRE_FRAME_SECONDS);
        Self {
            addresses: Arc::new(|_| None),
            connections_max: limits::WIRE_CONNECTIONS_MAX,
            open: Arc::default(),
            frame_timeout: patience,
            write_timeout: patience,
        }
    }
}

/// What all sessions share.
pub(super) struct Front<B: Backend> {
    pub(super) service: Service<B>,
    pub(super) options: Options,
}

impl<B: Backend> Front<B> {
    /// HOST:PORT of the primary's wire address; empty if it is not known.
    pub(super) fn primary_address(&self) -> String {
        let primary = self.service.primary();
        primary
            .and_then(|id| (self.options.addresses)(id))
            .unwrap_or_default()
    }
}

/// Serves clients until `shutdown` is ready; then open waits end with `UNAVAILABLE`, and requests
/// under way have `STOP_GRACE_SECONDS` to finish.
pub async fn serve<B: Backend>(
    listener: TcpListener,
    service: Service<B>,
    options: Options,
    shutdown: impl Future<Output = ()> + Send,
) {
    let places = Arc::new(Semaphore::new(options.connections_max));
    let refusals = Arc::new(Semaphore::new(limits::WIRE_REFUSALS_MAX));
    let places_in_all = options.connections_max;
    let front = Arc::new(Front { service, options });
    let stopping = watch::Sender::new(false);
    tokio::pin!(shutdown);
    let mut complained = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((socket, _)) => {
                complained = false;
                match Arc::clone(&places).try_acquire_owned() {
                    Ok(place) => open(&front, socket, place, stopping.subscribe()),
                    Err(_) => refuse(socket, &refusals),
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!("cannot accept a wire connection: {error}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stopping.send_replace(true);
    front.service.close_streams();
    let grace = Duration::from_secs(limits::STOP_GRACE_SECONDS);
    let all = places.acquire_many(places_in_all as u32);
    if tokio::time::timeout(grace, all).await.is_err() {
        tracing::info!("wire connections were still open at the end of the grace period");
    }
}

/// Counts down when its connection has ended.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn open<B: Backend>(
    front: &Arc<Front<B>>,
    socket: TcpStream,
    place: OwnedSemaphorePermit,
    stopping: watch::Receiver<bool>,
) {
    let session = Session::new(Arc::clone(front));
    let counted = Counted::new(Arc::clone(&front.options.open));
    tokio::spawn(async move {
        let _held = (place, counted);
        if prepare(&socket).is_ok() {
            // How a connection ends is its client's business.
            let _ = session.run(&socket, stopping).await;
        }
    });
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// Says why, and waits a little for the client to hear it.
fn refuse(socket: TcpStream, refusals: &Arc<Semaphore>) {
    let Ok(place) = Arc::clone(refusals).try_acquire_owned() else {
        return;
    };
    tokio::spawn(async move {
        let _place = place;
        let mut reply = Vec::new();
        Reply::Unread(FrameError::TooManyConnections).encode(&mut reply);
        // A client that does not listen does not need to hear it.
        let _ = tokio::time::timeout(REFUSAL_WAIT, tell(socket, &reply)).await;
    });
}

async fn tell(mut socket: TcpStream, reply: &[u8]) -> io::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    socket.write_all(reply).await?;
    socket.shutdown().await?;
    // To close a socket with unread bytes in it would take the reply back.
    let mut unread = [0; 1024];
    while socket.read(&mut unread).await? > 0 {}
    Ok(())
}
