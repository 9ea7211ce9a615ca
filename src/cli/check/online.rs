//! What only Gitea can tell about the settings.

use std::time::Duration;

use serde::Serialize;

use super::super::Failure;
use crate::config::{Scope, Served, Settings};
use crate::gitea::{GiteaClient, Minting, RestError, Skew, numbers, token_scope};
use crate::net::Upstream;

/// How far two clocks may be apart before it is told.
const SKEW: Duration = Duration::from_secs(60);

/// What came of one question to Gitea.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) what: &'static str,
    /// For which of the scopes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scope: Option<String>,
    pub(super) outcome: Outcome,
    /// What was found, and where it is wrong, the remedy.
    pub(super) detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Ok,
    /// Something is not as it could be, and the broker gets by.
    Note,
    Failed,
    /// It cannot be looked at.
    NotChecked,
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Failed => "failed",
            Self::NotChecked => "not checked",
        }
    }
}

/// Asks Gitea, and changes nothing there.
pub(super) async fn ask(settings: &Settings) -> Result<Vec<Finding>, Failure> {
    let upstream =
        Upstream::new(&settings.gitea).map_err(|error| Failure::new(Failure::SETTINGS, error))?;
    let gitea = GiteaClient::new(upstream, &settings.gitea);
    let reached = reach(&gitea, settings).await;
    // One remedy is enough where nothing answers.
    let answers = reached.outcome == Outcome::Ok;
    let mut findings = vec![reached];
    if answers {
        findings.push(version(&gitea).await);
        findings.push(abilities(&gitea, settings).await);
        findings.push(clock(&gitea).await);
    }
    for served in settings.gitea.served() {
        let mut mint = None;
        if answers {
            let found = api_token(&gitea, &served.scope).await;
            // What does not work mints nothing.
            let works = found.outcome != Outcome::Failed;
            mint = gitea.abilities().mint.filter(|mint| works || *mint == Minting::No);
            findings.push(found.of(&served.scope));
        }
        let found = registration_token(served, mint, &gitea.abilities().gitea());
        findings.push(found.of(&served.scope));
    }
    Ok(findings)
}

impl Finding {
    fn new(what: &'static str, (outcome, detail): (Outcome, String)) -> Self {
        Self { what, scope: None, outcome, detail }
    }

    fn of(self, scope: &Scope) -> Self {
        Self { scope: Some(scope.to_string()), ..self }
    }
}

async fn reach(gitea: &GiteaClient, settings: &Settings) -> Finding {
    let url = &settings.gitea.url;
    let found = match gitea.ping().await {
        Ok(()) => (Outcome::Ok, format!("{url} answers to runners")),
        Err(error) => (Outcome::Failed, format!("{error}; gitea.url is {url}")),
    };
    Finding::new("gitea", found)
}

async fn version(gitea: &GiteaClient) -> Finding {
    let found = match gitea.version().await {
        Ok(Some(version)) => judged(version),
        Ok(None) => {
            (Outcome::NotChecked, "Gitea tells its version to nobody who is not signed in".into())
        }
        Err(error) => (Outcome::Failed, error.to_string()),
    };
    Finding::new("version", found)
}

fn judged(version: String) -> (Outcome, String) {
    match numbers(&version) {
        None => (Outcome::NotChecked, format!("{version} is no version as Gitea numbers them")),
        Some(number) if number < (1, 21) => {
            (Outcome::Failed, format!("{version} is too old: update Gitea to 1.21 or later"))
        }
        Some(_) => (Outcome::Ok, version),
    }
}

/// What is missing matters where there is an API token to use it with.
async fn abilities(gitea: &GiteaClient, settings: &Settings) -> Finding {
    let any = settings.gitea.served().any(|served| served.api_token.is_some());
    let found = match gitea.probe_abilities(&settings.gitea.default.scope).await {
        Ok(known) => match known.missing() {
            missing if any && !missing.is_empty() => (Outcome::Note, missing.join("; ")),
            _ => (Outcome::Ok, known.to_string()),
        },
        Err(error) => (Outcome::NotChecked, error.to_string()),
    };
    Finding::new("abilities", found)
}

async fn clock(gitea: &GiteaClient) -> Finding {
    let found = match gitea.clock_skew().await {
        Ok(Some(skew)) => told(skew),
        Ok(None) => (Outcome::NotChecked, "Gitea's answers tell no time".into()),
        Err(error) => (Outcome::NotChecked, error.to_string()),
    };
    Finding::new("clock", found)
}

