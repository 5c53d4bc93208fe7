//! The cluster that is measured: one of its own, or one that runs.

use super::proxy::Proxies;
use super::rules::{Rule, Rules};
use super::{Target, ports};
use anyhow::{Context, bail, ensure};
use chat::admin::description::Description;
use chat::proto::chat::WhoAmIRequest;
use chat::proto::chat::chat_service_client::ChatServiceClient;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tonic::Code;
use tonic::transport::Endpoint;

/// A cluster of its own forms and elects within a second; slow machines may take longer.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at whether it serves.
const START_POLL: Duration = Duration::from_millis(20);

/// Where the cluster is.
pub enum Where {
    /// To be started here.
    Own {
        /// How many.
        replicas: u16,
        /// Instead of the `chat-server` beside this executable.
        program: Option<PathBuf>,
        /// The links between replicas go through this process, so that they can be cut.
        proxied: bool,
    },
    /// Client addresses.
    At(Vec<String>),
    /// In a cluster.json.
    Described(PathBuf),
}

/// One replica, as far as it is known.
pub struct Member {
    /// Its id; by position if only addresses are known.
    pub id: u16,
    /// HOST:PORT.
    pub client_addr: String,
    /// HOST:PORT, if it is known and the replica speaks the wire protocol.
    pub wire_addr: Option<String>,
    /// While it runs on this machine.
    pub pid: Option<u32>,
    /// On this machine.
    pub data_dir: Option<PathBuf>,
    own: Option<Own>,
}

/// What is needed to start a replica, and the process.
struct Own {
    program: PathBuf,
    peers: String,
    log: PathBuf,
    child: Option<Child>,
}

impl Member {
    fn run(&mut self, has_peers: bool) -> anyhow::Result<()> {
        let own = self.own.as_mut().context("it was not started here")?;
        let log = File::options().create(true).append(true).open(&own.log)?;
        let mut command = Command::new(&own.program);
        // Settings of another server in the environment are not for these.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CHAT_") {
                command.env_remove(name);
            }
        }
        command.args(["run", "--test-cluster", "--id", &self.id.to_string()]);
        command.args(["--client-addr", &self.client_addr]);
        if let Some(wire_addr) = &self.wire_addr {
            command.args(["--wire-addr", wire_addr]);
        }
        if let Some(data_dir) = &self.data_dir {
            command.arg("--data-dir").arg(data_dir);
        }
        if has_peers {
            command.args(["--peers", &own.peers]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", own.program.display()))?;
        self.pid = Some(child.id());
        own.child = Some(child);
        Ok(())
    }

    /// SIGKILL, if it was started here and runs; then waits for its end.
    fn kill(&mut self) {
        let child = self.own.as_mut().and_then(|own| own.child.take());
        if let Some(mut child) = child {
            // An error means that it is dead already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
            self.pid = None;
        }
    }
}

/// The replicas. Those that were started here are killed, and their directory removed, on drop.
pub struct Cluster {
    members: Vec<Member>,
    own: Option<PathBuf>,
    links: Option<Links>,
}

/// Links through this process, for as long as this is kept.
struct Links {
    rules: Rules,
    proxies: Proxies,
}

impl Cluster {
    /// Finds or starts it.
    pub fn open(place: Where) -> anyhow::Result<Self> {
        match place {
            Where::Own {
                replicas,
                program,
                proxied,
            } => Self::start(replicas, program, proxied),
            Where::Described(file) => Self::described(&file),
            Where::At(addresses) => Ok(Self {
                members: (1..)
                    .zip(addresses)
                    .map(|(id, client_addr)| Member {
                        id,
                        client_addr,
                        wire_addr: None,
                        pid: None,
                        data_dir: None,
                        own: None,
                    })
                    .collect(),
                own: None,
                links: None,
            }),
        }
    }

    /// The replicas.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The client address of the primary, or of another replica.
    pub async fn address(&self, target: Target) -> anyhow::Result<String> {
        let until = Instant::now() + START_TIMEOUT;
        loop {
            for member in &self.members {
                let Some(primary) = primary_of(&member.client_addr).await else {
                    continue;
                };
                let other = self.members.iter().find(|m| m.client_addr != primary);
                return match target {
                    Target::Primary => Ok(primary),
                    Target::Secondary => Ok(other
                        .context("there is no other replica")?
                        .client_addr
                        .clone()),
                };
            }
            if Instant::now() >= until {
                bail!("no replica names a primary: does the cluster run?");
            }
            tokio::time::sleep(START_POLL).await;
        }
    }

    /// Where the replica that serves clients there speaks the wire protocol.
    pub fn wire_address(&self, client_addr: &str) -> Option<String> {
        let mut members = self.members.iter();
        let member = members.find(|member| member.client_addr == client_addr)?;
        member.wire_addr.clone()
    }

    fn member(&mut self, client_addr: &str) -> anyhow::Result<&mut Member> {
        let mut members = self.members.iter_mut();
        let member = members.find(|member| member.client_addr == client_addr);
        member.with_context(|| format!("no replica serves clients on {client_addr}"))
    }

