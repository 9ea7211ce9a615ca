//! The runners, in memory. What they learn from the traffic is written to the store in batches, so that no
//! passed-through request waits for a disk.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

mod parked;
#[cfg(test)]
mod tests;
mod touched;

use super::Live;
use crate::broker::succession::Newcomer;
use crate::broker::{Origin, Record, RecordId, RecordState};
use parked::Parked;
pub(super) use touched::Touched;

/// All runners. Whatever a request asks of it is answered without a look at all of them.
#[derive(Default)]
pub struct Roster {
    known: RwLock<Known>,
    touched: Arc<Touched>,
}

#[derive(Default)]
struct Known {
    /// Those that Gitea knows, parked ones too, by the uuid that they present, in small letters.
    live: HashMap<String, Arc<Live>>,
    /// The same, oldest first.
    ids: BTreeMap<RecordId, Arc<Live>>,
    /// Those that ended and may be revived, by what they present.
    asleep: HashMap<String, Arc<Live>>,
    /// What Gitea knows runners by that show something else. Who shows one of these had it before, and it
    /// is another's now.
    apart: HashSet<String>,
    /// Who wrote each runner file last; whether it still owns that, it tells itself.
    files: HashMap<PathBuf, RecordId>,
    /// Those of the live ones that are parked.
    parked: Parked,
    /// How many of the live ones were adopted.
    adopted: usize,
}

impl Roster {
    /// Adds a runner that was registered or read from the store.
    pub fn insert(&self, record: Record) -> Arc<Live> {
        let live = self.make(record);
        self.wake(&live);
        live
    }

    fn make(&self, record: Record) -> Arc<Live> {
        Arc::new(Live::new(record, Instant::now(), Arc::clone(&self.touched)))
    }

    /// Adds one that ended and may be revived.
    pub(super) fn insert_asleep(&self, record: Record) {
        let live = self.make(record);
        self.write().asleep.insert(live.key(), live);
    }

    /// One that is live, or is so again, perhaps with other credentials in Gitea.
    pub(super) fn wake(&self, live: &Arc<Live>) {
        self.write().add(live);
        // What was touched while it slept was passed over.
        live.touch_again();
    }

    /// Takes a runner off.
    pub fn remove(&self, live: &Live) {
        self.write().remove(live);
    }

    /// Puts a newcomer in the place of a parked runner, as one step: what Gitea knows that one by is the
    /// newcomer's from now on, and at no moment anybody's.
    pub(super) fn take_over(&self, parked: &Arc<Live>, newcomer: Record) -> Arc<Live> {
        let live = self.make(newcomer);
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

    /// How many of the live ones were adopted.
    #[must_use]
    pub(super) fn adopted(&self) -> usize {
        self.read().adopted
    }

    /// Whether Gitea knows one of the live runners by this.
    pub(super) fn has_upstream(&self, uuid: &str) -> bool {
        let uuid = small(uuid);
        let known = self.read();
        known.apart.contains(&*uuid)
            || known.live.get(&*uuid).is_some_and(|live| !live.upstream().is_apart())
    }

    /// Makes a path a runner's own. It is another's already: that one's id.
    pub(super) fn claim_file(&self, path: &Path, newcomer: &Live) -> Result<(), i64> {
        // Held over both steps, so that of two newcomers only one finds it free.
        let mut known = self.write();
        match known.owner(path).filter(|owner| owner.record_id != newcomer.record_id) {
            Some(owner) => Err(owner.id()),
            None => {
                known.files.insert(path.to_owned(), newcomer.record_id);
                newcomer.set_file(Some(path.to_owned()));
                Ok(())
            }
        }
    }

    /// A runner has no file any more.
    pub(super) fn release_file(&self, live: &Live) {
        let mut known = self.write();
        known.release(live);
        live.set_file(None);
    }

    /// A runner was parked.
    pub(super) fn is_parked(&self, live: &Live) {
        self.write().parked.add(&live.record());
    }

    /// Parked runners whose identity a newcomer may take over, the first to be tried first: some, not all.
    pub(super) fn parked_for(&self, newcomer: &Newcomer<'_>) -> Vec<Arc<Live>> {
        let mut known = self.write();
        let Known { ids, parked, .. } = &mut *known;
        parked.find(newcomer, |id| ids.get(&id).cloned())
    }

    /// The runner of this record, where it is live.
    #[must_use]
    pub fn get(&self, record_id: RecordId) -> Option<Arc<Live>> {
        self.read().ids.get(&record_id).cloned()
    }

    /// The runner of this record, where it is parked or ended and may be revived.
    pub(super) fn resting(&self, record: &Record) -> Option<Arc<Live>> {
        let uuid = small(&record.presented.uuid);
        let known = self.read();
        let all = known.live.get(&*uuid).into_iter().chain(known.asleep.get(&*uuid));
        let mut its = all.filter(|live| live.record_id == record.record_id);
        its.find(|live| live.is_resting()).cloned()
    }

    /// All that Gitea knows, oldest first; parked ones too.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Live>> {
        self.read().ids.values().cloned().collect()
    }

