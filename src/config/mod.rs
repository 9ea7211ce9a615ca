//! Settings: types with defaults, layers, checks.

mod types;

pub use types::*;
