//! What a runner does at the moment, as its traffic tells it.

use std::time::{Duration, Instant};

/// A runner that has been silent for this long is gone even where a connection seems open.
const SILENCE: Duration = Duration::from_secs(5 * 60);

/// Gitea itself gives a task up after this long without a report.
const TASK_TIMEOUT: Duration = Duration::from_secs(10 * 60);

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
    heard: Instant,
    call: Option<Instant>,
    spoke: bool,
    tasks: Vec<Task>,
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
            spoke,
            tasks: tasks.iter().map(|&id| Task { id, reported: now }).collect(),
        }
    }

    /// It made a call with its credentials. Returns whether it was the first.
    pub fn called(&mut self, now: Instant) -> bool {
        self.heard = now;
        self.call = Some(now);
        !std::mem::replace(&mut self.spoke, true)
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
        self.tasks.clear();
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
            None => self.tasks.push(Task { id, reported: now }),
        }
    }

    /// Gitea knows its task as ended.
    pub fn done_with(&mut self, id: i64) {
        self.tasks.retain(|task| task.id != id);
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
        self.tasks.retain(|task| now.saturating_duration_since(task.reported) < TASK_TIMEOUT);
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

    /// What it does at `now`. One that never spoke is idle: it may be waiting for its Docker.
    #[must_use]
    pub fn presence(&self, now: Instant) -> Presence {
        if self.tasks(now).next().is_some() {
            Presence::Busy
        } else if self.spoke && (self.left || now.saturating_duration_since(self.heard) >= SILENCE)
        {
            Presence::Gone
        } else {
            Presence::Idle
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_that_never_spoke_is_not_gone() {
        let start = Instant::now();
        let activity = Activity::new(start, false, &[]);
        assert_eq!(activity.presence(start + 10 * SILENCE), Presence::Idle);
    }

    #[test]
    fn gone_when_its_last_connection_closes() {
        let start = Instant::now();
        let mut activity = Activity::new(start, false, &[]);
        activity.connected();
        activity.connected();
        assert!(activity.called(start), "the first call");
        assert!(!activity.called(start), "no longer the first");
        activity.disconnected(true, start);
        assert_eq!(activity.presence(start), Presence::Idle, "one connection is left");
        activity.disconnected(true, start);
        assert_eq!(activity.presence(start), Presence::Gone);
        activity.connected();
        assert_eq!(activity.presence(start), Presence::Idle, "it came back");
    }

    #[test]
    fn gone_after_five_minutes_of_silence_on_an_open_connection() {
        let start = Instant::now();
        let mut activity = Activity::new(start, false, &[]);
        activity.connected();
        activity.called(start);
        assert_eq!(activity.presence(start + SILENCE - SECOND), Presence::Idle);
        assert_eq!(activity.presence(start + SILENCE), Presence::Gone);
    }

    #[test]
    fn a_restart_of_the_broker_tells_nothing_about_who_is_gone() {
        let start = Instant::now();
        let activity = Activity::new(start, true, &[]);
        assert_eq!(activity.presence(start + SECOND), Presence::Idle);
        assert_eq!(activity.presence(start + SILENCE), Presence::Gone);
    }

    #[test]
    fn a_task_keeps_it_busy_whatever_its_connections_do() {
        let start = Instant::now();
        let mut activity = Activity::new(start, false, &[]);
        activity.connected();
        activity.called(start);
        activity.works_on(7, start);
        activity.disconnected(true, start);
        assert_eq!(activity.presence(start), Presence::Busy);
        activity.done_with(7);
        assert_eq!(activity.presence(start), Presence::Gone);
    }

    #[test]
    fn a_task_without_a_report_for_ten_minutes_is_given_up_as_gitea_does() {
        let start = Instant::now();
        let mut activity = Activity::new(start, true, &[7]);
        assert_eq!(activity.presence(start + TASK_TIMEOUT - SECOND), Presence::Busy);
        assert_eq!(activity.presence(start + TASK_TIMEOUT), Presence::Gone);
        activity.reports(start + TASK_TIMEOUT - SECOND);
        assert_eq!(activity.presence(start + TASK_TIMEOUT), Presence::Busy);
        activity.reports(start + 2 * TASK_TIMEOUT);
        assert_eq!(activity.tasks(start + 2 * TASK_TIMEOUT).count(), 0, "not taken up again");
    }
}
