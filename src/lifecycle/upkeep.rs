//! What goes on by itself: writing down what the traffic told, and trying Gitea and the API token.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::Lifecycle;
use crate::broker::Presence;
use crate::gitea::RestError;
use crate::store::StoreError;

/// What a runner can be doing; what the records tell beside it is counted apart.
const STATES: [&str; 4] = ["idle", "busy", "draining", "gone"];

impl Lifecycle {
    /// Writes down what the traffic told, every few seconds, for ever.
    pub async fn keep_writing(self: Arc<Self>) {
        let mut tick = interval(self.timing.flush);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed = false;
        loop {
            tick.tick().await;
            let result = self.write_changes().await;
            let failed_before = std::mem::replace(&mut failed, result.is_err());
            match result {
                Err(error) if !failed_before => {
                    self.metrics.store_writable.set(0);
                    error!(%error, "the store does not take what the traffic told; tried again");
                }
                Ok(()) if failed_before => info!("the store takes what the traffic tells again"),
                _ => {}
            }
        }
    }

    /// Writes down what the traffic told since the last time. What cannot be written is kept for the next.
    ///
    /// # Errors
    /// The store took not all of it.
    pub async fn write_changes(&self) -> Result<(), StoreError> {
        for live in self.roster.all() {
            // Whoever holds its fate writes the state itself, and must not be overtaken.
            let Ok(_fate) = live.fate.try_lock() else { continue };
            if let Some(state) = live.state_to_write() {
                self.store.set_state(live.record_id, state).await?;
                live.state_written(state);
            }
        }
        let touches = self.roster.take_touches();
        if touches.is_empty() {
            return Ok(());
        }
        let touched: Vec<_> = touches.iter().map(|touch| touch.record_id).collect();
        let written = self.store.touch(touches).await;
        if written.is_err() {
            for live in touched.into_iter().filter_map(|id| self.roster.get(id)) {
                live.note(|_| {});
            }
        }
        written
    }

    /// Tries Gitea and the API token now and then, for ever, and says when either changes.
    pub async fn keep_probing(self: Arc<Self>) {
        let mut tick = interval(self.timing.probe);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut up = None;
        let mut token = None;
        loop {
            tick.tick().await;
            let now_up = self.gitea.ping().await;
            let ok = now_up.is_ok();
            if up.replace(ok) != Some(ok) {
                match now_up {
                    Ok(()) => info!("Gitea answers"),
                    Err(error) => warn!(%error, "Gitea does not answer"),
                }
            }
            let scope = self.settings.load().gitea.scope.clone();
            if !ok || self.gitea.tokens().api.is_none() {
                continue;
            }
            let gauge = self.metrics.api_token_valid.with_label_values(&[scope.to_string()]);
            let probe = self.gitea.probe(&scope).await;
            // Only an answer tells something about the token.
            let valid = match &probe {
                Ok(()) => true,
                Err(RestError::Unauthorized { .. } | RestError::Forbidden { .. }) => false,
                Err(_) => continue,
            };
            gauge.set(i64::from(valid));
            if token.replace(valid) != Some(valid) {
                match probe {
                    Ok(()) => info!(%scope, "the API token works"),
                    Err(error) => error!(%scope, %error, "the API token does not work"),
                }
            }
        }
    }

    /// Brings the gauges up to date; called for each scrape.
    pub async fn measure(&self) {
        self.metrics.gitea_up.set(i64::from(self.gitea.is_up()));
        self.metrics.store_writable.set(i64::from(self.store.writable().await.is_ok()));
        self.metrics.set_enrollment_tokens(1);
        let scope = self.settings.load().gitea.scope.to_string();
        let mut counts = STATES.map(|state| (state, 0));
        for live in self.roster.all() {
            let state = self.state_of(&live);
            for (_, count) in counts.iter_mut().filter(|(name, _)| *name == state) {
                *count += 1;
            }
        }
        for (state, count) in counts {
            self.metrics.runners.with_label_values(&[scope.as_str(), state]).set(count);
        }
        let unclear = i64::try_from(self.unsettled()).unwrap_or(i64::MAX);
        self.metrics.runners.with_label_values(&[scope.as_str(), "unclear"]).set(unclear);
    }

    /// The word for what a runner does.
    #[must_use]
    pub fn state_of(&self, live: &super::Live) -> &'static str {
        match live.presence() {
            _ if live.is_deregistering() => "draining",
            Presence::Busy => "busy",
            Presence::Idle => "idle",
            Presence::Gone => "gone",
        }
    }
}
