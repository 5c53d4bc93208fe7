//! What can go wrong, with the server's stable reason word.

use super::mismatch::WRONG_PROTOCOL;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The domain of the server's `ErrorInfo`: reasons of others (a proxy, say) are not ours.
pub(super) const DOMAIN: &str = "chat";

/// Under an error of the wire protocol: nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("not connected")]
pub(super) struct NotConnected;

/// Why a request has no answer.
///
/// `reason` is the server's stable word (`RECIPIENT_UNKNOWN`, `TOKEN_INVALID`, …) or, where no
/// server answered for good, one of this library's: `NOT_APPLIED` (gave up; certainly not done),
/// `OUTCOME_UNKNOWN` (gave up; perhaps done: only a retry under the same request id is safe),
/// `UNAVAILABLE` (gave up on a read), `GAP` (a listener missed a message), `WRONG_PROTOCOL` (the
/// servers named speak the other protocol), `ADDRESS_INVALID`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct ClientError {
    /// Stable; for programs.
    pub reason: String,
    /// The gRPC code.
    pub code: Code,
    /// For people; may change.
    pub message: String,
}

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The server understood and refused: the same request will be refused again.
    Refused,
    /// The login is missing, expired, revoked or forgotten: log in again.
    NotLoggedIn,
    /// No replica gave an answer in time.
    Unreachable,
}

impl ClientError {
    /// An error of this library's own.
    pub(super) fn local(reason: &str, code: Code, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            code,
            message: message.into(),
        }
    }

    /// The answer of a replica. Without an `ErrorInfo` of ours the reason is the code's name.
    pub(super) fn from_status(status: &Status) -> Self {
        let reason = status
            .get_details_error_info()
            .filter(|info| info.domain == DOMAIN)
            .map_or_else(|| code_word(status.code()), |info| info.reason);
        Self {
            reason,
            code: status.code(),
            message: status.message().to_owned(),
        }
    }

    /// What a caller can do about it.
    pub fn class(&self) -> Class {
        match self.reason.as_str() {
            // The server forgets the least recent clients of an account: only a login helps.
            "TOKEN_INVALID" | "TOKEN_MISSING" | "CLIENT_UNKNOWN" => Class::NotLoggedIn,
            "NOT_APPLIED" | "OUTCOME_UNKNOWN" | "UNAVAILABLE" | "OVERLOADED" | "DISK_FULL" => {
                Class::Unreachable
            }
            _ if self.code == Code::Unavailable => Class::Unreachable,
            _ => Class::Refused,
        }
    }
}

/// Does a replica say why?
pub(super) fn explained(status: &Status) -> bool {
    status
        .get_details_error_info()
        .is_some_and(|info| info.domain == DOMAIN)
}

/// `INVALID_ARGUMENT` for `InvalidArgument`, and so on.
fn code_word(code: Code) -> String {
    let mut word = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(letter.to_ascii_uppercase());
    }
    word
}

/// What one failed attempt means for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Trying again (with the same request id) may help.
    pub retry: bool,
    /// The request may have been applied.
    pub ambiguous: bool,
    /// The replica did not answer at all: avoid it for a while.
    pub unreachable: bool,
    /// It answered that it cannot serve, which another replica perhaps can.
    pub elsewhere: bool,
    /// It speaks the other protocol, so nothing was asked.
    pub wrong: bool,
    /// The server asked not to come back to it sooner.
    pub wait: Option<Duration>,
}

/// Judges the status of a failed attempt.
pub(super) fn judge(status: &Status) -> Verdict {
    let wait = status
        .get_details_retry_info()
        .and_then(|info| info.retry_delay);
    let info = status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN);
    if let Some(info) = info {
        let wrong = info.reason == WRONG_PROTOCOL;
        let unserved = info.reason == "OUTCOME_UNKNOWN" || status.code() == Code::Unavailable;
        return Verdict {
            retry: unserved || wrong || wait.is_some(),
            ambiguous: info.reason == "OUTCOME_UNKNOWN",
            unreachable: false,
            elsewhere: unserved || wrong,
            wrong,
            wait,
        };
    }
    // No server of ours said this: a transport error, or a proxy in between.
    let refused = is_connect_error(status);
    let retry = matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
    );
    Verdict {
        retry,
        ambiguous: retry && !refused,
        unreachable: retry,
        elsewhere: retry,
        wrong: false,
        wait,
    }
}

/// The connection was never made, so nothing was sent.
fn is_connect_error(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() || error.is::<NotConnected>() {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn ours(code: Code, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, DOMAIN, []);
        Status::with_error_details(code, "said the server", details)
    }

    #[test]
    fn a_refusal_is_final_and_keeps_its_word() {
        let status = ours(Code::NotFound, "RECIPIENT_UNKNOWN");
        assert!(!judge(&status).retry);
        let error = ClientError::from_status(&status);
        assert_eq!(error.reason, "RECIPIENT_UNKNOWN");
        assert_eq!(error.class(), Class::Refused);
        let expired = ClientError::from_status(&ours(Code::Unauthenticated, "TOKEN_INVALID"));
        assert_eq!(expired.class(), Class::NotLoggedIn);
    }

    #[test]
    fn only_an_unknown_outcome_or_a_broken_connection_is_ambiguous() {
        assert!(!judge(&ours(Code::Unavailable, "NOT_APPLIED")).ambiguous);
        assert!(judge(&ours(Code::Unavailable, "OUTCOME_UNKNOWN")).ambiguous);
        let unknown = judge(&ours(Code::DeadlineExceeded, "OUTCOME_UNKNOWN"));
        assert!(unknown.retry && unknown.ambiguous && unknown.elsewhere);
        let broken = judge(&Status::unknown("h2 protocol error"));
        assert!(broken.retry && broken.ambiguous && broken.unreachable);
    }

    #[test]
    fn another_domain_has_no_say_in_the_reason() {
        let details = ErrorDetails::with_error_info("RECIPIENT_UNKNOWN", "proxy", []);
        let status = Status::with_error_details(Code::InvalidArgument, "", details);
        assert_eq!(ClientError::from_status(&status).reason, "INVALID_ARGUMENT");
    }
}
