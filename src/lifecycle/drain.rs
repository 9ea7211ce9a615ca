//! Drains: a runner gets no task from now on, its task in hand may end, and then it is deregistered.
//!
//! The background of `settle` waits for the task and deregisters; here a drain begins, its time ends, and
//! what was switched off in Gitea for one that was called off is switched on again.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep_until;
use tracing::{debug, error, info, warn};

use super::deregister::{DeregisterError, Force};
use super::tokens::By;
use super::{Lifecycle, Live};
use crate::broker::{Event, Reason, RecordId, RecordState, What};
use crate::gitea::{RestError, SwitchAnswer};

/// How long a drain may take where nothing else is said, and anew after a restart of the broker.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(3 * 60 * 60);
/// The longest sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(60 * 60);

impl Lifecycle {
    /// From now on the runner gets no task; it is deregistered when the task in hand has ended. After
    /// `timeout`, `shutdown.busy` says what becomes of it. Of one that is drained already, only the time
    /// counts anew. It runs to its end even where the caller goes away.
    ///
    /// # Errors
    /// Nothing was begun.
    pub async fn drain(
        self: &Arc<Self>,
        live: &Arc<Live>,
        timeout: Duration,
        by: &By,
    ) -> Result<(), DeregisterError> {
        let (this, live, by) = (Arc::clone(self), Arc::clone(live), by.clone());
        let begun = self.running.spawn(async move { this.begin(&live, timeout, by).await });
        begun.await.unwrap_or_else(|error| {
            Err(DeregisterError::Refused(format!("the drain broke off: {error}")))
        })
    }

    async fn begin(
        self: &Arc<Self>,
        live: &Arc<Live>,
        timeout: Duration,
        by: By,
    ) -> Result<(), DeregisterError> {
        let _fate = live.fate.lock().await;
        if !self.gitea.can_delete(&live.scope()) {
            return Err(self.cannot_delete(&live.scope()));
        }
        let state = RecordState::Deregistering(Reason::Drain);
        let before = live.state();
        match before {
            RecordState::Ended(_) => return Ok(()),
            // It is on its way out already, and without a way back.
            RecordState::Deregistering(earlier)
                if earlier != Reason::Drain && !earlier.is_revivable() =>
            {
                return Ok(());
            }
            _ if before == state => {}
            _ => {
                let event = Event { peer: by.peer, ..live.event(by.actor, What::DrainBegun) };
                self.store.set_state(live.record_id, state, Some(event)).await?;
                live.set_state(state);
                self.lost().remove(live.record_id, Instant::now());
                if before.is_resting() {
                    self.enrollment.joined(&live.parent_id);
                }
                self.desk.forget(live.record_id);
                info!(
                    id = live.id(),
                    timeout = %humantime::format_duration(timeout),
                    "runner is drained: it gets no task from now on"
                );
            }
        }
        self.drains().insert(live.record_id, Instant::now() + timeout);
        self.switch_off(live).await;
        self.drained.notify_one();
        self.settle_soon();
        Ok(())
    }

    /// Ends drains when their time is over, until the broker itself ends. What was in Gitea before a
    /// drain that was called off is so again.
    pub async fn keep_draining(self: Arc<Self>) {
        while !self.is_draining() {
            let next = self.end_drains().await;
            tokio::select! {
                () = sleep_until(next.into()) => {}
                () = self.drained.notified() => {}
            }
        }
    }

    /// Ends those whose time is over; returns when to look again.
    async fn end_drains(self: &Arc<Self>) -> Instant {
        let now = Instant::now();
        let mut next = now + LONGEST_SLEEP;
        let mut over = Vec::new();
        {
            let mut drains = self.drains();
            let mut going = HashMap::new();
            for (live, _) in
                self.to_be_deregistered().into_iter().filter(|(_, reason)| *reason == Reason::Drain)
            {
                let id = live.record_id;
                // One from before a restart has its time anew.
                let end = drains.get(&id).copied().unwrap_or(now + DRAIN_TIMEOUT);
                going.insert(id, end);
                match end <= now {
                    true => over.push(live),
                    false => next = next.min(end),
                }
            }
            *drains = going;
        }
        for live in over {
            if !self.time_is_over(&live).await {
                let again = Instant::now() + self.timing.probe;
                self.drains().insert(live.record_id, again);
                next = next.min(again);
            }
        }
        let switched_off = |live: &Live| live.state() == RecordState::Active && live.is_disabled();
        for live in self.roster.all_that(switched_off) {
            if !self.switch_on(&live).await {
                next = next.min(Instant::now() + self.timing.probe);
            }
        }
        next
    }

