//! Gitea says that it does not know a runner: what the runner is told, and when its record ends.
//! [`broker::lost`](crate::broker::lost) decides.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use super::adopt::Stranger;
use super::deregister::DeregisterError;
use super::tokens::By;
use super::{Lifecycle, Live};
use crate::broker::deregistration::Proof;
use crate::broker::lost::{Lost, Verdict};
use crate::broker::{Reason, RecordState, What};
use crate::connect::{Code, ConnectError};
use crate::telemetry::metrics::DeregistrationOutcome as Outcome;

/// The REST API is asked so many times before patience ends.
const QUESTIONS: u32 = 6;
/// Its fate may be held for a write of the store.
const A_WRITE: Duration = Duration::from_secs(1);

impl Lifecycle {
    /// Gitea answered a call of a known runner that it does not know it. Returns what the runner is told. Where
    /// that is final, its record has ended and its file is gone.
    pub async fn unregistered(self: &Arc<Self>, live: &Arc<Live>) -> ConnectError {
        // Whoever holds its fate for long, a deregistration above all, is about to learn the same.
        if live.state() == RecordState::Active
            && !self.is_draining()
            && let Ok(_fate) = timeout(A_WRITE, live.fate.lock()).await
        {
            // It was deleted, and the broker died or Gitea's answer was lost before that was written down.
            if let Some(reason) = live.take_leaving() {
                if let Err(error) = self.end(live, reason, By::broker()).await {
                    error!(%error, id = live.id(), "the store did not take that a runner had been deleted");
                }
                return not_yet();
            }
            self.note_lost(live);
        }
        match live.state() {
            RecordState::Lost => {}
            RecordState::Active => return not_yet(),
            RecordState::Deregistering(reason)
            | RecordState::Parked(reason)
            | RecordState::Ended(reason) => return leaving(reason),
        }
        self.ask_rest(live);
        match self.verdict(live) {
            Verdict::Dead if !self.is_draining() && self.end_lost(live).await => dead(),
            _ => not_yet(),
        }
    }

    /// Gitea accepted a call of a known runner.
    pub fn accepted(self: &Arc<Self>, live: &Arc<Live>) {
        if !live.accepted() || !live.shift(RecordState::Lost, RecordState::Active) {
            return;
        }
        self.lost().remove(live.record_id, Instant::now());
        let event = live.event("broker", What::RunnerFound);
        info!(runner = event.runner, id = live.id(), "Gitea knows the runner after all");
        self.note_event(event);
        if self.enrollment.revokes(&live.parent_id) {
            let (this, live) = (Arc::clone(self), Arc::clone(live));
            self.running.spawn(async move { this.revoke_landed(&live).await });
        }
    }

    /// Gitea answered a call of someone that the broker has no live record of that it does not know them.
    /// Returns what they are told in place of Gitea's words: a runner that was deregistered here is to stop, and
    /// to most runners Gitea's own words mean "try again".
    pub async fn ended_before(&self, stranger: &Stranger) -> Option<ConnectError> {
        let ended = match self.store.ended_by_uuid(&stranger.uuid).await {
            Ok(ended) => ended?,
            Err(error) => {
                debug!(%error, "the store does not tell which runners have ended");
                return None;
            }
        };
        ended.presented.token_is(stranger.token.expose_secret().as_bytes()).then(dead)
    }

    /// Whether so many runners are lost at once that Gitea itself is in doubt.
    #[must_use]
    pub fn gitea_is_in_doubt(&self) -> bool {
        self.lost().is_in_doubt()
    }