fn told(skew: Skew) -> (Outcome, String) {
    let size = skew.size();
    if size <= SKEW {
        return (
            Outcome::Ok,
            "Gitea's clock and this one are within a minute of each other".into(),
        );
    }
    let size = humantime::format_duration(Duration::from_secs(size.as_secs()));
    let which = match skew {
        Skew::Ahead(_) => "ahead of",
        Skew::Behind(_) => "behind",
    };
    let detail = format!(
        "Gitea's clock is {size} {which} this one: times in its pages and logs and in the broker's do not \
         match, and what expires does so at another time; let both be set by NTP"
    );
    (Outcome::Note, detail)
}

async fn api_token(gitea: &GiteaClient, scope: &Scope) -> Finding {
    let found = match gitea.probe(scope).await {
        Ok(()) if gitea.can_delete(scope) => {
            (Outcome::Ok, format!("it may list and delete the runners of {scope}"))
        }
        Ok(()) => (Outcome::Ok, format!("it may read the registration token of {scope}")),
        Err(RestError::NoToken { setting, .. }) => (
            Outcome::NotChecked,
            format!(
                "none is set: the broker cannot deregister runners; give one with the scope {} by {setting}{}",
                token_scope(scope),
                if setting.starts_with("gitea.api") { " (GITEA_API_TOKEN_FILE)" } else { "" }
            ),
        ),
        Err(error) => (Outcome::Failed, error.to_string()),
    };
    Finding::new("API token", found)
}

/// None is minted here: that may change Gitea.
fn registration_token(served: &Served, mint: Option<Minting>, gitea: &str) -> Finding {
    let found = match (&served.registration_token, mint) {
        (Some(_), _) => (
            Outcome::NotChecked,
            "only registering a runner would tell whether Gitea takes it".to_owned(),
        ),
        (None, Some(Minting::Post | Minting::Get)) => {
            (Outcome::Ok, "Gitea gives one out where a runner needs it".into())
        }
        (None, Some(Minting::No)) => (
            Outcome::Failed,
            format!(
                "none is set, and {gitea} gives out none by its API: set registration_token_file for \
                 this scope, or update Gitea to 1.22 or later"
            ),
        ),
        (None, None) => (
            Outcome::NotChecked,
            "none is set, and whether Gitea gives one out is not known before it is asked for one"
                .into(),
        ),
    };
    Finding::new("registration token", found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_as_it_is_unless_it_is_too_old() {
        for (version, outcome) in [
            ("1.26.0+dev-12-gabc", Outcome::Ok),
            ("v1.24.1", Outcome::Ok),
            ("1.23.8", Outcome::Ok),
            ("1.20.0", Outcome::Failed),
            ("11.0.1+gitea-1.22.0", Outcome::Ok),
            ("development", Outcome::NotChecked),
        ] {
            let (judged, detail) = judged(version.into());
            assert_eq!(judged, outcome, "{version}");
            assert!(detail.contains(version), "{detail}");
        }
    }

    #[test]
    fn clocks_that_are_apart_are_told_and_fail_nothing() {
        let seconds = Duration::from_secs;
        assert_eq!(told(Skew::Ahead(seconds(60))).0, Outcome::Ok);
        let (outcome, detail) = told(Skew::Behind(seconds(3723)));
        assert_eq!(outcome, Outcome::Note);
        assert!(detail.starts_with("Gitea's clock is 1h 2m 3s behind this one"), "{detail}");
        assert!(told(Skew::Ahead(seconds(61))).1.contains("1m 1s ahead of"));
    }

    #[test]
    fn a_registration_token_comes_from_the_settings_or_from_gitea() {
        let none = Served {
            scope: Scope::Instance,
            registration_token: None,
            api_token: None,
            section: "gitea".into(),
        };
        let set = Served { registration_token: Some("x".into()), ..none.clone() };
        let of = |served: &Served, mint| registration_token(served, mint, "this Gitea").outcome;
        assert_eq!(of(&none, Some(Minting::Post)), Outcome::Ok);
        assert_eq!(of(&none, Some(Minting::Get)), Outcome::Ok);
        assert_eq!(of(&none, Some(Minting::No)), Outcome::Failed);
        assert_eq!(of(&none, None), Outcome::NotChecked);
        assert_eq!(of(&set, Some(Minting::No)), Outcome::NotChecked);
    }
}
