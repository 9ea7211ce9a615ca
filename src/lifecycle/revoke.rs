//! Runners whose enrollment token was withdrawn together with them: they get no task from that moment on,
//! and are deregistered when they have ended the one in hand.

use std::sync::Arc;

use super::{Lifecycle, Live};
use crate::broker::{Reason, RecordState};
use crate::store::StoreError;

impl Lifecycle {
    /// Begins with all that are to go. The background goes on with them, after a restart too.
    ///
    /// # Errors
    /// The store did not take it: they get no task all the same, and the next start finds them.
    pub(super) async fn revoke_runners(&self) -> Result<(), StoreError> {
        self.revoke(self.roster.all()).await
    }

    /// One that has just landed: its token may have been withdrawn while Gitea was asked.
    ///
    /// # Errors
    /// As for all.
    pub(super) async fn revoke_landed(&self, live: &Arc<Live>) -> Result<(), StoreError> {
        self.revoke(vec![Arc::clone(live)]).await
    }

    async fn revoke(&self, runners: Vec<Arc<Live>>) -> Result<(), StoreError> {
        let revoked: Vec<_> = runners
            .into_iter()
            // The broker's end is the weakest reason; the others send the runner away as well.
            .filter(|live| {
                matches!(
                    live.state(),
                    RecordState::Active | RecordState::Deregistering(Reason::Shutdown)
                )
            })
            .filter(|live| self.enrollment.revokes(&live.parent_id))
            .collect();
        if revoked.is_empty() {
            return Ok(());
        }
        for live in &revoked {
            live.set_state(RecordState::Deregistering(Reason::Revoked));
            self.desk.forget(live.record_id);
        }
        self.settle_soon();
        self.store.revoke(revoked.iter().map(|live| live.record_id).collect()).await
    }
}
