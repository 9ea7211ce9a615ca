//! What the broker learns from answers as they pass: the task that a runner gets, and its end.

use std::sync::Arc;
use std::time::Instant;

use crate::connect::{Codec, peek};
use crate::lifecycle::{Lifecycle, Live};

/// The most of an answer that is looked at; the ids stand at its beginning.
const PREFIX: usize = 4096;

/// A poll on its way: while it is, its runner may have a task that the broker does not know of yet.
pub(super) struct Polling {
    live: Arc<Live>,
    lifecycle: Arc<Lifecycle>,
    begun: Instant,
}

impl Polling {
    /// The runner asks for a task.
    #[must_use]
    pub(super) fn new(live: Arc<Live>, lifecycle: Arc<Lifecycle>) -> Self {
        let begun = Instant::now();
        live.note(|activity| activity.polls(begun));
        Self { live, lifecycle, begun }
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.live.note(|activity| activity.polled(self.begun));
        self.lifecycle.has_moved();
    }
}

/// What is looked for in an answer, and whom it is about.
pub struct Watch {
    /// Which call it was.
    pub(super) call: Watched,
    /// How the answer is written.
    pub(super) codec: Codec,
    /// Whether the answer is compressed.
    pub(super) gzip: bool,
    /// What has passed, until the answer is found.
    pub(super) seen: Vec<u8>,
    /// Nothing more is looked for.
    pub(super) done: bool,
}

/// The calls whose answers are looked at.
pub(super) enum Watched {
    /// Its answer may hold a task.
    FetchTask(Polling),
    /// Its answer tells whether the task has ended.
    UpdateTask(Arc<Live>, Arc<Lifecycle>),
}

impl Watch {
    /// Part of the answer passes. What it tells is noted before the runner has it.
    pub(super) fn see(&mut self, data: &[u8]) {
        if self.done {
            return;
        }
        let whole = self.seen.is_empty();
        let piece = &data[..data.len().min(PREFIX - self.seen.len())];
        // An answer mostly comes in one piece: then it is looked at where it is.
        if whole {
            self.done = self.find(piece);
        }
        if !self.done {
            self.seen.extend_from_slice(piece);
        }
        if !whole {
            self.done = self.find(&self.seen);
        }
        self.done |= self.seen.len() == PREFIX;
    }

    fn find(&self, prefix: &[u8]) -> bool {
        match &self.call {
            Watched::FetchTask(poll) => {
                let found = peek::fetched_task(self.codec, self.gzip, prefix);
                if let Some(task) = found {
                    poll.live.note(|activity| activity.works_on(task, Instant::now()));
                }
                found.is_some()
            }
            Watched::UpdateTask(live, lifecycle) => {
                let found = peek::task_state(self.codec, self.gzip, prefix);
                match found {
                    Some((task, true)) => {
                        live.note(|activity| activity.done_with(task));
                        lifecycle.has_moved();
                        // It was only waited for that.
                        if live.is_deregistering() {
                            lifecycle.settle_soon();
                        } else if live.ephemeral {
                            lifecycle.ephemeral_done(live);
                        }
                    }
                    // Its task may be one from before a crash of the broker.
                    Some((task, false)) => {
                        live.note(|activity| activity.works_on(task, Instant::now()));
                    }
                    None => {}
                }
                found.is_some()
            }
        }
    }
}
