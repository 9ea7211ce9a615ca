//! The end of the broker, in phases: drain, deregister, flush. It always ends within
//! `shutdown.deadline`; what could not be done by then is named, kept in the store, and taken up at the
//! next start.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{error, info};

use crate::broker::{Presence, Reason, RecordId, RecordState};
use crate::config::Deregister;
use crate::fault;
use crate::lifecycle::{By, DeregisterError, Force, Lifecycle, Live, Pace};

/// What is kept of the deadline for the last writes.
const FLUSH_RESERVE: Duration = Duration::from_millis(700);
/// What is kept of that for the end of the process.
const EXIT_RESERVE: Duration = Duration::from_millis(100);
/// The first wait before Gitea is asked again about a runner; it doubles.
const RETRY: Duration = Duration::from_millis(500);
/// Deregistrations at a time: each costs Gitea a password hash.
const PARALLEL: usize = 16;

/// What the process is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: end in order. A second one ends the waiting.
    Terminate,
    /// SIGQUIT: leave at once and keep the registrations.
    Quit,
    /// SIGHUP: read the settings again.
    Reload,
}

/// When the phases of one shutdown end.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    drained: Instant,
    last_call: Instant,
    end: Instant,
}

impl Schedule {
    /// For a shutdown that was asked for at `begun`.
    #[must_use]
    pub fn new(begun: Instant, drain: Duration, deadline: Duration) -> Self {
        let last_call = begun + deadline.saturating_sub(FLUSH_RESERVE);
        Self { drained: (begun + drain).min(last_call), last_call, end: begun + deadline }
    }

    /// For one that waits for nothing but the last writes.
    #[must_use]
    pub fn at_once(now: Instant) -> Self {
        Self { drained: now, last_call: now, end: now + FLUSH_RESERVE }
    }

    /// Nothing but the last writes is done after this.
    #[must_use]
    pub fn last_call(&self) -> Instant {
        self.last_call
    }

    /// The last writes are given up then.
    #[must_use]
    pub fn last_write(&self) -> Instant {
        self.end - EXIT_RESERVE
    }
}

/// Drains and deregisters. Dropped, it stops where it is, and nothing is lost.
pub async fn drain(lifecycle: &Arc<Lifecycle>, schedule: Schedule) {
    lifecycle.begin_drain();
    fault::point("drain-begun");
    let policy = policy(lifecycle);
    let runners = live_runners(lifecycle);
    info!(
        phase = "drain",
        runners,
        deregister = ?policy,
        "shutting down: no runner is registered and none gets a task from now on"
    );
    let mut leaving = Leaving::new(lifecycle, policy);
    leaving.until(schedule.drained, Round::Drain).await;
    fault::point("drain-over");
    info!(phase = "deregister", runners = live_runners(lifecycle), "the drain is over");
    leaving.until(schedule.last_call, Round::Last).await;
}

fn live_runners(lifecycle: &Lifecycle) -> usize {
    lifecycle.roster.all().iter().filter(|live| !live.is_resting()).count()
}

/// What each runner does, taken before the broker itself closes the connections.
#[must_use]
pub fn presences(lifecycle: &Lifecycle) -> HashMap<RecordId, Presence> {
    lifecycle.roster.all().iter().map(|live| (live.record_id, live.presence())).collect()
}

/// Names the runners that stay registered, and writes down what the traffic told.
pub async fn flush(
    lifecycle: &Lifecycle,
    schedule: Schedule,
    presences: &HashMap<RecordId, Presence>,
) {
    for live in lifecycle.roster.all().into_iter().filter(|live| !live.is_resting()) {
        let record = live.record();
        let presence = presences.get(&live.record_id).copied().unwrap_or(Presence::Idle);
        let left = match (record.state, presence) {
            (RecordState::Lost, _) => "is lost: Gitea says that it does not know it",
            (RecordState::Deregistering(_), _) => {
                "could not be deregistered in time; tried again at the next start"
            }
            (_, Presence::Busy) => "has a task in hand and goes on with it",
            (_, Presence::Idle) => "is still there",
            (_, Presence::Gone) => "is gone, but shutdown.deregister or the API token keeps it",
        };
        info!(runner = record.name, id = record.upstream.id, left, "runner left registered");
    }
    match timeout_at(schedule.last_write(), lifecycle.write_changes()).await {
        Ok(Ok(())) => info!(phase = "flush", "records are written"),
        Ok(Err(error)) => error!(phase = "flush", %error, "the latest records are not written"),
        Err(_) => error!(phase = "flush", "the latest records are not written: the disk hangs"),
    }
}

fn policy(lifecycle: &Lifecycle) -> Deregister {
    let settings = lifecycle.settings.load();
    match settings.shutdown.deregister {
        Deregister::Auto if settings.loopback_only() => Deregister::All,
        Deregister::Auto => Deregister::Gone,
        set => set,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    /// Who can still leave by itself is waited for.
    Drain,
    /// Nobody is waited for, and, where it is set, the busy leave too, their task cancelled.
    Last,
}

/// The deregistrations of one shutdown. One that hangs holds up no other.
struct Leaving<'a> {
    lifecycle: &'a Arc<Lifecycle>,
    policy: Deregister,
    force: Force,
    running: JoinSet<(RecordId, Result<(), DeregisterError>)>,
    tried: HashMap<RecordId, Tried>,
}

