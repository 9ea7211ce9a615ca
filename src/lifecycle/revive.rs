//! A runner that the broker itself deregistered is registered anew behind its old credentials: as with any
//! registration, what is known is written first and Gitea is asked once.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use tracing::{debug, error, info, warn};

use super::random::random_hex;
use super::register::{draining, overloaded, store_failed};
use super::wake::came_back;
use super::{Lifecycle, Live};
use crate::broker::succession::Pause;
use crate::broker::{Intent, Key};
use crate::connect::{Code, Codec, ConnectError};
use crate::fault;
use crate::gitea::CallError;
use crate::telemetry::metrics::RegistrationOutcome as Outcome;

/// How often a Declare is repeated that the runner's own one overtook.
const DECLARES: usize = 4;

/// Why a runner could not be registered anew.
struct Failed {
    outcome: Outcome,
    error: ConnectError,
    /// Gitea may be asked as soon as the runner speaks again: it was not asked now.
    not_asked: bool,
}

impl Failed {
    fn here(outcome: Outcome, error: ConnectError) -> Self {
        Self { outcome, error, not_asked: true }
    }
}

impl Lifecycle {
    /// Registers a runner anew; the caller holds its fate and has made sure that it may come back.
    pub(super) async fn revive(
        &self,
        live: &Arc<Live>,
        peer: IpAddr,
        pause: &mut Pause,
    ) -> Result<(), ConnectError> {
        let begun = Instant::now();
        if let Some(left) = pause.left(begun) {
            return Err(later(format!(
                "the last attempt to register this runner anew failed; the next may be made in {} s",
                left.as_secs() + 1
            )));
        }
        let _counted = Counted::new(&self.reviving);
        let result = self.register_anew(live, peer).await;
        let outcome = match &result {
            Ok(()) => Outcome::Revived,
            Err(failed) => failed.outcome,
        };
        self.metrics.registration(&live.scope().to_string(), outcome, begun.elapsed());
        match result {
            Ok(()) => {
                *pause = Pause::default();
                self.is_back(live).await;
                fault::point("revival-written");
                self.declare_for(live).await;
                Ok(())
            }
            Err(Failed { error, not_asked, .. }) => {
                match not_asked {
                    true => pause.not_asked(Instant::now(), self.timing.retry),
                    false => pause.failed(Instant::now(), self.timing.retry),
                }
                Err(match error.code {
                    Code::Unauthenticated | Code::PermissionDenied if not_asked => error,
                    // Whatever Gitea says of the registration, it is no reason for the runner to end.
                    _ => later(error.message).after(error.retry_after),
                })
            }
        }
    }

    async fn register_anew(&self, live: &Arc<Live>, peer: IpAddr) -> Result<(), Failed> {
        let Some(_turn) = self.turns.patiently(self.turns.next()).await else {
            return Err(Failed::here(Outcome::Rejected, overloaded()));
        };
        // While it waited for its turn, much may have changed.
        if self.is_draining() {
            return Err(Failed::here(Outcome::Rejected, draining()));
        }
        self.may_return(live, peer).map_err(|error| Failed::here(Outcome::Rejected, error))?;

        let record = live.record();
        let intent = Intent {
            nonce: random_hex::<16>(),
            scope: record.scope,
            key: Key {
                parent_id: record.parent_id,
                name: record.name,
                labels: record.labels,
                ephemeral: record.ephemeral,
                peer,
                codec: Codec::Proto,
            },
            version: record.version,
            created_at: SystemTime::now(),
        };
        fault::point("revival-begun");
        let upstream = self.ask_for(&intent).await.map_err(|(outcome, error)| Failed {
            outcome,
            error,
            // The store took nothing, or Gitea cannot be reached.
            not_asked: matches!(outcome, Outcome::Failed | Outcome::Unreachable),
        })?;
        // Something in front of Gitea may repeat its answers.
        if self.roster.has_upstream(&upstream.uuid) {
            self.roll_back(intent, &upstream).await;
            let text = "Gitea's answer names a runner that registered before";
            let error = ConnectError::new(Code::Unavailable, text);
            return Err(Failed { outcome: Outcome::Failed, error, not_asked: false });
        }
        let before = live.id();
        let event = came_back(live, peer, upstream.id, format!("its id was {before}"));
        let stored =
            self.store.revive(live.record_id, &intent.nonce, upstream.clone(), event).await;
        if let Err(error) = stored {
            self.metrics.store_writable.set(0);
            error!(%error, runner = intent.key.name, "the store took no record: undoing the registration");
            self.roll_back(intent, &upstream).await;
            return Err(Failed {
                outcome: Outcome::Failed,
                error: store_failed(),
                not_asked: false,
            });
        }
        fault::point("revival-stored");
        info!(runner = intent.key.name, id = upstream.id, before, %peer, "runner revived: registered anew");
        live.set_upstream(upstream);
        self.roster.wake(live);
        self.enrollment.joined(&live.parent_id);
        Ok(())
    }

    /// A runner that the broker has to declare makes a call: it is tried once more, and the call does not
    /// wait for that.
    pub fn declare_labels_soon(self: &Arc<Self>, live: &Arc<Live>) {
        let (this, live) = (Arc::clone(self), Arc::clone(live));
        self.running.spawn(async move { this.declare_again(&live).await });
    }

    /// Declares a runner where that is still due. Returns whether it is done.
    pub(super) async fn declare_again(&self, live: &Live) -> bool {
        // Whoever holds its fate declares it as well, or ends it.
        let Ok(_fate) = live.fate.try_lock() else { return false };
        !live.declare_is_due() || self.declare_labels(live).await
    }

    /// Declares one that was just registered anew; what fails is tried again in the background.
    async fn declare_for(&self, live: &Live) {
        if live.declare_is_due() && !self.declare_labels(live).await {
            self.settle_soon();
        }
        fault::point("revival-declared");
    }

    /// Puts the runner's own labels in the place of those that Register left in Gitea.
    async fn declare_labels(&self, live: &Live) -> bool {
        for _ in 0..DECLARES {
            let record = live.record();
            match self.declare_as(live, &record.version, &record.labels).await {
                Ok(_) => {}
                // The runner's next call brings that to light.
                Err(CallError::Unregistered) => return true,
                Err(error) => {
                    debug!(%error, runner = record.name, "runner not declared yet");
                    return false;
                }
            }
            let (version, labels) = (record.version, record.labels);
            let stored = self.store.declare(live.record_id, labels.clone(), version.clone()).await;
            if let Err(error) = stored {
                warn!(%error, runner = record.name, "the store did not take that a runner is declared");
                return false;
            }
            // Its own Declare may have come between: then Gitea may have the older labels now.
            if live.was_declared(&version, &labels) {
                return true;
            }
        }
        false
    }
}

/// One that is being registered anew; the broker's end waits for it.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The runner goes on polling: only `unauthenticated` would end it.
fn later(why: impl Into<String>) -> ConnectError {
    ConnectError::new(Code::Unavailable, why)
}
