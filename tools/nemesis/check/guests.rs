//! Accounts that are deleted in the middle of what is sent to them and by them.
//!
//! What begins after the deletion was acknowledged is refused; what ended before it was asked for is
//! not; in between both may be. The inbox goes with the account: the next one of this name begins with
//! an empty one, in which nothing may be that somebody has an answer for.

use crate::history::{Answer, Attempt, Guest, Micros};
use std::collections::BTreeMap;

/// What was compared, and what is wrong.
#[derive(Debug, Default)]
pub struct GuestsJudged {
    /// Accounts whose deletion was acknowledged.
    pub deleted: usize,
    /// Sends to them and by them.
    pub sends: usize,
    /// Of those, refused because the account was gone.
    pub refused: usize,
    /// Names that were taken again.
    pub again: usize,
    /// Sentences.
    pub findings: Vec<String>,
}

/// Judges each by itself.
pub fn check(guests: &[Guest]) -> GuestsJudged {
    let mut judged = GuestsJudged::default();
    for guest in guests {
        let gone =
            |attempt: &&Attempt| matches!(attempt.answer, Answer::NoRecipient | Answer::NoSender);
        judged.deleted += usize::from(guest.deleted.is_some());
        judged.sends += guest.attempts.len();
        judged.refused += guest.attempts.iter().filter(gone).count();
        judged.again += usize::from(guest.next_inbox.is_some());
        let findings = guest
            .attempts
            .iter()
            .filter_map(|attempt| guest.ends(attempt));
        let findings = findings.chain(guest.inbox()).chain(guest.next());
        let name = &guest.name;
        judged
            .findings
            .extend(findings.map(|finding| format!("deleted account {name}: {finding}")));
    }
    judged
}

impl Guest {
    /// An account that is gone takes part in nothing, and one that is there is not refused.
    fn ends(&self, attempt: &Attempt) -> Option<String> {
        let number = attempt.number;
        match attempt.answer {
            Answer::Accepted(_) => {
                let after = self
                    .deleted
                    .is_some_and(|deleted| attempt.invoked > deleted);
                after.then(|| {
                    format!("message {number} was sent after the deletion's end, and accepted")
                })
            }
            Answer::NoRecipient if !attempt.to_guest => Some(format!(
                "message {number} to another account was refused: no such recipient"
            )),
            Answer::NoRecipient | Answer::NoSender => {
                let before = attempt.returned < self.deletion;
                before.then(|| {
                    format!("message {number} was refused before the deletion was asked for")
                })
            }
            Answer::NotDone | Answer::Unknown => None,
        }
    }

    /// What was heard and what receipts say are parts of one inbox.
    fn inbox(&self) -> Vec<String> {
        let mut findings = Vec::new();
        let sent: BTreeMap<u64, &Attempt> = self.attempts.iter().map(|a| (a.number, a)).collect();
        let mut inbox: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (expected, (time, (place, id, number))) in (1_u64..).zip(&self.heard) {
            if *place != expected {
                findings.push(format!(
                    "its listener heard place {place} where {expected} comes"
                ));
            }
            match sent.get(number) {
                Some(attempt) if attempt.was_sent_by(*time) => {}
                _ => findings.push(format!(
                    "its listener heard message {number}, which nobody had sent to it"
                )),
            }
            inbox.insert(*place, (*id, *number));
        }
        let last_heard = self.heard.len() as u64;
        let to_it = self.attempts.iter().filter(|attempt| attempt.to_guest);
        for attempt in to_it {
            let number = attempt.number;
            let Answer::Accepted(place) = attempt.answer else {
                continue;
            };
            let said = (place.message_id, number);
            let known = inbox.insert(place.inbox_seq, said);
            let skipped = known.is_none() && place.inbox_seq <= last_heard;
            if skipped || known.is_some_and(|known| known != said) {
                findings.push(format!(
                    "message {number} was acknowledged as {place:?}, where {known:?} is"
                ));
            }
        }
        let numbers: BTreeMap<u64, u64> = inbox.iter().map(|(p, (_, n))| (*n, *p)).collect();
        if numbers.len() < inbox.len() {
            findings.push("a message is there twice".to_owned());
        }
        let ids: Vec<u64> = inbox.values().map(|(id, _)| *id).collect();
        if !ids.is_sorted_by(|one, next| one < next) {
            findings.push("message ids do not rise with the places".to_owned());
        }
        findings
    }

    /// The next account of the name has nothing of this one.
    fn next(&self) -> Vec<String> {
        let mut findings = Vec::new();
        let inbox = self.next_inbox.as_deref().unwrap_or_default();
        for (expected, (place, _, number)) in (1_u64..).zip(inbox) {
            if *place != expected {
                findings.push(format!(
                    "the inbox of the next account of the name shows place {place} where \
                     {expected} comes"
                ));
            }
            let attempt = self.attempts.iter().find(|a| a.number == *number);
            // A send without an answer may have been applied after the name was taken again; a
            // sender that was deleted has sent nothing since.
            let late = attempt.is_some_and(|a| a.answer == Answer::Unknown && !a.by_guest);
            if !late {
                findings.push(format!(
                    "message {number} is in the inbox of the next account of the name"
                ));
            }
        }
        findings
    }
}

