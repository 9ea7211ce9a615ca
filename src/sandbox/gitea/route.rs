//! Paths, read as Gitea's router reads them.

use std::borrow::Cow;

use hyper::Method;

use super::fault::Route;
use crate::config::Scope;

pub(super) const RUNNER_SERVICE: &str = "/api/actions/runner.v1.RunnerService/";
pub(super) const PING_SERVICE: &str = "/api/actions/ping.v1.PingService/";

/// Removes repeated and trailing slashes, and then the sub-path; `None`: it is not below the sub-path.
pub(super) fn normalize<'a>(path: &'a str, sub_path: &str) -> Option<Cow<'a, str>> {
    let trimmed = path.trim_end_matches('/');
    let clean = if trimmed.contains("//") {
        let mut clean = String::with_capacity(trimmed.len());
        for char in trimmed.chars() {
            if char != '/' || !clean.ends_with('/') {
                clean.push(char);
            }
        }
        Cow::Owned(clean)
    } else {
        Cow::Borrowed(trimmed)
    };
    let below = |path: &str| {
        path.strip_prefix(sub_path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if !below(&clean) {
        return None;
    }
    Some(match clean {
        Cow::Borrowed(path) => Cow::Borrowed(&path[sub_path.len()..]),
        Cow::Owned(path) => Cow::Owned(path[sub_path.len()..].to_owned()),
    })
}

/// The procedure of an RPC service that a normalized path names. The service's part is matched as it
/// was sent, the rest after its escapes are undone: so does Gitea.
pub(super) fn procedure<'a>(path: &'a str, service: &str) -> Option<Cow<'a, str>> {
    path.strip_prefix(service).map(unescape)
}

/// What a normalized path of the REST interface names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// `/api/v1/version`
    Version,
    /// `…/actions/runners`
    Runners(Place),
    /// `…/actions/runners/registration-token`
    RegistrationToken(Place),
    /// `/api/v1/admin/runners/registration-token`
    LegacyRegistrationToken,
    /// `…/actions/runners/{id}`; what is not a number counts as 0, which no runner has.
    Runner(Place, i64),
}

/// One of the four places at which the REST interface has runners.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Admin,
    Org(String),
    /// Whose it is, is told by the API token.
    User,
    Repo(String, String),
}

impl Place {
    /// The category of API token scopes that it needs.
    pub(super) fn category(&self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Org(_) => "organization",
            Self::User => "user",
            Self::Repo(..) => "repository",
        }
    }

    /// The runners' scope, for the user that the API token belongs to.
    pub(super) fn scope(&self, user: &str) -> Scope {
        match self {
            Self::Admin => Scope::Instance,
            Self::Org(name) => Scope::Org(name.clone()),
            Self::User => super::state::owner_scope(user),
            Self::Repo(owner, name) => Scope::Repo { owner: owner.clone(), name: name.clone() },
        }
    }
}

/// Reads a normalized path below `/api/v1`.
pub(super) fn rest(path: &str) -> Option<Rest> {
    let segments: Vec<&str> = path.strip_prefix("/api/v1/")?.split('/').collect();
    let name = |segment: &str| unescape(segment).into_owned();
    let (place, rest) = match segments.as_slice() {
        ["version"] => return Some(Rest::Version),
        ["admin", "runners", "registration-token"] => return Some(Rest::LegacyRegistrationToken),
        ["admin", "actions", "runners", rest @ ..] => (Place::Admin, rest),
        ["user", "actions", "runners", rest @ ..] => (Place::User, rest),
        ["orgs", org, "actions", "runners", rest @ ..] => (Place::Org(name(org)), rest),
        ["repos", owner, repo, "actions", "runners", rest @ ..] => {
            (Place::Repo(name(owner), name(repo)), rest)
        }
        _ => return None,
    };
    match rest {
        [] => Some(Rest::Runners(place)),
        ["registration-token"] => Some(Rest::RegistrationToken(place)),
        [id] => Some(Rest::Runner(place, unescape(id).parse().unwrap_or(0))),
        _ => None,
    }
}

/// Whether a normalized path belongs to a fault's route.
pub(super) fn is(route: &Route, method: &Method, path: &str) -> bool {
    let calls = |name: &str| procedure(path, RUNNER_SERVICE).is_some_and(|called| called == name);
    match route {
        Route::Any => true,
        Route::Ping => path.starts_with(PING_SERVICE),
        Route::Register => calls("Register"),
        Route::Declare => calls("Declare"),
        Route::FetchTask => calls("FetchTask"),
        Route::UpdateTask => calls("UpdateTask"),
        Route::UpdateLog => calls("UpdateLog"),
        Route::ListRunners => matches!(rest(path), Some(Rest::Runners(_))),
        Route::GetRunner => method == Method::GET && matches!(rest(path), Some(Rest::Runner(..))),
        Route::DeleteRunner => {
            method == Method::DELETE
                && matches!(rest(path), Some(Rest::Runner(_, id)) if id != i64::MAX)
        }
        Route::PatchRunner => {
            method == Method::PATCH && matches!(rest(path), Some(Rest::Runner(..)))
        }
        Route::RegistrationToken => {
            method != Method::PUT
                && matches!(
                    rest(path),
                    Some(Rest::RegistrationToken(_) | Rest::LegacyRegistrationToken)
                )
        }
        Route::Path(prefix) => path.starts_with(prefix.as_str()),
    }
}

/// Undoes `%xx`; what is no valid escape stays as it is.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_are_collapsed_and_trimmed_below_the_sub_path() {
        assert_eq!(normalize("//git//api///v1//", "/git").as_deref(), Some("/api/v1"));
        assert_eq!(normalize("/git", "/git").as_deref(), Some(""));
        assert_eq!(normalize("/gitea/api", "/git"), None);
        assert_eq!(normalize("/api/v1", "").as_deref(), Some("/api/v1"));
    }

    #[test]
    fn escapes_count_in_the_procedure_alone() {
        let path = format!("{RUNNER_SERVICE}%52egister");
        assert_eq!(procedure(&path, RUNNER_SERVICE).as_deref(), Some("Register"));
        assert_eq!(
            procedure("/api/%61ctions/runner.v1.RunnerService/Register", RUNNER_SERVICE),
            None
        );
        assert_eq!(unescape("a%2Fb%zz%"), "a/b%zz%");
        assert_eq!(unescape("%+1"), "%+1");
    }

    #[test]
    fn rest_paths_name_their_place() {
        let place = Place::Repo("acme".into(), "app".into());
        assert_eq!(rest("/api/v1/repos/acme/app/actions/runners/7"), Some(Rest::Runner(place, 7)));
        assert_eq!(rest("/api/v1/admin/actions/runners"), Some(Rest::Runners(Place::Admin)));
        assert_eq!(rest("/api/v1/admin/actions"), None);
    }
}
