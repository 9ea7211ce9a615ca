//! The messages that only the stand-ins need: a whole task, and the lines of a log.

use std::collections::BTreeMap;

use prost::Message;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::calls::Fetched;

const WORKFLOW: &str =
    "on: push\njobs:\n  greet:\n    runs-on: host\n    steps:\n      - run: echo hello\n";

/// FetchTask's answer, with the task already encoded.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FetchTaskResponse {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(super) task: Option<Vec<u8>>,
    #[prost(int64, tag = "2")]
    pub(super) tasks_version: i64,
}

/// A task as Gitea hands it out.
#[derive(Clone, PartialEq, prost::Message)]
struct Task {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(bytes = "vec", optional, tag = "2")]
    workflow_payload: Option<Vec<u8>>,
    #[prost(message, optional, tag = "3")]
    context: Option<Struct>,
    #[prost(btree_map = "string, string", tag = "4")]
    secrets: BTreeMap<String, String>,
}

/// protobuf's well-known Struct, with the kinds of values that a task's context has.
#[derive(Clone, PartialEq, prost::Message)]
struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, StructValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StructValue {
    #[prost(oneof = "Kind", tags = "2, 3, 4, 5")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
    #[prost(message, tag = "5")]
    Struct(Struct),
}

/// A runner sends lines of a task's log; this form has a JSON codec.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::sandbox) struct UpdateLogRequest {
    #[prost(int64, tag = "1")]
    #[serde(deserialize_with = "int64")]
    pub(in crate::sandbox) task_id: i64,
    #[prost(int64, tag = "2")]
    #[serde(deserialize_with = "int64")]
    pub(in crate::sandbox) index: i64,
    #[prost(message, repeated, tag = "3")]
    pub(in crate::sandbox) rows: Vec<LogRow>,
    #[prost(bool, tag = "4")]
    pub(in crate::sandbox) no_more: bool,
}

/// One line; its time is not kept.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::sandbox) struct LogRow {
    #[prost(string, tag = "2")]
    pub(in crate::sandbox) content: String,
}

/// How many lines Gitea has.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::sandbox) struct UpdateLogResponse {
    #[prost(int64, tag = "1")]
    #[serde(deserialize_with = "int64", serialize_with = "crate::sandbox::codec::text")]
    pub(in crate::sandbox) ack_index: i64,
}

impl Fetched {
    /// The task in protobuf's binary form; `root` is the address that its links begin with.
    pub(super) fn proto(&self, root: &str) -> Vec<u8> {
        match &self.wire {
            Some(rest) => {
                let mut bytes = Task { id: self.id, ..Task::default() }.encode_to_vec();
                bytes.extend_from_slice(rest);
                bytes
            }
            None => self.small(root).encode_to_vec(),
        }
    }

    /// The task in the JSON codec, without its workflow.
    pub(super) fn json(&self, root: &str) -> Value {
        let task = match &self.wire {
            Some(rest) => Task::decode(rest.as_slice()).unwrap_or_default(),
            None => self.small(root),
        };
        json!({
            "id": self.id.to_string(),
            "context": task.context.map(|context| context.json()),
            "secrets": task.secrets,
        })
    }

    fn small(&self, root: &str) -> Task {
        let (owner, name) = &self.repository;
        let token = format!("{:040x}", self.id);
        let repository = context(&[
            ("full_name", text(&format!("{owner}/{name}"))),
            ("html_url", text(&format!("{root}{owner}/{name}"))),
            ("clone_url", text(&format!("{root}{owner}/{name}.git"))),
            ("default_branch", text("main")),
            ("description", text("A repository of the stand-in Gitea. ".repeat(20).trim())),
        ]);
        let event = context(&[("ref", text("refs/heads/main")), ("repository", repository)]);
        let fields = [
            ("actor", text("root1")),
            ("api_url", text(&format!("{root}api/v1"))),
            ("event", event),
            ("event_name", text("push")),
            ("gitea_runtime_token", text(&format!("runtime-{token}"))),
            ("job", text("greet")),
            ("ref", text("refs/heads/main")),
            ("repository", text(&format!("{owner}/{name}"))),
            ("run_id", text(&self.id.to_string())),
            ("server_url", text(root)),
            ("sha", text(&token)),
            ("token", text(&token)),
            ("workflow", text("greet.yml")),
        ];
        Task {
            id: self.id,
            workflow_payload: Some(WORKFLOW.into()),
            context: Some(structure(&fields)),
            secrets: ["GITEA_TOKEN", "GITHUB_TOKEN"]
                .map(|name| (name.to_owned(), token.clone()))
                .into(),
        }
    }
}

impl Struct {
    fn json(self) -> Value {
        let fields = self.fields.into_iter().map(|(name, value)| {
            let value = match value.kind {
                Some(Kind::Number(number)) => json!(number),
                Some(Kind::Text(text)) => json!(text),
                Some(Kind::Bool(flag)) => json!(flag),
                Some(Kind::Struct(inner)) => inner.json(),
                None => Value::Null,
            };
            (name, value)
        });
        Value::Object(fields.collect())
    }
}

fn structure(fields: &[(&str, StructValue)]) -> Struct {
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    Struct { fields: fields.collect() }
}

fn context(fields: &[(&str, StructValue)]) -> StructValue {
    StructValue { kind: Some(Kind::Struct(structure(fields))) }
}

fn text(value: &str) -> StructValue {
    StructValue { kind: Some(Kind::Text(value.to_owned())) }
}

/// protobuf's JSON reads an `int64` from a string or a number.
fn int64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => text.parse().map_err(serde::de::Error::custom),
        value => value.as_i64().ok_or_else(|| serde::de::Error::custom("not an int64")),
    }
}
