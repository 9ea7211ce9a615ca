//! Where a scope lies in Gitea's REST API, and what an API token needs there.

use std::fmt::Write;

use crate::config::Scope;

/// The path of a scope's runners below `/api/v1/`, escaped.
pub(super) fn runners_path(scope: &Scope) -> String {
    match scope {
        Scope::Instance => "admin/actions/runners".to_owned(),
        Scope::Org(name) => format!("orgs/{}/actions/runners", escape(name)),
        Scope::User => "user/actions/runners".to_owned(),
        Scope::Repo { owner, name } => {
            format!("repos/{}/{}/actions/runners", escape(owner), escape(name))
        }
    }
}

/// Where Gitea before 1.24 has a scope's registration token, likewise.
pub(super) fn legacy_path(scope: &Scope) -> String {
    match scope {
        Scope::Instance => "admin/runners".to_owned(),
        other => runners_path(other),
    }
}

/// A list that is there since 1.22 and needs the same rights as a scope's registration token.
pub(super) fn old_list_path(scope: &Scope) -> String {
    match scope {
        Scope::Instance => "admin/cron?limit=1".into(),
        other => runners_path(other).trim_end_matches("runners").to_owned() + "variables?limit=1",
    }
}

/// The scope that an API token needs to list and delete a scope's runners.
#[must_use]
pub fn token_scope(scope: &Scope) -> &'static str {
    match scope {
        Scope::Instance => "write:admin",
        Scope::Org(_) => "write:organization",
        Scope::User => "write:user",
        Scope::Repo { .. } => "write:repository",
    }
}

/// A name as one segment of a path.
pub(crate) fn escape(name: &str) -> String {
    name.bytes().fold(String::with_capacity(name.len()), |mut path, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                path.push(char::from(byte));
            }
            other => write!(path, "%{other:02X}").expect("a String takes all"),
        }
        path
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_segment() {
        let scope = Scope::Repo { owner: "a/../b".into(), name: "ü?x#%".into() };
        assert_eq!(runners_path(&scope), "repos/a%2F..%2Fb/%C3%BC%3Fx%23%25/actions/runners");
        assert_eq!(runners_path(&Scope::Org("acme".into())), "orgs/acme/actions/runners");
        let runners = Scope::Repo { owner: "actions".into(), name: "runners".into() };
        assert_eq!(old_list_path(&runners), "repos/actions/runners/actions/variables?limit=1");
    }
}
