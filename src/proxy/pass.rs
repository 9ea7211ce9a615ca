//! What is passed on where `listen.pass` names groups: the runner's own calls, and what jobs need.
//!
//! The paths are those of Gitea (`routers/init.go` and `routers/web/githttp.go` of 2025-11). Proxies before
//! Gitea may unescape a path and resolve its dots, so a path that may mean another one to them must be
//! allowed as both.

use std::borrow::Cow;

use super::route::unescape_wholly;
use crate::config::{Group, Pass};
use crate::connect::{Code, ConnectError};

/// Whether a path, from Gitea's sub-path on, may be passed on.
///
/// # Errors
/// What to set so that it may.
pub fn may_pass(pass: Pass, path: &str) -> Result<(), ConnectError> {
    let Pass::Only(groups) = pass else { return Ok(()) };
    let allowed = |path: &str| {
        match part_of(path) {
        Part::Runners => Ok(()),
        Part::Of(group) if groups.has(group) => Ok(()),
        Part::Of(group) => Err(refused(format!(
            "this belongs to the group \"{0}\", which the broker does not pass on: add \"{0}\" to its setting \
             listen.pass",
            group.as_str()
        ))),
        Part::Other => Err(refused(
            "the broker passes on what runners and their jobs need, and this is nothing of that: ask Gitea \
             itself, or set the broker's listen.pass to [\"all\"]"
                .into(),
        )),
    }
    };
    allowed(path)?;
    let Some(plain) = plain(path) else {
        return Err(refused(
            "this path may mean another one to a proxy: spell it plainly, or set the broker's listen.pass to \
             [\"all\"]"
                .into(),
        ));
    };
    if let Cow::Owned(plain) = &plain {
        allowed(plain)?;
    }
    match plain.contains(';') {
        true => allowed(&without_parameters(&plain)),
        false => Ok(()),
    }
}

fn refused(message: String) -> ConnectError {
    ConnectError::new(Code::PermissionDenied, message)
}

/// What a path belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The runner's own calls.
    Runners,
    /// What jobs need.
    Of(Group),
    /// Everything else: pages, above all.
    Other,
}

fn part_of(path: &str) -> Part {
    let below = |prefix: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if below("/api/actions/runner.v1.RunnerService") || below("/api/actions/ping.v1.PingService") {
        return Part::Runners;
    }
    for (prefix, group) in [
        ("/api/v1", Group::Api),
        ("/api/actions_pipeline", Group::Artifacts),
        ("/twirp/github.actions.results.api.v1.ArtifactService", Group::Artifacts),
        ("/twirp/github.actions.results.api.v1.CacheService", Group::Cache),
        ("/_apis/artifactcache", Group::Cache),
        // No released Gitea hands out tokens of this kind yet.
        ("/api/actions/_apis", Group::Oidc),
        ("/.well-known/openid-configuration", Group::Oidc),
        ("/login/oauth/keys", Group::Oidc),
        ("/api/packages", Group::Packages),
        ("/v2", Group::Packages),
    ] {
        if below(prefix) {
            return Part::Of(group);
        }
    }
    // Of a repository: /OWNER/NAME/…
    let mut segments = path.splitn(4, '/').skip(1);
    let (Some(owner), Some(name), Some(rest)) = (segments.next(), segments.next(), segments.next())
    else {
        return Part::Other;
    };
    if owner.is_empty() || name.is_empty() || is_of_gitea(owner) {
        return Part::Other;
    }
    if rest == "info/lfs" || rest.starts_with("info/lfs/") {
        return Part::Of(Group::Lfs);
    }
    match rest {
        "info/refs" | "git-upload-pack" | "git-receive-pack" | "HEAD" => Part::Of(Group::Git),
        _ if rest.starts_with("objects/") => Part::Of(Group::Git),
        _ => Part::Other,
    }
}

/// Names that Gitea keeps for itself where a user's would be.
fn is_of_gitea(owner: &str) -> bool {
    matches!(
        owner,
        "api" | "-" | "admin" | "user" | "login" | "assets" | "explore" | "org" | "repo"
    )
}

/// The path as one that was unescaped, with no empty segments; `None`: its dots or signs may lead elsewhere.
fn plain(path: &str) -> Option<Cow<'_, str>> {
    let mut plain = Cow::Borrowed(path);
    if path.contains('%') {
        // Escapes may be escaped again for each proxy in between.
        plain = Cow::Owned(unescape_wholly(path));
    }
    let odd = |c: char| c == '\\' || c.is_control() || c == char::REPLACEMENT_CHARACTER;
    if plain.contains(odd) || (plain.len() < path.len() && plain.contains(['?', '#'])) {
        return None;
    }
    let mut segments =
        plain.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    // One that is a parameter alone is no segment at all to some.
    if plain.contains("/;") {
        return None;
    }
    let is_dots = |segment: &str| {
        let mut signs = segment.chars().filter(|c| !c.is_whitespace());
        signs.next() == Some('.')
            && matches!((signs.next(), signs.next()), (None | Some('.'), None))
    };
    if segments.any(is_dots) {
        return None;
    }
    if plain.contains("//") {
        let kept: Vec<_> = plain.split('/').filter(|segment| !segment.is_empty()).collect();
        return Some(Cow::Owned(format!("/{}", kept.join("/"))));
    }
    Some(plain)
}

