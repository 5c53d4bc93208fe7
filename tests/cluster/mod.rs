//! Real replicas in temporary directories, for tests: start, kill, pause, wipe, compare.
//!
//! Nothing sleeps to be on the safe side: what a test waits for is asked for until it is so, with
//! a deadline. Only own children are killed, by their handles.

#[path = "../../src/bin/chat-server/demo/ports.rs"]
mod ports;

mod history;
pub use history::{Load, Sent, check_inbox, read_inbox};

use chat::client::{
    Class, Client, ClientError, Cluster, Event, Listen, NewAccount, Options, Protocol,
};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// What the server says in its log; the only place that knows the wording.
pub mod says {
    /// A newer copy was installed at boot.
    pub const ADOPTED: &str = "adopted";
    /// A replica has raised its term by a ballot of its own.
    pub const ELECTION: &str = "ballot submitted";
    /// A replica holds a majority of grants.
    pub const ELECTED: &str = "elected by a majority";
    /// A peer is of another cluster.
    pub const REFUSES: &str = "refused a message of replica";
}

/// The longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(25);
/// For requests that are expected to fail.
pub const SHORT: Duration = Duration::from_secs(3);

/// A cluster of real processes.
pub struct TestCluster {
    directory: tempfile::TempDir,
    flags: Vec<String>,
    members: BTreeMap<u16, Member>,
    peers: String,
    protocol: Protocol,
}

struct Member {
    client_addr: String,
    wire_addr: String,
    child: Option<Child>,
}

impl TestCluster {
    /// So many replicas, started and ready, with default settings.
    pub async fn start(count: u16) -> Self {
        Self::start_with(count, &[]).await
    }

    /// The same with more flags for `chat-server run`.
    pub async fn start_with(count: u16, flags: &[&str]) -> Self {
        Self::start_on(Protocol::Grpc, count, flags).await
    }

    /// The same with handles that speak this protocol.
    pub async fn start_on(protocol: Protocol, count: u16, flags: &[&str]) -> Self {
        let mut cluster = Self::prepare(count, flags);
        cluster.protocol = protocol;
        for id in 1..=count {
            cluster.spawn(id);
        }
        // A request that no account is needed for, and that only a primary can answer: it fails
        // for good, and that is the sign.
        let handle = cluster.handle(PATIENCE);
        let error = Client::login(&handle, "nobody", "no password", "").await;
        let error = error.err().expect("nobody has no account");
        assert_eq!(
            error.reason,
            "BAD_CREDENTIALS",
            "{error}\n{}",
            cluster.logs()
        );
        cluster
    }

    /// Directories and ports only.
    pub fn prepare(count: u16, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ports = ports::free(3 * usize::from(count)).unwrap();
        let mut peers = Vec::new();
        let mut members = BTreeMap::new();
        for (id, ports) in (1..=count).zip(ports.chunks(3)) {
            peers.push(format!("{id}=127.0.0.1:{}", ports[1]));
            let client_addr = format!("127.0.0.1:{}", ports[0]);
            let wire_addr = format!("127.0.0.1:{}", ports[2]);
            let member = Member {
                client_addr,
                wire_addr,
                child: None,
            };
            members.insert(id, member);
        }
        Self {
            directory,
            flags: flags.iter().map(ToString::to_string).collect(),
            members,
            peers: peers.join(","),
            protocol: Protocol::Grpc,
        }
    }

    /// Starts a replica that does not run.
    pub fn spawn(&mut self, id: u16) {
        self.spawn_as(id, |_| {});
    }

    /// The same with a changed command.
    pub fn spawn_as(&mut self, id: u16, change: impl FnOnce(&mut Command)) {
        let mut command = self.command(id);
        change(&mut command);
        let child = command
            .stdout(self.open_log(id))
            .stderr(self.open_log(id))
            .spawn()
            .unwrap();
        let member = self.members.get_mut(&id).unwrap();
        assert!(member.child.is_none(), "replica {id} runs already");
        member.child = Some(child);
    }

    /// The command that starts this replica; without `--peers` for a cluster of one.
    pub fn command(&self, id: u16) -> Command {
        let mut command = program(env!("CARGO_BIN_EXE_chat-server"));
        command.arg("run");
        command.args(["--id", &id.to_string()]);
        command.arg("--data-dir").arg(self.data_dir(id));
        command.args(["--client-addr", &self.members[&id].client_addr]);
        command.args(["--wire-addr", &self.members[&id].wire_addr]);
        if self.members.len() > 1 {
            command.args(["--peers", &self.peers]);
        }
        command.args(&self.flags);
        command
    }

