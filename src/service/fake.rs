//! A replica for tests: a model in memory that can be told to fail.

use super::{Backend, Watcher};
use crate::replica::{Consistency, Outcomes, ReadError, Wake, WriteError, Written};
use crate::state_machine::{
    AccountInfo, Answer, Command, Credentials, Cursor, InboxMessage, NewToken, Operation,
    PasswordHash, Query, Refusal, Reply, SessionInfo,
};
use crate::types::{InboxSeq, Index, ReplicaId, RequestId, TokenHash, UserId, WallTime};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::mpsc;

/// What happens to a write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// It is refused and not applied.
    Refuse(WriteError),
    /// It is applied, and the outcome is lost.
    ApplyAndLose,
    /// It is refused by the state machine, not applied.
    Reply(Refusal),
    /// Another one changes this user's password first.
    PasswordChangesFirst(UserId),
}

#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) info: AccountInfo,
    pub(crate) password_hash: String,
    pub(crate) password_version: u32,
    pub(crate) inbox: Vec<InboxMessage>,
    cursors: BTreeMap<String, InboxSeq>,
}

struct Session {
    user: UserId,
    device: String,
    id: u64,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) accounts: BTreeMap<UserId, Account>,
    tokens: BTreeMap<TokenHash, Session>,
    replies: BTreeMap<RequestId, (Operation, Reply)>,
    watches: Vec<(UserId, TokenHash, mpsc::UnboundedSender<Wake>)>,
    /// The next faults of writes, first first.
    pub(crate) faults: VecDeque<Fault>,
    /// The next faults of reads.
    pub(crate) read_faults: VecDeque<ReadError>,
    /// Every attempt to write.
    pub(crate) writes: Vec<Command>,
    /// Every read.
    pub(crate) reads: Vec<(Query, Consistency)>,
    pub(crate) used: Vec<TokenHash>,
    pub(crate) primary: Option<ReplicaId>,
    /// This replica's copy may not be shown.
    pub(crate) damaged: bool,
    index: u64,
}

#[derive(Clone)]
pub(crate) struct Fake(Arc<Mutex<State>>);

impl Fake {
    pub(crate) fn new() -> Self {
        let state = State {
            primary: Some(ReplicaId(2)),
            ..State::default()
        };
        Self(Arc::new(Mutex::new(state)))
    }
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
    /// Wakes every stream.
    pub(crate) fn wake(&self, wake: &Wake) {
        for (_, _, sender) in &self.state().watches {
            let _ = sender.send(wake.clone());
        }
    }
}

impl Fake {
    fn write_now(&self, command: Command) -> Result<Written, WriteError> {
        let mut state = self.state();
        state.writes.push(command.clone());
        let fault = state.faults.pop_front();
        match fault {
            Some(Fault::Refuse(error)) => return Err(error),
            Some(Fault::Reply(refusal)) => return Ok(written(Reply::Refused(refusal), Index(0))),
            Some(Fault::PasswordChangesFirst(user)) => {
                state.accounts.get_mut(&user).unwrap().password_version += 1;
            }
            Some(Fault::ApplyAndLose) | None => {}
        }
        let reply = state.apply(&command);
        if matches!(fault, Some(Fault::ApplyAndLose)) {
            return Err(WriteError::OutcomeUnknown);
        }
        Ok(written(reply, Index(state.index)))
    }
}

impl Backend for Fake {
    type Watch = FakeWatch;

    async fn write(&self, command: Command) -> Result<Written, WriteError> {
        self.write_now(command)
    }

    fn write_many(&self, commands: Vec<(u64, Command)>, outcomes: &Arc<Outcomes>) {
        // Backwards: nobody may count on the order in which outcomes arrive.
        for (number, command) in commands.into_iter().rev() {
            outcomes.push(number, self.write_now(command));
        }
        outcomes.wake();
    }

    async fn read(&self, query: Query, consistency: Consistency) -> Result<Answer, ReadError> {
        let mut state = self.state();
        state.reads.push((query.clone(), consistency));
        match state.read_faults.pop_front() {
            Some(error) => Err(error),
            None => Ok(state.answer(query).unwrap_or_else(Answer::Refused)),
        }
    }

    fn watch(&self, user: UserId, token: TokenHash) -> FakeWatch {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.state().watches.push((user, token, sender));
        FakeWatch(receiver)
    }
    fn names(&self) -> Arc<Vec<String>> {
        let state = self.state();
        let mut names: Vec<_> = state
            .accounts
            .values()
            .map(|a| a.info.name.clone())
            .collect();
        names.sort();
        Arc::new(names)
    }
    fn token_used(&self, token: TokenHash) {
        self.state().used.push(token);
    }
    fn id(&self) -> ReplicaId {
        ReplicaId(1)
    }
    fn primary(&self) -> Option<ReplicaId> {
        self.state().primary
    }
    fn serves(&self) -> bool {
        let state = self.state();
        state.primary.is_some() && !state.damaged
    }
}

