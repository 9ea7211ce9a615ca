//! What the stand-in remembers, and its rules. No I/O, and the time is handed in.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::task;
use crate::config::Scope;
use crate::connect::messages as wire;

/// The user that [`Scope::User`] means: the site admin.
pub const USER: &str = "root1";

/// Gitea shows a runner offline that long after its last call.
const OFFLINE_AFTER: Duration = Duration::from_secs(60);
/// Gitea shows a runner idle that long after its last report on a task.
const IDLE_AFTER: Duration = Duration::from_secs(10);

/// Gitea's number of a task.
pub type TaskId = i64;

/// A point in time, counted from one that lies well before the stand-in's start.
pub(super) type Moment = Duration;

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
    Ended(wire::TaskResult),
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

/// A call of a runner that is refused. How that looks on the wire is decided where it is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The credentials are not those of a runner.
    Unregistered,
    /// An error with this text.
    Unknown(String),
}

/// A request for the REST interface that is refused, with the text of the answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// 401
    Unauthorized(String),
    /// 403
    Forbidden(String),
}

/// A fetched task: its number, and its other fields encoded.
pub(super) struct Fetched {
    pub(super) id: TaskId,
    pub(super) wire: Option<Vec<u8>>,
    pub(super) repository: (String, String),
}

#[derive(Default)]
pub(super) struct State {
    registration_tokens: Vec<RegistrationToken>,
    api_tokens: Vec<ApiToken>,
    runners: BTreeMap<i64, Runner>,
    tasks: BTreeMap<TaskId, Task>,
    versions: BTreeMap<Scope, i64>,
    last_runner_id: i64,
    last_task_id: TaskId,
    planned_runners: VecDeque<(i64, String, String)>,
    planned_registration_tokens: VecDeque<String>,
}

struct RegistrationToken {
    scope: Scope,
    token: String,
    active: bool,
}

struct ApiToken {
    token: String,
    user: String,
    scopes: Vec<String>,
}

struct Runner {
    id: i64,
    uuid: String,
    token: String,
    name: String,
    version: String,
    labels: Vec<String>,
    ephemeral: bool,
    scope: Scope,
    called: Option<Moment>,
    reported: Option<Moment>,
}

struct Task {
    id: TaskId,
    labels: Vec<String>,
    repository: (String, String),
    wire: Option<Vec<u8>>,
    state: TaskState,
    runner_id: Option<i64>,
    log: Vec<String>,
    log_complete: bool,
}

// Tokens.
impl State {
    /// The latest active registration token of a scope; a new one where none is active.
    pub(super) fn registration_token(&mut self, scope: &Scope) -> String {
        let latest = self
            .registration_tokens
            .iter()
            .rev()
            .find(|known| known.active && known.scope == *scope);
        if let Some(latest) = latest {
            return latest.token.clone();
        }
        let token = self.planned_registration_tokens.pop_front().unwrap_or_else(|| random_hex(20));
        self.add_registration_token(scope.clone(), token.clone());
        token
    }

    pub(super) fn add_registration_token(&mut self, scope: Scope, token: String) {
        self.registration_tokens.push(RegistrationToken { scope, token, active: true });
    }

    /// Invalidates what is active and makes a new one, as the button in Gitea's pages does.
    pub(super) fn reset_registration_token(&mut self, scope: &Scope) -> String {
        self.invalidate_registration_token(scope);
        self.registration_token(scope)
    }

    pub(super) fn invalidate_registration_token(&mut self, scope: &Scope) {
        for known in self.registration_tokens.iter_mut().filter(|known| known.scope == *scope) {
            known.active = false;
        }
    }

    pub(super) fn plan_registration_token(&mut self, token: String) {
        self.planned_registration_tokens.push_back(token);
    }

