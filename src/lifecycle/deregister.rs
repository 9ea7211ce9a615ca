//! A deregistration, step by step: prove whose id it is, delete it in Gitea, end the record, remove the
//! file. What fails on the way is tried again in the background and at the next start.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, info, warn};

mod cancel;
mod error;

pub use error::DeregisterError;
pub(super) use error::{call_failed, rest_failed};

use super::Lifecycle;
use super::live::Live;
use super::tokens::By;
use crate::broker::deregistration::{
    Absence, Deletion, Proof, Step, absence, after_delete, before_delete,
};
use crate::broker::{Event, Origin, Reason, RecordState, What};
use crate::config::Scope;
use crate::fault;
use crate::gitea::{DeleteAnswer, token_scope};
use crate::store::StoreError;
use crate::telemetry::metrics::DeregistrationOutcome as Outcome;

/// How long a poll may be on its way: a runner gives it this time.
const POLL_LIMIT: Duration = Duration::from_secs(5);

/// What a deletion found.
enum Found {
    /// Gitea did not know the runner, before anything was deleted.
    WasGone,
    /// It is gone now.
    Now(Outcome),
}

/// What happens to a runner with a task in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// It is left.
    LeaveBusy,
    /// Its task is reported as cancelled first: one that is just deleted strands its task.
    CancelTask,
}

impl Lifecycle {
    /// Deregisters a runner. It runs to its end even where the caller goes away. A runner that is gone
    /// already is a success. What fails is tried again in the background.
    ///
    /// # Errors
    /// Why the runner is still registered.
    pub async fn deregister(
        self: &Arc<Self>,
        live: &Arc<Live>,
        reason: Reason,
        force: Force,
        by: &By,
    ) -> Result<(), DeregisterError> {
        self.attempt(live, reason, force, by.clone(), false).await.map(drop)
    }

    /// Tries again what was begun; one that was called off meanwhile is let be.
    pub(super) async fn deregister_again(
        self: &Arc<Self>,
        live: &Arc<Live>,
        reason: Reason,
        force: Force,
    ) -> Result<(), DeregisterError> {
        self.attempt(live, reason, force, By::broker(), true).await.map(drop)
    }

    /// `again`: only where it was begun for this reason. Returns what came of it; `None`: the runner is
    /// alive and stays.
    pub(super) async fn attempt(
        self: &Arc<Self>,
        live: &Arc<Live>,
        reason: Reason,
        force: Force,
        by: By,
        again: bool,
    ) -> Result<Option<Outcome>, DeregisterError> {
        let this = Arc::clone(self);
        let (settled, live) = (live, Arc::clone(live));
        let task = self.running.spawn(async move {
            let _fate = live.fate.lock().await;
            let reason = match live.state() {
                RecordState::Ended(earlier)
                    if reason == Reason::Runner && earlier.is_revivable() =>
                {
                    // It asked itself, so it does not come back.
                    let ended = RecordState::Ended(reason);
                    this.store.set_state(live.record_id, ended, None).await?;
                    live.set_state(ended);
                    this.roster.remove(&live);
                    return Ok(Some(Outcome::AlreadyGone));
                }
                RecordState::Ended(_) => return Ok(Some(Outcome::AlreadyGone)),
                RecordState::Parked(earlier) if Self::parks(reason) => {
                    if reason == Reason::Runner && earlier.is_revivable() {
                        let parked = RecordState::Parked(reason);
                        this.store.set_state(live.record_id, parked, None).await?;
                        live.set_state(parked);
                    }
                    return Ok(Some(Outcome::Parked));
                }
                state if again && state != RecordState::Deregistering(reason) => return Ok(None),
                // That it is taken for gone is the weakest reason: who was sent away before does not come
                // back.
                RecordState::Deregistering(earlier) if reason.is_revivable() => earlier,
                _ => reason,
            };
            let result = this.delete(&live, reason, force, by).await;
            this.tell(&live, reason, &result);
            result
        });
        let result = task.await.unwrap_or_else(|error| {
            Err(DeregisterError::Refused(format!("the attempt broke off: {error}")))
        });
        if result.is_err() && !again && settled.is_deregistering() && !self.is_draining() {
            self.settle_soon();
        }
        result
    }

