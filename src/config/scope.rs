//! Where runners serve.

use std::fmt;
use std::str::FromStr;

/// Where a runner serves, as Gitea cuts it. Written `instance`, `org:NAME`, `user`,
/// `repo:OWNER/NAME`, both ways.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The whole instance.
    Instance,
    /// One organization.
    Org(String),
    /// The user that the API token belongs to.
    User,
    /// One repository.
    Repo {
        /// A user or an organization.
        owner: String,
        /// The repository's name.
        name: String,
    },
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance => f.write_str("instance"),
            Self::Org(name) => write!(f, "org:{name}"),
            Self::User => f.write_str("user"),
            Self::Repo { owner, name } => write!(f, "repo:{owner}/{name}"),
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let name = |name: &str| is_name(name).then(|| name.to_owned()).ok_or(ScopeError);
        match text.split_once(':') {
            None if text == "instance" => Ok(Self::Instance),
            None if text == "user" => Ok(Self::User),
            Some(("org", org)) => Ok(Self::Org(name(org)?)),
            Some(("repo", path)) => {
                let (owner, repo) = path.split_once('/').ok_or(ScopeError)?;
                Ok(Self::Repo { owner: name(owner)?, name: name(repo)? })
            }
            _ => Err(ScopeError),
        }
    }
}

/// A text that is no scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a scope is instance, user, org:NAME or repo:OWNER/NAME, names in letters, digits and \"-_.\""
)]
pub struct ScopeError;

/// The characters that Gitea allows in names; none of them changes the meaning of a path.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_reads_as_it_is_written() {
        let repo = Scope::Repo { owner: "o-1".into(), name: "n.x_y".into() };
        for (text, scope) in [
            ("instance", Scope::Instance),
            ("user", Scope::User),
            ("org:acme", Scope::Org("acme".into())),
            ("repo:o-1/n.x_y", repo),
        ] {
            assert_eq!(text.parse(), Ok(scope.clone()));
            assert_eq!(scope.to_string(), text);
        }
    }

    #[test]
    fn what_could_change_a_path_is_no_name() {
        for text in [
            "",
            "Instance",
            "instance:",
            "org",
            "org:",
            "org:..",
            "org:a/b",
            "org:a b",
            "org:a?b",
            "org:%2e",
            "user:x",
            "repo:a",
            "repo:a/",
            "repo:/b",
            "repo:a/b/c",
            "repo:./b",
        ] {
            assert_eq!(text.parse::<Scope>(), Err(ScopeError), "{text:?}");
        }
    }
}
