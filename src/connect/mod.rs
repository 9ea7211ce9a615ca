//! The Connect protocol, as much of it as the broker reads and authors.

pub mod messages;

/// How a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// `application/proto`
    Proto,
    /// `application/json`
    Json,
}