    pub(super) fn tell(
        &self,
        live: &Live,
        reason: Reason,
        result: &Result<Option<Outcome>, DeregisterError>,
    ) {
        let record = live.record();
        let (runner, id, reason_word) = (&record.name, record.upstream.id, reason.as_str());
        match result {
            Ok(Some(outcome)) => {
                self.metrics.deregistration(reason, *outcome);
                if *outcome == Outcome::Parked {
                    return;
                }
                info!(
                    runner,
                    id,
                    reason = reason_word,
                    outcome = outcome.as_str(),
                    "runner deregistered"
                );
            }
            Ok(None) => info!(runner, id, "runner came back in time: it stays registered"),
            Err(error) => {
                self.metrics.deregistration(reason, error.outcome());
                if matches!(error, DeregisterError::Lost) {
                    return;
                }
                if live.complain(error.to_string()) {
                    warn!(runner, id, reason = reason_word, %error, "runner is still registered");
                } else {
                    debug!(runner, id, reason = reason_word, "runner is still registered, as told");
                }
            }
        }
    }

    /// `None`: the runner came back in time.
    async fn delete(
        self: &Arc<Self>,
        live: &Arc<Live>,
        reason: Reason,
        force: Force,
        by: By,
    ) -> Result<Option<Outcome>, DeregisterError> {
        spare_adopted(live, reason)?;
        if live.is_lost() && reason.is_revivable() {
            return self.settle_lost(live, by).await;
        }
        if matches!(reason, Reason::Drain | Reason::Revoked) {
            self.switch_off(live).await;
        }
        spare_busy(live, force)?;
        if !self.gitea.can_delete(&live.scope()) {
            return self.without_deletion(live, reason, by).await;
        }
        let before = live.state();
        let state = RecordState::Deregistering(reason);
        if before != state {
            self.store.set_state(live.record_id, state, None).await?;
            fault::point("deregistering-stored");
            live.set_state(state);
            if before.is_resting() {
                // Until it is gone, it is one of its token's again.
                self.enrollment.joined(&live.parent_id);
            }
        }
        self.desk.forget(live.record_id);

        let (reason, deleted) = match self.delete_in_gitea(live, reason, force).await {
            Ok(Some(Found::WasGone)) => match absence(reason, before, live.ephemeral) {
                Absence::Gone(reason) => (reason, Outcome::AlreadyGone),
                Absence::Lost => {
                    self.spare(live).await?;
                    self.note_lost(live);
                    return Err(DeregisterError::Lost);
                }
            },
            Ok(Some(Found::Now(outcome))) => (reason, outcome),
            Ok(None) => {
                self.spare(live).await?;
                return Ok(None);
            }
            Err(DeregisterError::SwitchedOff) => {
                self.spare(live).await?;
                return Err(DeregisterError::SwitchedOff);
            }
            Err(error) => {
                let refused = matches!(error, DeregisterError::Refused(_));
                let busy = matches!(error, DeregisterError::Busy(_));
                // A runner that an admin could not remove goes on getting tasks. One that asked itself is
                // on its way out, and so is one whose token was withdrawn with it; what the broker's end
                // began is for the next start.
                if reason != Reason::Revoked && (busy || (refused && reason == Reason::Admin)) {
                    let before = match self.enrollment.revokes(&live.parent_id) {
                        true => RecordState::Deregistering(Reason::Revoked),
                        false => before,
                    };
                    self.store.set_state(live.record_id, before, None).await?;
                    live.set_state(before);
                    if before.is_resting() {
                        self.enrollment.left(&live.parent_id);
                    }
                }
                return Err(error);
            }
        };
        self.end(live, reason, by).await?;
        Ok(Some(deleted))
    }

    /// Why runners of this scope cannot be deleted.
    pub(super) fn cannot_delete(&self, scope: &Scope) -> DeregisterError {
        match self.gitea.has_api_token(scope) {
            true => DeregisterError::NoAbility(self.gitea.abilities().gitea()),
            false => DeregisterError::NoApiToken(token_scope(scope)),
        }
    }

