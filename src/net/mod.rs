//! Sockets: the runners' listener, the way to Gitea, and TLS on both.

pub mod accept;
mod converse;
pub(crate) mod http;
#[cfg(test)]
pub(crate) mod test_server;
pub mod tls;
mod told;
pub mod upstream;

pub use tls::TlsError;
pub(crate) use upstream::data_of;
pub use upstream::{OutBody, Upstream, UpstreamError, UpstreamErrorKind};
