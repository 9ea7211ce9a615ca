//! The live runners, in memory: who they are and what they do. What it learns from the traffic is
//! written to the store in batches, so that no passed-through request waits for a disk.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use secrecy::ExposeSecret;

use crate::broker::succession::Pause;
use crate::broker::{
    Activity, Credentials, Origin, Presence, Reason, Record, RecordId, RecordState, Shown,
};
use crate::config::Scope;
use crate::store::Touch;

const RUNNER_UUID: HeaderName = HeaderName::from_static("x-runner-uuid");
const RUNNER_TOKEN: HeaderName = HeaderName::from_static("x-runner-token");

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
        let header = |text: &str| {
            let mut value = HeaderValue::from_str(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        // What no header can carry was never Gitea's.
        let swapped = apart
            .then(|| Some([header(&credentials.uuid)?, header(credentials.token.expose_secret())?]))
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
    /// Where it serves.
    pub scope: Scope,
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
    inner: Mutex<Inner>,
}

struct Inner {
    record: Record,
    activity: Activity,
    /// Something that the store does not have yet.
    touched: bool,
    /// The store still has the state from before the runner came back.
    state_touched: bool,
    /// Why it could not be deregistered the last time.
    complaint: Option<String>,
    /// Why it was about to be deregistered when it spoke, until Gitea has accepted a call of it: it may be
    /// deleted already.
    leaving: Option<Reason>,
}

impl Live {
    fn new(record: Record, now: Instant) -> Self {
        Self {
            record_id: record.record_id,
            scope: record.scope.clone(),
            origin: record.origin,
            parent_id: record.parent_id.clone(),
            ephemeral: record.ephemeral,
            presented: record.presented.clone(),
            upstream: ArcSwap::from_pointee(Upstream::of(&record)),
            fate: tokio::sync::Mutex::default(),
            inner: Mutex::new(Inner {
                activity: Activity::new(now, record.spoke, &record.tasks),
                record,
                touched: false,
                state_touched: false,
                complaint: None,
                leaving: None,
            }),
        }
    }

    fn key(&self) -> String {
        self.presented.uuid.to_ascii_lowercase()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change is a single assignment, so a poisoned record is still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What Gitea knows it by.
    #[must_use]
    pub fn upstream(&self) -> Arc<Upstream> {
        self.upstream.load_full()
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

    /// The broker has, or no longer has, Gitea keep tasks from it.
    pub(super) fn set_disabled(&self, disabled: bool) {
        self.inner().record.disabled = disabled;
    }

    /// The runner made a call. Returns whether it was its first. `stays`: one that was to be deregistered
    /// because the broker ended, or because it was taken for gone, is alive, so it is kept.
    pub fn called(&self, now: Instant, stays: bool) -> bool {
        let mut inner = self.inner();
        inner.touched = true;
        let first = inner.activity.called(now);
        if first {
            inner.record.spoke = true;
            inner.record.delivered = true;
        }
        if let RecordState::Deregistering(why) = inner.record.state
            && stays
            && why.is_revivable()
        {
            inner.leaving = Some(why);
            inner.record.state = RecordState::Active;
            inner.state_touched = true;
        }
        first
    }

    /// Gitea shows this of it. Returns whether that proves it alive.
    pub(super) fn shown(&self, shown: Shown) -> bool {
        let mut inner = self.inner();
        let alive = inner.activity.shown(shown, Instant::now());
        if alive {
            inner.touched = true;
            inner.record.spoke = true;
            inner.record.delivered = true;
        }
        alive
    }

    /// Changes what is known of its traffic.
    pub fn note(&self, change: impl FnOnce(&mut Activity)) {
        let mut inner = self.inner();
        inner.touched = true;
        change(&mut inner.activity);
    }

    /// Its answer has reached it.
    pub fn delivered(&self) {
        let mut inner = self.inner();
        inner.touched = true;
        inner.record.delivered = true;
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

    /// A runner file was written or removed.
    pub fn set_file(&self, file: Option<PathBuf>) {
        self.inner().record.file = file;
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

    fn take_touch(&self) -> Option<Touch> {
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

/// All runners, by the uuid that they present, in small letters.
#[derive(Default)]
pub struct Roster {
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    /// Those that Gitea knows, parked ones too.
    live: HashMap<String, Arc<Live>>,
    /// Those that ended and may be revived.
    asleep: HashMap<String, Arc<Live>>,
    /// What Gitea knows runners by that show something else. Who shows one of these had it before, and it
    /// is another's now.
    apart: HashSet<String>,
}

impl Roster {
    /// Adds a runner that was registered or read from the store.
    pub fn insert(&self, record: Record) -> Arc<Live> {
        let live = Arc::new(Live::new(record, Instant::now()));
        self.wake(&live);
        live
    }

    /// Adds one that ended and may be revived.
    pub(super) fn insert_asleep(&self, record: Record) {
        let live = Arc::new(Live::new(record, Instant::now()));
        self.write().asleep.insert(live.key(), live);
    }

    /// One that is live, or is so again, perhaps with other credentials in Gitea.
    pub(super) fn wake(&self, live: &Arc<Live>) {
        self.write().add(live);
    }

    /// Takes a runner off.
    pub fn remove(&self, live: &Live) {
        self.write().remove(live);
    }

    /// Puts a newcomer in the place of a parked runner, as one step: what Gitea knows that one by is the
    /// newcomer's from now on, and at no moment anybody's.
    pub(super) fn take_over(&self, parked: &Arc<Live>, newcomer: Record) -> Arc<Live> {
        let live = Arc::new(Live::new(newcomer, Instant::now()));
        let mut known = self.write();
        known.remove(parked);
        if let RecordState::Parked(reason) = parked.state() {
            parked.set_state(RecordState::Ended(reason));
            if reason.is_revivable() {
                known.asleep.insert(parked.key(), Arc::clone(parked));
            }
        }
        known.add(&live);
        live
    }

    /// Takes a runner off that may be revived.
    pub(super) fn lay_down(&self, live: &Arc<Live>) {
        // One step: a call that finds it nowhere would pass as a stranger's.
        let mut known = self.write();
        known.remove(live);
        known.asleep.insert(live.key(), Arc::clone(live));
    }

    /// Those that ended and may be revived.
    #[must_use]
    pub(super) fn asleep(&self) -> Vec<Arc<Live>> {
        self.read().asleep.values().cloned().collect()
    }

    /// The runner that these credentials belong to, where the token is right too. It may be one that rests.
    #[must_use]
    pub fn authenticate(&self, uuid: &str, token: &[u8]) -> Option<Arc<Live>> {
        let uuid = small(uuid);
        let known = self.read();
        known
            .live
            .get(&*uuid)
            .or_else(|| known.asleep.get(&*uuid))
            .filter(|live| live.presented.token_is(token))
            .cloned()
    }

    /// Whether this is what Gitea knows a runner by that shows something else.
    #[must_use]
    pub fn is_apart(&self, uuid: &str) -> bool {
        self.read().apart.contains(&*small(uuid))
    }

    /// Whether a runner shows this uuid, or Gitea knows one by it.
    #[must_use]
    pub(super) fn knows(&self, uuid: &str) -> bool {
        let uuid = small(uuid);
        let known = self.read();
        known.live.contains_key(&*uuid)
            || known.asleep.contains_key(&*uuid)
            || known.apart.contains(&*uuid)
    }

    /// How many of the live ones are of this origin.
    #[must_use]
    pub(super) fn count(&self, origin: Origin) -> usize {
        self.read().live.values().filter(|live| live.origin == origin).count()
    }

    /// Whether Gitea knows one of the live runners by this.
    pub(super) fn has_upstream(&self, uuid: &str) -> bool {
        self.read().live.values().any(|live| live.upstream().credentials.uuid == uuid)
    }

    /// Makes a path a runner's own. It is another's already: that one's id.
    pub(super) fn claim_file(&self, path: &Path, newcomer: &Live) -> Result<(), i64> {
        // Held over both steps, so that of two newcomers only one finds it free.
        let all = self.write();
        let mut others = all.live.values().filter(|live| live.record_id != newcomer.record_id);
        match others.find(|live| live.inner().record.file.as_deref() == Some(path)) {
            Some(owner) => Err(owner.id()),
            None => {
                newcomer.set_file(Some(path.to_owned()));
                Ok(())
            }
        }
    }

    /// The runner of this record, where it is live.
    #[must_use]
    pub fn get(&self, record_id: RecordId) -> Option<Arc<Live>> {
        self.read().live.values().find(|live| live.record_id == record_id).cloned()
    }

    /// All that Gitea knows, oldest first; parked ones too.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Live>> {
        let mut all: Vec<_> = self.read().live.values().cloned().collect();
        all.sort_unstable_by_key(|live| live.record_id);
        all
    }

    /// What the traffic told and the store does not have yet: each is handed out once.
    #[must_use]
    pub fn take_touches(&self) -> Vec<Touch> {
        self.read().live.values().filter_map(|live| live.take_touch()).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn add(&mut self, live: &Arc<Live>) {
        self.asleep.remove(&live.key());
        self.live.insert(live.key(), Arc::clone(live));
        let upstream = live.upstream();
        if upstream.is_apart() {
            self.apart.insert(upstream.credentials.uuid.to_ascii_lowercase());
        }
    }

    fn remove(&mut self, live: &Live) {
        let key = live.key();
        let is_it = |one: &Arc<Live>| one.record_id == live.record_id;
        // A record that ended before may have been followed by another of the same uuid.
        if self.asleep.get(&key).is_some_and(is_it) {
            self.asleep.remove(&key);
        }
        if !self.live.get(&key).is_some_and(is_it) {
            return;
        }
        self.live.remove(&key);
        if live.upstream().is_apart() {
            self.apart.remove(&live.upstream().credentials.uuid.to_ascii_lowercase());
        }
    }
}

/// Some of Gitea's databases take capital letters for small ones, so they are the same runner here.
fn small(uuid: &str) -> Cow<'_, str> {
    match uuid.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => uuid.to_ascii_lowercase().into(),
        false => uuid.into(),
    }
}
