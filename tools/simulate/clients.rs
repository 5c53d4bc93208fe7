//! Simulated clients, and the history of what they were told.
//!
//! A client has an account, does one thing at a time, and retries with the same request id until
//! it knows the outcome. What it is told is compared with everything that any client was told
//! before: messages have one place for ever, come once, in the sender's order, and a read sees
//! what was acknowledged before it began.

use super::world::{Happening, World};
use chat::replica::{Consistency, Input, Ticket, WriteError, Written};
use chat::state_machine::{Auth, Command, NewToken, Operation, Query, Refusal, Reply};
use chat::types::{ClientId, InboxSeq, Index, RequestId, TokenHash, UserId};
use std::collections::BTreeMap;

/// Microseconds after which a client stops waiting.
const PATIENCE_US: u64 = 700_000;

/// What a client is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Create(TokenHash),
    Credentials,
    Login(TokenHash),
    Logout(TokenHash),
    Send {
        to: usize,
        number: u64,
    },
    Acknowledge(u64),
    Profile,
    Inbox {
        after: u64,
    },
    WhoAmI,
    /// A revoked token is tried again.
    Revoked(TokenHash),
    /// A second account is made, of a name that may have been another's before.
    Invite(TokenHash),
    /// And deleted again.
    Dismiss(TokenHash),
}

/// How a request is made.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Write(Command),
    Read(Query),
}

#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) what: What,
    pub(super) request: Request,
    /// 0: not on its way.
    pub(super) ticket: u64,
    /// An attempt may have been applied.
    pub(super) unsure: bool,
    /// What a read must see: the inbox's last acknowledged place.
    pub(super) floor: u64,
    /// Begun after the faults ended.
    pub(super) after_heal: bool,
}

/// One client.
pub struct Client {
    pub name: String,
    pub(super) id: ClientId,
    pub(super) sequence: u64,
    pub user: Option<UserId>,
    pub(super) token: Option<TokenHash>,
    pub(super) revoked: Vec<TokenHash>,
    /// Of its second account, while that lives.
    pub(super) guest: Option<TokenHash>,
    pub(super) pending: Option<Pending>,
    /// What is to be tried again under its id with a new token.
    pub(super) parked: Option<Pending>,
    pub(super) numbers: BTreeMap<usize, u64>,
    /// Last place of the inbox that was read.
    pub(super) seen: u64,
    pub(super) acknowledged: u64,
    pub(super) home: usize,
    pub acknowledged_after_heal: bool,
    /// Replicas from which the whole inbox is still to be read at the end.
    pub finals: Vec<usize>,
}

/// A message, as told: sender, the sender's number, message id.
type Told = (UserId, u64, Index);

/// What clients were told.
#[derive(Default)]
pub struct History {
    pub(super) inboxes: BTreeMap<(UserId, u64), Told>,
    /// Last acknowledged place of each inbox.
    pub(super) acknowledged: BTreeMap<UserId, u64>,
    pub(super) replies: BTreeMap<RequestId, Reply>,
    pub(super) next_ticket: u64,
    /// Clients begin nothing new.
    pub closing: bool,
}

impl World {
    /// Makes the clients.
    pub fn start_clients(&mut self) {
        for number in 0..self.plan.clients {
            let client = Client {
                name: format!("user{number}"),
                id: ClientId(self.rng.bytes()),
                sequence: 0,
                user: None,
                token: None,
                revoked: Vec::new(),
                guest: None,
                pending: None,
                parked: None,
                numbers: BTreeMap::new(),
                seen: 0,
                acknowledged: 0,
                home: 0,
                acknowledged_after_heal: false,
                finals: Vec::new(),
            };
            self.clients.push(client);
            let after = self.rng.around(50_000);
            self.schedule(after, Happening::Client { client: number });
        }
    }

    /// No client has anything on its way or to be done.
    pub fn clients_idle(&self) -> bool {
        self.clients
            .iter()
            .all(|c| c.pending.is_none() && c.parked.is_none() && c.finals.is_empty())
    }

    /// A client waits for what it has asked this replica to read.
    pub fn is_reading(&self, replica: usize) -> bool {
        let asked = |pending: &Pending| {
            let home = self.tickets.get(&pending.ticket).map(|(_, home)| *home);
            matches!(pending.request, Request::Read(_)) && home == Some(replica)
        };
        let mut pending = self.clients.iter().filter_map(|c| c.pending.as_ref());
        pending.any(asked)
    }