    /// SIGKILL to the replica that serves clients there.
    pub fn kill(&mut self, client_addr: &str) -> anyhow::Result<()> {
        self.member(client_addr)?.kill();
        Ok(())
    }

    /// Starts it again.
    pub fn restart(&mut self, client_addr: &str) -> anyhow::Result<()> {
        let has_peers = self.members.len() > 1;
        self.member(client_addr)?.run(has_peers)
    }

    /// Sends it a signal, by the name that kill(1) knows.
    pub fn signal(&mut self, client_addr: &str, name: &str) -> anyhow::Result<()> {
        let pid = self.member(client_addr)?.pid.context("it does not run")?;
        let sent = Command::new("kill")
            .args(["-s", name, &pid.to_string()])
            .status();
        let sent = sent.context("cannot run kill(1)")?;
        ensure!(sent.success(), "kill(1) failed");
        Ok(())
    }

    /// Nothing passes between this replica and the others from now on.
    pub fn cut_off(&mut self, client_addr: &str) -> anyhow::Result<()> {
        let id = self.member(client_addr)?.id;
        let links = self.links.as_ref().context("its links are not proxied")?;
        let cut = Rule {
            cut: true,
            ..Rule::default()
        };
        for other in self.members.iter().map(|member| member.id) {
            links.rules.add(id, other, cut);
            links.rules.add(other, id, cut);
        }
        Ok(())
    }

    /// Everything passes again.
    pub fn heal(&self) {
        if let Some(links) = &self.links {
            links.rules.clear();
        }
    }

    /// Waits until this replica answers and knows the primary again.
    pub async fn wait_linked(&self, client_addr: &str) -> anyhow::Result<()> {
        let until = Instant::now() + START_TIMEOUT;
        while primary_of(client_addr).await.is_none() {
            ensure!(Instant::now() < until, "{client_addr} does not come back");
            tokio::time::sleep(START_POLL).await;
        }
        Ok(())
    }

    fn described(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let description = Description::parse(&text)
            .with_context(|| format!("{} is not a cluster's description", file.display()))?;
        let members = description.replicas.into_iter();
        let members = members
            .map(|replica| Member {
                id: replica.id,
                client_addr: replica.client_addr,
                wire_addr: replica.wire_addr,
                pid: replica.pid,
                data_dir: replica.data_dir,
                own: None,
            })
            .collect();
        Ok(Self {
            members,
            own: None,
            links: None,
        })
    }

    fn start(replicas: u16, program: Option<PathBuf>, proxied: bool) -> anyhow::Result<Self> {
        let program = match program {
            Some(program) => program,
            None => std::env::current_exe()?.with_file_name("chat-server"),
        };
        let directory = std::env::temp_dir().join(format!("chat-bench-{}", std::process::id()));
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let mut cluster = Self {
            members: Vec::new(),
            own: Some(directory.clone()),
            links: None,
        };
        if proxied {
            let rules = Rules::default();
            let proxies = Proxies::new(replicas, &rules)?;
            cluster.links = Some(Links { rules, proxies });
        }
        let ports = ports::free(3 * usize::from(replicas)).context("cannot find free ports")?;
        let peers: Vec<String> = ports
            .chunks(3)
            .map(|ports| format!("127.0.0.1:{}", ports[1]))
            .collect();
        for (id, ports) in (1..=replicas).zip(ports.chunks(3)) {
            let links = cluster.links.as_ref();
            let mut member = Member {
                id,
                client_addr: links.map_or_else(
                    || format!("127.0.0.1:{}", ports[0]),
                    |links| links.proxies.client_address(id),
                ),
                wire_addr: Some(format!("127.0.0.1:{}", ports[2])),
                pid: None,
                data_dir: Some(directory.join(format!("replica-{id}"))),
                own: Some(Own {
                    program: program.clone(),
                    peers: cluster.peers_of(id, &peers),
                    log: directory.join(format!("replica-{id}.log")),
                    child: None,
                }),
            };
            member.run(replicas > 1)?;
            cluster.members.push(member);
        }
        Ok(cluster)
    }

    /// `--peers` of this replica: the others where it finds them.
    fn peers_of(&self, id: u16, addresses: &[String]) -> String {
        let peers = (1..).zip(addresses).map(|(other, address)| {
            let proxied = self.links.as_ref();
            let address = proxied.map_or_else(
                || address.clone(),
                |links| links.proxies.peer_address(id, other),
            );
            format!("{other}={address}")
        });
        peers.collect::<Vec<_>>().join(",")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            member.kill();
        }
        if let Some(directory) = &self.own {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// Every answer names the primary, a refusal too.
async fn primary_of(address: &str) -> Option<String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    let mut stub = ChatServiceClient::new(endpoint.connect().await.ok()?);
    let metadata = match stub.who_am_i(WhoAmIRequest {}).await {
        Ok(answer) => answer.metadata().clone(),
        Err(status) if status.code() == Code::Unavailable => return None,
        Err(status) => status.metadata().clone(),
    };
    Some(metadata.get("chat-primary")?.to_str().ok()?.to_owned())
}
