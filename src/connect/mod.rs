//! The Connect protocol, as much of it as the broker reads and authors.
//!
//! [`compression`] and [`codec`] turn bodies into messages and back, [`error`] is the protocol's error,
//! [`retry_after`] the wait that goes with some of them, [`splice`] changes a body in place so that what is not known here survives, and [`peek`] reads a
//! task's id and its end from the beginning of an answer that is passed on as a stream.

pub mod codec;
pub mod compression;
pub mod error;
pub mod messages;
pub mod peek;
pub mod retry_after;
pub mod splice;

#[cfg(test)]
mod recorded;
mod wire;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

pub use codec::{Codec, decode, encode};
pub use compression::{Encoding, gunzip, gzip};
pub use error::{Code, ConnectError};

/// Carries a runner's uuid.
pub const RUNNER_UUID: HeaderName = HeaderName::from_static("x-runner-uuid");
/// Carries a runner's token.
pub const RUNNER_TOKEN: HeaderName = HeaderName::from_static("x-runner-token");

/// The caller's own time limit.
pub(crate) const TIMEOUT_MS: HeaderName = HeaderName::from_static("connect-timeout-ms");

/// A body that holds a secret: wiped when the last who has it lets go of it.
#[must_use]
pub fn wiped(body: Vec<u8>) -> Bytes {
    Bytes::from_owner(Zeroizing::new(body))
}

/// A secret as a header's value, which no log shows; `None` where no header can carry it.
#[must_use]
pub fn sensitive(secret: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(secret).ok()?;
    value.set_sensitive(true);
    Some(value)
}
