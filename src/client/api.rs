//! What a user can do: one method for each of the server's.

use super::call::{Answer, Kind, call};
use super::cluster::Cluster;
use super::error::ClientError;
use super::listen::{Listen, Listener};
use super::operation::Operation;
use super::session::{Session, SessionData};
use crate::proto::chat as proto;
use crate::proto::chat::Account;
use std::sync::Arc;
use std::time::Instant;

/// Peers in one question for receipts: what the servers look at.
const PEERS_AT_ONCE: usize = 256;

/// What an account is created with.
#[derive(Clone, Default)]
pub struct NewAccount {
    /// `[a-z0-9][a-z0-9._-]{0,31}` after folding to lower case.
    pub username: String,
    /// 1 to 1,024 bytes.
    pub password: String,
    /// Free text; may be empty.
    pub full_name: String,
    /// The device of the first login; `default` if empty.
    pub device: String,
}

impl NewAccount {
    /// An account with a name and a password only.
    pub fn named(username: &str, password: &str) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
            ..Self::default()
        }
    }
}

/// Proof of a sent message: it is fsynced on a majority of the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its id: unique, and rising in the order of the log.
    pub message_id: u64,
    /// Its place in the recipient's inbox.
    pub inbox_seq: u64,
    /// Microseconds since the Unix epoch, UTC.
    pub time_us: u64,
    /// 1 if the first attempt was answered.
    pub attempts: u32,
    /// The replica that answered.
    pub replica: Option<u16>,
    /// When the attempt that was answered began.
    pub attempt_began: Instant,
}

/// A page of account names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Ascending.
    pub usernames: Vec<String>,
    /// For the next page; empty if this is the last.
    pub next_page_token: String,
}

/// A login on a cluster. Cheap to clone; clones share the login and may be used concurrently.
#[derive(Clone)]
pub struct Client {
    cluster: Cluster,
    session: Arc<Session>,
    /// As the reply to the login said.
    account: Option<Arc<Account>>,
}

impl Client {
    /// Creates an account and logs it in. A retry of the very same creation succeeds; a name that
    /// somebody else has is refused.
    pub async fn create_account(
        cluster: &Cluster,
        account: NewAccount,
    ) -> Result<Self, ClientError> {
        let client_id = rand::random();
        let device = account.device.clone();
        let request = proto::CreateAccountRequest {
            username: account.username,
            password: account.password,
            full_name: account.full_name,
            device_id: account.device,
            request_id: Some(first_request(&client_id)),
        };
        let answer = call(cluster, Kind::Write, None, request).await?;
        let proto::CreateAccountResponse { token, account } = answer.body;
        Self::logged_in(cluster, token, account, device, client_id)
    }

    /// Logs in. An empty `device` is `default`.
    pub async fn login(
        cluster: &Cluster,
        username: &str,
        password: &str,
        device: &str,
    ) -> Result<Self, ClientError> {
        let client_id = rand::random();
        let request = proto::LoginRequest {
            username: username.into(),
            password: password.into(),
            device_id: device.into(),
            request_id: Some(first_request(&client_id)),
        };
        let answer = call(cluster, Kind::Write, None, request).await?;
        let proto::LoginResponse { token, account } = answer.body;
        Self::logged_in(cluster, token, account, device.into(), client_id)
    }

    /// Goes on with a stored login.
    pub fn resume(cluster: &Cluster, data: SessionData) -> Result<Self, ClientError> {
        Ok(Self {
            cluster: cluster.clone(),
            session: Arc::new(Session::new(data)?),
            account: None,
        })
    }

    /// The account as it was at the login; `None` for one that was resumed.
    pub fn account(&self) -> Option<&Account> {
        self.account.as_deref()
    }

    /// The login.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The replicas.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Ends this login.
    pub async fn logout(&self) -> Result<(), ClientError> {
        let in_use = self.session.begin().await;
        let request = proto::LogoutRequest {
            request_id: Some(in_use.request_id()),
        };
        self.call(Kind::LastWrite, request).await?;
        Ok(())
    }

    /// Whose login this is, and the device that it is for.
    pub async fn who_am_i(&self) -> Result<(Account, String), ClientError> {
        let answer = self.call(Kind::Read, proto::WhoAmIRequest {}).await?;
        Ok((
            answer.body.account.unwrap_or_default(),
            answer.body.device_id,
        ))
    }

    /// The account's logins.
    pub async fn list_sessions(&self) -> Result<Vec<proto::Session>, ClientError> {
        let request = proto::ListSessionsRequest {};
        let answer = self.call(Kind::Read, request).await?;
        Ok(answer.body.sessions)
    }

    /// Ends another login of the account.
    pub async fn revoke_session(&self, session_id: u64) -> Result<(), ClientError> {
        let in_use = self.session.begin().await;
        let request = proto::RevokeSessionRequest {
            session_id,
            request_id: Some(in_use.request_id()),
        };
        self.call(Kind::Write, request).await?;
        Ok(())
    }

    /// Changes the password and ends every other login of the account.
    pub async fn change_password(&self, old: &str, new: &str) -> Result<(), ClientError> {
        let in_use = self.session.begin().await;
        let request = proto::ChangePasswordRequest {
            old_password: old.into(),
            new_password: new.into(),
            request_id: Some(in_use.request_id()),
        };
        self.call(Kind::Write, request).await?;
        Ok(())
    }

