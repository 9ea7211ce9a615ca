//! The runners, in memory. What they learn from the traffic is written to the store in batches, so that no
//! passed-through request waits for a disk.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use super::Live;
use crate::broker::{Origin, Record, RecordId, RecordState};
use crate::store::Touch;

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
        match others.find(|live| live.has_file(path)) {
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

    /// The runner of this record, where it is parked or ended and may be revived.
    pub(super) fn resting(&self, record_id: RecordId) -> Option<Arc<Live>> {
        let known = self.read();
        let mut all = known.live.values().chain(known.asleep.values());
        all.find(|live| live.record_id == record_id && live.is_resting()).cloned()
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
