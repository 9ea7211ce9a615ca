//! A stand-in Gitea: its actions protocol and the REST interface of its runners, on loopback.
//!
//! It answers as the recorded exchanges do, and as the Gitea of its [version](Options::version) does. It
//! keeps state: registration tokens, runners, API tokens and tasks. Tests look at the state and the
//! [`Journal`], and make it fail by [`Faults`].

mod calls;
mod extra;
mod fault;
mod journal;
mod reply;
mod rest;
mod route;
mod rpc;
mod serve;
mod state;
pub(super) mod task;
mod version;
mod view;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

pub use extra::download_sha256;
pub use fault::{Answer, Effect, FaultId, Faults, Gate, Route, When};
pub use journal::{BODY_LIMIT, ENTRY_LIMIT, Entry, Journal};
pub use state::USER;
pub(super) use state::random_hex;
pub use view::{RunnerSeed, RunnerView, TaskId, TaskSeed, TaskState, TaskView};

use crate::config::Scope;
use serve::{Server, Shared};

/// How the stand-in is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Serve TLS with this.
    pub tls: Option<Tls>,
    /// Everything is below this path, and 404 elsewhere; empty, or like `/git`.
    pub sub_path: String,
    /// The root address that Gitea is set to, with a slash at its end; `None`: its own.
    pub root_url: Option<String>,
    /// What `/api/v1/version` tells, and what the REST interface and Register do: as Gitea 1.21 to 1.27.
    /// `1.26.0+dev-…` is the development tree that the recorded exchanges are from; it can no more than
    /// 1.25.
    pub version: String,
    /// Runners that are not known get a 401 `unauthenticated`, as Forgejo answers. No Gitea up to 1.27
    /// does; its runners understand it.
    pub real_unauthenticated: bool,
    /// A FetchTask that overlaps another one, which got a task that was for this runner too, gets no task
    /// but the latest `tasks_version`, however many wait: real Gitea's loser of a race does, and does not
    /// look for a task again until that version goes up.
    ///
    /// A call overlaps all that act after it arrived. So a test holds the loser by [`Faults::gate`] at
    /// [`When::BeforeActing`], waits until it [stands there](Gate::reached), lets another poll get its
    /// task, and opens the gate.
    pub lost_wakeup: bool,
    /// Header `X-Gitea-Actions-Capabilities` of Declare's answers.
    pub capabilities: Option<HeaderValue>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: None,
            sub_path: String::new(),
            root_url: None,
            version: "1.26.0".into(),
            real_unauthenticated: false,
            lost_wakeup: false,
            capabilities: None,
        }
    }
}

/// A certificate to serve with, valid for `127.0.0.1`.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The chain, in PEM.
    pub certificate_pem: String,
    /// Its key, in PEM.
    pub key_pem: SecretString,
    /// Offer HTTP/2 too.
    pub http2: bool,
    /// The authority of which every client must show a certificate, in PEM.
    pub client_ca_pem: Option<String>,
}

/// A running stand-in; clones are the same one. It ends when it is stopped or the last clone is dropped.
#[derive(Clone)]
pub struct StandInGitea(Arc<Server>);

impl fmt::Debug for StandInGitea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StandInGitea").field(&self.url()).finish()
    }
}

impl StandInGitea {
    /// Listens on a free port of 127.0.0.1, inside a tokio runtime.
    pub fn start(options: Options) -> io::Result<Self> {
        Ok(Self(Arc::new(Server::start(options)?)))
    }

    /// Its address, with the sub-path and no slash at its end.
    #[must_use]
    pub fn url(&self) -> String {
        self.shared().url().to_owned()
    }

    /// The certificate to trust, in PEM, where it serves TLS.
    #[must_use]
    pub fn ca_pem(&self) -> Option<String> {
        Some(self.shared().options.tls.as_ref()?.certificate_pem.clone())
    }

    /// The rules by which it fails.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared().faults
    }

    /// The requests that arrived.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.shared().journal
    }

    /// Refuses connections and closes those that are open, with the requests on them; keeps its state
    /// and its port.
    pub async fn set_down(&self) -> io::Result<()> {
        self.0.set_down().await
    }

    /// Listens again, on the same port.
    pub async fn set_up(&self) -> io::Result<()> {
        self.0.set_up().await
    }

    /// Ends it and gives up its port; its state can still be looked at.
    pub async fn stop(&self) {
        self.0.stop().await;
    }

    /// Lets its clock, which the header `Date` tells, be so many seconds ahead; behind, where negative.
    pub fn skew_clock(&self, seconds: i64) {
        self.shared().skew(seconds);
    }

    /// Returns as soon as its state (runners, tasks, tokens) is like that.
    pub async fn wait_until(&self, mut like: impl FnMut(&Self) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.shared().changed.notified());
            changed.as_mut().enable();
            if like(self) {
                return;
            }
            changed.await;
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        self.0.shared()
    }
}

// Tokens.
impl StandInGitea {
    /// The latest active registration token of a scope; a new one where none is active.
    #[must_use]
    pub fn registration_token(&self, scope: &Scope) -> SecretString {
        self.shared().change(|state| state.registration_token(scope)).into()
    }

