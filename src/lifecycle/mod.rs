//! Carries out what [`broker`](crate::broker) decides: registrations, deregistrations, and what is left
//! of them after a crash or a lost answer.

mod admission;
mod adopt;
mod audit;
mod declared;
mod declared_runners;
mod deregister;
mod desk;
mod drain;
mod enrollment;
mod exchange;
mod hand_on;
mod lease;
mod live;
mod locate;
mod lost;
mod pace;
mod park;
mod prove;
mod random;
mod register;
mod revive;
mod revoke;
mod roll_back;
mod roster;
mod runner_file;
mod settle;
mod sweep;
mod tokens;
mod turns;
mod upkeep;
mod wake;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio_util::task::TaskTracker;

pub use adopt::{AdoptError, Adoption, Stranger};
pub use deregister::{DeregisterError, Force};
pub use desk::{Answer, Delivery};
pub use drain::DRAIN_TIMEOUT;
pub use enrollment::{Enrollment, Identified};
pub use exchange::Exchange;
pub use lease::{Pruned, Pruning};
pub use live::{Live, Upstream};
pub use pace::Pace;
pub(crate) use random::random_hex;
pub use register::Registration;
pub use roster::Roster;
pub use sweep::Stray;
pub use tokens::{By, Issued, TokenError, TokenNow};
pub use upkeep::{STATES, UNCLEAR};

use crate::broker::claims::CLAIM_TIMEOUT;
use crate::broker::limiter::Limiter;
use crate::broker::lost::Lost;
use crate::broker::{Event, RecordId, Token};
use crate::config::{Scope, Settings};
use crate::gitea::{GiteaClient, REGISTER_LIMIT};
use crate::store::{Store, StoreError, StoredToken};
use crate::telemetry::Metrics;
use desk::Desk;
use settle::Unsettled;
use turns::Turns;

/// How long things take that no setting names.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// After this, a registration of which Gitea's list shows nothing did not happen: Gitea has long
    /// given up whatever it was doing.
    pub absence_proves: Duration,
    /// How long Gitea may take for a Register; after that its outcome is unclear.
    pub register: Duration,
    /// How long a registration waits for its turn with Gitea while none of those before it ends.
    pub turn: Duration,
    /// How long an answer of Gitea that has begun may pause.
    pub stall: Duration,
    /// The first wait before something unsettled is tried again; it doubles up to five minutes.
    pub retry: Duration,
    /// How often what the traffic tells is written to the store; when runners were last seen is written less often.
    pub flush: Duration,
    /// How often Gitea and the API token are tried.
    pub probe: Duration,
    /// How often Gitea's lists are looked through for what nobody has credentials for.
    pub sweep: Duration,
    /// How long a runner is kept that Gitea says it does not know. The REST API is asked six times in it.
    pub lost: Duration,
    /// How often the files of certificates are looked at.
    pub certificates: Duration,
    /// How long a client may take for the handshake of TLS.
    pub handshake: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            absence_proves: Duration::from_secs(120),
            register: REGISTER_LIMIT,
            turn: Duration::from_secs(60),
            stall: Duration::from_secs(10 * 60),
            retry: Duration::from_secs(1),
            flush: Duration::from_secs(2),
            probe: Duration::from_secs(30),
            sweep: Duration::from_secs(15 * 60),
            lost: Duration::from_secs(60),
            certificates: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
        }
    }
}

/// The runners of one Gitea: their records, and all that happens to them.
pub struct Lifecycle {
    /// The settings in force.
    pub settings: ArcSwap<Settings>,
    /// The records on disk.
    pub store: Store,
    /// The Gitea behind the broker.
    pub gitea: GiteaClient,
    /// The live runners.
    pub roster: Roster,
    /// The tokens that they came by.
    pub enrollment: Arc<Enrollment>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    timing: Timing,
    desk: Arc<Desk>,
    turns: Turns,
    running: TaskTracker,
    /// Runners that are being registered anew.
    reviving: AtomicUsize,
    unsettled: Mutex<Vec<Unsettled>>,
    strays: Mutex<sweep::Strays>,
    /// Something is to be settled.
    wake: Notify,
    /// A registration or a task ended, or a runner left or is no more.
    moved: Notify,
    /// What the traffic told should be on disk at once.
    pressing: Notify,
    /// Leases are to be looked at.
    leases: Notify,
    /// A drain was begun.
    drained: Notify,
    /// When the drains that were begun are called off.
    drains: Mutex<HashMap<RecordId, Instant>>,
    draining: AtomicBool,
    /// Who presented wrong enrollment tokens.
    limiter: Mutex<Limiter>,
    pending_events: Mutex<Vec<Event>>,
    declared: declared_runners::Declared,
    /// What the settings declared and the store does not have yet.
    undeclared: Mutex<Vec<(Vec<Token>, Vec<Event>)>>,
    /// Held by whoever writes them down.
    writing_events: tokio::sync::Mutex<()>,
    /// Events written since the last time that old ones were forgotten.
    since_pruned: AtomicUsize,
    /// What the last probes of the API tokens found.
    token_valid: Mutex<HashMap<Scope, bool>>,
    /// The scopes of which runners were ever shown.
    measured: Mutex<BTreeSet<Scope>>,
    writable: tokio::sync::Mutex<upkeep::Writable>,
    /// Those that Gitea says it does not know.
    lost: Mutex<Lost>,
    adopting: adopt::Adopting,
}

