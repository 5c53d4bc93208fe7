//! What a run came to, for people and for programs.

use super::meter::{Meter, SLOT, Slot};
use super::plot;
use super::usage::Usage;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Shown of every distribution.
const PERCENTILES: [f64; 6] = [50.0, 90.0, 99.0, 99.9, 99.99, 100.0];

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Setup {
    /// As on the command line.
    pub protocol: String,
    /// Messages on the way.
    pub in_flight: usize,
    /// That share them.
    pub connections: usize,
    /// Accounts.
    pub senders: usize,
    /// Of a message.
    pub body_bytes: usize,
    /// In the cluster.
    pub replicas: usize,
}

/// One window.
pub struct Report {
    /// What was asked for.
    pub setup: Setup,
    /// How long it was.
    pub seconds: f64,
    /// Microseconds.
    pub latencies: Histogram<u64>,
    /// Over time.
    pub slots: Vec<Slot>,
    refusals: Vec<(String, u64)>,
    usage: Usage,
}

impl Report {
    /// Of a window that has ended.
    pub fn new(setup: Setup, seconds: f64, meter: &Meter, usage: &Usage) -> Self {
        Self {
            setup,
            seconds,
            latencies: meter.histogram(),
            slots: meter.slots(),
            refusals: meter.refusals(),
            usage: usage.clone(),
        }
    }

    /// Acknowledged messages a second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }

    fn per_thousand(&self, seconds: f64) -> f64 {
        seconds * 1_000.0 / (self.latencies.len().max(1) as f64)
    }

    /// Messages for each fsync of the replica that made most of them.
    fn messages_per_sync(&self) -> Option<f64> {
        let most = self.usage.syncs.iter().map(|(_, syncs)| *syncs).max()?;
        (most > 0).then(|| self.latencies.len() as f64 / most as f64)
    }

    fn stalls(&self) -> u64 {
        let worst = self.slots.iter().map(|slot| slot.worst_us).max();
        worst.unwrap_or(0)
    }

    /// Numbers, then the latencies as a plot.
    pub fn text(&self) -> String {
        let setup = &self.setup;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // A String never fails to take text.
            let _ = writeln!(text, "{name:<34}{value}");
        };
        line(
            "load",
            format!(
                "{}, {} in flight on {} connections, {} senders, {} bytes, {} replicas",
                setup.protocol,
                setup.in_flight,
                setup.connections,
                setup.senders,
                setup.body_bytes,
                setup.replicas
            ),
        );
        line(
            "messages",
            format!("{} in {:.2} s", self.latencies.len(), self.seconds),
        );
        line("throughput", format!("{:.0} messages/s", self.rate()));
        for percentile in PERCENTILES {
            let value = self.latencies.value_at_percentile(percentile);
            line(
                &format!("latency p{percentile}"),
                format!("{:.2} ms", value as f64 / 1e3),
            );
        }
        if let Some(server) = self.usage.server() {
            let each: Vec<String> = self
                .usage
                .replicas
                .iter()
                .map(|(id, seconds)| format!("{id}: {:.4}", self.per_thousand(*seconds)))
                .collect();
            line(
                "server CPU s per 1,000 messages",
                format!(
                    "{:.4} (replica {})",
                    self.per_thousand(server),
                    each.join(", ")
                ),
            );
        }
        line(
            "client CPU s per 1,000 messages",
            format!("{:.4}", self.per_thousand(self.usage.client)),
        );
        line(
            "cores used by others",
            format!("{:.2}", self.usage.others() / self.seconds),
        );
        if let Some(messages) = self.messages_per_sync() {
            line("messages per fsync", format!("{messages:.1}"));
        }
        for (reason, count) in &self.refusals {
            line(&format!("refused: {reason}"), count.to_string());
        }
        text.push('\n');
        text.push_str(&plot::terminal(&self.latencies));
        text
    }

    /// One object.
    pub fn json(&self) -> Value {
        let percentiles: serde_json::Map<String, Value> = PERCENTILES
            .iter()
            .map(|percentile| {
                let value = self.latencies.value_at_percentile(*percentile);
                (format!("p{percentile}_ms"), json!(value as f64 / 1e3))
            })
            .collect();
        json!({
            "protocol": self.setup.protocol,
            "in_flight": self.setup.in_flight,
            "connections": self.setup.connections,
            "senders": self.setup.senders,
            "body_bytes": self.setup.body_bytes,
            "replicas": self.setup.replicas,
            "seconds": self.seconds,
            "messages": self.latencies.len(),
            "messages_per_s": self.rate(),
            "latency": percentiles,
            "longest_stall_ms": self.stalls() as f64 / 1e3,
            "server_cpu_s_per_1000": self.usage.server().map(|s| self.per_thousand(s)),
            "client_cpu_s_per_1000": self.per_thousand(self.usage.client),
            "cores_used_by_others": self.usage.others() / self.seconds,
            "messages_per_fsync": self.messages_per_sync(),
            "refused": self.refusals.iter().map(|(_, count)| count).sum::<u64>(),
            "refusals": self.refusals.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "timeline": {
                "slot_ms": SLOT.as_millis(),
                "messages": self.slots.iter().map(|slot| slot.count).collect::<Vec<_>>(),
                "worst_ms": self.slots.iter().map(|slot| slot.worst_us as f64 / 1e3).collect::<Vec<_>>(),
            },
        })
    }
}
