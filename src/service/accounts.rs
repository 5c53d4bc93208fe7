//! Accounts: create, log in, change, delete.

use super::errors::{Reason, ServiceError};
use super::passwords::Password;
use super::requests::{ChangePassword, CreateAccount, LoggedIn, Login};
use super::tokens::Token;
use super::{Backend, Service, random_client, unexpected_reply, validate};
use crate::replica::Consistency;
use crate::state_machine::{
    AccountInfo, Answer, Credentials, NewToken, Operation, PasswordHash, Query, Refusal, Reply,
};
use crate::types::{ClientId, RequestId, TokenHash, UserId};

/// An account as its token sees it, with what a password check needs.
pub(super) struct Identity {
    pub(super) account: AccountInfo,
    pub(super) device: String,
    password: PasswordHash,
    password_version: u32,
}

impl<B: Backend> Service<B> {
    /// Creates an account and logs it in. A repeated request (same id, name and password) logs in
    /// again.
    pub async fn create_account(&self, request: CreateAccount) -> Result<LoggedIn, ServiceError> {
        let name = validate::user_name(&request.username, "username")?;
        validate::password(&request.password, "password")?;
        validate::full_name(&request.full_name)?;
        let device = validate::device(request.device_id)?;
        let client = client_of(request.request_id);
        let hash = self.inner.passwords.hash(&request.password).await?;
        let token = Token::generate();
        let operation = Operation::CreateAccount {
            name: name.clone(),
            full_name: request.full_name,
            password_hash: hash.0,
            token: new_token(&token, &device, client),
        };
        let outcome = self.write(None, request.request_id, operation).await?;
        match outcome.reply {
            Reply::LoggedIn { account, .. } => Ok(LoggedIn { token, account }),
            Reply::AlreadyCreated { user } => {
                // An attempt of this very call created it: then its token is good as it stands.
                if outcome.unsure
                    && let Ok(identity) = self.identity(token.hash()).await
                    && identity.account.user == user
                {
                    let account = identity.account;
                    return Ok(LoggedIn { token, account });
                }
                self.log_in_creator(&name, user, &request.password, &device, client)
                    .await
            }
            other => Err(unexpected_reply("create_account", &other)),
        }
    }

