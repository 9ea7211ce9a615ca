//! Which Gitea this is.

use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::{GiteaClient, RestError};

impl GiteaClient {
    /// Gitea's version in its own words, such as `1.26.0`; `None` where it tells nobody who is not
    /// signed in.
    pub async fn version(&self) -> Result<Option<String>, RestError> {
        #[derive(Deserialize)]
        struct Body {
            version: String,
        }

        let answer = self.ask(Method::GET, "version", None).await?;
        if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Ok(None);
        }
        match serde_json::from_slice::<Body>(&answer.body) {
            Ok(body) if answer.status.is_success() => {
                Ok(Some(body.version.chars().filter(|c| !c.is_control()).take(80).collect()))
            }
            _ => Err(RestError::Unexpected(answer.status, answer.describe())),
        }
    }
}
