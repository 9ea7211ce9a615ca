//! The Connect protocol, as much of it as the broker reads and authors.
//!
//! [`compression`] and [`codec`] turn bodies into messages and back, [`error`] is the protocol's error,
//! [`splice`] changes a body in place so that what is not known here survives, and [`peek`] reads a
//! task's id and its end from the beginning of an answer that is passed on as a stream.

pub mod codec;
pub mod compression;
pub mod error;
pub mod messages;
pub mod peek;
pub mod splice;

#[cfg(test)]
mod recorded;
mod wire;

pub use codec::{Codec, decode, encode};
pub use compression::{Encoding, gunzip, gzip};
pub use error::{Code, ConnectError, is_unregistered, says_unregistered};
