//! The end of the broker, in phases: drain, deregister, flush. It always ends within
//! `shutdown.deadline`; what could not be done by then is named, kept in the store, and taken up at the
//! next start.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use crate::broker::{Presence, Reason, RecordState};
use crate::config::Deregister;
use crate::lifecycle::{Force, Lifecycle, Live};

/// What is kept of the deadline for the last writes.
const FLUSH_RESERVE: Duration = Duration::from_millis(700);
/// The wait before Gitea is asked again about a runner that could not be deregistered.
const RETRY: Duration = Duration::from_millis(500);

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
    deregistered: Instant,
}

impl Schedule {
    /// For a shutdown that was asked for at `begun`.
    #[must_use]
    pub fn new(begun: Instant, drain: Duration, deadline: Duration) -> Self {
        let deregistered = begun + deadline.saturating_sub(FLUSH_RESERVE);
        Self { drained: (begun + drain).min(deregistered), deregistered }
    }

    /// Nothing but the last writes is done after this.
    #[must_use]
    pub fn last_call(&self) -> Instant {
        self.deregistered
    }
}

/// Drains and deregisters. Dropped, it stops where it is, and nothing is lost.
pub async fn drain(lifecycle: &Arc<Lifecycle>, schedule: Schedule) {
    lifecycle.begin_drain();
    let policy = policy(lifecycle);
    let all = lifecycle.roster.all();
    info!(
        phase = "drain",
        runners = all.len(),
        deregister = ?policy,
        "shutting down: no runner is registered and none gets a task from now on"
    );
    if lifecycle.gitea.tokens().api.is_none() && !all.is_empty() && policy != Deregister::None {
        warn!(
            runners = all.len(),
            "runners stay registered in Gitea, since the broker has no API token to delete them with: \
             set gitea.api_token_file (GITEA_API_TOKEN_FILE)"
        );
        return;
    }
    // Who can still leave is waited for; the phase is over as soon as nobody can.
    loop {
        let moved = lifecycle.next_move();
        let failed = deregister(lifecycle, |live| leaves_now(policy, live)).await;
        if !failed && !lifecycle.roster.all().iter().any(|live| may_leave(policy, live)) {
            break;
        }
        let retry = if failed { Instant::now() + RETRY } else { schedule.drained };
        tokio::select! {
            () = moved => {}
            () = sleep_until(retry.min(schedule.drained)) => {}
        }
        if Instant::now() >= schedule.drained {
            break;
        }
    }
    info!(phase = "deregister", runners = lifecycle.roster.all().len(), "the drain is over");
    // The last round: those that went meanwhile, and, where it is set, the busy, whose task is cancelled.
    loop {
        let force = lifecycle.force_at_shutdown();
        let failed = deregister(lifecycle, |live| {
            leaves_now(policy, live)
                || (force == Force::CancelTask && leaves_cancelled(policy, live))
        })
        .await;
        let retry = Instant::now() + RETRY;
        if !failed || retry >= schedule.deregistered {
            break;
        }
        sleep_until(retry).await;
    }
}

/// Waits for what still runs, no longer than the schedule says, and writes down what is left.
pub async fn flush(lifecycle: &Arc<Lifecycle>, schedule: Schedule) {
    if timeout_at(schedule.deregistered, lifecycle.settle_running()).await.is_err() {
        warn!("a registration or deregistration still runs; it is settled at the next start");
    }
    name_the_left(lifecycle);
    lifecycle.write_changes().await;
    info!(phase = "flush", "records are written");
}

/// Every runner that stays registered, with what will become of it.
fn name_the_left(lifecycle: &Lifecycle) {
    for live in lifecycle.roster.all() {
        let record = live.record();
        let left = match (record.state, live.presence()) {
            (RecordState::Deregistering(_), _) => {
                "could not be deregistered in time; tried again at the next start"
            }
            (_, Presence::Busy) => "has a task in hand and goes on with it",
            (_, Presence::Idle) => "is still there",
            (_, Presence::Gone) => "is gone, but shutdown.deregister or the API token keeps it",
        };
        info!(runner = record.name, id = record.upstream.id, left, "runner left registered");
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

/// Whether a runner is deregistered as it is now.
fn leaves_now(policy: Deregister, live: &Live) -> bool {
    match policy {
        Deregister::All => live.presence() != Presence::Busy,
        Deregister::None => false,
        Deregister::Gone | Deregister::Auto => live.presence() == Presence::Gone,
    }
}

/// Whether a busy runner is deregistered where its task may be cancelled: where only the gone are, it
/// must have left its task behind.
fn leaves_cancelled(policy: Deregister, live: &Live) -> bool {
    live.presence() == Presence::Busy
        && match policy {
            Deregister::All => true,
            Deregister::None => false,
            Deregister::Gone | Deregister::Auto => live.spoke() && !live.is_connected(),
        }
}

/// Whether a runner that is not deregistered now may become so during the drain.
fn may_leave(policy: Deregister, live: &Live) -> bool {
    policy != Deregister::None && (live.is_connected() || live.presence() == Presence::Busy)
}

/// Deregisters all that `leaves` picks, side by side. Returns whether one of them is to be tried again.
async fn deregister(lifecycle: &Arc<Lifecycle>, leaves: impl Fn(&Live) -> bool) -> bool {
    let force = lifecycle.force_at_shutdown();
    let chosen: Vec<_> = lifecycle.roster.all().into_iter().filter(|live| leaves(live)).collect();
    let attempts = chosen.iter().map(|live| lifecycle.deregister(live, Reason::Shutdown, force));
    join_all(attempts).await.iter().any(Result::is_err)
}
