//! What is passed on: as a stream, with the headers cleaned, within the caller's own time limit.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use tracing::{debug, warn};

use super::answer::Caller;
use super::body::ProxyBody;
use super::headers;
use super::limits::Limit;
use super::route::Route;
use super::service::Proxy;
use super::watch::{Polling, Watch, Watched};
use super::wrong_word::Asked;
use crate::connect::{Code, Codec, ConnectError, TIMEOUT_MS};
use crate::lifecycle::Live;
use crate::net::{InBody, OutBody, Patient, UpstreamErrorKind};

/// How long Gitea may take to begin an answer, once the request is sent, where the caller names no
/// limit: packing a large repository takes minutes.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

impl Proxy {
    /// Passes a request on as a stream.
    pub(super) async fn pass(
        &self,
        route: Route,
        request: Request<Incoming>,
        live: Option<Arc<Live>>,
        caller: Caller,
    ) -> Response<ProxyBody> {
        let asked = Asked::of(route, &request, self.upstream.base_path());
        let (parts, body) = request.into_parts();
        let (body, poll) = match route {
            Route::FetchTask => match self.poll_begins(&parts.headers, body).await {
                Ok(begun) => begun,
                Err(error) => return super::service::refuse(error),
            },
            _ if body.is_end_stream() => (OutBody::Empty, None),
            _ => (self.client(body), None),
        };
        // Begun before the request goes out: from then on it may bring a task.
        let watched = match (route, &live) {
            (Route::FetchTask, Some(live)) => {
                let polling = Polling::new(Arc::clone(live), Arc::clone(&self.lifecycle));
                Some(Watched::FetchTask(polling))
            }
            (Route::UpdateTask, Some(live)) => {
                Some(Watched::UpdateTask(Arc::clone(live), Arc::clone(&self.lifecycle)))
            }
            _ => None,
        };
        match self.send(parts, body, live.as_deref()).await {
            Ok(response) if asked.is_some_and(|asked| asked.is_answered_by(&response)) => {
                self.own_word();
                self.accepted(caller);
                match poll {
                    Some(poll) => self.poll_ends(poll, response, watched).await,
                    None => {
                        let stall = self.lifecycle.timing().stall;
                        self.watch(response.map(|body| Patient::new(body, stall)), watched)
                    }
                }
            }
            Ok(response) => Box::pin(self.refused(caller, asked, response)).await,
            Err(error) => super::service::refuse(error),
        }
    }

