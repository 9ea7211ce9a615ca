//! TLS: whom the broker trusts and what it shows, towards Gitea and on its own listeners. Certificates are
//! read again while it runs.

mod certificates;
mod client;
mod expiry;
mod files;
mod handshake;
mod server;

pub use certificates::{Certificate, Certificates, Name};
pub(crate) use client::{Shown, client_config_showing, is_https};
pub use client::{TlsError, client_config};
pub(crate) use expiry::{Expiry, expiry};
pub(crate) use files::{Files, Part, Wrong};
pub use handshake::Handshakes;
pub(crate) use handshake::{Opened, PLAIN_HTTP};
pub(crate) use server::server_config;
