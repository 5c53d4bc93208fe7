//! `chat-server run`: one replica, from its data directory to its listeners and back.
//!
//! ORDER at the start: the data directory and its lock BEFORE any listener, so that a second
//! process on the same directory hears about the directory; listeners bound BEFORE the replica
//! runs, served after. At the end: no new clients, THEN the primary role handed over and
//! everything written, THEN the links closed.

use super::{again, clock};
use anyhow::{Context, anyhow, bail};
use chat::admin::socket;
use chat::config::{Address, Config, Flags};
use chat::exporter;
use chat::grpc::{admin, chat as client_api, peer};
use chat::limits;
use chat::metrics::Metrics;
use chat::net::Links;
use chat::replica::Handle;
use chat::replica::runtime::{Failure, FreeBytes, Runtime, Surroundings, spawn_in};
use chat::service::{Service, Settings};
use chat::storage::{OpenOptions, Opened, Recovered, SledStore, StorageError, open_directory};
use chat::types::Incarnation;
use chat::wire as wire_api;
use std::future::Future;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing_subscriber::EnvFilter;

/// Operators' open calls may take so long to be answered before a damaged replica begins again: its store
/// may never answer.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Runs one replica until it is told to stop or fails.
pub fn main(flags: &Flags, until_stdin_ends: bool) -> anyhow::Result<ExitCode> {
    let config = Config::load(flags)?;
    start_log(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    end_with_the_stores_threads();
    raise_open_files();
    let (store, recovered) = open_store(&config)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build()
        .context("cannot start the executor")?
        .block_on(run(config, store, recovered, until_stdin_ends))
}

/// Threads of the executor: half of the cores. The other half is for the replica's thread, the
/// storage thread and the store's own; beyond that a worker more only wakes up the others.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// Each client connection is an open file, and the usual limit of 1,024 is one that programs may
/// raise themselves up to the hard limit.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}

fn start_log(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| {
        format!("--log: `{filter}` is no filter: expected a level or module=level,…")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

/// Opens the data directory. What keeps this replica from running is an error here; damage that
/// leaves the store readable is not: such a replica runs, takes no part, and says so.
fn open_store(config: &Config) -> anyhow::Result<(SledStore, Recovered)> {
    let options = OpenOptions {
        id: config.id,
        ids: config.ids(),
        incarnation: Incarnation(rand::random()),
        cache_bytes: config.cache_bytes,
        patience: OpenOptions::PATIENCE,
    };
    match open_directory(&config.data_dir, &options)? {
        Opened::Damaged { sentence, .. } => bail!(sentence),
        Opened::Good { store, recovered } => {
            if let (Some((_, sentence)), true) = (recovered.damage.first(), config.peers.len() < 2)
            {
                bail!(
                    "the store in {} is damaged and there is no other replica to repair it from \
                     ({sentence}). Nothing was changed. Next: `chat-admin verify --data-dir` shows \
                     everything that is wrong; restore the directory from a backup, or see what \
                     `chat-admin recover --data-dir` can save",
                    config.data_dir.display()
                );
            }
            Ok((store, recovered))
        }
    }
}

async fn run(
    config: Config,
    store: SledStore,
    recovered: Recovered,
    until_stdin_ends: bool,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new(until_stdin_ends)?;
    let listeners = Listeners::bind(&config).await?;
    let links = listeners.links(&config)?;
    let ready = listeners.sentence(&config)?;
    let peer_addr = config.peer_addr();
    let peer_addr = peer_addr.map_or_else(String::new, Address::to_string);

    let metrics = Arc::new(Metrics::default());
    let around = surroundings(&config, &metrics)?;
    let (handle, replica) = match start_replica(&config, around, store, recovered, &links) {
        Err(StorageError::Damaged(what)) => again::after_damage(&config, &what),
        started => started?,
    };
    let operators = admin::Admin::new(handle.clone(), links.clone(), peer_addr);
    let operators = Arc::new(operators);
    let socket = socket::bind(&config.data_dir).context("cannot create the admin socket")?;
    let mut servers = Servers::default();
    servers.export(listeners.metrics, (&handle, &links, &metrics));
    let service = service_of(handle, &links)?;
    let test_accounts = config.test_cluster.then(|| service.clone());
    let stop_admin = servers.admin(socket, &operators, test_accounts);
    if let Some(listener) = listeners.peers {
        servers.start(
            "peer",
            peer::serve(listener, links.clone(), Some(operators)),
        );
    }
    let (stop_clients, stopping) = watch::channel(false);
    let fronts = (listeners.clients, listeners.wire);
    let mut front = serve_clients(fronts, service, &links, &metrics, stopping);

    // Nobody may be reading: that is no reason to stop.
    let _ = writeln!(std::io::stdout(), "{ready}");
    let ended = tokio::select! {
        name = signals.next() => {
            tracing::info!("{name}: stopping");
            None
        }
        failure = replica.failed() => match &*failure {
            Failure::Damaged(what) => {
                servers.answer_operators(&stop_admin).await;
                again::after_damage(&config, what)
            }
            _ => Some(anyhow::Error::new(failure)),
        },
        error = servers.failed() => Some(error),
        ended = &mut front => Some(match ended {
            Ok(Ok(())) => anyhow!("the client listener ended"),
            Ok(Err(error)) => error.into(),
            Err(error) => error.into(),
        }),
    };
    if let Some(error) = ended {
        return Err(error);
    }
    let stopped = tokio::select! {
        stopped = stop(replica, &stop_clients, front) => stopped,
        name = signals.again() => bail!("{name} again: stopped at once"),
    };
    links.stop();
    // The lock outlives the socket's name: nobody else can have bound it meanwhile.
    let _ = std::fs::remove_file(config.data_dir.join(socket::NAME));
    stopped.map(|()| ExitCode::SUCCESS)
}

/// Bound, not served yet.
struct Listeners {
    clients: TcpListener,
    wire: Option<TcpListener>,
    peers: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

impl Listeners {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            clients: listen(&config.client_addr, "--client-addr").await?,
            wire: listen_if(config.wire_addr.as_ref(), "--wire-addr").await?,
            peers: listen_if(config.peer_addr(), "--peers").await?,
            metrics: listen_if(config.metrics_addr.as_ref(), "--metrics-addr").await?,
        })
    }

    /// The links to the others, which tell them where clients connect to this replica.
    fn links(&self, config: &Config) -> anyhow::Result<Links> {
        let client_addr = match &config.advertise_addr {
            Some(address) => address.to_string(),
            None => self.clients.local_addr()?.to_string(),
        };
        let wire_addr = match (&self.wire, &config.wire_advertise_addr) {
            (None, _) => String::new(),
            (Some(_), Some(address)) => address.to_string(),
            (Some(listener), None) => listener.local_addr()?.to_string(),
        };
        Ok(Links::with_wire(
            config.id,
            &config.peers,
            client_addr,
            wire_addr,
        ))
    }

    /// What standard output is told when all are served.
    fn sentence(&self, config: &Config) -> anyhow::Result<String> {
        let clients = self.clients.local_addr()?;
        let wire = match &self.wire {
            Some(wire) => format!(", wire clients on {}", wire.local_addr()?),
            None => String::new(),
        };
        let internal = match config.peer_addr() {
            Some(address) => format!("replicas on {address}"),
            None => "a cluster of one".to_owned(),
        };
        let id = config.id;
        let metrics = match &self.metrics {
            Some(metrics) => format!(", metrics on {}", metrics.local_addr()?),
            None => String::new(),
        };
        Ok(format!(
            "replica {id} ready: clients on {clients}{wire}, {internal}{metrics}"
        ))
    }
}

async fn listen_if(
    address: Option<&Address>,
    setting: &str,
) -> anyhow::Result<Option<TcpListener>> {
    match address {
        Some(address) => listen(address, setting).await.map(Some),
        None => Ok(None),
    }
}

fn surroundings(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Surroundings> {
    let clock = config.clock_file.as_deref().map(clock::of_file);
    Ok(Surroundings {
        clock: clock.transpose()?,
        free_bytes: Some(free_bytes(config)),
        metrics: Arc::clone(metrics),
    })
}

fn start_replica(
    config: &Config,
    surroundings: Surroundings,
    store: SledStore,
    recovered: Recovered,
    links: &Links,
) -> Result<(Handle, Runtime), StorageError> {
    let settings = config.replica();
    spawn_in(settings, surroundings, store, recovered, |inbox| {
        links.start(Arc::new(inbox));
        links.clone()
    })
}

/// sled writes on threads of its own, and whoever waits for one that panicked waits for ever: then
/// the process ends, as it does when the replica's own threads fail.
fn end_with_the_stores_threads() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        let thread = std::thread::current();
        let named = thread.name();
        let of_the_pool = named.is_some_and(|name| name.starts_with("sled-io"));
        // A thread that flushes does the pool's work itself.
        if of_the_pool || sled_locks::is_at_work() {
            // Not `eprintln`, which panics where the log's disk has failed too.
            let sentence = b"chat-server: the replica stops: a thread of its store panicked\n";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), sentence);
            std::process::exit(1);
        }
    }));
}

