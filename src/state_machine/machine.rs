//! The machine: applies entries one after the other, answers reads, hands out slices.

use super::block::Message;
use super::digest::{Lanes, state_digest};
use super::overlay::{ENTRY_RECORDS_MAX, Overlay, View};
use super::records::FRONTS;
use super::tokens::Session;
use super::transaction::Transaction;
use super::{
    Answer, Command, Notice, Operation, Query, Refusal, Reply, idempotency, inboxes, query,
    retention, scan, tokens, users,
};
use crate::limits::{DIGEST_EVERY, INBOX_MESSAGES_MAX};
use crate::storage::{Slice, StateReader, StorageError};
use crate::types::entry::{Entry, Kind};
use crate::types::{Hash, Index, LEVEL, Level, Members, TokenHash, UserId, WallTime};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cell::OnceCell;

/// Version of [`Slice::machine`].
const TOTALS_VERSION: u8 = 1;
/// Digests are kept at so many multiples of an index.
const DIGESTS_KEPT: usize = 4;

/// What one entry came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The reply to the one who asked; `None` for entries that are not commands.
    pub reply: Option<Reply>,
    /// For those who watch.
    pub notices: Vec<Notice>,
}

/// Travels in each slice; grows only at the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Totals {
    /// Sum over all logical records.
    pub total: Lanes,
    /// The level in force.
    pub level: Level,
    /// Ranges of invisible rows that wait for their removal.
    pub cleanups: u64,
    /// Digests at the last multiples of 1,024, oldest first.
    pub digests: Vec<(Index, Hash)>,
}

/// The state machine of one replica: totals, and what the store does not have yet.
///
/// Invariants:
/// - entries are applied in order, each once: `apply` asserts that the next one comes;
/// - what it computes depends on the entries alone: not on when slices are written, not on a
///   restart, not on the replica;
/// - the total is the sum over all logical records, as [`StateMachine::scan_digest`] finds it.
pub struct StateMachine {
    totals: Totals,
    members: Members,
    applied: Index,
    /// Hash of the last applied entry.
    head: Hash,
    /// The highest level that this build knows.
    knows: Level,
    overlay: Overlay,
    /// The digest at `applied`, once somebody has asked for it.
    digest: OnceCell<Hash>,
    /// Digests are kept at multiples of this index.
    digest_every: u64,
    /// Where the search for idle tokens goes on. Local: not part of the state.
    idle_position: Option<TokenHash>,
    /// Where the search for old messages goes on. Local, too.
    old_position: Option<UserId>,
    #[cfg(any(test, feature = "mutants"))]
    misapply: super::misapply::Misapply,
}

impl StateMachine {
    /// An empty machine (`None`), or one that stands where the store's last slice does.
    /// Fails if the slice's `machine` bytes are of an unknown format.
    pub fn open(slice: Option<&Slice>) -> Result<Self, StorageError> {
        Self::open_knowing(slice, LEVEL)
    }

    /// The same in a build whose highest level is this one.
    pub fn open_knowing(slice: Option<&Slice>, knows: Level) -> Result<Self, StorageError> {
        let mut machine = Self {
            totals: Totals {
                total: Lanes::ZERO,
                level: Level::default(),
                cleanups: 0,
                digests: Vec::new(),
            },
            members: Members::new(),
            applied: Index(0),
            head: Hash::default(),
            knows,
            overlay: Overlay::default(),
            digest: OnceCell::new(),
            digest_every: DIGEST_EVERY,
            idle_position: None,
            old_position: None,
            #[cfg(any(test, feature = "mutants"))]
            misapply: super::misapply::Misapply::default(),
        };
        let Some(slice) = slice else {
            return Ok(machine);
        };
        machine.totals = decode_totals(&slice.machine)?;
        check_level(machine.totals.level, knows)?;
        machine.members = slice.members.clone();
        machine.applied = slice.applied;
        machine.head = slice.hash;
        if machine.digest() != slice.digest {
            return Err(StorageError::Damaged(format!(
                "the state at index {} has totals whose digest is not the one stored beside them",
                slice.applied
            )));
        }
        Ok(machine)
    }

    /// Keeps digests at multiples of another index: for simulations, whose logs are short.
    pub fn keep_digests_every(&mut self, entries: u64) {
        self.digest_every = entries;
    }

