//! [`ServiceError`] as a gRPC status: the code, the sentence, `google.rpc.ErrorInfo` with the
//! stable reason word, and `google.rpc.RetryInfo` where trying again makes sense.

use crate::service::ServiceError;
use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// `ErrorInfo::domain` of every error.
pub(super) const DOMAIN: &str = "chat";

pub(super) fn status(error: &ServiceError) -> Status {
    let metadata: HashMap<String, String> = error
        .metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect();
    let mut details = ErrorDetails::with_error_info(error.reason.word(), DOMAIN, metadata);
    if let Some(delay) = error.reason.retry_after() {
        details.set_retry_info(Some(delay));
    }
    // The service numbers its codes as gRPC does.
    let code = Code::from_i32(error.reason.code() as i32);
    Status::with_error_details(code, error.to_string(), details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Reason;

    #[test]
    fn every_reason_arrives_with_word_domain_code_and_delay() {
        for reason in Reason::ALL {
            let error = ServiceError::new(*reason).with("field", "body");
            let status = status(&error);
            assert_eq!(
                format!("{:?}", status.code()),
                format!("{:?}", reason.code())
            );
            assert_eq!(status.message(), reason.sentence());
            let info = status.get_details_error_info().unwrap();
            assert_eq!(
                (info.reason.as_str(), info.domain.as_str()),
                (reason.word(), DOMAIN)
            );
            assert_eq!(info.metadata["field"], "body");
            let delay = status.get_details_retry_info().and_then(|r| r.retry_delay);
            assert_eq!(delay, reason.retry_after(), "{reason:?}");
        }
    }
}
