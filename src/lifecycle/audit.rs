//! The audit trail. What changes a record is written with it; what changes nothing, such as a refusal,
//! waits here for the next batch.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::UNIX_EPOCH;

use tracing::{info, warn};

use super::Lifecycle;
use crate::broker::{Event, What};
use crate::store::{EventFilter, StoreError};

/// Most events that wait for the next batch: whoever knocks faster than that is in the log alone.
const MAX_PENDING: usize = 4096;

/// After so many of them, those that are too many are forgotten at once: a flood fills no disk.
const PRUNE_AFTER: usize = 20_000;

impl Lifecycle {
    /// Notes an event that changes nothing else; it is written with the next batch.
    pub fn note_event(&self, event: Event) {
        // The others have a line of their own, which tells more.
        if matches!(event.what, What::AdminSignedIn | What::AdminRefused | What::ExchangeRefused) {
            tell(&event);
        }
        let mut pending = self.pending_events.lock().unwrap_or_else(PoisonError::into_inner);
        match pending.len() {
            MAX_PENDING => {
                warn!(what = %event.what, "the audit trail is too fast to be kept: left out")
            }
            _ => pending.push(event),
        }
    }

    /// The audit trail, latest first; what the traffic told is in it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, StoreError> {
        self.write_events().await?;
        self.store.events(filter).await
    }

    /// Writes down what waits, what the settings declared first; what cannot be written waits on.
    pub(super) async fn write_events(&self) -> Result<(), StoreError> {
        // One at a time: whoever comes later finds in the store what an earlier one has taken.
        let _writing = self.writing_events.lock().await;
        self.write_declared().await?;
        let lock = || self.pending_events.lock().unwrap_or_else(PoisonError::into_inner);
        let events = std::mem::take(&mut *lock());
        if events.is_empty() {
            return Ok(());
        }
        let written = self.store.insert_events(events.clone()).await;
        if written.is_ok() && self.since_pruned.fetch_add(events.len(), Relaxed) > PRUNE_AFTER {
            self.prune_events().await?;
        }
        if written.is_err() {
            let mut pending = lock();
            let newer = std::mem::replace(&mut *pending, events);
            pending.extend(newer);
            pending.truncate(MAX_PENDING);
        }
        written
    }

    /// Forgets events of long ago, and refusals that are too many.
    pub(super) async fn prune_events(&self) -> Result<(), StoreError> {
        self.since_pruned.store(0, Relaxed);
        let keep = self.settings.load().store.keep_events;
        let before = self.store.lived_until().checked_sub(keep).unwrap_or(UNIX_EPOCH);
        self.store.prune_events(before).await
    }
}

/// Tells an event in the log, too.
pub(super) fn tell(event: &Event) {
    info!(
        what = %event.what,
        actor = event.actor,
        token = event.token_id,
        peer = event.peer.map(tracing::field::display),
        detail = event.detail,
        "audit"
    );
}
