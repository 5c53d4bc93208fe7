//! Messages: what was promised against what is there at the end, what looks at inboxes showed, and
//! what listeners heard.

use crate::history::{Delivered, Heard, Looked, Micros, Outcome, Sent};
use std::collections::BTreeMap;

/// Each inbox as it is at the end, in the order of its places.
pub type Inboxes = BTreeMap<String, Vec<Delivered>>;

/// Findings of one kind that are told; more only repeat what is known.
const EACH_MAX: usize = 10;

/// What was compared, and what is wrong.
#[derive(Debug, Default)]
pub struct Judged {
    /// Messages that were acknowledged.
    pub acknowledged: usize,
    /// Without an outcome, and there at the end.
    pub unknown_applied: usize,
    /// Without an outcome, and not there.
    pub unknown_lost: usize,
    /// Certainly not done, as clients were told.
    pub refused: usize,
    /// Looks at inboxes.
    pub looks: usize,
    /// Messages that listeners heard.
    pub heard: usize,
    /// Sentences.
    pub findings: Vec<String>,
}

/// Judges everything about messages.
pub fn check(sent: &[Sent], looked: &[Looked], heard: &[Heard], inboxes: &Inboxes) -> Judged {
    let mut judged = Judged::default();
    let by_number: BTreeMap<u64, &Sent> = sent.iter().map(|sent| (sent.number, sent)).collect();
    let mut places: BTreeMap<u64, Vec<(&String, Delivered)>> = BTreeMap::new();
    for (inbox, messages) in inboxes {
        for message in messages {
            places.entry(message.2).or_default().push((inbox, *message));
        }
        judged.tell(inbox_is_whole(inbox, messages));
    }
    let doubled = places.iter().filter(|(_, found)| found.len() > 1);
    judged.tell(
        doubled.map(|(number, found)| format!("message {number} is there {} times", found.len())),
    );
    let forged = places
        .iter()
        .filter(|(number, _)| !by_number.contains_key(number));
    judged.tell(forged.map(|(number, _)| format!("message {number} was never sent")));
    let misplaced: Vec<String> = sent
        .iter()
        .filter_map(|sent| judged.promise(sent, places.get(&sent.number)))
        .collect();
    judged.tell(misplaced);
    judged.tell(real_time_order(sent, &by_number, inboxes));
    judged.looks = looked.len();
    judged.tell(looks_are_fresh(sent, looked, inboxes));
    for heard in heard {
        judged.heard += heard.messages.len();
        judged.tell(heard_in_order(heard, &by_number, inboxes));
    }
    judged
}

impl Judged {
    fn tell(&mut self, findings: impl IntoIterator<Item = String>) {
        let mut findings = findings.into_iter();
        self.findings.extend(findings.by_ref().take(EACH_MAX));
        let more = findings.count();
        if more > 0 {
            self.findings
                .push(format!("… and {more} more of this kind"));
        }
    }

    /// An acknowledged message is where its receipt says, one that was refused is nowhere.
    fn promise(
        &mut self,
        sent: &Sent,
        found: Option<&Vec<(&String, Delivered)>>,
    ) -> Option<String> {
        let number = sent.number;
        let first = found.and_then(|found| found.first());
        match (&sent.outcome, first) {
            (Outcome::Ok(_), _) => self.acknowledged += 1,
            (Outcome::Not, _) => self.refused += 1,
            (Outcome::Unknown, Some(_)) => self.unknown_applied += 1,
            (Outcome::Unknown, None) => self.unknown_lost += 1,
        }
        match (&sent.outcome, first) {
            (Outcome::Ok(place), None) => Some(format!(
                "LOST: message {number} to {} was acknowledged as message id {} at place {}, and \
                 is nowhere",
                sent.to, place.message_id, place.inbox_seq
            )),
            (Outcome::Ok(place), Some((inbox, (seq, id, _)))) => {
                let right = (*inbox, *seq, *id) == (&sent.to, place.inbox_seq, place.message_id);
                (!right).then(|| {
                    format!(
                        "message {number} was acknowledged as {place:?} of {}, and is at place \
                         {seq} of {inbox} with message id {id}",
                        sent.to
                    )
                })
            }
            (Outcome::Not, Some((inbox, (seq, ..)))) => Some(format!(
                "message {number}: the client was told that it was certainly not sent, and it is \
                 at place {seq} of {inbox}"
            )),
            (Outcome::Unknown, Some((inbox, _))) if **inbox != sent.to => Some(format!(
                "message {number} to {} is in the inbox of {inbox}",
                sent.to
            )),
            _ => None,
        }
    }
}