    /// Clients read everything once more, from every replica, and end.
    pub fn begin_final_reads(&mut self) {
        for client in 0..self.clients.len() {
            self.clients[client].finals = (0..self.members.len()).collect();
            self.schedule(1, Happening::Client { client });
        }
    }

    /// A client looks what to do.
    pub fn client_wakes(&mut self, at: usize) {
        if self.clients[at]
            .pending
            .as_ref()
            .is_some_and(|p| p.ticket != 0)
        {
            return;
        }
        if self.clients[at].token.is_some()
            && let Some(mut parked) = self.clients[at].parked.take()
        {
            if let Request::Write(command) = &mut parked.request {
                command.auth = self.clients[at].token.map(|token| Auth { token });
            }
            parked.ticket = 0;
            self.clients[at].pending = Some(parked);
        }
        if self.clients[at].pending.is_none() {
            let Some(what) = self.choose(at) else {
                return;
            };
            let request = self.request(at, &what);
            self.clients[at].pending = Some(Pending {
                what,
                request,
                ticket: 0,
                unsure: false,
                floor: 0,
                after_heal: self.healing,
            });
        }
        self.attempt(at);
    }

    fn choose(&mut self, at: usize) -> Option<What> {
        let fresh = TokenHash(self.rng.bytes());
        if self.clients[at].user.is_none() {
            return Some(What::Create(fresh));
        }
        let Some(token) = self.clients[at].token else {
            // Right after a logout, the revoked token is tried somewhere.
            let tried = self.clients[at].revoked.last().copied();
            if let Some(tried) = tried
                && self.rng.chance(500)
            {
                return Some(What::Revoked(tried));
            }
            return Some(What::Credentials);
        };
        if self.history.closing {
            let replica = self.clients[at].finals.last().copied()?;
            self.clients[at].home = replica;
            return Some(What::Inbox { after: 0 });
        }
        if self.healing && !self.clients[at].acknowledged_after_heal {
            return Some(self.choose_send(at));
        }
        let (seen, acknowledged) = (self.clients[at].seen, self.clients[at].acknowledged);
        Some(match self.rng.below(100) {
            0..60 => self.choose_send(at),
            60..75 => What::Inbox { after: seen },
            75..82 if seen > acknowledged => What::Acknowledge(seen),
            82..86 => What::WhoAmI,
            86..88 => What::Profile,
            88..90 => match self.clients[at].guest {
                Some(guest) => What::Dismiss(guest),
                None => What::Invite(fresh),
            },
            90..94 => What::Logout(token),
            _ => match self.clients[at].revoked.last().copied() {
                Some(revoked) => What::Revoked(revoked),
                None => What::WhoAmI,
            },
        })
    }

    fn choose_send(&mut self, at: usize) -> What {
        let known: Vec<usize> = (0..self.clients.len())
            .filter(|to| self.clients[*to].user.is_some())
            .collect();
        let to = *self.rng.pick(&known);
        let number = self.clients[at].numbers.entry(to).or_default();
        *number += 1;
        What::Send {
            to,
            number: *number,
        }
    }

    fn request(&mut self, at: usize, what: &What) -> Request {
        let name = self.clients[at].name.clone();
        let token = self.clients[at].token.unwrap_or_default();
        let new_token = |hash: &TokenHash, client: ClientId| NewToken {
            hash: *hash,
            device: "default".into(),
            client,
        };
        let id = self.clients[at].id;
        let operation = match what {
            What::Create(hash) | What::Invite(hash) => Operation::CreateAccount {
                full_name: format!("The user {name}"),
                name: match what {
                    What::Invite(_) => format!("{name}-guest"),
                    _ => name,
                },
                password_hash: "not a real hash".into(),
                token: new_token(hash, id),
            },
            What::Credentials => return Request::Read(Query::Credentials { name }),
            What::Login(_) => unreachable!("made when the credentials are there"),
            What::Logout(_) => Operation::RevokeOwnToken,
            What::Dismiss(_) => Operation::DeleteAccount,
            What::Send { to, number } => Operation::SendMessage {
                recipient: self.clients[*to].name.clone(),
                body: number.to_be_bytes().to_vec(),
                content_type: "text/plain".into(),
            },
            What::Acknowledge(up_to) => Operation::Acknowledge {
                up_to: InboxSeq(*up_to),
            },
            What::Profile => Operation::UpdateProfile {
                full_name: format!("{name} at {}", self.now),
            },
            What::Inbox { after } => {
                return Request::Read(Query::Inbox {
                    token,
                    after: Some(InboxSeq(*after)),
                    limit: if self.history.closing { 100_000 } else { 64 },
                });
            }
            What::WhoAmI => return Request::Read(Query::WhoAmI { token }),
            What::Revoked(token) => return Request::Read(Query::WhoAmI { token: *token }),
        };
        let mut command = self.command(at, operation);
        if let What::Dismiss(guest) = what {
            command.auth = Some(Auth { token: *guest });
        }
        Request::Write(command)
    }

