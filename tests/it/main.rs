//! Tests over real sockets, in one binary.

// Clippy's exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod crash;
mod life;
mod lost;
mod paths;
mod raw;
mod register;
mod sandbox;
mod support;
mod wire;
