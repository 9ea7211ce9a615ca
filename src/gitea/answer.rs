//! An answer of Gitea read whole, and the sentence for one that Gitea did not write.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, TRANSFER_ENCODING};
use hyper::{HeaderMap, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::connect::{Encoding, gunzip};
use crate::net::upstream::read_limited;

/// Status, headers, and the body as it was before it was compressed.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Without those that told of the body's length and encoding.
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// Reads the body, whole, under a limit that holds after decompression too. The error is a sentence.
    pub(super) async fn read(
        response: Response<Incoming>,
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
        Ok(Self { status: head.status, headers, body })
    }

    /// Takes a secret that was sent out of an answer that is quoted in logs: something in front of Gitea
    /// may answer an error with the request in it.
    pub(super) fn hide(&mut self, secret: &SecretString) {
        let secret = secret.expose_secret();
        let text = String::from_utf8_lossy(&self.body);
        if !self.status.is_success() && !secret.is_empty() && text.contains(secret) {
            self.body = text.replace(secret, "(hidden)").into();
        }
    }

    /// What to do about an answer that is not what was asked for.
    pub(super) fn describe(&self) -> String {
        let status = self.status;
        let header =
            |name| self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if status.is_redirection() {
            // The query is left out: it may hold what the request held.
            let target = header(LOCATION).split('?').next().unwrap_or_default();
            return format!(
                "gitea.url redirects to {target:?} ({status}): set gitea.url to the address that \
                 answers itself"
            );
        }
        if header(CONTENT_TYPE).starts_with("text/html") {
            return format!(
                "a web page ({status}) came in place of Gitea's answer: is something else at \
                 gitea.url, or a proxy in front of Gitea in trouble?"
            );
        }
        format!(
            "an answer ({status}, {:?}) came that is not what Gitea answers to this call: check \
             gitea.url, and that Gitea is 1.21 or later with Actions enabled",
            header(CONTENT_TYPE)
        )
    }
}
