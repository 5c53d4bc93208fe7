//! Between the codec's records and the service's plain values.

use super::codec::{Private, RequestId, v2};
use crate::service::{LoggedIn, Page, Reason, ServiceError, Token, WhoAmI};
use crate::state_machine::{InboxMessage, SessionInfo};
use crate::types;

/// The token of a request.
pub(super) fn token(text: &Private) -> Result<Token, ServiceError> {
    if text.0.is_empty() {
        return Err(Reason::TokenMissing.into());
    }
    Token::parse(&text.0)
}

pub(super) fn request_id(id: Option<RequestId>) -> Result<Option<types::RequestId>, ServiceError> {
    id.map(|id| crate::service::request_id(&id.client_id, id.sequence))
        .transpose()
}

pub(super) fn failure(error: &ServiceError) -> v2::Failure {
    let details = error.metadata.iter().map(|(key, value)| v2::Detail {
        key: (*key).to_owned(),
        value: value.clone(),
    });
    let message = match error.reason {
        // The service's sentence speaks of a header that this protocol has not.
        Reason::TokenMissing => "the request needs the token that a login gave".to_owned(),
        _ => error.to_string(),
    };
    v2::Failure {
        reason: error.reason.word().to_owned(),
        explanation: v2::Explanation {
            message,
            retry_after_ms: error
                .reason
                .retry_after()
                .map(|delay| delay.as_millis() as u64),
            code: Some(error.reason.code() as u32),
            details: details.collect(),
        },
    }
}

pub(super) fn logged_in(done: LoggedIn) -> v2::LoggedIn {
    v2::LoggedIn {
        token: Private(done.token.reveal()),
        user_id: done.account.user.0,
        username: done.account.name,
        full_name: done.account.full_name,
        created_us: done.account.created.0,
    }
}

pub(super) fn me(me: WhoAmI) -> v2::Me {
    v2::Me {
        user_id: me.account.user.0,
        username: me.account.name,
        full_name: me.account.full_name,
        created_us: me.account.created.0,
        device_id: me.device_id,
    }
}

pub(super) fn page(page: Page) -> v2::Page {
    let names = page.usernames.into_iter();
    v2::Page {
        next_page_token: page.next_page_token,
        names: names.map(|username| v2::Name { username }).collect(),
    }
}

pub(super) fn receipts(marks: Vec<(String, types::Index)>) -> v2::Receipts {
    let receipts = marks.into_iter().map(|(peer, up_to)| v2::Receipt {
        peer,
        message_id: up_to.0,
    });
    v2::Receipts {
        receipts: receipts.collect(),
    }
}

pub(super) fn sessions(sessions: Vec<SessionInfo>) -> v2::Sessions {
    let sessions = sessions.into_iter().map(|session| v2::Session {
        session_id: session.id,
        device_id: session.device,
        created_us: session.created.0,
        last_used_us: session.last_used.0,
        current: session.current,
    });
    v2::Sessions {
        sessions: sessions.collect(),
    }
}

pub(super) fn message(message: InboxMessage) -> v2::Event {
    v2::Event {
        kind: "m".to_owned(),
        message_id: Some(message.id.0),
        inbox_seq: Some(message.seq.0),
        sender_id: Some(message.sender.0),
        sender: message.sender_name,
        time_us: Some(message.time.0),
        body: super::codec::Body(message.body),
        content_type: message.content_type,
    }
}
