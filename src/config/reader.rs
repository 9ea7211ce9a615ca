//! Takes key after key out of the merged layers, and notes what is wrong and what is used.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use config::{Value, ValueKind};
use secrecy::{ExposeSecret, SecretString};

use super::forms::LabelForm;
use super::layers::{Merged, Secret};
use super::load::Used;
use super::network::List;
use super::problem::{Problem, one_line};
use super::value::Setting;
use super::{keys, secret};

const HIDDEN: &str = "(hidden)";
const NOT_SET: &str = "(not set)";
const DEFAULT: &str = "default";

/// The merged layers, as far as they are not yet taken.
pub(super) struct Reader {
    merged: Merged,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    pub(super) used: Vec<Used>,
    /// All secrets that were read, by key.
    pub(super) secrets: Vec<(String, SecretString)>,
}

impl Reader {
    pub(super) fn new(mut merged: Merged) -> Self {
        let problems = std::mem::take(&mut merged.problems);
        let warnings = std::mem::take(&mut merged.warnings);
        let (used, secrets) = (Vec::new(), Vec::new());
        Self { merged, problems, warnings, used, secrets }
    }

    /// A key with a default, which also stands in for a value that is wrong.
    pub(super) fn or<T: Setting>(&mut self, key: &str, default: T) -> T {
        if self.merged.values.contains_key(key) {
            return self.given(key).unwrap_or(default);
        }
        self.note(key, &default.show(), DEFAULT);
        default
    }

    /// The same, for a value that must be in a range.
    pub(super) fn within<T: Setting + PartialOrd + Copy>(
        &mut self,
        key: &str,
        default: T,
        range: RangeInclusive<T>,
    ) -> T {
        let value = self.or(key, default);
        if !range.contains(&value) {
            let origin = self.origin(key);
            let message = format!(
                "{} is not within {} and {}: set a value that is",
                value.show(),
                range.start().show(),
                range.end().show()
            );
            self.problem(key, &origin, message);
        }
        value
    }

    /// A key that may be left out.
    pub(super) fn optional<T: Setting>(&mut self, key: &str) -> Option<T> {
        if self.merged.values.contains_key(key) {
            return self.given(key);
        }
        self.note(key, NOT_SET, DEFAULT);
        None
    }

    /// A key with several values, none of which must be there.
    pub(super) fn list<T: Setting>(&mut self, key: &str) -> Vec<T> {
        self.optional(key).map_or_else(Vec::new, |List(items)| items)
    }

    /// A key that must be there; `remedy` says how to give it.
    pub(super) fn required<T: Setting>(&mut self, key: &str, remedy: &str) -> Option<T> {
        if !self.merged.values.contains_key(key) {
            self.missing(key, remedy);
        }
        self.given(key)
    }

    /// Whether a secret is given, by itself or by its file.
    pub(super) fn has_secret(&self, key: &str) -> bool {
        self.merged.secrets.contains_key(key)
            || self.merged.values.contains_key(&format!("{key}_file"))
    }

    /// A key that is told only where it is given.
    pub(super) fn given<T: Setting>(&mut self, key: &str) -> Option<T> {
        let value = self.merged.values.remove(key)?;
        let origin = value.origin().unwrap_or_default().to_owned();
        match T::read(value.kind) {
            Ok(value) => {
                self.note(key, &value.show(), &origin);
                Some(value)
            }
            Err(message) => {
                self.problem(key, &origin, message);
                None
            }
        }
    }

    /// A secret, by itself or by its file; `remedy` says how to give one that must be there.
    pub(super) fn secret(&mut self, key: &str, remedy: Option<&str>) -> Option<SecretString> {
        let secret = self.text_or_file(key, remedy)?;
        self.secrets.push((key.into(), secret.clone()));
        Some(secret)
    }

    fn text_or_file(&mut self, key: &str, remedy: Option<&str>) -> Option<SecretString> {
        let file_key = format!("{key}_file");
        let text = self.merged.secrets.remove(key);
        let file = self.merged.values.remove(&file_key);
        match (text, file) {
            (Some(text), Some(file)) => {
                let file = file.origin().unwrap_or_default();
                let message =
                    format!("is given, and so is {file_key} ({file}): remove one of them");
                self.problem(key, &text.origin, message);
                None
            }
            (Some(text), None) => match secret::checked(text.text.expose_secret()) {
                Ok(secret) => {
                    self.note(key, HIDDEN, &text.origin);
                    Some(secret)
                }
                Err(wrong) => {
                    self.problem(key, &text.origin, wrong.into());
                    None
                }
            },
            (None, Some(file)) => self.secret_file(key, &file_key, file),
            (None, None) => {
                match remedy {
                    Some(remedy) => self.missing(key, remedy),
                    None => self.note(key, NOT_SET, DEFAULT),
                }
                None
            }
        }
    }

