//! The replicas: real processes, each on a machine and a disk of its own.

use crate::disk::Disk;
use crate::network::{Network, Node, run};
use anyhow::{Context as _, Result};
use chat::admin::client::AdminClient;
use chat::proto::admin::ReplicaStatus;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// Longest wait for one answer on an admin socket.
const STATUS_WAIT: Duration = Duration::from_secs(2);
/// Life of a token: longer than any run with any clock.
const TOKEN_IDLE: &str = "720h";
/// A damage that nobody reads is found so soon.
const SCRUB_INTERVAL: &str = "10s";
/// Limits so low that logs are cut and stores rewritten within minutes.
const LOW_LIMITS: [&str; 6] = [
    "--keep-entries",
    "2000",
    "--rewrite-mib",
    "1",
    "--rewrite-age",
    "5s",
];

/// All replicas. Those that run are killed when it is dropped.
pub struct Replicas {
    program: PathBuf,
    directory: PathBuf,
    members: BTreeMap<Node, Member>,
    /// They are started with [`LOW_LIMITS`].
    low_limits: bool,
    /// Dropped after the processes.
    network: Network,
}

struct Member {
    disk: Disk,
    child: Option<Child>,
    paused: bool,
}

/// What is wrong with a wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock {
    /// It shows so many milliseconds more than the machine's.
    pub offset_ms: i64,
    /// It stands still.
    pub stands: bool,
}

/// How a replica is.
#[derive(Clone, Debug)]
pub enum Health {
    /// It answers.
    Answers(Box<ReplicaStatus>),
    /// It runs and does not answer.
    Silent,
    /// No process.
    Dead,
}

impl Replicas {
    /// Disks and addresses; starts nothing. The second value says why disks cannot be full, if
    /// they cannot.
    pub fn new(
        program: PathBuf,
        directory: &Path,
        replicas: u16,
        network: Network,
    ) -> Result<(Self, Option<String>)> {
        let mut members = BTreeMap::new();
        let mut why = None;
        for id in 1..=replicas {
            let home = directory.join(format!("replica-{id}"));
            let disk = match Disk::mounted(&home) {
                Ok(disk) => disk,
                Err(error) => {
                    why = Some(format!("{error:#}"));
                    Disk::plain(&home)?
                }
            };
            let member = Member {
                disk,
                child: None,
                paused: false,
            };
            members.insert(id, member);
        }
        let replicas = Self {
            program,
            directory: directory.to_owned(),
            members,
            low_limits: true,
            network,
        };
        for id in replicas.ids() {
            replicas.set_clock(id, WallClock::default())?;
        }
        Ok((replicas, why))
    }

    /// They keep the server's own limits.
    pub fn keep_default_limits(&mut self) {
        self.low_limits = false;
    }

    /// The network that they are on.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Ids, ascending.
    pub fn ids(&self) -> Vec<Node> {
        self.members.keys().copied().collect()
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        self.members.len() as u16
    }

    /// Where clients find them, in the order of the ids.
    pub fn client_addresses(&self) -> Vec<String> {
        let ids = self.members.keys();
        ids.map(|id| self.network.client_address(*id)).collect()
    }

    /// The replica's disk.
    pub fn disk(&self, id: Node) -> Result<&Disk> {
        Ok(&self.member(id)?.disk)
    }

    /// In the order of the ids.
    pub fn data_directories(&self) -> Vec<PathBuf> {
        let members = self.members.values();
        members.map(|member| member.disk.data_dir()).collect()
    }