impl Lifecycle {
    /// Reads the records of the store, and takes up what an earlier process left.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn load(
        settings: Arc<Settings>,
        store: Store,
        gitea: GiteaClient,
        metrics: Arc<Metrics>,
        timing: Timing,
    ) -> Result<Arc<Self>, StoreError> {
        let lifecycle = Self {
            settings: ArcSwap::new(settings),
            store,
            gitea,
            roster: Roster::default(),
            enrollment: Arc::default(),
            metrics,
            timing,
            desk: Arc::default(),
            turns: Turns::new(timing.turn),
            running: TaskTracker::new(),
            reviving: AtomicUsize::new(0),
            unsettled: Mutex::default(),
            strays: Mutex::default(),
            wake: Notify::new(),
            moved: Notify::new(),
            pressing: Notify::new(),
            leases: Notify::new(),
            drained: Notify::new(),
            drains: Mutex::default(),
            draining: AtomicBool::new(false),
            limiter: Mutex::default(),
            pending_events: Mutex::default(),
            declared: declared_runners::Declared::default(),
            undeclared: Mutex::default(),
            writing_events: tokio::sync::Mutex::default(),
            since_pruned: AtomicUsize::new(0),
            token_valid: Mutex::default(),
            measured: Mutex::default(),
            writable: tokio::sync::Mutex::default(),
            lost: Mutex::default(),
            adopting: adopt::Adopting::default(),
        };
        for StoredToken { token, secrets } in lifecycle.store.tokens().await? {
            let id = token.id.clone();
            lifecycle.enrollment.put(token);
            for secret in secrets {
                lifecycle.enrollment.put_secret(&id, secret.digest, secret.until);
            }
        }
        lifecycle.declare_tokens().await;
        lifecycle.write_events().await?;
        for record in lifecycle.store.runners().await? {
            if !record.state.is_resting() {
                lifecycle.enrollment.joined(&record.parent_id);
            }
            let live = lifecycle.roster.insert(record);
            if live.is_lost() {
                lifecycle.lost().add(live.record_id, Instant::now());
            }
        }
        let revive_within = lifecycle.settings.load().lease.revive_within;
        let since = SystemTime::now().checked_sub(revive_within).unwrap_or(SystemTime::UNIX_EPOCH);
        for record in lifecycle.store.asleep(since).await? {
            lifecycle.roster.insert_asleep(record);
        }
        // A crash may have come between a token's end and that of its runners.
        lifecycle.revoke_runners().await;
        let now = Instant::now();
        for claim in lifecycle.store.answers(SystemTime::now() - CLAIM_TIMEOUT).await? {
            let age = claim.registered_at.elapsed().unwrap_or_default();
            if let Some(registered) = now.checked_sub(age) {
                lifecycle.desk.keep(claim.key, claim.record_id, registered);
            }
        }
        for stored in lifecycle.store.intents().await? {
            lifecycle.add_unsettled(stored.intent, now);
        }
        lifecycle.remove_left_files().await?;
        lifecycle.write_missing_files().await;
        lifecycle.tell_of_parking();
        Ok(Arc::new(lifecycle))
    }

    /// An answer has reached its runner. A crash should find that in the store: until then, the answer
    /// waits for whoever asks with the same key.
    pub fn delivered(&self, delivery: Delivery) {
        delivery.arrived();
        self.pressing.notify_one();
    }

    /// How long things take here.
    #[must_use]
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// From now on no runner is registered and none gets a task.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the broker is about to end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// A runner made a call.
    pub fn heard_from(&self, live: &Live) {
        if live.called(Instant::now(), !self.is_draining()) {
            self.desk.forget(live.record_id);
            self.pressing.notify_one();
        }
    }

    fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many registrations that were begun have no result yet.
    #[must_use]
    pub fn registering(&self) -> usize {
        self.desk.flights() + self.reviving.load(Ordering::Relaxed) + self.declared.registering()
    }

    /// What is unsettled is tried now.
    pub fn settle_soon(&self) {
        self.wake.notify_one();
    }

    /// A registration or a task ended, or a runner left or is no more: whoever waits for that looks again.
    pub fn has_moved(&self) {
        self.moved.notify_waiters();
    }

    /// Ends the next time that something has moved, counted from this call.
    pub fn next_move(&self) -> Notified<'_> {
        self.moved.notified()
    }

    /// Waits until no registration and no deregistration runs.
    pub async fn settle_running(&self) {
        self.running.close();
        self.running.wait().await;
    }
}
