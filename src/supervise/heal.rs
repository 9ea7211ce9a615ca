//! How often a lost runner is replaced: with waits that grow, and not without end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::enroll::JoinError;

/// What the limit is for.
const SPAN: Duration = Duration::from_secs(60 * 60);
/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(5 * 60);

/// The runners that were replaced within the last hour.
pub(super) struct Healing {
    limit: usize,
    first: Duration,
    times: VecDeque<Instant>,
}

impl Healing {
    pub(super) fn new(limit: usize, first: Duration) -> Self {
        Self { limit, first, times: VecDeque::new() }
    }

    /// Counts one more, from now.
    ///
    /// # Errors
    /// There were as many as may be.
    pub(super) fn count(&mut self) -> Result<(), JoinError> {
        self.count_at(Instant::now())
    }

    /// How long to wait before the next runner is made: `None` for the first.
    pub(super) fn wait(&self) -> Option<Duration> {
        let before = u32::try_from(self.times.len().checked_sub(1)?).unwrap_or(u32::MAX);
        Some(self.first.saturating_mul(2_u32.saturating_pow(before)).min(LONGEST))
    }

    fn count_at(&mut self, now: Instant) -> Result<(), JoinError> {
        while self.times.front().is_some_and(|time| now.duration_since(*time) >= SPAN) {
            self.times.pop_front();
        }
        if self.times.len() >= self.limit {
            return Err(JoinError::GaveUp(format!(
                "the runner is not known any more, and within an hour {} others were not either: look \
                 into the broker's events for who removes them",
                self.times.len()
            )));
        }
        self.times.push_back(now);
        warn!(
            so_far = self.times.len(),
            limit = self.limit,
            "the runner is not known any more: a new one is registered and the command started again"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_an_hour_there_is_a_limit() {
        let mut healing = Healing::new(2, Duration::from_secs(1));
        let begun = Instant::now();
        assert_eq!(healing.wait(), None);
        assert!(healing.count_at(begun).is_ok());
        assert_eq!(healing.wait(), Some(Duration::from_secs(1)));
        assert!(healing.count_at(begun + SPAN / 2).is_ok());
        assert_eq!(healing.wait(), Some(Duration::from_secs(2)));
        assert!(healing.count_at(begun + SPAN - Duration::from_secs(1)).is_err());
        assert!(healing.count_at(begun + SPAN).is_ok());
    }

    #[test]
    fn no_limit_makes_a_wait_without_end() {
        let mut healing = Healing::new(100, Duration::from_secs(1));
        let begun = Instant::now();
        (0..100).for_each(|_| healing.count_at(begun).unwrap());
        assert_eq!(healing.wait(), Some(LONGEST));
    }

    #[test]
    fn with_a_limit_of_none_nothing_is_replaced() {
        let error = Healing::new(0, Duration::ZERO).count().unwrap_err();
        assert!(matches!(error, JoinError::GaveUp(_)));
    }
}