/// Looks at the file system, or, in a test, at a number in a file.
fn free_bytes(config: &Config) -> FreeBytes {
    let directory = config.data_dir.clone();
    match config.free_space_file.clone() {
        None => Box::new(move || chat::storage::free_bytes(&directory).ok()),
        Some(file) => Box::new(move || {
            let number = std::fs::read_to_string(&file).ok()?;
            number.trim().parse().ok()
        }),
    }
}

async fn listen(address: &Address, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address.as_str())
        .await
        .with_context(|| format!("{setting}: cannot listen on {address}"))
}

/// What both fronts call.
fn service_of(handle: Handle, links: &Links) -> anyhow::Result<Service<Handle>> {
    let addresses = links.clone();
    let settings = Settings {
        addresses: Arc::new(move |id| addresses.client_addr(id)),
        ..Settings::default()
    };
    Ok(Service::new(handle, settings)?)
}

/// Starts the client listeners: the chat API, health and reflection; and the wire protocol. They
/// end after `stopping` turns true and the open requests have ended.
fn serve_clients(
    (listener, wire): (TcpListener, Option<TcpListener>),
    service: Service<Handle>,
    links: &Links,
    metrics: &Metrics,
    stopping: watch::Receiver<bool>,
) -> JoinHandle<Result<(), client_api::ServeError>> {
    let wire_addresses = links.clone();
    let options = wire_api::Options {
        addresses: Arc::new(move |id| wire_addresses.wire_addr(id)),
        open: Arc::clone(&metrics.wire_connections),
        ..wire_api::Options::default()
    };
    let wire_stop = stopped(stopping.clone());
    let wire_service = service.clone();
    let wire = wire.map(|wire| wire_api::serve(wire, wire_service, options, wire_stop));
    let open = Arc::clone(&metrics.grpc_connections);
    let grpc = client_api::serve_counted(listener, service, open, stopped(stopping));
    tokio::spawn(async move {
        match wire {
            None => grpc.await,
            // The wire front ends only when it is told to, and never fails.
            Some(wire) => {
                let wire = async {
                    wire.await;
                    Ok(())
                };
                tokio::try_join!(grpc, wire).map(|_| ())
            }
        }
    })
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // Fails only if the sender is gone, which is a stop too.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// No new clients; then the role, the log and the state; then what clients are still open.
async fn stop(
    replica: Runtime,
    stop_clients: &watch::Sender<bool>,
    front: JoinHandle<Result<(), client_api::ServeError>>,
) -> anyhow::Result<()> {
    let (replica_wait, clients_wait) = limits::SHUT_DOWN_MS;
    stop_clients.send_replace(true);
    match timeout(Duration::from_millis(replica_wait), replica.shut_down()).await {
        Ok(Ok(())) => tracing::info!("everything is written"),
        Ok(Err(failure)) => return Err(failure.into()),
        Err(_) => bail!("the replica did not stop within {replica_wait} ms"),
    }
    // What is still open then is a client that does not take its answer.
    let _ = timeout(Duration::from_millis(clients_wait), front).await;
    Ok(())
}

/// Listeners that must not end while the replica runs.
#[derive(Default)]
struct Servers {
    tasks: tokio::task::JoinSet<anyhow::Error>,
}

impl Servers {
    fn start<F>(&mut self, name: &'static str, server: F)
    where
        F: Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
    {
        self.tasks.spawn(async move {
            match server.await {
                Ok(()) => anyhow!("the {name} listener ended"),
                Err(error) => {
                    anyhow::Error::new(error).context(format!("the {name} listener failed"))
                }
            }
        });
    }

    /// The operators' socket, until the sender says so.
    fn admin(
        &mut self,
        socket: UnixListener,
        operators: &Arc<admin::Admin>,
        test_accounts: Option<Service<Handle>>,
    ) -> watch::Sender<bool> {
        let (stop, mut stopping) = watch::channel(false);
        let stopped = async move {
            // An error is a dropped sender: stop as well.
            let _ = stopping.wait_for(|stop| *stop).await;
        };
        let operators = Arc::clone(operators);
        self.start(
            "admin",
            admin::serve(socket, operators, test_accounts, stopped),
        );
        stop
    }

    /// Whoever has come upon damage hears of it before the process begins again.
    async fn answer_operators(&mut self, stop: &watch::Sender<bool>) {
        let _ = stop.send(true);
        let _ = timeout(LAST_ANSWERS, self.failed()).await;
    }

    /// The metrics, if somebody wants them.
    fn export(
        &mut self,
        listener: Option<TcpListener>,
        (handle, links, metrics): (&Handle, &Links, &Arc<Metrics>),
    ) {
        let Some(listener) = listener else {
            return;
        };
        let source = exporter::Source {
            handle: handle.clone(),
            links: links.clone(),
            metrics: Arc::clone(metrics),
        };
        self.start("metrics", async {
            exporter::serve(listener, source).await;
            Ok(())
        });
    }

    async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(error)) => error,
            Some(Err(error)) => error.into(),
            None => std::future::pending().await,
        }
    }
}

/// What stops a replica.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    stdin_ended: watch::Receiver<bool>,
}

impl Signals {
    fn new(until_stdin_ends: bool) -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        let (tell, stdin_ended) = watch::channel(false);
        if until_stdin_ends {
            // A thread of its own: the executor would wait for the read when it ends.
            std::thread::Builder::new()
                .name("stdin".into())
                .spawn(move || {
                    // What is read means nothing; an error is an end, too.
                    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                    let _ = tell.send(true);
                })
                .context("cannot start a thread")?;
        }
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            stdin_ended,
        })
    }

    /// The next one that is not the first one's repetition.
    async fn again(&mut self) -> &'static str {
        let first = Instant::now();
        loop {
            let name = self.next().await;
            if first.elapsed() >= Duration::from_millis(limits::SIGNAL_REPEAT_MS) {
                return name;
            }
            tracing::info!("{name}: stopping already");
        }
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            Ok(()) = self.stdin_ended.changed() => "end of standard input",
        }
    }
}