    /// Sends a request to Gitea, as the runner that Gitea knows; the answer's headers are cleaned.
    pub(super) async fn send(
        &self,
        mut parts: Parts,
        body: OutBody,
        live: Option<&Live>,
    ) -> Result<Response<InBody>, ConnectError> {
        let Some(path_and_query) = parts.uri.into_parts().path_and_query else {
            return Err(ConnectError::new(
                Code::InvalidArgument,
                "the request has no path: dial the broker as you would dial Gitea",
            ));
        };
        // The authority that a client may have named goes no further.
        parts.uri = Uri::from(path_and_query);
        parts.version = Version::HTTP_11;
        headers::clean_request(&mut parts.headers);
        if let Some(live) = live {
            live.swap(&mut parts.headers);
        }
        // What the client's library or this side's left there is of no use to the other connection.
        parts.extensions.clear();
        let limit = time_limit(&parts.headers);
        let upstream = &self.upstream;
        let was_up = upstream.is_up();
        // Gitea may close a pooled connection just as a request goes out on it. What changes nothing is
        // then sent once more, on a connection of its own.
        let again = (parts.method.is_safe() && matches!(body, OutBody::Empty))
            .then(|| Request::from_parts(parts.clone(), OutBody::Empty));
        let request = Request::from_parts(parts, body);
        let mut answer = match limit {
            Some(limit) => upstream.send(request, limit).await,
            None => upstream.send_patiently(request, PATIENCE).await,
        };
        if let (Err(failure), Some(again)) = (&answer, again)
            && failure.kind == UpstreamErrorKind::Reset
        {
            answer = Box::pin(upstream.send_fresh(again, limit.unwrap_or(PATIENCE))).await;
        }
        match answer {
            // No request asks for it, so nobody would know what the connection is from then on.
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                warn!("Gitea, or what answers in its place, switched to another protocol unasked");
                self.lifecycle.metrics.upstream_error(UpstreamErrorKind::Protocol);
                Err(ConnectError::new(
                    Code::Unavailable,
                    "what answers at gitea.url switched to another protocol, which nobody asked for",
                ))
            }
            Ok(mut response) => {
                headers::clean_response(response.headers_mut());
                // Gitea's version is of its own connection.
                *response.version_mut() = Version::HTTP_11;
                Ok(response)
            }
            Err(failure) if failure.is_of_stalled_body() => {
                self.over(Limit::BodyTimeout);
                debug!(reason = %failure, "request not passed on to its end: its body stopped");
                Err(stalled())
            }
            Err(failure) if failure.is_of_body() => {
                debug!(reason = %failure, "request not passed on to its end: its body broke off");
                Err(broken_off())
            }
            Err(failure) => {
                self.lifecycle.metrics.upstream_error(failure.kind);
                if failure.kind == UpstreamErrorKind::Timeout && limit.is_some() {
                    debug!(reason = %failure, "Gitea did not answer in the caller's time");
                    return Err(ConnectError::new(
                        Code::DeadlineExceeded,
                        "Gitea did not answer in the time that Connect-Timeout-Ms gives",
                    ));
                }
                // A Gitea that is down is told once, not for each of its runners' polls.
                if was_up {
                    warn!(reason = %failure, "request not answered by Gitea");
                } else {
                    debug!(reason = %failure, "request not answered by Gitea");
                }
                Err(ConnectError::new(
                    Code::Unavailable,
                    format!("Gitea did not answer the broker: {failure}"),
                )
                .after(failure.retry_after))
            }
        }
    }

    /// A client's body, which may not pause for ever.
    pub(super) fn client(&self, body: impl Into<InBody>) -> OutBody {
        OutBody::Client(Patient::new(body, self.limits().body_timeout))
    }

    /// An answer as it comes.
    pub(super) fn stream(&self, response: Response<InBody>) -> Response<ProxyBody> {
        let stall = self.lifecycle.timing().stall;
        response.map(|body| ProxyBody::Stream(Patient::new(body, stall)))
    }

    /// An answer that is looked at as it passes, where it is one that can be.
    pub(super) fn watch(
        &self,
        response: Response<Patient>,
        watched: Option<Watched>,
    ) -> Response<ProxyBody> {
        let codec = Codec::from_content_type(response.headers().get(CONTENT_TYPE));
        let (Some(call), Some(codec)) = (watched, codec) else {
            return response.map(ProxyBody::Stream);
        };
        let gzip = response.headers().get(CONTENT_ENCODING).is_some_and(|value| value == "gzip");
        response.map(|body| {
            let watch = Watch { call, codec, gzip, seen: Vec::new(), done: false };
            ProxyBody::Watched(body, Box::new(watch))
        })
    }
}

/// What is told of a request that did not come to its end.
pub(super) fn broken_off() -> ConnectError {
    ConnectError::new(
        Code::InvalidArgument,
        "the request's body broke off, or is not framed as HTTP/1.1 has it",
    )
}

/// What is told of one that came to a stop.
fn stalled() -> ConnectError {
    ConnectError::new(
        Code::DeadlineExceeded,
        "nothing more of the request's body came for as long as the broker waits (its setting \
         limits.body_timeout): send it anew",
    )
    .with_status(StatusCode::REQUEST_TIMEOUT)
}

/// The caller's own limit: Connect's header, in milliseconds, up to ten digits.
pub(super) fn time_limit(headers: &HeaderMap) -> Option<Duration> {
    let digits = headers.get(TIMEOUT_MS)?.to_str().ok()?;
    if digits.is_empty() || digits.len() > 10 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_limit_is_ten_digits_at_most() {
        let limit = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("connect-timeout-ms", value.parse().unwrap());
            time_limit(&headers)
        };
        assert_eq!(limit("4999"), Some(Duration::from_millis(4999)));
        assert_eq!(limit("9999999999"), Some(Duration::from_millis(9_999_999_999)));
        for bad in ["", "-1", "+1", "1.5", "10000000000", "x"] {
            assert_eq!(limit(bad), None, "{bad}");
        }
        assert_eq!(time_limit(&HeaderMap::new()), None);
    }
}
