//! One runner, in memory: who it is, what Gitea knows it by, and what it does.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use secrecy::ExposeSecret;

use crate::broker::succession::Pause;
use crate::broker::{
    Activity, Credentials, Event, Origin, Presence, Reason, Record, RecordId, RecordState, Shown,
    What,
};
use crate::config::Scope;
use crate::connect::{RUNNER_TOKEN, RUNNER_UUID, sensitive};
use crate::store::Touch;

use super::roster::Touched;

/// What Gitea knows a runner by.
pub struct Upstream {
    /// Its id, uuid and token there.
    pub credentials: Credentials,
    /// Both headers, where they are others than the runner shows.
    swapped: Option<[HeaderValue; 2]>,
}

impl Upstream {
    fn of(record: &Record) -> Self {
        let credentials = record.upstream.clone();
        let apart = credentials.uuid != record.presented.uuid
            || !credentials.token_is(record.presented.token.expose_secret().as_bytes());
        // What no header can carry was never Gitea's.
        let swapped = apart
            .then(|| {
                Some([sensitive(&credentials.uuid)?, sensitive(credentials.token.expose_secret())?])
            })
            .flatten();
        Self { credentials, swapped }
    }

    /// Whether the runner shows something else.
    #[must_use]
    pub fn is_apart(&self) -> bool {
        self.swapped.is_some()
    }

    /// Puts what Gitea knows in the place of what the runner shows.
    pub fn swap(&self, headers: &mut HeaderMap) {
        if let Some([uuid, token]) = &self.swapped {
            headers.insert(RUNNER_UUID, uuid.clone());
            headers.insert(RUNNER_TOKEN, token.clone());
        }
    }
}

/// One runner. What never changes is read without a lock.
pub struct Live {
    /// The broker's own number of it.
    pub record_id: RecordId,
    /// How the broker came to know it.
    pub origin: Origin,
    /// Id of the enrollment token that it came by; empty where it came by none.
    pub parent_id: String,
    /// Whether Gitea removes it after one task.
    pub ephemeral: bool,
    /// What it shows.
    pub presented: Credentials,
    upstream: ArcSwap<Upstream>,
    /// Held by whoever changes its fate, so that only one does at a time; guards the pause before it may be
    /// registered anew.
    pub fate: tokio::sync::Mutex<Pause>,
    /// Its requests that are being answered.
    pub requests: AtomicUsize,
    touched: Arc<Touched>,
    inner: Mutex<Inner>,
}

struct Inner {
    record: Record,
    activity: Activity,
    /// Something that the store does not have yet.
    touched: bool,
    /// The store still has the state from before the runner came back.
    state_touched: bool,
    /// It is listed as one that told something.
    is_told: bool,
    /// It is listed as one that was seen.
    is_seen: bool,
    /// Why it could not be deregistered the last time.
    complaint: Option<String>,
    /// Why it was about to be deregistered when it spoke, until Gitea has accepted a call of it: it may be
    /// deleted already.
    leaving: Option<Reason>,
}

impl Live {
    pub(super) fn new(record: Record, now: Instant, touched: Arc<Touched>) -> Self {
        Self {
            record_id: record.record_id,
            origin: record.origin,
            parent_id: record.parent_id.clone(),
            ephemeral: record.ephemeral,
            presented: record.presented.clone(),
            upstream: ArcSwap::from_pointee(Upstream::of(&record)),
            fate: tokio::sync::Mutex::default(),
            requests: AtomicUsize::new(0),
            touched,
            inner: Mutex::new(Inner {
                activity: Activity::new(now, record.spoke, &record.tasks),
                record,
                touched: false,
                state_touched: false,
                is_told: false,
                is_seen: false,
                complaint: None,
                leaving: None,
            }),
        }
    }

    /// Whether it may serve elsewhere than its record says. The instance's pages show the runners of all
    /// organizations, users and repositories; one that came by no token of the broker's proves nothing by them,
    /// and registered anew for the instance it would get everyone's jobs.
    #[must_use]
    pub fn may_be_foreign(&self) -> bool {
        self.origin == Origin::Adopted
            && self.parent_id.is_empty()
            && self.scope() == Scope::Instance
    }

