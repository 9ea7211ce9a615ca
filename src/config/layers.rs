//! What the file, the environment and the flags say, laid over one another.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::mem;
use std::path::Path;

use config::builder::DefaultState;
use config::{ConfigBuilder, ConfigError, FileFormat, Format, Map, Source, Value, ValueKind};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::problem::Problem;
use super::{keys, secret};

/// Collects layers from the lowest to the highest, and what is wrong in them.
#[derive(Default)]
pub(super) struct Layers {
    builder: ConfigBuilder<DefaultState>,
    secrets: BTreeMap<String, Secret>,
    tokens: Option<Value>,
    scopes: Option<Value>,
    runners: Option<Value>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    incomplete: bool,
}

/// All layers as one: the highest value of each key.
pub(super) struct Merged {
    /// By full key.
    pub(super) values: BTreeMap<String, Value>,
    /// Those given as text, by full key.
    pub(super) secrets: BTreeMap<String, Secret>,
    /// What the file holds as `[[enrollment.tokens]]`, with its secrets: it is not merged with anything.
    pub(super) tokens: Option<Value>,
    /// What it holds as `[[gitea.scopes]]`, likewise.
    pub(super) scopes: Option<Value>,
    /// What it holds as `[[runners]]`, likewise.
    pub(super) runners: Option<Value>,
    /// What is wrong in single layers.
    pub(super) problems: Vec<Problem>,
    /// What is a risk in them.
    pub(super) warnings: Vec<String>,
    /// Whether a layer could not be read, so that what is missing may well be in it.
    pub(super) incomplete: bool,
}

/// A secret that was given as text.
pub(super) struct Secret {
    pub(super) text: SecretString,
    pub(super) origin: String,
}

impl Layers {
    /// Adds a TOML file that must be there; `named_by` tells who named it.
    pub(super) fn file(&mut self, path: &Path, named_by: &str) {
        match fs::read_to_string(path).map(Zeroizing::new) {
            Ok(text) => {
                self.toml(&text, &format!("file {}", path.display()));
                if self.holds_secret()
                    && let Some(open) = secret::open_to_all(path)
                {
                    self.warnings.push(format!("the settings file holds a secret, and {open}"));
                }
            }
            Err(error) => {
                self.incomplete = true;
                self.problem("config", named_by, secret::unreadable(path, &error));
            }
        }
    }

    /// Adds the names of the runner's image and, above them, the broker's own.
    pub(super) fn environment(&mut self, variables: &[(OsString, OsString)]) {
        let mut variables: Vec<_> = variables.iter().collect();
        variables.sort();
        let (mut familiar, mut own) = (Vec::new(), BTreeMap::new());
        for (name, value) in variables {
            let name = name.to_string_lossy();
            let origin = format!("variable {name}");
            let known = keys::of_familiar(&name).map(str::to_owned);
            let is_familiar = known.is_some();
            let Some(key) = known.or_else(|| keys::of_variable(&name)) else { continue };
            let Some(value) = value.to_str() else {
                self.problem(&key, &origin, "is not UTF-8 text: give plain text".into());
                continue;
            };
            if value.is_empty() && keys::is_known(&key) {
                continue; // Compose files pass on what is not set as an empty variable.
            }
            let value = text(&key, value, &origin);
            if is_familiar {
                familiar.push((key, value));
            } else if let Some(other) = own.insert(key.clone(), value) {
                let other = other.origin().unwrap_or_default();
                self.problem(&key, &origin, format!("is given by {other} too: remove one of them"));
            }
        }
        self.add(familiar, keys::variable);
        self.add(own, keys::variable);
    }

    /// Adds flags, of which the last of a kind wins. Secrets are refused.
    pub(super) fn flags(&mut self, flags: &[(String, String)]) {
        let origin = "flag --set".to_owned();
        let mut entries = Vec::new();
        for (key, value) in flags {
            if keys::is_secret(key) {
                let message = format!(
                    "a secret in an argument can be read by every user: give a file with {key}_file"
                );
                self.problem(key, &origin, message);
            } else {
                entries.push((key.clone(), text(key, value, &origin)));
            }
        }
        self.add(entries, str::to_owned);
    }

    /// Lays the layers over one another.
    pub(super) fn merge(self) -> Merged {
        let merged = self.builder.build().expect("layers are in memory and have checked keys");
        let mut values = BTreeMap::new();
        for (section, table) in tables(merged.cache.kind) {
            for (key, value) in tables(table.kind) {
                values.insert(format!("{section}.{key}"), value);
            }
        }
        let Self { secrets, tokens, scopes, runners, problems, warnings, incomplete, .. } = self;
        Merged { values, secrets, tokens, scopes, runners, problems, warnings, incomplete }
    }

    /// Whether a secret was given as text so far; the file is the first layer.
    fn holds_secret(&self) -> bool {
        fn holds(value: &Value) -> bool {
            match &value.kind {
                ValueKind::Table(table) => table.iter().any(|(key, value)| {
                    matches!(key.as_str(), "token" | "registration_token" | "api_token")
                        || holds(value)
                }),
                ValueKind::Array(values) => values.iter().any(holds),
                _ => false,
            }
        }
        !self.secrets.is_empty() || [&self.tokens, &self.scopes].into_iter().flatten().any(holds)
    }

