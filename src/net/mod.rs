//! Sockets: the way to Gitea and the trust that it needs.

#[cfg(test)]
pub(crate) mod test_server;
pub mod tls;
pub mod upstream;