    /// Whether the drain has ended by that.
    async fn time_is_over(self: &Arc<Self>, live: &Arc<Live>) -> bool {
        let reason = Reason::Drain;
        if self.force_at_shutdown() == Force::CancelTask {
            match self.attempt(live, reason, Force::CancelTask, By::broker(), true).await {
                Ok(_) => return true,
                Err(DeregisterError::Unreachable(_) | DeregisterError::Store(_)) => return false,
                Err(_) => {}
            }
        }
        match self.call_off(live).await {
            Ok(()) => true,
            Err(error) => {
                error!(%error, "the store did not take that a drain was called off");
                false
            }
        }
    }

    /// It could not be deregistered in time: it gets tasks again.
    async fn call_off(&self, live: &Live) -> Result<(), DeregisterError> {
        {
            let _fate = live.fate.lock().await;
            if live.state() != RecordState::Deregistering(Reason::Drain) {
                return Ok(());
            }
            let state = match self.enrollment.revokes(&live.parent_id) {
                true => RecordState::Deregistering(Reason::Revoked),
                false => RecordState::Active,
            };
            let event = Event {
                detail: "not deregistered in time".into(),
                ..live.event("broker", What::DrainEnded)
            };
            self.store.set_state(live.record_id, state, Some(event)).await?;
            live.set_state(state);
        }
        self.drains().remove(&live.record_id);
        self.has_moved();
        let task = live.tasks().first().copied();
        warn!(
            id = live.id(),
            task, "the drain is called off, as its time is over: the runner gets tasks again"
        );
        Ok(())
    }

    /// Has Gitea keep tasks from a runner, where it can, so that one that dials Gitea itself gets none
    /// either. The caller holds its fate.
    pub(super) async fn switch_off(&self, live: &Live) {
        let id = live.id();
        if id == 0 || !self.gitea.has_api_token(&live.scope()) || !self.gitea.can_switch() {
            return;
        }
        if !live.is_disabled() {
            // What an admin has switched off is not ours to switch on.
            match self.gitea.show_runner(&live.scope(), id).await {
                Ok(Some(runner)) if !runner.disabled => {}
                Ok(_) => return,
                Err(error) => return not_switched(id, &error),
            }
            // Before it is done, so that a crash leaves none switched off for good.
            if !self.keep_disabled(live, true).await {
                return;
            }
        }
        match self.gitea.switch_runner(&live.scope(), id, true).await {
            Ok(SwitchAnswer::Done) => {}
            Ok(SwitchAnswer::NotFound | SwitchAnswer::Unsupported) => {
                self.keep_disabled(live, false).await;
            }
            // It may be off, and is tried again.
            Err(error) => not_switched(id, &error),
        }
    }

    /// Has Gitea give a runner tasks again that the broker kept them from. Returns whether that is done.
    async fn switch_on(&self, live: &Live) -> bool {
        let _fate = live.fate.lock().await;
        if live.state() != RecordState::Active || !live.is_disabled() {
            return true;
        }
        match self.gitea.switch_runner(&live.scope(), live.id(), false).await {
            Ok(_) => self.keep_disabled(live, false).await,
            Err(error) => {
                if live.complain(error.to_string()) {
                    warn!(
                        id = live.id(),
                        %error,
                        "the runner is still switched off in Gitea and gets no task; tried again"
                    );
                }
                false
            }
        }
    }

    async fn keep_disabled(&self, live: &Live, disabled: bool) -> bool {
        match self.store.set_disabled(live.record_id, disabled).await {
            Ok(()) => {
                live.set_disabled(disabled);
                true
            }
            Err(error) => {
                error!(%error, "the store did not take whether a runner is switched off");
                false
            }
        }
    }

    fn drains(&self) -> MutexGuard<'_, HashMap<RecordId, Instant>> {
        self.drains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_switched(id: i64, error: &RestError) {
    debug!(id, %error, "the runner is not switched off in Gitea");
}
