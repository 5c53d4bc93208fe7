//! What verify came to.

use crate::admin::cluster::Verdict;
use crate::admin::verify::Report;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The one line that scripts and the demo look for.
pub fn verdict_line(verdict: &Verdict) -> String {
    let compared = verdict.reports.len();
    let outcome = match (compared, verdict.findings().len()) {
        (0, 0) => "nothing was compared".to_owned(),
        (1, 0) if verdict.replicas > 1 => "consistent, and nothing to compare it with".to_owned(),
        (1, 0) => "consistent".to_owned(),
        (_, 0) => "identical".to_owned(),
        (_, 1) => "1 finding".to_owned(),
        (_, findings) => format!("{findings} findings"),
    };
    let skipped: Vec<_> = verdict
        .skipped
        .iter()
        .map(|(id, why)| format!("{id}: {why}"))
        .collect();
    let skipped = if skipped.is_empty() {
        String::new()
    } else {
        format!("; {} skipped ({})", skipped.len(), skipped.join(", "))
    };
    let uncompared = match verdict.uncompared().len() {
        0 => "",
        _ => "; not everything was compared",
    };
    format!(
        "verify: {compared} of {} replicas compared at index {}: {outcome}{skipped}{uncompared}",
        verdict.replicas, verdict.index
    )
}

/// A line for each replica, one for each finding and for what was not compared, and [`verdict_line`] last.
pub fn verdict_text(verdict: &Verdict) -> String {
    let mut text = String::new();
    for report in &verdict.reports {
        text.push_str(&report_line(report));
        text.push('\n');
    }
    for (id, finding) in verdict.findings() {
        let whose = id.map_or_else(String::new, |id| format!("replica {id}: "));
        text.extend(["FINDING ", &whose, &finding.sentence, "\n"]);
    }
    for (id, what) in verdict.uncompared() {
        let _ = writeln!(text, "NOT COMPARED replica {id}: {what}");
    }
    text.push_str(&verdict_line(verdict));
    text.push('\n');
    text
}

fn report_line(report: &Report) -> String {
    let state = match report.state_index.0 {
        0 => "state trees not compared".to_owned(),
        index => format!("state trees compared at index {index}"),
    };
    let notes = report.notes.iter().flat_map(|note| ["; ", note]);
    let notes: String = notes.collect();
    format!(
        "replica {}: {} entries, {} commit records and {} digests checked, {state}; \
         at index {} hash {}, state digest {}{notes}",
        report.id,
        report.entries,
        report.commit_records,
        report.digests,
        report.index,
        report.hash.short(),
        report.digest.short()
    )
}

/// One JSON object.
pub fn verdict_json(verdict: &Verdict) -> Value {
    let findings: Vec<_> = verdict
        .findings()
        .into_iter()
        .map(|(id, finding)| {
            json!({
                "replica": id.map(|id| id.0),
                "tree": finding.tree,
                "index": finding.index.0,
                "sentence": finding.sentence,
            })
        })
        .collect();
    let reports: Vec<_> = verdict
        .reports
        .iter()
        .map(|report| {
            json!({
                "id": report.id.0,
                "index": report.index.0,
                "hash": report.hash.to_hex(),
                "digest": report.digest.to_hex(),
                "entries": report.entries,
                "commit_records": report.commit_records,
                "digests": report.digests,
                "state_index": (report.state_index.0 != 0).then_some(report.state_index.0),
                "notes": report.notes,
            })
        })
        .collect();
    let skipped: Vec<_> = verdict
        .skipped
        .iter()
        .map(|(id, why)| json!({ "id": id.0, "reason": why }))
        .collect();
    let uncompared: Vec<_> = verdict
        .uncompared()
        .into_iter()
        .map(|(id, what)| json!({ "id": id.0, "reason": what }))
        .collect();
    json!({
        "replicas": verdict.replicas,
        "compared": verdict.reports.len(),
        "index": verdict.index.0,
        "identical": verdict.all_identical(),
        "reports": reports,
        "skipped": skipped,
        "uncompared": uncompared,
        "findings": findings,
    })
}
