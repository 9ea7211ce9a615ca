//! Connect's errors: a code, a sentence, and an HTTP status that follows from the code.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Deserialize;

use super::codec::object_from_json;
use super::retry_after::{DEFAULT_WAIT, header_of};

/// An error as the protocol tells it. The message goes to the peer and into logs: it holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct ConnectError {
    /// What kind of error.
    pub code: Code,
    /// A sentence that says what to do.
    pub message: String,
    /// How long the caller had better wait, where that is known.
    pub retry_after: Option<Duration>,
    /// The answer's status, where it is another than the code's.
    pub status: Option<StatusCode>,
}

impl ConnectError {
    /// An error of this kind with this sentence.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, status: None }
    }

    /// The same, with how long the caller had better wait.
    #[must_use]
    pub fn after(self, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..self }
    }

    /// The same with a status of its own, which says it better than the code's.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status: Some(status), ..self }
    }

    /// Reads an answer's body; `None` where the answer is no error of the protocol (a proxy's page, an
    /// error of the REST API). Status and code must go together: what signs in users in front of Gitea
    /// answers in JSON too, and its 401 would read as Gitea's word that a runner is gone. The sentence is one
    /// line: it goes into logs, and onto terminals.
    #[must_use]
    pub fn parse(status: StatusCode, body: &[u8]) -> Option<Self> {
        let body: Body = object_from_json(body).ok()?;
        let code = Code::from_str(&body.code).filter(|code| code.goes_with(status))?;
        let message = body.message.unwrap_or_default().replace(char::is_control, " ");
        Some(Self::new(code, message))
    }

    /// The body that tells it.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let body = serde_json::json!({"code": self.code.as_str(), "message": self.message});
        body.to_string().into_bytes()
    }

    /// The whole answer that tells it. One that another moment may answer otherwise says when to ask again.
    #[must_use]
    pub fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.to_json()));
        *response.status_mut() = self.status.unwrap_or_else(|| self.code.http_status());
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        if self.code.is_for_now() {
            let wait = header_of(self.retry_after.unwrap_or(DEFAULT_WAIT));
            response.headers_mut().insert(RETRY_AFTER, wait);
        }
        response
    }
}

/// The kinds of error that Connect knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The caller gave up.
    Canceled,
    /// Not told.
    Unknown,
    /// The request is wrong, whatever the state of the system.
    InvalidArgument,
    /// The time that the caller gave has passed.
    DeadlineExceeded,
    /// There is no such thing.
    NotFound,
    /// There is such a thing already.
    AlreadyExists,
    /// The caller is known and may not.
    PermissionDenied,
    /// A limit is reached.
    ResourceExhausted,
    /// The system is not in the state that the request needs.
    FailedPrecondition,
    /// Another call came between.
    Aborted,
    /// Past the end.
    OutOfRange,
    /// There is no such call or encoding here.
    Unimplemented,
    /// The server is broken.
    Internal,
    /// The server cannot answer now; try again.
    Unavailable,
    /// Data is lost for good.
    DataLoss,
    /// The caller is not known.
    Unauthenticated,
}

impl Code {
    /// All codes.
    pub const ALL: [Self; 16] = [
        Self::Canceled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Canceled => "canceled",
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out_of_range",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data_loss",
            Self::Unauthenticated => "unauthenticated",
        }
    }

    /// Reads a name on the wire.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "an unknown name is no error here")]
    pub fn from_str(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }

    /// The status that an answer with this code has.
    #[must_use]
    pub fn http_status(self) -> StatusCode {
        match self {
            Self::Canceled => StatusCode::from_u16(499).expect("499 is within 100 to 999"),
            Self::Unknown | Self::Internal | Self::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => {
                StatusCode::BAD_REQUEST
            }
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::AlreadyExists | Self::Aborted => StatusCode::CONFLICT,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
        }
    }

    /// Whether the same call may be answered otherwise before long, with nothing changed.
    #[must_use]
    pub fn is_for_now(self) -> bool {
        matches!(self, Self::Unavailable | Self::ResourceExhausted)
    }

    /// Whether an answer with this status may have this code; older servers had other statuses for some.
    fn goes_with(self, status: StatusCode) -> bool {
        let older = match self {
            Self::Canceled | Self::DeadlineExceeded => StatusCode::REQUEST_TIMEOUT,
            Self::FailedPrecondition => StatusCode::PRECONDITION_FAILED,
            Self::Unimplemented => StatusCode::NOT_FOUND,
            _ => return status == self.http_status(),
        };
        status == self.http_status() || status == older
    }
}

#[derive(Deserialize)]
struct Body {
    code: String,
    message: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::recorded::exchange;

    fn recorded(name: &str) -> Option<ConnectError> {
        let response = exchange(name).response;
        ConnectError::parse(response.status(), &response.body())
    }