/// Places rise by one from 1, message ids rise.
fn inbox_is_whole(inbox: &str, messages: &[Delivered]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut last_id = 0;
    for (expected, (place, id, _)) in (1_u64..).zip(messages) {
        if *place != expected || *id <= last_id {
            findings.push(format!(
                "inbox of {inbox}: place {expected} is place {place} with message id {id} after \
                 message id {last_id}"
            ));
        }
        last_id = *id;
    }
    findings
}

/// A message that was acknowledged before another was sent comes before it in the log.
fn real_time_order(
    sent: &[Sent],
    by_number: &BTreeMap<u64, &Sent>,
    inboxes: &Inboxes,
) -> Vec<String> {
    let there = inboxes.values().flatten();
    let mut in_order: Vec<(u64, &Sent)> = there
        .filter_map(|(_, id, number)| Some((*id, *by_number.get(number)?)))
        .collect();
    in_order.sort_by_key(|(id, _)| *id);
    let mut findings = Vec::new();
    let mut latest: Option<&Sent> = None;
    for (_, message) in in_order {
        if let Some(before) = latest
            && matches!(message.outcome, Outcome::Ok(_))
            && message.returned < before.invoked
        {
            findings.push(format!(
                "message {} was acknowledged before message {} was sent, and comes after it",
                message.number, before.number
            ));
        }
        if latest.is_none_or(|latest| latest.invoked < message.invoked) {
            latest = Some(message);
        }
    }
    debug_assert!(sent.len() >= by_number.len());
    findings
}

/// A look shows a part of the inbox as it is at the end, and everything that was acknowledged
/// before it began.
fn looks_are_fresh(sent: &[Sent], looked: &[Looked], inboxes: &Inboxes) -> Vec<String> {
    let mut acknowledged: BTreeMap<&str, Vec<(Micros, u64)>> = BTreeMap::new();
    for sent in sent {
        if let Outcome::Ok(place) = sent.outcome {
            let list = acknowledged.entry(&sent.to).or_default();
            list.push((sent.returned, place.inbox_seq));
        }
    }
    for list in acknowledged.values_mut() {
        list.sort_unstable();
        // From here on: the highest place acknowledged by that time.
        let mut highest = 0;
        for (_, place) in list.iter_mut() {
            highest = highest.max(*place);
            *place = highest;
        }
    }
    let mut findings = Vec::new();
    for look in looked {
        let messages = look.messages.iter().copied();
        findings.extend(follows(
            &look.inbox,
            look.after,
            messages,
            inboxes,
            "a look",
        ));
        let shown = look.messages.last().map_or(look.after, |last| last.0);
        let list = acknowledged.get(look.inbox.as_str());
        let promised = list.and_then(|list| {
            let before = list.partition_point(|(returned, _)| *returned < look.invoked);
            list[..before].last()
        });
        if let Some((_, promised)) = promised
            && *promised > shown
        {
            findings.push(format!(
                "STALE: a look at the inbox of {} that began at {:.3} s ended at place {shown}, \
                 and place {promised} had been acknowledged before it began",
                look.inbox,
                look.invoked as f64 / 1e6
            ));
        }
    }
    findings
}

/// What a listener heard is the inbox from its beginning, without a gap, a duplicate or a rewind,
/// and nothing was heard before it was sent.
fn heard_in_order(
    heard: &Heard,
    by_number: &BTreeMap<u64, &Sent>,
    inboxes: &Inboxes,
) -> Vec<String> {
    let messages = heard.messages.iter().map(|(_, message)| *message);
    let mut findings: Vec<String> = follows(&heard.inbox, 0, messages, inboxes, "a listener")
        .into_iter()
        .collect();
    for (time, (_, _, number)) in &heard.messages {
        if by_number
            .get(number)
            .is_some_and(|sent| sent.invoked > *time)
        {
            findings.push(format!("message {number} was heard before it was sent"));
        }
    }
    findings
}

