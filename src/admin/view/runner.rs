//! One registered runner.

use std::net::IpAddr;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;
use utoipa::openapi::schema::ObjectBuilder;

use super::{one_of, rfc3339};
use crate::broker::{Origin, RecordState};
use crate::lifecycle::{Lifecycle, Live, STATES, UNCLEAR};

const DEREGISTERED: &str = "deregistered";

/// One registered runner. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Runner {
    /// Gitea's id; 0 where Gitea has not told it yet, which it does when the runner declares itself.
    pub id: i64,
    /// What the runner shows as its uuid.
    pub uuid: String,
    /// The display name.
    pub name: String,
    /// Where it serves.
    #[schema(examples("instance", "org:acme"))]
    pub scope: String,
    /// Bare names.
    pub labels: Vec<String>,
    /// `idle`, `busy`, `draining`, `gone`, `parked`, `lost`, or `deregistered`.
    #[schema(schema_with = state)]
    pub state: String,
    /// How the broker came to know it.
    #[schema(schema_with = origin)]
    pub origin: String,
    /// Id of the enrollment token that it came by, where it came by one.
    pub parent_id: Option<String>,
    /// Its last call.
    #[schema(format = DateTime)]
    pub last_seen_at: Option<String>,
    /// Removed by Gitea after its one task.
    pub ephemeral: bool,
    /// The runner's own version.
    pub version: String,
    /// Where its Register came from.
    #[schema(value_type = String)]
    pub peer: IpAddr,
    /// When it was registered.
    #[schema(format = DateTime)]
    pub registered_at: String,
    /// Ids of the tasks in hand.
    pub tasks: Vec<i64>,
    /// The runner file that was written for it.
    pub file: Option<String>,
}

/// A runner that was registered before, as its runner file tells of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExistingRunner {
    /// Gitea's id.
    #[schema(minimum = 1)]
    pub id: i64,
    /// What it shows as its uuid.
    #[schema(pattern = "^[!-~]{1,64}$")]
    pub uuid: String,
    /// What it shows as its token; never shown again.
    #[serde(serialize_with = "expose", deserialize_with = "secret")]
    #[schema(value_type = String, format = Password, pattern = "^[!-~]{1,256}$", write_only)]
    pub token: SecretString,
    /// The display name.
    #[serde(default)]
    #[schema(max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub name: String,
    /// Full labels or bare names.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Removed by Gitea after its one task.
    #[serde(default)]
    pub ephemeral: bool,
}

fn expose<S: Serializer>(token: &SecretString, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(token.expose_secret())
}

/// What is no text is not quoted.
fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<SecretString, D::Error> {
    String::deserialize(from)
        .map(SecretString::from)
        .map_err(|_| serde::de::Error::custom("the token is no text"))
}

impl Runner {
    /// The runner as it is now.
    #[must_use]
    pub fn of(lifecycle: &Lifecycle, live: &Live) -> Self {
        let record = live.record();
        let state = match record.state {
            RecordState::Ended(_) => DEREGISTERED,
            _ => lifecycle.state_of(live),
        };
        Self {
            id: record.upstream.id,
            uuid: record.presented.uuid,
            name: record.name,
            scope: record.scope.to_string(),
            labels: record.labels,
            state: state.into(),
            origin: record.origin.as_str().into(),
            parent_id: (!record.parent_id.is_empty()).then_some(record.parent_id),
            last_seen_at: record.last_seen_at.map(rfc3339),
            ephemeral: record.ephemeral,
            version: record.version,
            peer: record.peer,
            registered_at: rfc3339(record.registered_at),
            tasks: record.tasks,
            file: record.file.map(|path| path.display().to_string()),
        }
    }
}

fn state() -> ObjectBuilder {
    let words = STATES.into_iter().filter(|word| *word != UNCLEAR).chain([DEREGISTERED]);
    one_of("What it does; `deregistered` in the answer to its deregistration.", words)
}

fn origin() -> ObjectBuilder {
    let words = [Origin::Enrolled, Origin::Declared, Origin::Adopted].map(Origin::as_str);
    one_of("How the broker came to know it.", words)
}
