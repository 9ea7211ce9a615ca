//! What is left of registrations and deregistrations whose end is not known: tried again in the
//! background, with growing waits, until Gitea has told.
//!
//! An orphan (Gitea acted, the answer was lost or the broker died) is known by the label of its intent
//! and by nothing else. Nobody has its credentials, so its label stays: a complete list of Gitea's runners
//! that shows no such label, read when Gitea had long given up, proves that there is none and that none
//! comes. Until then, every row that shows it is deleted.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::deregister::Force;
use super::sweep::Lists;
use super::{Lifecycle, Live, Pace};
use crate::broker::{Intent, Reason};
use crate::config::Scope;

const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

/// A registration of which it is not known whether Gitea acted.
#[derive(Clone)]
pub(super) struct Unsettled {
    pub(super) intent: Intent,
    /// When it was last possible that Gitea still worked on it.
    pub(super) since: Instant,
}

/// When something is tried: after growing waits, or when there is something new.
pub(super) struct Turn {
    /// `None`: when there is something new.
    next: Option<Instant>,
    /// Not even then before this.
    rests_until: Instant,
    /// Something was left the last time.
    left: bool,
    wait: Duration,
    first_wait: Duration,
}

impl Turn {
    /// It is tried at once.
    pub(super) fn new(first_wait: Duration) -> Self {
        let now = Instant::now();
        Self { next: Some(now), rests_until: now, left: false, wait: first_wait, first_wait }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    pub(super) fn is_due(&self) -> bool {
        self.next.is_some_and(|next| next <= Instant::now())
    }

    /// Whether something new is a reason to try.
    pub(super) fn waits(&self) -> bool {
        self.left || self.next.is_none()
    }

    /// It is tried as soon as may be, and again after short waits.
    pub(super) fn now(&mut self) {
        self.wait = self.first_wait;
        self.next = Some(self.rests_until.max(Instant::now()));
    }

    /// Something is left, and is not tried before this rest is over.
    pub(super) fn again(&mut self, rest: Duration) {
        let now = Instant::now();
        self.left = true;
        self.rests_until = now + rest;
        self.next = Some(now + self.wait.max(rest));
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }

    /// Nothing is left.
    pub(super) fn done(&mut self, next: Option<Instant>) {
        self.left = false;
        self.wait = self.first_wait;
        self.next = next;
    }
}

impl Lifecycle {
    pub(super) fn add_unsettled(&self, intent: Intent, since: Instant) {
        let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        unsettled.push(Unsettled { intent, since });
        self.count_unsettled(&unsettled);
        self.wake.notify_one();
    }

    /// How many registrations are unsettled.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The scope of each of them.
    pub(super) fn unsettled_scopes(&self) -> Vec<Scope> {
        self.all_unsettled().into_iter().map(|one| one.intent.scope).collect()
    }

    pub(super) fn all_unsettled(&self) -> Vec<Unsettled> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Settles what is unsettled and looks through Gitea's lists, for ever.
    pub async fn keep_settling(self: Arc<Self>) {
        let mut runners = Turn::new(self.timing.retry);
        let mut lists = Lists::default();
        let mut woken = false;
        let mut pace = Pace::default();
        while !self.is_draining() {
            pace.rest().await;
            if woken {
                runners.now();
            }
            if runners.is_due() {
                match self.settle_runners(&mut pace).await {
                    0 => runners.done(None),
                    _ => runners.again(Duration::ZERO),
                }
            }
            self.settle_lists(&mut lists, woken).await;
            let wake = self.wake.notified();
            woken = match runners.next().into_iter().chain(lists.next()).min() {
                Some(next) => timeout_at(next.into(), wake).await.is_ok(),
                None => {
                    wake.await;
                    true
                }
            };
        }
    }

    /// Tries once what is due of runners that have a record; returns how many are left.
    async fn settle_runners(self: &Arc<Self>, pace: &mut Pace) -> usize {
        let mut left = 0;
        let (leaving, undeclared) =
            pace.look(|| (self.to_be_deregistered(), self.roster.all_that(Live::declare_is_due)));
        for (live, reason) in leaving {
            // The shutdown sees to them.
            if self.is_draining() {
                return 0;
            }
            // A runner that asked for it itself is on its way out, and so is its task.
            let force = match reason {
                Reason::Runner => Force::CancelTask,
                _ => Force::LeaveBusy,
            };
            left += usize::from(self.deregister_again(&live, reason, force).await.is_err());
        }
        for live in undeclared {
            if self.is_draining() {
                return 0;
            }
            if live.declare_is_due() {
                left += usize::from(!self.declare_again(&live).await);
            }
        }
        left
    }

    pub(super) fn forget_unsettled(&self, nonce: &str) {
        let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        unsettled.retain(|one| one.intent.nonce != nonce);
        self.count_unsettled(&unsettled);
    }

    fn count_unsettled(&self, unsettled: &[Unsettled]) {
        let count = i64::try_from(unsettled.len()).unwrap_or(i64::MAX);
        self.metrics.unsettled_registrations.set(count);
    }
}
