//! Runners whose enrollment token was withdrawn together with them: they get no task from that moment on,
//! and are deregistered when they have ended the one in hand.

use std::sync::Arc;
use std::time::Instant;

use tracing::error;

use super::{Lifecycle, Live};
use crate::broker::{Reason, RecordState};

impl Lifecycle {
    /// Begins with all that are to go. The background goes on with them, after a restart too.
    pub(super) async fn revoke_runners(&self) {
        self.revoke(self.roster.all()).await;
    }

    /// One that has just landed: its token may have been withdrawn while Gitea was asked.
    pub(super) async fn revoke_landed(&self, live: &Arc<Live>) {
        self.revoke(vec![Arc::clone(live)]).await;
    }

    async fn revoke(&self, runners: Vec<Arc<Live>>) {
        let revoked: Vec<_> = runners
            .into_iter()
            .filter(|live| {
                match live.state() {
                    RecordState::Active | RecordState::Lost => true,
                    // Who is taken for gone and speaks again would stay.
                    RecordState::Deregistering(earlier) => earlier.is_revivable(),
                    RecordState::Parked(_) | RecordState::Ended(_) => false,
                }
            })
            .filter(|live| self.enrollment.revokes(&live.parent_id))
            .collect();
        if revoked.is_empty() {
            return;
        }
        for live in &revoked {
            live.set_state(RecordState::Deregistering(Reason::Revoked));
            self.lost().remove(live.record_id, Instant::now());
            self.desk.forget(live.record_id);
        }
        self.settle_soon();
        let stored = self.store.revoke(revoked.iter().map(|live| live.record_id).collect()).await;
        if let Err(error) = stored {
            // They get no task all the same, and the next start finds them by their token.
            error!(%error, "the store did not take that runners are to go");
        }
    }
}
