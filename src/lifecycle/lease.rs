//! Ends the leases of runners that are gone, in the background or now, and looks at Gitea's own view of a
//! runner before it is deleted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tracing::{debug, warn};

use super::deregister::{DeregisterError, Force, rest_failed};
use super::tokens::By;
use super::{Lifecycle, Live, Pace, runner_file};
use crate::broker::lease::{Candidate, Sight, Spared, Verdict, spared, verdict};
use crate::broker::{Presence, Reason, RecordId, RecordState};
use crate::config::Scope;
use crate::telemetry::metrics::DeregistrationOutcome as Outcome;

/// Deregistrations at a time: each costs Gitea a password hash.
const PARALLEL: usize = 16;
/// How long Gitea may take to show a runner that is about to be deleted.
const LOOK_LIMIT: Duration = Duration::from_secs(3);
/// The longest sleep, and the longest wait before a lease that could not be ended is tried again.
const LONGEST_SLEEP: Duration = Duration::from_secs(60 * 60);
const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

/// What came of a runner that is gone, when leases were settled at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pruning {
    /// It is deregistered.
    Deregistered,
    /// It is parked, as it cannot be deleted in Gitea.
    Parked,
    /// It stays.
    Kept,
}

/// One runner that was gone when leases were settled at once.
pub struct Pruned {
    /// Which one.
    pub live: Arc<Live>,
    /// What came of it, or would come of it.
    pub outcome: Pruning,
    /// Why, in a sentence.
    pub detail: String,
}

/// A lease that is over and could not be ended.
struct Later {
    at: Instant,
    wait: Duration,
}