    /// Applies the next entry. Errors are the disk's or an undecodable command's (stop the
    /// replica); a refusal is a reply.
    pub fn apply(
        &mut self,
        reader: &dyn StateReader,
        entry: &Entry,
    ) -> Result<Applied, StorageError> {
        assert_eq!(
            entry.index(),
            self.applied.next(),
            "entries are applied in order, each once"
        );
        self.digest = OnceCell::new();
        let mut applied = Applied {
            reply: None,
            notices: Vec::new(),
        };
        match entry.kind() {
            Kind::Formation => {
                let formation = entry.as_formation().ok_or_else(|| undecodable(entry))?;
                check_level(formation.level, self.knows)?;
                self.members = formation.members;
                self.totals.level = formation.level;
            }
            Kind::TermStart => {}
            Kind::ReplaceIncarnation => {
                let replaced = entry
                    .replace_incarnation()
                    .ok_or_else(|| undecodable(entry))?;
                self.members.insert(replaced.id, replaced.new);
            }
            Kind::RaiseLevel => {
                let level = entry.raise_level().ok_or_else(|| undecodable(entry))?;
                check_level(level, self.knows)?;
                self.totals.level = self.totals.level.max(level);
            }
            #[cfg(any(test, feature = "mutants"))]
            Kind::Command if self.misapply.strikes(entry) => {
                applied.reply = Some(Reply::Refused(Refusal::TokenInvalid));
            }
            Kind::Command => applied = self.apply_command(reader, entry)?,
        }
        self.applied = entry.index();
        self.head = entry.hash();
        if self.applied.0.is_multiple_of(self.digest_every) {
            let digest = self.digest();
            let digests = &mut self.totals.digests;
            digests.push((self.applied, digest));
            let excess = digests.len().saturating_sub(DIGESTS_KEPT);
            digests.drain(..excess);
        }
        if self.overlay.end_entry(entry.payload().len()) {
            self.freeze();
        }
        Ok(applied)
    }

    fn apply_command(
        &mut self,
        reader: &dyn StateReader,
        entry: &Entry,
    ) -> Result<Applied, StorageError> {
        let command = Command::decode(entry.payload()).ok_or_else(|| undecodable(entry))?;
        let before = self.overlay.dirty();
        let mut tx = Transaction::new(
            reader,
            &mut self.overlay,
            &mut self.totals,
            entry.index(),
            entry.time(),
        );
        let reply = run(&mut tx, &command)?;
        tx.clean_up_some(command.operation.cleans_up())?;
        let notices = tx.finish();
        assert!(
            self.overlay.dirty() - before <= ENTRY_RECORDS_MAX,
            "entry {} changed more records than any command may",
            entry.index()
        );
        Ok(Applied {
            reply: Some(reply),
            notices,
        })
    }

    /// Index of the last applied entry.
    pub fn applied(&self) -> Index {
        self.applied
    }
    /// State digest there.
    pub fn digest(&self) -> Hash {
        let of_now = || state_digest(&self.totals.total, &self.members, self.totals.level);
        *self.digest.get_or_init(of_now)
    }
    /// Digests at the last few multiples of 1,024.
    pub fn digests(&self) -> Vec<(Index, Hash)> {
        self.totals.digests.clone()
    }
    /// Membership as applied.
    pub fn members(&self) -> &Members {
        &self.members
    }
    /// The level in force.
    pub fn level(&self) -> Level {
        self.totals.level
    }
    /// Ranges of rows that nobody can see any more and that wait for their removal. Each command
    /// removes a few; where there are none, [`Operation::clean_up`] does.
    pub fn cleanups(&self) -> u64 {
        self.totals.cleanups
    }
    /// When this token was last used, as the log knows it; `None`: there is none.
    pub fn token_last_used(
        &self,
        reader: &dyn StateReader,
        token: &TokenHash,
    ) -> Result<Option<WallTime>, StorageError> {
        tokens::last_used(self.view(reader), token)
    }
    /// Records that are held in memory until slices with them are written.
    pub fn unwritten_records(&self) -> usize {
        self.overlay.records()
    }
    /// Bytes of the payloads of the entries that changed them.
    pub fn unwritten_bytes(&self) -> u64 {
        self.overlay.bytes()
    }

    /// Reads at the applied index: overlay first, then the store.
    pub fn query(&self, reader: &dyn StateReader, query: &Query) -> Result<Answer, StorageError> {
        query::answer(self.view(reader), query)
    }

    /// The oldest part of the overlay as a slice whose index is at most `commit_recorded` (commit
    /// records exist up to there), when it is full or `force`. The overlay keeps it until
    /// `slice_written`. At most one is out at a time: `None` while one is.
    ///
    /// `force` ends the current part even if its index is still above `commit_recorded`: it is
    /// handed out by a later call, instead of growing out of reach for ever.
    pub fn next_slice(&mut self, commit_recorded: Index, force: bool) -> Option<Slice> {
        if self.overlay.is_out() {
            return None;
        }
        if force && self.overlay.wants_freeze() {
            self.freeze();
        }
        self.overlay.next_slice(commit_recorded)
    }
    /// The slice handed out last is in the store (readers see it).
    pub fn slice_written(&mut self) {
        self.overlay.slice_written();
    }

