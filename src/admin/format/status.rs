//! The table of all replicas.

use super::{bytes_text, hex};
use crate::proto::admin::ReplicaStatus;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::{Value, json};

const COLUMNS: [&str; 12] = [
    "ID",
    "ROLE",
    "TERM",
    "PRIMARY",
    "LAST",
    "COMMITTED",
    "APPLIED",
    "LAG",
    "DIGEST",
    "STORE",
    "VERSION",
    "ERRORS",
];
/// Columns with numbers.
const RIGHT: [usize; 6] = [2, 3, 4, 5, 6, 7];

/// One row for each replica, ascending by id, and a line for each adoption.
pub fn status_table(replicas: &[ReplicaStatus]) -> String {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(COLUMNS);
    let newest = newest_commit(replicas);
    for replica in replicas {
        table.add_row(row(replica, newest));
    }
    for index in RIGHT {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines = table.lines().map(|line| line.trim().to_owned() + "\n");
    let notes = replicas.iter().filter_map(adoption);
    lines.chain(notes).collect()
}

/// A line below the table.
fn adoption(replica: &ReplicaStatus) -> Option<String> {
    let adopted = replica.adopted.as_ref()?;
    Some(format!(
        "replica {} has adopted the copy of replica {} that ends at ({},{})\n",
        replica.id, adopted.from, adopted.last_term, adopted.last_index
    ))
}

/// An array with an object for each replica.
pub fn status_json(replicas: &[ReplicaStatus]) -> Value {
    let newest = newest_commit(replicas);
    replicas
        .iter()
        .map(|replica| {
            if !replica.unreachable.is_empty() {
                return json!({ "id": replica.id, "unreachable": replica.unreachable });
            }
            json!({
                "id": replica.id,
                "role": replica.role,
                "term": replica.term,
                "primary": (replica.primary != 0).then_some(replica.primary),
                "serving": replica.serving,
                "base_index": replica.base_index,
                "last_term": replica.last_term,
                "last_index": replica.last_index,
                "durable_index": replica.durable_index,
                "commit_index": replica.commit_index,
                "applied_index": replica.applied_index,
                "checkpoint_index": replica.checkpoint_index,
                "lag": lag(replica, newest),
                "digest": hex(&replica.digest),
                "head_hash": hex(&replica.head_hash),
                "store_bytes": replica.store_bytes,
                "version": replica.version,
                "level": replica.level,
                "adopted": replica.adopted.as_ref().map(|adopted| json!({
                    "from": adopted.from,
                    "last_term": adopted.last_term,
                    "last_index": adopted.last_index,
                })),
                "cluster": hex(&replica.cluster),
                "incarnation": hex(&replica.incarnation),
                "connected": replica.connected,
                "client_addr": replica.client_addr,
                "peer_addr": replica.peer_addr,
                "errors": replica.errors,
                "refusals": refusals(replica),
            })
        })
        .collect()
}

fn refusals(replica: &ReplicaStatus) -> Value {
    let rows = replica.refusals.iter().map(|row| {
        json!({
            "peer": (row.peer != 0).then_some(row.peer),
            "kind": row.kind,
            "count": row.count,
            "reason": row.reason,
        })
    });
    rows.collect()
}

fn newest_commit(replicas: &[ReplicaStatus]) -> u64 {
    let commits = replicas.iter().map(|replica| replica.commit_index);
    commits.max().unwrap_or(0)
}

/// Entries committed somewhere and not applied here.
fn lag(replica: &ReplicaStatus, newest: u64) -> u64 {
    newest.saturating_sub(replica.applied_index)
}

fn row(replica: &ReplicaStatus, newest: u64) -> Vec<String> {
    if !replica.unreachable.is_empty() {
        let mut row = vec![replica.id.to_string(), "unreachable".to_owned()];
        row.resize(COLUMNS.len() - 1, "-".to_owned());
        row.push(replica.unreachable.clone());
        return row;
    }
    let role = if replica.role == "primary" && !replica.serving {
        "primary (not serving yet)".to_owned()
    } else {
        replica.role.clone()
    };
    let mut digest = hex(&replica.digest);
    digest.truncate(12);
    let primary = match replica.primary {
        0 => "-".to_owned(),
        id => id.to_string(),
    };
    let errors = if replica.errors.is_empty() {
        "-".to_owned()
    } else {
        replica.errors.join("; ")
    };
    vec![
        replica.id.to_string(),
        role,
        replica.term.to_string(),
        primary,
        replica.last_index.to_string(),
        replica.commit_index.to_string(),
        replica.applied_index.to_string(),
        lag(replica, newest).to_string(),
        digest,
        bytes_text(replica.store_bytes),
        replica.version.clone(),
        errors,
    ]
}