    /// Starts a replica that does not run; its output goes to its log file.
    pub fn start(&mut self, id: Node) -> Result<()> {
        let peers = self.network.peers(id, self.count());
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(id))
            .context("cannot write a log file")?;
        let mut command = self.network.command(id, &self.program);
        let clock_file = self.clock_file(id);
        let member = self.members.get_mut(&id).context("no such replica")?;
        if member.child.is_some() {
            return Ok(());
        }
        // Settings of another server in the environment are not for these.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CHAT_") {
                command.env_remove(name);
            }
        }
        command
            .args(["run", "--id", &id.to_string(), "--peers", &peers])
            .args(["--client-addr", &self.network.client_address(id)])
            .args(["--token-idle", TOKEN_IDLE])
            .args(["--scrub-interval", SCRUB_INTERVAL])
            .args(LOW_LIMITS.iter().filter(|_| self.low_limits))
            .arg("--data-dir")
            .arg(member.disk.data_dir())
            .arg("--clock-file")
            .arg(clock_file);
        let child = command
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share a log file")?)
            .stderr(log)
            // A Ctrl-C in the terminal is for this tool, which then ends its children itself.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start replica {id}"))?;
        member.child = Some(child);
        member.paused = false;
        Ok(())
    }

    /// SIGKILL to all of these, one right after the other. [`Self::kill`] waits for their ends.
    pub fn strike(&mut self, ids: &[Node]) {
        for (id, member) in &mut self.members {
            if let Some(child) = member.child.as_mut().filter(|_| ids.contains(id)) {
                // It may have ended by itself a moment ago.
                let _ = child.kill();
            }
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self, id: Node) -> Result<()> {
        let member = self.members.get_mut(&id).context("no such replica")?;
        if let Some(mut child) = member.child.take() {
            // It may have ended by itself a moment ago.
            let _ = child.kill();
            child.wait().context("cannot wait for a killed replica")?;
        }
        member.paused = false;
        Ok(())
    }

    /// SIGSTOP.
    pub fn pause(&mut self, id: Node) -> Result<()> {
        self.signal(id, "-STOP", true)
    }

    /// SIGCONT.
    pub fn go_on(&mut self, id: Node) -> Result<()> {
        self.signal(id, "-CONT", false)
    }

    fn signal(&mut self, id: Node, signal: &str, paused: bool) -> Result<()> {
        let member = self.members.get_mut(&id).context("no such replica")?;
        if let Some(child) = &member.child {
            run("kill", &[signal, &child.id().to_string()])?;
            member.paused = paused;
        }
        Ok(())
    }

    /// Its wall clock is wrong like this: at once if it runs, and from its next start on.
    pub fn set_clock(&self, id: Node, clock: WallClock) -> Result<()> {
        let stands = if clock.stands { " frozen" } else { "" };
        let file = self.clock_file(id);
        let next = file.with_extension("next");
        std::fs::write(&next, format!("{}{stands}\n", clock.offset_ms))
            .and_then(|()| std::fs::rename(&next, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    fn clock_file(&self, id: Node) -> PathBuf {
        self.directory.join(format!("replica-{id}.clock"))
    }

    /// Those that ended by themselves since the last call, each with what its log said last.
    pub fn ended(&mut self) -> Vec<(Node, String)> {
        let mut ended = Vec::new();
        for (id, member) in &mut self.members {
            if let Some(child) = &mut member.child
                && let Ok(Some(status)) = child.try_wait()
            {
                member.child = None;
                ended.push((*id, status.to_string()));
            }
        }
        let with_log = ended.into_iter().map(|(id, status)| {
            let line = last_line(&self.log(id));
            (id, format!("{status}: {line}"))
        });
        with_log.collect()
    }

    /// Asks a replica through its admin socket, which no fault of the network touches.
    pub async fn health(&self, id: Node) -> Health {
        let Ok(member) = self.member(id) else {
            return Health::Dead;
        };
        if member.child.is_none() {
            return Health::Dead;
        }
        if member.paused {
            return Health::Silent;
        }
        let data_dir = member.disk.data_dir();
        let asked = tokio::time::timeout(STATUS_WAIT, async {
            let mut client = AdminClient::connect(&data_dir).await.ok()??;
            client.local_status().await.ok()
        });
        match asked.await {
            Ok(Some(status)) => Health::Answers(Box::new(status)),
            _ => Health::Silent,
        }
    }

    /// All of them at once, in the order of the ids.
    pub async fn all_health(&self) -> Vec<(Node, Health)> {
        let mut all = Vec::new();
        for id in self.ids() {
            all.push((id, self.health(id).await));
        }
        all
    }

    /// The replica's log file.
    pub fn log(&self, id: Node) -> PathBuf {
        self.directory.join(format!("replica-{id}.log"))
    }

    fn member(&self, id: Node) -> Result<&Member> {
        self.members.get(&id).context("no such replica")
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        for member in self.members.values_mut() {
            if let Some(mut child) = member.child.take() {
                // An error means that it is dead already, which is what is wanted.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// The last line of a file that says something, without its time.
fn last_line(path: &Path) -> String {
    /// Bytes at the end of the log that are looked at.
    const TAIL_BYTES: u64 = 16 * 1024;
    use std::io::{Read as _, Seek as _, SeekFrom};
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let from = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    line.unwrap_or("no output").trim().to_owned()
}
