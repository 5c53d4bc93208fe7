//! Reads. A query changes nothing, not even the use of a token.

use super::overlay::View;
use super::records::{Head, keys};
use super::tokens::{self, Session};
use super::users::{account_info, find_account, find_user};
use super::{Answer, Credentials, PasswordHash, Query, Refusal, SessionInfo, inboxes};
use crate::storage::{StorageError, Tree};
use crate::types::{InboxSeq, Index, TokenHash, WallTime};

/// Answers from what is applied.
pub(super) fn answer(view: View<'_>, query: &Query) -> Result<Answer, StorageError> {
    let token = match query {
        Query::Credentials { name } => return credentials(view, name),
        Query::WhoAmI { token }
        | Query::Sessions { token }
        | Query::Inbox { token, .. }
        | Query::Delivered { token, .. }
        | Query::Check { token } => token,
    };
    let Some(session) = tokens::authenticate(view, token)? else {
        return Ok(Answer::Refused(Refusal::TokenInvalid));
    };
    match query {
        Query::Sessions { .. } => sessions(view, &session),
        Query::Inbox { after, limit, .. } => inbox(view, &session, *after, *limit),
        Query::Delivered { peers, .. } => {
            let marks = peers.iter().map(|peer| match find_user(view, peer)? {
                Some(peer) => inboxes::delivered(view, peer, session.user()),
                None => Ok(Index(0)),
            });
            Ok(Answer::Delivered(marks.collect::<Result<_, _>>()?))
        }
        Query::Credentials { .. } | Query::WhoAmI { .. } | Query::Check { .. } => {
            let account = session.account();
            Ok(Answer::WhoAmI {
                account: account_info(session.user(), account),
                device: session.token.device.clone(),
                password_version: account.password_version,
                password_hash: PasswordHash(account.password_hash.clone()),
            })
        }
    }
}

fn credentials(view: View<'_>, name: &str) -> Result<Answer, StorageError> {
    let Some(user) = find_user(view, name)? else {
        return Ok(Answer::Credentials(None));
    };
    let account = find_account(view, user)?;
    Ok(Answer::Credentials(account.map(|account| Credentials {
        user,
        password_hash: PasswordHash(account.password_hash),
        password_version: account.password_version,
    })))
}

fn sessions(view: View<'_>, session: &Session) -> Result<Answer, StorageError> {
    let tokens = &session.account().tokens;
    let mut infos = Vec::with_capacity(tokens.len());
    for hash in tokens {
        let token = tokens::existing(view, hash)?;
        infos.push(SessionInfo {
            id: token.session,
            device: token.device,
            created: token.created,
            last_used: token.last_used,
            current: *hash == session.hash,
        });
    }
    Ok(Answer::Sessions(infos))
}

fn inbox(
    view: View<'_>,
    session: &Session,
    after: Option<InboxSeq>,
    limit: usize,
) -> Result<Answer, StorageError> {
    let user = session.user();
    let key = keys::head(user);
    let Some(head) = view.read_shared::<Head>(Tree::Users, &key)? else {
        return Err(super::records::damaged(Tree::Users, &key, "is missing"));
    };
    let cursor = inboxes::cursor(&head, &session.token.device);
    let after = after.unwrap_or(cursor.acknowledged);
    Ok(Answer::Inbox {
        user,
        messages: inboxes::read(view, user, &head, after, limit)?,
        cursor,
    })
}

/// Looks at some tokens after `position` and returns those that have been idle, at most `limit`,
/// with the position to go on from (`None`: the end was reached).
pub(super) fn idle_tokens(
    view: View<'_>,
    position: Option<TokenHash>,
    now: WallTime,
    idle_us: u64,
    limit: usize,
) -> Result<(Vec<TokenHash>, Option<TokenHash>), StorageError> {
    const LOOKED_AT_MAX: usize = 1_024;
    let from = position.map_or_else(Default::default, |p| super::overlay::after(&p.0));
    // One byte longer than any key and above all of them.
    let end = [0xff; 33];
    let rows = view.range(Tree::Tokens, &from, &end, LOOKED_AT_MAX)?;
    let more = rows.len() == LOOKED_AT_MAX;
    let mut idle = Vec::new();
    let mut last = None;
    for (key, bytes) in rows {
        let token: super::records::Token = super::records::decode(Tree::Tokens, &key, &bytes)?;
        let hash = TokenHash::from_slice(&key)
            .ok_or_else(|| super::records::damaged(Tree::Tokens, &key, "has a wrong key"))?;
        last = Some(hash);
        if now.0.saturating_sub(token.last_used.0) >= idle_us {
            idle.push(hash);
        }
        if idle.len() >= limit {
            return Ok((idle, last));
        }
    }
    Ok((idle, last.filter(|_| more)))
}
