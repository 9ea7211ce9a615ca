//! `[[runners]]`: the tables of the settings file that declare a runner each.

use std::collections::{BTreeMap, BTreeSet};

use config::{Map, Value};

use super::forms::LabelForm;
use super::network::List;
use super::reader::Reader;
use super::value::Setting;
use super::{Address, Credentials, DeclaredRunner, Listen, Scope, keys, scopes, tables};
use crate::broker::policy;
use crate::broker::token::MAX_TEXT;
use crate::credential::Pattern;

/// What a table may hold.
pub(super) const FIELDS: &[&str] = &["name", "labels", "scope"];

const EXAMPLE: &str = "for example builder-1";

/// What the tables build on.
pub(super) struct Given<'a> {
    pub(super) listen: &'a Listen,
    pub(super) credentials: &'a Credentials,
    /// Full forms of bare labels.
    pub(super) forms: &'a BTreeMap<String, String>,
    /// The first is for those that name none.
    pub(super) scopes: &'a [Scope],
}

/// All runners that are declared.
pub(super) fn declared(reader: &mut Reader, given: &Given<'_>) -> Vec<DeclaredRunner> {
    let Given { listen, credentials, .. } = *given;
    let Some(value) = reader.runners() else { return Vec::new() };
    let origin = value.origin().unwrap_or_default().to_owned();
    let tables = tables::tables(reader, keys::RUNNERS, "runner", value);
    if tables.is_empty() {
        return Vec::new();
    }
    if tables.len() > 1 && !credentials.path.contains('{') {
        let message = format!(
            "are {}, and credentials.path ({}) has room for one: put {{name}} into that path, for \
             example /runners/{{name}}/.runner",
            tables.len(),
            credentials.path
        );
        reader.problem(keys::RUNNERS, &origin, message);
    }
    address_is_known(reader, listen, credentials);
    let mut names = BTreeSet::new();
    let runners = tables
        .into_iter()
        .filter_map(|(number, fields)| runner(reader, &mut names, number, &origin, fields, given));
    runners.collect()
}

/// One that registers itself has dialled the broker by some name; for these, nobody has yet.
fn address_is_known(reader: &mut Reader, listen: &Listen, credentials: &Credentials) {
    const KEY: &str = "listen.public_url";
    let dials_broker = match credentials.address {
        Address::Broker => true,
        Address::Auto => !listen.loopback_only(),
        Address::Gitea | Address::Url(_) => false,
    };
    let told = reader.problems.iter().any(|problem| problem.key == KEY);
    if dials_broker && listen.public_url.is_none() && !told {
        let message = "is needed for the files of [[runners]]: give the broker's address as runners \
                       know it, for example http://broker:8080, or set credentials.address";
        reader.problem(KEY, "not set", message.into());
    }
}

fn runner(
    reader: &mut Reader,
    names: &mut BTreeSet<String>,
    number: String,
    origin: &str,
    mut fields: Map<String, Value>,
    given: &Given<'_>,
) -> Option<DeclaredRunner> {
    let path = &given.credentials.path;
    let name = match fields.remove("name").map(|value| Name::read(value.kind)) {
        Some(Ok(Name(name))) => match makes_path(path, &name) {
            Ok(()) if names.insert(name.clone()) => Ok(name),
            Ok(()) => {
                Err(format!("{name:?} is the name of an earlier runner too: give another one"))
            }
            Err(message) => Err(message),
        },
        Some(Err(message)) => Err(message),
        None => Err(format!("is missing: give one, {EXAMPLE}")),
    };
    let prefix = match &name {
        Ok(name) => format!("{}[{name}]", keys::RUNNERS),
        Err(_) => number,
    };
    let name =
        name.map_err(|message| reader.problem(&format!("{prefix}.name"), origin, message)).ok();
    tables::lay_out(reader, &prefix, origin, fields, FIELDS, &[]);
    let labels = labels(reader, &format!("{prefix}.labels"), given.forms);
    let scope = scopes::of(reader, &format!("{prefix}.scope"), given.scopes);
    Some(DeclaredRunner { name: name?, labels: labels?, scope })
}

