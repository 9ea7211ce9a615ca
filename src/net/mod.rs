//! Sockets: the runners' listener, the way to Gitea, the trust that it needs, and how many there may be.

pub mod accept;
mod converse;
pub mod descriptors;
mod patient;
mod progress;
#[cfg(test)]
pub(crate) mod test_server;
pub mod tls;
pub mod upstream;

pub use patient::{BodyError, Patient};
pub use tls::TlsError;
pub use upstream::{OutBody, ReadError, Upstream, UpstreamError, UpstreamErrorKind, read_limited};
