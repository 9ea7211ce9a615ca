//! What the stand-in remembers, and its rules. No I/O, and the time is handed in.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use secrecy::ExposeSecret;

use super::view::{RunnerSeed, RunnerView, TaskId, TaskSeed, TaskState, TaskView};
use crate::config::Scope;
use crate::connect::messages as wire;

/// The user that [`Scope::User`] means: the site admin.
pub const USER: &str = "root1";

/// Gitea shows a runner offline that long after its last call.
const OFFLINE_AFTER: Duration = Duration::from_secs(60);
/// Gitea shows a runner idle that long after its last report on a task.
const IDLE_AFTER: Duration = Duration::from_secs(10);

/// A point in time, counted from one that lies well before the stand-in's start.
pub(super) type Moment = Duration;

/// A request for the REST interface that is refused, with the text of the answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// 401
    Unauthorized(String),
    /// 403
    Forbidden(String),
}

#[derive(Default)]
pub(super) struct State {
    pub(super) registration_tokens: Vec<RegistrationToken>,
    api_tokens: Vec<ApiToken>,
    pub(super) runners: BTreeMap<i64, Runner>,
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) versions: BTreeMap<Scope, i64>,
    last_runner_id: i64,
    last_task_id: TaskId,
    pub(super) planned_runners: VecDeque<(i64, String, String)>,
    planned_registration_tokens: VecDeque<String>,
    /// Tasks in the order in which runners got them.
    pub(super) picked: Vec<TaskId>,
    pub(super) lists_move: bool,
    pages: usize,
}

pub(super) struct RegistrationToken {
    pub(super) scope: Scope,
    pub(super) token: String,
    pub(super) active: bool,
}

pub(super) struct ApiToken {
    token: String,
    user: String,
    scopes: Vec<String>,
}

#[derive(Clone)]
pub(super) struct Runner {
    pub(super) id: i64,
    pub(super) uuid: String,
    pub(super) token: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) labels: Vec<String>,
    pub(super) ephemeral: bool,
    pub(super) scope: Scope,
    pub(super) disabled: bool,
    pub(super) called: Option<Moment>,
    pub(super) reported: Option<Moment>,
}

#[derive(Clone)]
pub(super) struct Task {
    pub(super) id: TaskId,
    pub(super) labels: Vec<String>,
    pub(super) repository: (String, String),
    pub(super) wire: Option<Vec<u8>>,
    pub(super) state: TaskState,
    pub(super) runner_id: Option<i64>,
    pub(super) log: Vec<String>,
    pub(super) log_complete: bool,
}

/// The rows and counters of a moment.
#[derive(Clone)]
pub(super) struct Rows {
    runners: BTreeMap<i64, Runner>,
    tasks: BTreeMap<TaskId, Task>,
    versions: BTreeMap<Scope, i64>,
    last_runner_id: i64,
    last_task_id: TaskId,
}

// Backups.
impl State {
    pub(super) fn backup(&self) -> Rows {
        Rows {
            runners: self.runners.clone(),
            tasks: self.tasks.clone(),
            versions: self.versions.clone(),
            last_runner_id: self.last_runner_id,
            last_task_id: self.last_task_id,
        }
    }

    pub(super) fn restore(&mut self, rows: Rows) {
        let Rows { runners, tasks, versions, last_runner_id, last_task_id } = rows;
        *self =
            Self { runners, tasks, versions, last_runner_id, last_task_id, ..std::mem::take(self) };
    }
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
        let known = self.known(token)?;
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

    /// Checks that there is such an API token, whatever it may do.
    pub(super) fn known(&self, token: &str) -> Result<&ApiToken, Denied> {
        let known = self.api_tokens.iter().find(|known| known.token == token);
        known.ok_or_else(|| Denied::Unauthorized("user does not exist [uid: 0, name: ]".into()))
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
            disabled: seed.disabled,
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
        self.listed(scope).into_iter().map(|runner| runner.view(now)).collect()
    }

    fn listed(&self, scope: &Scope) -> Vec<&Runner> {
        let mut shown: Vec<&Runner> =
            self.runners.values().filter(|runner| shows(scope, &runner.scope)).collect();
        shown.sort_by_key(|runner| std::cmp::Reverse((runner.called, runner.id)));
        shown
    }

    /// Some of them, and how many there are.
    pub(super) fn page(
        &mut self,
        now: Moment,
        scope: &Scope,
        skipped: usize,
        limit: usize,
    ) -> (Vec<RunnerView>, usize) {
        let pages = self.pages;
        self.pages += usize::from(self.lists_move);
        let mut shown = self.listed(scope);
        let total = shown.len();
        if self.lists_move && total > 0 {
            shown.rotate_right(pages % total);
        }
        let page = shown.into_iter().skip(skipped).take(limit);
        (page.map(|runner| runner.view(now)).collect(), total)
    }

    pub(super) fn runner(&self, now: Moment, scope: &Scope, id: i64) -> Option<RunnerView> {
        let runner = self.runners.get(&id).filter(|runner| shows(scope, &runner.scope))?;
        Some(runner.view(now))
    }

    /// A scope's latest version goes up, so that runners look for tasks again.
    pub(super) fn disable_runner(&mut self, scope: &Scope, id: i64, disabled: bool) -> bool {
        let Some(runner) = self.runners.get_mut(&id).filter(|runner| shows(scope, &runner.scope))
        else {
            return false;
        };
        runner.disabled = disabled;
        *self.versions.entry(runner.scope.clone()).or_insert(1) += 1;
        true
    }

    pub(super) fn silence_runner(&mut self, since: Moment, id: i64) {
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.called = runner.called.map(|_| since);
            runner.reported = runner.reported.map(|_| since);
        }
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

impl Runner {
    pub(super) fn view(&self, now: Moment) -> RunnerView {
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
            disabled: self.disabled,
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

/// Random bytes in hexadecimal digits.
pub(in crate::sandbox) fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut random).expect("the system has random bytes");
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random_uuid() -> String {
    let hex = random_hex(16);
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}
