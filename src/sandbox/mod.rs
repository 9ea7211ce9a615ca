//! A stand-in Gitea and stand-in runners, over real sockets on loopback: for the demo, tests and benches.
//!
//! The stand-in Gitea answers as the recorded exchanges in `tests/data/wire` do, keeps state, and can be
//! told to fail. Nothing here is used by a broker that serves.

mod codec;
pub mod demo;
pub mod gitea;
pub mod runner;

pub use gitea::StandInGitea;
pub use runner::StandInRunner;
