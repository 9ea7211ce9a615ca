//! Runners that the settings declare: registered before any asks, each with its file in its place, so that
//! an official runner starts from that file and holds no other secret. They are brought in line at the
//! start and with each reload; what fails is tried again until it works.

mod bring;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{error, info};

use super::Lifecycle;
use crate::broker::Origin;

/// The longest wait between two attempts: whoever mounts a missing volume does not wait for long.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How far the broker is with the runners that the settings declare.
#[derive(Default)]
pub(super) struct Declared {
    /// All are to be looked at, not only those in trouble.
    all: AtomicBool,
    wake: Notify,
    /// One is being registered.
    registering: AtomicBool,
    standing: Mutex<Standing>,
}

#[derive(Default)]
struct Standing {
    /// Each had its file once. From then on the broker stays ready, so that no new entry and no trouble
    /// takes it away from the runners that it has.
    ready: bool,
    /// By the runner's name.
    troubles: BTreeMap<String, Trouble>,
}

/// Why a runner is not in line.
#[derive(Clone, PartialEq, Eq)]
struct Trouble {
    why: String,
    /// No runner can start from its file.
    no_file: bool,
}

impl Trouble {
    fn no_file(why: impl ToString) -> Self {
        Self { why: why.to_string(), no_file: true }
    }
}

impl Declared {
    pub(super) fn registering(&self) -> usize {
        usize::from(self.registering.load(Ordering::Relaxed))
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lifecycle {
    /// The settings may declare others: all are brought in line soon.
    pub fn declare_runners(&self) {
        self.declared.all.store(true, Ordering::Relaxed);
        self.declare_soon();
    }

    /// What failed is tried now.
    pub(super) fn declare_soon(&self) {
        self.declared.wake.notify_one();
    }

    /// Whether the broker may be called ready as far as declared runners go, and where they stand; nothing
    /// where none is declared.
    #[must_use]
    pub fn declared_runners(&self) -> Option<Result<String, String>> {
        let count = self.settings.load().runners.len();
        let troubles = self.declared_troubles().join("; ");
        match (count, self.declared.standing().ready, troubles.is_empty()) {
            (0, ..) => None,
            (_, true, true) => Some(Ok(format!("{count} declared, each has its file"))),
            (_, true, false) => Some(Ok(format!("{count} declared; {troubles}"))),
            (_, false, true) => Some(Err("not all that are declared have their files yet".into())),
            (_, false, false) => Some(Err(troubles)),
        }
    }

    /// What keeps declared runners from being in line, a sentence for each.
    #[must_use]
    pub fn declared_troubles(&self) -> Vec<String> {
        let standing = self.declared.standing();
        standing.troubles.iter().map(|(name, trouble)| format!("{name}: {}", trouble.why)).collect()
    }

    /// Brings the declared runners in line, for ever.
    pub async fn keep_declaring(self: Arc<Self>) {
        let mut wait = self.timing.retry;
        self.declare_runners();
        loop {
            let woken = self.declared.wake.notified();
            if self.declared.standing().troubles.is_empty() {
                woken.await;
            } else if timeout(wait, woken).await.is_err() {
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            if self.is_draining() {
                continue;
            }
            let all = self.declared.all.swap(false, Ordering::Relaxed);
            if all {
                wait = self.timing.retry;
                self.undeclare_others().await;
            }
            self.bring_in_line(all).await;
        }
    }

    /// Looks at all declared runners, or only at those in trouble.
    async fn bring_in_line(self: &Arc<Self>, all: bool) {
        let runners = self.settings.load().runners.clone();
        let names: BTreeSet<_> = runners.iter().map(|declared| declared.name.as_str()).collect();
        self.declared.standing().troubles.retain(|name, _| names.contains(name.as_str()));
        for declared in &runners {
            let troubled = self.declared.standing().troubles.contains_key(&declared.name);
            if self.is_draining() {
                return;
            }
            if all || troubled {
                let (this, one) = (Arc::clone(self), declared.clone());
                // The end of the broker waits for what has begun.
                let brought = self.running.spawn(async move { this.bring(&one).await }).await;
                let brought = brought.unwrap_or_else(|error| {
                    Err(Trouble::no_file(format!("it broke off: {error}")))
                });
                self.note_standing(&declared.name, brought);
            }
        }
        let mut standing = self.declared.standing();
        standing.ready |= standing.troubles.values().all(|trouble| !trouble.no_file);
    }

    fn note_standing(&self, name: &str, brought: Result<(), Trouble>) {
        let mut standing = self.declared.standing();
        match brought {
            Ok(()) => {
                if standing.troubles.remove(name).is_some() {
                    info!(runner = name, "declared runner is in line");
                }
            }
            Err(trouble) => {
                let before = standing.troubles.insert(name.to_owned(), trouble.clone());
                if before.as_ref() != Some(&trouble) {
                    let reason = trouble.why;
                    error!(runner = name, reason, "declared runner is not in line; tried again");
                }
            }
        }
    }

    /// Sends those away that were declared once and are no longer.
    async fn undeclare_others(self: &Arc<Self>) {
        let runners = self.settings.load().runners.clone();
        for live in self.roster.all().into_iter().chain(self.roster.asleep()) {
            let record = live.record();
            if live.origin == Origin::Declared && !runners.iter().any(|one| one.is(&record)) {
                self.undeclare(&live).await;
            }
        }
    }
}