    /// SIGKILL to all of these at once; waits until they are gone.
    pub fn kill(&mut self, ids: &[u16]) {
        let mut dying = Vec::new();
        for id in ids {
            let child = self.members.get_mut(id).unwrap().child.take();
            let mut child = child.unwrap_or_else(|| panic!("replica {id} does not run"));
            child.kill().unwrap();
            dying.push(child);
        }
        for mut child in dying {
            child.wait().unwrap();
        }
    }

    /// SIGTERM; returns how the process ended.
    pub async fn terminate(&mut self, id: u16) -> ExitStatus {
        self.signal(id, "TERM");
        self.end(id).await
    }

    /// Waits until a replica has ended by itself; returns how.
    pub async fn end(&mut self, id: u16) -> ExitStatus {
        let member = self.members.get_mut(&id).unwrap();
        let child = member.child.as_mut().unwrap();
        let status = eventually("the end of the process", || {
            let status = child.try_wait().unwrap();
            std::future::ready(status.ok_or("still runs"))
        });
        let status = status.await;
        member.child = None;
        status
    }

    /// SIGSTOP: the process is there, and silent.
    pub fn pause(&self, id: u16) {
        self.signal(id, "STOP");
    }

    /// SIGCONT.
    pub fn resume(&self, id: u16) {
        self.signal(id, "CONT");
    }

    /// Empties the data directory of a replica that does not run.
    pub fn wipe(&self, id: u16) {
        assert!(self.members[&id].child.is_none(), "replica {id} runs");
        std::fs::remove_dir_all(self.data_dir(id)).unwrap();
    }

    /// Where a replica keeps its data.
    pub fn data_dir(&self, id: u16) -> PathBuf {
        self.directory.path().join(format!("replica-{id}"))
    }

    /// Where clients of a replica connect.
    pub fn client_addr(&self, id: u16) -> &str {
        &self.members[&id].client_addr
    }

    /// How the handles speak to it.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Where its clients of the wire protocol connect.
    pub fn wire_addr(&self, id: u16) -> &str {
        &self.members[&id].wire_addr
    }

    /// Where handles connect.
    fn address(&self, id: u16) -> &str {
        match self.protocol {
            Protocol::Grpc => self.client_addr(id),
            Protocol::Wire => self.wire_addr(id),
        }
    }

    /// The process of a replica that runs.
    pub fn pid(&self, id: u16) -> u32 {
        self.members[&id].child.as_ref().unwrap().id()
    }

    /// All addresses, as `chat --server` takes them.
    pub fn server_list(&self) -> String {
        let all: Vec<&str> = self.members.keys().map(|id| self.address(*id)).collect();
        all.join(",")
    }

    /// A directory for what else a test writes.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// A handle on all replicas.
    pub fn handle(&self, deadline: Duration) -> Cluster {
        let options = Options {
            deadline,
            protocol: self.protocol,
            ..Options::default()
        };
        Cluster::connect_with(self.members.keys().map(|id| self.address(*id)), options).unwrap()
    }

    /// A handle on one replica alone.
    pub fn handle_on(&self, id: u16, deadline: Duration) -> Cluster {
        let options = Options {
            deadline,
            follow_primary: false,
            protocol: self.protocol,
            ..Options::default()
        };
        Cluster::connect_with([self.address(id)], options).unwrap()
    }

    /// The same login on one replica alone. For reads: its writes would reuse sequences.
    pub fn reader_on(&self, id: u16, client: &Client) -> Client {
        Client::resume(&self.handle_on(id, PATIENCE), client.session().data()).unwrap()
    }

    /// Has one replica read the whole inbox of an account; whatever comes of that for the reader.
    pub async fn try_to_read_inbox(&self, id: u16, client: &Client) {
        let alone = self.handle_on(id, SHORT);
        let reader = Client::resume(&alone, client.session().data()).unwrap();
        let mut inbox = reader.listen(Listen {
            after: Some(0),
            ..Listen::default()
        });
        while let Some(Ok(event)) = inbox.next().await {
            if matches!(event, Event::EndOfBacklog) {
                return;
            }
        }
    }