    pub(super) fn key(&self) -> String {
        self.presented.uuid.to_ascii_lowercase()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change is a single assignment, so a poisoned record is still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to write down that a crash should not take away.
    fn tell(&self, inner: &mut Inner) {
        if !std::mem::replace(&mut inner.is_told, true) {
            self.touched.told(self.record_id);
        }
    }

    /// Its last call is to be written down, some time.
    fn see(&self, inner: &mut Inner) {
        inner.touched = true;
        if !inner.is_told && !std::mem::replace(&mut inner.is_seen, true) {
            self.touched.seen(self.record_id);
        }
    }

    /// What there is to write down, if anything, may have been passed over.
    pub(super) fn touch_again(&self) {
        let mut inner = self.inner();
        if inner.touched || inner.state_touched {
            inner.is_told = false;
            self.tell(&mut inner);
        }
    }

    /// What was taken of it to be written was not.
    pub(super) fn not_written(&self) {
        self.inner().touched = true;
        self.touch_again();
    }

    /// It was taken off the list of those that told something, or of those that were seen.
    pub(super) fn off_list(&self, told: bool) {
        let mut inner = self.inner();
        match told {
            true => inner.is_told = false,
            false => inner.is_seen = false,
        }
    }

    /// What Gitea knows it by.
    #[must_use]
    pub fn upstream(&self) -> Arc<Upstream> {
        self.upstream.load_full()
    }

    /// Its display name.
    #[must_use]
    pub fn name(&self) -> String {
        self.inner().record.name.clone()
    }

    /// Where it serves; of one that was adopted, as far as that is known.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.inner().record.scope.clone()
    }

