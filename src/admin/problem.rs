//! Errors as RFC 9457 words them.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::broker::policy::Refusal;
use crate::lifecycle::{AdoptError, DeregisterError, TokenError};
use crate::store::StoreError;

/// No token has the id that was asked for.
pub const UNKNOWN_TOKEN: &str = "unknown-token";
/// No runner has the id, uuid or name that was asked for.
pub const UNKNOWN_RUNNER: &str = "unknown-runner";
/// Several runners have the name that was asked for.
pub const AMBIGUOUS_RUNNER: &str = "ambiguous-runner";
/// Gitea has not told the id of an adopted runner.
pub const NOT_TOLD: &str = "not-told";
/// The broker knows the runner that was to be adopted.
pub const KNOWN_RUNNER: &str = "known-runner";

/// An error of the admin listener or the Unix socket. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What kind it is, for programs: `urn:runner-broker:…`.
    #[serde(rename = "type")]
    #[schema(value_type = String, pattern = "^urn:runner-broker:[a-z-]+$")]
    pub kind: Box<str>,
    /// The same for every problem of its kind.
    #[schema(value_type = String)]
    pub title: Box<str>,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time and what to do.
    pub detail: String,
    /// Gitea's ids of the runners that may have been meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<i64>,
    /// What is wrong with single fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Seconds, told by the header `Retry-After`.
    #[serde(skip)]
    pub(super) retry_after: Option<u32>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Its name.
    pub field: String,
    /// What would be right.
    pub detail: String,
}

/// Longest account of what cannot be read, in characters.
const MAX_DETAIL: usize = 500;
/// When tokens that were exchanged may have expired, in seconds.
const CHILDREN_RETRY: u32 = 60;
/// After so many seconds to try again, where nothing better is known.
const RETRY: u32 = 5;
const URN: &str = "urn:runner-broker:";

impl Problem {
    /// Whether it is of this kind.
    #[must_use]
    pub fn is(&self, kind: &str) -> bool {
        self.kind.strip_prefix(URN) == Some(kind)
    }

    pub(super) fn new(
        status: StatusCode,
        kind: &str,
        title: &str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind: format!("{URN}{kind}").into(),
            title: title.into(),
            status: status.as_u16(),
            detail: detail.into(),
            ids: Vec::new(),
            errors: Vec::new(),
            retry_after: None,
        }
    }

    pub(super) fn throttled(what: &str, wait: Duration) -> Self {
        let seconds = whole_seconds(wait);
        let detail = format!("too many {what} came from this address; try again in {seconds} s");
        let title = "Too many failures";
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "throttled", title, detail);
        Self { retry_after: Some(seconds), ..problem }
    }

    /// The caller is not known.
    pub(super) fn unauthorized(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "The token is not right", detail)
    }

    pub(super) fn internal(detail: impl Into<String>) -> Self {
        let title = "The broker made a mistake";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", title, detail)
    }

    pub(super) fn of_request(detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        // It may quote what was sent.
        if let Some((end, _)) = detail.char_indices().nth(MAX_DETAIL) {
            detail.replace_range(end.., "…");
        }
        Self::new(StatusCode::BAD_REQUEST, "request", "The request cannot be read", detail)
    }

    pub(super) fn of_fields(errors: Vec<FieldError>) -> Self {
        let told: Vec<_> =
            errors.iter().map(|one| format!("{}: {}", one.field, one.detail)).collect();
        let title = "Such a token cannot be";
        let problem =
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", title, told.join("; "));
        Self { errors, ..problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = match status {
            StatusCode::SERVICE_UNAVAILABLE => Some(self.retry_after.unwrap_or(RETRY)),
            _ => self.retry_after,
        };
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let detail = error.to_string();
        match error {
            TokenError::Unknown(_) => {
                Self::new(StatusCode::NOT_FOUND, UNKNOWN_TOKEN, "No such token", detail)
            }
            TokenError::Declared(_) => {
                Self::new(StatusCode::CONFLICT, "declared", "The settings keep this token", detail)
            }
            TokenError::Conflict(_) => {
                Self::new(StatusCode::CONFLICT, "conflict", "This cannot be now", detail)
            }
            TokenError::Invalid(wrong) => Self::of_fields(
                wrong
                    .into_iter()
                    .map(|(field, detail)| FieldError { field: field.into(), detail })
                    .collect(),
            ),
            TokenError::Refused(refusal) => refusal.into(),
            TokenError::TooMany(_) => {
                let (status, title) = (StatusCode::TOO_MANY_REQUESTS, "Too many unused tokens");
                let problem = Self::new(status, "too-many", title, detail);
                Self { retry_after: Some(CHILDREN_RETRY), ..problem }
            }
            TokenError::Store(error) => error.into(),
        }
    }
}

