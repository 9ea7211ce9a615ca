//! Turns with Gitea: so many registrations are under way with it at a time, and whoever came first goes first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Registrations that Gitea is asked for at a time; the others wait their turn.
const AT_ONCE: usize = 16;

/// Who has a turn, and who waits for one.
pub(super) struct Turns {
    // Its permits are given in the order in which they were asked for.
    slots: Semaphore,
    /// Turns that have ended.
    ended: AtomicUsize,
    /// How long is waited while none ends.
    patience: Duration,
}

/// A registration's turn, until it is dropped.
pub(super) struct Turn<'a> {
    _slot: SemaphorePermit<'a>,
    ended: &'a AtomicUsize,
}

impl Turns {
    pub(super) fn new(patience: Duration) -> Self {
        Self { slots: Semaphore::new(AT_ONCE), ended: AtomicUsize::new(0), patience }
    }

    /// A turn, after all who asked before.
    pub(super) async fn next(&self) -> Turn<'_> {
        let slot = self.slots.acquire().await.expect("it is never closed");
        Turn { _slot: slot, ended: &self.ended }
    }

    /// Waits for what comes of others' turns. A long queue that moves is no reason to give up; `None`: it stands
    /// still.
    pub(super) async fn patiently<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let mut wait = std::pin::pin!(wait);
        let mut before = self.ended.load(Ordering::Relaxed);
        loop {
            if let Ok(done) = timeout(self.patience, wait.as_mut()).await {
                return Some(done);
            }
            let now = self.ended.load(Ordering::Relaxed);
            if std::mem::replace(&mut before, now) == now {
                return None;
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::{Instant, sleep};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn turns_are_had_in_the_order_of_asking_and_so_many_at_a_time() {
        let turns = Arc::new(Turns::new(PATIENCE));
        let (had, had_by) = std::sync::mpsc::channel();
        let mut all = tokio::task::JoinSet::new();
        for number in 0..100_u64 {
            let (turns, had) = (Arc::clone(&turns), had.clone());
            all.spawn(async move {
                let _turn = turns.patiently(turns.next()).await.unwrap();
                assert!(turns.slots.available_permits() < AT_ONCE);
                had.send(number).unwrap();
                // Of two that have theirs together, the later may well be done first.
                sleep(Duration::from_secs(10 + number * 7 % 5)).await;
            });
        }
        all.join_all().await;
        drop(had);
        assert_eq!(had_by.into_iter().collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_moves_is_waited_in_for_as_long_as_it_takes() {
        let turns = Turns::new(PATIENCE);
        let begun = Instant::now();
        let wait = turns.patiently(sleep(PATIENCE * 10));
        let others = async {
            loop {
                sleep(PATIENCE / 2).await;
                drop(turns.next().await);
            }
        };
        tokio::select! {
            done = wait => assert!(done.is_some()),
            () = others => {}
        }
        assert_eq!(begun.elapsed(), PATIENCE * 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_stands_still_is_left() {
        let turns = Turns::new(PATIENCE);
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            held.push(turns.next().await);
        }
        let begun = Instant::now();
        assert!(turns.patiently(turns.next()).await.is_none());
        assert_eq!(begun.elapsed(), PATIENCE);
        held.pop();
        assert!(turns.patiently(turns.next()).await.is_some());
    }
}
