//! Accounts that several clients fight over: they create it at once, log in, use, revoke and share
//! its tokens, change its password, delete it and create it anew. Short histories, so that the search
//! over their orders ends.

use super::{Crowd, History, Phase, patience};
use crate::check::account::Action;
use crate::history::{Call, Micros};
use chat::client::{Class, Client, ClientError, Cluster, NewAccount, SessionData};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Clients of an account at once.
const WORKERS: u32 = 3;
/// Operations of each. Logins stay below the 16 clients and 32 tokens that an account keeps.
const OPERATIONS: u32 = 14;
/// Tokens of an account that are tried once more at the end.
const LAST_TOKENS: usize = 3;
/// Between two operations of a worker, in milliseconds. Each password costs tens of them.
const THINK_MS: std::ops::Range<u64> = 10..200;

/// What the workers know of their account together.
#[derive(Default)]
struct Board {
    tokens: Vec<Token>,
    /// Those that may be in force, the newest last.
    passwords: Vec<u32>,
    /// The account was deleted, and nobody is known to have created the next one.
    gone: bool,
}

#[derive(Clone)]
struct Token {
    number: u32,
    data: SessionData,
    /// Request ids under this login, whoever uses it.
    next_sequence: Arc<AtomicU64>,
}

/// What a token is for besides being used. None is for both: the password that comes with a deletion
/// is compared when the request arrives, and if this very login changes it in that moment, the
/// deletion still is one by the owner's login. Any other login that changes it ends this one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Deletes,
    Changes,
}

/// An account when its workers are done.
pub struct Left {
    name: String,
    tokens: Vec<Token>,
}

struct Arena {
    crowd: Crowd,
    name: String,
    numbers: AtomicU32,
    board: Mutex<Board>,
    observer: SessionData,
}

/// Fights over one account after the other until the phase is over.
pub async fn fight(crowd: Crowd) -> Vec<Left> {
    let mut left = Vec::new();
    let Some((_, observer)) = crowd.account("o").await else {
        return left;
    };
    while crowd.phase() == Phase::Run {
        let arena = Arc::new(Arena {
            name: format!("a{}", crowd.number()),
            numbers: AtomicU32::new(WORKERS),
            board: Mutex::default(),
            observer: observer.session().data(),
            crowd: crowd.clone(),
        });
        let mut workers = JoinSet::new();
        for number in 0..WORKERS {
            let arena = Arc::clone(&arena);
            workers.spawn(async move { arena.work(number).await });
        }
        while workers.join_next().await.is_some() {}
        let tokens = std::mem::take(&mut arena.board().tokens);
        left.push(Left {
            name: arena.name.clone(),
            tokens,
        });
    }
    left
}

impl Arena {
    async fn work(&self, worker: u32) {
        let Ok(cluster) = self.crowd.cluster(patience()) else {
            return;
        };
        // Each begins with a password of its own: one of them wins.
        self.create(&cluster, worker).await;
        for _ in 0..OPERATIONS {
            if self.crowd.phase() != Phase::Run {
                return;
            }
            sleep(Duration::from_millis(rand::random_range(THINK_MS))).await;
            let Ok(cluster) = self.crowd.cluster(patience()) else {
                return;
            };
            match rand::random_range(0..100) {
                0..50 if self.is_gone() => self.create_next(&cluster).await,
                0..3 => self.create_next(&cluster).await,
                3..18 => self.login(&cluster).await,
                18..62 => self.who_am_i(&cluster).await,
                62..76 => self.list(&cluster).await,
                76..84 => self.log_out(&cluster).await,
                84..92 => self.delete(&cluster).await,
                _ => self.change(&cluster).await,
            }
        }
    }

    /// Under a password that no account of this name had.
    async fn create_next(&self, cluster: &Cluster) {
        let password = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.create(cluster, password).await;
    }

    async fn create(&self, cluster: &Cluster, password: u32) {
        let invoked = self.now();
        let account = NewAccount::named(&self.name, &self.password(password));
        let result = Client::create_account(cluster, account).await;
        let unknown = Action::Created {
            password,
            token: None,
        };
        match result {
            Ok(client) => {
                let token = Some(self.keep(&client));
                self.took_effect(password);
                self.ok(invoked, Action::Created { password, token });
            }
            Err(error) if error.reason == "NAME_TAKEN" => {
                self.ok(invoked, Action::NameTaken);
                // An earlier attempt may have been the one that took it, if the password has
                // changed since.
                self.perhaps(invoked, unknown);
                let mut board = self.board();
                board.passwords.insert(0, password);
                board.gone = false;
            }
            // It was created, and deleted before the repeated request was given its token.
            Err(error) if error.reason == "USER_UNKNOWN" => self.perhaps(invoked, unknown),
            Err(error) => {
                if error.reason != "NOT_APPLIED" {
                    self.took_effect(password);
                }
                self.failed(invoked, &error, Some(unknown), "create an account");
            }
        }
    }

