//! Passwords: argon2id, in a bounded pool.
//!
//! Only PHC strings leave this module. An account that does not exist costs the same hash as one
//! that does, so that time tells nobody which names are taken.

use super::errors::ServiceError;
use super::pool::Pool;
use crate::limits;
use crate::state_machine::PasswordHash;
use crate::types::{RequestId, UserId};
use argon2::password_hash::{
    PasswordHash as Phc, PasswordHasher as _, PasswordVerifier as _, SaltString,
};
use argon2::{Algorithm, Argon2, Params, Version};
use rand::RngCore;
use std::fmt;

/// Of a change's salt, in two steps.
const FIRST_SALT: &str = "chat-server 2026 change of a password, first salt v1";
const SECOND_SALT: &str = "chat-server 2026 change of a password, second salt v1";

/// A password as a client gave it. Never shown in a trace.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<password>")
    }
}

/// What one hash costs. The default is OWASP's recommendation for argon2id: 19 MiB, two passes,
/// one lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl Default for HashCost {
    fn default() -> Self {
        Self {
            memory_kib: Params::DEFAULT_M_COST,
            passes: Params::DEFAULT_T_COST,
        }
    }
}

/// argon2 refuses this cost.
#[derive(Debug, thiserror::Error)]
#[error("passwords cannot be hashed at this cost")]
pub struct HashCostError(#[from] argon2::password_hash::Error);

/// Hashes and verifies.
#[derive(Clone)]
pub(super) struct Passwords {
    pool: Pool,
    argon2: Argon2<'static>,
    /// Verified when there is no account. A hash of the same cost that no password has.
    decoy: PasswordHash,
}

impl Passwords {
    pub(super) fn new(cost: HashCost) -> Result<Self, HashCostError> {
        let params = Params::new(cost.memory_kib, cost.passes, Params::DEFAULT_P_COST, None)
            .map_err(argon2::password_hash::Error::from)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let decoy = phc(&argon2, &secret)?;
        Ok(Self {
            pool: Pool::new(limits::HASHES_AT_ONCE_MAX, limits::HASHES_WAITING_MAX),
            argon2,
            decoy,
        })
    }

    /// No more hashes: tests see by it who would have asked for one.
    #[cfg(test)]
    pub(super) fn close(&self) {
        self.pool.close();
    }

    /// A PHC string with a fresh salt.
    pub(super) async fn hash(&self, password: &Password) -> Result<PasswordHash, ServiceError> {
        let (argon2, password) = (self.argon2.clone(), password.clone());
        self.pool
            .run(move || phc(&argon2, password.0.as_bytes()))
            .await?
            .map_err(|_| ServiceError::internal("a password could not be hashed"))
    }

    /// The PHC string of a change of this user's password from `old` to `new` under a request id.
    /// The same request gives the same string on every replica, whenever it arrives, and any other
    /// password under its id another one: by that the state machine knows them apart. The salt is
    /// as hard to guess passwords by as the hashes are: it is made of a hash of `old`.
    pub(super) async fn hash_of_change(
        &self,
        (old, new): (&Password, &Password),
        user: UserId,
        request: RequestId,
    ) -> Result<PasswordHash, ServiceError> {
        let (argon2, old, new) = (self.argon2.clone(), old.clone(), new.clone());
        self.pool
            .run(move || {
                let mut salt = blake3::Hasher::new_derive_key(FIRST_SALT);
                salt.update(&user.0.to_be_bytes());
                salt.update(&request.client.0);
                salt.update(&request.sequence.to_be_bytes());
                let salt = salt.finalize();
                let mut hashed = [0; 32];
                argon2.hash_password_into(old.0.as_bytes(), &salt.as_bytes()[..16], &mut hashed)?;
                let salt = blake3::derive_key(SECOND_SALT, &hashed);
                salted(&argon2, new.0.as_bytes(), &salt[..16])
            })
            .await?
            .map_err(|_| ServiceError::internal("a password could not be hashed"))
    }

    /// Is it this account's password? `None` (no account) takes the same time and is false.
    pub(super) async fn verify(
        &self,
        password: &Password,
        stored: Option<&PasswordHash>,
    ) -> Result<bool, ServiceError> {
        let exists = stored.is_some();
        let stored = stored.unwrap_or(&self.decoy).clone();
        let (argon2, password) = (self.argon2.clone(), password.clone());
        let matches = self
            .pool
            .run(move || {
                // Parameters come from the PHC string: a stored hash outlives a change of cost.
                let phc = Phc::new(&stored.0)?;
                match argon2.verify_password(password.0.as_bytes(), &phc) {
                    Ok(()) => Ok(true),
                    Err(argon2::password_hash::Error::Password) => Ok(false),
                    Err(error) => Err(error),
                }
            })
            .await?
            .map_err(|_| ServiceError::internal("a stored password hash cannot be read"))?;
        Ok(matches && exists)
    }
}

fn phc(argon2: &Argon2<'_>, password: &[u8]) -> Result<PasswordHash, argon2::password_hash::Error> {
    let mut salt = [0; 16];
    rand::rng().fill_bytes(&mut salt);
    salted(argon2, password, &salt)
}

fn salted(
    argon2: &Argon2<'_>,
    password: &[u8],
    salt: &[u8],
) -> Result<PasswordHash, argon2::password_hash::Error> {
    let salt = SaltString::encode_b64(salt)?;
    Ok(PasswordHash(
        argon2.hash_password(password, &salt)?.to_string(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap() -> Passwords {
        Passwords::new(HashCost {
            memory_kib: 64,
            passes: 1,
        })
        .unwrap()
    }

    #[tokio::test]
    async fn a_hash_verifies_its_password_and_no_other() {
        let passwords = cheap();
        let password = Password("correct horse".to_owned());
        let stored = passwords.hash(&password).await.unwrap();
        assert!(stored.0.starts_with("$argon2id$v=19$"), "{}", stored.0);
        assert!(passwords.verify(&password, Some(&stored)).await.unwrap());
        let wrong = Password("correct hors".to_owned());
        assert!(!passwords.verify(&wrong, Some(&stored)).await.unwrap());
        let again = passwords.hash(&password).await.unwrap();
        assert!(again != stored, "the salt is fresh");
    }

    #[tokio::test]
    async fn without_an_account_a_hash_of_the_same_cost_is_verified() {
        let passwords = cheap();
        let stored = passwords.hash(&Password("x".to_owned())).await.unwrap();
        let cost = |hash: &PasswordHash| Params::try_from(&Phc::new(&hash.0).unwrap()).unwrap();
        assert_eq!(cost(&stored), cost(&passwords.decoy));
        for guess in ["", "x"] {
            let guess = Password(guess.to_owned());
            assert!(!passwords.verify(&guess, None).await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_hash_of_another_cost_still_verifies() {
        let password = Password("old".to_owned());
        let stored = cheap().hash(&password).await.unwrap();
        let dearer = Passwords::new(HashCost {
            memory_kib: 128,
            passes: 2,
        })
        .unwrap();
        assert!(dearer.verify(&password, Some(&stored)).await.unwrap());
    }

    #[tokio::test]
    async fn a_change_is_hashed_alike_for_the_same_request_only() {
        let words = |text: &str| Password(text.to_owned());
        let id = |sequence| RequestId {
            client: crate::types::ClientId([7; 16]),
            sequence,
        };
        let hash = async |old: &str, new: &str, user, sequence| {
            let both = (&words(old), &words(new));
            let passwords = cheap();
            let hashed = passwords.hash_of_change(both, UserId(user), id(sequence));
            hashed.await.unwrap()
        };
        let first = hash("old", "new", 1, 1).await;
        assert_eq!(hash("old", "new", 1, 1).await, first, "on every replica");
        for other in [
            hash("old", "other", 1, 1).await,
            hash("other", "new", 1, 1).await,
            hash("old", "new", 2, 1).await,
            hash("old", "new", 1, 2).await,
        ] {
            assert_ne!(other, first);
        }
        assert!(cheap().verify(&words("new"), Some(&first)).await.unwrap());
        assert!(!cheap().verify(&words("old"), Some(&first)).await.unwrap());
    }

    #[test]
    fn a_password_does_not_show_in_a_trace() {
        let password = Password("hunter2".to_owned());
        assert!(!format!("{password:?}").contains("hunter2"));
    }
}
