//! The page: every metric with its help, in the text format 0.0.4 of Prometheus.
//!
//! `docs/operations.md` lists them; `tests/processes/metrics.rs` compares the two.

use super::Source;
use crate::consensus::Role;
use crate::limits;
use crate::metrics::{Histogram, Metrics, WRITE_OUTCOMES};
use crate::replica::Status;
use crate::types::refusals::RefusalKey;
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering;
use std::time::Duration;

const ROLES: [(Role, &str); 9] = [
    (Role::Booting, "booting"),
    (Role::Secondary, "secondary"),
    (Role::Candidate, "candidate"),
    (Role::Primary, "primary"),
    (Role::Retiring, "retiring"),
    (Role::NotAdmitted, "not_admitted"),
    (Role::Damaged, "damaged"),
    (Role::Repairing, "repairing"),
    (Role::Quarantined, "quarantined"),
];

/// The page while it is written.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.line(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.line(name, "", value);
    }

    /// Lines with labels; `kind` is the type.
    fn family<V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        lines: impl IntoIterator<Item = (String, V)>,
    ) {
        self.head(name, kind, help);
        for (labels, value) in lines {
            self.line(name, &labels, value);
        }
    }

    /// `unit`: so many of the histogram's values are one of the metric's.
    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram, unit: f64) {
        self.head(name, "histogram", help);
        let (buckets, count, sum) = histogram.read();
        for (bound, below) in buckets {
            let bound = bound as f64 / unit;
            self.line(
                &format!("{name}_bucket"),
                &format!("{{le=\"{bound}\"}}"),
                below,
            );
        }
        self.line(&format!("{name}_bucket"), "{le=\"+Inf\"}", count);
        self.line(&format!("{name}_sum"), "", sum as f64 / unit);
        self.line(&format!("{name}_count"), "", count);
    }
}

impl Source {
    /// The whole page. A replica whose thread does not answer is down, and the rest is still shown.
    pub(super) async fn text(&self) -> String {
        let wait = Duration::from_millis(limits::METRICS_STATUS_MS);
        let status = tokio::time::timeout(wait, self.handle.status()).await;
        let status = status.ok().flatten();
        let mut page = Page::default();
        let version = crate::config::version();
        let build = [(format!("{{version=\"{version}\"}}"), 1)];
        page.family("chat_build_info", "gauge", "The build.", build);
        let up = u8::from(status.is_some());
        page.gauge("chat_up", "1 if the replica's thread answers.", up);
        if let Some(status) = &status {
            state(&mut page, status);
            indexes(&mut page, status);
            self.peers(&mut page, status);
        }
        self.disk(&mut page, status.as_ref()).await;
        self.refusals(&mut page, status.as_ref());
        work(&mut page, &self.metrics);
        events(&mut page, &self.metrics);
        stores(&mut page, &self.metrics);
        page.0
    }

    fn peers(&self, page: &mut Page, status: &Status) {
        let node = &status.node;
        let peer = |id: &dyn Display| format!("{{peer=\"{id}\"}}");
        let others = self.links.ids().into_iter().filter(|id| *id != node.id);
        let connected = others.map(|id| (peer(&id), u8::from(node.connected.contains(&id))));
        let help = "1 if this replica's connection to the peer is open.";
        page.family("chat_peer_connected", "gauge", help, connected);
        let last = node.last.index.0;
        let behind = node
            .matches
            .iter()
            .map(|(id, index)| (peer(id), last.saturating_sub(index.0)));
        let help = "From a primary: entries that the peer has not acknowledged as durable.";
        page.family("chat_peer_lag_entries", "gauge", help, behind);
    }

    async fn disk(&self, page: &mut Page, status: Option<&Status>) {
        let wait = Duration::from_millis(limits::METRICS_STATUS_MS);
        // A storage thread that hangs does not answer either.
        let size = tokio::time::timeout(wait, self.handle.store_size()).await;
        if let Some(bytes) = size.ok().flatten() {
            page.gauge("chat_store_bytes", "Bytes of the store on the disk.", bytes);
        }
        if let Some(status) = status {
            let low = u8::from(status.low.is_some());
            page.gauge("chat_disk_low", "1 if the disk is nearly full.", low);
            let help = "1 if this primary refuses writes for want of room on the disks.";
            let refuses = u8::from(status.refuses_writes);
            page.gauge("chat_writes_refused_for_space", help, refuses);
            if let Some(space) = status.space {
                let help = "Bytes free on the file system of the data directory.";
                page.gauge("chat_disk_free_bytes", help, space.free);
                let help = "With fewer free bytes the disk counts as nearly full.";
                page.gauge("chat_disk_needed_bytes", help, space.needed);
            }
        }
        let help = "Time of one fsync of the store or of the promises.";
        let times = crate::storage::fsync_times();
        page.histogram("chat_fsync_seconds", help, times, 1e6);
    }

    fn refusals(&self, page: &mut Page, status: Option<&Status>) {
        let mut all: BTreeMap<RefusalKey, u64> = BTreeMap::new();
        let door = self.links.refusals();
        let behind = status.map(|status| &status.refusals);
        for table in [Some(&door), behind].into_iter().flatten() {
            for (key, row) in table.rows() {
                *all.entry(*key).or_default() += row.count;
            }
        }
        let lines = all.into_iter().map(|((peer, kind), count)| {
            let kind = kind.word();
            (format!("{{peer=\"{peer}\",kind=\"{kind}\"}}"), count)
        });
        let help = "Messages of other replicas that were refused; peer 0: not configured here.";
        page.family("chat_refusals_total", "counter", help, lines);
    }
}