    /// Creates an account of a test cluster under a password hash that many share, so that a
    /// million accounts cost one hash. An account of that name that is there already stays as it is.
    pub async fn create_prepared(
        &self,
        name: &str,
        password_hash: &PasswordHash,
    ) -> Result<(), ServiceError> {
        let name = validate::user_name(name, "username")?;
        let operation = Operation::CreateAccount {
            full_name: format!("{name} of a test"),
            name,
            password_hash: password_hash.0.clone(),
            token: new_token(&Token::generate(), "default", random_client()),
        };
        match self.write(None, None, operation).await {
            Ok(_) => Ok(()),
            Err(error) if error.reason == Reason::NameTaken => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A password hash for [`Self::create_prepared`].
    pub async fn hash_password(&self, password: &Password) -> Result<PasswordHash, ServiceError> {
        validate::password(password, "password")?;
        self.inner.passwords.hash(password).await
    }

    /// A repeated creation: whoever knows the password is the one who created it. The request's
    /// own id names the creation, so the login goes under one of this front's.
    async fn log_in_creator(
        &self,
        name: &str,
        user: UserId,
        password: &Password,
        device: &str,
        client: ClientId,
    ) -> Result<LoggedIn, ServiceError> {
        let Some(credentials) = self.credentials(name).await? else {
            return Err(Reason::UserUnknown.into());
        };
        let stored = (credentials.user == user).then_some(&credentials.password_hash);
        if !self.inner.passwords.verify(password, stored).await? {
            return Err(Reason::NameTaken.into());
        }
        self.issue_token(&credentials, device, client, None).await
    }

    /// Verifies a password and issues a token. An unknown account costs the same time and gives
    /// the same error as a wrong password.
    pub async fn login(&self, request: Login) -> Result<LoggedIn, ServiceError> {
        let name = validate::user_name(&request.username, "username")?;
        validate::password(&request.password, "password")?;
        let device = validate::device(request.device_id)?;
        let client = client_of(request.request_id);
        let mut request_id = request.request_id;
        // Once more if the password changed between the check and the entry. The first id has its
        // answer by then, so the second attempt goes under one of this front's.
        for _ in 0..2 {
            let credentials = self.credentials(&name).await?;
            let stored = credentials.as_ref().map(|c| &c.password_hash);
            let verified = self.inner.passwords.verify(&request.password, stored);
            let (true, Some(credentials)) = (verified.await?, &credentials) else {
                return Err(Reason::BadCredentials.into());
            };
            match self
                .issue_token(credentials, &device, client, request_id)
                .await
            {
                Err(error) if error.reason == Reason::PasswordChanged => request_id = None,
                Err(error) if error.reason == Reason::UserUnknown => break,
                done => return done,
            }
        }
        Err(Reason::BadCredentials.into())
    }

    async fn issue_token(
        &self,
        credentials: &Credentials,
        device: &str,
        client: ClientId,
        request_id: Option<RequestId>,
    ) -> Result<LoggedIn, ServiceError> {
        let token = Token::generate();
        let operation = Operation::IssueToken {
            user: credentials.user,
            password_version: credentials.password_version,
            token: new_token(&token, device, client),
        };
        match self.write(None, request_id, operation).await?.reply {
            Reply::LoggedIn { account, .. } => Ok(LoggedIn { token, account }),
            other => Err(unexpected_reply("issue_token", &other)),
        }
    }

    /// Changes the password and revokes every other token. A repeated request is done when the
    /// new password is in force.
    pub async fn change_password(
        &self,
        token: &Token,
        request: ChangePassword,
    ) -> Result<(), ServiceError> {
        validate::password(&request.old, "old_password")?;
        validate::password(&request.new, "new_password")?;
        let passwords = &self.inner.passwords;
        let mut request_id = request.request_id;
        let mut repeated = request_id.is_some();
        for _ in 0..2 {
            let identity = self.identity(token.hash()).await?;
            let stored = Some(&identity.password);
            if !passwords.verify(&request.old, stored).await? {
                let done = repeated && passwords.verify(&request.new, stored).await?;
                return done.then_some(()).ok_or(Reason::BadCredentials.into());
            }
            let both = (&request.old, &request.new);
            let hash = match request_id {
                Some(id) => {
                    passwords
                        .hash_of_change(both, identity.account.user, id)
                        .await?
                }
                None => passwords.hash(&request.new).await?,
            };
            let operation = Operation::ChangePassword {
                password_hash: hash.0,
                password_version: identity.password_version,
            };
            let outcome = self
                .write(Some(token.hash()), request_id, operation)
                .await?;
            match outcome.reply {
                Reply::Done => return Ok(()),
                Reply::Refused(Refusal::PasswordChanged) => {
                    repeated |= outcome.unsure;
                    request_id = None;
                }
                other => return Err(unexpected_reply("change_password", &other)),
            }
        }
        Err(Reason::BadCredentials.into())
    }

    /// Changes the full name.
    pub async fn update_profile(
        &self,
        token: &Token,
        full_name: String,
        request_id: Option<RequestId>,
    ) -> Result<(), ServiceError> {
        validate::full_name(&full_name)?;
        let operation = Operation::UpdateProfile { full_name };
        match self
            .write(Some(token.hash()), request_id, operation)
            .await?
            .reply
        {
            Reply::Done => Ok(()),
            other => Err(unexpected_reply("update_profile", &other)),
        }
    }

    /// Deletes the account, after one more look at its password.
    pub async fn delete_account(
        &self,
        token: &Token,
        password: &Password,
        request_id: Option<RequestId>,
    ) -> Result<(), ServiceError> {
        validate::password(password, "password")?;
        let identity = self.identity(token.hash()).await?;
        let stored = Some(&identity.password);
        if !self.inner.passwords.verify(password, stored).await? {
            return Err(Reason::BadCredentials.into());
        }
        self.delete(token, identity.account, request_id).await
    }

    /// Deletes the account on the word of its token alone: version 1 of the wire protocol has no
    /// field for a password.
    pub async fn delete_account_by_token(&self, token: &Token) -> Result<(), ServiceError> {
        let identity = self.identity(token.hash()).await?;
        self.delete(token, identity.account, None).await
    }

    async fn delete(
        &self,
        token: &Token,
        account: AccountInfo,
        request_id: Option<RequestId>,
    ) -> Result<(), ServiceError> {
        let outcome = self
            .write(Some(token.hash()), request_id, Operation::DeleteAccount)
            .await?;
        match outcome.reply {
            Reply::Done => Ok(()),
            // The token went with the account if an earlier attempt was applied.
            Reply::Refused(Refusal::TokenInvalid) if outcome.unsure => {
                let left = self.credentials(&account.name).await?;
                if left.is_some_and(|c| c.user == account.user) {
                    return Err(Reason::TokenInvalid.into());
                }
                Ok(())
            }
            other => Err(unexpected_reply("delete_account", &other)),
        }
    }

    async fn credentials(&self, name: &str) -> Result<Option<Credentials>, ServiceError> {
        let query = Query::Credentials {
            name: name.to_owned(),
        };
        match self.read(query, Consistency::Linearizable).await? {
            Answer::Credentials(credentials) => Ok(credentials),
            _ => Err(ServiceError::internal("credentials: unexpected answer")),
        }
    }

    /// Whose token this is, as of now.
    pub(super) async fn identity(&self, token: TokenHash) -> Result<Identity, ServiceError> {
        let query = Query::WhoAmI { token };
        match self.read(query, Consistency::Linearizable).await? {
            Answer::WhoAmI {
                account,
                device,
                password_version,
                password_hash,
            } => {
                self.inner.backend.token_used(token);
                Ok(Identity {
                    account,
                    device,
                    password: password_hash,
                    password_version,
                })
            }
            _ => Err(ServiceError::internal("who_am_i: unexpected answer")),
        }
    }
}

/// The client id to register: the request's, or one that nobody will use.
fn client_of(request_id: Option<RequestId>) -> ClientId {
    request_id.map_or_else(random_client, |id| id.client)
}

fn new_token(token: &Token, device: &str, client: ClientId) -> NewToken {
    NewToken {
        hash: token.hash(),
        device: device.to_owned(),
        client,
    }
}