    /// Gitea's id of it; 0 as long as Gitea has not told it.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.upstream.load().credentials.id
    }

    /// Puts what Gitea knows in the place of what the runner shows, where that differs.
    pub fn swap(&self, headers: &mut HeaderMap) {
        self.upstream.load().swap(headers);
    }

    /// Gitea knows it by other credentials from now on, and it starts anew; the store has that already.
    pub(super) fn set_upstream(&self, credentials: Credentials) {
        let mut inner = self.inner();
        inner.record.upstream = credentials;
        inner.record.state = RecordState::Active;
        inner.record.ended_at = None;
        inner.record.declare_due = true;
        inner.record.disabled = false;
        inner.state_touched = false;
        inner.activity.starts_anew();
        self.upstream.store(Arc::new(Upstream::of(&inner.record)));
    }

    /// Gitea has told its id and name; the store has that already.
    pub(super) fn set_identity(&self, id: i64, name: &str) {
        let mut inner = self.inner();
        inner.record.presented.id = id;
        inner.record.upstream.id = id;
        inner.record.name = name.to_owned();
        self.upstream.store(Arc::new(Upstream::of(&inner.record)));
    }

    /// Gitea has told where it serves; the store has that already.
    pub(super) fn set_scope(&self, scope: Scope) {
        self.inner().record.scope = scope;
    }

    /// The broker has, or no longer has, Gitea keep tasks from it.
    pub(super) fn set_disabled(&self, disabled: bool) {
        self.inner().record.disabled = disabled;
    }

    /// The runner made a call. Returns whether it was its first. `stays`: one that was to be deregistered
    /// because the broker ended, or because it was taken for gone, is alive, so it is kept.
    pub fn called(&self, now: Instant, stays: bool) -> bool {
        let mut inner = self.inner();
        let first = inner.activity.called(now);
        if first {
            inner.record.spoke = true;
            inner.record.delivered = true;
            self.tell(&mut inner);
        }
        self.see(&mut inner);
        if let RecordState::Deregistering(why) = inner.record.state
            && stays
            && why.is_revivable()
        {
            inner.leaving = Some(why);
            inner.record.state = RecordState::Active;
            inner.state_touched = true;
            self.tell(&mut inner);
        }
        first
    }

    /// Gitea shows this of it. Returns whether that proves it alive.
    pub(super) fn shown(&self, shown: Shown) -> bool {
        let mut inner = self.inner();
        let alive = inner.activity.shown(shown, Instant::now());
        if alive {
            if !inner.record.spoke || !inner.record.delivered {
                self.tell(&mut inner);
            }
            self.see(&mut inner);
            inner.record.spoke = true;
            inner.record.delivered = true;
        }
        alive
    }

    /// Changes what is known of its traffic.
    pub fn note(&self, change: impl FnOnce(&mut Activity)) {
        let mut inner = self.inner();
        let before = inner.activity.changes();
        change(&mut inner.activity);
        if inner.activity.changes() != before {
            inner.touched = true;
            self.tell(&mut inner);
        }
    }

    /// Its answer has reached it.
    pub fn delivered(&self) {
        let mut inner = self.inner();
        inner.touched = true;
        inner.record.delivered = true;
        self.tell(&mut inner);
    }

    /// It declared itself.
    pub fn declared(&self, version: &str, labels: &[String]) {
        let mut inner = self.inner();
        inner.record.version = version.to_owned();
        inner.record.labels = labels.to_vec();
        inner.record.declare_due = false;
    }

    /// Gitea was told these on its behalf. Returns whether they are still what it last declared.
    pub(super) fn was_declared(&self, version: &str, labels: &[String]) -> bool {
        let mut inner = self.inner();
        let same = inner.record.version == version && inner.record.labels == labels;
        inner.record.declare_due &= !same;
        same
    }

    /// Whether the broker has to declare it.
    #[must_use]
    pub fn declare_is_due(&self) -> bool {
        self.inner().record.declare_due
    }

    /// Its runner file, where it has one.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.inner().record.file.clone()
    }

    /// Whether this is its runner file.
    pub(super) fn has_file(&self, path: &Path) -> bool {
        self.inner().record.file.as_deref() == Some(path)
    }

    /// A runner file was written or removed.
    pub fn set_file(&self, file: Option<PathBuf>) {
        self.inner().record.file = file;
    }

    /// Something that happened to it, for the audit trail.
    pub(super) fn event(&self, actor: impl Into<String>, what: What) -> Event {
        let inner = self.inner();
        Event {
            token_id: (!self.parent_id.is_empty()).then(|| self.parent_id.clone()),
            runner_id: Some(inner.record.upstream.id),
            runner: Some(inner.record.name.clone()),
            ..Event::now(actor, what)
        }
    }

    /// Its record moved on.
    pub fn set_state(&self, state: RecordState) {
        let mut inner = self.inner();
        inner.record.state = state;
        inner.record.ended_at = matches!(state, RecordState::Ended(_)).then(SystemTime::now);
    }

    /// Whether it is none any more, unless it may be woken.
    #[must_use]
    pub fn is_resting(&self) -> bool {
        self.state().is_resting()
    }

    /// Where its record stands.
    #[must_use]
    pub fn state(&self) -> RecordState {
        self.inner().record.state
    }

    /// Whether its record has ended, never to be woken.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state(), RecordState::Ended(reason) if !reason.is_revivable())
    }

    /// Moves its record on where it still stands at `from`; the store has that with the next batch.
    pub(super) fn shift(&self, from: RecordState, to: RecordState) -> bool {
        let mut inner = self.inner();
        let shifts = inner.record.state == from;
        if shifts {
            inner.record.state = to;
            inner.state_touched = true;
            self.tell(&mut inner);
        }
        shifts
    }

    /// Gitea was told to delete it and has not answered: that Gitea does not know it is no surprise then.
    pub(super) fn may_be_deleted(&self, reason: Reason) {
        self.inner().leaving = reason.is_revivable().then_some(reason);
    }

    /// Gitea has accepted a call of it. Returns whether it was lost.
    pub(super) fn accepted(&self) -> bool {
        let mut inner = self.inner();
        inner.leaving = None;
        inner.record.state == RecordState::Lost
    }

    /// Why it was about to be deregistered when it spoke, where Gitea has accepted no call of it since.
    pub(super) fn take_leaving(&self) -> Option<Reason> {
        self.inner().leaving.take()
    }

    /// Whether Gitea says that it does not know it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.state() == RecordState::Lost
    }

    /// Whether its deregistration was begun.
    #[must_use]
    pub fn is_deregistering(&self) -> bool {
        matches!(self.state(), RecordState::Deregistering(_))
    }

    /// Where its record stands, and what it does at the moment.
    #[must_use]
    pub fn stands(&self, now: Instant) -> (RecordState, Presence) {
        let inner = self.inner();
        (inner.record.state, inner.activity.presence(now))
    }

    /// What it does at the moment.
    #[must_use]
    pub fn presence(&self) -> Presence {
        self.inner().activity.presence(Instant::now())
    }

    /// Whether it has a task that did not pass the broker.
    #[must_use]
    pub fn is_busy_elsewhere(&self) -> bool {
        self.inner().activity.is_busy_elsewhere(Instant::now())
    }

    /// Since when it has been gone; `None`: it is not.
    #[must_use]
    pub fn gone_since(&self) -> Option<Instant> {
        self.inner().activity.gone_since(Instant::now())
    }

    /// When its lease ends if nothing is heard of it until then; `None`: never.
    #[must_use]
    pub fn lease_ends(&self, expire_after: Duration) -> Option<Instant> {
        self.inner().activity.lease_ends(expire_after)
    }

    /// Whether the broker has it switched off in Gitea, or may have.
    #[must_use]
    pub fn is_disabled(&self) -> bool {
        self.inner().record.disabled
    }

    /// Whether a connection that carries its calls is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner().activity.is_connected()
    }

    /// Whether a poll of it is on its way, which may bring it a task.
    #[must_use]
    pub fn is_polling(&self) -> bool {
        self.inner().activity.is_polling(Instant::now())
    }

    /// Whether it ever made a call with its credentials.
    #[must_use]
    pub fn spoke(&self) -> bool {
        self.inner().activity.spoke()
    }

    /// Whether it made a call through the broker since the broker started.
    #[must_use]
    pub fn called_here(&self) -> bool {
        self.inner().activity.called_here()
    }

    /// Ids of the tasks in hand.
    #[must_use]
    pub fn tasks(&self) -> Vec<i64> {
        self.inner().activity.tasks(Instant::now()).collect()
    }

    /// A copy of the record as it is now.
    #[must_use]
    pub fn record(&self) -> Record {
        let inner = self.inner();
        let now = Instant::now();
        Record {
            tasks: inner.activity.tasks(now).collect(),
            last_seen_at: last_seen(&inner, now),
            ..inner.record.clone()
        }
    }

    /// It could not be deregistered. Returns whether that is news: the same is not told again and again.
    #[must_use]
    pub fn complain(&self, why: String) -> bool {
        let mut inner = self.inner();
        let news = inner.complaint.as_ref() != Some(&why);
        inner.complaint = Some(why);
        news
    }

    /// Its state, where the store still has another.
    pub(super) fn state_to_write(&self) -> Option<RecordState> {
        let inner = self.inner();
        inner.state_touched.then_some(inner.record.state)
    }

    /// The store has this state now.
    pub(super) fn state_written(&self, state: RecordState) {
        let mut inner = self.inner();
        inner.state_touched &= inner.record.state != state;
    }

    /// What the traffic told and the store does not have yet; it is handed out once.
    pub(super) fn take_touch(&self) -> Option<Touch> {
        let mut inner = self.inner();
        let now = Instant::now();
        std::mem::take(&mut inner.touched).then(|| Touch {
            record_id: self.record_id,
            last_seen_at: last_seen(&inner, now),
            spoke: inner.record.spoke,
            delivered: inner.record.delivered,
            tasks: inner.activity.tasks(now).collect(),
        })
    }
}

/// Wall-clock time of the last call, from the monotonic time that has passed since.
fn last_seen(inner: &Inner, now: Instant) -> Option<SystemTime> {
    match inner.activity.last_call() {
        Some(call) => SystemTime::now().checked_sub(now.saturating_duration_since(call)),
        None => inner.record.last_seen_at,
    }
}
