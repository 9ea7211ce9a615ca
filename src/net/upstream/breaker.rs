//! When a Gitea that gives no answer at all is left alone, and when it is asked again.
//!
//! It opens after a row of failures without one answer in between that lasts for a moment: requests that
//! wait together also fail together, and a Gitea that answers others is not dead. While it is open, one
//! request is let through after each pause, whatever becomes of it, and any answer closes it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So many failures, with no answer in between, open it.
const FAILURES: u32 = 5;
/// And at least so long a time from the first of them to the last.
const MOMENT: Duration = Duration::from_secs(1);
/// The first pause; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Runners try to report the end of a task for some 30 s, so a Gitea that is back must be found soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The rule behind an atomic: while all is well, no request waits for a lock, nor writes anything.
#[derive(Debug)]
pub(super) struct Breaker {
    /// There was an answer after the last failure.
    calm: AtomicBool,
    rule: Mutex<Rule>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { calm: AtomicBool::new(true), rule: Mutex::default() }
    }
}

impl Breaker {
    /// Whether a request may go out now; if not, how long Gitea is left alone.
    pub(super) fn pass(&self) -> Result<(), Duration> {
        if self.calm.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.rule().pass(Instant::now())
    }

    /// A request got no answer at all. Tells whether that opened it.
    pub(super) fn failed(&self) -> bool {
        let mut rule = self.rule();
        self.calm.store(false, Ordering::Relaxed);
        rule.failed(Instant::now())
    }

    /// Something was answered. Tells whether that closed it.
    pub(super) fn answered(&self) -> bool {
        if self.calm.load(Ordering::Relaxed) {
            return false;
        }
        let mut rule = self.rule();
        self.calm.store(true, Ordering::Relaxed);
        matches!(std::mem::take(&mut *rule), Rule::Open { .. })
    }

    fn rule(&self) -> MutexGuard<'_, Rule> {
        self.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default, PartialEq)]
enum Rule {
    /// The last request was answered.
    #[default]
    Calm,
    /// There was no answer since then.
    Failing { count: u32, since: Instant },
    /// The next request goes out at that time, and the one after it two such pauses later.
    Open { pause: Duration, until: Instant },
}

impl Rule {
    fn pass(&mut self, now: Instant) -> Result<(), Duration> {
        let Self::Open { pause, until } = self else { return Ok(()) };
        let left = until.saturating_duration_since(now);
        if !left.is_zero() {
            return Err(left);
        }
        // Whatever becomes of this one (its caller may hang up), another goes out after the next pause.
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        *until = now + *pause;
        Ok(())
    }

    fn failed(&mut self, now: Instant) -> bool {
        let (count, since) = match *self {
            Self::Calm => (1, now),
            Self::Failing { count, since } => (count.saturating_add(1), since),
            Self::Open { .. } => return false,
        };
        let opens = count >= FAILURES && now.saturating_duration_since(since) >= MOMENT;
        *self = match opens {
            true => Self::Open { pause: FIRST_PAUSE, until: now + FIRST_PAUSE },
            false => Self::Failing { count, since },
        };
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(250);

    fn open(now: Instant) -> Rule {
        Rule::Open { pause: FIRST_PAUSE, until: now + FIRST_PAUSE }
    }

    #[test]
    fn a_row_of_failures_opens_it() {
        let (mut rule, begun) = (Rule::Calm, Instant::now());
        for step in 0..4 {
            assert!(!rule.failed(begun + step * STEP));
            assert_eq!(rule.pass(begun + step * STEP), Ok(()), "not yet");
        }
        let now = begun + 4 * STEP;
        assert!(rule.failed(now));
        assert_eq!(rule, open(now));
        assert_eq!(rule.pass(now), Err(FIRST_PAUSE));
        assert!(!rule.failed(now), "it is open already");
    }

    #[test]
    fn what_fails_together_does_not_open_it() {
        let (mut rule, now) = (Rule::Calm, Instant::now());
        for _ in 0..100 {
            assert!(!rule.failed(now));
        }
        assert_eq!(rule.pass(now), Ok(()));
        assert!(rule.failed(now + MOMENT), "and nobody was answered since");
    }

    #[test]
    fn one_goes_through_after_each_pause() {
        let mut now = Instant::now();
        let mut rule = open(now);
        for pause in [1, 2, 4, 5, 5, 5].map(Duration::from_secs) {
            let nearly = now + pause - Duration::from_millis(1);
            assert_eq!(rule.pass(nearly), Err(Duration::from_millis(1)), "{pause:?}");
            now += pause;
            assert_eq!(rule.pass(now), Ok(()));
            assert!(rule.pass(now).is_err(), "only one");
            assert!(!rule.failed(now + STEP));
        }
    }

    #[test]
    fn any_answer_closes_it() {
        let breaker = Breaker::default();
        assert!(!breaker.failed());
        assert!(!breaker.answered(), "it was not open");
        assert_eq!(*breaker.rule(), Rule::Calm);
        breaker.failed();
        *breaker.rule() = open(Instant::now());
        assert!(breaker.pass().is_err());
        assert!(breaker.answered());
        assert_eq!(breaker.pass(), Ok(()));
        assert_eq!(*breaker.rule(), Rule::Calm, "it counts anew");
    }
}
