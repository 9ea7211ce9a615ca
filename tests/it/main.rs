//! Tests over real sockets, in one binary.

mod sandbox;
mod wire;
