//! A panic is a fault of the broker's. It is told without what it quotes, and ends no more than the call in which it
//! came.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::pin::Pin;
use std::task::Poll;

use tracing::error;

const TELLS: &str = "a fault of the broker's: please report it";
const HIDDEN: &str = "its text is not shown, as it may quote a secret";

/// From now on, panics are told in the log, or on standard error where there is no log.
pub fn hook() {
    set_hook(Box::new(|panic| {
        let (at, why) = place_and_reason(panic);
        if tracing::dispatcher::has_been_set() {
            error!(at, why, "{TELLS}");
        } else {
            eprintln!("{TELLS} ({at}: {why})");
        }
    }));
}

/// What was put together at run time may hold anything; what stands in the program holds no secret.
fn place_and_reason(panic: &PanicHookInfo) -> (String, &'static str) {
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    (at, panic.payload().downcast_ref::<&'static str>().copied().unwrap_or(HIDDEN))
}

/// Does the work to its end; `None` where it panics. What it held is let go of.
pub fn caught<T>(mut work: Pin<Box<impl Future<Output = T>>>) -> impl Future<Output = Option<T>> {
    poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_work_alone() {
        assert_eq!(caught(Box::pin(async { 7 })).await, Some(7));
        let number = caught(Box::pin(async {
            tokio::task::yield_now().await;
            panic!("as it should")
        }));
        let number: Option<u8> = number.await;
        assert_eq!(number, None);
    }
}
