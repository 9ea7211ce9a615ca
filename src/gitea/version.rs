//! Which Gitea this is.

use hyper::header::{ACCEPT, HeaderValue, USER_AGENT as USER_AGENT_HEADER};
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::answer::Answer;
use super::{BODY_LIMIT, CALL_LIMIT, GiteaClient, RestError, USER_AGENT};
use crate::net::upstream::OutBody;

impl GiteaClient {
    /// Gitea's version in its own words, such as `1.26.0`; `None` where it tells nobody who is not
    /// signed in.
    pub async fn version(&self) -> Result<Option<String>, RestError> {
        #[derive(Deserialize)]
        struct Body {
            version: String,
        }

        let mut request = Request::new(OutBody::Empty);
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.upstream.rest_uri("version");
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(USER_AGENT_HEADER, USER_AGENT);
        let deadline = Instant::now() + CALL_LIMIT;
        let response =
            self.upstream.send(request, CALL_LIMIT).await.map_err(RestError::Unreachable)?;
        let status = response.status();
        let answer = Answer::read(response, BODY_LIMIT, deadline)
            .await
            .map_err(|sentence| RestError::Unexpected(status, sentence))?;
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Ok(None);
        }
        match serde_json::from_slice::<Body>(&answer.body) {
            Ok(body) if status.is_success() => {
                Ok(Some(body.version.chars().filter(|c| !c.is_control()).take(80).collect()))
            }
            _ => Err(RestError::Unexpected(status, answer.describe())),
        }
    }
}