    /// It cannot be deleted with an API token, so it is parked, unless Gitea has removed it by itself.
    async fn without_deletion(
        &self,
        live: &Arc<Live>,
        reason: Reason,
        by: By,
    ) -> Result<Option<Outcome>, DeregisterError> {
        // One that may be well alive must not become another's.
        let unseen = reason.is_revivable() && self.is_unseen(live);
        if !Self::parks(reason) || unseen {
            return Err(self.cannot_delete(&live.scope()));
        }
        self.cancel_tasks(live, reason).await?;
        if reason != Reason::Lease {
            return self.let_go(live, reason, by).await.map(Some);
        }
        // A call calls it off.
        let (before, state) = (live.state(), RecordState::Deregistering(reason));
        live.set_state(state);
        let proof = match self.prove(live).await {
            Ok(proof) => self.poll_ends(live).await.map(|()| proof),
            Err(error) => Err(error),
        };
        if live.state() != state {
            return Ok(None);
        }
        live.set_state(before);
        match (proof?, absence(reason, before, live.ephemeral)) {
            (Proof::Id(_), _) => self.let_go(live, reason, by).await.map(Some),
            (Proof::Unregistered, Absence::Gone(reason)) => {
                self.end(live, reason, by).await?;
                Ok(Some(Outcome::AlreadyGone))
            }
            (Proof::Unregistered, Absence::Lost) => {
                self.note_lost(live);
                Err(DeregisterError::Lost)
            }
        }
    }

    /// Deregisters it with its own credentials where that is possible, else parks it.
    async fn let_go(
        &self,
        live: &Arc<Live>,
        reason: Reason,
        by: By,
    ) -> Result<Outcome, DeregisterError> {
        if self.gitea.abilities().deregister == Some(true) {
            match self.gitea.deregister(&live.upstream().credentials).await {
                Ok(()) => {
                    self.end(live, reason, by).await?;
                    return Ok(Outcome::Deleted);
                }
                Err(error) => debug!(id = live.id(), %error, "the runner cannot deregister itself"),
            }
        }
        self.park(live, reason, by).await
    }

    /// It is gone from Gitea: ends its record.
    pub(super) async fn end(
        &self,
        live: &Arc<Live>,
        reason: Reason,
        by: By,
    ) -> Result<(), StoreError> {
        let state = RecordState::Ended(reason);
        let event = Event {
            peer: by.peer,
            detail: reason.as_str().into(),
            ..live.event(by.actor, What::RunnerDeregistered)
        };
        self.store.set_state(live.record_id, state, Some(event)).await?;
        fault::point("end-stored");
        // A file whose record has not ended is never missing; one that a crash leaves goes at the next start.
        self.remove_file(live).await;
        fault::point("file-gone");
        let rested = live.is_resting();
        live.set_state(state);
        self.lost().remove(live.record_id, std::time::Instant::now());
        match reason.is_revivable() {
            true => self.roster.lay_down(live),
            false => self.roster.remove(live),
        }
        if !rested {
            self.enrollment.left(&live.parent_id);
        }
        self.has_moved();
        Ok(())
    }

    /// An ephemeral runner has done its one task, and Gitea removes it by itself: ends its record once its
    /// credentials are good for nothing any more. Where that cannot be told, the record stays.
    pub fn ephemeral_done(self: &Arc<Self>, live: &Arc<Live>) {
        let this = Arc::clone(self);
        let live = Arc::clone(live);
        self.running.spawn(async move {
            let _fate = live.fate.lock().await;
            if matches!(live.state(), RecordState::Ended(_))
                || !matches!(this.prove(&live).await, Ok(Proof::Unregistered))
            {
                return;
            }
            let reason = Reason::Ephemeral;
            let ended = this.end(&live, reason, By::broker()).await;
            let result = ended.map(|()| Some(Outcome::AlreadyGone)).map_err(DeregisterError::from);
            this.tell(&live, reason, &result);
        });
    }

    /// Until then Gitea may have given the runner a task that nobody knows of. No further poll gets through.
    async fn poll_ends(&self, live: &Live) -> Result<(), DeregisterError> {
        let ended = async {
            loop {
                let moved = self.next_move();
                if !live.is_polling() {
                    return;
                }
                moved.await;
            }
        };
        timeout(POLL_LIMIT, ended).await.map_err(|_| {
            DeregisterError::Unreachable("it has not answered the runner's last poll".into())
        })
    }