/// The path as proxies see it that take what follows a `;` in a segment for a parameter.
fn without_parameters(path: &str) -> String {
    let names = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    names.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Groups;

    const NOTHING: Pass = Pass::Only(Groups::NONE);
    const JOBS: Pass = Pass::Only(Groups::EVERY);

    /// A path of each kind that Gitea has for it, seen in its routes.
    const PATHS: &[(Group, &str)] = &[
        (Group::Artifacts, "/api/actions_pipeline/_apis/pipelines/workflows/7/artifacts"),
        (Group::Artifacts, "/twirp/github.actions.results.api.v1.ArtifactService/CreateArtifact"),
        (Group::Cache, "/twirp/github.actions.results.api.v1.CacheService/CreateCacheEntry"),
        (Group::Cache, "/_apis/artifactcache/cache"),
        (Group::Oidc, "/api/actions/_apis/pipelines/workflows/7/idtoken"),
        (Group::Oidc, "/.well-known/openid-configuration"),
        (Group::Git, "/acme/app/info/refs"),
        (Group::Git, "/acme/app.git/git-upload-pack"),
        (Group::Git, "/acme/app.wiki.git/git-receive-pack"),
        (Group::Git, "/acme/app/objects/pack/pack-0123.idx"),
        (Group::Git, "/acme/app/HEAD"),
        (Group::Lfs, "/acme/app.git/info/lfs/objects/batch"),
        (Group::Lfs, "/acme/app/info/lfs/locks"),
        (Group::Packages, "/api/packages/acme/npm/@scope%2fname"),
        (Group::Packages, "/api/packages/acme/debian/pool/a/main/x_1%3A2~3+4_amd64.deb"),
        (Group::Packages, "/v2"),
        (Group::Packages, "/v2/acme/app/blobs/sha256:00"),
        (Group::Api, "/api/v1/repos/acme/app/releases"),
        (Group::Api, "/api/v1/repos/acme/app/contents/a%20b.txt"),
        (Group::Api, "/api/v1/repos/acme/app/git/refs/heads/a%2Fb"),
    ];

    #[test]
    fn each_group_passes_by_itself() {
        for (group, path) in PATHS {
            assert!(may_pass(Pass::All, path).is_ok());
            assert!(may_pass(JOBS, path).is_ok(), "{path}");
            assert!(may_pass(Pass::Only(Groups::NONE.with(*group)), path).is_ok(), "{path}");
            for other in Group::ALL.into_iter().filter(|other| other != group) {
                let only = Pass::Only(Groups::NONE.with(other));
                let error = may_pass(only, path).unwrap_err();
                assert_eq!(error.code, Code::PermissionDenied);
                let says = format!("add \"{}\" to its setting listen.pass", group.as_str());
                assert!(error.message.contains(&says), "{path}: {error}");
            }
        }
    }

    #[test]
    fn the_runners_calls_always_pass() {
        for call in [
            "runner.v1.RunnerService/FetchTask",
            "runner.v1.RunnerService/Later",
            "ping.v1.PingService/Ping",
        ] {
            assert!(may_pass(NOTHING, &format!("/api/actions/{call}")).is_ok(), "{call}");
        }
    }

    #[test]
    fn pages_do_not_pass() {
        for path in [
            "/",
            "",
            "*",
            "/user/login",
            "/acme/app",
            "/acme/app/raw/branch/main/x",
            "/acme/app/settings",
            "/api/internal/hook",
            "/api/v1x",
            "/api/actions/runner.v1.RunnerServiceX/Y",
            "/v2x",
            "/acme//info/refs",
            "//app/info/refs",
            "/acme/app/info/refsx",
            "/user/settings/HEAD",
            "/-/admin/info/refs",
            "/acme/app/src/info/refs",
            "/login/oauth/access_token",
        ] {
            assert!(may_pass(JOBS, path).is_err(), "{path}");
            assert!(may_pass(Pass::All, path).is_ok(), "{path}");
        }
    }

    #[test]
    fn no_spelling_leads_elsewhere() {
        for path in [
            "/api/v1/../../user/login",
            "/api/v1/%2e%2e/%2E%2e/user/login",
            "/api/v1/%252e%252e/x",
            "/api/v1/..%2f..%2fuser/login",
            "/api/v1/..;/user",
            "/api/v1/..;a=b/user",
            "/api/v1/.%20./x",
            "/api/v1/..\\..\\user",
            "/api/v1/x%5c..%5c",
            "/api/v1/x%00",
            "/api/v1/x%0d%0ay",
            "/api/v1/x%3f/../../",
            "/api/v1/x%23y",
            "/api/v1/%ff/x",
            "/./api/v1/x",
            "/acme/app/info/refs/../../settings",
            "/acme%2fapp/info/refs/x/git-upload-pack",
            "/acme/app%2fsettings/info/refs",
            "/%61pi/v1/x",
            "/user;/app/info/refs",
            "/;x/user/info/refs",
            "/%3bx/user/info/refs",
        ] {
            assert!(may_pass(JOBS, path).is_err(), "{path}");
        }
    }

    proptest! {
        /// By an independent reading: what a proxy makes of a path that passes is below a prefix that may pass.
        #[test]
        fn whatever_a_proxy_makes_of_it(path in "(/api/v1|/acme/app/info|/v2|)(/|%2f|%2e|\\.|;|%25|[a-z%\\\\]|refs){0,12}") {
            if may_pass(JOBS, &path).is_ok() {
                let mut seen = path.clone();
                for _ in 0..4 {
                    seen = seen.replace("%2f", "/").replace("%2e", ".").replace("%25", "%");
                    let mut stack: Vec<&str> = Vec::new();
                    for segment in seen.split(['/', '\\']).map(|one| one.split(';').next().unwrap()) {
                        match segment {
                            "" | "." => {}
                            ".." => { stack.pop(); }
                            _ => stack.push(segment),
                        }
                    }
                    let is = |prefix: &[&str]| stack.starts_with(prefix);
                    let git = stack.len() >= 4 && (stack[2] == "info" && stack[3] == "refs");
                    prop_assert!(is(&["api", "v1"]) || is(&["v2"]) || git, "{path} is {stack:?}");
                }
            }
        }
    }
}
