//! Which replicas there are, which one to ask, and whom to avoid for a while.
//!
//! Any replica serves any request; the primary serves it with one hop fewer. Replies name the
//! primary, and the next request goes there. A replica that does not answer is left alone for a
//! short time, so that a stale hint ("the primary is the one that just died") cannot send every
//! retry back to it.

use super::{ClientError, wire};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tonic::Code;
use tonic::transport::Endpoint;

/// A replica that refused a connection or broke one is avoided for this long: shorter than a
/// restart, longer than the burst of retries after a kill.
const AVOID_BROKEN: Duration = Duration::from_millis(300);
/// A replica that let a request time out may be paused: each further try costs a whole timeout.
const AVOID_SILENT: Duration = Duration::from_secs(3);
/// An address that only a hint named, and that does not answer, may be of a network that this
/// client is not on.
const AVOID_LEARNED: Duration = Duration::from_secs(30);
/// Addresses in all. A cluster has at most 7 replicas; old addresses of moved ones stay.
const NODES_MAX: usize = 32;

/// How to speak to the replicas. Both have the same operations and the same promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Addresses are those of `--client-addr`.
    #[default]
    Grpc,
    /// The text protocol, version 2. Addresses are those of `--wire-addr`.
    Wire,
}

/// A way to one replica.
#[derive(Clone)]
pub(super) enum Channel {
    Grpc(tonic::transport::Channel),
    Wire(wire::Channel),
}

/// Time limits, and whom to ask.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// For opening a connection.
    pub connect_timeout: Duration,
    /// For the first attempt of a request; doubled after each that was not answered in time, up to
    /// four times this. Begins at a quarter of it for a request that hashes no password, while there
    /// is another replica to ask.
    pub attempt_timeout: Duration,
    /// For a request with all its retries.
    pub deadline: Duration,
    /// Go to the primary that replies name. Without it only the given addresses are asked, in
    /// their order: for looking at one replica.
    pub follow_primary: bool,
    /// How to speak to all of them.
    pub protocol: Protocol,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_millis(500),
            attempt_timeout: Duration::from_secs(2),
            deadline: Duration::from_secs(30),
            follow_primary: true,
            protocol: Protocol::Grpc,
        }
    }
}

/// What the retries came to, since the cluster handle was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Attempts beyond the first, of all requests.
    pub retries: u64,
    /// Times that another replica was chosen because one did not answer.
    pub failovers: u64,
}

/// The replicas of one cluster. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    retries: AtomicU64,
    failovers: AtomicU64,
    /// Held for a few instructions at a time, never across an await.
    nodes: Mutex<Nodes>,
}

struct Nodes {
    list: Vec<Node>,
    /// The one to ask.
    preferred: usize,
    /// As the last reply that named one said.
    primary: Option<String>,
}

struct Node {
    address: String,
    channel: Channel,
    /// Named by a hint, not by the caller.
    learned: bool,
    /// It has answered once, so it speaks our protocol.
    answered: bool,
    /// It speaks the other protocol.
    wrong: bool,
    avoid_until: Option<Instant>,
}

/// A replica chosen for one attempt.
pub(super) struct Chosen {
    pub number: usize,
    pub channel: Channel,
    /// No other is there to ask instead, as far as is known.
    pub only: bool,
}