fn state(page: &mut Page, status: &Status) {
    let node = &status.node;
    let roles = ROLES.iter().map(|(role, name)| {
        let is = u8::from(node.role == *role);
        (format!("{{role=\"{name}\"}}"), is)
    });
    page.family("chat_role", "gauge", "1 for the replica's role.", roles);
    page.gauge("chat_term", "The election term.", node.term);
    let primary = node.primary.map_or(0, |id| id.0);
    page.gauge("chat_primary", "Id of the primary; 0: none known.", primary);
    let serving = u8::from(node.serving);
    page.gauge("chat_serving", "1 on a primary that serves.", serving);
    let damaged = u8::from(node.damage.is_some());
    page.gauge("chat_damaged", "1 if the log turned out damaged.", damaged);
    let help = "1 if only an operator can go on (chat-admin recover).";
    page.gauge("chat_halted", help, u8::from(node.halt.is_some()));
}

fn indexes(page: &mut Page, status: &Status) {
    let node = &status.node;
    page.gauge("chat_base_index", "The log begins after it.", node.base);
    page.gauge("chat_last_index", "Last entry.", node.last.index);
    page.gauge(
        "chat_durable_index",
        "Last durable entry.",
        node.durable.index,
    );
    page.gauge("chat_commit_index", "Last committed entry.", node.commit);
    page.gauge("chat_applied_index", "Last applied entry.", status.applied);
    let help = "What the state trees on the disk hold.";
    page.gauge("chat_checkpoint_index", help, status.checkpoint);
    let lag = node.commit.0.saturating_sub(status.applied.0);
    let help = "Entries that are committed and not applied here.";
    page.gauge("chat_apply_lag_entries", help, lag);
}

fn work(page: &mut Page, metrics: &Metrics) {
    let fronts = [
        ("grpc", &metrics.grpc_connections),
        ("wire", &metrics.wire_connections),
    ];
    let lines = fronts.map(|(front, open)| {
        let open = open.load(Ordering::Relaxed);
        (format!("{{front=\"{front}\"}}"), open)
    });
    let help = "Open connections of clients.";
    page.family("chat_connections", "gauge", help, lines);
    let help = "Entries applied.";
    page.counter("chat_entries_applied_total", help, metrics.entries.total());
    let help = "Messages that came into an inbox.";
    page.counter("chat_messages_total", help, metrics.messages.total());
    let outcomes = WRITE_OUTCOMES.iter().zip(&metrics.writes);
    let lines =
        outcomes.map(|(outcome, count)| (format!("{{outcome=\"{outcome}\"}}"), count.total()));
    let help = "Writes of this replica's clients, by outcome.";
    page.family("chat_writes_total", "counter", help, lines);
    let reads = [("ok", &metrics.reads), ("failed", &metrics.reads_failed)];
    let lines = reads.map(|(outcome, count)| (format!("{{outcome=\"{outcome}\"}}"), count.total()));
    let help = "Reads of this replica's clients, by outcome.";
    page.family("chat_reads_total", "counter", help, lines);
    let help = "Entries that went to the disk as one batch.";
    page.histogram("chat_batch_entries", help, &metrics.batch_entries, 1.0);
    let help = "Bytes that went to the disk as one batch.";
    page.histogram("chat_batch_bytes", help, &metrics.batch_bytes, 1.0);
}

fn events(page: &mut Page, metrics: &Metrics) {
    let counters = [
        (
            "chat_elections_total",
            "Ballots of this replica's own.",
            &metrics.elections,
        ),
        (
            "chat_elections_won_total",
            "Elections that it won.",
            &metrics.elections_won,
        ),
        (
            "chat_step_downs_total",
            "Ends of its primary role.",
            &metrics.step_downs,
        ),
        (
            "chat_adoptions_total",
            "Newer copies adopted at a boot.",
            &metrics.adoptions,
        ),
    ];
    for (name, help, counter) in counters {
        page.counter(name, help, counter.total());
    }
}

fn stores(page: &mut Page, metrics: &Metrics) {
    let counters = [
        (
            "chat_damages_total",
            "Damage found in the running replica.",
            &metrics.damages,
        ),
        (
            "chat_quarantines_total",
            "Times that its state contradicted a majority.",
            &metrics.quarantines,
        ),
        (
            "chat_repairs_total",
            "Repairs that came to their end.",
            &metrics.repairs,
        ),
        (
            "chat_scrubs_total",
            "Times that all of the store was read again and found sound.",
            &metrics.scrubs,
        ),
        (
            "chat_scrubs_given_up_total",
            "Times that the state changed too much while it was read again.",
            &metrics.scrubs_given_up,
        ),
        (
            "chat_scrubbed_entries_total",
            "Entries of the log that were read again and found sound.",
            &metrics.scrubbed_entries,
        ),
        (
            "chat_readmissions_total",
            "Readmissions of any replica, by this one's log.",
            &metrics.readmissions,
        ),
        (
            "chat_lost_memories_total",
            "Times that the disk turned out to be an old copy.",
            &metrics.lost_memories,
        ),
        (
            "chat_snapshots_sent_total",
            "Snapshots sent to the last row.",
            &metrics.snapshots_sent,
        ),
        (
            "chat_snapshots_received_total",
            "Snapshots installed.",
            &metrics.snapshots_received,
        ),
        (
            "chat_snapshots_refused_total",
            "Snapshots refused, or given up.",
            &metrics.snapshots_refused,
        ),
    ];
    for (name, help, counter) in counters {
        page.counter(name, help, counter.total());
    }
}
