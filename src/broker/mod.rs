//! The rules, with no I/O: everything here is decided from values alone.

pub mod activity;
pub mod claims;
pub mod deregistration;
pub mod event;
pub mod forwarded;
pub mod limiter;
pub mod policy;
pub mod registration;
pub mod runner;
pub mod token;

pub use activity::{Activity, Presence};
pub use event::{Event, What};
pub use registration::{Intent, Key};
pub use runner::{Credentials, Reason, Record, RecordId, RecordState};
pub use token::Token;

/// Compares two secrets in a time that depends on the presented one's length alone.
#[must_use]
pub fn secrets_match(kept: &[u8], presented: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(kept, presented).is_ok()
}
