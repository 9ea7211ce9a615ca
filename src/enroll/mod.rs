//! How the wrapper and the init container make a runner file: what is wanted, by the variables of the
//! runner's image, and who is asked for it, a broker or Gitea itself.
//!
//! [`Given`] and the environment become [`Wanted`], with all that is wrong told at once. A [`Peer`] is who
//! registers, answers for and deregisters runners. [`join`] keeps a runner file that is good or makes one,
//! and [`leave`] undoes it. It is a folder of its own, beside `supervise`, as it knows no processes and no
//! signals.

mod config_file;
mod given;
mod join;
mod labels;
mod peer;
mod waiting;

pub use given::{Given, Own, Problems, Wanted};
pub use join::{JoinError, join, leave};
pub use peer::{Peer, Standing};
pub use waiting::Waiting;
