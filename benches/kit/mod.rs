//! What the benches share. Each takes in the part that it needs.
#![allow(dead_code)]

pub(crate) mod options;
pub(crate) mod plot;
pub(crate) mod table;
