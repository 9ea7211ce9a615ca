//! The queue that the wrapper waits at: signals, and the outcomes of network calls.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::credential::RunnerFile;
use crate::enroll::{JoinError, Standing};

/// Those that the command gets too.
const PASSED_ON: [i32; 6] = [SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2];

/// What the thread of the network brings.
#[derive(Debug)]
pub(super) enum Outcome {
    Joined(Result<RunnerFile, JoinError>),
    Standing(Standing),
    Left,
}

/// What may be in the queue.
pub(super) enum Message {
    Signal(i32),
    /// Of this piece of work.
    Done(u64, Outcome),
}

/// The queue, with handlers for all signals that matter: from here on none is lost.
pub struct Events {
    pub(super) sender: Sender<Message>,
    receiver: Receiver<Message>,
}

impl Events {
    /// Sets the handlers. A first process has no other protection: without one, the kernel drops a signal.
    ///
    /// # Errors
    /// What the system said.
    pub fn new() -> io::Result<Self> {
        let (sender, receiver) = channel();
        let mut signals = Signals::new(PASSED_ON.iter().chain(&[SIGCHLD]))?;
        let queue = sender.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                if queue.send(Message::Signal(signal)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { sender, receiver })
    }

    /// The next message; `None` where the time has come first.
    pub(super) fn next(&self, until: Option<Instant>) -> Option<Message> {
        let Some(until) = until else { return self.receiver.recv().ok() };
        // The queue has a sender of its own, so an error is the time alone.
        self.receiver.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }
}

/// Whether a signal asks to end. A SIGHUP asks some commands to read their settings again.
pub(super) fn is_stop(signal: i32) -> bool {
    [SIGTERM, SIGINT, SIGQUIT].contains(&signal)
}
