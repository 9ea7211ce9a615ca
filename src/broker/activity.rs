//! What a runner does at the moment, as its traffic tells it.

use std::time::{Duration, Instant};

/// A runner that has been silent for this long is gone even where a connection seems open.
const SILENCE: Duration = Duration::from_secs(5 * 60);

/// Gitea itself gives a task up after this long without a report.
const TASK_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Gitea shows a runner online this long after its last call, and a little for two clocks that differ.
const ONLINE: Duration = Duration::from_secs(65);

/// A poll that takes this long brings no task any more: a runner itself gives it half of that. Else one
/// that never ends would keep its runner from being deregistered.
pub const POLL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a runner does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It has a task in hand.
    Busy,
    /// It has none.
    Idle,
    /// It has none, and it has left or died.
    Gone,
}

/// The traffic of one runner: its open connections, its last call, its tasks in hand.
#[derive(Clone, Debug)]
pub struct Activity {
    connections: usize,
    /// When each poll that is on its way began.
    polls: Vec<Instant>,
    left: bool,
    /// Silence is counted from here.
    heard: Instant,
    /// When it was last alive: its own call, or what Gitea showed.
    call: Option<Instant>,
    /// The last call with its credentials that the broker passed on or made: for a while after it, that
    /// Gitea shows the runner online says nothing about what it does elsewhere.
    passed: Option<Instant>,
    called_here: bool,
    spoke: bool,
    tasks: Vec<Task>,
    changes: u64,
    /// When Gitea last showed it busy, with a task that the broker does not know.
    busy_elsewhere: Option<Instant>,
}

/// What Gitea shows of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// It made a call within the last minute.
    pub online: bool,
    /// It reported on a task within the last seconds.
    pub busy: bool,
}

#[derive(Clone, Copy, Debug)]
struct Task {
    id: i64,
    reported: Instant,
}

impl Activity {
    /// A runner that the broker has just come to know, by its Register or from the store. Silence is
    /// counted from here: what happened while the broker was away tells nothing.
    #[must_use]
    pub fn new(now: Instant, spoke: bool, tasks: &[i64]) -> Self {
        Self {
            connections: 0,
            polls: Vec::new(),
            left: false,
            heard: now,
            call: None,
            passed: None,
            called_here: false,
            spoke,
            busy_elsewhere: None,
            tasks: tasks.iter().map(|&id| Task { id, reported: now }).collect(),
            changes: 0,
        }
    }

    /// It made a call with its credentials. Returns whether it was the first.
    pub fn called(&mut self, now: Instant) -> bool {
        self.heard = now;
        self.call = Some(now);
        self.passed = Some(now);
        self.called_here = true;
        !std::mem::replace(&mut self.spoke, true)
    }

    /// Whether it made a call through the broker since the broker knows it: then it dials no other place.
    #[must_use]
    pub fn called_here(&self) -> bool {
        self.called_here
    }

    /// The broker made a call with its credentials.
    pub fn spoken_for(&mut self, now: Instant) {
        self.passed = Some(now);
    }

    /// Gitea shows this of it. A runner that dials Gitea itself is known by nothing else. Returns whether
    /// that proves it alive.
    pub fn shown(&mut self, shown: Shown, now: Instant) -> bool {
        let known =
            self.passed.is_some_and(|passed| now.saturating_duration_since(passed) < ONLINE);
        if known || self.connections > 0 {
            return false;
        }
        self.busy_elsewhere = (shown.online && shown.busy).then_some(now);
        if shown.online {
            self.heard = now;
            self.call = Some(now);
            self.spoke = true;
            self.left = false;
        } else if self.spoke && !self.left {
            self.heard = now;
            self.left = true;
        }
        shown.online
    }

    /// A connection carried its first call for this runner.
    pub fn connected(&mut self) {
        self.connections += 1;
        self.left = false;
    }

    /// A connection that carried its calls has closed. `kept`: it could have carried more of them. One
    /// that was for a single call, as some proxies have it, closes while its runner lives.
    pub fn disconnected(&mut self, kept: bool, now: Instant) {
        self.connections = self.connections.saturating_sub(1);
        self.left = kept && self.connections == 0;
        self.heard = now;
    }

    /// Gitea knows it as another runner from now on, which has no task; its connections are open as before.
    pub fn starts_anew(&mut self) {
        self.polls.clear();
        self.keep_tasks(|_| false);
    }

