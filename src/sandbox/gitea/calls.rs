//! The runners' calls, as rules on the state.

use secrecy::{ExposeSecret, SecretString};

use super::state::{Moment, Runner, State, Task, owner_scope};
use super::task::UpdateLogRequest;
use super::view::{RunnerSeed, RunnerView, TaskId, TaskState};
use crate::config::Scope;
use crate::connect::messages as wire;

/// A call of a runner that is refused. How that looks on the wire is decided where it is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The credentials are not those of a runner.
    Unregistered,
    /// An error with this text.
    Unknown(String),
}

/// A fetched task: its number, and its other fields encoded.
pub(super) struct Fetched {
    pub(super) id: TaskId,
    pub(super) wire: Option<Vec<u8>>,
    pub(super) repository: (String, String),
}

impl State {
    pub(super) fn register(
        &mut self,
        now: Moment,
        request: wire::RegisterRequest,
    ) -> Result<wire::Runner, Refusal> {
        if request.token.is_empty() || request.name.is_empty() {
            return Err(Refusal::Unknown("missing runner token, name".into()));
        }
        let Some(known) =
            self.registration_tokens.iter().find(|known| known.token == request.token)
        else {
            return Err(Refusal::Unknown("runner registration token not found".into()));
        };
        if !known.active {
            return Err(Refusal::Unknown(
                "runner registration token has been invalidated, please use the latest one".into(),
            ));
        }
        let scope = known.scope.clone();
        let (id, uuid, token) = self.planned_runners.pop_front().map_or_else(
            || (None, None, None),
            |(id, uuid, token)| (Some(id), Some(uuid), Some(SecretString::from(token))),
        );
        let view = self.add_runner(
            now,
            RunnerSeed {
                id,
                uuid,
                token,
                name: request.name.chars().take(255).collect(),
                version: request.version,
                labels: request.labels,
                ephemeral: request.ephemeral,
                scope,
                disabled: false,
                called_ago: None,
                reported_ago: None,
            },
        );
        let token = view.token.expose_secret().to_owned();
        Ok(wire::Runner { token, ..message(&view) })
    }

    pub(super) fn declare(
        &mut self,
        now: Moment,
        credentials: (&str, &str),
        request: wire::DeclareRequest,
    ) -> Result<wire::Runner, Refusal> {
        let runner = self.authenticate(now, credentials)?;
        runner.version = request.version;
        runner.labels = request.labels;
        // Declare's answer does not tell whether the runner is ephemeral.
        Ok(wire::Runner { ephemeral: false, ..message(&runner.view(now)) })
    }

    /// The task, if one waits and the versions differ, and the latest version in any case. Who loses to
    /// one of the tasks that were handed out after the first `overlaps` gets none.
    pub(super) fn fetch_task(
        &mut self,
        now: Moment,
        credentials: (&str, &str),
        version: i64,
        overlaps: Option<usize>,
    ) -> Result<(Option<Fetched>, i64), Refusal> {
        let runner = self.authenticate(now, credentials)?;
        let (id, scope, ephemeral) = (runner.id, runner.scope.clone(), runner.ephemeral);
        let (labels, disabled) = (runner.labels.clone(), runner.disabled);
        let latest = *self.versions.entry(scope.clone()).or_insert(1);
        let spent = ephemeral && self.tasks.values().any(|task| task.runner_id == Some(id));
        if version == latest || spent || disabled {
            return Ok((None, latest));
        }
        let suits = |task: &Task| {
            serves(&scope, &task.repository)
                && task.labels.iter().all(|label| labels.contains(label))
        };
        let mut taken = overlaps.and_then(|first| self.picked.get(first..)).unwrap_or(&[]).iter();
        if taken.any(|id| self.tasks.get(id).is_some_and(suits)) {
            return Ok((None, latest));
        }
        let mut tasks = self.tasks.values_mut();
        let waiting = tasks.find(|task| task.state == TaskState::Waiting && suits(task));
        let fetched = waiting.map(|task| {
            task.state = TaskState::Running;
            task.runner_id = Some(id);
            Fetched { id: task.id, wire: task.wire.clone(), repository: task.repository.clone() }
        });
        self.picked.extend(fetched.as_ref().map(|task| task.id));
        Ok((fetched, latest))
    }

    pub(super) fn update_task(
        &mut self,
        now: Moment,
        credentials: (&str, &str),
        request: &wire::UpdateTaskRequest,
    ) -> Result<wire::TaskState, Refusal> {
        let runner = self.authenticate(now, credentials)?;
        runner.reported = Some(now);
        let (runner_id, ephemeral) = (runner.id, runner.ephemeral);
        let reported = request.state.clone().unwrap_or_default();
        let task = self
            .tasks
            .get_mut(&reported.id)
            .ok_or_else(|| internal("update task: resource does not exist"))?;
        if task.runner_id != Some(runner_id) {
            return Err(internal("update task: invalid runner for task"));
        }
        let result = reported.result();
        if task.state == TaskState::Running && result != wire::TaskResult::Unspecified {
            task.state = TaskState::Ended(result);
        }
        let result = match task.state {
            TaskState::Ended(result) => result,
            TaskState::Waiting | TaskState::Running => wire::TaskResult::Unspecified,
        };
        if ephemeral && result != wire::TaskResult::Unspecified {
            self.runners.remove(&runner_id);
        }
        Ok(wire::TaskState {
            id: reported.id,
            result: result.into(),
            started_at: None,
            stopped_at: None,
        })
    }

    /// Takes the lines that are new; answers how many it has.
    pub(super) fn update_log(
        &mut self,
        now: Moment,
        credentials: (&str, &str),
        request: UpdateLogRequest,
    ) -> Result<i64, Refusal> {
        let runner = self.authenticate(now, credentials)?;
        runner.reported = Some(now);
        let runner_id = runner.id;
        let task = self
            .tasks
            .get_mut(&request.task_id)
            .ok_or_else(|| internal("get task: resource does not exist"))?;
        if task.runner_id != Some(runner_id) {
            return Err(internal("invalid runner for task"));
        }
        let kept = task.log.len();
        if let Some(known) =
            usize::try_from(request.index).ok().and_then(|first| kept.checked_sub(first))
        {
            task.log.extend(request.rows.into_iter().skip(known).map(|row| row.content));
            task.log_complete |= request.no_more;
        }
        Ok(task.log.len() as i64)
    }

    fn authenticate(
        &mut self,
        now: Moment,
        (uuid, token): (&str, &str),
    ) -> Result<&mut Runner, Refusal> {
        let runner = self
            .runners
            .values_mut()
            .find(|runner| runner.uuid == uuid && runner.token == token)
            .ok_or(Refusal::Unregistered)?;
        runner.called = Some(now);
        Ok(runner)
    }
}

fn serves(scope: &Scope, (owner, name): &(String, String)) -> bool {
    match scope {
        Scope::Instance => true,
        Scope::Org(_) | Scope::User => *scope == owner_scope(owner),
        Scope::Repo { owner: o, name: n } => o == owner && n == name,
    }
}

fn message(view: &RunnerView) -> wire::Runner {
    wire::Runner {
        id: view.id,
        uuid: view.uuid.clone(),
        token: String::new(),
        name: view.name.clone(),
        version: view.version.clone(),
        labels: view.labels.clone(),
        ephemeral: view.ephemeral,
    }
}

fn internal(text: &str) -> Refusal {
    Refusal::Unknown(format!("rpc error: code = Internal desc = {text}"))
}