/// A file has to be written for it, or it is of no use.
fn makes_path(path: &str, name: &str) -> Result<(), String> {
    // A pattern that is wrong itself is told as such; id and uuid are Gitea's.
    let Ok(pattern) = Pattern::parse(path) else { return Ok(()) };
    pattern.expand(name, 1, "uuid").map(drop).map_err(|_| {
        format!(
            "{name:?} makes no file name, as credentials.path needs it: give at most 200 letters, \
             digits and \"-_.\", no dot first, {EXAMPLE}"
        )
    })
}

/// In full form.
fn labels(reader: &mut Reader, key: &str, forms: &BTreeMap<String, String>) -> Option<Vec<String>> {
    let List(labels) = reader.required(
        key,
        "give the labels in brackets, for example [\"ubuntu-latest:docker://node:20\"]",
    )?;
    let mut wrong = Vec::new();
    let (mut bare, mut full) = (Vec::new(), Vec::new());
    for Label { name, form } in labels {
        if bare.contains(&name) {
            wrong.push(format!("{name:?} is there twice: leave one of them out"));
            continue;
        }
        match form.as_ref().or_else(|| forms.get(&name)) {
            Some(form) => full.push(format!("{name}:{form}")),
            // Where its form is there and wrong, that is told.
            None if reader.problems.iter().any(|one| one.key == format!("labels.{name}")) => {}
            None => wrong.push(format!(
                "{name:?} does not say where jobs run: give {:?} or the like, or its form in [labels]",
                format!("{name}:docker://node:20")
            )),
        }
        bare.push(name);
    }
    if bare.is_empty() {
        wrong.push("is empty, so that the runner would get no job: give a label".into());
    }
    wrong.extend(policy::labels(&bare).err().map(|refusal| refusal.to_string()));
    if wrong.is_empty() {
        return Some(full);
    }
    let origin = reader.origin(key);
    reader.problem(key, &origin, wrong.join("; "));
    None
}

/// What Gitea shows.
struct Name(String);

impl Setting for Name {
    fn parse(text: &str) -> Result<Self, String> {
        let length = text.chars().count();
        if (1..=MAX_TEXT).contains(&length) && !text.contains(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err(format!("is empty, too long or holds control characters: give a name, {EXAMPLE}"))
        }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// A bare name, perhaps with its form.
struct Label {
    name: String,
    form: Option<String>,
}

impl Setting for Label {
    fn parse(text: &str) -> Result<Self, String> {
        let (name, form) = match text.split_once(':') {
            Some((name, form)) => (name, Some(LabelForm::parse(form)?.0)),
            None => (text, None),
        };
        let is_bare = |c: char| c != ',' && !c.is_whitespace() && !c.is_control();
        if name.is_empty() || !name.chars().all(is_bare) {
            return Err(format!(
                "{text:?} is no label: leave out commas and spaces, and give a name first, for example \
                 ubuntu-latest:docker://node:20"
            ));
        }
        Ok(Self { name: name.into(), form })
    }

    fn show(&self) -> String {
        match &self.form {
            Some(form) => format!("{}:{form}", self.name),
            None => self.name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::tests::{reads, refuses};
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "builder-1", "Builder of all", &"\u{e9}".repeat(MAX_TEXT)] {
            reads::<Name>(name, name);
        }
        refuses::<Name>(&["", "a\nb", &"x".repeat(MAX_TEXT + 1)], "give a name");
    }

    #[test]
    fn labels() {
        for label in ["a", "a:host", "ubuntu-22.04:docker://node:20", "own:docker:x"] {
            reads::<Label>(label, label);
        }
        refuses::<Label>(&["", ":host", "a b", "a,b:host"], "is no label");
        refuses::<Label>(&["a:", "a:node:20", "a:docker://"], "does not say where jobs run");
    }
}
