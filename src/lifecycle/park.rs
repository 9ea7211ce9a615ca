//! Where there is no API token, or Gitea has no such ability, a runner that is gone for good cannot be
//! deleted there: it is parked, so that the next of its kind takes its identity over and stacks that come
//! and go add no dead runner.

use tracing::info;

use super::deregister::DeregisterError;
use super::tokens::By;
use super::{Lifecycle, Live};
use crate::broker::{Event, Reason, RecordState, What};
use crate::fault;
use crate::telemetry::metrics::DeregistrationOutcome as Outcome;

impl Lifecycle {
    /// Whether a runner that goes for this reason is parked where it cannot be deleted. One that is sent
    /// away may still be at work, and its identity is nobody else's.
    pub(super) fn parks(reason: Reason) -> bool {
        matches!(reason, Reason::Runner | Reason::Lease | Reason::Shutdown | Reason::Undeclared)
    }

    /// Said once, at the start: what is different without an API token.
    pub(super) fn tell_of_parking(&self) {
        let settings = self.settings.load();
        for one in settings.gitea.served().filter(|one| one.api_token.is_none()) {
            info!(
                scope = %one.scope,
                "there is no Gitea API token: runners that leave stay registered in Gitea and are parked for \
                 the next of their kind (same enrollment token and labels). With one \
                 (gitea.api_token_file, GITEA_API_TOKEN_FILE) the broker deletes them, mints \
                 registration tokens, and settles registrations whose answer was lost"
            );
        }
    }

    /// Parks a runner, whose fate the caller holds; it has no task in hand.
    pub(super) async fn park(
        &self,
        live: &Live,
        reason: Reason,
        by: By,
    ) -> Result<Outcome, DeregisterError> {
        self.desk.forget(live.record_id);
        let state = RecordState::Parked(reason);
        let event = Event {
            peer: by.peer,
            detail: reason.as_str().into(),
            ..live.event(by.actor, What::RunnerParked)
        };
        self.store.set_state(live.record_id, state, Some(event)).await?;
        fault::point("park-stored");
        self.remove_file(live).await;
        fault::point("file-gone");
        live.set_state(state);
        self.roster.is_parked(live);
        self.lost().remove(live.record_id, std::time::Instant::now());
        self.enrollment.left(&live.parent_id);
        self.has_moved();
        info!(
            runner = live.record().name,
            id = live.id(),
            reason = reason.as_str(),
            "runner parked: it stays registered in Gitea for the next of its kind, as it \
             cannot be deleted there"
        );
        Ok(Outcome::Parked)
    }
}