    /// It asks for a task: until the answer has passed, Gitea may have handed it one.
    pub fn polls(&mut self, now: Instant) {
        self.polls.push(now);
    }

    /// The answer to the poll that began then has passed, or there was none.
    pub fn polled(&mut self, begun: Instant) {
        if let Some(at) = self.polls.iter().position(|poll| *poll == begun) {
            self.polls.swap_remove(at);
        }
    }

    /// Whether a poll of it is on its way that may still bring a task.
    #[must_use]
    pub fn is_polling(&self, now: Instant) -> bool {
        self.polls.iter().any(|begun| now.saturating_duration_since(*begun) < POLL_TIMEOUT)
    }

    /// Gitea handed it a task, or it reports on one.
    pub fn works_on(&mut self, id: i64, now: Instant) {
        self.forget_given_up(now);
        match self.tasks.iter_mut().find(|task| task.id == id) {
            Some(task) => task.reported = now,
            None => {
                self.changes += 1;
                self.tasks.push(Task { id, reported: now });
            }
        }
    }

    /// Gitea knows its task as ended.
    pub fn done_with(&mut self, id: i64) {
        self.keep_tasks(|task| task.id != id);
    }

    /// It sends something about a task whose id was not looked at: all its tasks are alive.
    pub fn reports(&mut self, now: Instant) {
        self.forget_given_up(now);
        for task in &mut self.tasks {
            task.reported = now;
        }
    }

    /// What Gitea has given up is not this runner's any more, whatever it still says.
    fn forget_given_up(&mut self, now: Instant) {
        self.keep_tasks(|task| now.saturating_duration_since(task.reported) < TASK_TIMEOUT);
    }

    fn keep_tasks(&mut self, keep: impl FnMut(&Task) -> bool) {
        let before = self.tasks.len();
        self.tasks.retain(keep);
        self.changes += u64::from(self.tasks.len() != before);
    }

    /// How often the tasks in hand have become others.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Its last call since the broker knows it.
    #[must_use]
    pub fn last_call(&self) -> Option<Instant> {
        self.call
    }

    /// Whether it ever made a call with its credentials.
    #[must_use]
    pub fn spoke(&self) -> bool {
        self.spoke
    }

    /// Whether a connection that carries its calls is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connections > 0
    }

    /// Ids of the tasks in hand.
    pub fn tasks(&self, now: Instant) -> impl Iterator<Item = i64> {
        self.tasks
            .iter()
            .filter(move |task| now.saturating_duration_since(task.reported) < TASK_TIMEOUT)
            .map(|task| task.id)
    }

    /// Whether it has a task that the broker does not know, as Gitea shows it.
    #[must_use]
    pub fn is_busy_elsewhere(&self, now: Instant) -> bool {
        self.busy_elsewhere.is_some_and(|at| now.saturating_duration_since(at) < TASK_TIMEOUT)
    }

    /// What it does at `now`. One that never spoke is idle: it may be waiting for its Docker.
    #[must_use]
    pub fn presence(&self, now: Instant) -> Presence {
        if self.tasks(now).next().is_some() || self.is_busy_elsewhere(now) {
            Presence::Busy
        } else if self.gone_since(now).is_some() {
            Presence::Gone
        } else {
            Presence::Idle
        }
    }

    /// Since when it has been gone; `None`: it is not.
    #[must_use]
    pub fn gone_since(&self, now: Instant) -> Option<Instant> {
        Some(self.gone_at()).filter(|at| self.spoke && *at <= now)
    }

    /// When its lease ends if nothing is heard of it until then. That of one that never spoke runs from
    /// when the broker came to know it.
    #[must_use]
    pub fn lease_ends(&self, expire_after: Duration) -> Option<Instant> {
        // What lies beyond the clock's end never comes.
        self.gone_at().checked_add(expire_after)
    }

    /// When it is gone if nothing is heard of it until then.
    fn gone_at(&self) -> Instant {
        let silent = match self.left || !self.spoke {
            true => self.heard,
            false => self.heard + SILENCE,
        };
        let reported = self.tasks.iter().map(|task| task.reported).chain(self.busy_elsewhere).max();
        reported.map_or(silent, |reported| silent.max(reported + TASK_TIMEOUT))
    }
}

#[cfg(test)]
mod tests;
