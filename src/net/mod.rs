//! Sockets: the runners' listener, the way to Gitea, TLS on both, and how many there may be.

pub mod accept;
mod converse;
pub mod descriptors;
pub(crate) mod http;
mod hush;
mod patient;
mod progress;
mod streams;
#[cfg(test)]
pub(crate) mod test_server;
pub mod tls;
mod told;
pub mod upstream;

pub use patient::{BodyError, Patient};
pub use tls::TlsError;
pub use upstream::{
    InBody, OutBody, ReadError, Upstream, UpstreamError, UpstreamErrorKind, read_limited,
};