impl Lifecycle {
    /// Ends leases when their time is over, until the broker itself ends. One that Gitea is slow about holds
    /// up no other.
    pub async fn keep_leases(self: Arc<Self>) {
        let mut later = HashMap::new();
        let mut told = false;
        let mut running = JoinSet::new();
        let mut ending = HashSet::new();
        let mut pace = Pace::default();
        while !self.is_draining() {
            pace.rest().await;
            let expire_after = self.settings.load().lease.expire_after;
            let next = expire_after.map(|expire_after| {
                let look = || self.leases_over(expire_after, &ending, &mut later, &mut told);
                let (over, next) = pace.look(look);
                for live in over.into_iter().take(PARALLEL.saturating_sub(running.len())) {
                    ending.insert(live.record_id);
                    let this = Arc::clone(&self);
                    running.spawn(async move {
                        let ended = this.end_lease(&live, By::broker()).await;
                        (live, ended.err())
                    });
                }
                next
            });
            let time = async {
                match next {
                    Some(next) => sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = time => {}
                () = self.leases.notified() => {}
                Some(Ok((live, error))) = running.join_next() => {
                    if let Some(error) = error {
                        debug!(id = live.id(), %error, "the lease is tried again later");
                    }
                    ending.remove(&live.record_id);
                    // Where it is settled, nothing is tried at that time.
                    let wait = later
                        .get(&live.record_id)
                        .map_or(self.timing.retry, |later: &Later| {
                            (later.wait * 2).min(LONGEST_WAIT)
                        });
                    later.insert(live.record_id, Later { at: Instant::now() + wait, wait });
                }
            }
        }
    }

    /// Leases are looked at now: their length has changed, or Gitea is back.
    pub fn look_at_leases(&self) {
        self.leases.notify_one();
    }

    /// Whose lease is over and can be ended now, and when to look again.
    fn leases_over(
        &self,
        expire_after: Duration,
        ending: &HashSet<RecordId>,
        later: &mut HashMap<RecordId, Later>,
        told: &mut bool,
    ) -> (Vec<Arc<Live>>, Instant) {
        let now = Instant::now();
        // A lease that begins after this look does not end before.
        let mut next = now + expire_after.min(LONGEST_SLEEP);
        let (mut over, mut tried) = (Vec::new(), HashSet::new());
        self.roster.look(|live| {
            match live.lease_ends(expire_after) {
                Some(end) if end <= now => {}
                end => {
                    next = end.map_or(next, |end| next.min(end));
                    return;
                }
            }
            match self.spared(live) {
                None => {}
                Some(Spared::Unseen) => {
                    if !std::mem::replace(told, true) {
                        warn!(
                            "runner files say Gitea's address, so runners do not pass the broker, and \
                             without an API token it cannot ask Gitea about them: no lease of theirs \
                             ends; set gitea.api_token_file"
                        );
                    }
                    return;
                }
                // It may be certain soon.
                Some(Spared::Lost) => {
                    next = next.min(now + self.timing.lost);
                    return;
                }
                Some(_) => return,
            }
            tried.insert(live.record_id);
            match later.get(&live.record_id) {
                Some(later) if later.at > now => next = next.min(later.at),
                _ if ending.contains(&live.record_id) => {}
                _ => over.push(Arc::clone(live)),
            }
        });
        later.retain(|id, _| tried.contains(id));
        if !over.is_empty() && !self.gitea.is_up() {
            // Whoever finds it up says so; this is for one that finds it up by chance.
            return (Vec::new(), next.min(now + self.timing.probe));
        }
        (over, next)
    }

    /// Settles now what leases would settle later: runners that are gone are deregistered. `dry_run`: only
    /// tells what would come of it.
    pub async fn prune(self: &Arc<Self>, dry_run: bool, by: &By) -> Vec<Pruned> {
        let gone = self.roster.all_that(|live| !live.is_resting() && self.is_over(live));
        let this = Arc::clone(self);
        let by = by.clone();
        let pruned = each(gone, move |live| {
            let (this, by) = (Arc::clone(&this), by.clone());
            async move { this.prune_one(&live, dry_run, by).await }
        });
        let mut pruned: Vec<_> = pruned
            .await
            .into_iter()
            .map(|(live, (outcome, detail))| Pruned { live, outcome, detail })
            .collect();
        pruned.sort_unstable_by_key(|one| one.live.record_id);
        pruned
    }

    async fn prune_one(
        self: &Arc<Self>,
        live: &Arc<Live>,
        dry_run: bool,
        by: By,
    ) -> (Pruning, String) {
        let kept = |why: String| (Pruning::Kept, why);
        let why = match live.gone_since() {
            Some(since) => {
                let whole = Duration::from_secs(since.elapsed().as_secs());
                format!("gone for {}", humantime::format_duration(whole))
            }
            None => "never spoke, and its lease is over".to_owned(),
        };
        if let Some(spared) = self.spared(live) {
            return kept(format!("it stays: {spared}"));
        }
        if !dry_run {
            return match self.end_lease(live, by).await {
                Ok(Some(Outcome::Parked)) => (Pruning::Parked, why),
                Ok(Some(_)) => (Pruning::Deregistered, why),
                Ok(None) => kept("it is alive after all".into()),
                Err(error) => kept(error.to_string()),
            };
        }
        if !self.gitea.can_delete(&live.scope()) {
            return (Pruning::Parked, why);
        }
        match self.look(live, Reason::Lease).await {
            Ok(true) => (Pruning::Deregistered, why),
            Ok(false) => kept("it is alive after all".into()),
            Err(error) => kept(error.to_string()),
        }
    }

    /// Whether it is gone, or its lease is over although it never spoke.
    pub(super) fn is_over(&self, live: &Live) -> bool {
        let expire_after = self.settings.load().lease.expire_after;
        let end = expire_after.and_then(|expire_after| live.lease_ends(expire_after));
        live.presence() == Presence::Gone || end.is_some_and(|end| end <= Instant::now())
    }

    async fn end_lease(
        self: &Arc<Self>,
        live: &Arc<Live>,
        by: By,
    ) -> Result<Option<Outcome>, DeregisterError> {
        // It may have waited for its turn, and come back.
        if !self.is_over(live) {
            return Ok(None);
        }
        self.attempt(live, Reason::Lease, Force::LeaveBusy, by, false).await
    }

    fn spared(&self, live: &Live) -> Option<Spared> {
        spared(&Candidate {
            state: live.state(),
            origin: live.origin,
            id: live.id(),
            presence: live.presence(),
            dead: self.is_dead(live),
            unseen: self.is_unseen(live),
        })
    }

    /// Whether nothing can be known of what a runner does.
    pub(super) fn is_unseen(&self, live: &Live) -> bool {
        !live.called_here()
            && !self.gitea.can_list(&live.scope())
            && runner_file::dial_elsewhere(&self.settings.load())
    }

    /// Looks how Gitea shows a runner that is to go for this reason. Returns whether it goes; else it is
    /// alive. Where it does not go for another reason, that is the error.
    pub(super) async fn look(&self, live: &Live, reason: Reason) -> Result<bool, DeregisterError> {
        let asked =
            matches!(reason, Reason::Lease | Reason::Shutdown | Reason::Drain | Reason::Revoked);
        if !asked || live.id() == 0 {
            return Ok(true);
        }
        let runner =
            match timeout(LOOK_LIMIT, self.gitea.show_runner(&live.scope(), live.id())).await {
                Ok(Ok(Some(runner))) => runner,
                // That proves nothing, and what comes next does.
                Ok(Ok(None)) => return Ok(true),
                Ok(Err(error)) => return Err(rest_failed(error)),
                Err(_) => {
                    return Err(DeregisterError::Unreachable(format!(
                        "it did not show the runner within {}s",
                        LOOK_LIMIT.as_secs()
                    )));
                }
            };
        let alive = live.shown(runner.shown());
        let sight = Sight {
            alive,
            busy: live.is_busy_elsewhere(),
            switched_off: runner.disabled && !live.is_disabled(),
        };
        match verdict(reason, sight) {
            Verdict::Goes => Ok(true),
            Verdict::Alive => Ok(false),
            Verdict::Busy => Err(DeregisterError::Busy(None)),
            Verdict::SwitchedOff => Err(DeregisterError::SwitchedOff),
        }
    }

    /// Where runners dial Gitea themselves, its list tells what they do.
    pub(super) async fn look_at_list(&self, scope: &Scope) {
        if !runner_file::dial_elsewhere(&self.settings.load()) {
            return;
        }
        let mut lives = self.roster.all();
        lives.retain(|live| live.scope() == *scope && live.id() != 0);
        let ids = lives.iter().map(|live| live.id()).collect();
        let shown = match self.gitea.show_runners(scope, &ids).await {
            Ok(shown) => shown,
            Err(error) => return debug!(%error, %scope, "Gitea does not show the runners"),
        };
        let shown: HashMap<_, _> = shown.iter().map(|runner| (runner.id, runner.shown())).collect();
        for live in lives {
            let Some(shown) = shown.get(&live.id()) else { continue };
            let before = live.presence();
            let spoke = live.spoke();
            live.shown(*shown);
            if live.spoke() && !spoke {
                self.desk.forget(live.record_id);
            }
            let after = live.presence();
            if before == after {
                continue;
            }
            debug!(id = live.id(), ?before, ?after, "Gitea shows that a runner changed");
            self.has_moved();
            if before == Presence::Busy && live.is_deregistering() {
                self.settle_soon();
            }
        }
    }

    /// A runner whose deregistration was begun because it was taken for gone is alive: it stays.
    pub(super) async fn spare(&self, live: &Live) -> Result<(), DeregisterError> {
        if matches!(live.state(), RecordState::Deregistering(reason) if reason.is_revivable()) {
            let state = RecordState::Active;
            self.store.set_state(live.record_id, state, None).await?;
            live.set_state(state);
        }
        Ok(())
    }
}

/// Does it for each, some at a time.
async fn each<T, F>(runners: Vec<Arc<Live>>, work: impl Fn(Arc<Live>) -> F) -> Vec<(Arc<Live>, T)>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(PARALLEL));
    let mut running = JoinSet::new();
    for live in runners {
        let (places, work) = (Arc::clone(&places), work(Arc::clone(&live)));
        running.spawn(async move {
            // It is never closed.
            let _place = places.acquire().await;
            (live, work.await)
        });
    }
    running.join_all().await
}
