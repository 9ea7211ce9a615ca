//! The daemon of a runner: Declare once, then poll and run what comes.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{RpcError, Runner};

/// How fast a daemon goes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two polls. The real runner: 2 to 5 seconds.
    pub poll: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { poll: Duration::from_millis(50) }
    }
}

/// A running daemon. Dropping it stops it in the midst of what it does, as SIGKILL would.
pub struct Daemon {
    stop: CancellationToken,
    running: JoinHandle<Result<usize, RpcError>>,
}

impl Runner {
    /// Declares its labels, then polls. As the real one it ends on any error of Declare and on
    /// `unauthenticated`, polls on after other errors, sends version 0 after it got a task, and an
    /// ephemeral one ends after its task.
    #[must_use]
    pub fn spawn(self, pace: Pace) -> Daemon {
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(self, pace, stop.clone()));
        Daemon { stop, running }
    }
}

impl Daemon {
    /// Lets it finish the task in hand, if any, and returns how many tasks it ran, or why it had ended.
    pub async fn stop(self) -> Result<usize, RpcError> {
        self.stop.cancel();
        self.ended().await
    }

    /// Waits until it ends by itself.
    pub async fn ended(mut self) -> Result<usize, RpcError> {
        match (&mut self.running).await {
            Ok(outcome) => outcome,
            Err(error) => Err(RpcError::no_answer(error.to_string())),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn run(runner: Runner, pace: Pace, stop: CancellationToken) -> Result<usize, RpcError> {
    let labels: Vec<&str> = runner.labels.iter().map(String::as_str).collect();
    runner.declare(&labels).await?;
    let mut version = 0;
    let mut ran = 0;
    while !stop.is_cancelled() {
        match runner.fetch_task(version).await {
            Ok((Some(task), _)) => {
                runner.run_task(&task).await?;
                ran += 1;
                if runner.ephemeral {
                    break;
                }
                version = 0;
                continue;
            }
            Ok((None, latest)) => version = version.max(latest),
            Err(error) if error.code == "unauthenticated" => return Err(error),
            Err(_) => {}
        }
        stop.run_until_cancelled(tokio::time::sleep(pace.poll)).await;
    }
    Ok(ran)
}
