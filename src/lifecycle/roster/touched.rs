//! Of which runners the store does not have all that the traffic told.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::broker::RecordId;

/// Two lists, so that a batch costs as much as there is to write in it, however many runners there are.
#[derive(Default)]
pub(in crate::lifecycle) struct Touched(Mutex<Lists>);

#[derive(Default)]
struct Lists {
    /// Something that a crash should not take away.
    told: Vec<RecordId>,
    /// When they were last seen, and no more.
    seen: Vec<RecordId>,
}

impl Touched {
    /// It has told something. The caller sees to it that it is listed once.
    pub(in crate::lifecycle) fn told(&self, id: RecordId) {
        self.lists().told.push(id);
    }

    /// It was seen. Likewise.
    pub(in crate::lifecycle) fn seen(&self, id: RecordId) {
        self.lists().seen.push(id);
    }

    /// Empties the one list and, where they are wanted too, the other.
    pub(super) fn take(&self, seen: bool) -> [Vec<RecordId>; 2] {
        let mut lists = self.lists();
        let seen = if seen { mem::take(&mut lists.seen) } else { Vec::new() };
        [mem::take(&mut lists.told), seen]
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
