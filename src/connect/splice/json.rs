//! The JSON side: serde tells where a value lies in the text, and only there the text is changed.

use std::ops::Range;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::connect::codec::{malformed_json, object_from_json};
use crate::connect::error::{Code, ConnectError};

pub(super) fn register_request(
    body: &[u8],
    token: &str,
    label: &str,
) -> Result<Vec<u8>, ConnectError> {
    let text = utf8(body)?;
    let request: Request<'_> = object_from_json(body)?;
    let (token, label) = (json_string(token), json_string(label));
    let mut edits = Vec::new();
    let mut added = Vec::new();

    match request.token {
        Some(value) => edits.push((span(text, value), token)),
        None => added.push(format!("\"token\":{token}")),
    }
    match request.labels {
        Some(value) if value.get() == "null" => {
            edits.push((span(text, value), format!("[{label}]")))
        }
        Some(value) => {
            let edit = match elements(value)?.last() {
                Some(last) => (end(text, last), format!(",{label}")),
                None => (span(text, value).start + 1, label),
            };
            edits.push((edit.0..edit.0, edit.1));
        }
        None => added.push(format!("\"labels\":[{label}]")),
    }
    if !added.is_empty() {
        let (before, _) = text.rsplit_once('}').ok_or_else(not_an_object)?;
        let is_empty = before.trim_end().ends_with('{');
        let comma = if is_empty { "" } else { "," };
        edits.push((before.len()..before.len(), format!("{comma}{}", added.join(","))));
    }
    edits.sort_by_key(|(range, _)| range.start);
    Ok(apply(text, &edits))
}

pub(super) fn without_label(body: &[u8], label: &str) -> Result<Vec<u8>, ConnectError> {
    let text = utf8(body)?;
    let response: Response<'_> = object_from_json(body)?;
    let Some(runner) = response.runner.filter(|runner| runner.get() != "null") else {
        return Ok(body.to_vec());
    };
    let runner: Runner<'_> = object_from_json(runner.get().as_bytes())?;
    let Some(labels) = runner.labels.filter(|labels| labels.get() != "null") else {
        return Ok(body.to_vec());
    };
    let labels = elements(labels)?;
    let mut edits = Vec::new();
    let mut kept_before = false;
    for (index, element) in labels.iter().enumerate() {
        let name: String =
            serde_json::from_str(element.get()).map_err(|error| malformed_json(&error))?;
        if name != label {
            kept_before = true;
            continue;
        }
        // One comma goes along: that before the label, unless no label is left before it.
        let range = match labels.get(index + 1) {
            _ if kept_before => end(text, labels[index - 1])..end(text, element),
            Some(next) => span(text, element).start..span(text, next).start,
            None => span(text, element),
        };
        edits.push((range, String::new()));
    }
    Ok(apply(text, &edits))
}

/// The members touched. A member that is there twice is refused by the derived reader.
#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow, default, deserialize_with = "raw")]
    token: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "raw")]
    labels: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow, default, deserialize_with = "raw")]
    runner: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Runner<'a> {
    #[serde(borrow, default, deserialize_with = "raw")]
    labels: Option<&'a RawValue>,
}

/// Keeps a `null` as a value, which a plain `Option` takes for absent.
fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn elements(array: &RawValue) -> Result<Vec<&RawValue>, ConnectError> {
    serde_json::from_str(array.get()).map_err(|error| malformed_json(&error))
}

/// Where `part`, borrowed from `text`, lies in it.
fn span(text: &str, part: &RawValue) -> Range<usize> {
    let start = part.get().as_ptr().addr() - text.as_ptr().addr();
    start..start + part.get().len()
}

fn end(text: &str, part: &RawValue) -> usize {
    span(text, part).end
}

/// Replaces ranges of `text`, which are in order and do not overlap.
fn apply(text: &str, edits: &[(Range<usize>, String)]) -> Vec<u8> {
    let mut out =
        Vec::with_capacity(text.len() + edits.iter().map(|(_, new)| new.len()).sum::<usize>());
    let mut position = 0;
    for (range, new) in edits {
        out.extend_from_slice(&text.as_bytes()[position..range.start]);
        out.extend_from_slice(new.as_bytes());
        position = range.end;
    }
    out.extend_from_slice(&text.as_bytes()[position..]);
    out
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn utf8(body: &[u8]) -> Result<&str, ConnectError> {
    str::from_utf8(body)
        .map_err(|_| ConnectError::new(Code::InvalidArgument, "the JSON body is not UTF-8"))
}

fn not_an_object() -> ConnectError {
    ConnectError::new(Code::InvalidArgument, "the body is not a JSON object")
}
