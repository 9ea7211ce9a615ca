//! Registration broker in front of Gitea's runners.

pub mod broker;
pub mod config;
pub mod connect;
pub mod sandbox;