    fn toml(&mut self, text: &str, origin: &String) {
        let sections = match FileFormat::Toml.parse(Some(origin), text) {
            Ok(sections) => sections,
            Err(error) => {
                self.incomplete = true;
                let message = syntax(text, error.downcast_ref());
                return self.problem("config", origin, message);
            }
        };
        let mut entries = Vec::new();
        for (section, value) in sections.into_iter().collect::<BTreeMap<_, _>>() {
            if section == keys::RUNNERS {
                self.runners = Some(value);
                continue;
            }
            match value.kind {
                ValueKind::Table(table) if keys::is_section(&section) => {
                    for (key, value) in table {
                        let key = format!("{section}.{key}");
                        match key.as_str() {
                            keys::TOKENS => self.tokens = Some(value),
                            keys::SCOPES => self.scopes = Some(value),
                            _ if keys::is_subsection(&key) => {
                                self.subsection(&key, value, origin, &mut entries);
                            }
                            _ => entries.push((key, value)),
                        }
                    }
                }
                ValueKind::Table(table) if !table.is_empty() => {
                    for key in table.into_keys().collect::<BTreeSet<_>>() {
                        self.unknown(&format!("{section}.{key}"), origin, str::to_owned);
                    }
                }
                _ if keys::is_section(&section) => self.problem(
                    &section,
                    origin,
                    format!("is a section: write [{section}] once, and its keys below it"),
                ),
                _ => self.unknown(&section, origin, str::to_owned),
            }
        }
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.add(entries, str::to_owned);
    }

    /// The keys of a section within a section.
    fn subsection(
        &mut self,
        section: &str,
        value: Value,
        origin: &str,
        entries: &mut Vec<(String, Value)>,
    ) {
        let ValueKind::Table(table) = value.kind else {
            let message = format!("is a section: write [{section}], and its keys below it");
            return self.problem(section, origin, message);
        };
        let keys = table.into_iter().map(|(key, value)| (format!("{section}.{key}"), value));
        entries.extend(keys);
    }

    /// Adds a layer of values that know their origin; `spell` writes a key as the layer would.
    fn add(
        &mut self,
        entries: impl IntoIterator<Item = (String, Value)>,
        spell: fn(&str) -> String,
    ) {
        let mut layer = Layer::default();
        for (key, value) in entries {
            let origin = value.origin().unwrap_or_default().to_owned();
            if keys::is_secret(&key) {
                let message = match value.kind {
                    ValueKind::String(text) => {
                        self.secrets.insert(key, Secret { text: text.into(), origin });
                        continue;
                    }
                    ValueKind::Array(_) if key == "enrollment.token" => {
                        "is no text: put it in quotes, or did you mean [[enrollment.tokens]]?"
                    }
                    _ => "is no text: put it in quotes",
                };
                self.problem(&key, &origin, message.into());
            } else if keys::is_known(&key) && matches!(value.kind, ValueKind::Table(_)) {
                // Told here, as tables lose their origin when they are merged.
                let message = "is a table: give text (and put a name that holds a dot in quotes)";
                self.problem(&key, &origin, message.into());
            } else if keys::is_known(&key) {
                layer.put(&key, value);
            } else {
                self.unknown(&key, &origin, spell);
            }
        }
        self.builder = mem::take(&mut self.builder).add_source(layer);
    }

    fn unknown(&mut self, key: &str, origin: &str, spell: fn(&str) -> String) {
        let message = match keys::meant(key) {
            _ if keys::is_tokens(key) => {
                "only the settings file can hold these: write [[enrollment.tokens]] there, with a \
                 name and a token_file"
                    .into()
            }
            _ if keys::is_scopes(key) => {
                "only the settings file can hold these: write [[gitea.scopes]] there, with a scope and \
                 a registration_token_file or an api_token_file"
                    .into()
            }
            _ if keys::is_runners(key) => {
                "only the settings file can hold these: write [[runners]] there, with a name and labels"
                    .into()
            }
            meant => keys::unknown(meant.map(spell).as_deref()),
        };
        // A line that begins with no name at all is hard to read.
        let key = if key.is_empty() { "\"\"" } else { key };
        self.problem(key, origin, message);
    }

    fn problem(&mut self, key: &str, origin: &str, message: String) {
        self.problems.push(Problem { key: key.into(), origin: origin.into(), message });
    }
}

/// One layer without secrets: tables by section.
#[derive(Clone, Debug, Default)]
struct Layer(Map<String, Value>);

impl Layer {
    fn put(&mut self, key: &str, value: Value) {
        let (section, key) = key.split_once('.').unwrap_or((key, ""));
        let section = self
            .0
            .entry(section.into())
            .or_insert_with(|| Value::new(None, ValueKind::Table(Map::new())));
        if let ValueKind::Table(table) = &mut section.kind {
            table.insert(key.into(), value);
        }
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

/// A value from where everything is text: lists are separated by commas there.
fn text(key: &str, text: &str, origin: &String) -> Value {
    if !keys::is_list(key) {
        return Value::new(Some(origin), text);
    }
    let items = text.split(',').map(str::trim).filter(|_| !text.is_empty());
    Value::new(Some(origin), items.map(|item| Value::new(Some(origin), item)).collect::<Vec<_>>())
}

fn tables(kind: ValueKind) -> Map<String, Value> {
    if let ValueKind::Table(table) = kind { table } else { Map::new() }
}

/// Where and why a text is no TOML; never the text itself, which may hold a secret.
fn syntax(text: &str, error: Option<&toml::de::Error>) -> String {
    let Some(error) = error else {
        return "holds a number that is out of range: put it in quotes".into();
    };
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    format!("line {line} is no TOML: {}; correct it there", error.message())
}
