//! What can be put into the stand-in, and what can be seen of it.

use std::time::Duration;

use secrecy::SecretString;

use crate::config::Scope;
use crate::connect::messages::TaskResult;

/// Gitea's number of a task.
pub type TaskId = i64;

/// A runner that is put there without a Register.
#[derive(Clone, Debug)]
pub struct RunnerSeed {
    /// `None`: the next free one.
    pub id: Option<i64>,
    /// `None`: random.
    pub uuid: Option<String>,
    /// `None`: random.
    pub token: Option<SecretString>,
    /// The display name.
    pub name: String,
    /// The runner's own version.
    pub version: String,
    /// Bare label names.
    pub labels: Vec<String>,
    /// Removed after its one task.
    pub ephemeral: bool,
    /// Where it serves.
    pub scope: Scope,
    /// It gets no task.
    pub disabled: bool,
    /// How long ago its last call was; `None`: it never called.
    pub called_ago: Option<Duration>,
    /// How long ago its last report on a task was; `None`: it never reported.
    pub reported_ago: Option<Duration>,
}

impl Default for RunnerSeed {
    fn default() -> Self {
        Self {
            id: None,
            uuid: None,
            token: None,
            name: "runner".into(),
            version: "v0.3.0".into(),
            labels: vec!["host".into()],
            ephemeral: false,
            scope: Scope::Instance,
            disabled: false,
            called_ago: None,
            reported_ago: None,
        }
    }
}

/// A runner as the stand-in knows it.
#[derive(Clone, Debug)]
pub struct RunnerView {
    /// Its number.
    pub id: i64,
    /// Header `X-Runner-Uuid`.
    pub uuid: String,
    /// Header `X-Runner-Token`.
    pub token: SecretString,
    /// The display name.
    pub name: String,
    /// The runner's own version.
    pub version: String,
    /// Bare label names: those of its last Declare, before that those of its Register.
    pub labels: Vec<String>,
    /// Removed after its one task.
    pub ephemeral: bool,
    /// Where it serves.
    pub scope: Scope,
    /// It gets no task.
    pub disabled: bool,
    /// It called within the last minute.
    pub online: bool,
    /// It is online and reported on a task within the last ten seconds.
    pub busy: bool,
}

/// A task that is put into the queue.
#[derive(Clone, Debug)]
pub struct TaskSeed {
    /// `None`: the next free one.
    pub id: Option<TaskId>,
    /// The label names a runner must have, all of them.
    pub labels: Vec<String>,
    /// Owner and name of the repository.
    pub repository: (String, String),
    /// The fields of the `Task` message that follow its id, encoded; `None`: a small workflow with a
    /// context that makes the answer longer than 1 KiB.
    pub wire: Option<Vec<u8>>,
}

impl Default for TaskSeed {
    fn default() -> Self {
        Self {
            id: None,
            labels: vec!["host".into()],
            repository: ("acme".into(), "app".into()),
            wire: None,
        }
    }
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// No runner has it.
    Waiting,
    /// A runner fetched it.
    Running,
    /// Its runner reported a result.
    Ended(TaskResult),
}

/// A task as the stand-in knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// Its number.
    pub id: TaskId,
    /// Where it stands.
    pub state: TaskState,
    /// The runner that fetched it.
    pub runner_id: Option<i64>,
    /// The lines of its log.
    pub log: Vec<String>,
    /// Its runner said that no line follows.
    pub log_complete: bool,
}
