//! Lists of tables in the settings file (`[[section.name]]`), which are merged with no other layer.

use std::collections::BTreeMap;

use config::{Map, Value, ValueKind};

use super::keys;
use super::layers::Secret;
use super::reader::Reader;

/// The tables of a list, each with its key; `noun` is what one of them declares.
pub(super) fn tables(
    reader: &mut Reader,
    key: &str,
    noun: &str,
    list: Value,
) -> Vec<(String, Map<String, Value>)> {
    let origin = list.origin().unwrap_or_default().to_owned();
    let remedy = format!("write [[{key}]], in two brackets, before each {noun}'s keys");
    let ValueKind::Array(items) = list.kind else {
        reader.problem(key, &origin, format!("is no list of tables: {remedy}"));
        return Vec::new();
    };
    let mut tables = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let number = format!("{key}[{}]", index + 1);
        match item.kind {
            ValueKind::Table(fields) => tables.push((number, fields)),
            _ => reader.problem(&number, &origin, format!("is no table: {remedy}")),
        }
    }
    tables
}

/// Makes each field of a table a key below `prefix`, to be read like all others. `known` are the fields
/// that it may have, of which `secrets` are never read as values.
pub(super) fn lay_out(
    reader: &mut Reader,
    prefix: &str,
    origin: &str,
    fields: Map<String, Value>,
    known: &'static [&'static str],
    secrets: &[&str],
) {
    for (field, value) in fields.into_iter().collect::<BTreeMap<_, _>>() {
        let key = format!("{prefix}.{field}");
        if secrets.contains(&field.as_str()) {
            match value.kind {
                ValueKind::String(text) => {
                    let secret = Secret { text: text.into(), origin: origin.into() };
                    reader.add_secret(key, secret);
                }
                _ => reader.problem(&key, origin, "is no text: put it in quotes".into()),
            }
        } else if known.contains(&field.as_str()) {
            reader.add(key, value);
        } else {
            let meant = keys::closest(&field, known.iter());
            reader.problem(&key, origin, keys::unknown(meant));
        }
    }
}