impl Attempt {
    /// To the guest, before this, and by all that its sender knows it may be in the inbox.
    fn was_sent_by(&self, time: Micros) -> bool {
        let refused = matches!(self.answer, Answer::NoRecipient | Answer::NotDone);
        self.to_guest && self.invoked <= time && !refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Place;

    fn attempt(number: u64, invoked: Micros, answer: Answer) -> Attempt {
        Attempt {
            number,
            to_guest: true,
            by_guest: false,
            invoked,
            returned: invoked + 5,
            answer,
        }
    }

    fn accepted(inbox_seq: u64) -> Answer {
        Answer::Accepted(Place {
            message_id: 100 + inbox_seq,
            inbox_seq,
        })
    }

    /// Deleted between 50 and 60, with one message that came in time, one that came while it went,
    /// one that was refused, and one that nobody knows of.
    fn guest() -> Guest {
        Guest {
            name: "g".into(),
            deletion: 50,
            deleted: Some(60),
            attempts: vec![
                attempt(1, 10, accepted(1)),
                attempt(2, 52, accepted(2)),
                attempt(3, 55, Answer::NoRecipient),
                attempt(4, 58, Answer::Unknown),
                attempt(5, 61, Answer::NoRecipient),
            ],
            heard: vec![(20, (1, 101, 1))],
            next_inbox: Some(Vec::new()),
        }
    }

    fn found(change: impl FnOnce(&mut Guest)) -> String {
        let mut guest = guest();
        change(&mut guest);
        check(&[guest]).findings.join("\n")
    }

    #[test]
    fn a_good_end_has_no_findings() {
        let judged = check(&[guest()]);
        assert_eq!(judged.findings, Vec::<String>::new());
        assert_eq!(
            (judged.deleted, judged.sends, judged.refused, judged.again),
            (1, 5, 2, 1)
        );
        // It may have been applied after the name was taken again.
        assert_eq!(
            found(|guest| guest.next_inbox = Some(vec![(1, 200, 4)])),
            ""
        );
        // Without the acknowledgement nothing is promised yet.
        let open = found(|guest| {
            guest.deleted = None;
            guest.attempts[4].answer = accepted(3);
        });
        assert_eq!(open, "");
    }

    #[test]
    fn who_is_gone_takes_part_in_nothing_and_who_is_there_is_not_refused() {
        let late = found(|guest| guest.attempts[4].answer = accepted(3));
        assert!(late.contains("message 5 was sent after the deletion's end"));
        let ghost = found(|guest| {
            guest.attempts[4].by_guest = true;
            guest.attempts[4].to_guest = false;
            guest.attempts[4].answer = accepted(3);
        });
        assert!(ghost.contains("message 5 was sent after the deletion's end"));
        for answer in [Answer::NoRecipient, Answer::NoSender] {
            let early = found(|guest| {
                guest.heard.clear();
                guest.attempts[0].answer = answer;
            });
            assert!(early.contains("message 1 was refused before"));
        }
        let harmed = found(|guest| guest.attempts[2].to_guest = false);
        assert!(harmed.contains("message 3 to another account was refused"));
    }

    #[test]
    fn its_inbox_is_one() {
        let gap = found(|guest| guest.heard[0].1.0 = 2);
        assert!(gap.contains("heard place 2 where 1 comes"));
        let forged = found(|guest| guest.heard[0].1.2 = 9);
        assert!(forged.contains("message 9, which nobody had sent to it"));
        let early = found(|guest| guest.heard[0].0 = 9);
        assert!(early.contains("message 1, which nobody had sent to it"));
        let refused = found(|guest| guest.heard.push((56, (2, 102, 3))));
        assert!(refused.contains("message 3, which nobody had sent to it"));
        let other = found(|guest| guest.heard.push((54, (2, 102, 4))));
        assert!(other.contains("message 2 was acknowledged as"));
        let twice = found(|guest| guest.attempts[1].answer = accepted(1));
        assert!(twice.contains("message 2 was acknowledged as"));
        let again = found(|guest| guest.heard.push((30, (2, 102, 1))));
        assert!(again.contains("message 2 was acknowledged as"));
        let doubled = found(|guest| {
            guest.attempts[1].answer = Answer::Unknown;
            guest.heard.push((30, (2, 102, 1)));
        });
        assert!(doubled.contains("a message is there twice"));
        let turned = found(|guest| {
            guest.attempts[1].answer = Answer::Accepted(Place {
                message_id: 99,
                inbox_seq: 2,
            });
        });
        assert!(turned.contains("message ids do not rise"));
    }

    #[test]
    fn the_next_account_of_the_name_begins_with_nothing() {
        for (number, place) in [(1, 1), (2, 1), (3, 1), (9, 1)] {
            let inherited = found(|guest| guest.next_inbox = Some(vec![(place, 200, number)]));
            assert!(
                inherited.contains("in the inbox of the next account"),
                "{number}"
            );
        }
        let offset = found(|guest| guest.next_inbox = Some(vec![(3, 200, 4)]));
        assert!(offset.contains("shows place 3 where 1 comes"));
    }
}
