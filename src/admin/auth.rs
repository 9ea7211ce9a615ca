//! Who calls, and whether they may: the networks that are let in, the proxies that are believed, and the
//! admin token. The settings are read for each request, so that a reload holds at once.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::extract::{Extension, Request, State};
use axum::http::header::{AUTHORIZATION, HeaderMap};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use secrecy::ExposeSecret;

use super::Admin;
use super::problem::Problem;
use super::serve::Peer;
use crate::broker::forwarded::{client_address, is_within};
use crate::broker::limiter::Limiter;
use crate::broker::secret::{Digest, digest, secrets_match};
use crate::broker::{Event, What};
use crate::config;
use crate::lifecycle::By;

/// Longest name of a user that is taken over from a proxy, in characters.
const MAX_USER: usize = 64;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Who calls. In the extensions of each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// Behind the trusted proxies; `None` on the Unix socket.
    pub(super) addr: Option<IpAddr>,
    /// As a trusted proxy named them.
    pub(super) user: Option<String>,
}

impl Client {
    /// Whether it came over the Unix socket, whose mode is the authorization.
    pub(super) fn is_local(&self) -> bool {
        self.addr.is_none()
    }

    /// What the audit trail calls it, once it is known to be an admin.
    pub(super) fn by(&self) -> By {
        let actor = match (&self.addr, &self.user) {
            (None, _) => "socket".into(),
            (Some(_), None) => "admin".into(),
            (Some(_), Some(user)) => format!("admin:{user}"),
        };
        By { actor, peer: self.addr }
    }

    fn of(peer: IpAddr, headers: &HeaderMap, settings: &config::Admin) -> Self {
        let trusted = &settings.trusted_proxies;
        if !is_within(peer, trusted) {
            return Self { addr: Some(peer.to_canonical()), user: None };
        }
        Self {
            addr: Some(client_address(peer, headers.get_all(FORWARDED_FOR).iter(), trusted)),
            user: settings.user_header.as_ref().and_then(|header| user(headers, header)),
        }
    }
}

/// Who presented wrong admin tokens.
#[derive(Clone, Default)]
pub struct Failures(Arc<Mutex<Limiter>>);

impl Failures {
    fn lock(&self) -> MutexGuard<'_, Limiter> {
        // It is a count, and whole after every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds out who calls, and sends away who is not let in.
pub(super) async fn identify(
    State(admin): State<Admin>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let client = match request.extensions().get::<Peer>() {
        Some(Peer(Some(peer))) => {
            let settings = admin.lifecycle.settings.load();
            let client = Client::of(*peer, request.headers(), &settings.admin);
            let allowed = &settings.admin.allow_cidrs;
            if !allowed.is_empty() && !client.addr.is_some_and(|addr| is_within(addr, allowed)) {
                return Err(not_let_in(client.addr.unwrap_or(*peer)));
            }
            client
        }
        Some(Peer(None)) => Client { addr: None, user: None },
        None => return Err(Problem::internal("it is not known where the request came from")),
    };
    request.extensions_mut().insert(client);
    // In a task of its own: what was begun runs to its end also where the client hangs up.
    tokio::spawn(next.run(request)).await.map_err(|_| {
        Problem::internal("the broker's log tells what happened; whether it was done is not known")
    })
}

/// Lets admins through, and puts into the extensions [`By`] whom a change is noted.
pub(super) async fn require_admin(
    State(admin): State<Admin>,
    Extension(client): Extension<Client>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let by = match (client.is_local(), bearer(request.headers())) {
        (true, _) => client.by(),
        (false, Some(presented)) => check_token(&admin, &client, presented)?,
        // Who shows nothing guesses nothing.
        (false, None) => {
            configured(&admin)?;
            return Err(Problem::unauthorized("give the admin token: `Authorization: Bearer …`"));
        }
    };
    request.extensions_mut().insert(by);
    Ok(next.run(request).await)
}

/// Whether this is the admin token; on the Unix socket there is nothing to check. A wrong one is counted
/// and noted.
///
/// # Errors
/// What the client is told.
pub(super) fn check_token(admin: &Admin, client: &Client, presented: &[u8]) -> Result<By, Problem> {
    let Some(peer) = client.addr else { return Ok(client.by()) };
    let kept = configured(admin)?;
    let now = Instant::now();
    {
        let mut failures = admin.failures.lock();
        if let Some(wait) = failures.blocked(peer, now) {
            return Err(Problem::throttled("wrong admin tokens", wait));
        }
        if secrets_match(&kept, &digest(presented)) {
            return Ok(client.by());
        }
        failures.failed(peer, now);
    }
    let mut event = Event::now("admin", What::AdminRefused);
    event.peer = Some(peer);
    event.detail = match &client.user {
        Some(user) => format!("a wrong admin token, from {user}"),
        None => "a wrong admin token".into(),
    };
    admin.lifecycle.note_event(event);
    Err(Problem::unauthorized(
        "this is not the admin token; it is in the file that admin.token_file names",
    ))
}

/// What stands after `Authorization: Bearer`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The digest of the admin token: of two digests, none is longer, and none is near the other.
fn configured(admin: &Admin) -> Result<Digest, Problem> {
    let settings = admin.lifecycle.settings.load();
    match &settings.admin.token {
        Some(token) => Ok(digest(token.expose_secret().as_bytes())),
        None => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "admin-off",
            "The admin API is off over TCP",
            format!(
                "no admin token is set: name a file that holds one with admin.token_file \
                 (RUNNER_BROKER__ADMIN__TOKEN_FILE), or use the Unix socket {} (admin.socket)",
                admin.socket.display()
            ),
        )),
    }
}

