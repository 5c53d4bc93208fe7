//! `--metrics-addr`: what a replica counts and knows of itself, as Prometheus reads it.
//!
//! The HTTP is as much as a scrape needs: one `GET /metrics` a connection. Whoever asks for something
//! else, too slowly, or at too great length, is told so or closed.

mod text;

use crate::limits;
use crate::metrics::Metrics;
use crate::net::Links;
use crate::replica::Handle;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is shown.
#[derive(Clone)]
pub struct Source {
    /// The replica.
    pub handle: Handle,
    /// Its links.
    pub links: Links,
    /// What it counted.
    pub metrics: Arc<Metrics>,
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, source: Source) {
    let places = Arc::new(Semaphore::new(limits::METRICS_CONNECTIONS_MAX));
    loop {
        // Waiting callers wait in the kernel's queue, which is bounded.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((socket, _)) => drop(tokio::spawn(answer(socket, source.clone(), place))),
            Err(error) => {
                tracing::info!("cannot accept a connection to the metrics: {error}");
                tokio::time::sleep(Duration::from_millis(limits::METRICS_PAUSE_MS)).await;
            }
        }
    }
}

async fn answer(mut socket: TcpStream, source: Source, place: OwnedSemaphorePermit) {
    let wait = Duration::from_millis(limits::METRICS_WAIT_MS);
    // A caller that is too slow, or gone, needs no answer.
    let _ = tokio::time::timeout(wait, exchange(&mut socket, &source)).await;
    drop(place);
}

async fn exchange(socket: &mut TcpStream, source: &Source) -> std::io::Result<()> {
    let head = read_head(socket).await?;
    let (status, body) = match request_of(&head) {
        Request::Metrics => ("200 OK", source.text().await),
        Request::Elsewhere => ("404 Not Found", "only /metrics is here\n".to_owned()),
        Request::Other => (
            "405 Method Not Allowed",
            "only GET is understood\n".to_owned(),
        ),
        Request::Bad => ("400 Bad Request", "this is no HTTP request\n".to_owned()),
    };
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(response.as_bytes()).await?;
    socket.shutdown().await
}

/// Up to the empty line, or as much as is read at most.
async fn read_head(socket: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1_024];
    while !head.ends_with(b"\r\n\r\n") && head.len() < limits::METRICS_HEAD_BYTES_MAX {
        let count = socket.read(&mut chunk).await?;
        if count == 0 {
            break;
        }
        head.extend_from_slice(&chunk[..count]);
    }
    Ok(head)
}

#[derive(Debug, PartialEq, Eq)]
enum Request {
    Metrics,
    Elsewhere,
    Other,
    Bad,
}

fn request_of(head: &[u8]) -> Request {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, path, version) = (words.next(), words.next(), words.next());
    let path = path.map(|path| path.split(|byte| *byte == b'?').next());
    match (method, path, version) {
        (Some(b"GET"), Some(Some(b"/metrics")), Some(b"HTTP/1.1" | b"HTTP/1.0")) => {
            Request::Metrics
        }
        (Some(b"GET"), Some(_), Some(b"HTTP/1.1" | b"HTTP/1.0")) => Request::Elsewhere,
        (Some(_), Some(_), Some(b"HTTP/1.1" | b"HTTP/1.0")) => Request::Other,
        _ => Request::Bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_get_of_the_metrics_is_one() {
        for (head, request) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Request::Metrics),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", Request::Metrics),
            ("GET / HTTP/1.1\r\n\r\n", Request::Elsewhere),
            ("POST /metrics HTTP/1.1\r\n\r\n", Request::Other),
            ("GET /metrics HTTP/2\r\n\r\n", Request::Bad),
            ("\u{1}\u{2}", Request::Bad),
            ("", Request::Bad),
        ] {
            assert_eq!(request_of(head.as_bytes()), request, "{head:?}");
        }
    }
}