    pub(super) fn command(&mut self, at: usize, operation: Operation) -> Command {
        let client = &mut self.clients[at];
        client.sequence += 1;
        let needs_login = !matches!(
            operation,
            Operation::CreateAccount { .. } | Operation::IssueToken { .. }
        );
        Command {
            auth: client
                .token
                .filter(|_| needs_login)
                .map(|token| Auth { token }),
            request: Some(RequestId {
                client: client.id,
                sequence: client.sequence,
            }),
            operation,
            front: false,
        }
    }

    fn attempt(&mut self, at: usize) {
        let n = self.members.len() as u64;
        if !self.history.closing && self.rng.chance(200) {
            self.clients[at].home = self.rng.below(n) as usize;
        }
        if let Some(What::Revoked(_)) = self.clients[at].pending.as_ref().map(|p| &p.what) {
            self.clients[at].home = self.rng.below(n) as usize;
        }
        let home = self.clients[at].home;
        if self.members[home].process.is_none() {
            self.clients[at].home = self.rng.below(n) as usize;
            self.schedule(3_000, Happening::Client { client: at });
            return;
        }
        self.history.next_ticket += 1;
        let ticket = self.history.next_ticket;
        let user = self.clients[at].user;
        let floor = user
            .and_then(|u| self.history.acknowledged.get(&u))
            .copied()
            .unwrap_or(0);
        let Some(pending) = self.clients[at].pending.as_mut() else {
            return;
        };
        pending.ticket = ticket;
        pending.floor = floor;
        let request = pending.request.clone();
        self.tickets.insert(ticket, (at, home));
        self.schedule(PATIENCE_US, Happening::ClientTimeout { client: at, ticket });
        let input = match request {
            Request::Write(command) => Input::Write(Ticket(ticket), command),
            Request::Read(query) => Input::Read(Ticket(ticket), query, Consistency::Linearizable),
        };
        self.feed(home, input);
    }

    /// The client has waited long enough.
    pub fn client_timeout(&mut self, at: usize, ticket: u64) {
        if self.clients[at]
            .pending
            .as_ref()
            .is_some_and(|p| p.ticket == ticket)
        {
            self.retry(at, true, 1_000);
        }
    }

    /// The replica is gone, and the answer with it.
    pub fn client_lost(&mut self, ticket: u64) {
        let waiting = |c: &Client| c.pending.as_ref().is_some_and(|p| p.ticket == ticket);
        if let Some(at) = self.clients.iter().position(waiting) {
            self.retry(at, true, 2_000);
        }
    }

    pub(super) fn retry(&mut self, at: usize, unsure: bool, mean_us: u64) {
        if let Some(pending) = self.clients[at].pending.as_mut() {
            pending.ticket = 0;
            pending.unsure |= unsure;
        }
        if !self.history.closing {
            self.clients[at].home = self.rng.below(self.members.len() as u64) as usize;
        }
        let after = self.rng.around(mean_us);
        self.schedule(after, Happening::Client { client: at });
    }

    /// A write has an outcome.
    pub fn on_written(
        &mut self,
        replica: usize,
        ticket: u64,
        outcome: Result<Written, WriteError>,
    ) {
        let Some((at, _)) = self.tickets.remove(&ticket) else {
            self.checker.fail("one outcome a request", || {
                format!("replica {} answers ticket {ticket} again", replica + 1)
            });
            return;
        };
        if let Ok(written) = &outcome {
            self.checker.on_acknowledged(replica, written.index);
        }
        self.note(|| format!("user{at} hears from {}: {outcome:?}", replica + 1));
        let Some(pending) = self.clients[at]
            .pending
            .clone()
            .filter(|p| p.ticket == ticket)
        else {
            return;
        };
        match outcome {
            Ok(_) if !self.believes() => self.retry(at, true, 2_000),
            Ok(written) => self.on_reply(at, pending, written.reply),
            Err(WriteError::OutcomeUnknown) => self.retry(at, true, 2_000),
            Err(_) => {
                self.maybe_abandon(at, &pending);
                self.retry(at, false, 3_000);
            }
        }
    }