    /// Tokens that have been idle for `idle_us` at `now`, at most `limit`: for `ExpireTokens`.
    /// Looks at a bounded number of tokens and goes on from there the next time, round and round.
    pub fn idle_tokens(
        &mut self,
        reader: &dyn StateReader,
        now: WallTime,
        idle_us: u64,
        limit: usize,
    ) -> Result<Vec<TokenHash>, StorageError> {
        let position = self.idle_position;
        let (idle, next) = query::idle_tokens(self.view(reader), position, now, idle_us, limit)?;
        self.idle_position = next;
        Ok(idle)
    }
    /// Users with messages that were sent before `before`: for `ExpireMessages`. Looks at a bounded
    /// number of inboxes and goes on from there the next time, round and round.
    pub fn old_inboxes(
        &mut self,
        reader: &dyn StateReader,
        before: WallTime,
    ) -> Result<Vec<UserId>, StorageError> {
        let position = self.old_position;
        let (old, next) = retention::old_inboxes(self.view(reader), position, before)?;
        self.old_position = next;
        Ok(old)
    }
    /// All account names with ids, ascending: for the name index at boot. Reads in pages.
    pub fn names(&self, reader: &dyn StateReader) -> Result<Vec<(String, UserId)>, StorageError> {
        users::names(self.view(reader))
    }
    /// Scans every record and recomputes every level of the digest; returns the total. With it
    /// `verify` compares what is stored with what was summed up. A level below the total that
    /// disagrees is an error that names the tree and the record.
    pub fn scan_digest(&self, reader: &dyn StateReader) -> Result<Hash, StorageError> {
        let view = View {
            cached: false,
            ..self.view(reader)
        };
        let total = scan::total(view)?;
        Ok(state_digest(&total, &self.members, self.totals.level))
    }

    /// What is applied wrongly on purpose.
    #[cfg(any(test, feature = "mutants"))]
    pub fn misapply(&mut self) -> &mut super::misapply::Misapply {
        &mut self.misapply
    }

    #[cfg(test)]
    pub(super) fn totals(&self) -> &Totals {
        &self.totals
    }
    #[cfg(test)]
    pub(super) fn replace(&mut self, overlay: Overlay, totals: Totals) {
        self.overlay = overlay;
        self.totals = totals;
        self.digest = OnceCell::new();
    }

    pub(super) fn view<'a>(&'a self, reader: &'a dyn StateReader) -> View<'a> {
        View {
            reader,
            overlay: &self.overlay,
            cached: true,
        }
    }

    /// Ends the overlay's open part at the applied index.
    fn freeze(&mut self) {
        let mut machine = vec![TOTALS_VERSION];
        rmp_serde::encode::write(&mut machine, &self.totals)
            .expect("plain structs always encode, and a vector never refuses bytes");
        self.overlay.freeze(Slice {
            applied: self.applied,
            hash: self.head,
            digest: self.digest(),
            members: self.members.clone(),
            machine: machine.into(),
            changes: Vec::new(),
        });
    }
}

/// Runs a command. A front's own id is looked up first: its repetition is the very same command.
fn run(tx: &mut Transaction<'_>, command: &Command) -> Result<Reply, StorageError> {
    let Some(request) = command.request.filter(|_| command.front) else {
        return execute(tx, command);
    };
    let operation = idempotency::command_hash(command);
    idempotency::register(tx, FRONTS, &request.client, 1)?;
    match idempotency::judge(tx.view(), FRONTS, &request, &operation)? {
        idempotency::Verdict::Refused(refusal) => Ok(Reply::Refused(refusal)),
        idempotency::Verdict::Repeated(row) => idempotency::reply_of(&row),
        idempotency::Verdict::New => {
            let reply = execute(tx, command)?;
            idempotency::remember(tx, FRONTS, &request, operation, None, &reply)?;
            Ok(reply)
        }
    }
}

fn execute(tx: &mut Transaction<'_>, command: &Command) -> Result<Reply, StorageError> {
    match &command.operation {
        Operation::CreateAccount {
            name,
            full_name,
            password_hash,
            token,
        } => {
            let new = users::NewAccount {
                name,
                full_name,
                password_hash,
                token,
            };
            users::create(tx, command, &new)
        }
        Operation::IssueToken {
            user,
            password_version,
            token,
        } => tokens::log_in(tx, command, *user, *password_version, token),
        Operation::ExtendTokens { tokens } => tokens::extend(tx, tokens),
        Operation::ExpireTokens { tokens, idle_us } => tokens::expire(tx, tokens, *idle_us),
        Operation::ExpireMessages { users, before } => retention::expire(tx, users, *before),
        Operation::RevokeOwnToken
        | Operation::RevokeSession { .. }
        | Operation::SendMessage { .. }
        | Operation::Acknowledge { .. }
        | Operation::ChangePassword { .. }
        | Operation::UpdateProfile { .. }
        | Operation::DeleteAccount => execute_authenticated(tx, command),
    }
}

