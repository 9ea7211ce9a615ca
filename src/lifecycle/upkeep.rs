//! What goes on by itself: writing down what the traffic told, and trying Gitea and the API token.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{error, info, warn};

use super::{Lifecycle, Live};
use crate::broker::token::{Origin, State};
use crate::broker::{Presence, RecordState};
use crate::config::Scope;
use crate::gitea::RestError;
use crate::store::StoreError;

/// What a runner can be doing.
pub const STATES: [&str; 7] = ["idle", "busy", "draining", "gone", "parked", "lost", UNCLEAR];
/// A registration of which it is not known whether Gitea acted counts as a runner in this state.
pub const UNCLEAR: &str = "unclear";

/// How often tokens and events of long ago are forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(60 * 60);

/// When runners were last seen is written with each so many-th batch: every poll changes it, and after a crash
/// nothing hangs on it.
const SEEN_EVERY: u32 = 30;

/// How long it is believed what Gitea can do.
const ABILITIES_AGE: Duration = Duration::from_secs(10 * 60);

/// How long the store's last proof is believed: everyone may ask for it, and each costs a write.
const PROOF_AGE: Duration = Duration::from_secs(1);
/// How long a proof may take; a disk that hangs takes no writes.
const PROOF_LIMIT: Duration = Duration::from_secs(2);

/// The last proof that the store takes writes, or why not.
pub(super) type Writable = Option<(Instant, Result<(), String>)>;

impl Lifecycle {
    /// Writes down what the traffic told, every few seconds and where it is pressing, for ever. When runners
    /// were last seen, which every poll changes, is written now and then.
    pub async fn keep_writing(self: Arc<Self>) {
        let mut tick = interval(self.timing.flush);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed = false;
        let mut seen_at = Instant::now();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.pressing.notified() => {}
            }
            let seen = seen_at.elapsed() >= self.timing.flush * SEEN_EVERY;
            if seen {
                seen_at = Instant::now();
            }
            let result = self.write(seen).await;
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

    /// Writes down all that the traffic told since the last time. What cannot be written is kept for the next.
    ///
    /// # Errors
    /// The store took not all of it.
    pub async fn write_changes(&self) -> Result<(), StoreError> {
        self.write(true).await
    }

    /// `seen`: also when runners were last seen.
    async fn write(&self, seen: bool) -> Result<(), StoreError> {
        let touched = self.roster.take_touched(seen);
        let written = self.write_touched(&touched).await;
        if written.is_err() {
            touched.iter().for_each(|live| live.not_written());
        }
        written
    }

    async fn write_touched(&self, touched: &[Arc<Live>]) -> Result<(), StoreError> {
        for live in touched {
            self.write_state(live).await?;
        }
        self.write_events().await?;
        let touches: Vec<_> = touched.iter().filter_map(|live| live.take_touch()).collect();
        match touches.is_empty() {
            true => Ok(()),
            false => self.store.touch(touches).await,
        }
    }

    /// The state, where the store still has another.
    async fn write_state(&self, live: &Live) -> Result<(), StoreError> {
        // The fate of those with nothing to write is left alone: somebody may be about to take it.
        if live.state_to_write().is_none() {
            return Ok(());
        }
        // Whoever holds its fate writes the state itself, and must not be overtaken.
        let Ok(_fate) = live.fate.try_lock() else {
            live.touch_again();
            return Ok(());
        };
        if let Some(state) = live.state_to_write() {
            self.store.set_state(live.record_id, state, None).await?;
            live.state_written(state);
        }
        Ok(())
    }

    /// Tries Gitea, its abilities and the API tokens now and then, for ever, and says what changes.
    pub async fn keep_probing(self: Arc<Self>) {
        let mut tick = interval(self.timing.probe);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut up = None;
        let mut asked = None;
        let mut told = Vec::new();
        loop {
            tick.tick().await;
            let now_up = self.gitea.ping().await;
            let ok = now_up.is_ok();
            if up.replace(ok) != Some(ok) {
                match now_up {
                    Ok(()) => {
                        info!("Gitea answers");
                        asked = None;
                        self.declare_soon();
                        self.look_at_leases();
                        self.settle_soon();
                    }
                    Err(error) => warn!(%error, "Gitea does not answer"),
                }
            }
            let settings = self.settings.load_full();
            self.forget_api_tokens();
            if !ok {
                continue;
            }
            self.find_abilities(&settings.gitea.default.scope, &mut asked).await;
            self.tell_what_is_missing(&mut told);
            for served in settings.gitea.served().filter(|served| served.api_token.is_some()) {
                self.try_api_token(&served.scope).await;
            }
        }
    }

    /// Finds out what Gitea can do, where that was long ago or its version has changed.
    async fn find_abilities(&self, scope: &Scope, asked: &mut Option<Instant>) {
        let before = self.gitea.abilities();
        if asked.is_some_and(|at| at.elapsed() < ABILITIES_AGE) {
            match self.gitea.version().await {
                Ok(Some(version)) if before.version.as_ref() != Some(&version) => {}
                _ => return,
            }
        }
        // Where it does not answer, that is told elsewhere.
        let Ok(now) = self.gitea.probe_abilities(scope).await else { return };
        *asked = Some(Instant::now());
        if now == before {
            return;
        }
        info!(version = now.version, "what Gitea can do by its API: {now}");
        // It was updated: what waited for that need not wait longer.
        if before.delete == Some(false) && now.delete != before.delete {
            self.settle_soon();
            self.look_at_leases();
        }
    }

