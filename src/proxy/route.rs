//! What a path means, whatever its spelling.
//!
//! Gitea's router collapses repeated slashes, trims trailing ones and decodes escapes, and proxies in
//! front of it may do more. So a path is brought to one plain form before it is looked at, and a path
//! that means one of the broker's own calls but is not spelled plainly is refused, never passed on.
//!
//! Seen with a real Gitea (1.26 development, 2025-11): `…/Register/`, `…/Register//`, `//api/actions/…`,
//! `…/%52egister`, an absolute-form target with any host and HTTP/1.0 all register; `%2F`, escapes left of
//! the last segment, dot segments, another case and `;x` are a 404. Over plain HTTP/1.1 the content types
//! `application/grpc` and `application/grpc-web` register too, which is why the broker takes only the two
//! codecs that it reads.

use std::borrow::Cow;

/// So many readings of a path are looked at, each unescaped once more; beyond, only the last of all is.
const PROXIES: usize = 8;

/// The label `route` of the metrics: a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `RunnerService/Register`
    Register,
    /// `RunnerService/Declare`
    Declare,
    /// `RunnerService/Deregister`
    Deregister,
    /// `RunnerService/FetchTask`
    FetchTask,
    /// `RunnerService/UpdateTask`
    UpdateTask,
    /// `RunnerService/UpdateLog`
    UpdateLog,
    /// `PingService/Ping`
    Ping,
    /// Artifacts and caches.
    Artifacts,
    /// The REST API.
    Api,
    /// Everything else: git, packages, pages.
    Other,
}

impl Route {
    /// All routes, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Register,
        Self::Declare,
        Self::Deregister,
        Self::FetchTask,
        Self::UpdateTask,
        Self::UpdateLog,
        Self::Ping,
        Self::Artifacts,
        Self::Api,
        Self::Other,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Declare => "declare",
            Self::Deregister => "deregister",
            Self::FetchTask => "fetch_task",
            Self::UpdateTask => "update_task",
            Self::UpdateLog => "update_log",
            Self::Ping => "ping",
            Self::Artifacts => "artifacts",
            Self::Api => "api",
            Self::Other => "other",
        }
    }

    /// Whether jobs have it to do with, and not the runner itself.
    #[must_use]
    pub fn is_jobs(self) -> bool {
        matches!(self, Self::Artifacts | Self::Api | Self::Other)
    }

    /// Whether the broker reads the call whole and decides it.
    #[must_use]
    pub fn is_decided(self) -> bool {
        matches!(self, Self::Register | Self::Declare | Self::Deregister)
    }
}

/// A path, told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Spelled as a runner spells it.
    Plain(Route),
    /// Means a call that the broker decides, but is spelled otherwise.
    Disguised(Route),
}

impl Class {
    /// What is called, however it is spelled.
    #[must_use]
    pub fn route(self) -> Route {
        let (Self::Plain(route) | Self::Disguised(route)) = self;
        route
    }
}

/// Tells a path apart; `base` is Gitea's sub-path (`""` or `/git`).
#[must_use]
pub fn classify(path: &str, base: &str) -> Class {
    // The runner's own spelling first: it is nearly all of the traffic.
    if let Some(rest) = path.strip_prefix(base)
        && let Some(rpc) = rest.strip_prefix("/api/actions/")
    {
        match rpc {
            "runner.v1.RunnerService/FetchTask" => return Class::Plain(Route::FetchTask),
            "runner.v1.RunnerService/UpdateLog" => return Class::Plain(Route::UpdateLog),
            "runner.v1.RunnerService/UpdateTask" => return Class::Plain(Route::UpdateTask),
            "runner.v1.RunnerService/Register" => return Class::Plain(Route::Register),
            "runner.v1.RunnerService/Declare" => return Class::Plain(Route::Declare),
            "runner.v1.RunnerService/Deregister" => return Class::Plain(Route::Deregister),
            "ping.v1.PingService/Ping" => return Class::Plain(Route::Ping),
            _ => {}
        }
    }
    match decided(path) {
        Some(route) => Class::Disguised(route),
        None => Class::Plain(passed(path.strip_prefix(base).unwrap_or(path))),
    }
}

/// Whether a plain path is a call of the runners' service that Gitea answers, also one that is not known here.
#[must_use]
pub(super) fn is_runners_call(route: Route, path: &str, base: &str) -> bool {
    match route {
        Route::FetchTask | Route::UpdateLog | Route::UpdateTask | Route::Declare => true,
        Route::Other => path
            .strip_prefix(base)
            .is_some_and(|path| path.starts_with("/api/actions/runner.v1.RunnerService/")),
        _ => false,
    }
}

/// The route of a path that is none of the runner's calls, for the metrics only.
fn passed(path: &str) -> Route {
    if path.starts_with("/api/actions_pipeline/") || path.starts_with("/twirp/") {
        Route::Artifacts
    } else if path.starts_with("/api/v1/") {
        Route::Api
    } else {
        Route::Other
    }
}

/// The decided call that a path may mean to any reader, however it is spelled.
fn decided(path: &str) -> Option<Route> {
    // A path without a trace of the service's name, plain or escaped, cannot mean it.
    if !path.contains('%') && !contains_ignoring_case(path, "runnerservice") {
        return None;
    }
    let mut seen = Cow::Borrowed(path);
    // Escapes may be escaped again for each proxy in between, which may resolve dots before the next.
    for _ in 0..PROXIES {
        if let Some(route) = meant(&seen) {
            return Some(route);
        }
        seen = Cow::Owned(unescape(&seen)?);
    }
    meant(&unescape_wholly(&seen))
}

