//! The broker on one screen.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The broker on one screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

/// The broker's own tokens, by where they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnrollmentTokens {
    /// How many admit runners.
    pub active: usize,
    /// How many are switched off.
    pub disabled: usize,
    /// How many have had their time.
    pub expired: usize,
    /// How many have admitted as often as they may.
    pub used_up: usize,
}

/// The records on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Store {
    /// The database file.
    pub path: String,
    /// Whether it takes writes.
    pub writable: bool,
}

/// Where the broker listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Addresses {
    /// For runners.
    #[schema(value_type = String)]
    pub runners: SocketAddr,
    /// For metrics and health.
    #[schema(value_type = String)]
    pub admin: SocketAddr,
    /// For the commands.
    pub socket: String,
}
