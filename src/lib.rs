//! Registration broker in front of Gitea's runners: a reverse proxy that alone holds Gitea's registration
//! token. It registers runners that show a token of the broker's own, passes everything else through,
//! keeps a record of each runner, and deregisters those that leave.
//!
//! # The map
//!
//! | What happens | Where |
//! |---|---|
//! | Data comes in: connections of runners and jobs, and the way to Gitea | [`net`] |
//! | It is told apart: what is decided here, what is refused, what is passed on as a stream | [`proxy`], reading messages with [`connect`] |
//! | It is decided, from values alone: no socket, no file, no clock | [`broker`] |
//! | It is carried out: [`lifecycle`] does what [`broker`] decides, with the calls to Gitea in [`gitea`], runner files in [`credential`] and records in [`store`] | [`lifecycle`] |
//! | It is shown: metrics, health, the admin API and the token page, the log | [`admin`], [`telemetry`] |
//!
//! Around that, [`cli`] reads the command line and [`config`] the settings, [`app`] makes running parts of
//! settings (nothing else wires), [`systemd`] tells a service manager how they do, and [`shutdown`] ends
//! them in phases. On the runner's side, [`supervise`] is the wrapper around a runner, and [`enroll`] makes
//! the runner file that it needs. [`sandbox`] is a stand-in Gitea with stand-in runners, for the demo and the
//! tests, and [`fault`] the points at which tests let a debug build die.
//!
//! # The life of a Register
//!
//! 1. [`net::accept`] takes the connection. [`proxy::Proxy`] tells the request apart by its path:
//!    [`proxy::classify`] knows every spelling of Register, and one that is not the runner's own is refused.
//!    No Register goes to Gitea that was not authored here.
//! 2. It is read whole, within a limit that holds after decompression too ([`connect::decode`]), and
//!    [`lifecycle::Lifecycle::admit`] finds its enrollment token ([`lifecycle::Enrollment`]) and lets
//!    [`broker::policy`] decide: is the token in force, does it allow this name, these labels, this address?
//! 3. [`lifecycle::Lifecycle::register`] looks whether the same runner asks for an answer that it lost
//!    ([`broker::claims`]). If not, it starts a task of its own: a registration runs to its end even where
//!    the runner hangs up. There it takes a place by its token, so that a single-use one admits one runner
//!    however many ask at once, and is looked at again when its turn with Gitea has come.
//! 4. The [`broker::Intent`] is written to the [`store`]: from here on, a crash leaves something to settle.
//! 5. [`connect::splice`] puts Gitea's registration token and the intent's label into the message and leaves
//!    every other byte as it was. [`gitea::GiteaClient::register`] sends it, once, on a connection of its own.
//! 6. Gitea's answer makes the intent a [`broker::Record`] in the store, which counts the token's use and
//!    notes the event in the same transaction. Then the runner file is written
//!    ([`credential`]), and only then the runner has its answer, without the label. Until it makes its first
//!    call, the answer is kept for it.
//! 7. An answer that was lost makes the registration unclear. It is settled in the background, now or at the
//!    next start: a runner that shows the intent's label in Gitea's list is an orphan, and is deleted.
//!
//! All later calls are passed on as streams. On their way, [`lifecycle::Live`] learns when the runner was
//! last heard from and which task it has in hand ([`broker::Activity`]); a batch of the tasks is written every few
//! seconds, and of the times every minute, so that no call waits for a disk.
//!
//! # The life of a runner after that
//!
//! Gitea may know a runner by other credentials than it shows ([`lifecycle::Upstream`]): they are swapped as
//! its calls pass. The broker takes a runner for gone by its traffic alone ([`broker::Activity`]), and when
//! its lease ends ([`broker::lease`]) deletes it in Gitea, or parks it where it has no API token. One that
//! speaks again is registered anew behind what it shows; one that is parked may be taken over by a newcomer,
//! which shows something else ([`broker::succession`]). One that Gitea says it does not know is lost first
//! ([`broker::lost`]), and one that the broker does not know is adopted once Gitea has accepted it. Whoever
//! changes the fate of a runner holds its lock, so that only one does at a time.
//!
//! # What holds everywhere
//!
//! - Write first: the intent before Gitea is asked, the record and the file before the runner is answered.
//! - What may have changed something in Gitea is never sent twice. An unclear outcome is recorded as unclear.
//! - Before a runner is deleted, its own credentials prove that Gitea still means it by that id.
//! - Bodies stream: memory does not grow with them. Every wait has an end and every queue a bound.
//! - What a call costs does not grow with the number of runners ([`lifecycle::Roster`]) or of records. Who looks at
//!   all of them takes a fifth of the time at most ([`lifecycle::Pace`]).
//! - No secret is in a log, a metric, an error or an argument.

pub mod admin;
pub mod app;
pub mod broker;
pub mod cli;
pub mod config;
pub mod connect;
pub mod credential;
pub mod enroll;
pub mod fault;
pub mod gitea;
pub mod lifecycle;
pub mod net;
pub mod proxy;
pub mod sandbox;
pub mod shutdown;
pub mod store;
pub mod supervise;
pub mod systemd;
pub mod telemetry;

#[cfg(test)]
mod test_system;