/// The decided call that an unescaped path means to some reader.
fn meant(path: &str) -> Option<Route> {
    let names = path.split(['/', '\\']).map(|segment| {
        // `;` begins a parameter for some proxies, `?` and `#` end the path where they came escaped.
        let name = segment.split([';', '?', '#']).next().unwrap_or_default();
        let plain = name.chars().filter(|c| !c.is_whitespace() && !c.is_control());
        plain.collect::<String>().to_lowercase()
    });
    // Readers do not agree on what dots take away: it may be all between the service and the call.
    let has_dots = names.clone().any(|name| name == "..");
    let mut of_service = false;
    for name in names {
        match name.as_str() {
            "" | "." | ".." => {}
            "runner.v1.runnerservice" => of_service = true,
            "register" if of_service => return Some(Route::Register),
            "declare" if of_service => return Some(Route::Declare),
            "deregister" if of_service => return Some(Route::Deregister),
            _ => of_service &= has_dots,
        }
    }
    None
}

fn contains_ignoring_case(text: &str, lowercase: &str) -> bool {
    text.as_bytes()
        .windows(lowercase.len())
        .any(|window| window.eq_ignore_ascii_case(lowercase.as_bytes()))
}

/// Decodes each `%XX`; `None` where there is none. What is not UTF-8 then becomes U+FFFD.
fn unescape(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at..] {
            [b'%', high, low, ..] if let Some(byte) = hex(high, low) => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    (decoded.len() < bytes.len()).then(|| String::from_utf8_lossy(&decoded).into_owned())
}

/// The same until there is none, in one pass: an escape may have been escaped a thousand times.
pub(super) fn unescape_wholly(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        decoded.push(byte);
        while let [.., b'%', high, low] = decoded[..]
            && let Some(byte) = hex(high, low)
        {
            decoded.truncate(decoded.len() - 3);
            decoded.push(byte);
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REGISTER: &str = "/api/actions/runner.v1.RunnerService/Register";

    #[test]
    fn the_runners_spelling_is_plain() {
        for (call, route) in [
            ("runner.v1.RunnerService/Register", Route::Register),
            ("runner.v1.RunnerService/Declare", Route::Declare),
            ("runner.v1.RunnerService/Deregister", Route::Deregister),
            ("runner.v1.RunnerService/FetchTask", Route::FetchTask),
            ("runner.v1.RunnerService/UpdateTask", Route::UpdateTask),
            ("runner.v1.RunnerService/UpdateLog", Route::UpdateLog),
            ("ping.v1.PingService/Ping", Route::Ping),
        ] {
            for base in ["", "/git"] {
                let path = format!("{base}/api/actions/{call}");
                assert_eq!(classify(&path, base), Class::Plain(route), "{path}");
            }
        }
    }

    #[test]
    fn every_other_spelling_of_a_decided_call_is_disguised() {
        for path in include_str!("../../tests/data/register-spellings.txt").lines() {
            assert_eq!(classify(path, ""), Class::Disguised(Route::Register), "{path}");
        }
        assert_eq!(classify(REGISTER, "/git"), Class::Disguised(Route::Register), "no sub-path");
    }

    #[test]
    fn paths_that_only_look_alike_pass() {
        for path in [
            "/api/actions/runner.v1.RunnerService/Registered",
            "/acme/runner.v1.RunnerService/src/Register.go",
            "/acme/100%/x",
            "/api/actions/ping.v1.PingService/Register",
        ] {
            assert!(matches!(classify(path, ""), Class::Plain(_)), "{path}");
        }
    }

    /// Each escape of an escape was taken off in a pass of its own: such a path cost seconds.
    #[test]
    fn a_path_of_nothing_but_escapes_is_told_apart_at_once() {
        let path = format!("/%{}", "25".repeat(32_000));
        let begun = std::time::Instant::now();
        assert_eq!(classify(&path, ""), Class::Plain(Route::Other));
        let took = begun.elapsed();
        assert!(took < std::time::Duration::from_secs(1), "{took:?}");
        let call = REGISTER.replace("Register", &format!("%{}52egister", "25".repeat(30_000)));
        assert_eq!(classify(&call, ""), Class::Disguised(Route::Register));
    }

    proptest! {
        #[test]
        fn no_escape_of_any_letter_hides_it(at in 0..REGISTER.len(), times in 1_usize..4) {
            let mut escaped = format!("%{:02x}", REGISTER.as_bytes()[at]);
            for _ in 1..times {
                escaped = escaped.replace('%', "%25");
            }
            let path = format!("{}{escaped}{}", &REGISTER[..at], &REGISTER[at + 1..]);
            prop_assert_eq!(classify(&path, ""), Class::Disguised(Route::Register));
        }

        #[test]
        fn whatever_is_escaped_is_unescaped(path in "(%|2|5|%25|%2|%32|a|/){0,16}") {
            let mut seen = path.clone();
            while let Some(decoded) = unescape(&seen) {
                seen = decoded;
            }
            prop_assert_eq!(unescape_wholly(&path), seen);
        }

        #[test]
        fn nothing_panics(path in "\\PC*", base in "(/[a-z]{0,5})?") {
            let _ = classify(&path, &base);
        }
    }
}
