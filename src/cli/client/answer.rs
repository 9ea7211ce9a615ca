//! What the broker, or something else in its place, answers.

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, LINK, LOCATION, RETRY_AFTER};
use hyper::{HeaderMap, Response, StatusCode};
use serde::de::DeserializeOwned;

use super::super::Failure;
use super::super::show::plain;
use super::Way;
use crate::admin::problem::{AMBIGUOUS_RUNNER, Problem, UNKNOWN_RUNNER, UNKNOWN_TOKEN};

/// The JSON of a good answer; all else is a failure that says what to do.
pub(super) fn read<T: DeserializeOwned>(answer: Response<Bytes>, way: &Way) -> Result<T, Failure> {
    let status = answer.status();
    if status.is_success()
        && let Ok(content) = serde_json::from_slice(answer.body())
    {
        return Ok(content);
    }
    Err(match serde_json::from_slice::<Problem>(answer.body()) {
        Ok(problem) => refused(status, &problem, way),
        Err(_) => no_broker(&answer, way),
    })
}

/// The query of the next page. Its path is the list's own, whatever a proxy on the way makes of it.
pub(super) fn next_page(headers: &HeaderMap) -> Option<String> {
    headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok()).find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let (_, query) = target.split_once('?')?;
        parameters.contains("rel=\"next\"").then(|| query.to_owned())
    })
}

/// What the broker said no to.
fn refused(status: StatusCode, problem: &Problem, way: &Way) -> Failure {
    let detail = plain(&problem.detail);
    let message = match (status, way) {
        (StatusCode::UNAUTHORIZED, Way::Remote(remote)) => remote.not_let_in(),
        _ if problem.is(UNKNOWN_RUNNER) || problem.is(AMBIGUOUS_RUNNER) => {
            format!("{detail}; see `runner-broker runner list`")
        }
        _ if problem.is(UNKNOWN_TOKEN) => format!("{detail}; see `runner-broker token list`"),
        _ => detail,
    };
    Failure::new(code(status), message)
}

fn code(status: StatusCode) -> u8 {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::FORBIDDEN,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Failure::UNAVAILABLE,
        _ if status.is_client_error() => Failure::USAGE,
        _ => Failure::INTERNAL,
    }
}

/// What something answers that is no broker, or one of another version.
fn no_broker(answer: &Response<Bytes>, way: &Way) -> Failure {
    let status = answer.status();
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let is_page = header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html"));
    let message = match status {
        _ if status.is_redirection() => format!(
            "{way} sends to {} instead of an answer ({status}): give --url the broker's own admin \
             address, without a sign-in page in front of /api",
            header(LOCATION).map_or_else(|| "nowhere".into(), without_query)
        ),
        StatusCode::TOO_MANY_REQUESTS => format!(
            "{way} takes no more requests for now ({status}): try again{}",
            header(RETRY_AFTER)
                .map_or_else(|| " later".into(), |seconds| format!(" in {} s", plain(seconds)))
        ),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => format!(
            "{way} lets nobody in, and it is not the broker that says so ({status}): let /api pass \
             through the proxy in front of it"
        ),
        _ if is_page => format!(
            "{way} answers with a web page, not as a broker ({status}): give --url the broker's own \
             admin address (admin.listen or admin.public_url)"
        ),
        _ => format!(
            "what answers at {way} is no broker of this version ({status}): update the one that is \
             older"
        ),
    };
    let code = match code(status) {
        Failure::FORBIDDEN => Failure::FORBIDDEN,
        _ => Failure::UNAVAILABLE,
    };
    Failure::new(code, message)
}

/// A place as it may be shown: a query may hold what is nobody's business.
fn without_query(place: &str) -> String {
    plain(place.split(['?', '#']).next().unwrap_or_default())
}
