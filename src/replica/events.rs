//! What happened, as sentences in the log: the only place where the core's events become text.

use super::Scrubbed;
use crate::consensus::Event;
use crate::types::{Index, ReplicaId, Stamp};
use tracing::{error, info, warn};

/// Writes one event to the log.
pub(super) fn log(id: ReplicaId, event: &Event) {
    let text = sentence(event);
    match event {
        Event::Damaged { .. }
        | Event::CannotRepair { .. }
        | Event::Quarantined { .. }
        | Event::DigestTie { .. } => error!("replica {id}: {text}"),
        Event::Refused { kind, .. } if !kind.is_ordinary() => warn!("replica {id}: {text}"),
        Event::ClockSkew { .. }
        | Event::DiskLow { .. }
        | Event::WritesRefused { .. }
        | Event::StateDoubted { .. }
        | Event::LostMemory { .. } => warn!("replica {id}: {text}"),
        _ => info!("replica {id}: {text}"),
    }
}

/// Writes the end of a scrub to the log.
pub(super) fn log_scrub(id: ReplicaId, scrubbed: &Scrubbed) {
    let Scrubbed {
        applied,
        entries,
        commit_records,
    } = scrubbed;
    info!(
        "replica {id}: scrubbed: {entries} entries, {commit_records} commit records and the state \
         after {applied} are sound"
    );
}

/// One sentence about an event, without the replica's own id.
pub fn sentence(event: &Event) -> String {
    match event {
        Event::Formed(cluster) => format!("the cluster is formed: {cluster:?}"),
        Event::WaitingFor(ids) => format!("waiting for {}", replicas(ids)),
        Event::Asking => "misses the primary, and asks the others whether they do too".into(),
        Event::ElectionStarted(term) => format!("election of term {term}: ballot submitted"),
        Event::BecamePrimary(term) => {
            format!("primary of term {term}, elected by a majority; not serving yet")
        }
        Event::Serving(term) => format!("serves as primary of term {term}"),
        Event::SteppedDown { term, reason } => {
            format!("no longer primary of term {term}: {reason}")
        }
        Event::Primary {
            term,
            primary: Some(primary),
        } => format!("follows replica {primary}, primary of term {term}"),
        Event::Primary {
            term,
            primary: None,
        } => format!("knows no primary in term {term}"),
        Event::Truncated { after } => {
            format!("dropped uncommitted entries above {after}: the primary has others there")
        }
        Event::Adopted { from, last } => {
            format!("adopted the copy that ends at {last} from replica {from}")
        }
        Event::AdoptionRefused { from, reason } => {
            format!("did not adopt the copy of replica {from}: {reason}; replication does the rest")
        }
        Event::SnapshotInstalled { from, base } => {
            format!("installed the state after {base} from replica {from}; the log begins there")
        }
        Event::SnapshotRefused { from, reason } => {
            format!("did not take the state that replica {from} offers: {reason}")
        }
        Event::Repaired { index } => {
            format!("repaired: the log reaches index {index} again, and this replica takes part")
        }
        Event::CannotRepair {
            damaged,
            mark,
            suspect,
            held_by,
        } => cannot_repair(damaged, *mark, *suspect, held_by),
        Event::Proven { above, by } => format!(
            "nothing that it held above index {above} was ever committed, as {} say: it goes on \
             from there and takes part",
            replicas(by)
        ),
        Event::LostMemory {
            from,
            remembers,
            has,
        } => format!(
            "its disk is an old copy: replica {from} remembers that this one had acknowledged \
             {remembers}, and its log ends at {has}. It has lost its promises, goes on under a new \
             incarnation, and does not count until it is readmitted"
        ),
        Event::DiskLow { free, needed } => format!(
            "its disk is nearly full: {} MiB are free, and {} MiB must be left for the next \
             rewriting of its store",
            free >> 20,
            needed >> 20
        ),
        Event::LevelRaised(level) => format!("level {level} is in force from here on"),
        Event::DiskRoom => "its disk has room again".into(),
        Event::WritesRefused { low } => format!(
            "refuses writes: without {}, low on disk space, no majority is left",
            replicas(low)
        ),
        Event::WritesAccepted => "accepts writes again: a majority has room on its disks".into(),
        Event::Readmitted(id, incarnation) => {
            format!("replica {id} is readmitted with incarnation {incarnation:?}")
        }
        Event::Damaged { index, reason } => {
            format!("damaged at index {index}, takes no part from now on: {reason}")
        }
        Event::Quarantined { .. }
        | Event::Rebuilt { .. }
        | Event::DigestTie { .. }
        | Event::StateDoubted { .. } => of_state(event),
        Event::Refused { peer, kind, reason } => {
            let kind = kind.word();
            format!("refused a message of replica {peer} ({kind}): {reason}")
        }
        Event::ClockSkew { replica, ahead_us } => {
            format!(
                "the clock of replica {replica} is {}",
                clock_ahead(*ahead_us)
            )
        }
    }
}

/// How far a clock is ahead of the median, as the end of a sentence.
pub fn clock_ahead(ahead_us: i64) -> String {
    let seconds = ahead_us.unsigned_abs() / 1_000_000;
    let side = if ahead_us > 0 { "ahead of" } else { "behind" };
    format!("{seconds} s {side} the median of the replicas' clocks: set it")
}

/// About this replica's state.
fn of_state(event: &Event) -> String {
    match event {
        Event::Quarantined { index, reason } => format!(
            "its state is wrong at index {index}, its log is good: {reason}. It serves nothing until \
             the state is rebuilt"
        ),
        Event::Rebuilt { index } => {
            format!("its state is rebuilt, up to index {index}, and is served again")
        }
        Event::DigestTie { index, others } => format!(
            "its state at index {index} has another digest than that of {}, and no majority says \
             who is right: compare them with `chat-admin verify`",
            replicas(others)
        ),
        Event::StateDoubted { by, index } => format!(
            "replica {by} was given the state after {index} and found that its digest is another: \
             this replica's own trees are looked at"
        ),
        _ => String::new(),
    }
}

/// Names the index, the replicas, and the next step.
fn cannot_repair(
    damaged: &[ReplicaId],
    mark: Stamp,
    suspect: Option<Index>,
    held_by: &[ReplicaId],
) -> String {
    let what = match suspect {
        Some(index) if held_by.is_empty() => {
            format!("nothing proves that entry {index} was never committed")
        }
        Some(index) => format!(
            "entry {index} cannot be read here, {} had one there, and nothing proves that it was \
             never committed",
            replicas(held_by)
        ),
        None => format!("all that it held, at least up to {mark}, is lost here"),
    };
    format!(
        "halted, cannot repair itself: {} lost what they had acknowledged, too few are left to \
         elect a primary, and {what}. Next: stop all replicas, and see what `chat-admin recover` \
         shows of their data directories",
        replicas(damaged)
    )
}

fn replicas(ids: &[ReplicaId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    match ids.as_slice() {
        [one] => format!("replica {one}"),
        many => format!("replicas {}", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Term;

    #[test]
    fn events_read_as_sentences() {
        let adopted = Event::Adopted {
            from: ReplicaId(2),
            last: Stamp::new(Term(3), Index(9)),
        };
        assert_eq!(
            sentence(&adopted),
            "adopted the copy that ends at (3,9) from replica 2"
        );
        let waiting = Event::WaitingFor(vec![ReplicaId(2), ReplicaId(3)]);
        assert_eq!(sentence(&waiting), "waiting for replicas 2, 3");
    }
}
