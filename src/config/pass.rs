//! `listen.pass`: what is passed on to Gitea.

use config::ValueKind;

use super::network::List;
use super::value::Setting;

/// What is passed on to Gitea. The runner's own calls always are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pass {
    /// Everything.
    #[default]
    All,
    /// These groups of what jobs need, and nothing else.
    Only(Groups),
}

/// A set of [`Group`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups(u8);

/// A part of Gitea that jobs need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Artifacts of jobs.
    Artifacts,
    /// The cache of actions.
    Cache,
    /// A job's own tokens for other services.
    Oidc,
    /// Repositories by git over HTTP.
    Git,
    /// Their large files.
    Lfs,
    /// Packages and containers.
    Packages,
    /// The REST API.
    Api,
}

impl Group {
    /// All groups.
    pub const ALL: [Self; 7] =
        [Self::Artifacts, Self::Cache, Self::Oidc, Self::Git, Self::Lfs, Self::Packages, Self::Api];

    /// Its name in the settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Artifacts => "artifacts",
            Self::Cache => "cache",
            Self::Oidc => "oidc",
            Self::Git => "git",
            Self::Lfs => "lfs",
            Self::Packages => "packages",
            Self::Api => "api",
        }
    }
}

impl Groups {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// All of them.
    pub const EVERY: Self = Self((1 << Group::ALL.len()) - 1);

    /// Whether this one is in it.
    #[must_use]
    pub fn has(self, group: Group) -> bool {
        self.0 & (1 << group as u8) != 0
    }

    /// The same and this one.
    #[must_use]
    pub fn with(self, group: Group) -> Self {
        Self(self.0 | 1 << group as u8)
    }
}

impl Setting for Pass {
    fn parse(text: &str) -> Result<Self, String> {
        Err(format!("{text:?} is no list: put it in brackets, [{text:?}]"))
    }

    fn show(&self) -> String {
        match self {
            Self::All => "all".into(),
            Self::Only(groups) if *groups == Groups::EVERY => "jobs".into(),
            Self::Only(groups) => {
                let mut names = vec!["runners"];
                let in_it = Group::ALL.into_iter().filter(|group| groups.has(*group));
                names.extend(in_it.map(Group::as_str));
                names.join(",")
            }
        }
    }

    fn read(kind: ValueKind) -> Result<Self, String> {
        let List(words) = List::<Word>::read(kind)?;
        if words.is_empty() {
            return Err(
                "is empty: give [\"all\"], or [\"runners\"] for nothing but the runners' own calls"
                    .into(),
            );
        }
        let mut only = Groups::NONE;
        let mut all = false;
        for word in words {
            match word {
                Word::All => all = true,
                Word::Jobs => only = Groups::EVERY,
                Word::Runners => {}
                Word::One(group) => only = only.with(group),
            }
        }
        Ok(if all { Self::All } else { Self::Only(only) })
    }
}

/// One item of the list.
enum Word {
    All,
    Jobs,
    Runners,
    One(Group),
}

impl Setting for Word {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "jobs" => Ok(Self::Jobs),
            "runners" => Ok(Self::Runners),
            _ => Group::ALL
                .into_iter()
                .find(|group| group.as_str() == text)
                .map(Self::One)
                .ok_or_else(|| {
                    let groups = Group::ALL.map(Group::as_str).join(", ");
                    format!(
                        "{text:?} is unknown: give all, or jobs, or runners with any of {groups}"
                    )
                }),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::All => "all".into(),
            Self::Jobs => "jobs".into(),
            Self::Runners => "runners".into(),
            Self::One(group) => group.as_str().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use config::Value;

    use super::*;

    fn read(words: &[&str]) -> Result<Pass, String> {
        Pass::read(ValueKind::Array(words.iter().map(|word| Value::new(None, *word)).collect()))
    }

    #[test]
    fn groups_add_up() {
        for (words, shown) in [
            (&["all"][..], "all"),
            (&["git", "all"], "all"),
            (&["jobs"], "jobs"),
            (&["runners"], "runners"),
            (&["lfs", "git", "git"], "runners,git,lfs"),
            (&["runners", "api"], "runners,api"),
            (&["artifacts", "cache", "oidc", "git", "lfs", "packages", "api"], "jobs"),
            (&["jobs", "git"], "jobs"),
        ] {
            let pass = read(words).unwrap();
            assert_eq!(pass.show(), shown, "{words:?}");
            let again: Vec<_> = shown.split(',').collect();
            assert_eq!(read(&again).unwrap(), pass, "what is shown can be given");
        }
    }

    #[test]
    fn other_words_are_refused() {
        let error = read(&["jobs", "Git", ""]).unwrap_err();
        assert!(error.contains(
            "\"Git\" is unknown: give all, or jobs, or runners with any of artifacts, cache"
        ));
        assert!(error.contains("; \"\" is unknown"), "{error}");
        assert!(read(&[]).unwrap_err().contains("is empty: give [\"all\"]"));
        assert!(Pass::read(ValueKind::String("git".into())).unwrap_err().contains("[\"git\"]"));
    }
}