    /// Changes the full name.
    pub async fn update_profile(&self, full_name: &str) -> Result<(), ClientError> {
        let in_use = self.session.begin().await;
        let request = proto::UpdateProfileRequest {
            full_name: full_name.into(),
            request_id: Some(in_use.request_id()),
        };
        self.call(Kind::Write, request).await?;
        Ok(())
    }

    /// Sends a text. Once this returns, the message is fsynced on a majority of the replicas, and
    /// it is in the recipient's inbox exactly once, whatever was retried.
    pub async fn send(
        &self,
        recipient: &str,
        body: impl Into<Vec<u8>>,
    ) -> Result<Receipt, ClientError> {
        self.send_as(recipient, body, "").await
    }

    /// Sends a body of any content type (`text/plain` if empty).
    pub async fn send_as(
        &self,
        recipient: &str,
        body: impl Into<Vec<u8>>,
        content_type: &str,
    ) -> Result<Receipt, ClientError> {
        let in_use = self.session.begin().await;
        let request = proto::SendMessageRequest {
            recipient: recipient.into(),
            body: body.into().into(),
            content_type: content_type.into(),
            request_id: Some(in_use.request_id()),
        };
        let answer = self.call(Kind::Write, request).await?;
        Ok(Receipt {
            message_id: answer.body.message_id,
            inbox_seq: answer.body.inbox_seq,
            time_us: answer.body.time_us,
            attempts: answer.attempts,
            replica: answer.replica,
            attempt_began: answer.began,
        })
    }

    /// What is waiting for this login's device, then what comes.
    pub fn listen(&self, listen: Listen) -> Listener {
        Listener::start(self.cluster.clone(), self.session.clone(), listen)
    }

    /// Says that this device has everything up to this place of the inbox. Returns the place up
    /// to which it has said so by now; it never moves back.
    pub async fn ack(&self, up_to: u64) -> Result<u64, ClientError> {
        let in_use = self.session.begin().await;
        let request = proto::AckMessagesRequest {
            up_to,
            request_id: Some(in_use.request_id()),
        };
        let answer = self.call(Kind::Write, request).await?;
        Ok(answer.body.cursor)
    }

    /// How far peers have acknowledged what this account sent them: pairs of a name and a message
    /// id, without those who have acknowledged nothing. A listener hears of what happens while it
    /// listens only: ask AFTER its [`Event::EndOfBacklog`](super::Event::EndOfBacklog), and nothing
    /// falls in between.
    pub async fn list_delivered(
        &self,
        peers: &[String],
    ) -> Result<Vec<(String, u64)>, ClientError> {
        let mut marks = Vec::new();
        for peers in peers.chunks(PEERS_AT_ONCE) {
            let request = proto::ListDeliveredRequest {
                peers: peers.to_vec(),
            };
            let answer = self.call(Kind::Read, request).await?;
            let delivered = answer.body.delivered.into_iter();
            marks.extend(delivered.map(|mark| (mark.peer, mark.up_to_message_id)));
        }
        Ok(marks)
    }

    /// A page of the account names that match a regular expression (empty: all).
    /// `page_size` 0 is the server's default.
    pub async fn list_accounts(
        &self,
        pattern: &str,
        page_size: u32,
        page_token: &str,
    ) -> Result<Page, ClientError> {
        let request = proto::ListAccountsRequest {
            pattern: pattern.into(),
            page_size,
            page_token: page_token.into(),
        };
        let answer = self.call(Kind::Read, request).await?;
        Ok(Page {
            usernames: answer.body.usernames,
            next_page_token: answer.body.next_page_token,
        })
    }

    /// Deletes the account.
    pub async fn delete_account(&self, password: &str) -> Result<(), ClientError> {
        let in_use = self.session.begin().await;
        let request = proto::DeleteAccountRequest {
            password: password.into(),
            request_id: Some(in_use.request_id()),
        };
        self.call(Kind::LastWrite, request).await?;
        Ok(())
    }

    async fn call<Q: Operation>(
        &self,
        kind: Kind,
        message: Q,
    ) -> Result<Answer<Q::Reply>, ClientError> {
        call(&self.cluster, kind, Some(&self.session), message).await
    }

    fn logged_in(
        cluster: &Cluster,
        token: String,
        account: Option<Account>,
        device: String,
        client_id: [u8; 16],
    ) -> Result<Self, ClientError> {
        let account = account.unwrap_or_default();
        let client = Self::resume(
            cluster,
            SessionData {
                username: account.username.clone(),
                user_id: account.user_id,
                device: if device.is_empty() {
                    "default".into()
                } else {
                    device
                },
                token,
                client_id,
                next_sequence: 2,
            },
        )?;
        Ok(Self {
            account: Some(Arc::new(account)),
            ..client
        })
    }
}

/// The login or creation itself is the client id's first request.
fn first_request(client_id: &[u8; 16]) -> proto::RequestId {
    proto::RequestId {
        client_id: client_id.to_vec().into(),
        sequence: 1,
    }
}