    /// Shows all of them, in the same order. Nobody is found, added or removed meanwhile.
    pub fn look(&self, see: impl FnMut(&Arc<Live>)) {
        self.read().ids.values().for_each(see);
    }

    /// Those that are wanted, in the same order.
    #[must_use]
    pub fn all_that(&self, wanted: impl Fn(&Live) -> bool) -> Vec<Arc<Live>> {
        let known = self.read();
        known.ids.values().filter(|live| wanted(live)).cloned().collect()
    }

    /// How many Gitea knows, parked ones too.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().ids.len()
    }

    /// Whether Gitea knows none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The live ones of which the store does not have all that the traffic told; each is handed out once.
    /// `seen`: also those of which it only lacks when they were last seen.
    #[must_use]
    pub(super) fn take_touched(&self, seen: bool) -> Vec<Arc<Live>> {
        let [told, seen] = self.touched.take(seen);
        let known = self.read();
        let mut touched = Vec::with_capacity(told.len() + seen.len());
        for (ids, is_told) in [(told, true), (seen, false)] {
            for live in ids.iter().filter_map(|id| known.ids.get(id)) {
                live.off_list(is_told);
                touched.push(Arc::clone(live));
            }
        }
        touched
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
        let key = live.key();
        self.asleep.remove(&key);
        let before = self.live.insert(key, Arc::clone(live));
        if let Some(before) = before.filter(|before| before.record_id != live.record_id) {
            self.forget(&before);
        }
        if self.ids.insert(live.record_id, Arc::clone(live)).is_none() {
            self.adopted += usize::from(live.origin == Origin::Adopted);
        }
        let upstream = live.upstream();
        if upstream.is_apart() {
            self.apart.insert(upstream.credentials.uuid.to_ascii_lowercase());
        }
        // No copy of the record is made here: what is freed between two runners would come to lie between them, and
        // whoever looks at all of them would find them scattered.
        if let Some(path) = live.file()
            && self.owner(&path).is_none()
        {
            self.files.insert(path, live.record_id);
        }
        if matches!(live.state(), RecordState::Parked(_)) {
            self.parked.add(&live.record());
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
        self.forget(live);
        if live.upstream().is_apart() {
            self.apart.remove(&live.upstream().credentials.uuid.to_ascii_lowercase());
        }
    }

    /// What is known of a live one beside its credentials.
    fn forget(&mut self, live: &Live) {
        if self.ids.remove(&live.record_id).is_some() {
            self.adopted -= usize::from(live.origin == Origin::Adopted);
        }
        self.release(live);
        self.parked.remove(&live.record());
    }

    /// Whose runner file this is.
    fn owner(&self, path: &Path) -> Option<&Arc<Live>> {
        let owner = self.files.get(path).and_then(|id| self.ids.get(id))?;
        owner.has_file(path).then_some(owner)
    }

    fn release(&mut self, live: &Live) {
        if let Some(path) = live.file()
            && self.files.get(&path) == Some(&live.record_id)
        {
            self.files.remove(&path);
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
