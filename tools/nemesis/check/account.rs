//! The model of one account: does it exist, what is its password, which tokens are live.

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
    /// The listing shows the name, or does not.
    Listed(bool),
}

/// An account; `None`: there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Account {
    password: u32,
    live: BTreeSet<u32>,
}

/// See [`Action`].
pub struct Accounts;

impl Model for Accounts {
    type Action = Action;
    type State = Option<Account>;

    fn apply(state: &Self::State, action: &Action) -> Option<Self::State> {
        match (action, state) {
            (Action::Created { password, token }, None) => Some(Some(Account {
                password: *password,
                live: token.iter().copied().collect(),
            })),
            (Action::Listed(there), _) => (*there == state.is_some()).then(|| state.clone()),
            (Action::NameTaken, Some(_)) => Some(state.clone()),
            (Action::LoginRefused { .. } | Action::Invalid { .. }, None) => Some(None),
            (_, None) | (Action::Created { .. }, Some(_)) => None,
            (_, Some(account)) => account.apply(action).map(Some),
        }
    }
}

impl Account {
    fn apply(&self, action: &Action) -> Option<Self> {
        let mut after = self.clone();
        let possible = match action {
            Action::LoggedIn { password, token } => {
                after.live.insert(*token);
                *password == self.password
            }
            Action::LoginRefused { password } => *password != self.password,
            Action::ChangeRefused { old } => *old != self.password,
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
            Action::Created { .. } | Action::NameTaken | Action::Listed(_) => false,
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
        check::<Accounts>(None, &calls) == Verdict::Linearizable
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