    async fn login(&self, cluster: &Cluster) {
        let password = self.some_password();
        let invoked = self.now();
        let text = self.password(password);
        match Client::login(cluster, &self.name, &text, "").await {
            Ok(client) => {
                let token = self.keep(&client);
                self.ok(invoked, Action::LoggedIn { password, token });
            }
            Err(error) if error.reason == "BAD_CREDENTIALS" => {
                self.ok(invoked, Action::LoginRefused { password });
            }
            // A token that nobody knows changes nothing that anybody can see.
            Err(error) => self.failed(invoked, &error, None, "log in"),
        }
    }

    async fn who_am_i(&self, cluster: &Cluster) {
        let Some((client, token)) = self.some_token(cluster) else {
            return;
        };
        let invoked = self.now();
        match client.who_am_i().await {
            Ok((account, _)) => {
                self.ok(invoked, Action::Valid { token });
                let expected = client.session().data().user_id;
                if (account.username.as_str(), account.user_id) != (&self.name, expected) {
                    let sentence = format!(
                        "about a login of {}, user {expected}: {account:?}",
                        self.name
                    );
                    self.crowd.history.strange(sentence);
                }
            }
            Err(error) if error.reason == "TOKEN_INVALID" => {
                self.ok(invoked, Action::Invalid { token });
            }
            Err(error) => self.failed(invoked, &error, None, "use a token"),
        }
    }

    async fn log_out(&self, cluster: &Cluster) {
        let Some((client, token)) = self.some_token(cluster) else {
            return;
        };
        let invoked = self.now();
        let done = Action::LoggedOut { token };
        match client.logout().await {
            Ok(()) => self.ok(invoked, done),
            Err(error) if error.reason == "TOKEN_INVALID" => {
                self.ok(invoked, Action::Invalid { token });
            }
            Err(error) => self.failed(invoked, &error, Some(done), "log out"),
        }
    }

    async fn change(&self, cluster: &Cluster) {
        let Some((client, token)) = self.some_token_for(cluster, Role::Changes) else {
            return;
        };
        let old = self.some_password();
        let new = self.numbers.fetch_add(1, Ordering::Relaxed);
        let done = Action::Changed { token, old, new };
        let (from, to) = (self.password(old), self.password(new));
        let invoked = self.now();
        let result = client.change_password(&from, &to).await;
        if !matches!(&result, Err(error) if error.reason == "NOT_APPLIED") {
            self.board().passwords.push(new);
        }
        match result {
            Ok(()) => self.ok(invoked, done),
            // An earlier attempt may have been applied before somebody else ended this login.
            Err(error) if error.reason == "TOKEN_INVALID" => {
                self.ok(invoked, Action::Invalid { token });
                self.perhaps(invoked, done);
            }
            Err(error) if error.reason == "BAD_CREDENTIALS" => {
                self.ok(invoked, Action::ChangeRefused { old });
                if cluster.stats().retries > 0 {
                    self.perhaps(invoked, done);
                }
            }
            Err(error) => self.failed(invoked, &error, Some(done), "change a password"),
        }
    }

    async fn delete(&self, cluster: &Cluster) {
        let Some((client, token)) = self.some_token_for(cluster, Role::Deletes) else {
            return;
        };
        let password = self.some_password();
        let text = self.password(password);
        let done = Action::Deleted { token, password };
        let invoked = self.now();
        let result = client.delete_account(&text).await;
        match result {
            Ok(()) => {
                self.board().gone = true;
                if cluster.stats().retries == 0 {
                    self.ok(invoked, done);
                    return;
                }
                // To the client's retry a token that somebody else revoked looks the same.
                self.ok(invoked, Action::Invalid { token });
                self.perhaps(invoked, done);
            }
            Err(error) if error.reason == "TOKEN_INVALID" => {
                self.ok(invoked, Action::Invalid { token });
            }
            Err(error) if error.reason == "BAD_CREDENTIALS" => {
                self.ok(invoked, Action::DeleteRefused { token, password });
            }
            Err(error) => self.failed(invoked, &error, Some(done), "delete an account"),
        }
    }

    async fn list(&self, cluster: &Cluster) {
        let Ok(observer) = Client::resume(cluster, self.observer.clone()) else {
            return;
        };
        let invoked = self.now();
        match names(&observer, &format!("^{}$", self.name)).await {
            Ok(names) => self.ok(invoked, Action::Listed(!names.is_empty())),
            Err(error) => self.failed(invoked, &error, None, "list accounts"),
        }
    }

    fn ok(&self, invoked: Micros, action: Action) {
        record(&self.crowd.history, &self.name, invoked, action);
    }

    /// It may have been done, or be done at any later time.
    fn perhaps(&self, invoked: Micros, action: Action) {
        let call = Call {
            invoked,
            returned: None,
            action,
        };
        self.crowd.history.call(&self.name, call);
    }

