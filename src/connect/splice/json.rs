//! The JSON side: serde tells where a value lies in the text, and only there the text is changed.

use std::ops::Range;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::connect::codec::{malformed_json, object_from_json, utf8};
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

pub(super) fn tasks_version(body: &[u8], version: i64) -> Result<Vec<u8>, ConnectError> {
    let text = utf8(body)?;
    let response: Fetched<'_> = object_from_json(body)?;
    let Some(old) = response.tasks_version else { return Ok(body.to_vec()) };
    // Readers take a number too, and one who wrote it may take nothing else.
    let new = match old.get().starts_with('"') {
        true => format!("\"{version}\""),
        false => version.to_string(),
    };
    Ok(apply(text, &[(span(text, old), new)]))
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

#[derive(Deserialize)]
struct Fetched<'a> {
    #[serde(borrow, default, deserialize_with = "raw", rename = "tasksVersion")]
    tasks_version: Option<&'a RawValue>,
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

fn not_an_object() -> ConnectError {
    ConnectError::new(Code::InvalidArgument, "the body is not a JSON object")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::messages::RegisterRequest;
    use crate::connect::recorded::exchange;
    use crate::connect::{Codec, decode};

    fn splice(body: &str) -> Result<String, ConnectError> {
        register_request(body.as_bytes(), "t", "l").map(|out| String::from_utf8(out).unwrap())
    }

    fn strip(body: &str) -> Result<String, ConnectError> {
        without_label(body.as_bytes(), "l").map(|out| String::from_utf8(out).unwrap())
    }

    #[test]
    fn only_token_and_labels_are_touched() {
        let body = "\t{ \"later\" : {\"token\":1.0e5} ,\r\n\"token\" : \"old\", \"labels\":[ \"a\" ] , \"x\":\"}\" } \n";
        let expected = "\t{ \"later\" : {\"token\":1.0e5} ,\r\n\"token\" : \"t\", \"labels\":[ \"a\",\"l\" ] , \"x\":\"}\" } \n";
        assert_eq!(splice(body).unwrap(), expected);
    }

    #[test]
    fn labels_may_come_before_the_token() {
        assert_eq!(
            splice(r#"{"labels":["a"],"token":"x"}"#).unwrap(),
            r#"{"labels":["a","l"],"token":"t"}"#
        );
    }

    #[test]
    fn absent_members_are_added() {
        assert_eq!(splice("{ }").unwrap(), r#"{ "token":"t","labels":["l"]}"#);
        assert_eq!(splice(r#"{"a":{}}"#).unwrap(), r#"{"a":{},"token":"t","labels":["l"]}"#);
        assert_eq!(splice(r#"{"labels":[]}"#).unwrap(), r#"{"labels":["l"],"token":"t"}"#);
        assert_eq!(splice(r#"{"token":""}"#).unwrap(), r#"{"token":"t","labels":["l"]}"#);
    }

    #[test]
    fn null_and_empty_labels_become_ours() {
        assert_eq!(
            splice(r#"{"token":null,"labels":null}"#).unwrap(),
            r#"{"token":"t","labels":["l"]}"#
        );
        assert_eq!(
            splice(r#"{"token":"x","labels":[ ]}"#).unwrap(),
            r#"{"token":"t","labels":["l" ]}"#
        );
    }

    #[test]
    fn keys_may_be_escaped() {
        assert_eq!(
            splice(r#"{"\u0074oken":"x","label\u0073":[]}"#).unwrap(),
            r#"{"\u0074oken":"t","label\u0073":["l"]}"#
        );
    }

    #[test]
    fn a_key_written_in_two_ways_is_a_duplicate() {
        assert!(splice(r#"{"\u0074oken":"x","token":"y"}"#).is_err());
    }

    #[test]
    fn values_are_escaped() {
        let out = register_request(b"{}", "a\"b", "\u{1}").unwrap();
        assert_eq!(out, br#"{"token":"a\"b","labels":["\u0001"]}"#);
    }

    #[test]
    fn ambiguous_and_malformed_bodies_are_refused() {
        let bad = [
            "",
            "null",
            "[]",
            r#"["t",["a"]]"#,
            r#"{"token":"a","token":"b"}"#,
            r#"{"labels":[],"labels":[]}"#,
            r#"{"labels":"a"}"#,
            r#"{"labels":{}}"#,
            r#"{"token":"a"} {}"#,
            r#"{"token":"a""#,
        ];
        for body in bad {
            assert_eq!(splice(body).unwrap_err().code, Code::InvalidArgument, "{body}");
        }
        assert!(register_request(b"{\"name\":\"\xff\"}", "t", "l").is_err());
    }

    #[test]
    fn errors_quote_nothing_of_the_body() {
        for body in [r#"{"labels":"hunter2"}"#, r#"{"token":"hunter2"#, r#"hunter2"#] {
            assert!(!splice(body).unwrap_err().message.contains("hunter2"));
        }
        let error = strip(r#"{"runner":{"labels":"hunter2"}}"#).unwrap_err();
        assert!(!error.message.contains("hunter2"));
    }

    #[test]
    fn a_recorded_register_is_spliced() {
        let body = exchange("register-json").request.body();
        let mut expected: RegisterRequest = decode(Codec::Json, &body).unwrap();
        expected.token = "t".to_owned();
        expected.labels.push("l".to_owned());
        let out = register_request(&body, "t", "l").unwrap();
        assert_eq!(decode::<RegisterRequest>(Codec::Json, &out), Ok(expected));
    }

    #[test]
    fn a_recorded_answer_is_left_as_it_is() {
        let body = exchange("register-json").response.body();
        assert_eq!(without_label(&body, "l"), Ok(body));
    }

    #[test]
    fn labels_go_with_one_comma_each() {
        let cases = [
            (r#"["l"]"#, "[]"),
            (r#"[ "l" , "l" ]"#, "[  ]"),
            (r#"["l", "a"]"#, r#"["a"]"#),
            (r#"["a", "l"]"#, r#"["a"]"#),
            (r#"["l","l","a","l","b","l","l"]"#, r#"["a","b"]"#),
            (r#"["a","\u006c","b"]"#, r#"["a","b"]"#),
            (r#"["la","al"]"#, r#"["la","al"]"#),
        ];
        for (labels, expected) in cases {
            let body =
                |labels| format!(r#"{{"later":["l"],"runner":{{"labels":{labels},"id":"1"}} }}"#);
            assert_eq!(strip(&body(labels)).unwrap(), body(expected));
        }
    }

    #[test]
    fn answers_without_labels_are_left_as_they_are() {
        for body in [
            "{}",
            r#"{"runner":null}"#,
            r#"{"runner":{}}"#,
            r#"{"runner":{"labels":null}}"#,
            r#"{"labels":["l"]}"#,
        ] {
            assert_eq!(strip(body).unwrap(), body);
        }
    }

    #[test]
    fn the_tasks_version_is_replaced_as_it_was_written() {
        let cases = [
            (r#"{"tasksVersion":"7"}"#, r#"{"tasksVersion":"3"}"#),
            (r#"{"tasksVersion":7}"#, r#"{"tasksVersion":3}"#),
            (
                r#" { "later":{"tasksVersion":"1"}, "tasksVersion" : "7" , "x":[1.0] } "#,
                r#" { "later":{"tasksVersion":"1"}, "tasksVersion" : "3" , "x":[1.0] } "#,
            ),
            ("{}", "{}"),
        ];
        for (before, after) in cases {
            let out = tasks_version(before.as_bytes(), 3).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), after);
        }
    }

    #[test]
    fn malformed_answers_have_no_version() {
        for body in
            ["", "[]", "7", r#"{"tasksVersion":"1","tasksVersion":"2"}"#, r#"{"tasksVersion":"1""#]
        {
            let error = tasks_version(body.as_bytes(), 3).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{body}");
        }
    }

    #[test]
    fn malformed_answers_are_refused() {
        for body in [
            "[]",
            r#"{"runner":[]}"#,
            r#"{"runner":{"labels":"l"}}"#,
            r#"{"runner":{"labels":["l",1]}}"#,
            r#"{"runner":{},"runner":{}}"#,
        ] {
            assert_eq!(strip(body).unwrap_err().code, Code::InvalidArgument, "{body}");
        }
    }
}