    /// Rule: before a runner is deleted, its own credentials name the same id.
    async fn delete_in_gitea(
        &self,
        live: &Live,
        reason: Reason,
        force: Force,
    ) -> Result<Option<Found>, DeregisterError> {
        if !self.look(live, reason).await? {
            return Ok(None);
        }
        if force == Force::LeaveBusy && live.is_busy_elsewhere() {
            return Err(DeregisterError::Busy(None));
        }
        self.cancel_tasks(live, reason).await?;
        let proof = self.prove(live).await?;
        let id = match (live.id(), proof) {
            (0, Proof::Id(named)) => named,
            (id, _) => id,
        };
        match before_delete(proof, id) {
            Step::Delete => {}
            Step::Gone => return Ok(Some(Found::WasGone)),
            Step::OtherId(other) => {
                return Err(DeregisterError::Refused(format!(
                    "Gitea now knows this runner by id {other}, the record says {id}: was Gitea \
                     restored from a backup? Nothing was deleted; delete the runner on Gitea's page"
                )));
            }
            Step::NotPermitted => return Err(self.not_permitted(live)),
        }
        // While Gitea was asked, the runner may have spoken, or a poll may have brought it a task.
        self.poll_ends(live).await?;
        if live.state() != RecordState::Deregistering(reason) {
            return Ok(None);
        }
        spare_busy(live, force)?;
        self.cancel_tasks(live, reason).await?;
        let deletion = match self.gitea.delete_runner(&live.scope(), id).await {
            Ok(DeleteAnswer::Deleted) => {
                fault::point("runner-deleted");
                Deletion::Deleted
            }
            Ok(DeleteAnswer::NotFound) => Deletion::NotFound,
            Err(error) => {
                live.may_be_deleted(reason);
                return Err(rest_failed(error));
            }
        };
        let again = match deletion {
            Deletion::Deleted => None,
            Deletion::NotFound => Some(self.prove(live).await?),
        };
        match after_delete(deletion, again) {
            Step::Gone if deletion == Deletion::Deleted => Ok(Some(Found::Now(Outcome::Deleted))),
            Step::Gone => Ok(Some(Found::Now(Outcome::AlreadyGone))),
            _ => Err(self.not_permitted(live)),
        }
    }

    fn not_permitted(&self, live: &Live) -> DeregisterError {
        DeregisterError::Refused(format!(
            "Gitea hides runner {} from the broker's API token, although the runner is there: give \
             the token the scope {} and an owner who administers {}",
            live.id(),
            token_scope(&live.scope()),
            live.scope()
        ))
    }

    /// What the settings say of busy runners at shutdown.
    #[must_use]
    pub fn force_at_shutdown(&self) -> Force {
        match self.settings.load().shutdown.busy {
            crate::config::Busy::Leave => Force::LeaveBusy,
            crate::config::Busy::Cancel => Force::CancelTask,
        }
    }

    /// Runners whose deregistration was begun and is not done.
    pub(super) fn to_be_deregistered(&self) -> Vec<(Arc<Live>, Reason)> {
        let mut leaving = Vec::new();
        self.roster.look(|live| {
            if let RecordState::Deregistering(reason) = live.state() {
                leaving.push((Arc::clone(live), reason));
            }
        });
        leaving
    }
}

/// Of an adopted runner less is known. One that asks itself tells its id by the Declare that proves it.
fn spare_adopted(live: &Live, reason: Reason) -> Result<(), DeregisterError> {
    if live.origin == Origin::Adopted && reason.is_revivable() && !live.spoke() {
        return Err(DeregisterError::NotMoved);
    }
    match (live.id(), reason) {
        (0, Reason::Runner) => Ok(()),
        (0, _) => Err(DeregisterError::NotTold),
        _ if live.may_be_foreign() && reason.is_revivable() => Err(DeregisterError::Foreign),
        _ => Ok(()),
    }
}

/// A runner with a task is never just deleted: that strands the task.
fn spare_busy(live: &Live, force: Force) -> Result<(), DeregisterError> {
    match (force, live.tasks().first()) {
        (Force::LeaveBusy, Some(&task)) => Err(DeregisterError::Busy(Some(task))),
        _ => Ok(()),
    }
}
