//! A task that is in hand when its runner goes is reported as cancelled, with the runner's own credentials:
//! one that is just left strands for ten minutes.

use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{debug, info};

use super::super::{Lifecycle, Live};
use super::error::{DeregisterError, call_failed};
use crate::broker::Reason;
use crate::gitea::CallError;

/// How long the last line of a task's log may take: it is good to have, no more.
const LOG_LIMIT: Duration = Duration::from_secs(2);

impl Lifecycle {
    /// Cancels what the runner has in hand.
    pub(super) async fn cancel_tasks(
        &self,
        live: &Live,
        reason: Reason,
    ) -> Result<(), DeregisterError> {
        for task in live.tasks() {
            let credentials = &live.upstream().credentials;
            live.note(|activity| activity.spoken_for(Instant::now()));
            let line = format!("cancelled by runner-broker: {}", because(reason));
            let logged = timeout(LOG_LIMIT, self.gitea.end_log(credentials, task, &line)).await;
            if !matches!(logged, Ok(Ok(()))) {
                debug!(id = live.id(), task, ?logged, "the task's log does not say why it ends");
            }
            match self.gitea.report_cancelled(credentials, task).await {
                Ok(()) => {
                    live.note(|activity| activity.done_with(task));
                    info!(id = live.id(), task, "task reported as cancelled");
                }
                Err(CallError::Unregistered) => return Ok(()),
                Err(error) => return Err(call_failed(error)),
            }
        }
        Ok(())
    }
}

/// For the log of a task that is cancelled.
fn because(reason: Reason) -> &'static str {
    match reason {
        Reason::Runner => "the runner left",
        Reason::Shutdown => "the broker ends, and shutdown.busy is \"cancel\"",
        Reason::Drain => "the time to drain the runner is over, and shutdown.busy is \"cancel\"",
        _ => "the runner is deregistered",
    }
}