/// These messages are those of the inbox after this place, one after the other.
fn follows(
    inbox: &str,
    after: u64,
    messages: impl Iterator<Item = Delivered>,
    inboxes: &Inboxes,
    who: &str,
) -> Option<String> {
    let last = inboxes.get(inbox).map_or(&[][..], Vec::as_slice);
    let mut expected = after;
    for message in messages {
        expected += 1;
        let at_the_end = (expected as usize)
            .checked_sub(1)
            .and_then(|at| last.get(at));
        if message.0 != expected {
            return Some(format!(
                "{who} at the inbox of {inbox} saw place {} where place {expected} comes",
                message.0
            ));
        }
        if at_the_end != Some(&message) {
            return Some(format!(
                "{who} at the inbox of {inbox} saw {message:?} at place {expected}, which is \
                 {at_the_end:?} at the end"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Place;

    /// Number, times, and where it is said to be.
    fn sent(number: u64, invoked: Micros, returned: Micros, place: Option<(u64, u64)>) -> Sent {
        Sent {
            number,
            to: "a".into(),
            invoked,
            returned,
            outcome: place.map_or(Outcome::Unknown, |(inbox_seq, message_id)| {
                Outcome::Ok(Place {
                    message_id,
                    inbox_seq,
                })
            }),
        }
    }

    fn three() -> Vec<Sent> {
        vec![
            sent(1, 0, 10, Some((1, 100))),
            sent(2, 20, 30, Some((2, 101))),
            sent(3, 40, 50, Some((3, 102))),
        ]
    }

    fn inbox(messages: &[Delivered]) -> Inboxes {
        Inboxes::from([("a".to_owned(), messages.to_vec())])
    }

    const WHOLE: [Delivered; 3] = [(1, 100, 1), (2, 101, 2), (3, 102, 3)];

    fn found(sent: &[Sent], inboxes: &Inboxes) -> String {
        check(sent, &[], &[], inboxes).findings.join("\n")
    }

    #[test]
    fn a_good_history_has_no_findings() {
        let judged = check(&three(), &[], &[], &inbox(&WHOLE));
        assert_eq!((judged.acknowledged, judged.findings), (3, Vec::new()));
    }

    #[test]
    fn losses_doubles_forgeries_and_lies_are_found() {
        assert!(found(&three(), &inbox(&WHOLE[..2])).contains("LOST: message 3"));
        let doubled = [WHOLE[0], WHOLE[1], WHOLE[2], (4, 103, 2)];
        assert!(found(&three(), &inbox(&doubled)).contains("message 2 is there 2 times"));
        assert!(found(&three()[..2], &inbox(&WHOLE)).contains("message 3 was never sent"));
        let mut refused = three();
        refused[2].outcome = Outcome::Not;
        assert!(found(&refused, &inbox(&WHOLE)).contains("certainly not sent"));
        let moved = [(1, 100, 1), (2, 101, 3), (3, 102, 2)];
        assert!(found(&three(), &inbox(&moved)).contains("was acknowledged as"));
        let gap = [WHOLE[0], (3, 102, 3)];
        assert!(found(&three(), &inbox(&gap)).contains("place 2 is place 3"));
    }

    #[test]
    fn an_unknown_outcome_may_be_there_once_or_not() {
        let mut unknown = three();
        unknown[2] = sent(3, 40, 50, None);
        assert_eq!(found(&unknown, &inbox(&WHOLE)), "");
        assert_eq!(found(&unknown, &inbox(&WHOLE[..2])), "");
        let doubled = [WHOLE[0], WHOLE[1], WHOLE[2], (4, 103, 3)];
        assert!(found(&unknown, &inbox(&doubled)).contains("2 times"));
    }

    #[test]
    fn an_order_against_real_time_is_found() {
        let sent = [
            sent(1, 0, 10, Some((2, 101))),
            sent(2, 20, 30, Some((1, 100))),
        ];
        let turned = inbox(&[(1, 100, 2), (2, 101, 1)]);
        assert!(found(&sent, &turned).contains("message 1 was acknowledged before message 2"));
    }

    #[test]
    fn a_stale_look_and_one_that_shows_something_else_are_found() {
        let look = |invoked, messages: &[Delivered]| Looked {
            inbox: "a".into(),
            invoked,
            after: 0,
            messages: messages.to_vec(),
        };
        let findings = |look| {
            check(&three(), &[look], &[], &inbox(&WHOLE))
                .findings
                .join("\n")
        };
        assert_eq!(findings(look(35, &WHOLE[..2])), "");
        assert_eq!(findings(look(30, &WHOLE[..1])), "", "not yet acknowledged");
        assert!(findings(look(31, &WHOLE[..1])).contains("STALE"));
        assert!(findings(look(35, &[WHOLE[0], (2, 101, 9)])).contains("which is"));
    }

    #[test]
    fn a_listener_hears_everything_once_and_in_order() {
        let findings = |messages: &[Delivered]| {
            let heard = Heard {
                inbox: "a".into(),
                messages: messages.iter().map(|message| (60, *message)).collect(),
                reconnects: 0,
            };
            check(&three(), &[], &[heard], &inbox(&WHOLE))
                .findings
                .join("\n")
        };
        assert_eq!(findings(&WHOLE), "");
        assert!(findings(&[WHOLE[0], WHOLE[2]]).contains("saw place 3 where place 2"));
        assert!(findings(&[WHOLE[0], WHOLE[0]]).contains("saw place 1 where place 2"));
        let early = Heard {
            inbox: "a".into(),
            messages: vec![(60, WHOLE[0]), (15, WHOLE[1])],
            reconnects: 0,
        };
        let findings = check(&three(), &[], &[early], &inbox(&WHOLE)).findings;
        assert!(findings[0].contains("heard before it was sent"));
    }
}
