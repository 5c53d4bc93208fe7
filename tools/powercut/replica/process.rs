//! The process: `chat-server run` on the disk, and `chat-admin verify` of it.

use crate::bytes_written;
use crate::disk::Disk;
use crate::preload::Preload;
use crate::{ports, programs};
use anyhow::{Context as _, bail};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// A replica alone in its cluster serves within a second; slow machines may take longer.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Makes every sync a lie.
const WITHOUT_SYNC: &str = "
int fsync(int file) { return 0; }
int fdatasync(int file) { return 0; }
int sync_file_range(int file, long from, long bytes, unsigned flags) { return 0; }
";

/// The programs.
pub struct Programs {
    server: PathBuf,
    admin: PathBuf,
    /// Preloaded, if its syncs are to do nothing.
    preload: Option<Preload>,
}

impl Programs {
    /// The programs beside this one, or a server that is named.
    pub fn find(server: Option<&Path>, without_sync: bool) -> anyhow::Result<Self> {
        let (server, admin) = if let Some(server) = server {
            if !server.is_file() {
                bail!("--server: {} is not there", server.display());
            }
            let [admin] = programs::beside(["chat-admin"])?;
            (server.to_owned(), admin)
        } else {
            programs::beside(["chat-server", "chat-admin"])?.into()
        };
        let preload = without_sync
            .then(|| Preload::build(WITHOUT_SYNC))
            .transpose()?;
        Ok(Self {
            server,
            admin,
            preload,
        })
    }

    /// Starts a replica; that it does not serve is an error.
    pub async fn start(&self, disk: &Disk, rewrite_mib: u64) -> anyhow::Result<Replica> {
        match self.try_start(disk, rewrite_mib).await? {
            Ok(replica) => Ok(replica),
            Err(said) => bail!("the replica does not start: {said}"),
        }
    }

    /// Starts a replica. If it ends by itself instead: what it said last.
    pub async fn try_start(
        &self,
        disk: &Disk,
        rewrite_mib: u64,
    ) -> anyhow::Result<Result<Replica, String>> {
        let ports = ports::free(1)?;
        let client_addr = format!("127.0.0.1:{}", ports[0]);
        let log = disk.scratch().join("log");
        let open = || OpenOptions::new().create(true).append(true).open(&log);
        let mut command = tokio::process::Command::new(&self.server);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CHAT_") {
                command.env_remove(name);
            }
        }
        if let Some(preload) = &self.preload {
            command.env("LD_PRELOAD", preload.library());
        }
        let age = ["--rewrite-age", "200ms"];
        let age = age.iter().filter(|_| rewrite_mib == 1);
        let mut child = command
            .arg("run")
            .arg("--data-dir")
            .arg(disk.mount_point().join("data"))
            .args(["--client-addr", &client_addr, "--initialize-wait", "1ms"])
            .args(["--min-free-mib", "0", "--keep-entries", "1000"])
            .args(["--rewrite-mib", &rewrite_mib.to_string()])
            .args(age)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(open()?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.server.display()))?;
        let output = child.stdout.take().context("it has no output")?;
        let mut lines = BufReader::new(output).lines();
        let ready = tokio::time::timeout(START_PATIENCE, lines.next_line()).await;
        let ready = ready.context("the replica is not ready within a minute")??;
        if ready.is_some() {
            return Ok(Ok(Replica { child, client_addr }));
        }
        child.wait().await?;
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let last = said.lines().last().unwrap_or("it said nothing");
        Ok(Err(last.to_owned()))
    }

    /// `chat-admin verify` of the running replica; the findings if there are any.
    pub fn verify(&self, disk: &Disk) -> anyhow::Result<Result<(), String>> {
        let output = Command::new(&self.admin)
            .arg("verify")
            .arg("--data-dir")
            .arg(disk.mount_point().join("data"))
            .output()
            .context("cannot run chat-admin")?;
        if output.status.success() {
            return Ok(Ok(()));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Err(format!("chat-admin verify: {}{errors}", text.trim())))
    }
}

/// A running replica; killed when it is dropped.
pub struct Replica {
    child: tokio::process::Child,
    /// HOST:PORT.
    pub client_addr: String,
}

impl Replica {
    /// To files, since it was started.
    pub fn bytes_written(&self) -> u64 {
        self.child.id().map_or(0, bytes_written)
    }

    /// SIGKILL, without a wait.
    pub fn kill(&mut self) {
        // It may have ended by itself when its disk went.
        let _ = self.child.start_kill();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
        // The file system cannot be unmounted before the process is gone.
        while matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