fn written(reply: Reply, index: Index) -> Written {
    Written { reply, index }
}

pub(crate) struct FakeWatch(mpsc::UnboundedReceiver<Wake>);

impl Watcher for FakeWatch {
    async fn next(&mut self) -> Wake {
        self.0.recv().await.unwrap_or(Wake::ShutDown)
    }
}

impl State {
    fn apply(&mut self, command: &Command) -> Reply {
        let id = command.request.expect("the service names every request");
        if let Some((operation, reply)) = self.replies.get(&id) {
            return match (operation, &command.operation, reply) {
                (
                    Operation::CreateAccount { name: was, .. },
                    Operation::CreateAccount { name, .. },
                    Reply::LoggedIn { account, .. },
                ) if was == name => Reply::AlreadyCreated { user: account.user },
                (
                    Operation::ChangePassword {
                        password_hash: was, ..
                    },
                    Operation::ChangePassword {
                        password_hash: now, ..
                    },
                    reply,
                ) if was == now => reply.clone(),
                (was, now, reply) if was == now => reply.clone(),
                _ => Reply::Refused(Refusal::RequestIdReused),
            };
        }
        self.index += 1;
        let reply = self.run(command).unwrap_or_else(Reply::Refused);
        self.replies
            .insert(id, (command.operation.clone(), reply.clone()));
        reply
    }

    fn run(&mut self, command: &Command) -> Result<Reply, Refusal> {
        let index = self.index;
        let session = command
            .auth
            .map(|auth| self.session(auth.token).map(|s| (auth.token, s)))
            .transpose()?;
        match (&command.operation, session) {
            (
                Operation::CreateAccount {
                    name,
                    full_name,
                    password_hash,
                    token,
                },
                None,
            ) => {
                if self.by_name(name).is_some() {
                    return Err(Refusal::NameTaken);
                }
                let info = AccountInfo {
                    user: UserId(index),
                    name: name.clone(),
                    full_name: full_name.clone(),
                    created: WallTime(index),
                };
                let account = Account {
                    info: info.clone(),
                    password_hash: password_hash.clone(),
                    password_version: 1,
                    inbox: Vec::new(),
                    cursors: BTreeMap::new(),
                };
                self.accounts.insert(info.user, account);
                Ok(self.log_in(info, token))
            }
            (
                Operation::IssueToken {
                    user,
                    password_version,
                    token,
                },
                None,
            ) => {
                let account = self.accounts.get(user).ok_or(Refusal::UserUnknown)?;
                if account.password_version != *password_version {
                    return Err(Refusal::PasswordChanged);
                }
                Ok(self.log_in(account.info.clone(), token))
            }
            (operation, Some((token, (user, device)))) => {
                self.run_as(operation, token, user, &device)
            }
            (_, None) => Err(Refusal::TokenInvalid),
        }
    }

    fn run_as(
        &mut self,
        operation: &Operation,
        token: TokenHash,
        user: UserId,
        device: &str,
    ) -> Result<Reply, Refusal> {
        let index = self.index;
        let account = self.accounts.get_mut(&user).ok_or(Refusal::TokenInvalid)?;
        match operation {
            Operation::RevokeOwnToken => self.revoke(|hash, _| *hash == token),
            Operation::RevokeSession { session } => {
                let mine = |s: &Session| s.user == user && s.id == *session;
                if !self.tokens.values().any(mine) {
                    return Err(Refusal::SessionUnknown);
                }
                self.revoke(|_, s| mine(s));
            }
            Operation::SendMessage {
                recipient,
                body,
                content_type,
            } => {
                let sender_name = account.info.name.clone();
                let to = self.by_name(recipient).ok_or(Refusal::RecipientUnknown)?;
                return Ok(self.put(
                    to,
                    InboxMessage {
                        id: Index(index),
                        seq: InboxSeq(0),
                        sender: user,
                        sender_name,
                        time: WallTime(index),
                        body: body.clone(),
                        content_type: content_type.clone(),
                    },
                ));
            }
            Operation::Acknowledge { up_to } => {
                if up_to.0 > account.inbox.len() as u64 {
                    return Err(Refusal::CursorBeyondEnd);
                }
                let cursor = account.cursors.entry(device.to_owned()).or_default();
                *cursor = (*cursor).max(*up_to);
                return Ok(Reply::Acknowledged { up_to: *cursor });
            }
            Operation::ChangePassword {
                password_hash,
                password_version,
            } => {
                if account.password_version != *password_version {
                    return Err(Refusal::PasswordChanged);
                }
                account.password_hash.clone_from(password_hash);
                account.password_version += 1;
                self.revoke(|hash, s| s.user == user && *hash != token);
            }
            Operation::UpdateProfile { full_name } => account.info.full_name.clone_from(full_name),
            Operation::DeleteAccount => {
                self.accounts.remove(&user);
                self.revoke(|_, s| s.user == user);
            }
            other => panic!("not an operation of a client: {other:?}"),
        }
        Ok(Reply::Done)
    }

