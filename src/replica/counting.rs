//! What a turn brought, counted.

use super::{Output, PeerMessage, ReadError, WriteError, Written};
use crate::consensus::{Body, Event};
use crate::metrics::Metrics;
use crate::state_machine::{Answer, Notice};

/// Counts everything in it but what is applied: see [`Metrics`].
pub(super) fn count(metrics: &Metrics, output: &Output) {
    for event in &output.events {
        count_event(metrics, event);
    }
    for (_, outcome) in &output.written {
        metrics.writes[place(outcome)].add(1);
    }
    for (_, answer) in &output.answered {
        count_read(metrics, answer);
    }
    if let Some(scrubbed) = &output.scrubbed {
        metrics.scrubs.add(1);
        metrics.scrubbed_entries.add(scrubbed.entries);
    }
    metrics
        .scrubs_given_up
        .add(u64::from(output.scrub_given_up));
    let messages = output.notices.iter();
    let messages = messages.filter(|notice| matches!(notice, Notice::Inbox { .. }));
    metrics.messages.add(messages.count() as u64);
    let job = output.job.as_ref().and_then(|job| job.core.as_ref());
    if let Some(job) = job.filter(|job| !job.append.is_empty()) {
        let bytes: usize = job.append.iter().map(|entry| entry.bytes().len()).sum();
        metrics.batch_entries.record(job.append.len() as u64);
        metrics.batch_bytes.record(bytes as u64);
    }
    for message in &output.messages {
        if let PeerMessage::Consensus(message) = message
            && let Body::SnapshotChunk(chunk) = &message.body
            && chunk.done
        {
            metrics.snapshots_sent.add(1);
        }
    }
}

fn count_event(metrics: &Metrics, event: &Event) {
    let counter = match event {
        Event::ElectionStarted(_) => &metrics.elections,
        Event::BecamePrimary(_) => &metrics.elections_won,
        Event::SteppedDown { .. } => &metrics.step_downs,
        Event::Adopted { .. } => &metrics.adoptions,
        Event::Damaged { .. } => &metrics.damages,
        Event::Quarantined { .. } => &metrics.quarantines,
        Event::Repaired { .. } | Event::Proven { .. } => &metrics.repairs,
        Event::Readmitted(..) => &metrics.readmissions,
        Event::LostMemory { .. } => &metrics.lost_memories,
        Event::SnapshotInstalled { .. } => &metrics.snapshots_received,
        Event::SnapshotRefused { .. } => &metrics.snapshots_refused,
        _ => return,
    };
    counter.add(1);
}

/// In the order of [`crate::metrics::WRITE_OUTCOMES`].
fn place(outcome: &Result<Written, WriteError>) -> usize {
    match outcome {
        Ok(_) => 0,
        Err(WriteError::NotApplied) => 1,
        Err(WriteError::OutcomeUnknown) => 2,
        Err(WriteError::Overloaded) => 3,
        Err(WriteError::ShuttingDown) => 4,
        Err(WriteError::DiskFull) => 5,
    }
}

fn count_read(metrics: &Metrics, answer: &Result<Answer, ReadError>) {
    let counter = match answer {
        Ok(_) => &metrics.reads,
        Err(_) => &metrics.reads_failed,
    };
    counter.add(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::WRITE_OUTCOMES;
    use crate::replica::Ticket;
    use crate::types::Term;

    #[test]
    fn events_and_outcomes_are_counted_in_their_places() {
        let metrics = Metrics::default();
        let mut output = Output::default();
        output.events.push(Event::ElectionStarted(Term(3)));
        output.events.push(Event::BecamePrimary(Term(3)));
        let full = (Ticket(1), Err(WriteError::DiskFull));
        output.written.push(full);
        let late = (Ticket(2), Err(ReadError::Unavailable));
        output.answered.push(late);
        count(&metrics, &output);
        count(&metrics, &Output::default());
        assert_eq!(metrics.elections.total(), 1);
        assert_eq!(metrics.elections_won.total(), 1);
        assert_eq!(metrics.step_downs.total(), 0);
        let full = WRITE_OUTCOMES.iter().position(|word| *word == "disk_full");
        assert_eq!(metrics.writes[full.unwrap()].total(), 1);
        assert_eq!(metrics.reads_failed.total(), 1);
    }
}
