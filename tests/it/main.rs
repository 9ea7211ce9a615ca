//! Tests over real sockets, in one binary.

// Clippy's exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used)]

mod sandbox;
mod wire;