impl Cluster {
    /// A handle on the replicas at these addresses (`HOST:PORT`). Connections are opened when
    /// they are needed; must be called inside a tokio runtime.
    pub fn connect<I>(addresses: I) -> Result<Self, ClientError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        Self::connect_with(addresses, Options::default())
    }

    /// The same with other options.
    pub fn connect_with<I>(addresses: I, options: Options) -> Result<Self, ClientError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut list: Vec<Node> = Vec::new();
        for address in addresses {
            let address = address.as_ref().trim();
            if list.iter().all(|node| node.address != address) {
                list.push(Node::new(address, &options, false)?);
            }
        }
        if list.is_empty() {
            return Err(invalid("no address of a replica is given"));
        }
        list.truncate(NODES_MAX);
        Ok(Self {
            shared: Arc::new(Shared {
                options,
                retries: AtomicU64::new(0),
                failovers: AtomicU64::new(0),
                nodes: Mutex::new(Nodes {
                    list,
                    preferred: 0,
                    primary: None,
                }),
            }),
        })
    }

    /// The client address of the primary, as the last reply that named one said.
    pub fn primary(&self) -> Option<String> {
        self.nodes().primary.clone()
    }

    /// The client address of the replica that the next request goes to.
    pub fn current(&self) -> String {
        let number = self.choose().number;
        self.nodes().list[number].address.clone()
    }

    /// Retries and failovers so far.
    pub fn stats(&self) -> Stats {
        Stats {
            retries: self.shared.retries.load(Ordering::Relaxed),
            failovers: self.shared.failovers.load(Ordering::Relaxed),
        }
    }

    /// As given to [`Cluster::connect_with`].
    pub fn options(&self) -> Options {
        self.shared.options
    }

    pub(super) fn count_retry(&self) {
        self.shared.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// The preferred replica, or the next that is not to be avoided.
    pub(super) fn choose(&self) -> Chosen {
        let nodes = self.nodes();
        let now = Instant::now();
        let count = nodes.list.len();
        let number = (0..count)
            .map(|step| (nodes.preferred + step) % count)
            .find(|&number| !nodes.list[number].avoided(now))
            // All are to be avoided: the one whose time is up first.
            .or_else(|| (0..count).min_by_key(|&number| nodes.list[number].avoid_until))
            .unwrap_or(nodes.preferred);
        let mut others = nodes.list.iter().enumerate().filter(|(n, _)| *n != number);
        Chosen {
            number,
            channel: nodes.list[number].channel.clone(),
            only: others.all(|(_, node)| node.avoided(now)),
        }
    }

    /// A replica other than `number`, for a stream that broke there.
    pub(super) fn prefer_another(&self, number: usize) {
        let mut nodes = self.nodes();
        if nodes.preferred == number {
            nodes.preferred = (number + 1) % nodes.list.len();
        }
    }

    /// The replica answered; its reply may name the primary.
    pub(super) fn on_answer(&self, number: usize, primary: Option<&str>) {
        let mut nodes = self.nodes();
        let node = &mut nodes.list[number];
        (node.avoid_until, node.answered, node.wrong) = (None, true, false);
        let Some(primary) = primary else { return };
        if nodes.primary.as_deref() != Some(primary) {
            nodes.primary = Some(primary.to_owned());
        }
        if !self.shared.options.follow_primary || nodes.list[nodes.preferred].address == primary {
            return;
        }
        let now = Instant::now();
        let known = nodes.list.iter().position(|node| node.address == primary);
        if let Some(known) = known {
            if !nodes.list[known].avoided(now) {
                nodes.preferred = known;
            }
        } else if nodes.list.len() < NODES_MAX
            && is_reachable_from_elsewhere(primary)
            && let Ok(node) = Node::new(primary, &self.shared.options, true)
        {
            nodes.list.push(node);
            nodes.preferred = nodes.list.len() - 1;
        }
    }

    /// The replica did not answer; `silent`: not even with a closed connection.
    pub(super) fn on_unreachable(&self, number: usize, silent: bool) {
        let mut nodes = self.nodes();
        let avoid = match (nodes.list[number].learned, silent) {
            (true, _) => AVOID_LEARNED,
            (false, true) => AVOID_SILENT,
            (false, false) => AVOID_BROKEN,
        };
        let node = &mut nodes.list[number];
        // A replica noted as silent is not forgiven because it is noted as broken as well.
        node.avoid_until = node.avoid_until.max(Some(Instant::now() + avoid));
        // Of many requests that fail on one replica at once only the first moves on; the others
        // would skip replicas that nobody has tried.
        if nodes.preferred == number {
            nodes.preferred = (number + 1) % nodes.list.len();
            self.shared.failovers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The replica speaks the other protocol; false if all do, and there is nobody left to ask.
    pub(super) fn on_wrong_protocol(&self, number: usize) -> bool {
        let mut nodes = self.nodes();
        let node = &mut nodes.list[number];
        // It may be restarted with other addresses one day.
        (node.avoid_until, node.wrong) = (Some(Instant::now() + AVOID_LEARNED), true);
        if nodes.preferred == number {
            nodes.preferred = (number + 1) % nodes.list.len();
        }
        !nodes.list.iter().all(|node| node.wrong)
    }

    /// Whether this replica has ever answered.
    pub(super) fn has_answered(&self, number: usize) -> bool {
        self.nodes().list[number].answered
    }

    /// Where this replica is.
    pub(super) fn address(&self, number: usize) -> String {
        self.nodes().list[number].address.clone()
    }

    /// Where all of them are.
    pub fn addresses(&self) -> Vec<String> {
        let nodes = self.nodes();
        nodes.list.iter().map(|node| node.address.clone()).collect()
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        // Nothing that runs under this lock can panic half-way through a change.
        self.shared
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes = self.nodes();
        f.debug_list()
            .entries(nodes.list.iter().map(|node| &node.address))
            .finish()
    }
}

impl Node {
    fn new(address: &str, options: &Options, learned: bool) -> Result<Self, ClientError> {
        if !is_host_port(address) {
            return Err(invalid(format!("{address:?} is not HOST:PORT")));
        }
        let channel = match options.protocol {
            Protocol::Wire => Channel::Wire(wire::Channel::new(address, options.connect_timeout)),
            Protocol::Grpc => Channel::Grpc(grpc(address, options)?),
        };
        Ok(Self {
            address: address.to_owned(),
            channel,
            learned,
            answered: false,
            wrong: false,
            avoid_until: None,
        })
    }

    fn avoided(&self, now: Instant) -> bool {
        self.avoid_until.is_some_and(|until| until > now)
    }
}

/// As the server reads its own addresses; an IPv6 address is in brackets.
fn is_host_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let one_host = !host.is_empty() && (bracketed || !host.contains(':'));
    one_host
        && !host.contains(|c: char| c == '/' || c.is_whitespace())
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn grpc(address: &str, options: &Options) -> Result<tonic::transport::Channel, ClientError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| invalid(format!("{address:?} is not HOST:PORT")))?
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_lazy())
}

/// `0.0.0.0:7400` is where a server listens, not where anybody finds it.
fn is_reachable_from_elsewhere(address: &str) -> bool {
    address
        .parse::<SocketAddr>()
        .is_ok_and(|address| !address.ip().is_unspecified())
}

fn invalid(message: impl Into<String>) -> ClientError {
    ClientError::local("ADDRESS_INVALID", Code::InvalidArgument, message)
}