    pub(super) fn add_api_token(
        &mut self,
        token: Option<String>,
        user: &str,
        scopes: &[&str],
    ) -> String {
        let token = token.unwrap_or_else(|| random_hex(20));
        self.api_tokens.push(ApiToken {
            token: token.clone(),
            user: user.to_owned(),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        });
        token
    }

    pub(super) fn remove_api_token(&mut self, token: &str) {
        self.api_tokens.retain(|known| known.token != token);
    }

    /// Checks an API token against a category (`admin`, `organization`, …); answers its user.
    pub(super) fn authorize(
        &self,
        token: Option<&str>,
        category: &str,
        write: bool,
    ) -> Result<String, Denied> {
        let Some(token) = token else {
            return Err(Denied::Unauthorized("token is required".into()));
        };
        let Some(known) = self.api_tokens.iter().find(|known| known.token == token) else {
            return Err(Denied::Unauthorized("user does not exist [uid: 0, name: ]".into()));
        };
        let level = if write { "write" } else { "read" };
        let enough = known.scopes.iter().any(|scope| match scope.split_once(':') {
            Some((given, of)) => of == category && (given == "write" || given == level),
            None => scope == "all",
        });
        if !enough {
            let scopes = known.scopes.join(",");
            return Err(Denied::Forbidden(format!(
                "token does not have at least one of required scope(s), \
                 required=[{level}:{category}], token scope={scopes}"
            )));
        }
        if category == "admin" && known.user != USER {
            return Err(Denied::Forbidden("user should be the site admin".into()));
        }
        Ok(known.user.clone())
    }
}

// Runners, as an admin sees them.
impl State {
    pub(super) fn add_runner(&mut self, now: Moment, seed: RunnerSeed) -> RunnerView {
        let id = seed.id.unwrap_or(self.last_runner_id + 1);
        self.last_runner_id = self.last_runner_id.max(id);
        let runner = Runner {
            id,
            uuid: seed.uuid.unwrap_or_else(random_uuid),
            token: seed
                .token
                .map_or_else(|| random_hex(20), |token| token.expose_secret().to_owned()),
            name: seed.name,
            version: seed.version,
            labels: seed.labels,
            ephemeral: seed.ephemeral,
            scope: seed.scope,
            called: seed.called_ago.map(|ago| now.saturating_sub(ago)),
            reported: seed.reported_ago.map(|ago| now.saturating_sub(ago)),
        };
        let view = runner.view(now);
        self.runners.insert(id, runner);
        view
    }

    /// What the next Register is to answer.
    pub(super) fn plan_runner(&mut self, id: i64, uuid: String, token: String) {
        self.planned_runners.push_back((id, uuid, token));
    }

    /// The runners that a scope's pages show, in the order of Gitea's lists.
    pub(super) fn runners(&self, now: Moment, scope: &Scope) -> Vec<RunnerView> {
        let mut shown: Vec<&Runner> =
            self.runners.values().filter(|runner| shows(scope, &runner.scope)).collect();
        shown.sort_by_key(|runner| std::cmp::Reverse((runner.called, runner.id)));
        shown.into_iter().map(|runner| runner.view(now)).collect()
    }

    pub(super) fn runner(&self, now: Moment, scope: &Scope, id: i64) -> Option<RunnerView> {
        let runner = self.runners.get(&id).filter(|runner| shows(scope, &runner.scope))?;
        Some(runner.view(now))
    }

    /// Removes a runner; a task that it has in hand stays running for ever.
    pub(super) fn delete_runner(&mut self, scope: &Scope, id: i64) -> bool {
        let shown = self.runners.get(&id).is_some_and(|runner| shows(scope, &runner.scope));
        if shown {
            self.runners.remove(&id);
        }
        shown
    }
}

