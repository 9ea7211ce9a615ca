//! Waits that grow, told in the log once and then now and then.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// No wait is shorter: one of no time would grow for ever from nothing.
const SHORTEST: Duration = Duration::from_millis(10);
/// No wait is longer, but for its share of chance.
const LONGEST: Duration = Duration::from_secs(15);
/// How long it is waited before the log tells it again.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// A series of waits for one thing.
pub struct Waiting {
    next: Duration,
    told: Option<Instant>,
}

impl Waiting {
    /// The first wait is about `first`; each is twice the one before.
    #[must_use]
    pub fn new(first: Duration) -> Self {
        Self { next: first.max(SHORTEST), told: None }
    }

    /// Waits once, and tells why where that was not told lately.
    pub async fn once(&mut self, address: &str, why: &str) {
        if self.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            warn!(address, why, "waiting: it is asked again and again");
            self.told = Some(Instant::now());
        }
        self.pause().await;
    }

    /// Waits once and tells nothing.
    pub async fn pause(&mut self) {
        tokio::time::sleep(by_chance(self.next)).await;
        self.next = (self.next * 2).min(LONGEST);
    }

    /// Tells that the waiting has an end, where the log had told that there was any.
    pub fn over(&mut self, address: &str) {
        if self.told.take().is_some() {
            info!(address, "it answers: the waiting is over");
        }
    }
}

/// Three to five quarters of it, so that runners that lost one broker do not all ask at once.
fn by_chance(wait: Duration) -> Duration {
    // A hasher has random keys: chance enough for this.
    let percent = 75 + RandomState::new().build_hasher().finish() % 51;
    wait * u32::try_from(percent).unwrap_or(100) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_up_to_an_end() {
        let mut waiting = Waiting::new(Duration::from_secs(1));
        let mut waits = Vec::new();
        for _ in 0..8 {
            let begun = tokio::time::Instant::now();
            waiting.pause().await;
            waits.push(begun.elapsed().as_secs_f64());
        }
        for (wait, about) in waits.iter().zip([1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0]) {
            assert!((0.74 * about..1.27 * about).contains(wait), "{waits:?}");
        }
    }
}
