//! How the stand-in is told to fail.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use tokio::sync::watch;

use super::route;

/// Which requests a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// All.
    Any,
    /// `ping.v1.PingService/Ping`
    Ping,
    /// `runner.v1.RunnerService/Register`
    Register,
    /// `runner.v1.RunnerService/Declare`
    Declare,
    /// `runner.v1.RunnerService/FetchTask`
    FetchTask,
    /// `runner.v1.RunnerService/UpdateTask`
    UpdateTask,
    /// `runner.v1.RunnerService/UpdateLog`
    UpdateLog,
    /// The list of runners, at any scope.
    ListRunners,
    /// GET of one runner, at any scope.
    GetRunner,
    /// DELETE of one runner, at any scope; not of the highest id, by which the broker proves its right to.
    DeleteRunner,
    /// PATCH of one runner, at any scope.
    PatchRunner,
    /// GET or POST of a registration token, at any scope.
    RegistrationToken,
    /// Paths that begin so, without the sub-path.
    Path(String),
}

/// At which point of a request a rule acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The request has arrived and changed nothing yet.
    BeforeActing,
    /// The stand-in's state has changed, and nothing is answered yet.
    AfterActing,
}

/// What a rule does.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Waits that long, then goes on.
    Delay(Duration),
    /// Resets the connection (RST) with no answer.
    Reset,
    /// Closes the connection (FIN) with no answer.
    Close,
    /// Answers this in place of the right answer.
    Answer(Answer),
    /// Never answers; the connection stays open.
    Stall,
    /// Waits until the gate is opened, then goes on.
    Gate(Gate),
    /// Acts once more and answers what that gives, like a proxy that repeats a request. Has no effect
    /// where bodies stream.
    Doubled,
}

/// An answer that a rule gives.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, besides `Content-Length`.
    pub headers: Vec<(&'static str, String)>,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// A page of a proxy before Gitea.
    #[must_use]
    pub fn html(status: StatusCode) -> Self {
        Self {
            status,
            headers: vec![("Content-Type", "text/html".into())],
            body: format!("<html><body><h1>{status}</h1></body></html>\n").into(),
        }
    }

    /// A proxy's page while Gitea is in maintenance (503).
    #[must_use]
    pub fn maintenance() -> Self {
        Self::html(StatusCode::SERVICE_UNAVAILABLE)
    }

    /// A proxy's refusal of too many requests (429), with the seconds in `Retry-After`.
    #[must_use]
    pub fn rate_limited(retry_after: u64) -> Self {
        let mut answer = Self::html(StatusCode::TOO_MANY_REQUESTS);
        answer.headers.push(("Retry-After", retry_after.to_string()));
        answer
    }

    /// Status 200 with bytes that are no message.
    #[must_use]
    pub fn garbage(content_type: &str) -> Self {
        Self {
            status: StatusCode::OK,
            headers: vec![("Content-Type", content_type.to_owned())],
            body: Bytes::from_static(b"\xff\xfe garbage \x00\x01"),
        }
    }

    /// A redirect (302).
    #[must_use]
    pub fn redirect(location: &str) -> Self {
        Self {
            status: StatusCode::FOUND,
            headers: vec![("Location", location.to_owned())],
            body: Bytes::new(),
        }
    }

    /// A Connect error.
    #[must_use]
    pub fn connect_error(status: StatusCode, code: &str, message: &str) -> Self {
        Self {
            status,
            headers: vec![("Content-Type", "application/json".into())],
            body: serde_json::json!({ "code": code, "message": message }).to_string().into(),
        }
    }
}

/// Stops requests at one point until a test has looked.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<(usize, bool)>>);

impl Gate {
    fn new() -> Self {
        Self(Arc::new(watch::Sender::new((0, false))))
    }

    /// Returns once a request stands, or stood, at the gate.
    pub async fn reached(&self) {
        self.reached_by(1).await;
    }

    /// Returns once that many requests stand, or stood, at the gate.
    pub async fn reached_by(&self, requests: usize) {
        // The sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|(arrived, _)| *arrived >= requests).await;
    }

    /// Lets all requests through, those that come later too.
    pub fn open(&self) {
        self.0.send_modify(|(_, open)| *open = true);
    }

    pub(super) async fn pass(&self) {
        let mut watched = self.0.subscribe();
        self.0.send_modify(|(arrived, _)| *arrived += 1);
        let _ = watched.wait_for(|(_, open)| *open).await;
    }
}

/// The rules in force, in the order in which they were added. All that match a request apply one after
/// the other, up to the first that ends it; a rule that is not reached is not used up.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Rules>>);

/// Names a rule, to remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultId(u64);

#[derive(Default)]
struct Rules {
    last_id: u64,
    rules: Vec<Rule>,
}

struct Rule {
    id: u64,
    route: Route,
    when: When,
    effect: Effect,
    /// `None`: for ever.
    left: Option<usize>,
}

impl Faults {
    /// For the next request.
    pub fn once(&self, route: Route, when: When, effect: Effect) -> FaultId {
        self.add(route, when, effect, Some(1))
    }

    /// For the next `count` requests.
    pub fn times(&self, count: usize, route: Route, when: When, effect: Effect) -> FaultId {
        self.add(route, when, effect, Some(count))
    }

    /// Until it is removed.
    pub fn always(&self, route: Route, when: When, effect: Effect) -> FaultId {
        self.add(route, when, effect, None)
    }

    /// A closed gate for the next request.
    pub fn gate(&self, route: Route, when: When) -> Gate {
        let gate = Gate::new();
        self.once(route, when, Effect::Gate(gate.clone()));
        gate
    }

    /// A closed gate for all requests.
    pub fn gate_for_all(&self, route: Route, when: When) -> Gate {
        let gate = Gate::new();
        self.always(route, when, Effect::Gate(gate.clone()));
        gate
    }

    /// Removes one rule; requests that it holds stay held.
    pub fn remove(&self, id: FaultId) {
        self.lock().rules.retain(|rule| rule.id != id.0);
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// The first rule after `passed` that matches, with its id; it is used up by that.
    pub(super) fn take(
        &self,
        passed: u64,
        method: &Method,
        path: &str,
        when: When,
    ) -> Option<(u64, Effect)> {
        let mut rules = self.lock();
        let at = rules.rules.iter().position(|rule| {
            rule.id > passed && rule.when == when && route::is(&rule.route, method, path)
        })?;
        let rule = &mut rules.rules[at];
        let taken = (rule.id, rule.effect.clone());
        if let Some(left) = &mut rule.left {
            *left -= 1;
            if *left == 0 {
                rules.rules.remove(at);
            }
        }
        Some(taken)
    }

    fn add(&self, route: Route, when: When, effect: Effect, left: Option<usize>) -> FaultId {
        let mut rules = self.lock();
        rules.last_id += 1;
        let id = rules.last_id;
        if left != Some(0) {
            rules.rules.push(Rule { id, route, when, effect, left });
        }
        FaultId(id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Rules> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
