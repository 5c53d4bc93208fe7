//! A login: the token, and the numbers that make retries safe.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tonic::Code;
use tonic::metadata::{Ascii, MetadataValue};

use super::ClientError;
use crate::proto::chat::RequestId;

/// The server remembers the replies of a client's last 2,048 sequences. Half of that between the
/// oldest unanswered request and the newest leaves room for what other processes of the same
/// session have under way.
const SPREAD_MAX: u64 = 1_024;

/// A login as it can be kept in a file. Whoever holds it is the user: keep it 0600.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionData {
    /// The account's name.
    pub username: String,
    /// Its id.
    pub user_id: u64,
    /// The device that the login is for.
    pub device: String,
    /// The secret.
    pub token: String,
    /// Drawn at the login.
    pub client_id: [u8; 16],
    /// The sequence of the next request. Store a higher one BEFORE sending: a sequence that is
    /// used twice is refused, or taken for a retry of the first.
    pub next_sequence: u64,
}

impl std::fmt::Debug for SessionData {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionData")
            .field("username", &self.username)
            .field("device", &self.device)
            .field("next_sequence", &self.next_sequence)
            .finish_non_exhaustive()
    }
}

/// A login in use.
pub struct Session {
    data: SessionData,
    bearer: MetadataValue<Ascii>,
    sequences: Mutex<Sequences>,
    /// Told when a request is finished.
    finished: Notify,
}

struct Sequences {
    next: u64,
    outstanding: BTreeSet<u64>,
}

/// A sequence in use; given back when dropped.
pub(super) struct InUse {
    session: Arc<Session>,
    sequence: u64,
}

impl Session {
    /// Takes a stored login into use. Fails if the token is not one.
    pub fn new(data: SessionData) -> Result<Self, ClientError> {
        let mut bearer =
            MetadataValue::try_from(format!("Bearer {}", data.token)).map_err(|_| {
                ClientError::local(
                    "TOKEN_INVALID",
                    Code::Unauthenticated,
                    "the stored token has characters that no token has",
                )
            })?;
        bearer.set_sensitive(true);
        let next = data.next_sequence.max(1);
        Ok(Self {
            data,
            bearer,
            sequences: Mutex::new(Sequences {
                next,
                outstanding: BTreeSet::new(),
            }),
            finished: Notify::new(),
        })
    }

    /// What to keep in a file. Requests under way are counted as used.
    pub fn data(&self) -> SessionData {
        SessionData {
            next_sequence: self.sequences().next,
            ..self.data.clone()
        }
    }

    /// The account's name.
    pub fn username(&self) -> &str {
        &self.data.username
    }

    pub(super) fn token(&self) -> &str {
        &self.data.token
    }

    pub(super) fn bearer(&self) -> &MetadataValue<Ascii> {
        &self.bearer
    }

    /// Takes the next sequence; waits while the oldest request without an answer is too far back.
    pub(super) async fn begin(self: &Arc<Self>) -> InUse {
        loop {
            // Registered BEFORE the check, so that an end in between is not missed.
            let finished = self.finished.notified();
            if let Some(sequence) = self.try_begin() {
                return InUse {
                    session: self.clone(),
                    sequence,
                };
            }
            finished.await;
        }
    }

    fn try_begin(&self) -> Option<u64> {
        let mut sequences = self.sequences();
        let sequence = sequences.next;
        let oldest = sequences.outstanding.first().copied().unwrap_or(sequence);
        if sequence - oldest >= SPREAD_MAX {
            return None;
        }
        sequences.next += 1;
        sequences.outstanding.insert(sequence);
        Some(sequence)
    }

    fn sequences(&self) -> MutexGuard<'_, Sequences> {
        self.sequences
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl InUse {
    pub(super) fn request_id(&self) -> RequestId {
        RequestId {
            client_id: self.session.data.client_id.to_vec().into(),
            sequence: self.sequence,
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.session.sequences().outstanding.remove(&self.sequence);
        self.session.finished.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(next_sequence: u64) -> Arc<Session> {
        let data = SessionData {
            username: "alice".into(),
            user_id: 2,
            device: "default".into(),
            token: "secret".into(),
            client_id: [7; 16],
            next_sequence,
        };
        Arc::new(Session::new(data).unwrap())
    }

    #[test]
    fn a_sequence_is_never_given_twice_and_the_stored_one_is_ahead() {
        let session = session(9);
        assert_eq!(session.try_begin(), Some(9));
        assert_eq!(session.try_begin(), Some(10));
        assert_eq!(session.data().next_sequence, 11);
        assert!(!format!("{:?}", session.data()).contains("secret"));
    }

    #[tokio::test]
    async fn an_old_request_without_an_answer_holds_back_those_far_ahead_of_it() {
        let session = session(1);
        let oldest = session.begin().await;
        for _ in 1..SPREAD_MAX {
            drop(session.begin().await);
        }
        assert_eq!(session.try_begin(), None);
        let waiting = tokio::spawn({
            let session = session.clone();
            async move { session.begin().await.sequence }
        });
        drop(oldest);
        assert_eq!(waiting.await.unwrap(), SPREAD_MAX + 1);
    }
}
