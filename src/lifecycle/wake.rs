//! A runner that was taken for gone speaks again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::{debug, error, info, warn};

use super::register::{draining, store_failed};
use super::{Lifecycle, Live};
use crate::broker::policy::Refusal;
use crate::broker::succession::{Waking, waking};
use crate::broker::{Event, Origin, RecordState, What};
use crate::connect::{Code, ConnectError};

impl Lifecycle {
    /// A runner that rests makes a call. Where it may be woken, it is live again when this returns. What is
    /// begun runs to its end even where the runner hangs up.
    ///
    /// # Errors
    /// What the runner is told in place of Gitea's answer.
    pub async fn wake(
        self: &Arc<Self>,
        live: &Arc<Live>,
        peer: IpAddr,
    ) -> Result<(), ConnectError> {
        let (this, live) = (Arc::clone(self), Arc::clone(live));
        let task = self.running.spawn(async move {
            let result = this.wake_up(&live, peer).await;
            this.has_moved();
            result
        });
        task.await.unwrap_or_else(|error| {
            let text =
                format!("the broker lost track of this runner's return ({error}): try again");
            Err(ConnectError::new(Code::Unavailable, text))
        })
    }

    /// Lets go of those that can no longer be woken.
    pub(super) fn forget_sleepers(&self) {
        let (now, within) = (SystemTime::now(), self.settings.load().lease.revive_within);
        for live in self.roster.asleep() {
            if waking(&live.record(), now, within) == Waking::Never {
                self.roster.remove(&live);
            }
        }
    }

    async fn wake_up(&self, live: &Arc<Live>, peer: IpAddr) -> Result<(), ConnectError> {
        let mut fate = live.fate.lock().await;
        let revive_within = self.settings.load().lease.revive_within;
        let waking = waking(&live.record(), SystemTime::now(), revive_within);
        match waking {
            // Somebody else's call woke it.
            Waking::GoesOn if !live.is_resting() => return Ok(()),
            Waking::GoesOn | Waking::Revival => {}
            Waking::Never => {
                if matches!(live.state(), RecordState::Ended(_)) {
                    self.roster.remove(live);
                }
                return Err(gone());
            }
        }
        if self.is_draining() {
            return Err(draining());
        }
        self.may_return(live, peer)?;
        match waking {
            Waking::Revival => self.revive(live, peer, &mut fate).await,
            _ => self.unpark(live, peer).await,
        }
    }

    /// Whether a runner may come back as far as its token, its address and the settings say.
    pub(super) fn may_return(&self, live: &Live, peer: IpAddr) -> Result<(), ConnectError> {
        let record = live.record();
        let settings = self.settings.load();
        let allowed = match live.origin {
            _ if !live.parent_id.is_empty() => self.enrollment.may_return(&live.parent_id, peer),
            Origin::Declared if !settings.runners.iter().any(|one| one.is(&record)) => {
                return Err(gone());
            }
            Origin::Adopted if live.may_be_foreign() => Err(Refusal::Scope(record.scope.clone())),
            Origin::Enrolled | Origin::Declared | Origin::Adopted => Ok(()),
        };
        let served = match settings.gitea.serves(&record.scope) {
            true => Ok(()),
            false => Err(Refusal::Scope(record.scope)),
        };
        allowed.and(served).map_err(|refusal| {
            let text = format!("this runner was deregistered and may not come back: {refusal}");
            if live.complain(text.clone()) {
                warn!(runner = record.name, %peer, reason = %refusal, "runner does not come back");
                self.note_event(Event {
                    peer: Some(peer),
                    detail: text.clone(),
                    ..live.event("runner", What::RegistrationRefused)
                });
            } else {
                debug!(runner = record.name, %peer, "runner does not come back, as told");
            }
            let code = match refusal {
                Refusal::Disabled | Refusal::Token => Code::Unauthenticated,
                _ => Code::PermissionDenied,
            };
            ConnectError::new(code, text)
        })
    }

    /// Gitea still knows it, and nobody took its identity over.
    async fn unpark(&self, live: &Arc<Live>, peer: IpAddr) -> Result<(), ConnectError> {
        let state = RecordState::Active;
        let event = came_back(live, peer, live.id(), "it was parked".into());
        if let Err(error) = self.store.set_state(live.record_id, state, Some(event)).await {
            error!(%error, id = live.id(), "the store did not take that a runner is back");
            return Err(store_failed());
        }
        live.set_state(state);
        self.enrollment.joined(&live.parent_id);
        info!(id = live.id(), "runner came back: it is no longer parked");
        self.is_back(live).await;
        Ok(())
    }

    /// What is left to do for one that is live again.
    pub(super) async fn is_back(&self, live: &Arc<Live>) {
        // Its token may have been withdrawn meanwhile.
        self.revoke_landed(live).await;
        // The file of an adopted one is not the broker's.
        if live.origin != Origin::Adopted && live.state() == RecordState::Active {
            self.write_file(live).await;
        }
    }
}

/// What the audit trail says of a runner that came back.
pub(super) fn came_back(live: &Live, peer: IpAddr, id: i64, detail: String) -> Event {
    let event = live.event("runner", What::RunnerRevived);
    Event { runner_id: Some(id), peer: Some(peer), detail, ..event }
}

fn gone() -> ConnectError {
    ConnectError::new(
        Code::Unauthenticated,
        "this runner was deregistered: remove its .runner file and register it anew",
    )
}
