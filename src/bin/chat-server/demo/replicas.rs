//! The replicas: real child processes of this very executable.

use super::{ports, shell};
use anyhow::{Context, Result, anyhow};
use chat::admin::description::{Described, Description};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// All replicas of the demo. Kills those that run when dropped.
pub struct Replicas {
    directory: PathBuf,
    peers: String,
    members: BTreeMap<u16, Replica>,
}

struct Replica {
    client_addr: String,
    peer_addr: String,
    wire_addr: String,
    data_dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Replicas {
    /// Chooses ports and directories; starts nothing.
    pub fn new(directory: &Path, count: u16) -> Result<Self> {
        let ports = ports::free(3 * usize::from(count)).context("cannot find free ports")?;
        let members: BTreeMap<u16, Replica> = (1..=count)
            .zip(ports.chunks(3))
            .map(|(id, ports)| {
                let replica = Replica {
                    client_addr: format!("127.0.0.1:{}", ports[0]),
                    peer_addr: format!("127.0.0.1:{}", ports[1]),
                    wire_addr: format!("127.0.0.1:{}", ports[2]),
                    data_dir: directory.join(format!("replica-{id}")),
                    log: directory.join(format!("replica-{id}.log")),
                    child: None,
                };
                (id, replica)
            })
            .collect();
        let peers: Vec<String> = members
            .iter()
            .map(|(id, replica)| format!("{id}={}", replica.peer_addr))
            .collect();
        Ok(Self {
            directory: directory.to_owned(),
            peers: peers.join(","),
            members,
        })
    }

    /// Ids, ascending.
    pub fn ids(&self) -> Vec<u16> {
        self.members.keys().copied().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Where clients connect.
    pub fn client_addresses(&self) -> Vec<String> {
        self.members
            .values()
            .map(|replica| replica.client_addr.clone())
            .collect()
    }

    /// Where clients of the wire protocol connect.
    pub fn wire_addresses(&self) -> Vec<String> {
        self.members
            .values()
            .map(|replica| replica.wire_addr.clone())
            .collect()
    }

    /// Where clients of this replica connect.
    pub fn client_address(&self, id: u16) -> Result<String> {
        let replica = self.members.get(&id).context("no such replica")?;
        Ok(replica.client_addr.clone())
    }

    /// Which replica listens there.
    pub fn id_of_client_address(&self, address: &str) -> Option<u16> {
        self.members
            .iter()
            .find(|(_, replica)| replica.client_addr == address)
            .map(|(id, _)| *id)
    }

    /// In the order of the ids.
    pub fn data_directories(&self) -> Vec<PathBuf> {
        self.members
            .values()
            .map(|replica| replica.data_dir.clone())
            .collect()
    }

    /// The arguments of this replica's command line.
    fn arguments(&self, id: u16) -> Result<Vec<String>> {
        let replica = self.members.get(&id).context("no such replica")?;
        Ok(vec![
            "run".into(),
            "--id".into(),
            id.to_string(),
            "--data-dir".into(),
            replica.data_dir.display().to_string(),
            "--peers".into(),
            self.peers.clone(),
            "--client-addr".into(),
            replica.client_addr.clone(),
            "--wire-addr".into(),
            replica.wire_addr.clone(),
            "--test-cluster".into(),
        ])
    }

    /// What to paste to start this replica again.
    pub fn command_line(&self, id: u16) -> Result<String> {
        let program = std::env::current_exe().context("cannot find this executable")?;
        let mut words = vec![shell::word(&program.to_string_lossy()).into_owned()];
        let arguments = self.arguments(id)?;
        words.extend(arguments.iter().map(|text| shell::word(text).into_owned()));
        Ok(words.join(" "))
    }

    /// Starts a replica; its output goes to its log file.
    pub fn start(&mut self, id: u16) -> Result<()> {
        let arguments = self.arguments(id)?;
        let replica = self.members.get_mut(&id).context("no such replica")?;
        let log = open_log(&replica.log)?;
        let errors = log.try_clone().context("cannot share a log file")?;
        let mut command =
            Command::new(std::env::current_exe().context("cannot find this executable")?);
        // Settings of another server in the environment are not for these.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CHAT_") {
                command.env_remove(name);
            }
        }
        let child = command
            .args(arguments)
            .env("NO_COLOR", "1")
            // Held open while this process lives: a replica never outlives its demo.
            .arg("--until-stdin-ends")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            // A Ctrl-C in the terminal is for the demo, which then ends its children itself.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start replica {id}"))?;
        replica.child = Some(child);
        Ok(())
    }

    /// SIGKILL to all of these, one right after the other; then waits for them to be gone.
    pub fn kill(&mut self, ids: &[u16]) -> Result<()> {
        let mut dying = Vec::new();
        for id in ids {
            let replica = self.members.get_mut(id).context("no such replica")?;
            let mut child = replica
                .child
                .take()
                .with_context(|| format!("replica {id} does not run"))?;
            child
                .kill()
                .with_context(|| format!("cannot kill replica {id}"))?;
            dying.push(child);
        }
        for mut child in dying {
            child.wait().context("cannot wait for a killed replica")?;
        }
        Ok(())
    }

    /// A replica that should run and does not, with the end of its log.
    pub fn dead(&mut self) -> Option<anyhow::Error> {
        for (id, replica) in &mut self.members {
            let Some(child) = &mut replica.child else {
                continue;
            };
            if let Ok(Some(status)) = child.try_wait() {
                replica.child = None;
                let tail = tail_of(&replica.log);
                return Some(anyhow!("replica {id} ended by itself ({status}):\n{tail}"));
            }
        }
        None
    }

    /// Waits until one that should run does not.
    pub async fn first_to_die(&mut self) -> anyhow::Error {
        loop {
            if let Some(dead) = self.dead() {
                return dead;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ids of those that ended since the last call, by whatever hand.
    pub fn ended(&mut self) -> Vec<u16> {
        let mut ended = Vec::new();
        for (id, replica) in &mut self.members {
            if let Some(child) = &mut replica.child
                && !matches!(child.try_wait(), Ok(None))
            {
                replica.child = None;
                ended.push(*id);
            }
        }
        ended
    }

    /// Process id, while it runs.
    pub fn pid(&self, id: u16) -> Option<u32> {
        let replica = self.members.get(&id)?;
        replica.child.as_ref().map(Child::id)
    }

    /// Writes `cluster.json`, whole or not at all.
    pub fn write_description(&self) -> Result<PathBuf> {
        let replicas = self.members.iter().map(|(id, replica)| Described {
            id: *id,
            pid: replica.child.as_ref().map(Child::id),
            client_addr: replica.client_addr.clone(),
            peer_addr: Some(replica.peer_addr.clone()),
            wire_addr: Some(replica.wire_addr.clone()),
            data_dir: Some(replica.data_dir.clone()),
        });
        let replicas = replicas.collect();
        let text = Description { replicas }.to_text()?;
        let path = self.directory.join("cluster.json");
        let new = self.directory.join("cluster.json.new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        for replica in self.members.values_mut() {
            if let Some(mut child) = replica.child.take() {
                // An error means that it is dead already, which is what is wanted.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// "replica 1", "replicas 1 and 2".
pub fn names(ids: &[u16]) -> String {
    let list: Vec<String> = ids.iter().map(u16::to_string).collect();
    match ids {
        [id] => format!("replica {id}"),
        _ => format!("replicas {}", list.join(" and ")),
    }
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn tail_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
