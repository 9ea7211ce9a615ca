//! Errors as RFC 9457 words them.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::lifecycle::DeregisterError;

/// No runner has the id, uuid or name that was asked for.
pub const UNKNOWN_RUNNER: &str = "unknown-runner";
/// Several runners have the name that was asked for.
pub const AMBIGUOUS_RUNNER: &str = "ambiguous-runner";

/// An error of the admin listener or the Unix socket. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind it is, for programs: `urn:runner-broker:…`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of its kind.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time and what to do.
    pub detail: String,
    /// Gitea's ids of the runners that may have been meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<i64>,
}

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
            kind: format!("{URN}{kind}"),
            title: title.into(),
            status: status.as_u16(),
            detail: detail.into(),
            ids: Vec::new(),
        }
    }

    pub(super) fn of_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "request", "The request cannot be read", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

impl From<DeregisterError> for Problem {
    fn from(error: DeregisterError) -> Self {
        let (status, kind, title) = match &error {
            DeregisterError::NoApiToken(_) => {
                (StatusCode::CONFLICT, "no-api-token", "The broker has no API token")
            }
            DeregisterError::Busy(_) => (StatusCode::CONFLICT, "busy", "The runner has a task"),
            DeregisterError::Refused(_) => {
                (StatusCode::BAD_GATEWAY, "refused", "Gitea did not delete the runner")
            }
            DeregisterError::Unreachable(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unreachable", "Gitea cannot be asked")
            }
            DeregisterError::Store(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "store", "The record cannot be changed")
            }
        };
        Self::new(status, kind, title, error.to_string())
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