fn not_let_in(addr: IpAddr) -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "address",
        "This address is not let in",
        format!("{addr} is in none of the networks of admin.allow_cidrs"),
    )
}

/// A name that can be shown and logged; one that is there twice is nobody's.
fn user(headers: &HeaderMap, header: &HeaderName) -> Option<String> {
    let mut values = headers.get_all(header).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let name = std::str::from_utf8(value.as_bytes()).ok()?.trim();
    let name: String = name.chars().take(MAX_USER).collect();
    (!name.is_empty() && !name.contains(char::is_control)).then_some(name)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const USER: HeaderName = HeaderName::from_static("x-webauth-user");

    fn client(peer: &str, lines: &[(HeaderName, &[u8])]) -> Client {
        let settings = config::Admin {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            user_header: Some(USER),
            ..config::Admin::default()
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        Client::of(peer.parse().unwrap(), &headers, &settings)
    }

    fn actor(client: &Client) -> String {
        client.by().actor
    }

    #[test]
    fn a_trusted_proxy_names_address_and_user() {
        let told: &[(HeaderName, &[u8])] = &[(FORWARDED_FOR, b"192.0.2.7"), (USER, b"ada")];
        let behind = client("10.1.1.1", told);
        assert_eq!(behind.addr, Some("192.0.2.7".parse().unwrap()));
        assert_eq!(actor(&behind), "admin:ada");
        let direct = client("192.0.2.1", told);
        assert_eq!(direct.addr, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(actor(&direct), "admin");
        assert_eq!(actor(&Client { addr: None, user: None }), "socket");
        // What the client sent before it, text or not, hides nothing of what the proxy said.
        let junk = client("10.1.1.1", &[(FORWARDED_FOR, b"\xff, 192.0.2.7")]);
        assert_eq!(junk.addr, Some("192.0.2.7".parse().unwrap()));
    }

    #[test]
    fn a_name_that_cannot_be_shown_is_none() {
        for name in [&b""[..], b"  ", b"a\tb", b"a\xc2\x85b", b"\xff"] {
            assert_eq!(client("10.1.1.1", &[(USER, name)]).user, None, "{name:?}");
        }
        assert_eq!(client("10.1.1.1", &[(USER, b"ada"), (USER, b"eve")]).user, None);
        let long = client("10.1.1.1", &[(USER, "ä".repeat(100).as_bytes())]).user.unwrap();
        assert_eq!(long, "ä".repeat(64));
    }

    #[test]
    fn only_a_bearer_shows_a_token() {
        let shown = |value: &'static str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
            bearer(&headers).map(<[u8]>::to_vec)
        };
        assert_eq!(shown("Bearer abc"), Some(b"abc".to_vec()));
        assert_eq!(shown("bearer  abc "), Some(b"abc".to_vec()));
        for other in ["Basic abc", "Bearer", "abc", "Bearerabc"] {
            assert_eq!(shown(other), None, "{other}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
