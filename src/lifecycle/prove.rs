//! What Gitea says to a runner's credentials, shown by the broker in its place.

use std::time::Instant;

use super::deregister::{DeregisterError, call_failed};
use super::{Lifecycle, Live};
use crate::broker::deregistration::Proof;
use crate::connect::messages::Runner;
use crate::gitea::CallError;

impl Lifecycle {
    /// Declares a runner in its place. Gitea then shows it as online, which is not its own doing.
    pub(super) async fn declare_as(
        &self,
        live: &Live,
        version: &str,
        labels: &[String],
    ) -> Result<Runner, CallError> {
        live.note(|activity| activity.spoken_for(Instant::now()));
        self.gitea.declare(&live.upstream().credentials, version, labels).await
    }

    /// Whether Gitea knows it, and by which id.
    pub(super) async fn prove(&self, live: &Live) -> Result<Proof, DeregisterError> {
        // Declare replaces the labels, so the runner's own last ones go along.
        let record = live.record();
        match self.declare_as(live, &record.version, &record.labels).await {
            Ok(runner) => Ok(Proof::Id(runner.id)),
            Err(CallError::Unregistered) => Ok(Proof::Unregistered),
            Err(error) => Err(call_failed(error)),
        }
    }
}
