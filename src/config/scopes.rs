//! The scopes that are served, each with the tokens that Gitea gave out for it: `[gitea]` itself, and
//! `[[gitea.scopes]]`.

use config::{Map, Value};
use secrecy::SecretString;

use super::reader::Reader;
use super::value::Setting;
use super::{Scope, Served, keys, own, tables};

/// What a table may hold.
pub(super) const FIELDS: &[&str] =
    &["scope", "registration_token", "registration_token_file", "api_token", "api_token_file"];
const SECRETS: &[&str] = &["registration_token", "api_token"];

const DEFAULT: &str = "gitea.scope";

/// All of them, the default one first. Where `[gitea]` has no token of its own, that is the one of the
/// others that `gitea.scope` names, or the first of them. What is wrong is noted; then tokens may be
/// missing, and there is always a scope to go on with.
pub(super) fn served(reader: &mut Reader) -> Vec<Served> {
    let list = reader.scopes();
    let origin = list.as_ref().and_then(Value::origin).unwrap_or_default().to_owned();
    let tables = list.map(|list| tables::tables(reader, keys::SCOPES, "scope", list));
    let tables = tables.unwrap_or_default();
    let of_section = ["gitea.registration_token", "gitea.api_token"];
    let mut all = Vec::new();
    if tables.is_empty() || of_section.iter().any(|key| reader.has_secret(key)) {
        let scope = reader.or(DEFAULT, Scope::Instance);
        all.push(tokens(reader, keys::GITEA, scope));
    }
    let named = if all.is_empty() { reader.optional::<Scope>(DEFAULT) } else { None };
    for (number, fields) in tables {
        if let Some(served) = table(reader, &number, &origin, fields, &all) {
            all.push(served);
        }
    }
    each_has_its_own(reader);
    if let Some(named) = named {
        match all.iter().position(|served| served.scope == named) {
            Some(at) => all[..=at].rotate_right(1),
            None => {
                let origin = reader.origin(DEFAULT);
                let message = format!(
                    "{named} has no token: give gitea.registration_token_file or \
                     gitea.api_token_file, or name one of [[gitea.scopes]]"
                );
                reader.problem(DEFAULT, &origin, message);
            }
        }
    }
    if all.is_empty() {
        let (section, scope) = (keys::GITEA.into(), Scope::Instance);
        all.push(Served { section, scope, registration_token: None, api_token: None });
    }
    all
}

/// The scope that a token or a runner names by this key, or the default one.
pub(super) fn of(reader: &mut Reader, key: &str, served: &[Scope]) -> Scope {
    let default = served.first().cloned().unwrap_or(Scope::Instance);
    let Some(scope) = reader.given(key) else { return default };
    // Where the scopes themselves are wrong, nobody knows which one is right here.
    let known = !is_told(reader, DEFAULT);
    if known && !served.contains(&scope) {
        let names: Vec<_> = served.iter().map(ToString::to_string).collect();
        let message = format!(
            "{scope} is none of the scopes that are served ({}): name one of them, or give this one \
             its tokens with [[gitea.scopes]]",
            names.join(", ")
        );
        let origin = reader.origin(key);
        reader.problem(key, &origin, message);
    }
    scope
}

fn table(
    reader: &mut Reader,
    number: &str,
    origin: &str,
    mut fields: Map<String, Value>,
    all: &[Served],
) -> Option<Served> {
    const EXAMPLE: &str = "for example org:acme";
    let scope = match fields.remove("scope").map(|value| Scope::read(value.kind)) {
        Some(Ok(scope)) if all.iter().any(|served| is_same(&served.scope, &scope)) => {
            Err(format!("{scope} is served already: give another one, {EXAMPLE}"))
        }
        Some(Ok(scope)) => Ok(scope),
        Some(Err(message)) => Err(message),
        None => Err(format!("is missing: give one, {EXAMPLE}")),
    };
    let prefix = match &scope {
        Ok(scope) => keys::of_scope(&scope.to_string()),
        Err(_) => number.to_owned(),
    };
    tables::lay_out(reader, &prefix, origin, fields, FIELDS, SECRETS);
    let scope =
        scope.map_err(|message| reader.problem(&format!("{prefix}.scope"), origin, message)).ok();
    // Read also where the scope is wrong, so that all that is wrong is told at once.
    let told = scope.clone().unwrap_or(Scope::Instance);
    let served = tokens(reader, &prefix, told);
    scope.map(|_| served)
}

/// At least one of the two must be there.
fn tokens(reader: &mut Reader, prefix: &str, scope: Scope) -> Served {
    let registration = format!("{prefix}.registration_token");
    let api = format!("{prefix}.api_token");
    let optional = reader.has_secret(&api)
        || reader.has_secret(&registration)
        || (prefix == keys::GITEA && is_told(reader, keys::SCOPES));
    let remedy = (!optional).then(|| remedy(prefix));
    let registration_token = reader.secret(&registration, remedy.as_deref());
    let api_token = reader.secret(&api, None).filter(|token| is_gitea_s(reader, &api, token));
    Served { section: prefix.into(), scope, registration_token, api_token }
}

/// Whether something is wrong with the keys that begin so; those of the tables begin as the default's key.
fn is_told(reader: &Reader, prefix: &str) -> bool {
    reader.problems.iter().any(|problem| problem.key.starts_with(prefix))
}

/// Gitea's names have no case.
fn is_same(a: &Scope, b: &Scope) -> bool {
    a.to_string().eq_ignore_ascii_case(&b.to_string())
}

/// Gitea has each registration token for one scope: runners would land in the wrong one.
fn each_has_its_own(reader: &mut Reader) {
    let of_registration = |(key, _): &&(String, _)| key.ends_with(".registration_token");
    let tokens: Vec<_> = reader.secrets.iter().filter(of_registration).cloned().collect();
    for (index, (key, token)) in tokens.iter().enumerate() {
        if let Some((other, _)) = tokens[..index].iter().find(|(_, other)| own::same(other, token))
        {
            let message = format!(
                "is the same as {other}: Gitea has one for each scope, so give the one that it shows there"
            );
            own::refuse(reader, key, &message);
        }
    }
}

fn remedy(prefix: &str) -> String {
    let familiar = match prefix {
        "gitea" => " (GITEA_RUNNER_REGISTRATION_TOKEN_FILE works too)",
        _ => "",
    };
    format!(
        "give the token that Gitea shows under Actions, Runners, Create new Runner, in a file named by \
         {prefix}.registration_token_file{familiar}, or an API token by {prefix}.api_token_file, with \
         which the broker gets it itself"
    )
}

fn is_gitea_s(reader: &mut Reader, key: &str, token: &SecretString) -> bool {
    let good = own::is_visible(token);
    if !good {
        own::refuse(reader, key, "holds what no token of Gitea does: give it as Gitea showed it");
    }
    good
}
