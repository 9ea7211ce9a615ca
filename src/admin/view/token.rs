//! Enrollment tokens, and what is wanted of new ones.

use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaType, Type};

use super::{one_of, rfc3339};
use crate::broker::token::{Kind, MAX_LIST, MAX_TEXT, Origin, State};
use crate::lifecycle::{Issued, TokenNow};

/// One enrollment token, without its secret. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// What it is called.
    #[schema(examples("H3kZ9aQ0xY", "builders"))]
    pub id: String,
    /// `reusable` or `single_use`.
    #[schema(schema_with = kind)]
    pub kind: String,
    /// `active`, `disabled`, `expired`, `used_up`, and `deleted` in the answer to its deletion.
    #[schema(schema_with = state)]
    pub state: String,
    /// `created`, `exchanged`, or `declared`: the settings give it.
    #[schema(schema_with = origin)]
    pub origin: String,
    /// Whether it is switched on.
    pub active: bool,
    /// The token that it was exchanged for.
    pub parent_id: Option<String>,
    /// For people.
    pub description: String,
    /// Where its runners serve.
    #[schema(examples("instance", "org:acme"))]
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
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
    /// When it was made.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// Who made it.
    pub created_by: String,
    /// Its last successful registration.
    #[schema(format = DateTime)]
    pub last_used_at: Option<String>,
    /// How many runners it has admitted.
    pub uses: u64,
    /// How many of them are alive.
    pub live_runners: usize,
}

impl Token {
    /// The token as it is shown.
    #[must_use]
    pub fn of(now: &TokenNow) -> Self {
        let (token, policy) = (&now.token, &now.token.policy);
        Self {
            id: token.id.clone(),
            kind: token.kind.to_string(),
            state: now.state.to_string(),
            origin: token.origin.to_string(),
            active: token.active,
            parent_id: token.parent_id.clone(),
            description: token.description.clone(),
            scope: policy.scope.to_string(),
            labels: policy.labels.clone(),
            name_pattern: policy.name_pattern.clone(),
            ephemeral_only: policy.ephemeral_only,
            max_uses: policy.max_uses,
            max_runners: policy.max_runners,
            allowed_cidrs: policy.allowed_cidrs.iter().map(ToString::to_string).collect(),
            expires_at: policy.expires_at.map(rfc3339),
            created_at: rfc3339(token.created_at),
            created_by: token.created_by.clone(),
            last_used_at: token.last_used_at.map(rfc3339),
            uses: token.uses,
            live_runners: now.live_runners,
        }
    }
}

/// A token with its secret, which is told this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuedToken {
    /// The token.
    #[serde(flatten)]
    pub token: Token,
    /// What runners present.
    #[schema(examples("rb_H3kZ9aQ0xY_…"))]
    pub secret: String,
}

impl IssuedToken {
    /// The token and its secret, for the one who asked.
    #[must_use]
    pub fn of(issued: &Issued) -> Self {
        Self { token: Token::of(&issued.token), secret: issued.secret.expose_secret().to_owned() }
    }
}

/// What a new token is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewToken {
    /// `reusable` or `single_use`; `None`: reusable.
    #[schema(schema_with = kind_or_null)]
    pub kind: Option<String>,
    /// For people: one line.
    #[schema(max_length = 500, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub description: String,
    /// Where its runners serve, one of the scopes of the settings; left out: the first of them.
    #[schema(pattern = "^(instance|user|org:.+|repo:.+/.+)$")]
    pub scope: Option<String>,
    /// Bare names that its runners may claim; empty: any.
    #[schema(schema_with = labels)]
    pub labels: Vec<String>,
    /// What a runner's name must match: `*` is any text, `?` any one character.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    pub name_pattern: Option<String>,
    /// Only runners that Gitea removes after one task.
    pub ephemeral_only: bool,
    /// How many runners in all.
    #[schema(minimum = 1, maximum = 4_294_967_295_u32, format = Int64)]
    pub max_uses: Option<u32>,
    /// How many live runners at once.
    #[schema(minimum = 1, maximum = 4_294_967_295_u32, format = Int64)]
    pub max_runners: Option<u32>,
    /// Where Register must come from, as `10.0.0.0/8`; empty: anywhere.
    #[schema(schema_with = networks)]
    pub allowed_cidrs: Vec<String>,
    /// Until when it admits; not with `expires_in`.
    #[schema(format = DateTime, examples("2031-12-31T23:59:59Z"))]
    pub expires_at: Option<String>,
    /// For how long it admits; not with `expires_at`.
    #[schema(pattern = r"^[\s0-9a-zA-Zµ.]+$", examples("12h", "30d"))]
    pub expires_in: Option<String>,
}

/// What a child is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewChild {
    /// How long it may be used, a second to an hour; left out: ten minutes.
    #[schema(pattern = r"^[\s0-9a-zA-Zµ.]+$", examples("10m"))]
    pub ttl: Option<String>,
    /// For people: one line.
    #[schema(max_length = 500, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub description: String,
    /// Bare names; the parent's list holds as well.
    #[schema(schema_with = labels)]
    pub labels: Vec<String>,
    /// The parent's pattern holds as well.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    pub name_pattern: Option<String>,
    /// Only runners that Gitea removes after one task.
    pub ephemeral_only: bool,
}

fn kind() -> ObjectBuilder {
    one_of("How often it admits.", Kind::ALL.iter().map(|kind| kind.as_str()))
}

fn kind_or_null() -> ObjectBuilder {
    let words = Kind::ALL.iter().map(|kind| Value::from(kind.as_str()));
    ObjectBuilder::new()
        .description(Some("How often it admits; left out: `reusable`."))
        .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
        .enum_values(Some(words.chain([Value::Null])))
}

fn state() -> ObjectBuilder {
    let words = State::ALL.iter().map(|state| state.as_str());
    one_of("Where it stands; `deleted` in the answer to its deletion.", words)
}

fn origin() -> ObjectBuilder {
    let words = Origin::ALL.iter().map(|origin| origin.as_str());
    one_of("Who keeps it; `declared`: the settings give it.", words)
}

fn labels() -> ArrayBuilder {
    let label = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MAX_TEXT))
        .pattern(Some(r"^[^:,\s\x00-\x1f\x7f-\x9f]+$"));
    ArrayBuilder::new()
        .description(Some("Bare names that its runners may claim; empty: any."))
        .items(label)
        .max_items(Some(MAX_LIST))
        .default(Some(json!([])))
}

fn networks() -> ArrayBuilder {
    let network = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("^[0-9A-Fa-f:.]+(/[0-9]+)?$"))
        .examples(["10.0.0.0/8", "2001:db8::7"]);
    ArrayBuilder::new()
        .description(Some("Networks or addresses that Register must come from; empty: anywhere."))
        .items(network)
        .max_items(Some(MAX_LIST))
        .default(Some(json!([])))
}