    pub(super) fn lost(&self) -> MutexGuard<'_, Lost> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_lost(&self, live: &Live) {
        if !live.shift(RecordState::Active, RecordState::Lost) {
            return;
        }
        let doubt = {
            let mut lost = self.lost();
            lost.add(live.record_id, Instant::now());
            lost.doubt_is_news()
        };
        let event = live.event("broker", What::RunnerLost);
        let file = live.record().file.map(|path| path.display().to_string());
        warn!(
            runner = event.runner,
            id = live.id(),
            file,
            "Gitea says that it does not know this runner: it was deleted there, or Gitea is not the one it \
             was. If that stays so for {:?}, its record ends; then remove its .runner file and register it \
             anew (`runner-broker run` does both by itself)",
            self.timing.lost
        );
        self.note_event(event);
        if doubt {
            error!(
                "Gitea does not know several runners at once, so Gitea is in doubt and none of them is removed: \
                 is gitea.url the right Gitea, and was it restored from a backup? Runners that it knows again \
                 go on by themselves. If the others are gone for good, end each with `runner-broker runner \
                 deregister`, remove their .runner files (the lines \
                 above name those that the broker wrote) and register them anew"
            );
        }
    }

    fn verdict(&self, live: &Live) -> Verdict {
        self.lost().verdict(live.record_id, Instant::now(), self.timing.lost)
    }

    /// Asks the REST API about it, in the background and not too often.
    fn ask_rest(self: &Arc<Self>, live: &Arc<Live>) {
        let every = self.timing.lost / QUESTIONS;
        if live.id() == 0
            || !self.gitea.can_list(&live.scope())
            || !self.lost().asks(live.record_id, Instant::now(), every)
        {
            return;
        }
        let this = Arc::clone(self);
        let live = Arc::clone(live);
        tokio::spawn(async move {
            let absent = match this.gitea.show_runner(&live.scope(), live.id()).await {
                // A 404 may mean that the token sees nothing at all.
                Ok(None) => this.gitea.sees(&live.scope()).await.map(|()| true),
                Ok(Some(_)) => Ok(false),
                Err(error) => Err(error),
            };
            match absent {
                Ok(true) => this.lost().absent(live.record_id),
                Ok(false) => {}
                Err(error) => {
                    debug!(%error, id = live.id(), "the REST API tells nothing of a lost runner")
                }
            }
        });
    }

    /// A lost runner is gone, and its lease is over or the broker ends. `None`: Gitea knows it after all.
    pub(super) async fn settle_lost(
        self: &Arc<Self>,
        live: &Arc<Live>,
        by: By,
    ) -> Result<Option<Outcome>, DeregisterError> {
        match self.prove(live).await? {
            Proof::Id(_) => {
                self.accepted(live);
                Ok(None)
            }
            Proof::Unregistered if self.verdict(live) == Verdict::Dead => {
                self.end(live, Reason::Lost, by).await?;
                Ok(Some(Outcome::AlreadyGone))
            }
            Proof::Unregistered => Err(DeregisterError::Lost),
        }
    }

    /// Whether one that is lost is to go, as far as that can be told without asking anybody.
    pub(super) fn is_dead(&self, live: &Live) -> bool {
        self.verdict(live) == Verdict::Dead
    }

    /// Ends its record, even where its caller goes away. Returns whether it has ended.
    async fn end_lost(self: &Arc<Self>, live: &Arc<Live>) -> bool {
        let this = Arc::clone(self);
        let live = Arc::clone(live);
        let ending = self.running.spawn(async move {
            let _fate = live.fate.lock().await;
            if !live.is_lost() || this.verdict(&live) != Verdict::Dead {
                return matches!(live.state(), RecordState::Ended(Reason::Lost));
            }
            let file = live.record().file;
            let ended = this.end(&live, Reason::Lost, By::broker()).await;
            let result = ended.map(|()| Some(Outcome::AlreadyGone)).map_err(DeregisterError::from);
            this.tell(&live, Reason::Lost, &result);
            if file.is_none() && result.is_ok() {
                warn!(
                    runner = live.record().name,
                    id = live.id(),
                    "Gitea has deleted this runner: remove its own .runner file, or it goes on with dead \
                     credentials"
                );
            }
            result.is_ok()
        });
        ending.await.unwrap_or(false)
    }
}

/// It is on its way out, or was when the call was sent. Where the broker itself took it for gone, it is
/// revived with its next call.
fn leaving(reason: Reason) -> ConnectError {
    if reason.is_revivable() { not_yet() } else { dead() }
}

fn not_yet() -> ConnectError {
    ConnectError::new(
        Code::Unavailable,
        "Gitea does not know this runner at the moment: try again; the broker's log says more",
    )
}

fn dead() -> ConnectError {
    ConnectError::new(
        Code::Unauthenticated,
        "this runner is not registered any more: remove its .runner file and register it anew",
    )
}
