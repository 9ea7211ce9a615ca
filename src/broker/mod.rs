//! The rules, with no I/O: everything here is decided from values alone.

pub mod activity;
pub mod claims;
pub mod deregistration;
pub mod event;
pub mod forwarded;
pub mod lease;
pub mod limiter;
pub mod lost;
pub mod orphan;
pub mod policy;
pub mod poll;
pub mod registration;
pub mod runner;
pub mod secret;
pub mod succession;
pub mod token;

pub use activity::{Activity, Presence, Shown};
pub use event::{Event, What};
pub use registration::{Intent, Key};
pub use runner::{Credentials, Origin, Reason, Record, RecordId, RecordState};
pub use secret::secrets_match;
pub use token::Token;
