//! Sockets: the way to Gitea and the trust that it needs.

pub mod tls;
pub mod upstream;