    /// What was certainly not applied may be asked for under another id: if it was applied after
    /// all, the message comes twice.
    fn maybe_abandon(&mut self, at: usize, pending: &Pending) {
        let send = matches!(pending.what, What::Send { .. });
        if !send || pending.unsure || !self.rng.chance(200) {
            return;
        }
        self.checker.count("sends given up as not applied");
        let request = self.request(at, &pending.what);
        if let Some(pending) = self.clients[at].pending.as_mut() {
            pending.request = request;
        }
    }

    fn on_reply(&mut self, at: usize, pending: Pending, reply: Reply) {
        let name = self.clients[at].name.clone();
        self.check_once(&name, &pending, &reply);
        let expires = self.tokens_expire();
        let client = &mut self.clients[at];
        match (&pending.what, &reply) {
            (What::Create(token), Reply::LoggedIn { account, .. }) => {
                client.user = Some(account.user);
                client.token = Some(*token);
            }
            (What::Create(token), Reply::AlreadyCreated { user }) => {
                client.user = Some(*user);
                client.token = Some(*token);
            }
            (What::Login(token), Reply::LoggedIn { .. }) => client.token = Some(*token),
            (What::Logout(token), Reply::Done | Reply::Refused(Refusal::TokenInvalid)) => {
                client.revoked.push(*token);
                client.token = None;
            }
            (What::Send { to, number }, Reply::Sent { id, inbox_seq, .. }) => {
                self.on_sent(at, *to, *number, inbox_seq.0, *id);
            }
            (What::Acknowledge(_), Reply::Acknowledged { up_to }) => {
                client.acknowledged = client.acknowledged.max(up_to.0);
            }
            (What::Profile, Reply::Done) => {}
            (What::Invite(token), Reply::LoggedIn { .. } | Reply::AlreadyCreated { .. }) => {
                client.guest = Some(*token);
            }
            (What::Invite(_), Reply::Refused(Refusal::NameTaken)) => {
                // Below level 2 a late attempt makes a deleted account again.
                self.checker.count("guests who came back");
            }
            (What::Dismiss(token), Reply::Done | Reply::Refused(Refusal::TokenInvalid)) => {
                client.guest = None;
                client.revoked.push(*token);
                self.checker.count("accounts deleted");
            }
            (_, Reply::Refused(Refusal::TokenInvalid)) if expires => {
                // An earlier attempt may have been applied: with a new token, under the same id.
                client.token = None;
                client.parked = Some(pending);
                self.done(at);
                return;
            }
            (what, reply) => self
                .checker
                .fail("a request is answered as it must be", || {
                    format!("{name}: {what:?} came to {reply:?}")
                }),
        }
        if pending.after_heal {
            self.clients[at].acknowledged_after_heal = true;
        }
        self.done(at);
    }

    /// A request comes to one reply, however often it was made.
    fn check_once(&mut self, name: &str, pending: &Pending, reply: &Reply) {
        if let Request::Write(Command {
            request: Some(id), ..
        }) = &pending.request
            && !matches!(reply, Reply::Refused(_))
        {
            let known = self
                .history
                .replies
                .entry(*id)
                .or_insert_with(|| reply.clone());
            let same = *known == *reply || !matches!(reply, Reply::Sent { .. });
            self.checker
                .check(same, "a request is applied at most once", || {
                    format!("{name}: {id:?} came to {reply:?} after another reply")
                });
        }
    }

    pub(super) fn tokens_expire(&self) -> bool {
        self.plan.token_idle_us < 1 << 40
    }

    pub(super) fn done(&mut self, at: usize) {
        self.clients[at].pending = None;
        let after = self.rng.around(self.plan.think_us);
        self.schedule(after, Happening::Client { client: at });
    }

    pub(super) fn on_sent(&mut self, at: usize, to: usize, number: u64, place: u64, id: Index) {
        let (Some(sender), Some(user)) = (self.clients[at].user, self.clients[to].user) else {
            return;
        };
        self.checker.count("messages acknowledged");
        self.on_told(user, place, (sender, number, id));
        let last = self.history.acknowledged.entry(user).or_default();
        *last = place.max(*last);
    }

    pub(super) fn on_told(&mut self, user: UserId, place: u64, told: Told) {
        let known = *self.history.inboxes.entry((user, place)).or_insert(told);
        self.checker
            .check(known == told, "a message keeps its place", || {
                format!("inbox of {user}, place {place}: {known:?} and then {told:?}")
            });
    }
}
