//! Tests over real sockets, in one binary.

// Clippy's exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod deregister;
mod life;
mod sandbox;
mod secrets;
mod shutdown;
mod signals;
mod support;
mod wire;
