//! One entry of the audit trail.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::ObjectBuilder;

use super::{one_of, rfc3339};
use crate::broker::{self, What};

/// One entry of the audit trail. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Counts up.
    pub seq: i64,
    /// When it happened.
    #[schema(format = DateTime)]
    pub at: String,
    /// Who did it: `socket`, `admin`, `admin:NAME`, `settings`, `broker`, `runner`, `token:ID`.
    pub actor: String,
    /// What happened, for example `token.created`.
    #[schema(schema_with = what)]
    pub what: String,
    /// The enrollment token that it is about.
    pub token_id: Option<String>,
    /// Gitea's id of the runner that it is about.
    pub runner_id: Option<i64>,
    /// Its name.
    pub runner: Option<String>,
    /// Where the call came from.
    #[schema(value_type = Option<String>)]
    pub peer: Option<IpAddr>,
    /// A sentence or a few words.
    pub detail: String,
}

impl Event {
    /// The event as it is shown.
    #[must_use]
    pub fn of(event: &broker::Event) -> Self {
        Self {
            seq: event.seq,
            at: rfc3339(event.at),
            actor: event.actor.clone(),
            what: event.what.to_string(),
            token_id: event.token_id.clone(),
            runner_id: event.runner_id,
            runner: event.runner.clone(),
            peer: event.peer,
            detail: event.detail.clone(),
        }
    }
}

fn what() -> ObjectBuilder {
    one_of("What happened.", What::ALL.iter().map(|what| what.as_str()))
}
