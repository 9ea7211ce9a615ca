//! Tests over real sockets, in one binary.

// Clippy's exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod absence;
mod admin;
mod adoption;
mod api;
mod attacks;
mod bad_input;
mod binary;
mod capture;
mod commands;
mod crash;
mod declared;
mod declared_runners;
mod deregister;
mod drain;
mod exchange_only;
mod identities;
mod leases;
mod life;
mod lost;
mod lost_runners;
mod page;
mod parking;
mod paths;
mod proxy;
mod raw;
mod register;
mod revival;
mod sandbox;
mod scripted;
mod secrets;
mod shutdown;
mod signals;
mod streaming;
mod support;
mod systemd;
mod tasks;
mod token_changes;
mod token_faults;
mod token_races;
mod tokens;
mod upstream_tls;
mod wire;
mod wrapper;
