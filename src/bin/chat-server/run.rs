//! `chat-server run`: one replica, from its data directory to its listeners and back.
//!
//! ORDER at the start: the data directory and its lock BEFORE any listener, so that a second
//! process on the same directory hears about the directory; listeners bound BEFORE the replica
//! runs, served after. At the end: no new clients, THEN the primary role handed over and
//! everything written, THEN the links closed.

use anyhow::{Context, anyhow, bail};
use chat::admin::socket;
use chat::config::{Address, Config, Flags};
use chat::grpc::{admin, chat as client_api, peer};
use chat::limits;
use chat::net::Links;
use chat::replica::Handle;
use chat::replica::runtime::{Runtime, spawn};
use chat::service::{Service, Settings};
use chat::storage::{OpenOptions, Opened, Recovered, SledStore, open_directory};
use chat::types::Incarnation;
use std::future::Future;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing_subscriber::EnvFilter;

/// Runs one replica until it is told to stop or fails.
pub fn main(flags: &Flags) -> anyhow::Result<ExitCode> {
    let config = Config::load(flags)?;
    start_log(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let (store, recovered) = open_store(&config)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the executor")?
        .block_on(run(config, store, recovered))?;
    Ok(ExitCode::SUCCESS)
}

fn start_log(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("--log: `{filter}` is no filter: expected a level or module=level,…"))?;
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
    };
    match open_directory(&config.data_dir, &options)? {
        Opened::Damaged { sentence, .. } => bail!(sentence),
        Opened::Good { store, recovered } => {
            if let (Some((_, sentence)), true) = (recovered.damage.first(), config.peers.len() < 2) {
                bail!(
                    "the store in {} is damaged and there is no other replica to repair it from \
                     ({sentence}). Nothing was changed. Next: `chat-admin verify --data-dir` shows \
                     everything that is wrong; restore the directory from a backup",
                    config.data_dir.display()
                );
            }
            Ok((store, recovered))
        }
    }
}

async fn run(config: Config, store: SledStore, recovered: Recovered) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let clients = listen(&config.client_addr, "--client-addr").await?;
    let client_addr = clients.local_addr()?.to_string();
    let peers = match config.peer_addr() {
        Some(address) => Some(listen(address, "--peers").await?),
        None => None,
    };
    let peer_addr = config.peer_addr().map_or_else(String::new, Address::to_string);
    let advertised = config.advertise_addr.as_ref();
    let advertised = advertised.map_or_else(|| client_addr.clone(), Address::to_string);
    let links = Links::new(config.id, &config.peers, advertised);

    let (handle, replica) = spawn(config.replica(), store, recovered, |inbox| {
        links.start(Arc::new(inbox));
        links.clone()
    })?;
    let operators = admin::Admin::new(handle.clone(), links.clone(), peer_addr.clone());
    let operators = Arc::new(operators);
    let socket = socket::bind(&config.data_dir).context("cannot create the admin socket")?;
    let mut servers = Servers::default();
    servers.start("admin", admin::serve(socket, Arc::clone(&operators)));
    if let Some(listener) = peers {
        servers.start("peer", peer::serve(listener, links.clone(), Some(operators)));
    }
    let (stop_clients, stopping) = watch::channel(false);
    let mut front = serve_clients(clients, handle, &links, stopping)?;

    let internal = match peer_addr.as_str() {
        "" => "a cluster of one".to_owned(),
        address => format!("replicas on {address}"),
    };
    println!("replica {} ready: clients on {client_addr}, {internal}", config.id);
    let ended = tokio::select! {
        name = signals.next() => {
            tracing::info!("{name}: stopping");
            None
        }
        failure = replica.failed() => Some(anyhow::Error::new(failure)),
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
        name = signals.next() => bail!("{name} again: stopped at once"),
    };
    links.stop();
    // The lock outlives the socket's name: nobody else can have bound it meanwhile.
    let _ = std::fs::remove_file(config.data_dir.join(socket::NAME));
    stopped
}

async fn listen(address: &Address, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address.as_str())
        .await
        .with_context(|| format!("{setting}: cannot listen on {address}"))
}

/// Starts the client listener: the chat API, health and reflection. It ends after `stopping` turns
/// true and the open requests have ended.
fn serve_clients(
    listener: TcpListener,
    handle: Handle,
    links: &Links,
    mut stopping: watch::Receiver<bool>,
) -> anyhow::Result<JoinHandle<Result<(), client_api::ServeError>>> {
    let links = links.clone();
    let settings = Settings {
        addresses: Arc::new(move |id| links.client_addr(id)),
        ..Settings::default()
    };
    let service = Service::new(handle, settings)?;
    Ok(tokio::spawn(client_api::serve(listener, service, async move {
        // Fails only if the sender is gone, which is a stop too.
        let _ = stopping.wait_for(|stop| *stop).await;
    })))
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
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