    #[test]
    fn recorded_errors_are_read() {
        let error = recorded("register-token-not-found").unwrap();
        assert_eq!(error.code, Code::Unknown);
        assert_eq!(error.message, "runner registration token not found");
        assert_eq!(error.to_string(), "unknown: runner registration token not found");
    }

    #[test]
    fn an_error_is_written_as_gitea_writes_it() {
        let response = exchange("register-encoding-unknown").response;
        let error = ConnectError::parse(response.status(), &response.body()).unwrap();
        assert_eq!(error.to_json(), response.body());
        let written = error.into_response();
        assert_eq!(written.status(), response.status());
        assert_eq!(written.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(written.body(), &response.body());
    }

    #[test]
    fn answers_that_are_no_connect_error_are_told_apart() {
        assert_eq!(recorded("deregister-unknown-to-gitea"), None);
        assert_eq!(recorded("rest-token-bad"), None);
        assert_eq!(recorded("register-json"), None);
        let bodies: [&[u8]; 5] =
            [b"", b"<html>", br#"["unknown","x"]"#, br#"{"code":5}"#, br#"{"message":"x"}"#];
        for body in bodies {
            assert_eq!(ConnectError::parse(StatusCode::BAD_GATEWAY, body), None);
        }
    }

    #[test]
    fn a_success_is_no_error_whatever_its_body() {
        assert_eq!(ConnectError::parse(StatusCode::OK, br#"{"code":"unknown"}"#), None);
    }

    #[test]
    fn details_are_tolerated_and_a_message_may_be_missing() {
        let body = br#"{"code":"aborted","details":[{"type":"a.B","value":"AA"}]}"#;
        let error = ConnectError::parse(StatusCode::CONFLICT, body).unwrap();
        assert_eq!(error, ConnectError::new(Code::Aborted, ""));
    }

    #[test]
    fn a_code_and_a_status_that_do_not_go_together_are_no_word_of_gitea() {
        let parse = |status: u16, code: &str| {
            let body = serde_json::json!({"code": code, "message": "x"}).to_string();
            ConnectError::parse(StatusCode::from_u16(status).unwrap(), body.as_bytes())
                .map(|error| error.code)
        };
        for code in Code::ALL {
            assert_eq!(parse(code.http_status().as_u16(), code.as_str()), Some(code));
        }
        for (status, code) in [
            (408, Code::Canceled),
            (408, Code::DeadlineExceeded),
            (412, Code::FailedPrecondition),
            (404, Code::Unimplemented),
        ] {
            assert_eq!(parse(status, code.as_str()), Some(code), "as older servers have it");
        }
        for (status, code) in [
            (502, "later"),
            (401, "UNAUTHORIZED"),
            (401, "unknown"),
            (403, "unauthenticated"),
            (404, "unavailable"),
        ] {
            assert_eq!(parse(status, code), None, "{status} {code}");
        }
    }

    #[test]
    fn an_error_of_this_moment_says_when_to_ask_again() {
        for code in Code::ALL {
            let wait =
                |error: ConnectError| error.into_response().headers().get(RETRY_AFTER).cloned();
            let told = |text| code.is_for_now().then(|| HeaderValue::from_static(text));
            assert_eq!(wait(ConnectError::new(code, "")), told("2"));
            let later = ConnectError::new(code, "").after(Some(Duration::from_millis(4001)));
            assert_eq!(wait(later), told("5"));
        }
    }

    #[test]
    fn every_code_is_read_back_by_its_name() {
        for code in Code::ALL {
            assert_eq!(Code::from_str(code.as_str()), Some(code));
        }
        assert_eq!(Code::from_str("Unknown"), None);
    }

    #[test]
    fn statuses_are_those_of_the_protocol() {
        let statuses = Code::ALL.map(|code| code.http_status().as_u16());
        let expected =
            [499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];
        assert_eq!(statuses, expected);
    }

    #[test]
    fn a_message_is_escaped() {
        let error = ConnectError::new(Code::NotFound, "\"\n\u{1}");
        assert_eq!(error.to_json(), br#"{"code":"not_found","message":"\"\n\u0001"}"#);
        let error = ConnectError::new(Code::NotFound, "\"a\\ \u{e9}");
        let parsed = ConnectError::parse(StatusCode::NOT_FOUND, &error.to_json());
        assert_eq!(parsed, Some(error));
    }

    #[test]
    fn the_sentence_of_another_is_one_line() {
        let body = br#"{"code":"unknown","message":"one\ntwo\u001b[31m"}"#;
        let error = ConnectError::parse(StatusCode::INTERNAL_SERVER_ERROR, body).unwrap();
        assert_eq!(error.message, "one two [31m");
    }
}
