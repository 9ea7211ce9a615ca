//! A registration that Gitea made and the broker cannot keep is undone.

use std::time::Instant;

use tracing::{error, warn};

use super::Lifecycle;
use crate::broker::{Credentials, Event, Intent, Reason, What};
use crate::gitea::DeleteAnswer;
use crate::telemetry::metrics::DeregistrationOutcome as Outcome;

impl Lifecycle {
    /// Gitea registered a runner that cannot be kept: it is deleted again, or left to be settled by its
    /// intent, which is still in the store.
    pub(super) async fn roll_back(&self, intent: Intent, credentials: &Credentials) {
        if self.roster.has_upstream(&credentials.uuid) {
            error!(
                id = credentials.id,
                "Gitea's answer names a runner that registered before, which is left alone: does \
                 something in front of Gitea repeat its answers?"
            );
            return self.add_unsettled(intent, Instant::now());
        }
        match self.gitea.delete_runner(&intent.scope, credentials.id).await {
            Ok(DeleteAnswer::Deleted) => {
                self.metrics.deregistration(Reason::Rollback, Outcome::Deleted);
                self.note_removed(&intent, credentials.id, Reason::Rollback);
                if let Err(error) = self.store.drop_intent(&intent.nonce).await {
                    error!(%error, "the store did not let go of a registration that was undone");
                    self.add_unsettled(intent, Instant::now());
                }
            }
            answer => {
                self.metrics.deregistration(Reason::Rollback, Outcome::Unreachable);
                warn!(
                    runner = intent.key.name,
                    id = credentials.id,
                    label = intent.label(),
                    answer = %match answer {
                        Err(error) => error.to_string(),
                        Ok(_) => "not found".to_owned(),
                    },
                    "the registration could not be undone yet"
                );
                self.add_unsettled(intent, Instant::now());
            }
        }
    }

    /// Notes that a runner without a record is gone from Gitea.
    pub(super) fn note_removed(&self, intent: &Intent, id: i64, reason: Reason) {
        self.note_event(Event {
            token_id: (!intent.key.parent_id.is_empty()).then(|| intent.key.parent_id.clone()),
            runner_id: Some(id),
            runner: Some(intent.key.name.clone()),
            detail: reason.as_str().into(),
            ..Event::now("broker", What::RunnerDeregistered)
        });
    }
}
