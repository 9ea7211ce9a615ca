//! How often all runners are looked at. What makes a look worthwhile may happen thousands of times a second, and
//! a look costs more the more runners there are.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// After a look, nobody looks for so many times as long as it took.
const REST: u32 = 4;
/// A rest that is shorter is none: a timer tells no less.
const LEAST: Duration = Duration::from_millis(1);

/// Keeps the looks of one task to a fifth of the time.
#[derive(Debug, Default)]
pub struct Pace {
    next: Option<Instant>,
}

impl Pace {
    /// Looks.
    pub fn look<T>(&mut self, look: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let seen = look();
        self.looked(begun, Instant::now());
        seen
    }

    /// Ends when the next look may be taken.
    pub async fn rest(&self) {
        if let Some(next) = self.next.filter(|next| *next > Instant::now()) {
            sleep_until(next).await;
        }
    }

    fn looked(&mut self, begun: Instant, ended: Instant) {
        let rest = ended.saturating_duration_since(begun) * REST;
        self.next = (rest >= LEAST).then(|| ended + rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_long_look_is_followed_by_a_longer_rest() {
        let mut pace = Pace::default();
        let now = Instant::now();
        pace.rest().await;
        pace.looked(now, now + Duration::from_millis(3));
        pace.rest().await;
        assert!(now.elapsed() >= Duration::from_millis(15), "{:?}", now.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_look_is_followed_by_none() {
        let mut pace = Pace::default();
        let now = Instant::now();
        pace.looked(now, now + Duration::from_micros(200));
        pace.rest().await;
        assert_eq!(now.elapsed(), Duration::ZERO);
    }
}
