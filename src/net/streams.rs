//! The requests of one HTTP/2 connection, each a task of its own. One whose client opens no window for what
//! it is sent would be kept for ever: in HTTP/1.1 the connection itself stands still then, here it does not.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::rt::Executor;
use tokio::task_local;
use tokio::time::{Instant, sleep, sleep_until};

task_local! {
    /// Since when a piece of the answer is in the library's hands; `None`: it has none.
    static HANDED_OVER: Cell<Option<Instant>>;
}

/// The library asks for the next piece of an answer: it has sent the one before.
pub(super) fn asked_for() {
    // Of HTTP/1.1 there is no such task, and nothing to be told.
    let _ = HANDED_OVER.try_with(|since| since.set(None));
}

/// The library has been given a piece of an answer.
pub(super) fn handed_over() {
    let _ = HANDED_OVER.try_with(|since| since.set(Some(Instant::now())));
}

/// Runs them.
#[derive(Clone)]
pub(crate) struct Streams {
    limit: Duration,
    stalled: Arc<dyn Fn() + Send + Sync>,
}

impl Streams {
    /// Each is called off where its client takes nothing for `limit`, and `stalled` is told.
    pub(crate) fn new(limit: Duration, stalled: impl Fn() + Send + Sync + 'static) -> Self {
        Self { limit, stalled: Arc::new(stalled) }
    }
}

impl<F: Future + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let Self { limit, stalled } = self.clone();
        // Dropping it resets the stream.
        tokio::spawn(HANDED_OVER.scope(Cell::new(None), async move {
            tokio::select! {
                _ = pin!(stream) => {}
                () = stall(limit) => stalled(),
            }
        }));
    }
}

async fn stall(limit: Duration) {
    loop {
        match HANDED_OVER.with(Cell::get) {
            None => sleep(limit).await,
            Some(since) if since.elapsed() >= limit => return,
            Some(since) => sleep_until(since + limit).await,
        }
    }
}