/// The operations that need a token: it is judged here, whatever was seen when the request came.
fn execute_authenticated(
    tx: &mut Transaction<'_>,
    command: &Command,
) -> Result<Reply, StorageError> {
    let session = match &command.auth {
        Some(auth) => tokens::authenticate(tx.view(), &auth.token)?,
        None => None,
    };
    let Some(session) = session else {
        return Ok(Reply::Refused(Refusal::TokenInvalid));
    };
    let Some(request) = command.registered_request() else {
        return perform(tx, session, &command.operation);
    };
    let user = session.user();
    let operation = idempotency::operation_hash(&command.operation, &session);
    match idempotency::judge(tx.view(), user, &request, &operation)? {
        idempotency::Verdict::Refused(refusal) => Ok(Reply::Refused(refusal)),
        idempotency::Verdict::Repeated(row) => idempotency::reply_of(&row),
        idempotency::Verdict::New => {
            let reply = perform(tx, session, &command.operation)?;
            let gone = matches!(command.operation, Operation::DeleteAccount);
            if !gone {
                idempotency::remember(tx, user, &request, operation, None, &reply)?;
            }
            Ok(reply)
        }
    }
}

fn perform(
    tx: &mut Transaction<'_>,
    session: Session,
    operation: &Operation,
) -> Result<Reply, StorageError> {
    match operation {
        Operation::RevokeOwnToken => tokens::revoke_own(tx, session),
        Operation::RevokeSession { session: id } => tokens::revoke_session(tx, session, *id),
        Operation::SendMessage {
            recipient,
            body,
            content_type,
        } => send(tx, session, recipient, body, content_type),
        Operation::Acknowledge { up_to } => inboxes::acknowledge(tx, &session, *up_to),
        Operation::ChangePassword {
            password_hash,
            password_version,
        } => users::change_password(tx, session, password_hash, *password_version),
        Operation::UpdateProfile { full_name } => users::update_profile(tx, session, full_name),
        Operation::DeleteAccount => users::delete(tx, session),
        Operation::CreateAccount { .. }
        | Operation::IssueToken { .. }
        | Operation::ExtendTokens { .. }
        | Operation::ExpireTokens { .. }
        | Operation::ExpireMessages { .. } => {
            unreachable!("`execute` runs these without a session")
        }
    }
}

fn send(
    tx: &mut Transaction<'_>,
    session: Session,
    recipient: &str,
    body: &[u8],
    content_type: &str,
) -> Result<Reply, StorageError> {
    let Some(recipient) = users::find_user(tx.view(), recipient)? else {
        return Ok(Reply::Refused(Refusal::RecipientUnknown));
    };
    let message = Message {
        id: tx.index,
        sender: session.user(),
        sender_name: Cow::Borrowed(&session.account().name),
        time: tx.time,
        content_type: Cow::Borrowed(content_type),
        body: Cow::Borrowed(body),
    };
    let seq = inboxes::append(tx, recipient, &message, INBOX_MESSAGES_MAX)?;
    tx.notices.push(Notice::Inbox {
        user: recipient,
        seq,
    });
    Ok(Reply::Sent {
        id: message.id,
        inbox_seq: seq,
        time: message.time,
    })
}

fn decode_totals(bytes: &[u8]) -> Result<Totals, StorageError> {
    match bytes.split_first() {
        Some((&TOTALS_VERSION, body)) => rmp_serde::from_slice(body).map_err(|error| {
            StorageError::Damaged(format!("the machine's totals do not parse: {error}"))
        }),
        Some((version, _)) => Err(StorageError::Unusable(format!(
            "the machine's totals have unknown version {version}: a newer version wrote this \
             store; start that one"
        ))),
        None => Err(StorageError::Damaged(
            "the machine's totals are empty".to_owned(),
        )),
    }
}

/// May a build whose highest level is `knows` begin with this state? Says only that: damage is
/// found by who opens it.
pub fn check_level_of(slice: &Slice, knows: Level) -> Result<(), StorageError> {
    match decode_totals(&slice.machine) {
        Ok(totals) => check_level(totals.level, knows),
        Err(error @ StorageError::Unusable(_)) => Err(error),
        Err(_) => Ok(()),
    }
}

fn check_level(level: Level, knows: Level) -> Result<(), StorageError> {
    if level <= knows {
        return Ok(());
    }
    Err(StorageError::Unusable(format!(
        "the log is at level {level}, this build knows levels up to {knows}: start a newer version"
    )))
}

/// Its bytes are those that were hashed, so that this is no damage: nobody is to put such a store
/// aside.
fn undecodable(entry: &Entry) -> StorageError {
    StorageError::Unusable(format!(
        "log: the payload of entry {} does not parse: written by a newer version? Run that one",
        entry.index()
    ))
}