    /// Says what an API token could be used for and Gitea cannot do, each once until that changes.
    fn tell_what_is_missing(&self, told: &mut Vec<String>) {
        let any = self.settings.load().gitea.served().any(|served| served.api_token.is_some());
        let missing = if any { self.gitea.abilities().missing() } else { Vec::new() };
        for sentence in missing.iter().filter(|sentence| !told.contains(sentence)) {
            warn!("{sentence}");
        }
        *told = missing;
    }

    async fn try_api_token(&self, scope: &Scope) {
        let probe = self.gitea.probe(scope).await;
        // Only an answer tells something about the token.
        let valid = match &probe {
            Ok(()) => true,
            Err(RestError::Unauthorized { .. } | RestError::Forbidden { .. }) => false,
            Err(_) => return,
        };
        let gauge = self.metrics.api_token_valid.with_label_values(&[scope.to_string()]);
        gauge.set(i64::from(valid));
        if self.token_valid().insert(scope.clone(), valid) != Some(valid) {
            match probe {
                Ok(()) => info!(%scope, "the API token works"),
                Err(error) => error!(%scope, %error, "the API token does not work"),
            }
        }
        if valid && self.gitea.can_list(scope) {
            self.look_at_list(scope).await;
        }
    }

    /// Of those that the settings hold no longer, nothing is shown.
    fn forget_api_tokens(&self) {
        self.token_valid().retain(|scope, _| {
            let held = self.gitea.has_api_token(scope);
            if !held {
                // One that is not there is no error.
                let _ = self.metrics.api_token_valid.remove_label_values(&[scope.to_string()]);
            }
            held
        });
    }

    /// Brings the gauges up to date; called for each scrape.
    pub async fn measure(&self) {
        self.metrics.gitea_up.set(i64::from(self.gitea.is_up()));
        self.metrics.store_writable.set(i64::from(self.store_writable().await.is_ok()));
        self.measure_tokens();
        let mut scopes = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        scopes.extend(self.settings.load().gitea.served().map(|served| served.scope.clone()));
        let mut counts: HashMap<_, i64> = HashMap::new();
        self.roster.look(|live| {
            *counts.entry((live.scope(), self.state_of(live))).or_default() += 1;
        });
        for scope in self.unsettled_scopes() {
            *counts.entry((scope, UNCLEAR)).or_default() += 1;
        }
        scopes.extend(counts.keys().map(|(scope, _)| scope.clone()));
        // A scope that the settings name no longer, and whose last runner has gone, shows zero.
        for scope in scopes.iter() {
            for state in STATES {
                let count = counts.get(&(scope.clone(), state)).copied().unwrap_or_default();
                let labels = [scope.to_string(), state.to_owned()];
                self.metrics.runners.with_label_values(&labels).set(count);
            }
        }
    }

    fn measure_tokens(&self) {
        let states = [State::Active, State::Disabled, State::Expired, State::UsedUp];
        let mut counts = states.map(|state| (state, 0));
        let mut next_expiry = None;
        self.enrollment.look(|token, state| {
            if let Some((_, count)) = counts.iter_mut().find(|(one, _)| *one == state) {
                *count += 1;
            }
            // A child that was exchanged is short-lived by nature.
            if state == State::Active && token.origin != Origin::Exchanged {
                next_expiry = next_expiry.into_iter().chain(token.policy.expires_at).min();
            }
        });
        for (state, count) in counts {
            self.metrics.set_enrollment_tokens(state, count);
        }
        self.metrics.set_next_expiry(next_expiry);
    }

    /// Forgets tokens and events of long ago, for ever.
    pub async fn keep_pruning(self: Arc<Self>) {
        let mut tick = interval(PRUNE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.forget_sleepers();
            let pruned = async {
                let _changing = self.enrollment.changing.lock().await;
                self.enrollment.forget(&self.store.prune_tokens(self.store.lived_until()).await?);
                self.prune_events().await
            };
            if let Err(error) = pruned.await {
                warn!(%error, "tokens and events of long ago are not forgotten yet");
            }
        }
    }

    /// Whether the store takes writes, as of a second ago at most.
    ///
    /// # Errors
    /// Why not, in a sentence.
    pub async fn store_writable(&self) -> Result<(), String> {
        let mut proof = self.writable.lock().await;
        if let Some((at, state)) = proof.as_ref()
            && at.elapsed() < PROOF_AGE
        {
            return state.clone();
        }
        let state = match timeout(PROOF_LIMIT, self.store.writable()).await {
            Ok(state) => state.map_err(|error| error.to_string()),
            Err(_) => Err(format!("a write did not end within {}s", PROOF_LIMIT.as_secs())),
        };
        *proof = Some((Instant::now(), state.clone()));
        state
    }

    /// Whether a scope's API token did its work when last tried; `None` where that is not known.
    #[must_use]
    pub fn api_token_valid(&self, scope: &Scope) -> Option<bool> {
        self.token_valid().get(scope).copied()
    }

    fn token_valid(&self) -> MutexGuard<'_, HashMap<Scope, bool>> {
        self.token_valid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The word for what a runner does.
    #[must_use]
    pub fn state_of(&self, live: &Live) -> &'static str {
        match live.stands(std::time::Instant::now()) {
            (RecordState::Parked(_) | RecordState::Ended(_), _) => "parked",
            (RecordState::Lost, _) => "lost",
            (RecordState::Deregistering(_), _) => "draining",
            (RecordState::Active, Presence::Busy) => "busy",
            (RecordState::Active, Presence::Idle) => "idle",
            (RecordState::Active, Presence::Gone) => "gone",
        }
    }
}
