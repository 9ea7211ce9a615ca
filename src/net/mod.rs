//! Sockets: the runners' listener, the way to Gitea, and the trust that it needs.

pub mod accept;
mod converse;
#[cfg(test)]
pub(crate) mod test_server;
pub mod tls;
pub mod upstream;

pub use tls::TlsError;
pub(crate) use upstream::data_of;
pub use upstream::{OutBody, Upstream, UpstreamError, UpstreamErrorKind};
