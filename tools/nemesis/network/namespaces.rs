//! A network namespace for each replica, each with one device whose packets pass through the
//! switch. Needs root and the `ip` and `nsenter` commands.

use super::{Node, Rules, switch, tun};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Where clients connect, on each machine.
pub const CLIENT_PORT: u16 = 7400;
/// Where replicas connect to each other.
pub const PEER_PORT: u16 = 7500;
/// Begins the name of every namespace, followed by the process id of its owner.
const PREFIX: &str = "nemesis";
/// Bytes of a packet. Larger than on a real network: every packet passes through this process.
const MTU: &str = "16000";
/// Last byte of the clients' address.
const CLIENTS: u8 = 254;

/// All namespaces. Removed when dropped.
pub struct Namespaces {
    names: BTreeMap<Node, String>,
    /// The first three bytes of every address.
    subnet: String,
}

impl Namespaces {
    /// Makes and connects them.
    pub fn new(replicas: u16, rules: &Rules) -> Result<Self> {
        remove_leftovers();
        let pid = std::process::id();
        let mut made = Self {
            names: BTreeMap::new(),
            subnet: format!("10.213.{}", pid % 250),
        };
        let mut devices = BTreeMap::new();
        let clients = format!("nm{}-0", pid % 100_000);
        devices.insert(0, tun::create(&clients).context("cannot make a device")?);
        let address = format!("{}.{CLIENTS}/24", made.subnet);
        run("ip", &["addr", "add", &address, "dev", &clients])?;
        run("ip", &["link", "set", &clients, "mtu", MTU, "up"])?;
        for id in 1..=replicas {
            let name = format!("{PREFIX}-{pid}-{id}");
            run("ip", &["netns", "add", &name])?;
            made.names.insert(id, name.clone());
            let device = format!("nm{}-{id}", pid % 100_000);
            let file = tun::create(&device).context("cannot make a device")?;
            devices.insert(id, file);
            run("ip", &["link", "set", &device, "netns", &name])?;
            let inside = ["-n", &name];
            let address = format!("{}.{id}/24", made.subnet);
            for command in [
                &["addr", "add", &address, "dev", &device][..],
                &["link", "set", &device, "mtu", MTU, "up"],
                &["link", "set", "lo", "up"],
            ] {
                run("ip", &[&inside[..], command].concat())?;
            }
        }
        switch::start(devices, rules).context("cannot start the switch")?;
        Ok(made)
    }

    /// `HOST:PORT` of a replica.
    pub fn address(&self, id: Node, port: u16) -> String {
        format!("{}.{id}:{port}", self.subnet)
    }

    /// A command inside the replica's namespace. It replaces `nsenter`, so that the process id is
    /// the program's own.
    pub fn command(&self, id: Node, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        if let Some(name) = self.names.get(&id) {
            command.arg(format!("--net=/run/netns/{name}"));
        }
        command.arg(program);
        command
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in self.names.values() {
            // What cannot be removed now is removed by the next run.
            let _ = run("ip", &["netns", "delete", name]);
        }
    }
}

/// Removes what a run left that was killed: its replicas and its namespaces.
fn remove_leftovers() {
    let Ok(listing) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in listing.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.trim_start_matches('-').split('-').next());
        let Some(owner) = owner.filter(|owner| owner.parse::<u32>().is_ok()) else {
            continue;
        };
        if Path::new("/proc").join(owner).exists() {
            continue;
        }
        if let Ok(listed) = Command::new("ip").args(["netns", "pids", &name]).output() {
            for pid in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
                let _ = run("kill", &["-KILL", pid]);
            }
        }
        let _ = run("ip", &["netns", "delete", &name]);
    }
}

/// Runs a command of the system.
pub fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", arguments.join(" "), why.trim());
    }
    Ok(())
}
