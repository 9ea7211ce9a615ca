//! `[[enrollment.tokens]]`: the tables of the settings file that declare a token each.

use std::collections::BTreeSet;
use std::time::SystemTime;

use config::{Map, Value, ValueKind};
use ipnet::IpNet;

use super::network::List;
use super::reader::Reader;
use super::value::Setting;
use super::{DeclaredToken, Scope, keys, own, tables};
use crate::broker::token::{Draft, Kind, Policy, SETTINGS_TOKEN};

/// What a table may hold.
pub(super) const FIELDS: &[&str] = &[
    "name",
    "token",
    "token_file",
    "kind",
    "description",
    "scope",
    "labels",
    "name_pattern",
    "ephemeral_only",
    "max_uses",
    "max_runners",
    "expires_at",
    "allowed_cidrs",
];

/// All tokens that are declared, for runners of these scopes; the first is for those that name none.
pub(super) fn declared(reader: &mut Reader, scopes: &[Scope]) -> Vec<DeclaredToken> {
    let Some(value) = reader.tokens() else { return Vec::new() };
    let origin = value.origin().unwrap_or_default().to_owned();
    let mut tokens = Vec::new();
    let mut names = BTreeSet::new();
    for (number, fields) in tables::tables(reader, keys::TOKENS, "token", value) {
        let table = Table::new(reader, &mut names, number, origin.clone(), fields);
        tokens.extend(table.token(reader, scopes));
    }
    tokens
}

/// One table, whose fields are laid out as keys of the reader.
struct Table {
    /// What all its keys begin with: `enrollment.tokens[NAME]`, or its number where it has no name of its own.
    prefix: String,
    name: Option<String>,
}

impl Table {
    fn new(
        reader: &mut Reader,
        names: &mut BTreeSet<String>,
        number: String,
        origin: String,
        mut fields: Map<String, Value>,
    ) -> Self {
        let name = match fields.remove("name").map(|value| Name::read(value.kind)) {
            Some(Ok(Name(name))) if names.insert(name.clone()) => Ok(name),
            Some(Ok(Name(name))) => {
                Err(format!("{name:?} is the name of an earlier token too: give another one"))
            }
            Some(Err(message)) => Err(message),
            None => Err(format!("is missing: give one, {EXAMPLE}")),
        };
        let prefix = match &name {
            Ok(name) => format!("{}[{name}]", keys::TOKENS),
            Err(_) => number,
        };
        let name = name
            .map_err(|message| reader.problem(&format!("{prefix}.name"), &origin, message))
            .ok();
        tables::lay_out(reader, &prefix, &origin, fields, FIELDS, &["token"]);
        Self { prefix, name }
    }

    fn token(self, reader: &mut Reader, scopes: &[Scope]) -> Option<DeclaredToken> {
        let key = |field: &str| format!("{}.{field}", self.prefix);
        let token = own::secret(
            reader,
            &key("token"),
            Some(
                "give what runners present, 32 characters or more, in a file named by token_file; \
                 openssl rand -hex 32 makes one",
            ),
        );
        let draft = Draft {
            kind: reader.given(&key("kind")).unwrap_or(Kind::Reusable),
            description: reader.given(&key("description")).unwrap_or_default(),
            policy: Policy {
                scope: super::scopes::of(reader, &format!("{}.scope", self.prefix), scopes),
                labels: self.list(reader, "labels"),
                name_pattern: reader.given(&key("name_pattern")),
                ephemeral_only: reader.given(&key("ephemeral_only")).unwrap_or_default(),
                max_uses: reader.given(&key("max_uses")).map(|Limit(limit)| limit),
                max_runners: reader.given(&key("max_runners")).map(|Limit(limit)| limit),
                expires_at: reader.given(&key("expires_at")),
                allowed_cidrs: self.list::<IpNet>(reader, "allowed_cidrs"),
            },
        };
        for (field, message) in draft.check(SystemTime::now()).err().unwrap_or_default() {
            if field == "expires_at" {
                // A broker that starts again does so with tokens whose time is over, too.
                let message = "is over: the token admits nobody; give a later time, or remove it";
                reader.warn(&key(field), message);
            } else {
                let origin = reader.origin(&key(field));
                reader.problem(&key(field), &origin, message);
            }
        }
        Some(DeclaredToken { name: self.name?, token: token?, draft })
    }

    fn list<T: Setting>(&self, reader: &mut Reader, field: &str) -> Vec<T> {
        let key = format!("{}.{field}", self.prefix);
        reader.given(&key).map_or_else(Vec::new, |List(items)| items)
    }
}

const EXAMPLE: &str = "for example ci-builders";

/// The name of a declared token, which is its id.
struct Name(String);

impl Setting for Name {
    fn parse(text: &str) -> Result<Self, String> {
        let inner = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        let good = (1..=64).contains(&text.len())
            && text.bytes().all(inner)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if text == "new" {
            // The token page has its form there.
            Err(format!("{text:?} is no name for a token: give another one, {EXAMPLE}"))
        } else if text == SETTINGS_TOKEN {
            Err(format!("{text:?} is the name of enrollment.token: give another one, {EXAMPLE}"))
        } else if good {
            Ok(Self(text.into()))
        } else {
            Err(format!(
                "{text:?} is no name: give 1 to 64 small letters, digits and \"-_.\", a letter or \
                 digit first, {EXAMPLE}"
            ))
        }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

const LIMIT: &str = "is no whole number from 1 to 4294967295: give one, for example 10";

/// How many may be.
struct Limit(u32);

impl Setting for Limit {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("{text:?} {LIMIT}"))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn read(kind: ValueKind) -> Result<Self, String> {
        match kind {
            ValueKind::I64(number) => Self::parse(&number.to_string()),
            _ => Err(LIMIT.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::tests::{reads, refuses};
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "0", "ci-builders", "a.b_c-0", &"x".repeat(64)] {
            reads::<Name>(name, name);
        }
        let long = "x".repeat(65);
        refuses::<Name>(&["", "A", "-a", ".a", "_", "a b", "a/b", "\u{e9}", &long], "is no name");
        refuses::<Name>(&["settings"], "is the name of enrollment.token");
        refuses::<Name>(&["new"], "is no name for a token");
    }

    #[test]
    fn limits() {
        reads::<Limit>("4294967295", "4294967295");
        refuses::<Limit>(&["", "-1", "4294967296", "many", "1.5"], "is no whole number");
    }
}
