//! What happened, as sentences in the log: the only place where the core's events become text.

use crate::consensus::Event;
use crate::types::ReplicaId;
use tracing::{error, info, warn};

/// Writes one event to the log.
pub(super) fn log(id: ReplicaId, event: &Event) {
    let text = describe(event);
    match event {
        Event::Damaged { .. } => error!("replica {id}: {text}"),
        Event::Refused { .. } | Event::ClockSkew { .. } => warn!("replica {id}: {text}"),
        _ => info!("replica {id}: {text}"),
    }
}

/// One sentence, without the replica's own id.
fn describe(event: &Event) -> String {
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
        Event::Readmitted(id, incarnation) => {
            format!("replica {id} is readmitted with incarnation {incarnation:?}")
        }
        Event::Damaged { index, reason } => format!(
            "damaged at index {index}, takes no part from now on: {reason}. Stop it, keep its \
             data directory for inspection, and start it with an empty one"
        ),
        Event::Refused { peer, reason } => {
            format!("refuses to speak with replica {peer}: {reason}")
        }
        Event::ClockSkew { peer, ahead_us } => {
            let seconds = ahead_us.unsigned_abs() / 1_000_000;
            let side = if *ahead_us > 0 { "ahead" } else { "behind" };
            format!("the clock of replica {peer} is {seconds} s {side}: check both")
        }
    }
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
    use crate::types::{Index, Stamp, Term};

    #[test]
    fn events_read_as_sentences() {
        let adopted = Event::Adopted {
            from: ReplicaId(2),
            last: Stamp::new(Term(3), Index(9)),
        };
        assert_eq!(
            describe(&adopted),
            "adopted the copy that ends at (3,9) from replica 2"
        );
        let waiting = Event::WaitingFor(vec![ReplicaId(2), ReplicaId(3)]);
        assert_eq!(describe(&waiting), "waiting for replicas 2, 3");
    }
}
