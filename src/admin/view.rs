//! What the admin API answers, as JSON; the commands read the same types. Never a secret.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::broker::RecordState;
use crate::lifecycle::{Lifecycle, Live};

/// One registered runner. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runner {
    /// Gitea's id.
    pub id: i64,
    /// What the runner shows as its uuid.
    pub uuid: String,
    /// The display name.
    pub name: String,
    /// Where it serves.
    pub scope: String,
    /// Bare names.
    pub labels: Vec<String>,
    /// `idle`, `busy`, `draining`, `gone`, or `deregistered`.
    pub state: String,
    /// Id of the enrollment token that it came by.
    pub parent_id: String,
    /// Its last call.
    pub last_seen_at: Option<String>,
    /// Removed by Gitea after its one task.
    pub ephemeral: bool,
    /// The runner's own version.
    pub version: String,
    /// Where its Register came from.
    pub peer: IpAddr,
    /// When it was registered.
    pub registered_at: String,
    /// Ids of the tasks in hand.
    pub tasks: Vec<i64>,
    /// The runner file that was written for it.
    pub file: Option<String>,
}

impl Runner {
    /// The runner as it is now.
    #[must_use]
    pub fn of(lifecycle: &Lifecycle, live: &Live) -> Self {
        let record = live.record();
        let state = match record.state {
            RecordState::Ended(_) => "deregistered",
            RecordState::Active | RecordState::Deregistering(_) => lifecycle.state_of(live),
        };
        Self {
            id: record.upstream.id,
            uuid: record.presented.uuid,
            name: record.name,
            scope: record.scope.to_string(),
            labels: record.labels,
            state: state.into(),
            parent_id: record.parent_id,
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

/// The broker on one screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of the broker.
    pub version: String,
    /// Since its start.
    pub uptime_seconds: u64,
    /// Whether it is about to end.
    pub draining: bool,
    /// The Gitea behind it.
    pub gitea: Gitea,
    /// How many runners are in each state.
    pub runners: BTreeMap<String, usize>,
    /// Registrations of which it is not known whether Gitea acted.
    pub unsettled_registrations: usize,
    /// The broker's own tokens.
    pub enrollment_tokens: EnrollmentTokens,
    /// The records on disk.
    pub store: Store,
    /// Where it listens.
    pub addresses: Addresses,
    /// What to do, a sentence each; none where all is well.
    pub hints: Vec<String>,
}

/// The Gitea behind the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gitea {
    /// Its address.
    pub url: String,
    /// Where runners serve.
    pub scope: String,
    /// Whether it answered last.
    pub up: bool,
    /// What is known of the API token.
    pub api_token: ApiToken,
}

/// What is known of the API token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiToken {
    /// None is set.
    None,
    /// It did its work when last tried.
    Valid,
    /// Gitea refused it when last tried.
    Invalid,
    /// It was not tried yet, or Gitea could not be asked.
    Unknown,
}

/// The broker's own tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentTokens {
    /// How many admit runners.
    pub active: usize,
}

/// The records on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// The database file.
    pub path: String,
    /// Whether it takes writes.
    pub writable: bool,
}

/// Where the broker listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// For runners.
    pub runners: SocketAddr,
    /// For metrics and health.
    pub admin: SocketAddr,
    /// For the commands.
    pub socket: String,
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