    /// No answer to the question, or one that ends the matter.
    fn failed(&self, invoked: Micros, error: &ClientError, done: Option<Action>, doing: &str) {
        match (error.reason.as_str(), error.class(), done) {
            ("NOT_APPLIED", ..) => self.crowd.history.record().not_done += 1,
            // The account keeps 16 clients; this login's was dropped. Not run, unless earlier.
            ("CLIENT_UNKNOWN", _, Some(done)) | (_, Class::Unreachable, Some(done)) => {
                self.perhaps(invoked, done);
            }
            (_, Class::Unreachable, None) => {}
            _ => {
                let sentence = format!("to {doing}: {error}");
                self.crowd.history.strange(sentence);
            }
        }
    }

    fn keep(&self, client: &Client) -> u32 {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let data = client.session().data();
        self.board().tokens.push(Token {
            number,
            next_sequence: Arc::new(AtomicU64::new(data.next_sequence)),
            data,
        });
        number
    }

    /// Any token, also one that is revoked, through this handle.
    fn some_token(&self, cluster: &Cluster) -> Option<(Client, u32)> {
        let tokens = self.board().tokens.clone();
        some_of(&tokens, cluster)
    }

    fn some_token_for(&self, cluster: &Cluster, role: Role) -> Option<(Client, u32)> {
        let mut tokens = self.board().tokens.clone();
        tokens.retain(|token| Role::of(token.number) == role);
        some_of(&tokens, cluster)
    }

    fn is_gone(&self) -> bool {
        self.board().gone
    }

    /// This password is, or may be, that of a new account.
    fn took_effect(&self, password: u32) {
        let mut board = self.board();
        board.passwords.push(password);
        board.gone = false;
    }

    /// Mostly the newest; sometimes one that was never in force.
    fn some_password(&self) -> u32 {
        let board = self.board();
        let newest = board.passwords.last().copied().unwrap_or(0);
        match rand::random_range(0..10) {
            0 => WORKERS + 1_000_000,
            1..4 if !board.passwords.is_empty() => {
                board.passwords[rand::random_range(0..board.passwords.len())]
            }
            _ => newest,
        }
    }

    fn password(&self, number: u32) -> String {
        format!("{} {number}", self.name)
    }

    fn now(&self) -> Micros {
        self.crowd.history.now()
    }

    /// Held for a few instructions at a time, never across an await.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn some_of(tokens: &[Token], cluster: &Cluster) -> Option<(Client, u32)> {
    let count = tokens.len();
    if count == 0 {
        return None;
    }
    // The newer half more often.
    let at = rand::random_range(0..count).max(rand::random_range(0..count));
    let token = &tokens[at];
    Some((token.client(cluster)?, token.number))
}

impl Role {
    fn of(token: u32) -> Self {
        if token.is_multiple_of(3) {
            Self::Deletes
        } else {
            Self::Changes
        }
    }
}

impl Token {
    /// The login through this handle, with a request id of its own.
    fn client(&self, cluster: &Cluster) -> Option<Client> {
        let data = SessionData {
            next_sequence: self.next_sequence.fetch_add(1, Ordering::Relaxed),
            ..self.data.clone()
        };
        Client::resume(cluster, data).ok()
    }
}

/// After everything: is each account there, and are its tokens what they were? These are the last
/// reads of each history.
pub async fn last_reads(crowd: &Crowd, left: &[Left]) -> Result<(), ClientError> {
    let cluster = crowd.cluster(Duration::from_secs(15))?;
    // Its only use is to list: a name that no fight is over.
    let name = format!("z{}", crowd.number());
    let observer = Client::create_account(&cluster, NewAccount::named(&name, &name)).await?;
    let invoked = crowd.history.now();
    let there = names(&observer, "^a").await?;
    for account in left {
        let listed = there.binary_search(&account.name).is_ok();
        record(
            &crowd.history,
            &account.name,
            invoked,
            Action::Listed(listed),
        );
        for token in account.tokens.iter().rev().take(LAST_TOKENS) {
            let Some(client) = token.client(&cluster) else {
                continue;
            };
            let invoked = crowd.history.now();
            let number = token.number;
            let action = match client.who_am_i().await {
                Ok(_) => Action::Valid { token: number },
                Err(error) if error.reason == "TOKEN_INVALID" => Action::Invalid { token: number },
                Err(error) => return Err(error),
            };
            record(&crowd.history, &account.name, invoked, action);
        }
    }
    Ok(())
}

/// All names that match, page by page, ascending.
async fn names(client: &Client, pattern: &str) -> Result<Vec<String>, ClientError> {
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let page = client.list_accounts(pattern, 500, &token).await?;
        names.extend(page.usernames);
        if page.next_page_token.is_empty() {
            return Ok(names);
        }
        token = page.next_page_token;
    }
}

fn record(history: &History, account: &str, invoked: Micros, action: Action) {
    let returned = Some(history.now());
    let call = Call {
        invoked,
        returned,
        action,
    };
    history.call(account, call);
}
