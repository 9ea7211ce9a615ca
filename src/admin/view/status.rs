//! The broker on one screen.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::gitea;
use crate::net::tls;

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
    /// The scopes that are served, the default one first.
    pub scopes: Vec<ScopeTokens>,
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
    /// The certificates that the broker shows, with TLS.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
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
    /// Its own words about its version; null where it does not tell, or was not asked yet.
    pub version: Option<String>,
    /// What it can do by its API.
    pub abilities: Abilities,
    /// What is known of the API token of `scope`.
    pub api_token: ApiToken,
}

/// What Gitea can do by its API; null is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Abilities {
    /// List and show runners.
    pub list: Option<bool>,
    /// Delete runners.
    pub delete: Option<bool>,
    /// How it gives out registration tokens.
    pub mint: Option<Minting>,
    /// Switch runners off, so that they get no task.
    pub switch_off: Option<bool>,
    /// Let a runner deregister itself.
    pub deregister: Option<bool>,
}

/// How Gitea gives out registration tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Minting {
    /// By POST.
    Post,
    /// By GET.
    Get,
    /// Not by its API.
    No,
}

/// A scope that is served, with Gitea's tokens for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScopeTokens {
    /// Where its runners serve.
    pub scope: String,
    /// What is known of its API token.
    pub api_token: ApiToken,
    /// Where its registration token is from.
    pub registration_token: RegistrationToken,
}

/// Where a registration token is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RegistrationToken {
    /// The settings hold it.
    Set,
    /// Gitea gave it out to the broker.
    Minted,
    /// It is minted when a runner first needs it.
    #[serde(rename = "none yet")]
    NoneYet,
}

impl From<&gitea::Abilities> for Abilities {
    fn from(known: &gitea::Abilities) -> Self {
        Self {
            list: known.list,
            delete: known.delete,
            mint: known.mint.map(|mint| match mint {
                gitea::Minting::Post => Minting::Post,
                gitea::Minting::Get => Minting::Get,
                gitea::Minting::No => Minting::No,
            }),
            switch_off: known.switch_off,
            deregister: known.deregister,
        }
    }
}

impl From<gitea::Registration> for RegistrationToken {
    fn from(held: gitea::Registration) -> Self {
        match held {
            gitea::Registration::Set => Self::Set,
            gitea::Registration::Minted => Self::Minted,
            gitea::Registration::NotYet => Self::NoneYet,
        }
    }
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

/// A certificate that the broker shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// To whom: `runners`, `admin`, `gitea`.
    pub name: String,
    /// When it ends.
    #[schema(format = "date-time")]
    pub expires_at: String,
    /// What is to be said of its time; null where it is well.
    pub expiry: Option<String>,
    /// Why its files, which have changed, are not used; null where they are.
    pub trouble: Option<String>,
}

impl From<tls::Certificate> for Certificate {
    fn from(shown: tls::Certificate) -> Self {
        Self {
            name: shown.name.as_str().into(),
            expires_at: super::rfc3339(shown.not_after),
            expiry: shown.expiry,
            trouble: shown.trouble,
        }
    }
}