#[derive(Clone, Copy)]
struct Tried {
    next: Next,
    wait: Duration,
}

#[derive(Clone, Copy)]
enum Next {
    Running,
    Again(Instant),
    /// Gitea has decided, and will not decide otherwise in the seconds that are left.
    Never,
}

impl<'a> Leaving<'a> {
    fn new(lifecycle: &'a Arc<Lifecycle>, policy: Deregister) -> Self {
        Self {
            lifecycle,
            policy,
            force: lifecycle.force_at_shutdown(),
            running: JoinSet::new(),
            tried: HashMap::new(),
        }
    }

    /// Deregisters whoever leaves, until `end` or until nobody can leave any more.
    async fn until(&mut self, end: Instant, round: Round) {
        let lifecycle = self.lifecycle;
        let mut pace = Pace::default();
        while Instant::now() < end {
            // Each poll that ends is a move.
            pace.rest().await;
            // Made first, so that no move is missed.
            let moved = lifecycle.next_move();
            let some_may_leave = pace.look(|| self.begin(round));
            let now = Instant::now();
            // One whose time has come waits for a place, and the end of another wakes it.
            let retry = self.tried.values().filter_map(Tried::again).filter(|at| *at > now).min();
            if self.running.is_empty() && retry.is_none() && !some_may_leave {
                return;
            }
            tokio::select! {
                () = moved => {}
                Some(done) = self.running.join_next() => {
                    if let Ok((id, result)) = done {
                        self.note(id, &result);
                    }
                }
                () = sleep_until(retry.map_or(end, |at| at.min(end))) => {}
            }
        }
    }

    /// Begins what is due. Returns whether somebody may leave later.
    fn begin(&mut self, round: Round) -> bool {
        let all = self.policy == Deregister::All;
        let mut later = all && self.lifecycle.registering() > 0;
        for live in self.lifecycle.roster.all() {
            let tried = self.tried.get(&live.record_id).copied();
            let wait = match tried {
                None => RETRY,
                Some(Tried { next: Next::Again(at), wait }) if at <= Instant::now() => wait,
                Some(_) => continue,
            };
            if !self.leaves(&live, round) {
                self.tried.remove(&live.record_id);
                later |= round == Round::Drain && self.may_leave(&live);
            } else if self.running.len() < PARALLEL {
                self.tried.insert(live.record_id, Tried { next: Next::Running, wait });
                let (lifecycle, force) = (Arc::clone(self.lifecycle), self.force);
                self.running.spawn(async move {
                    (
                        live.record_id,
                        lifecycle.deregister(&live, Reason::Shutdown, force, &By::broker()).await,
                    )
                });
            }
        }
        later
    }

    fn note(&mut self, id: RecordId, result: &Result<(), DeregisterError>) {
        let Some(tried) = self.tried.get_mut(&id) else { return };
        match result {
            Err(DeregisterError::Unreachable(_) | DeregisterError::Store(_)) => {
                tried.next = Next::Again(Instant::now() + tried.wait);
                tried.wait *= 2;
            }
            // Nothing tells when a task that did not pass the broker has ended.
            Err(DeregisterError::Busy(None)) => {
                tried.next = Next::Again(Instant::now() + tried.wait);
                tried.wait *= 2;
            }
            // It got a task meanwhile; it is looked at again when that has ended.
            Err(DeregisterError::Busy(Some(_))) => drop(self.tried.remove(&id)),
            Ok(()) | Err(_) => tried.next = Next::Never,
        }
    }

    /// Whether a runner is deregistered as it is now.
    fn leaves(&self, live: &Live, round: Round) -> bool {
        // What the runner or an admin asked for before is still to be done.
        let asked =
            live.is_deregistering() && live.state() != RecordState::Deregistering(Reason::Shutdown);
        match (self.policy, live.presence()) {
            // A lost one may be Gitea's mistake.
            _ if live.is_resting() || live.state() == RecordState::Lost => false,
            (Deregister::None, _) => false,
            // Its task cannot be cancelled, but Gitea is asked whether it has ended.
            (policy, Presence::Busy) if live.is_busy_elsewhere() => policy == Deregister::All,
            (policy, Presence::Busy) => {
                // Where only the gone are deregistered, it must have left its task behind.
                round == Round::Last
                    && self.force == Force::CancelTask
                    && (policy == Deregister::All || (live.spoke() && !live.is_connected()))
            }
            (_, Presence::Gone) | (Deregister::All, Presence::Idle) => true,
            (Deregister::Gone | Deregister::Auto, Presence::Idle) => asked,
        }
    }

    /// Whether a runner that does not leave now may do so during the drain.
    fn may_leave(&self, live: &Live) -> bool {
        self.policy != Deregister::None
            // One that goes later is parked by its lease as well.
            && self.lifecycle.gitea.can_delete(&live.scope())
            && !live.is_resting()
            && (live.is_connected() || live.presence() == Presence::Busy)
    }
}

impl Tried {
    fn again(&self) -> Option<Instant> {
        match self.next {
            Next::Again(at) => Some(at),
            Next::Running | Next::Never => None,
        }
    }
}
