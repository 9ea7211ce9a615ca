//! What the benches share.
#![allow(dead_code, reason = "each bench uses what it needs of it")]

pub(crate) mod backend;
pub(crate) mod broker;
pub(crate) mod client;
pub(crate) mod options;
pub(crate) mod plot;
pub(crate) mod process;
pub(crate) mod stats;
pub(crate) mod table;
pub(crate) mod usage;
pub(crate) mod wire;