    /// Makes a known registration token active.
    pub fn add_registration_token(&self, scope: Scope, token: &str) {
        self.shared().change(|state| state.add_registration_token(scope, token.to_owned()));
    }

    /// Invalidates the scope's registration tokens and makes a new one.
    pub fn reset_registration_token(&self, scope: &Scope) -> SecretString {
        self.shared().change(|state| state.reset_registration_token(scope)).into()
    }

    /// Invalidates the scope's registration tokens.
    pub fn invalidate_registration_token(&self, scope: &Scope) {
        self.shared().change(|state| state.invalidate_registration_token(scope));
    }

    /// The registration token that is minted next.
    pub fn plan_registration_token(&self, token: &str) {
        self.shared().change(|state| state.plan_registration_token(token.to_owned()));
    }

    /// A new API token of the site admin with these scopes (`write:admin`, `read:organization`, `all`).
    #[must_use]
    pub fn api_token(&self, scopes: &[&str]) -> SecretString {
        self.shared().change(|state| state.add_api_token(None, USER, scopes)).into()
    }

    /// A known API token of a user; users other than [`USER`] are no site admins.
    pub fn add_api_token(&self, token: &str, user: &str, scopes: &[&str]) {
        self.shared().change(|state| state.add_api_token(Some(token.to_owned()), user, scopes));
    }

    /// Revokes an API token.
    pub fn remove_api_token(&self, token: &SecretString) {
        self.shared().change(|state| state.remove_api_token(token.expose_secret()));
    }
}

// Runners.
impl StandInGitea {
    /// All runners, in the order of Gitea's lists: the latest call first.
    #[must_use]
    pub fn runners(&self) -> Vec<RunnerView> {
        let now = self.shared().now();
        self.shared().look(|state| state.runners(now, &Scope::Instance))
    }

    /// One runner.
    #[must_use]
    pub fn runner(&self, id: i64) -> Option<RunnerView> {
        let now = self.shared().now();
        self.shared().look(|state| state.runner(now, &Scope::Instance, id))
    }

    /// Puts a runner there; one of the same id is replaced.
    pub fn add_runner(&self, seed: RunnerSeed) -> RunnerView {
        let now = self.shared().now();
        self.shared().change(|state| state.add_runner(now, seed))
    }

    /// Deletes a runner, as an admin does in Gitea's pages; answers whether it was there.
    pub fn remove_runner(&self, id: i64) -> bool {
        self.shared().change(|state| state.delete_runner(&Scope::Instance, id))
    }

    /// Switches a runner off or on, as an admin does in Gitea's pages; answers whether it was there.
    pub fn disable_runner(&self, id: i64, disabled: bool) -> bool {
        self.shared().change(|state| state.disable_runner(&Scope::Instance, id, disabled))
    }

    /// While `moving`, after each page of a list the last runner is the first of all, as if it had called
    /// in between: who reads the next page sees one again, and misses the one that moved.
    pub fn move_lists(&self, moving: bool) {
        self.shared().change(|state| state.lists_move = moving);
    }

    /// Lets a runner's last call and its last report be that long ago.
    pub fn silence_runner(&self, id: i64, ago: Duration) {
        let now = self.shared().now();
        self.shared().change(|state| state.silence_runner(now.saturating_sub(ago), id));
    }

    /// Id, uuid and token that the next Register gets.
    pub fn plan_runner(&self, id: i64, uuid: &str, token: &str) {
        self.shared().change(|state| state.plan_runner(id, uuid.to_owned(), token.to_owned()));
    }
}

/// The runners and tasks of a moment, with the counters that their ids come from.
#[derive(Clone)]
pub struct Backup(state::Rows);

impl fmt::Debug for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backup").finish_non_exhaustive()
    }
}

// Backups.
impl StandInGitea {
    /// Its runners and tasks as they are now.
    #[must_use]
    pub fn backup(&self) -> Backup {
        Backup(self.shared().look(|state| state.backup()))
    }

    /// Puts them back; ids that were given out since are given out again. Tokens stay.
    pub fn restore(&self, backup: &Backup) {
        self.shared().change(|state| state.restore(backup.0.clone()));
    }
}

// Tasks.
impl StandInGitea {
    /// Queues a task of the repository `acme/app` for a runner with all of these labels.
    pub fn queue_task(&self, labels: &[&str]) -> TaskId {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        self.queue(TaskSeed { labels, ..TaskSeed::default() })
    }

    /// Queues a task; one of the same id is replaced.
    pub fn queue(&self, seed: TaskSeed) -> TaskId {
        self.shared().change(|state| state.queue_task(seed))
    }

    /// One task.
    #[must_use]
    pub fn task(&self, id: TaskId) -> Option<TaskView> {
        self.shared().look(|state| state.task(id))
    }

    /// All tasks, by their ids.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskView> {
        self.shared().look(|state| state.tasks())
    }

    /// Cancels a task that has not ended; answers whether that was so. Its runner learns it from the
    /// answer to its next report.
    pub fn cancel_task(&self, id: TaskId) -> bool {
        self.shared().change(|state| state.cancel_task(id))
    }

    /// Sets a scope's `tasks_version`; it begins with 1 and goes up with each task.
    pub fn set_tasks_version(&self, scope: Scope, version: i64) {
        self.shared().change(|state| state.set_tasks_version(scope, version));
    }
}
