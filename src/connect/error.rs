//! Connect's errors: a code, a sentence, and an HTTP status that follows from the code.

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Deserialize;

use super::codec::object_from_json;

/// An error as the protocol tells it. The message goes to the peer and into logs: it holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct ConnectError {
    /// What kind of error.
    pub code: Code,
    /// A sentence that says what to do.
    pub message: String,
}

impl ConnectError {
    /// An error of this kind with this sentence.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Reads an answer's body; `None` where the answer is no error of the protocol (a proxy's page, an
    /// error of the REST API). A code that is not known is told from the status, as Connect demands.
    #[must_use]
    pub fn parse(status: StatusCode, body: &[u8]) -> Option<Self> {
        if status.is_success() {
            return None;
        }
        let body: Body = object_from_json(body).ok()?;
        let code = Code::from_str(&body.code).unwrap_or_else(|| Code::from_http_status(status));
        Some(Self { code, message: body.message.unwrap_or_default() })
    }

    /// The body that tells it.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let body = serde_json::json!({"code": self.code.as_str(), "message": self.message});
        body.to_string().into_bytes()
    }

    /// The whole answer that tells it.
    #[must_use]
    pub fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.to_json()));
        *response.status_mut() = self.code.http_status();
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

/// Whether Gitea says that it does not know the runner: a plain `unauthenticated`, or, before it
/// answered that, an `unknown` with gRPC's words for it inside.
#[must_use]
pub fn is_unregistered(error: &ConnectError) -> bool {
    match error.code {
        Code::Unauthenticated => true,
        Code::Unknown => {
            error.message.contains("code = Unauthenticated desc = unregistered runner")
        }
        _ => false,
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

    /// What a client makes of a status that comes with no code, by Connect's table.
    #[must_use]
    pub fn from_http_status(status: StatusCode) -> Self {
        match status {
            StatusCode::BAD_REQUEST => Self::Internal,
            StatusCode::UNAUTHORIZED => Self::Unauthenticated,
            StatusCode::FORBIDDEN => Self::PermissionDenied,
            StatusCode::NOT_FOUND => Self::Unimplemented,
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

#[derive(Deserialize)]
struct Body {
    code: String,
    message: Option<String>,
}