/// Why no child was made.
impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::Token | Refusal::RegistrationToken => Self::unauthorized(&detail),
            Refusal::Throttled(wait) => Self::throttled("wrong tokens", wait),
            Refusal::Disabled
            | Refusal::Expired
            | Refusal::UsedUp
            | Refusal::TooManyRunners(_)
            | Refusal::Label(_)
            | Refusal::Name(_)
            | Refusal::NotEphemeral
            | Refusal::Address(_)
            | Refusal::Scope(_)
            | Refusal::NotReusable
            | Refusal::Request(_) => {
                let title = "The enrollment token does not allow this";
                Self::new(StatusCode::FORBIDDEN, "not-allowed", title, detail)
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let title = "The store cannot be used";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store", title, error.to_string())
    }
}

impl From<DeregisterError> for Problem {
    fn from(error: DeregisterError) -> Self {
        let detail = error.to_string();
        let (status, kind, title) = match error {
            DeregisterError::NoApiToken(_) => {
                (StatusCode::CONFLICT, "no-api-token", "The broker has no API token")
            }
            DeregisterError::NoAbility(_) => {
                (StatusCode::CONFLICT, "no-ability", "Gitea cannot delete runners")
            }
            DeregisterError::Busy(_) => (StatusCode::CONFLICT, "busy", "The runner has a task"),
            DeregisterError::NotTold | DeregisterError::NotMoved | DeregisterError::Foreign => {
                (StatusCode::CONFLICT, NOT_TOLD, "Too little is known of the runner yet")
            }
            DeregisterError::Lost => {
                (StatusCode::CONFLICT, "lost", "Gitea does not know the runner")
            }
            DeregisterError::SwitchedOff => {
                (StatusCode::CONFLICT, "switched-off", "An admin has switched the runner off")
            }
            DeregisterError::Refused(_) => {
                (StatusCode::BAD_GATEWAY, "refused", "Gitea did not delete the runner")
            }
            DeregisterError::Unreachable(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unreachable", "Gitea cannot be asked")
            }
            DeregisterError::Store(error) => return error.into(),
        };
        Self::new(status, kind, title, detail)
    }
}

impl From<AdoptError> for Problem {
    fn from(error: AdoptError) -> Self {
        let detail = error.to_string();
        let (status, kind, title) = match error {
            AdoptError::Invalid(wrong) => {
                let errors = wrong
                    .into_iter()
                    .map(|(field, detail)| FieldError { field: field.into(), detail })
                    .collect();
                let title = "Such a runner cannot be";
                let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", title, detail);
                return Self { errors, ..problem };
            }
            AdoptError::Known => (StatusCode::CONFLICT, KNOWN_RUNNER, "The runner is known"),
            AdoptError::Taken => (StatusCode::CONFLICT, "taken", "The uuid is another runner's"),
            AdoptError::Full => (StatusCode::CONFLICT, "too-many", "Too many adopted runners"),
            AdoptError::Unregistered => {
                (StatusCode::UNPROCESSABLE_ENTITY, "unregistered", "Gitea does not know the runner")
            }
            AdoptError::Unreachable(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unreachable", "Gitea cannot be asked")
            }
            AdoptError::Draining => {
                (StatusCode::SERVICE_UNAVAILABLE, "draining", "The broker is shutting down")
            }
            AdoptError::Store(error) => return error.into(),
        };
        Self::new(status, kind, title, detail)
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::of_request(rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::of_request(rejection.body_text())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::MissingJsonContentType(_) => Self::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "media-type",
                "The body must be JSON",
                "send the body as `Content-Type: application/json`",
            ),
            JsonRejection::BytesRejection(rejection) => rejection.into(),
            other => Self::of_request(other.body_text()),
        }
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            status @ StatusCode::PAYLOAD_TOO_LARGE => {
                Self::new(status, "too-large", "The body is too long", "send 64 KiB at most")
            }
            _ => Self::of_request(rejection.body_text()),
        }
    }
}

/// Rounded up: who waits so long has waited long enough.
fn whole_seconds(wait: Duration) -> u32 {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
