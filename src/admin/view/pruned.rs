//! What came of a runner that was gone, when leases were settled.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::ObjectBuilder;

use super::{Runner, one_of};
use crate::lifecycle::{Lifecycle, Pruned, Pruning};

/// One runner that is gone, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PrunedRunner {
    /// The runner as it is now.
    pub runner: Runner,
    /// `deregistered`, `parked` or `kept`; of a dry run, what would come of it.
    #[schema(schema_with = outcome)]
    pub outcome: String,
    /// Why.
    pub detail: String,
}

impl PrunedRunner {
    /// It with its runner.
    #[must_use]
    pub fn of(lifecycle: &Lifecycle, pruned: &Pruned) -> Self {
        Self {
            runner: Runner::of(lifecycle, &pruned.live),
            outcome: word(pruned.outcome).into(),
            detail: pruned.detail.clone(),
        }
    }
}

fn word(outcome: Pruning) -> &'static str {
    match outcome {
        Pruning::Deregistered => "deregistered",
        Pruning::Parked => "parked",
        Pruning::Kept => "kept",
    }
}

fn outcome() -> ObjectBuilder {
    let words = [Pruning::Deregistered, Pruning::Parked, Pruning::Kept].map(word);
    one_of("What came of it; of a dry run, what would come of it.", words)
}
