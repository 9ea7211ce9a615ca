//! What only Gitea can tell about the settings.

use serde::Serialize;

use super::super::Failure;
use crate::config::Settings;
use crate::gitea::{GiteaClient, RestError, token_scope};
use crate::net::Upstream;

/// What came of one question to Gitea.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) what: &'static str,
    pub(super) outcome: Outcome,
    /// What was found, and where it is wrong, the remedy.
    pub(super) detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Ok,
    Failed,
    /// It cannot be looked at.
    NotChecked,
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
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
        findings.push(version(&gitea, settings).await);
        findings.push(api_token(&gitea, settings).await);
    }
    findings.push(Finding {
        what: "registration token",
        outcome: Outcome::NotChecked,
        detail: "only registering a runner would tell whether Gitea takes it".into(),
    });
    Ok(findings)
}

async fn reach(gitea: &GiteaClient, settings: &Settings) -> Finding {
    let url = &settings.gitea.url;
    let (outcome, detail) = match gitea.ping().await {
        Ok(()) => (Outcome::Ok, format!("{url} answers to runners")),
        Err(error) => (Outcome::Failed, format!("{error}; gitea.url is {url}")),
    };
    Finding { what: "gitea", outcome, detail }
}

async fn version(gitea: &GiteaClient, settings: &Settings) -> Finding {
    let (outcome, detail) = match gitea.version().await {
        Ok(Some(version)) => judged(&version, settings.gitea.default.api_token.is_some()),
        Ok(None) => {
            (Outcome::NotChecked, "Gitea tells its version to nobody who is not signed in".into())
        }
        Err(error) => (Outcome::Failed, error.to_string()),
    };
    Finding { what: "version", outcome, detail }
}

/// What a version means for the broker.
fn judged(version: &str, has_api_token: bool) -> (Outcome, String) {
    let mut numbers = version.trim_start_matches('v').split('.').map_while(|n| n.parse().ok());
    let number: (u32, u32) = match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => {
            return (Outcome::NotChecked, format!("{version} is no version as Gitea numbers them"));
        }
    };
    if number < (1, 21) {
        (Outcome::Failed, format!("{version} is too old: update Gitea to 1.21 or later"))
    } else if number < (1, 24) && has_api_token {
        let detail = format!(
            "{version} cannot delete runners by its API: update Gitea to 1.24 or later, or leave out \
             gitea.api_token_file"
        );
        (Outcome::Failed, detail)
    } else {
        (Outcome::Ok, version.into())
    }
}

async fn api_token(gitea: &GiteaClient, settings: &Settings) -> Finding {
    let scope = &settings.gitea.default.scope;
    let (outcome, detail) = match gitea.probe(scope).await {
        Ok(()) => (Outcome::Ok, format!("it may list the runners of {scope}")),
        Err(RestError::NoToken { .. }) => (
            Outcome::NotChecked,
            format!(
                "none is set: the broker cannot deregister runners; give one with the scope {} by \
                 gitea.api_token_file (GITEA_API_TOKEN_FILE)",
                token_scope(scope)
            ),
        ),
        Err(error) => (Outcome::Failed, error.to_string()),
    };
    Finding { what: "API token", outcome, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_judged_by_what_is_asked_of_them() {
        for (version, has_api_token, outcome) in [
            ("1.26.0+dev-12-gabc", true, Outcome::Ok),
            ("v1.24.1", true, Outcome::Ok),
            ("1.23.8", true, Outcome::Failed),
            ("1.23.8", false, Outcome::Ok),
            ("1.20.0", false, Outcome::Failed),
            ("11.0.1+gitea-1.22.0", true, Outcome::Ok),
            ("development", true, Outcome::NotChecked),
        ] {
            let (judged, detail) = judged(version, has_api_token);
            assert_eq!(judged, outcome, "{version}");
            assert!(detail.contains(version), "{detail}");
        }
    }
}
