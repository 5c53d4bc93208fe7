//! The model of one name: is there an account, what is its password, which tokens are live.
//!
//! An account that is deleted takes its tokens and its password with it. The next one of this name is
//! another account, which the tokens of the first do not open.

use super::linear::Model;
use std::collections::BTreeSet;

/// Passwords and tokens are numbers here; the clients know what they stand for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The account was created. The token is `None` if nobody learned it.
    Created {
        /// Password.
        password: u32,
        /// Token of the first login.
        token: Option<u32>,
    },
    /// The name was taken.
    NameTaken,
    /// A login that issued this token.
    LoggedIn {
        /// Password.
        password: u32,
        /// Token.
        token: u32,
    },
    /// No account has this name and password.
    LoginRefused {
        /// Password.
        password: u32,
    },
    /// The token was good.
    Valid {
        /// Token.
        token: u32,
    },
    /// The token was not good.
    Invalid {
        /// Token.
        token: u32,
    },
    /// The password was changed, which ends all logins but the one that asked.
    Changed {
        /// Token of the one that asked.
        token: u32,
        /// From this password.
        old: u32,
        /// To this one, never used before.
        new: u32,
    },
    /// The password was not changed because the old one is another.
    ChangeRefused {
        /// Claimed to be the old one.
        old: u32,
    },
    /// The token is revoked, by this or by another: to a client or a server that had to try again
    /// both look alike.
    LoggedOut {
        /// Token.
        token: u32,
    },
    /// The account of this token was deleted: by this, or by another if a server had to try again.
    /// In no case it is there afterwards.
    Deleted {
        /// Token of the one that asked.
        token: u32,
        /// Said to be its password.
        password: u32,
    },
    /// The account was not deleted because its password is another.
    DeleteRefused {
        /// Token of the one that asked.
        token: u32,
        /// Said to be its password.
        password: u32,
    },
    /// The listing shows the name, or does not.
    Listed(bool),
}

/// An account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Account {
    password: u32,
    live: BTreeSet<u32>,
    /// All that were ever issued.
    issued: BTreeSet<u32>,
}

/// What there is under the name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Name {
    account: Option<Account>,
    /// Tokens of accounts that were deleted.
    dead: BTreeSet<u32>,
}

/// See [`Action`].
pub struct Accounts;

impl Model for Accounts {
    type Action = Action;
    type State = Name;

    fn apply(name: &Name, action: &Action) -> Option<Name> {
        let unchanged = |possible: bool| possible.then(|| name.clone());
        match (action, &name.account) {
            (Action::Created { password, token }, None) => {
                let tokens: BTreeSet<u32> = token.iter().copied().collect();
                Some(name.with(Account {
                    password: *password,
                    live: tokens.clone(),
                    issued: tokens,
                }))
            }
            (Action::Listed(there), account) => unchanged(*there == account.is_some()),
            (Action::NameTaken, account) => unchanged(account.is_some()),
            (Action::Deleted { token, .. }, _) if name.dead.contains(token) => unchanged(true),
            (Action::Deleted { token, password }, Some(account)) => {
                let possible = account.live.contains(token) && account.password == *password;
                possible.then(|| Name {
                    account: None,
                    dead: name.dead.union(&account.issued).copied().collect(),
                })
            }
            (
                Action::LoginRefused { .. } | Action::Invalid { .. } | Action::LoggedOut { .. },
                None,
            ) => unchanged(true),
            (_, None) | (Action::Created { .. }, Some(_)) => None,
            (_, Some(account)) => account.apply(action).map(|after| name.with(after)),
        }
    }
}

impl Name {
    fn with(&self, account: Account) -> Self {
        Self {
            account: Some(account),
            dead: self.dead.clone(),
        }
    }
}

impl Account {
    fn apply(&self, action: &Action) -> Option<Self> {
        let mut after = self.clone();
        let possible = match action {
            Action::LoggedIn { password, token } => {
                after.live.insert(*token);
                after.issued.insert(*token);
                *password == self.password
            }
            Action::LoginRefused { password } => *password != self.password,
            Action::ChangeRefused { old } => *old != self.password,
            Action::DeleteRefused { token, password } => {
                self.live.contains(token) && *password != self.password
            }
            Action::Valid { token } => self.live.contains(token),
            Action::Invalid { token } => !self.live.contains(token),
            Action::Changed { token, old, new } => {
                after.password = *new;
                after.live = BTreeSet::from([*token]);
                *old == self.password && self.live.contains(token)
            }
            Action::LoggedOut { token } => {
                after.live.remove(token);
                true
            }
            Action::Created { .. }
            | Action::NameTaken
            | Action::Deleted { .. }
            | Action::Listed(_) => false,
        };
        possible.then_some(after)
    }
}

