//! What the replicas answer to the clients' reads, and whether it may be so.

use super::clients::{Pending, Request, What};
use super::world::{Happening, World};
use chat::replica::ReadError;
use chat::state_machine::{
    Answer, Credentials, Cursor, InboxMessage, NewToken, Operation, Refusal,
};
use chat::types::{Index, TokenHash, UserId};
use std::collections::BTreeMap;

impl World {
    /// A read has an outcome.
    pub fn on_answered(&mut self, replica: usize, ticket: u64, outcome: Result<Answer, ReadError>) {
        let Some((at, _)) = self.tickets.remove(&ticket) else {
            self.checker.fail("one outcome a request", || {
                format!("replica {} answers ticket {ticket} again", replica + 1)
            });
            return;
        };
        self.check_relayed(replica, outcome.is_ok());
        let Some(pending) = self.clients[at]
            .pending
            .clone()
            .filter(|p| p.ticket == ticket)
        else {
            return;
        };
        match outcome {
            Ok(_) if !self.believes() => {
                // The client goes on: what it writes next brings the log to the next digest. If all
                // wait for a login, an election does.
                if pending.what == What::Credentials || self.history.closing {
                    self.retry(at, false, 2_000);
                    if self.rng.chance(20) {
                        self.schedule(1_000, Happening::StopPrimary);
                    }
                } else {
                    self.done(at);
                }
            }
            Ok(answer) => self.on_answer(at, replica, &pending, answer),
            Err(_) => self.retry(at, false, 3_000),
        }
    }

    /// A replica whose state is doubted passes answers of others on, and gives none of its own.
    fn check_relayed(&mut self, replica: usize, answered: bool) {
        let doubted = self.checker.views[replica].quarantined;
        let Some(process) = self.members[replica].process.as_mut() else {
            return;
        };
        if !answered {
            return;
        }
        let relayed = process.relayed > 0;
        process.relayed = process.relayed.saturating_sub(1);
        if doubted {
            self.checker.count("reads passed on");
            self.checker
                .check(relayed, "a quarantined replica serves nothing", || {
                    format!("replica {} answers a read", replica + 1)
                });
        }
    }

    fn on_answer(&mut self, at: usize, replica: usize, pending: &Pending, answer: Answer) {
        self.checker.count("reads answered");
        let name = self.clients[at].name.clone();
        match (&pending.what, answer) {
            (What::Credentials, Answer::Credentials(Some(found))) => {
                self.log_in(at, pending, &found);
                return;
            }
            (
                What::Inbox { after },
                Answer::Inbox {
                    messages,
                    cursor,
                    user,
                },
            ) => {
                let seen = (user, *after, messages, cursor);
                self.on_inbox(at, replica, pending.floor, seen);
            }
            (What::WhoAmI, Answer::WhoAmI { account, .. }) => {
                let right = self.clients[at].user == Some(account.user);
                self.checker.check(right, "a token names its account", || {
                    format!("{name} is told {account:?}")
                });
            }
            (What::Inbox { .. } | What::WhoAmI, Answer::Refused(Refusal::TokenInvalid))
                if self.tokens_expire() =>
            {
                self.clients[at].token = None;
            }
            (What::Revoked(_), Answer::Refused(Refusal::TokenInvalid)) => {
                self.checker.count("revoked tokens refused");
            }
            (What::Revoked(token), Answer::WhoAmI { .. }) => {
                self.checker
                    .fail("a revoked token is never judged valid", || {
                        format!("{name}: {token:?} on replica {}", replica + 1)
                    });
            }
            (what, answer) => self
                .checker
                .fail("a request is answered as it must be", || {
                    format!("{name}: {what:?} came to {answer:?}")
                }),
        }
        self.done(at);
    }

    /// At the end: every inbox is gapless, has what was acknowledged, and each sender's messages
    /// once and in order.
    pub fn check_history(&mut self) {
        let mut last: Option<(UserId, u64, Index)> = None;
        let mut next: BTreeMap<(UserId, UserId), u64> = BTreeMap::new();
        let inboxes = std::mem::take(&mut self.history.inboxes);
        for (&(user, place), &(sender, number, id)) in &inboxes {
            let expected = match last {
                Some((before, place, _)) if before == user => place + 1,
                _ => 1,
            };
            self.checker
                .check(place == expected, "an inbox has no gap", || {
                    format!("inbox of {user}: {place} where {expected} is expected")
                });
            let rises = last.is_none_or(|(before, _, other)| before != user || other < id);
            self.checker
                .check(rises, "an inbox is in the log's order", || {
                    format!("inbox of {user} at {place}")
                });
            let expected = next.entry((user, sender)).or_insert(1);
            let right = *expected == number;
            self.checker
                .check(right, "each message once and in order", || {
                    format!("inbox of {user}: {number} of {sender} where {expected} is expected")
                });
            *expected = number + 1;
            last = Some((user, place, id));
        }
        for (user, place) in std::mem::take(&mut self.history.acknowledged) {
            let there = inboxes.contains_key(&(user, place));
            self.checker
                .check(there, "what was acknowledged is there", || {
                    format!("inbox of {user}: {place} is missing")
                });
        }
    }

    /// The password is right: asks for a token.
    fn log_in(&mut self, at: usize, pending: &Pending, found: &Credentials) {
        let token = TokenHash(self.rng.bytes());
        let operation = Operation::IssueToken {
            user: found.user,
            password_version: found.password_version,
            token: NewToken {
                hash: token,
                device: "default".into(),
                client: self.clients[at].id,
            },
        };
        let command = self.command(at, operation);
        self.clients[at].pending = Some(Pending {
            what: What::Login(token),
            request: Request::Write(command),
            ticket: 0,
            ..pending.clone()
        });
        self.schedule(1, Happening::Client { client: at });
    }

    /// Messages after a place: gapless, and not fewer than were acknowledged before.
    fn on_inbox(
        &mut self,
        at: usize,
        replica: usize,
        floor: u64,
        (user, after, messages, cursor): (UserId, u64, Vec<InboxMessage>, Cursor),
    ) {
        let name = self.clients[at].name.clone();
        self.checker.check(
            cursor.last.0 >= floor,
            "a read sees what was acknowledged before it began",
            || {
                format!(
                    "{name} on replica {}: inbox ends at {}, acknowledged was {floor}",
                    replica + 1,
                    cursor.last
                )
            },
        );
        for (place, message) in (after + 1..).zip(&messages) {
            let gapless = message.seq.0 == place;
            self.checker.check(gapless, "an inbox has no gap", || {
                format!("{name}: {} where {place} is expected", message.seq)
            });
            let number = message.body.as_slice().try_into();
            let number = number.map_or(0, u64::from_be_bytes);
            self.on_told(user, place, (message.sender, number, message.id));
        }
        let client = &mut self.clients[at];
        client.seen = client.seen.max(after + messages.len() as u64);
        if self.history.closing {
            client.finals.pop();
        }
    }
}
