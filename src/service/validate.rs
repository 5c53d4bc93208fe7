//! What a request's fields must look like. Everything is checked here, before anything is hashed,
//! read or proposed; the state machine sees only what passed.

use super::errors::{Reason, ServiceError};
use super::passwords::Password;
use crate::limits;
use crate::types::{ClientId, RequestId};

/// The device of a client that names none.
const DEVICE_DEFAULT: &str = "default";
/// The content type of a client that names none.
const CONTENT_TYPE_DEFAULT: &str = "text/plain";

/// A user name in its one form (lower case), or `None` if it is outside the rule
/// `[a-z0-9][a-z0-9._-]{0,31}`.
pub(super) fn fold_name(name: &str) -> Option<String> {
    let folded = name.to_ascii_lowercase();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let well_formed = folded.len() <= limits::USER_NAME_MAX
        && folded.as_bytes().first().is_some_and(alphanumeric)
        && folded
            .bytes()
            .all(|b| alphanumeric(&b) || matches!(b, b'.' | b'_' | b'-'));
    well_formed.then_some(folded)
}

pub(super) fn user_name(name: &str, field: &'static str) -> Result<String, ServiceError> {
    fold_name(name).ok_or_else(|| ServiceError::field(Reason::InvalidName, field))
}

pub(super) fn password(password: &Password, field: &'static str) -> Result<(), ServiceError> {
    let range = limits::PASSWORD_BYTES_MIN..=limits::PASSWORD_BYTES_MAX;
    if range.contains(&password.0.len()) {
        return Ok(());
    }
    Err(ServiceError::field(Reason::InvalidPassword, field)
        .with("limit_bytes", limits::PASSWORD_BYTES_MAX))
}

pub(super) fn full_name(name: &str) -> Result<(), ServiceError> {
    at_most(
        name.len(),
        limits::FULL_NAME_BYTES_MAX,
        Reason::FullNameTooLong,
        "full_name",
    )
}

pub(super) fn body(body: &[u8]) -> Result<(), ServiceError> {
    if body.is_empty() {
        return Err(ServiceError::field(Reason::MessageEmpty, "body"));
    }
    at_most(
        body.len(),
        limits::BODY_BYTES_MAX,
        Reason::MessageTooLong,
        "body",
    )
}

pub(super) fn pattern(pattern: &str) -> Result<(), ServiceError> {
    at_most(
        pattern.len(),
        limits::PATTERN_BYTES_MAX,
        Reason::PatternTooLong,
        "pattern",
    )
}

pub(super) fn content_type(text: String) -> Result<String, ServiceError> {
    if text.is_empty() {
        return Ok(CONTENT_TYPE_DEFAULT.to_owned());
    }
    let printable = text.bytes().all(|b| (b' '..=b'~').contains(&b));
    if printable && text.len() <= limits::CONTENT_TYPE_BYTES_MAX {
        return Ok(text);
    }
    Err(
        ServiceError::field(Reason::ContentTypeInvalid, "content_type")
            .with("limit_bytes", limits::CONTENT_TYPE_BYTES_MAX),
    )
}

pub(super) fn device(id: String) -> Result<String, ServiceError> {
    if id.is_empty() {
        return Ok(DEVICE_DEFAULT.to_owned());
    }
    let well_formed = id
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if well_formed && id.len() <= limits::DEVICE_ID_BYTES_MAX {
        return Ok(id);
    }
    Err(ServiceError::field(Reason::DeviceIdInvalid, "device_id"))
}

/// A request id as a front received it. Zeros are a client that forgot to draw.
pub fn request_id(client: &[u8], sequence: u64) -> Result<RequestId, ServiceError> {
    ClientId::from_slice(client)
        .filter(|client| *client != ClientId::default() && sequence > 0)
        .map(|client| RequestId { client, sequence })
        .ok_or_else(|| ServiceError::field(Reason::RequestIdInvalid, "request_id"))
}

fn at_most(
    bytes: usize,
    limit: usize,
    reason: Reason,
    field: &'static str,
) -> Result<(), ServiceError> {
    if bytes <= limit {
        return Ok(());
    }
    Err(ServiceError::field(reason, field)
        .with("limit_bytes", limit)
        .because(format!("{bytes} bytes where {limit} are allowed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_and_held_to_the_rule() {
        for (name, folded) in [("Alice", "alice"), ("0", "0"), ("a.b_c-d", "a.b_c-d")] {
            assert_eq!(fold_name(name).as_deref(), Some(folded));
        }
        let longest = "x".repeat(32);
        assert_eq!(fold_name(&longest), Some(longest.clone()));
        let too_long = format!("{longest}x");
        for name in [
            "", " ", ".a", "-a", "_a", "a b", "a|b", "ä", "İ", "a\n", &too_long,
        ] {
            assert_eq!(fold_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn each_bad_field_has_its_own_reason() {
        let reason = |result: Result<(), ServiceError>| result.unwrap_err().reason;
        let secret = |length: usize| Password("p".repeat(length));
        assert_eq!(
            reason(user_name("a b", "username").map(drop)),
            Reason::InvalidName
        );
        assert_eq!(
            reason(password(&secret(0), "password")),
            Reason::InvalidPassword
        );
        assert_eq!(
            reason(password(&secret(1025), "password")),
            Reason::InvalidPassword
        );
        assert_eq!(reason(full_name(&"n".repeat(257))), Reason::FullNameTooLong);
        assert_eq!(reason(body(b"")), Reason::MessageEmpty);
        assert_eq!(
            reason(body(&vec![0; limits::BODY_BYTES_MAX + 1])),
            Reason::MessageTooLong
        );
        assert_eq!(reason(pattern(&"a".repeat(257))), Reason::PatternTooLong);
        assert_eq!(
            reason(content_type("text/plain\n".to_owned()).map(drop)),
            Reason::ContentTypeInvalid
        );
        for id in ["a b", "a/b", "ä", &"d".repeat(65)] {
            assert_eq!(
                reason(device(id.to_owned()).map(drop)),
                Reason::DeviceIdInvalid
            );
        }
        for (client, sequence) in [
            (vec![1; 15], 1),
            (vec![1; 17], 1),
            (vec![0; 16], 1),
            (vec![1; 16], 0),
        ] {
            assert_eq!(
                reason(request_id(&client, sequence).map(drop)),
                Reason::RequestIdInvalid
            );
        }
    }

    #[test]
    fn the_limits_themselves_are_allowed_and_defaults_fill_in() {
        password(&Password("p".repeat(1024)), "password").unwrap();
        full_name(&"n".repeat(256)).unwrap();
        body(&vec![0; limits::BODY_BYTES_MAX]).unwrap();
        pattern(&"a".repeat(256)).unwrap();
        assert_eq!(device(String::new()).unwrap(), "default");
        assert_eq!(device("Phone-1".to_owned()).unwrap(), "Phone-1");
        assert_eq!(content_type(String::new()).unwrap(), "text/plain");
        request_id(&[1; 16], u64::MAX).unwrap();
    }
}
