//! The few messages of Gitea's actions protocol that the broker reads or authors.
//!
//! Field numbers are those of Gitea's `actions-proto` (`ping.v1`, `runner.v1`), seen on the wire in the
//! recorded exchanges under `tests/data/wire`. Only what is used here is named; messages that are passed
//! on never go through these types, so unknown fields are not lost.
//!
//! The JSON form is protobuf's: camelCase names, `int64` as a string, absent fields omitted. In requests
//! a `null` is read as an absent field, as Gitea reads it.

mod json;

use std::fmt;

use serde::{Deserialize, Serialize};

use self::json::{int64, is_false, is_running, is_zero, object, or_default, task_result};

/// Asks whether the service answers; `data` comes back in a greeting.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PingRequest {
    /// Any text; a runner sends its name.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub data: String,
}

/// The answer to a [`PingRequest`].
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PingResponse {
    /// `Hello, <data>!`
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub data: String,
}

/// How a runner joins: with a registration token (Gitea's, or an enrollment token of the broker).
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[prost(skip_debug)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterRequest {
    /// The runner's display name; not unique.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The secret presented.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// The runner's own version.
    #[prost(string, tag = "5")]
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Bare label names (`ubuntu-latest`).
    #[prost(string, repeated, tag = "6")]
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The runner takes one task and is then removed by Gitea.
    #[prost(bool, tag = "7")]
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub ephemeral: bool,
}

/// The answer to a [`RegisterRequest`]: the one place where the runner's token travels.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterResponse {
    /// The new runner with its credentials.
    #[prost(message, optional, tag = "1")]
    #[serde(deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub runner: Option<Runner>,
}

/// A runner as Gitea tells of it.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[prost(skip_debug)]
#[serde(rename_all = "camelCase", default)]
pub struct Runner {
    /// Gitea's id of the row.
    #[prost(int64, tag = "1")]
    #[serde(with = "int64", skip_serializing_if = "is_zero")]
    pub id: i64,
    /// The public half of the credentials (header `X-Runner-Uuid`).
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uuid: String,
    /// The secret half (header `X-Runner-Token`); only Register's answer fills it.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// The display name, cut to 255 characters by Gitea.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The runner's own version.
    #[prost(string, tag = "8")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Bare label names.
    #[prost(string, repeated, tag = "9")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Removed by Gitea after its one task.
    #[prost(bool, tag = "10")]
    #[serde(skip_serializing_if = "is_false")]
    pub ephemeral: bool,
}

/// A runner tells its version and labels; Gitea replaces what it had.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeclareRequest {
    /// The runner's own version.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Bare label names, all of them.
    #[prost(string, repeated, tag = "2")]
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

/// The answer to a [`DeclareRequest`]; its runner carries no token.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeclareResponse {
    /// The runner whose credentials were shown.
    #[prost(message, optional, tag = "1")]
    #[serde(deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub runner: Option<Runner>,
}

/// A runner asks to be deleted, as Gitea's proposal words it. Gitea has no such call; the broker has.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[prost(skip_debug)]
#[serde(rename_all = "camelCase", default)]
pub struct DeregisterRequest {
    /// Told for the reader only: the record decides which runner is meant.
    #[prost(int64, tag = "1")]
    #[serde(with = "int64", skip_serializing_if = "is_zero")]
    pub id: i64,
    /// Which runner.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub uuid: String,
    /// The proof.
    #[prost(string, tag = "3")]
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub token: String,
}

/// The answer to a [`DeregisterRequest`].
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeregisterResponse {
    /// The runner that is gone, without its token.
    #[prost(message, optional, tag = "1")]
    #[serde(deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub runner: Option<Runner>,
}

/// A poll for work.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FetchTaskRequest {
    /// The highest version seen in this scope; Gitea looks for a task only where it differs from its own.
    #[prost(int64, tag = "1")]
    #[serde(with = "int64", skip_serializing_if = "is_zero")]
    pub tasks_version: i64,
}

/// What a poll brings.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FetchTaskResponse {
    /// A task, where there was one.
    #[prost(message, optional, tag = "1")]
    #[serde(deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// The latest version of this scope.
    #[prost(int64, tag = "2")]
    #[serde(with = "int64", skip_serializing_if = "is_zero")]
    pub tasks_version: i64,
}

/// A job handed to a runner; of it the broker needs the id alone.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Task {
    /// Gitea's id of the task.
    #[prost(int64, tag = "1")]
    #[serde(with = "int64", skip_serializing_if = "is_zero")]
    pub id: i64,
    /// The workflow in YAML (base64 in the JSON codec).
    #[prost(bytes = "vec", optional, tag = "2")]
    #[serde(skip)]
    pub workflow_payload: Option<Vec<u8>>,
}

/// A runner reports on its task.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateTaskRequest {
    /// Where the task stands.
    #[prost(message, optional, tag = "1")]
    #[serde(deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub state: Option<TaskState>,
}

/// The answer to an [`UpdateTaskRequest`]: Gitea's view of the task.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateTaskResponse {
    /// Its id and result.
    #[prost(message, optional, tag = "1")]
    #[serde(deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub state: Option<TaskState>,
}

/// Where a task stands.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskState {
    /// The task's id.
    #[prost(int64, tag = "1")]
    #[serde(with = "int64", skip_serializing_if = "is_zero")]
    pub id: i64,
    /// 0 while it runs.
    #[prost(enumeration = "TaskResult", tag = "2")]
    #[serde(with = "task_result", skip_serializing_if = "is_running")]
    pub result: i32,
    /// When it began.
    #[prost(message, optional, tag = "3")]
    #[serde(skip)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[prost(message, optional, tag = "4")]
    #[serde(skip)]
    pub stopped_at: Option<Timestamp>,
}

/// protobuf's well-known timestamp.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Timestamp {
    /// Since 1970, UTC.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// A runner sends lines of a task's log.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UpdateLogRequest {
    /// The task's id.
    #[prost(int64, tag = "1")]
    pub task_id: i64,
    /// The number of the first line sent.
    #[prost(int64, tag = "2")]
    pub index: i64,
    /// The lines.
    #[prost(message, repeated, tag = "3")]
    pub rows: Vec<LogRow>,
    /// No line follows.
    #[prost(bool, tag = "4")]
    pub no_more: bool,
}

/// One line of a log.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LogRow {
    /// When it was written.
    #[prost(message, optional, tag = "1")]
    pub time: Option<Timestamp>,
    /// The text.
    #[prost(string, tag = "2")]
    pub content: String,
}

/// The answer to an [`UpdateLogRequest`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UpdateLogResponse {
    /// How many lines Gitea has.
    #[prost(int64, tag = "1")]
    pub ack_index: i64,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum TaskResult {
    /// It runs.
    Unspecified = 0,
    /// It succeeded.
    Success = 1,
    /// It failed.
    Failure = 2,
    /// It was cancelled.
    Cancelled = 3,
    /// It was skipped.
    Skipped = 4,
}

// The three messages that hold a secret show everything but it.
impl fmt::Debug for RegisterRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterRequest")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("labels", &self.labels)
            .field("ephemeral", &self.ephemeral)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner")
            .field("id", &self.id)
            .field("uuid", &self.uuid)
            .field("name", &self.name)
            .field("version", &self.version)
            .field("labels", &self.labels)
            .field("ephemeral", &self.ephemeral)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DeregisterRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeregisterRequest")
            .field("id", &self.id)
            .field("uuid", &self.uuid)
            .finish_non_exhaustive()
    }
}
