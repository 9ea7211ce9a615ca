//! Settings: types with defaults, layers, checks. [`load`] does all of it and tells all that is
//! wrong at once.
//!
//! `layers` collects what the file, the environment and the flags say, `reader` takes key after key
//! out of the merged result, and `validate` makes [`Settings`] of it. Secrets are taken out before
//! the layers are merged and never pass through anything that parses values. `tokens` reads the tables
//! of `[[enrollment.tokens]]` and `runners` those of `[[runners]]`, which only the file can hold.

mod forms;
mod keys;
mod layers;
mod limits;
mod load;
mod network;
mod own;
mod pass;
mod problem;
mod reader;
mod runners;
mod scope;
mod scopes;
mod secret;
mod tables;
mod time;
mod tls;
mod tokens;
mod types;
mod validate;
mod value;

#[cfg(test)]
mod tests;

pub use limits::Limits;
pub use load::{DEFAULT_FILE, Loaded, Sources, Used, load, load_admin};
pub use pass::{Group, Groups, Pass};
pub use problem::{Problem, Problems};
pub use scope::Scope;
pub(crate) use secret::{open_to_all, read as read_secret, unreadable};
pub use types::*;
pub(crate) use value::Setting;