    fn put(&mut self, to: UserId, mut message: InboxMessage) -> Reply {
        let inbox = &mut self.accounts.get_mut(&to).unwrap().inbox;
        message.seq = InboxSeq(inbox.len() as u64 + 1);
        let sent = Reply::Sent {
            id: message.id,
            inbox_seq: message.seq,
            time: message.time,
        };
        let wake = Wake::Inbox(message.seq);
        inbox.push(message);
        self.wake_user(to, &wake);
        sent
    }

    /// The newest message of this sender that the peer has acknowledged on some device.
    fn delivered(&self, peer: &str, sender: UserId) -> Index {
        let Some(peer) = self.by_name(peer).map(|user| &self.accounts[&user]) else {
            return Index(0);
        };
        let received = peer.cursors.values().max().copied().unwrap_or_default();
        let of_sender = peer.inbox.iter().rev();
        let mut of_sender = of_sender.filter(|m| m.seq <= received && m.sender == sender);
        of_sender.next().map_or(Index(0), |message| message.id)
    }

    fn answer(&self, query: Query) -> Result<Answer, Refusal> {
        Ok(match query {
            Query::Credentials { name } => Answer::Credentials(self.by_name(&name).map(|user| {
                let account = &self.accounts[&user];
                Credentials {
                    user,
                    password_hash: PasswordHash(account.password_hash.clone()),
                    password_version: account.password_version,
                }
            })),
            Query::WhoAmI { token } | Query::Check { token } => {
                let (user, device) = self.session(token)?;
                let account = &self.accounts[&user];
                Answer::WhoAmI {
                    account: account.info.clone(),
                    device,
                    password_version: account.password_version,
                    password_hash: PasswordHash(account.password_hash.clone()),
                }
            }
            Query::Sessions { token } => {
                let (user, _) = self.session(token)?;
                let mine = self.tokens.iter().filter(|(_, s)| s.user == user);
                Answer::Sessions(
                    mine.map(|(hash, s)| SessionInfo {
                        id: s.id,
                        device: s.device.clone(),
                        created: WallTime(s.id),
                        last_used: WallTime(s.id),
                        current: *hash == token,
                    })
                    .collect(),
                )
            }
            Query::Inbox {
                token,
                after,
                limit,
            } => {
                let (user, device) = self.session(token)?;
                let account = &self.accounts[&user];
                let acknowledged = account.cursors.get(&device).copied().unwrap_or_default();
                let after = after.unwrap_or(acknowledged).0 as usize;
                Answer::Inbox {
                    user,
                    messages: account
                        .inbox
                        .iter()
                        .skip(after)
                        .take(limit)
                        .cloned()
                        .collect(),
                    cursor: Cursor {
                        acknowledged,
                        first: InboxSeq(1),
                        last: InboxSeq(account.inbox.len() as u64),
                    },
                }
            }
            Query::Delivered { token, peers } => {
                let (user, _) = self.session(token)?;
                let marks = peers.iter().map(|peer| self.delivered(peer, user));
                Answer::Delivered(marks.collect())
            }
        })
    }

    fn log_in(&mut self, account: AccountInfo, token: &NewToken) -> Reply {
        let session = Session {
            user: account.user,
            device: token.device.clone(),
            id: self.index,
        };
        self.tokens.insert(token.hash, session);
        let session = self.index;
        Reply::LoggedIn { account, session }
    }

    fn session(&self, token: TokenHash) -> Result<(UserId, String), Refusal> {
        let session = self.tokens.get(&token).ok_or(Refusal::TokenInvalid)?;
        Ok((session.user, session.device.clone()))
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<UserId> {
        let account = self.accounts.values().find(|a| a.info.name == name)?;
        Some(account.info.user)
    }

    fn wake_user(&self, user: UserId, wake: &Wake) {
        for (_, _, sender) in self.watches.iter().filter(|(u, _, _)| *u == user) {
            let _ = sender.send(wake.clone());
        }
    }

    fn revoke(&mut self, which: impl Fn(&TokenHash, &Session) -> bool) {
        let Self {
            tokens, watches, ..
        } = self;
        tokens.retain(|hash, session| {
            let revoked = which(hash, session);
            for (_, _, sender) in watches.iter().filter(|(_, t, _)| revoked && t == hash) {
                let _ = sender.send(Wake::Revoked);
            }
            !revoked
        });
    }
}
