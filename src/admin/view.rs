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

/// One enrollment token, without its secret. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// What it is called.
    pub id: String,
    /// `reusable` or `single_use`.
    pub kind: String,
    /// `active`, `disabled`, `expired`, `used_up`, and `deleted` in the answer to its deletion.
    pub state: String,
    /// `created`, `exchanged`, or `declared`: the settings give it.
    pub origin: String,
    /// Whether it is switched on.
    pub active: bool,
    /// The token that it was exchanged for.
    pub parent_id: Option<String>,
    /// For people.
    pub description: String,
    /// Where its runners serve.
    pub scope: String,
    /// Bare names that its runners may claim; empty: any.
    pub labels: Vec<String>,
    /// What a runner's name must match.
    pub name_pattern: Option<String>,
    /// Only runners that Gitea removes after one task.
    pub ephemeral_only: bool,
    /// How many runners in all.
    pub max_uses: Option<u32>,
    /// How many live runners at once.
    pub max_runners: Option<u32>,
    /// Where Register must come from; empty: anywhere.
    pub allowed_cidrs: Vec<String>,
    /// Until when it admits.
    pub expires_at: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// Who made it.
    pub created_by: String,
    /// Its last successful registration.
    pub last_used_at: Option<String>,
    /// How many runners it has admitted.
    pub uses: u64,
    /// How many of them are alive.
    pub live_runners: usize,
}

/// A token with its secret, which is told this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// The token.
    #[serde(flatten)]
    pub token: Token,
    /// What runners present.
    pub secret: String,
}

/// What a new token is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewToken {
    /// `reusable` or `single_use`; `None`: reusable.
    pub kind: Option<String>,
    /// For people.
    pub description: String,
    /// Where its runners serve; `None`: the broker's own scope.
    pub scope: Option<String>,
    /// Bare names that its runners may claim; empty: any.
    pub labels: Vec<String>,
    /// What a runner's name must match: `*` is any text, `?` any one character.
    pub name_pattern: Option<String>,
    /// Only runners that Gitea removes after one task.
    pub ephemeral_only: bool,
    /// How many runners in all.
    pub max_uses: Option<u32>,
    /// How many live runners at once.
    pub max_runners: Option<u32>,
    /// Where Register must come from, as `10.0.0.0/8`; empty: anywhere.
    pub allowed_cidrs: Vec<String>,
    /// Until when it admits, RFC 3339; not with `expires_in`.
    pub expires_at: Option<String>,
    /// For how long it admits, for example `12h` or `30d`; not with `expires_at`.
    pub expires_in: Option<String>,
}

/// What a child is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewChild {
    /// How long it may be used, for example `10m`; an hour at most, ten minutes where it is left out.
    pub ttl: Option<String>,
    /// For people.
    pub description: String,
    /// Bare names; the parent's list holds as well.
    pub labels: Vec<String>,
    /// The parent's pattern holds as well.
    pub name_pattern: Option<String>,
    /// Only runners that Gitea removes after one task.
    pub ephemeral_only: bool,
}

/// One entry of the audit trail. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up.
    pub seq: i64,
    /// When it happened.
    pub at: String,
    /// Who did it.
    pub actor: String,
    /// What happened, for example `token.created`.
    pub what: String,
    /// The enrollment token that it is about.
    pub token_id: Option<String>,
    /// Gitea's id of the runner that it is about.
    pub runner_id: Option<i64>,
    /// Its name.
    pub runner: Option<String>,
    /// Where the call came from.
    pub peer: Option<IpAddr>,
    /// A sentence or a few words.
    pub detail: String,
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