#[cfg(test)]
mod tests {
    use super::super::linear::{Verdict, check};
    use super::*;
    use crate::history::Call;

    /// One after the other.
    fn judge(actions: Vec<Action>) -> bool {
        let calls: Vec<_> = (0_u64..)
            .zip(actions)
            .map(|(at, action)| Call {
                invoked: at * 10,
                returned: Some(at * 10 + 5),
                action,
            })
            .collect();
        check::<Accounts>(Name::default(), &calls) == Verdict::Linearizable
    }

    fn created() -> Action {
        Action::Created {
            password: 1,
            token: Some(1),
        }
    }

    fn changed() -> Action {
        Action::Changed {
            token: 1,
            old: 1,
            new: 2,
        }
    }

    fn logged_in(password: u32) -> Action {
        Action::LoggedIn { password, token: 2 }
    }

    #[test]
    fn an_account_lives_as_it_should() {
        assert!(judge(vec![
            Action::Listed(false),
            created(),
            Action::NameTaken,
            logged_in(1),
            changed(),
            Action::Invalid { token: 2 },
            Action::Valid { token: 1 },
            Action::LoginRefused { password: 1 },
            Action::LoggedOut { token: 1 },
            Action::Invalid { token: 1 },
            Action::Listed(true),
        ]));
    }

    fn deleted(token: u32, password: u32) -> Action {
        Action::Deleted { token, password }
    }

    /// Another account under the same name.
    fn reborn() -> Action {
        Action::Created {
            password: 7,
            token: Some(7),
        }
    }

    #[test]
    fn a_deleted_account_is_gone_and_its_name_free() {
        assert!(judge(vec![
            created(),
            logged_in(1),
            Action::DeleteRefused {
                token: 1,
                password: 9
            },
            Action::Valid { token: 1 },
            deleted(1, 1),
            Action::Listed(false),
            Action::Invalid { token: 1 },
            Action::Invalid { token: 2 },
            Action::LoginRefused { password: 1 },
            reborn(),
            deleted(2, 1), // A server that had to try again: the account of token 2 is gone.
            Action::Listed(true),
            Action::Invalid { token: 2 },
            Action::Valid { token: 7 },
        ]));
    }

    #[test]
    fn a_deletion_that_leaves_something_or_takes_too_much_is_found() {
        let alive = |after: Action| vec![created(), logged_in(1), deleted(1, 1), after];
        let reborn_and = |after: Action| vec![created(), deleted(1, 1), reborn(), after];
        let histories = [
            alive(Action::Valid { token: 1 }),
            alive(Action::Valid { token: 2 }),
            alive(Action::LoggedIn {
                password: 1,
                token: 3,
            }),
            alive(Action::Listed(true)),
            alive(Action::NameTaken),
            alive(Action::DeleteRefused {
                token: 1,
                password: 9,
            }),
            alive(Action::Changed {
                token: 1,
                old: 1,
                new: 2,
            }),
            reborn_and(Action::Valid { token: 1 }),
            reborn_and(Action::Invalid { token: 7 }),
            reborn_and(Action::LoggedIn {
                password: 1,
                token: 3,
            }),
            reborn_and(Action::Changed {
                token: 1,
                old: 7,
                new: 2,
            }),
            // With the wrong password, with a token that was revoked, of an account that is another.
            vec![created(), deleted(1, 9)],
            vec![created(), Action::LoggedOut { token: 1 }, deleted(1, 1)],
            vec![
                created(),
                deleted(1, 1),
                reborn(),
                deleted(1, 7),
                Action::Listed(false),
            ],
            vec![
                created(),
                Action::DeleteRefused {
                    token: 1,
                    password: 1,
                },
            ],
        ];
        for history in histories {
            assert!(!judge(history.clone()), "{history:?}");
        }
    }

    #[test]
    fn what_must_not_be_is_found() {
        let twice = vec![created(), created()];
        let forgotten = vec![created(), Action::Listed(false)];
        let old_password = vec![created(), changed(), logged_in(1)];
        let survivor = vec![
            created(),
            logged_in(1),
            changed(),
            Action::Valid { token: 2 },
        ];
        let undead = vec![
            created(),
            Action::LoggedOut { token: 1 },
            Action::Valid { token: 1 },
        ];
        let lost_login = vec![created(), logged_in(1), Action::Invalid { token: 2 }];
        for history in [twice, forgotten, old_password, survivor, undead, lost_login] {
            assert!(!judge(history.clone()), "{history:?}");
        }
    }
}
