//! The stages of the wrapper's life: join, start, watch, leave. Each waits at the queue, and knows what a
//! signal means in it.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGTERM};
use signal_hook::low_level::signal_name;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::Watch;
use super::child::{self, Ended, after_signal};
use super::events::{Events, Message, Outcome, is_stop};
use crate::credential::RunnerFile;
use crate::enroll::{self, JoinError, Peer, Standing, Wanted};

/// Between two questions after a runner that has ended.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What a stage waits for.
enum Event {
    Signal(i32),
    Done(Outcome),
    Ended(Ended),
    /// The time has come.
    Time,
}

/// What all stages share.
pub(super) struct Stages {
    events: Events,
    runtime: Handle,
    peer: Arc<Peer>,
    deadline: Duration,
    /// Ends the waits of joining.
    stop: CancellationToken,
    /// How often it was asked to end.
    stops: u32,
    /// The work in hand, so that an outcome of earlier work is told from its own.
    work: u64,
    abort: Option<AbortHandle>,
    child: Option<Pid>,
    ended: Option<Ended>,
    ended_at: Instant,
}

impl Stages {
    /// Starts the thread of the network.
    pub(super) fn new(
        events: Events,
        wanted: Wanted,
        deadline: Duration,
    ) -> Result<Self, JoinError> {
        let peer = Peer::new(wanted).map_err(JoinError::Settings)?;
        let failed = |error| JoinError::GaveUp(format!("a thread does not start: {error}"));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("network".into())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))
            .map_err(failed)?;
        Ok(Self {
            events,
            runtime: handle,
            peer: Arc::new(peer),
            deadline,
            stop: CancellationToken::new(),
            stops: 0,
            work: 0,
            abort: None,
            child: None,
            ended: None,
            ended_at: Instant::now(),
        })
    }

    /// Makes or keeps the runner file, after a wait. The inner error is the exit code where a signal ended
    /// it; what was registered by then is deregistered.
    pub(super) fn join(
        &mut self,
        after: Option<Duration>,
    ) -> Result<Result<RunnerFile, u8>, JoinError> {
        let stop = self.stop.clone();
        self.begin(move |peer| async move {
            let pause = tokio::time::sleep(after.unwrap_or_default());
            let joined = match stop.run_until_cancelled(pause).await {
                Some(()) => enroll::join(&peer, &stop).await,
                None => Err(JoinError::Stopped),
            };
            Outcome::Joined(joined)
        });
        let (mut code, mut until) = (0, None);
        loop {
            match self.next(until) {
                Event::Signal(signal) if is_stop(signal) || signal == SIGHUP => {
                    self.stops += 1;
                    info!(signal = signal_name(signal), "stopping: no command was started yet");
                    code = after_signal(signal);
                    if self.stops > 1 {
                        return Ok(Err(code));
                    }
                    self.stop.cancel();
                    until = Some(Instant::now() + self.deadline);
                    self.ended_at = Instant::now();
                }
                Event::Signal(signal) => {
                    debug!(
                        signal = signal_name(signal),
                        "there is no command yet to pass it on to"
                    );
                }
                Event::Done(Outcome::Joined(Ok(runner))) if self.stops > 0 => {
                    self.leave(&runner);
                    return Ok(Err(code));
                }
                Event::Done(Outcome::Joined(Ok(runner))) => return Ok(Ok(runner)),
                Event::Done(Outcome::Joined(Err(_))) if self.stops > 0 => return Ok(Err(code)),
                Event::Time if self.stops > 0 => {
                    warn!(
                        "there was no time left for the answer: a runner may be registered that nobody uses"
                    );
                    return Ok(Err(code));
                }
                Event::Done(Outcome::Joined(Err(error))) => return Err(error),
                Event::Done(_) | Event::Ended(_) | Event::Time => {}
            }
        }
    }

    /// Starts the command. The error is the exit code.
    pub(super) fn start(&mut self, command: &[OsString]) -> Result<(), u8> {
        match child::start(command, std::io::stdin().is_terminal()) {
            Ok(pid) => {
                info!(pid = pid.as_raw_nonzero(), "command started");
                self.child = Some(pid);
                Ok(())
            }
            Err((code, error)) => {
                let command = command.first().map(|name| name.display().to_string());
                error!(command, %error, "the command cannot be started: check its name and mode");
                self.ended_at = Instant::now();
                Err(code)
            }
        }
    }

    /// Waits for the command's end, passes signals on, and asks now and then whether its runner is known.
    pub(super) fn watch(&mut self, runner: &RunnerFile, watch: &Watch) -> Ended {
        let soon = || watch.check_every.map(|every| Instant::now() + every);
        let (mut check_at, mut kill_at) = (soon(), None);
        let (mut lost, mut doubted) = (false, false);
        loop {
            match self.next([check_at, kill_at].into_iter().flatten().min()) {
                Event::Ended(ended) => {
                    info!(code = ended.code(), "the command has ended");
                    return if lost { Ended::Lost(ended.code()) } else { ended };
                }
                Event::Signal(signal) => {
                    if is_stop(signal) {
                        // It may take hours over a job; nothing is healed any more.
                        self.stops += 1;
                        check_at = None;
                    }
                    self.kill(signal);
                }
                Event::Time if kill_at.is_some_and(|at| at <= Instant::now()) => {
                    warn!(after = ?watch.stop_timeout, "the command did not end: it is killed");
                    kill_at = None;
                    self.kill(Signal::KILL.as_raw());
                }
                Event::Time => {
                    check_at = None;
                    self.ask(runner);
                }
                Event::Done(_) if lost || self.stops > 0 => {}
                // A runner that takes one task is gone when that has ended, and its command soon after.
                Event::Done(Outcome::Standing(Standing::Unknown))
                    if runner.ephemeral && !doubted =>
                {
                    doubted = true;
                    check_at = soon();
                }
                Event::Done(Outcome::Standing(Standing::Unknown)) => {
                    warn!(id = runner.id, "the runner is not known any more: the command is ended");
                    lost = true;
                    kill_at = Some(Instant::now() + watch.stop_timeout);
                    self.kill(SIGTERM);
                }
                Event::Done(_) => check_at = soon(),
            }
        }
    }

    /// Whether the command is to be started again with a new runner: it was not asked to end, no signal ended
    /// it, and its runner is not known any more. A runner that is told so may end with 0.
    pub(super) fn is_lost(&mut self, runner: &RunnerFile, ended: Ended) -> bool {
        match ended {
            _ if self.stops > 0 || runner.ephemeral => return false,
            Ended::Lost(_) => return true,
            Ended::Signal(_) => return false,
            Ended::Exit(_) => self.ask(runner),
        }
        // The other half is for deregistering.
        let until = self.ended_at + self.deadline / 2;
        let mut again = None;
        loop {
            match self.next(Some(again.map_or(until, |at: Instant| at.min(until)))) {
                // A broker that has just heard of it does not say so at once.
                Event::Done(Outcome::Standing(Standing::Unclear(_))) => {
                    again = Some(Instant::now() + ASK_AGAIN);
                }
                Event::Done(Outcome::Standing(standing)) => return standing == Standing::Unknown,
                Event::Time if again.take().is_some() && Instant::now() < until => self.ask(runner),
                Event::Signal(signal) if is_stop(signal) => {
                    self.stops += 1;
                    return false;
                }
                Event::Time => return false,
                Event::Signal(_) | Event::Done(_) | Event::Ended(_) => {}
            }
        }
    }

    /// Deregisters the runner, as far as there is time for it. Whoever was asked to end before and is asked
    /// again ends at once.
    pub(super) fn leave(&mut self, runner: &RunnerFile) {
        let leaving = runner.clone();
        self.begin(move |peer| async move {
            enroll::leave(&peer, &leaving).await;
            Outcome::Left
        });
        let until = self.ended_at + self.deadline;
        loop {
            let why = match self.next(Some(until)) {
                Event::Done(Outcome::Left) => return,
                Event::Time => "there was no time left for it",
                Event::Signal(signal) if is_stop(signal) => {
                    self.stops += 1;
                    if self.stops == 1 {
                        continue;
                    }
                    "a further signal came"
                }
                Event::Signal(_) | Event::Done(_) | Event::Ended(_) => continue,
            };
            let file = self.peer.wanted().target.path();
            warn!(id = runner.id, why, file = %file.display(), "the runner was not deregistered, and its file is kept");
            return;
        }
    }

    /// Asks whether a runner is known.
    fn ask(&mut self, runner: &RunnerFile) {
        let runner = runner.clone();
        self.begin(move |peer| async move { Outcome::Standing(peer.standing(&runner).await) });
    }

    /// Lets the thread of the network do this, in place of what it does.
    fn begin<F>(&mut self, work: impl FnOnce(Arc<Peer>) -> F)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        if let Some(earlier) = self.abort.take() {
            earlier.abort();
        }
        self.work += 1;
        let (number, queue) = (self.work, self.events.sender.clone());
        let outcome = work(Arc::clone(&self.peer));
        let task = self.runtime.spawn(async move {
            // Where the queue is gone, so is the wrapper.
            let _ = queue.send(Message::Done(number, outcome.await));
        });
        self.abort = Some(task.abort_handle());
    }

    /// The next event; children are reaped on the way.
    fn next(&mut self, until: Option<Instant>) -> Event {
        loop {
            if let Some(ended) = self.ended.take() {
                return Event::Ended(ended);
            }
            match self.events.next(until) {
                None => return Event::Time,
                Some(Message::Signal(SIGCHLD)) => self.reap(),
                Some(Message::Signal(signal)) => return Event::Signal(signal),
                Some(Message::Done(number, outcome)) if number == self.work => {
                    return Event::Done(outcome);
                }
                Some(Message::Done(..)) => {}
            }
        }
    }

    /// Takes all that have ended: the command, and what was orphaned to a first process.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            match Ended::of(status) {
                Some(ended) if self.child == Some(pid) => {
                    self.child = None;
                    self.ended = Some(ended);
                    self.ended_at = Instant::now();
                }
                _ => debug!(pid = pid.as_raw_nonzero(), "an orphan has ended"),
            }
        }
    }

    /// Sends the command a signal; one that has ended meanwhile is not there any more.
    fn kill(&self, signal: i32) {
        if let (Some(pid), Some(number)) = (self.child, Signal::from_named_raw(signal)) {
            info!(signal = signal_name(signal), "signal passed on to the command");
            let _ = kill_process(pid, number);
        }
    }
}
