//! Why a deregistration came to nothing.

use crate::gitea::{CallError, RestError};
use crate::store::StoreError;
use crate::telemetry::metrics::DeregistrationOutcome as Outcome;

/// Why a runner is still registered.
#[derive(Debug, thiserror::Error)]
pub enum DeregisterError {
    /// Nothing to delete it with.
    #[error(
        "the broker has no Gitea API token, so it cannot delete the runner in Gitea: set \
         gitea.api_token_file (GITEA_API_TOKEN_FILE) to a token with scope {0}, or delete the runner \
         on Gitea's page"
    )]
    NoApiToken(&'static str),
    /// This Gitea has no way to delete it.
    #[error(
        "{0} cannot delete runners by its API: delete the runner on Gitea's page, or update Gitea to 1.24 or \
         later"
    )]
    NoAbility(String),
    /// Deleting it would strand its task.
    #[error("the runner has {} in hand: wait for its end, or have the task cancelled", task(*.0))]
    Busy(Option<i64>),
    /// It was adopted, and Gitea has not told its id.
    #[error(
        "Gitea's id of this runner is not known yet: it is told when the runner declares itself (restart \
         the runner)"
    )]
    NotTold,
    /// It was adopted ahead, and may be at work straight at Gitea.
    #[error("the runner was adopted and has not called through the broker yet: it is kept")]
    NotMoved,
    /// It may be an organization's, and could not be given back to that.
    #[error(
        "the runner was adopted, and Gitea does not tell whether it serves the whole instance, so it could not \
         come back where it was: it is kept; `runner-broker runner deregister` deletes it"
    )]
    Foreign,
    /// An admin switched it off in Gitea; registered anew, it would be switched on.
    #[error(
        "an admin has switched the runner off in Gitea, so it is left there: switch it on, or delete \
         it with `runner-broker runner deregister`"
    )]
    SwitchedOff,
    /// Gitea says that it does not know the runner, and nobody here had it deleted.
    #[error(
        "Gitea says that it does not know the runner: it is kept as lost until that is certain"
    )]
    Lost,
    /// Gitea said no, or something else than expected.
    #[error("{0}")]
    Refused(String),
    /// Gitea cannot be asked at the moment; the broker tries again by itself.
    #[error("Gitea cannot be asked at the moment ({0}); the broker tries again by itself")]
    Unreachable(String),
    /// The record cannot be changed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl DeregisterError {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::NoApiToken(_) | Self::NoAbility(_) => Outcome::NoApiToken,
            Self::Busy(_) => Outcome::Busy,
            Self::SwitchedOff => Outcome::SwitchedOff,
            Self::NotTold
            | Self::NotMoved
            | Self::Foreign
            | Self::Lost
            | Self::Refused(_)
            | Self::Store(_) => Outcome::Refused,
            Self::Unreachable(_) => Outcome::Unreachable,
        }
    }
}

fn task(id: Option<i64>) -> String {
    match id {
        Some(id) => format!("task {id}"),
        None => "a task, which it reports on to Gitea itself,".into(),
    }
}

pub(in crate::lifecycle) fn call_failed(error: CallError) -> DeregisterError {
    match error {
        CallError::Unreachable(error) => DeregisterError::Unreachable(error.to_string()),
        CallError::Unregistered => {
            DeregisterError::Refused("Gitea does not know the runner".into())
        }
        CallError::Refused(error) => DeregisterError::Unreachable(format!(
            "Gitea answered {}: {}",
            error.code.as_str(),
            error.message
        )),
        CallError::Garbage(text) => DeregisterError::Unreachable(text),
    }
}

pub(in crate::lifecycle) fn rest_failed(error: RestError) -> DeregisterError {
    match error {
        RestError::Unreachable(error) => DeregisterError::Unreachable(error.to_string()),
        RestError::Unexpected(..) | RestError::Busy { .. } => {
            DeregisterError::Unreachable(error.to_string())
        }
        RestError::NoToken { .. }
        | RestError::Unauthorized { .. }
        | RestError::Forbidden { .. } => DeregisterError::Refused(error.to_string()),
    }
}
