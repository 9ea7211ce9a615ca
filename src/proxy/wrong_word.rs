//! Answers to runners' calls that are not Gitea's own word: a proxy's page, a redirect, a bare status.
//!
//! A runner would take some of them for Gitea's: a bare 401 for "you are gone", a bare 404 for "Gitea is too
//! old". So it is told that Gitea cannot be reached, and when to ask again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tracing::{debug, info, warn};

use super::body::ProxyBody;
use super::route::{Route, is_runners_call};
use super::service::{Proxy, refuse};
use crate::connect::retry_after::wait_of;
use crate::connect::{Code, Codec, ConnectError};
use crate::gitea::describe;
use crate::net::UpstreamErrorKind;

/// They have ended when none came for so long: a proxy that limits requests lets some through.
const QUIET: Duration = Duration::from_secs(60);

/// A call as runners make them. Its answer is a message in its own codec, or an error of the protocol.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    route: Route,
    codec: Codec,
}

impl Asked {
    /// `None`: no runner asks so, and the answer passes as it is.
    pub(super) fn of(route: Route, request: &Request<Incoming>, base: &str) -> Option<Self> {
        let is_call = route == Route::Ping || is_runners_call(route, request.uri().path(), base);
        let codec = Codec::from_content_type(request.headers().get(CONTENT_TYPE))?;
        (is_call && request.method() == Method::POST).then_some(Self { route, codec })
    }

    /// A Declare.
    pub(super) fn declare(codec: Codec) -> Self {
        Self { route: Route::Declare, codec }
    }

    /// Whether an answer begins as the message that was asked for.
    pub(super) fn is_answered_by<B>(self, response: &Response<B>) -> bool {
        response.status() == StatusCode::OK
            && Codec::from_content_type(response.headers().get(CONTENT_TYPE)) == Some(self.codec)
    }

    /// Whether this is how Gitea says that it has no such call, where the broker knows of none either.
    pub(super) fn is_unknown_by<B>(self, response: &Response<B>) -> bool {
        let is_text = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/plain");
        self.route == Route::Other
            && response.status() == StatusCode::NOT_FOUND
            && response.headers().get(CONTENT_TYPE).is_some_and(is_text)
    }
}

/// Whether wrong words come at present, so that this is told once and not for each poll.
#[derive(Default)]
pub(super) struct WrongWords {
    come: AtomicBool,
    /// When the last one came.
    last: Mutex<Option<Instant>>,
}

impl WrongWords {
    /// One came; whether that is news.
    fn comes(&self, now: Instant) -> bool {
        let mut last = self.last();
        self.come.store(true, Ordering::Relaxed);
        last.replace(now).is_none()
    }

    /// Gitea's own word came; whether it is news that wrong ones have ended.
    fn ended(&self, now: Instant) -> bool {
        if !self.come.load(Ordering::Relaxed) {
            return false;
        }
        let mut last = self.last();
        if last.is_none_or(|last| now.saturating_duration_since(last) < QUIET) {
            return false;
        }
        self.come.store(false, Ordering::Relaxed);
        last.take().is_some()
    }

    fn last(&self) -> MutexGuard<'_, Option<Instant>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Gitea itself answered a runner's call.
    pub(super) fn own_word(&self) {
        self.upstream.set_up(true);
        if self.wrong_words.ended(Instant::now()) {
            info!("runners' calls are answered by Gitea itself again");
        }
    }

    /// Something else did. What the runner is told in its place.
    pub(super) fn wrong_word(
        &self,
        asked: Asked,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Response<ProxyBody> {
        self.lifecycle.metrics.upstream_error(UpstreamErrorKind::Protocol);
        // Whoever limits requests is near enough to Gitea to know that it is there.
        if status != StatusCode::TOO_MANY_REQUESTS {
            self.upstream.set_up(false);
        }
        let reason = describe(status, headers);
        let route = asked.route.as_str();
        if self.wrong_words.comes(Instant::now()) {
            warn!(route, reason, "a runner's call was not answered by Gitea itself");
        } else {
            debug!(route, reason, "a runner's call was not answered by Gitea itself");
        }
        refuse(
            ConnectError::new(Code::Unavailable, format!("Gitea itself did not answer: {reason}"))
                .after(wait_of(headers)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_words_are_news_once_and_so_is_their_end() {
        let (words, begun) = (WrongWords::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert!(!words.ended(begun), "none came");
        assert!(words.comes(begun));
        assert!(!words.ended(at(1)), "Gitea answers in between");
        assert!(!words.comes(at(2)));
        assert!(!words.ended(at(61)));
        assert!(words.ended(at(62)));
        assert!(!words.ended(at(63)));
        assert!(words.comes(at(64)));
    }
}
