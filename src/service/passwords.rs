//! Passwords: argon2id, in a bounded pool.
//!
//! Only PHC strings leave this module. An account that does not exist costs the same hash as one
//! that does, so that time tells nobody which names are taken.

use super::errors::ServiceError;
use super::pool::Pool;
use crate::limits;
use crate::state_machine::PasswordHash;
use argon2::password_hash::{
    PasswordHash as Phc, PasswordHasher as _, PasswordVerifier as _, SaltString,
};
use argon2::{Algorithm, Argon2, Params, Version};
use rand::RngCore;
use std::fmt;

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
    let salt = SaltString::encode_b64(&salt)?;
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

    #[test]
    fn a_password_does_not_show_in_a_trace() {
        let password = Password("hunter2".to_owned());
        assert!(!format!("{password:?}").contains("hunter2"));
    }
}
