//! What is left of registrations and deregistrations whose end is not known: tried again in the
//! background, with growing waits, until Gitea has told.
//!
//! An orphan (Gitea acted, the answer was lost or the broker died) is known by the label of its intent
//! and by nothing else. Nobody has its credentials, so its label stays: a list of Gitea's runners that
//! did not move while it was read, and shows no such label, proves that there is none.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{error, info, warn};

use super::Lifecycle;
use super::deregister::Force;
use crate::broker::{Intent, Reason};
use crate::config::Scope;
use crate::gitea::{DeleteAnswer, RestError, Search};
use crate::telemetry::metrics::DeregistrationOutcome as Outcome;

const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

/// A registration of which it is not known whether Gitea acted.
#[derive(Clone)]
pub(super) struct Unsettled {
    intent: Intent,
    /// When it was last possible that Gitea still worked on it.
    since: Instant,
}

impl Lifecycle {
    pub(super) fn add_unsettled(&self, intent: Intent, since: Instant) {
        let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        unsettled.push(Unsettled { intent, since });
        self.count_unsettled(&unsettled);
        self.wake.notify_one();
    }

    /// How many registrations are unsettled.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The scope of each of them.
    pub(super) fn unsettled_scopes(&self) -> Vec<Scope> {
        let unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        unsettled.iter().map(|one| one.intent.scope.clone()).collect()
    }

    /// Settles what is unsettled, for ever.
    pub async fn keep_settling(self: Arc<Self>) {
        let mut wait = self.timing.retry;
        let mut told = HashSet::new();
        loop {
            let left = self.settle(&mut told).await;
            if left > 0 && timeout(wait, self.wake.notified()).await.is_err() {
                wait = (wait * 2).min(LONGEST_WAIT);
                continue;
            }
            if left == 0 {
                self.wake.notified().await;
            }
            // There is something new.
            wait = self.timing.retry;
        }
    }

    /// Tries once; returns how much is left. `told` holds the nonces that were complained of: each is named
    /// in the log once.
    async fn settle(self: &Arc<Self>, told: &mut HashSet<String>) -> usize {
        let mut left = 0;
        for (live, reason) in self.to_be_deregistered() {
            // The shutdown sees to them.
            if self.is_draining() {
                return 0;
            }
            // A runner that asked for it itself is on its way out, and so is its task.
            let force = match reason {
                Reason::Runner => Force::CancelTask,
                _ => Force::LeaveBusy,
            };
            left += usize::from(self.deregister_again(&live, reason, force).await.is_err());
        }
        for live in self.roster.all() {
            if self.is_draining() {
                return 0;
            }
            if live.declare_is_due() {
                left += usize::from(!self.declare_again(&live).await);
            }
        }
        let unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for one in unsettled {
            if self.is_draining() {
                return 0;
            }
            match self.settle_intent(&one).await {
                Ok(true) => {
                    told.remove(&one.intent.nonce);
                    self.forget_unsettled(&one.intent.nonce);
                }
                Ok(false) => left += 1,
                Err(error) => {
                    left += 1;
                    if told.insert(one.intent.nonce.clone()) {
                        warn!(
                            %error,
                            runner = one.intent.key.name,
                            label = one.intent.label(),
                            "an unclear registration cannot be settled yet; a runner that shows this \
                             label on Gitea's page is an orphan and may be deleted there"
                        );
                    }
                }
            }
        }
        left
    }

    /// Whether the intent is settled now.
    async fn settle_intent(&self, one: &Unsettled) -> Result<bool, RestError> {
        let intent = &one.intent;
        match self.gitea.find_by_label(&intent.scope, &intent.label()).await? {
            Search::Found(ids) => {
                for id in ids {
                    let answer = self.gitea.delete_runner(&intent.scope, id).await?;
                    if answer == DeleteAnswer::NotFound {
                        // It was in the list a moment ago: look again before it is believed.
                        return Ok(false);
                    }
                    self.metrics.deregistration(Reason::Orphan, Outcome::Deleted);
                    self.note_removed(intent, id, Reason::Orphan);
                    info!(
                        runner = intent.key.name,
                        id,
                        label = intent.label(),
                        "orphan of an unclear registration deleted"
                    );
                }
            }
            Search::Absent { steady: true }
                if one.since.elapsed() >= self.timing.absence_proves =>
            {
                info!(
                    runner = intent.key.name,
                    label = intent.label(),
                    "unclear registration settled: Gitea did not act"
                );
            }
            Search::Absent { .. } => return Ok(false),
        }
        if let Err(error) = self.store.drop_intent(&intent.nonce).await {
            error!(%error, "the store did not let go of a settled registration");
            return Ok(false);
        }
        Ok(true)
    }

    fn count_unsettled(&self, unsettled: &[Unsettled]) {
        let count = i64::try_from(unsettled.len()).unwrap_or(i64::MAX);
        self.metrics.unsettled_registrations.set(count);
    }

    fn forget_unsettled(&self, nonce: &str) {
        let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        unsettled.retain(|one| one.intent.nonce != nonce);
        self.count_unsettled(&unsettled);
    }
}