// Tasks, as an admin sees them.
impl State {
    pub(super) fn queue_task(&mut self, seed: TaskSeed) -> TaskId {
        let id = seed.id.unwrap_or(self.last_task_id + 1);
        self.last_task_id = self.last_task_id.max(id);
        let (owner, name) = seed.repository.clone();
        let repository = Scope::Repo { owner: owner.clone(), name };
        for scope in [Scope::Instance, owner_scope(&owner), repository] {
            *self.versions.entry(scope).or_default() += 1;
        }
        let task = Task {
            id,
            labels: seed.labels,
            repository: seed.repository,
            wire: seed.wire,
            state: TaskState::Waiting,
            runner_id: None,
            log: Vec::new(),
            log_complete: false,
        };
        self.tasks.insert(id, task);
        id
    }

    pub(super) fn task(&self, id: TaskId) -> Option<TaskView> {
        self.tasks.get(&id).map(Task::view)
    }

    pub(super) fn tasks(&self) -> Vec<TaskView> {
        self.tasks.values().map(Task::view).collect()
    }

    /// Ends a task as cancelled, as the button in Gitea's pages does; its runner learns it from the
    /// answer to its next report.
    pub(super) fn cancel_task(&mut self, id: TaskId) -> bool {
        match self.tasks.get_mut(&id) {
            Some(task) if !matches!(task.state, TaskState::Ended(_)) => {
                task.state = TaskState::Ended(wire::TaskResult::Cancelled);
                true
            }
            _ => false,
        }
    }

    pub(super) fn set_tasks_version(&mut self, scope: Scope, version: i64) {
        self.versions.insert(scope, version);
    }
}

// The runners' calls.
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

    /// The task, if one waits and the versions differ, and the latest version in any case.
    pub(super) fn fetch_task(
        &mut self,
        now: Moment,
        credentials: (&str, &str),
        version: i64,
    ) -> Result<(Option<Fetched>, i64), Refusal> {
        let runner = self.authenticate(now, credentials)?;
        let (id, scope, ephemeral) = (runner.id, runner.scope.clone(), runner.ephemeral);
        let labels = runner.labels.clone();
        let latest = *self.versions.entry(scope.clone()).or_insert(1);
        let spent = ephemeral && self.tasks.values().any(|task| task.runner_id == Some(id));
        if version == latest || spent {
            return Ok((None, latest));
        }
        let waiting = self.tasks.values_mut().find(|task| {
            task.state == TaskState::Waiting
                && serves(&scope, &task.repository)
                && task.labels.iter().all(|label| labels.contains(label))
        });
        let fetched = waiting.map(|task| {
            task.state = TaskState::Running;
            task.runner_id = Some(id);
            Fetched { id: task.id, wire: task.wire.clone(), repository: task.repository.clone() }
        });
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
        request: task::UpdateLogRequest,
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

impl Runner {
    fn view(&self, now: Moment) -> RunnerView {
        let within = |moment: Option<Moment>, span| {
            moment.is_some_and(|moment| now.saturating_sub(moment) <= span)
        };
        let online = within(self.called, OFFLINE_AFTER);
        RunnerView {
            id: self.id,
            uuid: self.uuid.clone(),
            token: self.token.clone().into(),
            name: self.name.clone(),
            version: self.version.clone(),
            labels: self.labels.clone(),
            ephemeral: self.ephemeral,
            scope: self.scope.clone(),
            online,
            busy: online && within(self.reported, IDLE_AFTER),
        }
    }
}

impl Task {
    fn view(&self) -> TaskView {
        TaskView {
            id: self.id,
            state: self.state,
            runner_id: self.runner_id,
            log: self.log.clone(),
            log_complete: self.log_complete,
        }
    }
}

/// The scope of what a user or an organization owns; they share their names.
pub(super) fn owner_scope(owner: &str) -> Scope {
    if owner == USER { Scope::User } else { Scope::Org(owner.to_owned()) }
}

/// Whether a scope's pages show a runner; the admin's show all.
fn shows(pages: &Scope, runner: &Scope) -> bool {
    *pages == Scope::Instance || pages == runner
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

fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut random).expect("the system has random bytes");
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random_uuid() -> String {
    let hex = random_hex(16);
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}
