//! An answer of Gitea read whole, and the sentence for one that Gitea did not write.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, TRANSFER_ENCODING};
use hyper::{HeaderMap, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::connect::retry_after::{DEFAULT_WAIT, wait_of};
use crate::connect::{ConnectError, Encoding, gunzip};
use crate::net::upstream::{InBody, read_limited};

/// Status, headers, and the body as it was before it was compressed.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Without those that told of the body's length and encoding.
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// What was sent, and is shown of it to nobody.
    secret: Option<SecretString>,
}

impl Answer {
    /// Reads the body, whole, under a limit that holds after decompression too. The error is a sentence.
    pub(super) async fn read(
        response: Response<InBody>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Self, String> {
        let (head, body) = response.into_parts();
        let left = deadline.saturating_duration_since(Instant::now());
        let failed = |error: &dyn std::fmt::Display| {
            format!("Gitea's answer ({}) cannot be read: {error}", head.status)
        };
        let body = read_limited(body, limit, left).await.map_err(|error| failed(&error))?;
        let encoding = Encoding::from_header(head.headers.get(CONTENT_ENCODING));
        let body = match encoding.map_err(|error| failed(&error))? {
            Encoding::Identity => body,
            Encoding::Gzip => gunzip(&body, limit).map_err(|error| failed(&error))?.into(),
        };
        let mut headers = head.headers;
        for name in [CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING] {
            headers.remove(name);
        }
        Ok(Self { status: head.status, headers, body, secret: None })
    }

    /// Takes a secret that was sent out of an answer that is quoted in logs: something in front of Gitea
    /// may answer an error with the request in it.
    pub(super) fn hide(&mut self, secret: &SecretString) {
        if self.status.is_success() || secret.expose_secret().is_empty() {
            return;
        }
        self.secret = Some(secret.clone());
        let text = String::from_utf8_lossy(&self.body);
        if text.contains(secret.expose_secret()) {
            self.body = self.without_secret(text.into_owned()).into();
        }
    }

    /// A text that was read out of it: there, the secret may have been escaped.
    pub(super) fn without_secret(&self, text: String) -> String {
        match &self.secret {
            Some(secret) if text.contains(secret.expose_secret()) => {
                text.replace(secret.expose_secret(), "(hidden)")
            }
            _ => text,
        }
    }

    /// The error of the protocol that it is, if it is one.
    pub(super) fn connect_error(&self) -> Option<ConnectError> {
        let mut error = ConnectError::parse(self.status, &self.body)?;
        error.message = self.without_secret(error.message);
        Some(error.after(wait_of(&self.headers)))
    }

    /// How long it asks to wait, where it says that too much is asked, or names a time to ask again.
    pub(super) fn asks_to_wait(&self) -> Option<Duration> {
        let told = wait_of(&self.headers);
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => Some(told.unwrap_or(DEFAULT_WAIT)),
            StatusCode::SERVICE_UNAVAILABLE => told,
            _ => None,
        }
    }

    /// What to do about an answer that is not what was asked for.
    pub(super) fn describe(&self) -> String {
        describe(self.status, &self.headers)
    }
}

/// What to do about an answer that is not what was asked for. It quotes nothing of its body.
pub(crate) fn describe(status: StatusCode, headers: &HeaderMap) -> String {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = header(CONTENT_TYPE);
    if status.is_redirection() {
        // The query is left out: it may hold what the request held.
        let target = header(LOCATION).split(['?', '#']).next().unwrap_or_default();
        return format!(
            "gitea.url redirects to {target:?} ({status}): set gitea.url to the address that \
             answers itself"
        );
    }
    match status {
        StatusCode::TOO_MANY_REQUESTS => format!(
            "Gitea, or a proxy in front of it, is asked too much ({status}): raise its limit for the \
             broker's address"
        ),
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED => format!(
            "something in front of Gitea turns the broker away ({status}, {kind:?}): let \
             /api/actions/ and /api/v1/ pass it without signing in"
        ),
        _ if kind.starts_with("text/html") => format!(
            "a web page ({status}) came in place of Gitea's answer: is something else at \
             gitea.url, or a proxy in front of Gitea in trouble?"
        ),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            format!(
                "Gitea does not answer what is in front of it ({status}): look whether Gitea is up"
            )
        }
        StatusCode::NOT_FOUND => format!(
            "there is no such call at gitea.url ({status}, {kind:?}): something else answers there, a \
             proxy has lost its way to Gitea, or Gitea is older than 1.21 or has no Actions enabled"
        ),
        _ => format!(
            "an answer ({status}, {kind:?}) came that is not what Gitea answers to this call: check \
             gitea.url, and that Gitea is 1.21 or later with Actions enabled"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_in_place_of_an_answer_is_told() {
        let cases = [
            (302, "text/html", "redirects to \"https://git.example/login\" (302 Found)"),
            (307, "", "redirects to \"https://git.example/login\" (307"),
            (401, "text/html", "turns the broker away (401 Unauthorized, \"text/html\")"),
            (403, "application/json", "turns the broker away (403"),
            (429, "text/plain", "is asked too much (429"),
            (502, "text/html", "a web page (502 Bad Gateway) came in place of"),
            (200, "text/html; charset=utf-8", "a web page (200 OK) came in place of"),
            (404, "text/html", "a web page (404 Not Found)"),
            (404, "text/plain", "something else answers there"),
            (504, "text/plain", "does not answer what is in front of it (504"),
            (500, "text/plain", "not what Gitea answers to this call"),
        ];
        for (status, kind, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, kind.parse().unwrap());
            let location = "https://git.example/login?token=query-canary#fragment-canary";
            headers.insert(LOCATION, location.parse().unwrap());
            let said = describe(StatusCode::from_u16(status).unwrap(), &headers);
            assert!(said.contains(expected), "{said}");
            assert!(!said.contains("canary"), "{said}");
        }
    }
}
