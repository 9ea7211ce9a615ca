//! A runner that was taken for gone speaks again.

use std::net::IpAddr;
use std::sync::Arc;

use tracing::{error, info};

use super::{Lifecycle, Live};
use crate::broker::RecordState;
use crate::connect::{Code, ConnectError};

impl Lifecycle {
    /// A runner that rests makes a call. Where it may be woken, it is live again when this returns.
    ///
    /// # Errors
    /// What the runner is told in place of Gitea's answer.
    pub async fn wake(
        self: &Arc<Self>,
        live: &Arc<Live>,
        _peer: IpAddr,
    ) -> Result<(), ConnectError> {
        let _fate = live.fate.lock().await;
        match live.state() {
            RecordState::Parked(reason) if reason.is_revivable() => self.unpark(live).await,
            RecordState::Parked(_) | RecordState::Ended(_) => Err(gone()),
            RecordState::Active | RecordState::Lost | RecordState::Deregistering(_) => Ok(()),
        }
    }

    /// Gitea still knows it, and nobody took its identity over.
    async fn unpark(&self, live: &Live) -> Result<(), ConnectError> {
        let state = RecordState::Active;
        if let Err(error) = self.store.set_state(live.record_id, state, None).await {
            error!(%error, id = live.id(), "the store did not take that a runner is back");
            return Err(ConnectError::new(
                Code::Unavailable,
                "the broker cannot write its records at the moment: try again",
            ));
        }
        live.set_state(state);
        self.enrollment.joined(&live.parent_id);
        self.has_moved();
        info!(id = live.id(), "runner came back: it is no longer parked");
        Ok(())
    }
}

fn gone() -> ConnectError {
    ConnectError::new(
        Code::Unauthenticated,
        "this runner was deregistered: remove its .runner file and register it anew",
    )
}
