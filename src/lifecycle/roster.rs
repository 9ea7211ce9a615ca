//! The live runners, in memory: who they are and what they do. What it learns from the traffic is
//! written to the store in batches, so that no passed-through request waits for a disk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use crate::broker::{Activity, Credentials, Presence, Reason, Record, RecordId, RecordState};
use crate::config::Scope;
use crate::store::Touch;

/// One live runner. What never changes is read without a lock.
pub struct Live {
    /// The broker's own number of it.
    pub record_id: RecordId,
    /// Where it serves.
    pub scope: Scope,
    /// Id of the enrollment token that it came by.
    pub parent_id: String,
    /// Whether Gitea removes it after one task.
    pub ephemeral: bool,
    /// What it shows.
    pub presented: Credentials,
    /// What Gitea knows.
    pub upstream: Credentials,
    /// Held by whoever changes its fate, so that only one does at a time.
    pub fate: tokio::sync::Mutex<()>,
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
}

impl Live {
    fn new(record: Record, now: Instant) -> Self {
        Self {
            record_id: record.record_id,
            scope: record.scope.clone(),
            parent_id: record.parent_id.clone(),
            ephemeral: record.ephemeral,
            presented: record.presented.clone(),
            upstream: record.upstream.clone(),
            fate: tokio::sync::Mutex::new(()),
            inner: Mutex::new(Inner {
                activity: Activity::new(now, record.spoke, &record.tasks),
                record,
                touched: false,
                state_touched: false,
                complaint: None,
            }),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change is a single assignment, so a poisoned record is still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runner made a call. Returns whether it was its first. `stays`: one that was to be deregistered
    /// because the broker ended is alive, so it is kept.
    pub fn called(&self, now: Instant, stays: bool) -> bool {
        let mut inner = self.inner();
        inner.touched = true;
        let first = inner.activity.called(now);
        if first {
            inner.record.spoke = true;
            inner.record.delivered = true;
        }
        if stays && inner.record.state == RecordState::Deregistering(Reason::Shutdown) {
            inner.record.state = RecordState::Active;
            inner.state_touched = true;
        }
        first
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
    }

    /// A runner file was written or removed.
    pub fn set_file(&self, file: Option<PathBuf>) {
        self.inner().record.file = file;
    }

    /// Its record moved on.
    pub fn set_state(&self, state: RecordState) {
        self.inner().record.state = state;
    }

    /// Where its record stands.
    #[must_use]
    pub fn state(&self) -> RecordState {
        self.inner().record.state
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

/// All live runners, by the uuid that they present, in small letters.
#[derive(Default)]
pub struct Roster {
    by_uuid: RwLock<HashMap<String, Arc<Live>>>,
}

impl Roster {
    /// Adds a runner that was registered or read from the store.
    pub fn insert(&self, record: Record) -> Arc<Live> {
        let live = Arc::new(Live::new(record, Instant::now()));
        self.write().insert(live.presented.uuid.to_ascii_lowercase(), Arc::clone(&live));
        live
    }

    /// Takes a runner off.
    pub fn remove(&self, live: &Live) {
        self.write().remove(&live.presented.uuid.to_ascii_lowercase());
    }

    /// The runner that these credentials belong to, where the token is right too.
    #[must_use]
    pub fn authenticate(&self, uuid: &str, token: &[u8]) -> Option<Arc<Live>> {
        // Some of Gitea's databases take capital letters for small ones, so they are the same runner here.
        let small = uuid.bytes().any(|b| b.is_ascii_uppercase()).then(|| uuid.to_ascii_lowercase());
        self.read()
            .get(small.as_deref().unwrap_or(uuid))
            .filter(|live| live.presented.token_is(token))
            .cloned()
    }

    /// Makes a path a runner's own. It is another's already: that one's id.
    pub(super) fn claim_file(&self, path: &Path, newcomer: &Live) -> Result<(), i64> {
        // Held over both steps, so that of two newcomers only one finds it free.
        let all = self.write();
        let mut others = all.values().filter(|live| live.record_id != newcomer.record_id);
        match others.find(|live| live.inner().record.file.as_deref() == Some(path)) {
            Some(owner) => Err(owner.upstream.id),
            None => {
                newcomer.set_file(Some(path.to_owned()));
                Ok(())
            }
        }
    }

    /// The runner of this record.
    #[must_use]
    pub fn get(&self, record_id: RecordId) -> Option<Arc<Live>> {
        self.read().values().find(|live| live.record_id == record_id).cloned()
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Live>> {
        let mut all: Vec<_> = self.read().values().cloned().collect();
        all.sort_unstable_by_key(|live| live.record_id);
        all
    }

    /// What the traffic told and the store does not have yet: each is handed out once.
    #[must_use]
    pub fn take_touches(&self) -> Vec<Touch> {
        self.read().values().filter_map(|live| live.take_touch()).collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Arc<Live>>> {
        self.by_uuid.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<String, Arc<Live>>> {
        self.by_uuid.write().unwrap_or_else(PoisonError::into_inner)
    }
}
