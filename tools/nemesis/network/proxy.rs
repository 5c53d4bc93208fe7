//! Links through this process, for where namespaces cannot be made: one listener for each
//! direction of connecting, and a rule for each direction of the bytes.

use super::ports;
use super::rules::{Node, Rules};
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// How often a stopped direction looks whether it may go on.
const LOOK: Duration = Duration::from_millis(5);
/// Bytes that are passed on at once.
const CHUNK: usize = 64 * 1024;

/// All links. Closed when dropped.
pub struct Proxies {
    clients: BTreeMap<Node, String>,
    peers: BTreeMap<Node, String>,
    /// Where `from` connects to reach `to`.
    links: BTreeMap<(Node, Node), String>,
    tasks: Vec<JoinHandle<()>>,
}

impl Proxies {
    /// Chooses ports and starts listening.
    pub fn new(replicas: u16, rules: &Rules) -> Result<Self> {
        let each = usize::from(replicas);
        let mut ports = ports::free(each * (each + 1)).context("cannot find free ports")?;
        let mut address = || format!("127.0.0.1:{}", ports.pop().unwrap_or_default());
        let mut proxies = Self {
            clients: (1..=replicas).map(|id| (id, address())).collect(),
            peers: (1..=replicas).map(|id| (id, address())).collect(),
            links: BTreeMap::new(),
            tasks: Vec::new(),
        };
        for from in 1..=replicas {
            for to in (1..=replicas).filter(|to| *to != from) {
                let link = address();
                let listener = std::net::TcpListener::bind(&link)?;
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                let target = proxies.peer_address(to, to);
                let task = serve(listener, target, (from, to), rules.clone());
                proxies.tasks.push(tokio::spawn(task));
                proxies.links.insert((from, to), link);
            }
        }
        Ok(proxies)
    }

    /// Where clients connect: not proxied.
    pub fn client_address(&self, id: Node) -> String {
        self.clients.get(&id).cloned().unwrap_or_default()
    }

    /// Where `from` finds `to`; its own address is where it listens.
    pub fn peer_address(&self, from: Node, to: Node) -> String {
        let link = self.links.get(&(from, to));
        link.or_else(|| self.peers.get(&to))
            .cloned()
            .unwrap_or_default()
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn serve(listener: TcpListener, target: String, (from, to): (Node, Node), rules: Rules) {
    loop {
        let Ok((near, _)) = listener.accept().await else {
            sleep(LOOK).await;
            continue;
        };
        let (target, rules) = (target.clone(), rules.clone());
        tokio::spawn(async move {
            while rules.of(from, to).cut || rules.of(to, from).cut {
                sleep(LOOK).await;
            }
            // Not there: the other side sees the connection closed.
            let Ok(far) = TcpStream::connect(&target).await else {
                return;
            };
            // Only a matter of speed.
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            tokio::select! {
                () = pass(near_read, far_write, (from, to), &rules) => {}
                () = pass(far_read, near_write, (to, from), &rules) => {}
            }
        });
    }
}

/// Passes bytes on until either end closes. A cut direction keeps what it has read, as a network
/// keeps what is sent again.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: (Node, Node),
    rules: &Rules,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        let arrived = Instant::now();
        let mut rule = rules.of(direction.0, direction.1);
        while rule.cut {
            sleep(LOOK).await;
            rule = rules.of(direction.0, direction.1);
        }
        if rule.delay_ms > 0 {
            sleep_until(arrived + Duration::from_millis(rule.delay_ms)).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