    /// A new account, logged in.
    pub async fn account(&self, name: &str) -> Client {
        Client::create_account(
            &self.handle(PATIENCE),
            NewAccount::named(name, "a password"),
        )
        .await
        .unwrap_or_else(|error| panic!("no account {name}: {error}\n{}", self.logs()))
    }

    /// The primary, as the replies to this client say.
    pub async fn primary(&self, client: &Client) -> u16 {
        eventually("a reply that names a primary", async || {
            let reply = client.who_am_i().await;
            reply.map_err(|error| error.to_string())?;
            let named = client.cluster().primary();
            let found = self.members.iter().find(|(id, member)| {
                member.child.is_some() && Some(self.address(**id)) == named.as_deref()
            });
            found.map(|(id, _)| *id).ok_or(format!("named: {named:?}"))
        })
        .await
    }

    /// Everything that a replica has logged since `from` (a length given by [`Self::log_len`]).
    pub fn log_since(&self, id: u16, from: usize) -> String {
        let log = std::fs::read(self.log_path(id)).unwrap();
        String::from_utf8_lossy(&log[from..]).into_owned()
    }

    /// How long a replica's log is by now.
    pub fn log_len(&self, id: u16) -> usize {
        std::fs::metadata(self.log_path(id)).map_or(0, |meta| meta.len() as usize)
    }

    /// `chat-admin` with these arguments.
    pub fn admin(arguments: &[&str]) -> Output {
        program(env!("CARGO_BIN_EXE_chat-admin"))
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Ends a test: every replica must serve all of this inbox, and `chat-admin verify` must find
    /// all of them, and nothing wrong with them.
    pub async fn finish(&self, client: &Client) {
        for (id, member) in &self.members {
            if member.child.is_some() {
                // A linearizable read: afterwards this replica has applied all that came before.
                read_inbox(&self.reader_on(*id, client)).await;
            }
        }
        self.verify();
    }

    /// Runs `chat-admin verify` over all directories.
    pub fn verify(&self) {
        let ids: Vec<u16> = self.members.keys().copied().collect();
        self.verify_only(&ids);
    }

    /// Runs `chat-admin verify` over these directories: all must be compared, and be equal.
    pub fn verify_only(&self, ids: &[u16]) {
        let mut arguments = vec!["verify".to_owned()];
        for id in ids {
            arguments.push("--data-dir".into());
            arguments.push(self.data_dir(*id).display().to_string());
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = Self::admin(&arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let line = format!("verify: {} of ", ids.len());
        assert!(
            output.status.success() && text.contains(&line),
            "chat-admin verify: {}\n{text}{errors}\n{}",
            output.status,
            self.logs()
        );
    }

    /// The ends of all logs, for a failure's message.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for id in self.members.keys() {
            let log = std::fs::read_to_string(self.log_path(*id)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(30)..].join("\n");
            all.push_str("--- replica ");
            all.push_str(&id.to_string());
            all.push('\n');
            all.push_str(&end);
            all.push('\n');
        }
        all
    }

    fn log_path(&self, id: u16) -> PathBuf {
        self.directory.path().join(format!("replica-{id}.log"))
    }

    fn open_log(&self, id: u16) -> File {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        options.open(self.log_path(id)).unwrap()
    }

    /// The shell's `kill`: signals other than SIGKILL without unsafe code.
    fn signal(&self, id: u16, name: &str) {
        let pid = self.pid(id);
        let kill = format!("kill -{name} {pid}");
        let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(status.success(), "{kill}");
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        for member in self.members.values_mut() {
            if let Some(mut child) = member.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// One of our programs, without the settings of whoever runs the tests.
pub fn program(path: &str) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CHAT_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Asks until the answer is `Ok`; panics with the last `Err` when the patience is at its end.
pub async fn eventually<T, E, F, Fut>(what: &str, mut ask: F) -> T
where
    E: std::fmt::Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if Instant::now() > deadline => panic!("no {what} in time: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// No majority: the error must be one that tells a client to come back later.
pub fn assert_unreachable(error: Option<ClientError>, cluster: &TestCluster) {
    let logs = || cluster.logs();
    let error = error.unwrap_or_else(|| panic!("it succeeded without a majority\n{}", logs()));
    assert_eq!(error.class(), Class::Unreachable, "{error}\n{}", logs());
}

/// The reason word of something that must fail.
pub fn reason<T>(outcome: Result<T, ClientError>) -> String {
    match outcome {
        Ok(_) => "it succeeded".into(),
        Err(error) => error.reason,
    }
}