    /// All labels with their full forms.
    pub(super) fn labels(&mut self) -> BTreeMap<String, String> {
        let names: Vec<String> = self
            .merged
            .values
            .keys()
            .filter_map(|key| keys::label_of(key).map(str::to_owned))
            .collect();
        let mut labels = BTreeMap::new();
        for name in names {
            let key = format!("{}.{name}", keys::LABELS);
            let is_bare = |c: char| c != ':' && c != ',' && !c.is_whitespace() && !c.is_control();
            if name.is_empty() || !name.chars().all(is_bare) {
                let origin = self.origin(&key);
                let message = format!(
                    "{name:?} is no bare label: leave out colons, commas and spaces, \
                     for example ubuntu-latest = \"docker://node:20\""
                );
                self.problem(&key, &origin, message);
            } else if let Some(LabelForm(full)) = self.given(&key) {
                labels.insert(name, full);
            }
        }
        labels
    }

    /// The tables of `[[enrollment.tokens]]`, as the file holds them.
    pub(super) fn tokens(&mut self) -> Option<Value> {
        self.merged.tokens.take()
    }

    /// The tables of `[[gitea.scopes]]`, likewise.
    pub(super) fn scopes(&mut self) -> Option<Value> {
        self.merged.scopes.take()
    }

    /// The tables of `[[runners]]`, likewise.
    pub(super) fn runners(&mut self) -> Option<Value> {
        self.merged.runners.take()
    }

    /// Makes a field of a table a key, to be taken like all others.
    pub(super) fn add(&mut self, key: String, value: Value) {
        self.merged.values.insert(key, value);
    }

    /// The same for a secret.
    pub(super) fn add_secret(&mut self, key: String, secret: Secret) {
        self.merged.secrets.insert(key, secret);
    }

    /// Where the value of a key comes from; `default` once it was taken or where it is not set.
    pub(super) fn origin(&self, key: &str) -> String {
        let value = self.merged.values.get(key).and_then(Value::origin).map(str::to_owned);
        let used = || self.used.iter().find(|used| used.key == key).map(|used| used.origin.clone());
        value.or_else(used).unwrap_or_else(|| DEFAULT.into())
    }

    pub(super) fn problem(&mut self, key: &str, origin: &str, message: String) {
        self.problems.push(Problem { key: key.into(), origin: origin.into(), message });
    }

    fn secret_file(&mut self, key: &str, file_key: &str, file: Value) -> Option<SecretString> {
        let origin = file.origin().unwrap_or_default().to_owned();
        let path = match file.kind {
            ValueKind::String(path) if Path::new(&path).is_absolute() => PathBuf::from(path),
            // The value is not told: it may well be the secret, given by the wrong name.
            _ => {
                let message = format!(
                    "is no absolute path: begin it with /, or give the secret itself as {key}"
                );
                self.problem(file_key, &origin, message);
                return None;
            }
        };
        match secret::read(&path) {
            Ok((secret, warning)) => {
                self.note(file_key, &path.show(), &origin);
                if let Some(warning) = warning {
                    self.warn(file_key, &warning);
                }
                Some(secret)
            }
            Err(message) => {
                self.problem(file_key, &origin, message);
                None
            }
        }
    }

    /// Says nothing where a layer could not be read, as the key may well be in it, or where the key was
    /// there and wrong.
    fn missing(&mut self, key: &str, remedy: &str) {
        let told = self.problems.iter().any(|problem| problem.key == key);
        if !self.merged.incomplete && !told {
            self.problem(key, "not set", remedy.into());
        }
    }

    /// Notes what is allowed but a risk.
    pub(super) fn warn(&mut self, key: &str, message: &str) {
        self.warnings.push(one_line(&format!("{key}: {message}")));
    }

    fn note(&mut self, key: &str, value: &str, origin: &str) {
        let (key, value, origin) = (one_line(key), one_line(value), one_line(origin));
        self.used.push(Used { key, value, origin });
    }
}
