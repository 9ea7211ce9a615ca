//! Wake-ups that a connection's own task need not hear.
//!
//! Whoever takes a piece of a body wakes the connection that brought it, and an answer that has come wakes whoever
//! waits for it, also where all of them are the same task, which is at it already. Each such wake-up would poll
//! the whole connection once more for nothing: two of four times for a runner's poll.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

use super::http::Conversation;

thread_local! {
    static HEARING: RefCell<Hearing> = const { RefCell::new(Hearing::All) };
}

/// How a wake-up is heard that comes on this thread.
enum Hearing {
    /// At once.
    All,
    /// Later, if at all: who was called.
    Later(Option<Arc<Ear>>),
}

/// Wakes the task that it was last registered by.
struct Ear(AtomicWaker);

impl Wake for Ear {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let is_held_back = HEARING.with_borrow_mut(|hearing| match hearing {
            Hearing::All => false,
            Hearing::Later(Some(called)) => Arc::ptr_eq(called, self),
            Hearing::Later(called) => {
                *called = Some(Arc::clone(self));
                true
            }
        });
        if !is_held_back {
            self.0.wake();
        }
    }
}

/// A connection whose wake-ups can be held back.
pub(super) struct Hushable<C> {
    conversation: C,
    ear: Arc<Ear>,
    waker: Waker,
}

impl<C> Hushable<C> {
    pub(super) fn new(conversation: C) -> Self {
        let ear = Arc::new(Ear(AtomicWaker::new()));
        Self { conversation, waker: Arc::clone(&ear).into(), ear }
    }
}

impl<C: Future + Unpin> Future for Hushable<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.get_mut();
        this.ear.0.register(context.waker());
        Pin::new(&mut this.conversation).poll(&mut Context::from_waker(&this.waker))
    }
}

impl<C: Conversation + Unpin> Conversation for Hushable<C> {
    fn finish(self: Pin<&mut Self>) {
        Pin::new(&mut self.get_mut().conversation).finish();
    }
}

/// While it is there, wake-ups that come on this thread are held back. Then whoever was called is woken.
#[must_use = "it ends at once where it is not kept"]
pub(super) struct Hush(Hearing);

impl Hush {
    pub(super) fn begin() -> Self {
        Self(HEARING.replace(Hearing::Later(None)))
    }

    /// Ends it. Nobody need be woken.
    pub(super) fn needless(self) {
        HEARING.set(Hearing::All);
    }
}

impl Drop for Hush {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut self.0, Hearing::All);
        if let Hearing::Later(Some(called)) = HEARING.replace(before) {
            // Past any other hush around this one: that does not know what this one is needed for.
            called.0.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ear() -> (Arc<Count>, Arc<Ear>) {
        let (count, ear) = (Arc::<Count>::default(), Arc::new(Ear(AtomicWaker::new())));
        ear.0.register(&Arc::clone(&count).into());
        (count, ear)
    }

    fn woken(count: &Count) -> usize {
        count.0.load(Ordering::Relaxed)
    }

    #[test]
    fn what_is_held_back_is_heard_later_unless_it_is_needless() {
        let (count, ear) = ear();
        let hush = Hush::begin();
        ear.wake_by_ref();
        ear.wake_by_ref();
        assert_eq!(woken(&count), 0);
        hush.needless();
        assert_eq!(woken(&count), 0);
        let hush = Hush::begin();
        ear.wake_by_ref();
        assert_eq!(woken(&count), 0);
        drop(hush);
        assert_eq!(woken(&count), 1);
        ear.0.register(&Arc::clone(&count).into());
        ear.wake_by_ref();
        assert_eq!(woken(&count), 2, "nothing is held back any more");
    }

    #[test]
    fn one_within_another_is_heard_on_its_own() {
        let (count, one) = ear();
        let outer = Hush::begin();
        let inner = Hush::begin();
        one.wake_by_ref();
        drop(inner);
        assert_eq!(woken(&count), 1, "it was needed, whatever comes of the outer one");
        let (other_count, other) = ear();
        let inner = Hush::begin();
        inner.needless();
        other.wake_by_ref();
        assert_eq!(woken(&other_count), 0, "the outer one goes on");
        drop(outer);
        assert_eq!(woken(&other_count), 1);
    }

    #[test]
    fn each_is_woken_whoever_else_was_called() {
        let ((first_count, first), (second_count, second)) = (ear(), ear());
        let hush = Hush::begin();
        first.wake_by_ref();
        second.wake_by_ref();
        assert_eq!(woken(&second_count), 1, "it may need it");
        drop(hush);
        assert_eq!(woken(&first_count), 1);
    }

    #[test]
    fn another_thread_is_heard() {
        let (count, ear) = ear();
        let hush = Hush::begin();
        std::thread::scope(|scope| scope.spawn(|| ear.wake_by_ref()).join().unwrap());
        assert_eq!(woken(&count), 1);
        hush.needless();
    }

    #[test]
    fn a_panic_ends_it() {
        let (count, ear) = ear();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _hush = Hush::begin();
            ear.wake_by_ref();
            panic!("as it should")
        }));
        assert!(panicked.is_err());
        assert_eq!(woken(&count), 1);
    }
}
