//! What the replicas have used: CPU from `/proc`, fsyncs from their admin sockets.

use super::cluster::Cluster;
use chat::admin::client::AdminClient;

/// Linux counts CPU time for user space in hundredths of a second (USER_HZ, part of its ABI).
const TICKS_PER_SECOND: f64 = 100.0;

/// Counters at one moment, or their differences.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// CPU seconds of each replica whose process is known.
    pub replicas: Vec<(u16, f64)>,
    /// CPU seconds of this process.
    pub client: f64,
    /// CPU seconds of everything on the machine.
    pub machine: f64,
    /// fdatasyncs of each replica whose admin socket is known.
    pub syncs: Vec<(u16, u64)>,
}

impl Usage {
    /// Looks at the counters.
    pub async fn take(cluster: &mut Cluster) -> anyhow::Result<Self> {
        let mut usage = Self {
            client: cpu_seconds(std::process::id()).unwrap_or(0.0),
            machine: machine_seconds().unwrap_or(0.0),
            ..Self::default()
        };
        for member in cluster.members() {
            if let Some(seconds) = member.pid.and_then(cpu_seconds) {
                usage.replicas.push((member.id, seconds));
            }
            let Some(data_dir) = &member.data_dir else {
                continue;
            };
            if let Ok(Some(mut admin)) = AdminClient::connect(data_dir).await {
                let status = admin.local_status().await?;
                usage.syncs.push((member.id, status.syncs));
            }
        }
        Ok(usage)
    }

    /// The differences to an earlier look.
    pub fn since(&self, before: &Self) -> Self {
        let replicas = self.replicas.iter().zip(&before.replicas);
        let syncs = self.syncs.iter().zip(&before.syncs);
        Self {
            replicas: replicas
                .map(|(now, then)| (now.0, now.1 - then.1))
                .collect(),
            client: self.client - before.client,
            machine: self.machine - before.machine,
            syncs: syncs
                .map(|(now, then)| (now.0, now.1.saturating_sub(then.1)))
                .collect(),
        }
    }

    /// All replicas together; `None` if no process is known.
    pub fn server(&self) -> Option<f64> {
        (!self.replicas.is_empty()).then(|| self.replicas.iter().map(|(_, seconds)| seconds).sum())
    }

    /// What neither the replicas nor this process used: other programs, and the kernel's own work.
    pub fn others(&self) -> f64 {
        (self.machine - self.client - self.server().unwrap_or(0.0)).max(0.0)
    }
}

/// User and system time of a process.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the numbers follow the last one.
    let (_, numbers) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = numbers.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// Everything but idling and waiting for disks.
fn machine_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().next()?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest times are within user and nice.
    let busy = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|at| ticks.get(*at))
        .sum::<f64>();
    Some(busy / TICKS_PER_SECOND)
}
